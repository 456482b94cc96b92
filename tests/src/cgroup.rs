//! A memory cgroup of a test's own, of version 1 or 2, whichever the machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

/// What the names of all begin with; the process that made it follows.
const PREFIX: &str = "wirerate-test-";

/// A memory cgroup, removed when this goes; its processes must have ended by then.
#[derive(Debug)]
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// A new one. Removes those that processes left which have ended.
    ///
    /// # Errors
    /// When the machine has no memory controller, or this user may not use it.
    pub fn new() -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = root(&mounts).context("no memory cgroup is mounted")?;
        remove_leftovers(&root);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let cgroup = Self(root.join(format!("{PREFIX}{}-{number}", std::process::id())));
        fs::create_dir(&cgroup.0)
            .with_context(|| format!("making {}: memory cgroups are root's", cgroup.0.display()))?;
        let stat = cgroup.stat();
        ensure!(stat.exists(), "{} is not there: the memory controller is not given on", stat.display());
        Ok(cgroup)
    }

    /// Its `memory.stat`.
    #[must_use]
    pub fn stat(&self) -> PathBuf {
        self.0.join("memory.stat")
    }

    /// A command that runs `program` in it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        command.arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The kernel may take a moment after the last process has ended.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// Where cgroups with a memory controller are made: of version 1, or the root of version 2.
fn root(mounts: &str) -> Option<PathBuf> {
    let mounted = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (at, of, options) = (words.next()?, words.next()?, words.next()?);
            let fits = of == kind && option.is_none_or(|option| options.split(',').any(|one| one == option));
            fits.then(|| PathBuf::from(at))
        })
    };
    mounted("cgroup", Some("memory")).or_else(|| {
        let root = mounted("cgroup2", None)?;
        // It may be given on already, or not be ours to give: to make one tells.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        Some(root)
    })
}

fn remove_leftovers(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_version_1_is_preferred() {
        let mounts =
            "cgroup2 /u cgroup2 rw 0 0\ncgroup /c cgroup rw,cpu 0 0\ncgroup /m cgroup rw,memory 0 0\n";
        assert_eq!(root(mounts), Some("/m".into()));
        assert_eq!(root("tmpfs / tmpfs rw 0 0\n"), None);
    }
}
