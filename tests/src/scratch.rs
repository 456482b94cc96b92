//! Names and directories of this run, and what dead runs left behind.
//!
//! Everything that outlives a process when it is killed is called `wirerate-<pid>-...`, so that a later run can
//! tell whose it was.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{hugepages, namespace};

const PREFIX: &str = "wirerate-";

/// A name that no other run, and nothing else in this run, has: `wirerate-<pid>-<count>-<label>`.
#[must_use]
pub fn unique(label: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}-{label}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A temporary directory that goes away with the value. Every user may look into it.
///
/// # Errors
/// When the system's temporary directory cannot be written.
pub fn directory(label: &str) -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix(&format!("{}-", unique(label)))
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("making a temporary directory")
}

/// The process that made something of this name, if it is one of these tests' names and the process is gone.
#[must_use]
pub fn dead_owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let pid = pid.parse().ok()?;
    (!Path::new("/proc").join(format!("{pid}")).exists()).then_some(pid)
}

/// Removes namespaces, huge-page reservations, mounts and directories of runs that were killed.
///
/// What cannot be removed (it is another user's, say) stays: it stands in nobody's way.
pub fn remove_leftovers() {
    for name in namespace::existing().unwrap_or_default() {
        if dead_owner(&name).is_some() {
            namespace::remove(&name);
        }
    }
    hugepages::return_reservations_of_dead_runs();
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let dead = entry.file_name().to_str().and_then(dead_owner).is_some();
        if !dead || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for mount in mounts_below(&entry.path()) {
            // Errors show in that the directory stays.
            let _ = Command::new("umount").arg(mount).output();
        }
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Mount points below `directory`, the deepest first.
fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<String> =
        points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.len()));
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_say_whose_they_are() {
        let (one, two) = (unique("x"), unique("x"));
        assert_ne!(one, two);
        assert_eq!(dead_owner(&one), None, "this process is alive");
        assert_eq!(dead_owner("wirerate-4294967294-0-x"), Some(u32::MAX - 1), "no process has this id");
        for other in ["wirerate-", "wirerate-x-0", "other-4294967294-0", "wirerate-4294967294"] {
            assert_eq!(dead_owner(other), None, "{other}");
        }
    }

    #[test]
    fn directories_go_away() {
        let directory = directory("scratch").unwrap();
        let path = directory.path().to_owned();
        assert!(path.is_dir());
        drop(directory);
        assert!(!path.exists());
    }
}
