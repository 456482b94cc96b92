//! What the kernel tells in `/sys` and `/proc`, under a root that tests can move.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory under which `sys` and `proc` lie: `/`, or a made-up tree in a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemRoot(PathBuf);

impl Default for SystemRoot {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl SystemRoot {
    /// A tree at `root` instead of the machine's own.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The place of `relative`, as in `sys/devices/system/cpu`.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.join(relative)
    }

    /// The text of a file without its last line end; none when it cannot be read.
    pub(crate) fn text(&self, relative: impl AsRef<Path>) -> Option<String> {
        let mut text = fs::read_to_string(self.path(relative)).ok()?;
        text.truncate(text.trim_end().len());
        Some(text)
    }

    /// The decimal number in a file; none when there is no such file or number.
    pub(crate) fn number(&self, relative: impl AsRef<Path>) -> Option<u64> {
        self.text(relative)?.parse().ok()
    }

    /// The last part of what a symbolic link points to; none when there is no such link.
    pub(crate) fn link_name(&self, relative: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(relative)).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    /// The hexadecimal number in a file, as in `0x1af4`; none when there is no such file or number.
    pub(crate) fn hex(&self, relative: impl AsRef<Path>) -> Option<u32> {
        u32::from_str_radix(self.text(relative)?.strip_prefix("0x")?, 16).ok()
    }

    /// Replaces the text of a file that exists.
    pub(crate) fn write(&self, relative: impl AsRef<Path>, text: &str) -> io::Result<()> {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(self.path(relative))?;
        file.write_all(text.as_bytes())
    }

    /// The names in a directory, sorted; empty when it cannot be read.
    pub(crate) fn names(&self, relative: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(relative)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The numbers N of the entries `<prefix>N<suffix>` in a directory, sorted.
    pub(crate) fn numbered<T: std::str::FromStr + Ord>(
        &self,
        relative: impl AsRef<Path>,
        prefix: &str,
        suffix: &str,
    ) -> Vec<T> {
        let number = |name: &String| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
        let mut numbers: Vec<T> = self.names(relative).iter().filter_map(number).collect();
        numbers.sort();
        numbers
    }
}
