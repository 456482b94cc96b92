//! Our programs for guests, linked statically: a guest needs no library for them.
//!
//! They are built in release, in a target folder of their own: what is linked statically has other flags, and would
//! have everything built again in turns.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{program, repository};

/// Time to build them all, with nothing built before.
const BUILD: Duration = Duration::from_secs(1800);
/// The programs that are built, whatever a guest needs of them: the second that is asked for takes no time.
const PACKAGES: [&str; 2] = ["wirerate-apps", "wirerate-tools"];

/// A program of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    /// A program of apps or tools.
    Bundled(String),
    /// An example of a package.
    Example {
        /// `wirerate-pmd`.
        package: String,
        /// `forward`.
        name: String,
    },
}

impl Program {
    /// What it is called.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Bundled(name) | Self::Example { name, .. } => name,
        }
    }

    /// Its content. The first call in a run builds it.
    ///
    /// # Errors
    /// When it does not build.
    pub(super) fn content(&self) -> Result<Arc<[u8]>> {
        static BUILT: Mutex<BTreeMap<Program, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if !built.contains_key(self) {
            built.extend(self.build().with_context(|| format!("building {} for guests", self.name()))?);
        }
        built.get(self).cloned().with_context(|| format!("there is no program {}", self.name()))
    }

    /// Builds it, with what is built in the same go.
    fn build(&self) -> Result<Vec<(Self, Arc<[u8]>)>> {
        let folder = repository::target()?.join("guest");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        // Another run may build other sources there: nobody else does until all is read.
        let lock = File::create(folder.join("lock")).context("making the lock of the programs for guests")?;
        lock.lock().context("locking the programs for guests")?;
        let mut command = repository::cargo()?;
        command.arg("build").arg("--release").arg("--target-dir").arg(&folder);
        // With a target, build scripts and macros are not linked statically: macros cannot be.
        command.args(["--target", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)]);
        command.args(["--message-format", "json-render-diagnostics"]);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        match self {
            Self::Bundled(_) => {
                command.arg("--bins").args(PACKAGES.iter().flat_map(|package| ["-p", package]));
            }
            Self::Example { package, name } => {
                command.args(["-p", package, "--example", name]);
            }
        }
        let finished = program::run(command, BUILD)?;
        finished.expect_code(0)?;
        let mut programs = Vec::new();
        for line in finished.stdout.lines() {
            let message: Value = serde_json::from_str(line).context("cargo printed no JSON")?;
            let (Some(name), Some(path)) =
                (message["target"]["name"].as_str(), message["executable"].as_str())
            else {
                continue;
            };
            let program = match self {
                Self::Bundled(_) => Self::Bundled(name.to_owned()),
                Self::Example { .. } => self.clone(),
            };
            programs.push((program, fs::read(path).with_context(|| format!("reading {path}"))?.into()));
        }
        ensure!(!programs.is_empty(), "cargo built no program:\n{}", finished.stderr);
        Ok(programs)
    }
}
