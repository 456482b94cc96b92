//! Writes archives that the kernel takes for an initial file system: cpio in its "newc" form.
//!
//! The format is told in the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`: a header of
//! ASCII digits, the name with its zero byte, padding to 4 bytes, the content, padding to 4 bytes.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

/// Kind bits of a mode: `S_IFDIR`, `S_IFREG`, `S_IFLNK`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive in the making.
///
/// Paths have no leading `/`. The folders above a path come by themselves, because the kernel makes none.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds an empty folder, unless it is there.
    ///
    /// # Errors
    /// When the archive has grown too large.
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let folder = &path[..end];
            if !folder.is_empty() && self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that everybody may read and run.
    ///
    /// # Errors
    /// When it, or the archive, is too large.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.folder_of(path)?;
        self.entry(path, FILE | 0o755, content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the archive has grown too large.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.folder_of(path)?;
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    /// The whole archive.
    ///
    /// # Errors
    /// When it has grown too large.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn folder_of(&mut self, path: &str) -> Result<()> {
        path.rsplit_once('/').map_or(Ok(()), |(folder, _)| self.folder(folder))
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        // Each has a number of its own: two of the same would be taken for one file with two names.
        self.entries = self.entries.checked_add(1).context("too many entries")?;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
        let name_size = u32::try_from(name.len() + 1).context("a name is larger than 4 GiB")?;
        // Inode, mode, user, group, links, time, size, device (2), device of a special file (2), name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and content of each entry, read back by the format's description.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let digits = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap().to_owned();
            let content = (110 + name_size).next_multiple_of(4);
            found.push((name, mode, bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("a/b/one", b"12345").unwrap();
        archive.link("a/two", "b/one").unwrap();
        archive.folder("a/b").unwrap();
        archive.file("three", b"").unwrap();
        let found = entries(&archive.finish().unwrap());
        let short: Vec<(&str, u32, &[u8])> =
            found.iter().map(|(name, mode, content)| (name.as_str(), *mode, content.as_slice())).collect();
        assert_eq!(
            short,
            [
                ("a", 0o040_755, &b""[..]),
                ("a/b", 0o040_755, b""),
                ("a/b/one", 0o100_755, b"12345"),
                ("a/two", 0o120_777, b"b/one"),
                ("three", 0o100_755, b""),
                ("TRAILER!!!", 0, b""),
            ]
        );
    }
}
