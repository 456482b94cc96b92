//! The repository that the tests are part of, and its cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::program;

/// The top folder.
///
/// # Errors
/// When this package is not in a folder of it.
pub fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are in no repository")
}

/// The folder that cargo builds into: this very program is at `<target>/<profile>/deps/<name>`.
///
/// # Errors
/// When it is not.
pub fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    own.ancestors().nth(3).map(Path::to_owned).context("this program is in no target folder")
}

/// The profile that the tests are built in, as `cargo --profile` calls it.
///
/// # Errors
/// When this program is in no target folder.
pub fn profile() -> Result<String> {
    let own = std::env::current_exe().context("finding this program")?;
    let folder = own.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str());
    let folder = folder.context("this program is in no target folder")?;
    Ok(if folder == "debug" { "dev" } else { folder }.to_owned())
}

/// The cargo that builds the tests, in the top folder, with the target folder of the tests.
///
/// # Errors
/// When either is not found.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()?).env("CARGO_TARGET_DIR", target()?).env("CARGO_TERM_COLOR", "never");
    Ok(command)
}

/// What `cargo metadata` says of the workspace's own packages.
///
/// # Errors
/// When it fails, or prints no JSON.
pub fn metadata() -> Result<serde_json::Value> {
    let mut command = cargo()?;
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let finished = program::run(command, Duration::from_secs(60))?;
    finished.expect_code(0)?;
    serde_json::from_str(&finished.stdout).context("cargo metadata printed no JSON")
}
