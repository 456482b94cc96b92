//! Our programs for guests, linked statically: a guest needs no library for them.
//!
//! They are built in release, in a target folder of their own: what is linked statically has other flags, and would
//! have everything built again in turns.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{program, repository};

/// Time to build one, with nothing built before, where others keep the processors busy.
const BUILD: Duration = Duration::from_secs(1800);

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

    /// Its content. The first call in a run builds it, and no others: each is optimised as a whole, which takes long.
    ///
    /// # Errors
    /// When it does not build.
    pub(super) fn content(&self) -> Result<Arc<[u8]>> {
        static BUILT: Mutex<BTreeMap<Program, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = built.get(self) {
            return Ok(Arc::clone(content));
        }
        let content = self.build().with_context(|| format!("building {} for guests", self.name()))?;
        built.insert(self.clone(), Arc::clone(&content));
        Ok(content)
    }

    fn build(&self) -> Result<Arc<[u8]>> {
        let folder = repository::target()?.join("guest");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        // Another run may build other sources there: not before this one has been read.
        let lock = File::create(folder.join("lock")).context("making the lock of the programs for guests")?;
        lock.lock().context("locking the programs for guests")?;
        let mut command = repository::cargo()?;
        command.args(["build", "--release", "--message-format", "json-render-diagnostics"]);
        // With a target, build scripts and macros are not linked statically: macros cannot be.
        command.args(["--target", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)]);
        command.arg("--target-dir").arg(&folder);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        match self {
            Self::Bundled(name) => {
                command.args(["-p", "wirerate-apps", "-p", "wirerate-tools", "--bin", name]);
            }
            Self::Example { package, name } => {
                command.args(["-p", package, "--example", name]);
            }
        }
        let finished = program::run(command, BUILD)?;
        finished.expect_code(0)?;
        for line in finished.stdout.lines() {
            let message: Value = serde_json::from_str(line).context("cargo printed no JSON")?;
            if message["target"]["name"] == self.name()
                && let Some(path) = message["executable"].as_str()
            {
                return Ok(fs::read(path).with_context(|| format!("reading {path}"))?.into());
            }
        }
        bail!("cargo built no such program:\n{}", finished.stderr)
    }
}
