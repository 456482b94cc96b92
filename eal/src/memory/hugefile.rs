//! Files in a hugetlbfs: made, locked while in use, and removed when a killed program left them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};

use super::MemoryError;
use super::mapping::BackingFile;
use crate::options::HugeUnlink;

/// `HUGETLBFS_MAGIC` of `include/uapi/linux/magic.h`.
const MAGIC: i64 = 0x9584_58f6;

/// A directory in a hugetlbfs.
#[derive(Debug, Clone)]
pub(super) struct HugeDirectory {
    pub(super) path: PathBuf,
    pub(super) page_size: usize,
}

impl HugeDirectory {
    /// The directory that the options name.
    pub(super) fn open(path: &Path) -> Result<Self, MemoryError> {
        let told = statfs(path)
            .map_err(|error| MemoryError::HugeDir { path: path.to_owned(), source: error.into() })?;
        // The type's width differs from one architecture to the next.
        if told.f_type as i64 & 0xffff_ffff != MAGIC {
            return Err(MemoryError::NotHugetlbfs { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), page_size: told.f_bsize as usize })
    }

    /// An empty file, locked as long as it is open, with a name unless that is to be removed always.
    pub(super) fn create(&self, prefix: &str, unlink: HugeUnlink) -> io::Result<BackingFile> {
        for count in 0u32.. {
            let path = self.path.join(format!("{prefix}map_{}_{count}", std::process::id()));
            let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match made {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Between the two calls another start may have taken the file for one that was left, and removed it.
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
                || file.metadata()?.nlink() == 0
            {
                continue;
            }
            let path = match unlink {
                HugeUnlink::Always => {
                    fs::remove_file(&path)?;
                    None
                }
                HugeUnlink::Existing | HugeUnlink::Never => Some(path),
            };
            return Ok(BackingFile::new(file.into(), path));
        }
        Err(io::Error::other("every file name is taken"))
    }

    /// Removes the files with this prefix that no program has open. Returns how many.
    pub(super) fn remove_left(&self, prefix: &str) -> usize {
        let Ok(entries) = fs::read_dir(&self.path) else { return 0 };
        let ours = entries.flatten().filter(|entry| is_ours(&entry.file_name(), prefix));
        ours.filter(|entry| remove_unused(&entry.path()).is_ok()).count()
    }
}

/// Whether `create` made a file of this name.
fn is_ours(name: &OsStr, prefix: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rest = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_prefix("map_"));
    rest.and_then(|rest| rest.split_once('_'))
        .is_some_and(|(process, count)| digits(process) && digits(count))
}

fn remove_unused(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Files behave the same on any file system; the pages are tested where there are some.
    fn directory() -> (tempfile::TempDir, HugeDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let huge = HugeDirectory { path: directory.path().to_owned(), page_size: 4096 };
        (directory, huge)
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_gone_from_the_directory_at_once_or_when_it_is_dropped() {
        let (root, huge) = directory();
        let _file = huge.create("x", HugeUnlink::Always).unwrap();
        assert!(names(&root).is_empty());
        let process = std::process::id();
        let one = huge.create("x", HugeUnlink::Existing).unwrap();
        let two = huge.create("x", HugeUnlink::Never).unwrap();
        assert_eq!(names(&root), [format!("xmap_{process}_0"), format!("xmap_{process}_1")]);
        drop(one);
        assert_eq!(names(&root), [format!("xmap_{process}_1")]);
        drop(two);
        assert!(names(&root).is_empty());
    }

    #[test]
    fn only_files_of_this_prefix_that_nobody_has_open_are_removed() {
        let (root, huge) = directory();
        let used = huge.create("x", HugeUnlink::Never).unwrap();
        let others = ["rtemap_0", "xmap_1", "xmap_1_2_3", "xmap__2", "ymap_1_2"];
        for name in others.iter().chain(&["xmap_1_2"]) {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(huge.remove_left("x"), 1);
        assert!(names(&root).contains(&format!("xmap_{}_0", std::process::id())));
        drop(used);
        assert_eq!(names(&root), others);
    }

    #[test]
    fn a_directory_that_is_no_hugetlbfs_is_refused() {
        let (root, _) = directory();
        let error = HugeDirectory::open(root.path()).unwrap_err();
        assert!(matches!(error, MemoryError::NotHugetlbfs { .. }), "{error}");
        let error = HugeDirectory::open(&root.path().join("none")).unwrap_err();
        assert!(matches!(error, MemoryError::HugeDir { .. }), "{error}");
    }
}
