//! What the kernel tells of a machine and of this process, under a root that tests can move.

use std::fs;
use std::path::PathBuf;

use wirerate_eal::SystemRoot;

/// The machine that is looked at.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
    /// Where programs are looked for.
    path: Vec<PathBuf>,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Where administrators' programs are, which an ordinary user's path often lacks.
        let more = ["/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
        Self { root: PathBuf::from("/"), path: std::env::split_paths(&path).chain(more).collect() }
    }

    /// One that is described by files under `root`, with its programs in `root/bin`.
    #[cfg(test)]
    pub(crate) fn at(root: &std::path::Path) -> Self {
        Self { root: root.to_owned(), path: vec![root.join("bin")] }
    }

    /// The same for the modules of eal.
    pub(crate) fn system(&self) -> SystemRoot {
        SystemRoot::at(&self.root)
    }

    /// A file's text without white space at its ends; none when it cannot be read.
    pub(crate) fn text(&self, file: &str) -> Option<String> {
        Some(fs::read_to_string(self.root.join(file)).ok()?.trim().to_owned())
    }

    pub(crate) fn exists(&self, file: &str) -> bool {
        self.root.join(file).exists()
    }

    /// Entries in a directory; 0 when there is none.
    pub(crate) fn entries(&self, directory: &str) -> usize {
        fs::read_dir(self.root.join(directory)).map_or(0, |entries| entries.flatten().count())
    }

    /// The rest of the line of `file` that starts with `key`.
    pub(crate) fn field(&self, file: &str, key: &str) -> Option<String> {
        let text = self.text(file)?;
        text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned())
    }

    /// Whether a program is installed.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        self.path.iter().any(|directory| directory.join(name).is_file())
    }

    /// The effective capabilities of this process, a bit each (`linux/capability.h`).
    pub(crate) fn capabilities(&self) -> u64 {
        let told = self.field("proc/self/status", "CapEff:");
        told.and_then(|digits| u64::from_str_radix(&digits, 16).ok()).unwrap_or(0)
    }

    /// How many bytes this process may lock: a number, or none for no limit.
    pub(crate) fn lockable(&self) -> Option<u64> {
        self.field("proc/self/limits", "Max locked memory")?.split_whitespace().next()?.parse().ok()
    }
}
