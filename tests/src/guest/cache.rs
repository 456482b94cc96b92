//! Where downloads for guests are kept: folders below one for the user, each filled by one process at a time and then
//! given its name at once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::program;

/// The variable that names another place.
const PLACE: &str = "WIRERATE_CACHE";
/// What a folder is called while it is being filled.
const UNFINISHED: &str = "unfinished-";

/// A folder of folders.
#[derive(Debug)]
pub(super) struct Cache(PathBuf);

/// Nobody else fills the cache until it is dropped.
#[derive(Debug)]
pub(super) struct Locked {
    _file: File,
}

impl Cache {
    /// The one of this name, below `$WIRERATE_CACHE`, `$XDG_CACHE_HOME/wirerate` or `~/.cache/wirerate`.
    ///
    /// # Errors
    /// When none of them is known, or is an absolute path.
    pub(super) fn named(name: &str) -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = set(PLACE)
            .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("wirerate")))
            .or_else(|| set("HOME").map(|folder| folder.join(".cache/wirerate")));
        let own =
            own.with_context(|| format!("no cache: none of {PLACE}, XDG_CACHE_HOME and HOME is set"))?;
        ensure!(own.is_absolute(), "the cache {} is not an absolute path", own.display());
        Ok(Self(own.join(name)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The newest folder whose name begins with `prefix`.
    ///
    /// # Errors
    /// When the system does not tell how old one is.
    pub(super) fn newest(&self, prefix: &str) -> Result<Option<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                folders.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        Ok(folders.into_iter().max().map(|(_, path)| path))
    }

    /// Waits until nobody else fills it; makes it, if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(super) fn lock(&self) -> Result<Locked> {
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        let file = File::create(self.0.join("lock")).context("making the cache's lock")?;
        file.lock().context("locking the cache")?;
        Ok(Locked { _file: file })
    }

    /// A folder to work in, which goes away with the value. What one that was killed left behind is removed: the caller
    /// holds the lock, so nobody is at it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn work(&self) -> Result<TempDir> {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.0)?)
    }

    /// Gives a folder in the one to work in its name; where it is then.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(super) fn keep(&self, content: &Path, name: &str) -> Result<PathBuf> {
        let folder = self.0.join(name);
        fs::rename(content, &folder).with_context(|| format!("moving it to {}", folder.display()))?;
        Ok(folder)
    }
}

/// Unpacks a package into a folder.
///
/// # Errors
/// When dpkg fails, or takes longer than `limit`.
pub(super) fn unpack(package: &Path, content: &Path, limit: Duration) -> Result<()> {
    let mut extract = Command::new("dpkg");
    extract.arg("-x").arg(package).arg(content);
    program::run(extract, limit)?.expect_code(0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_its_name_when_it_is_whole() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache(place.path().join("cache"));
        assert_eq!(cache.newest("one").unwrap(), None);
        let _locked = cache.lock().unwrap();
        fs::create_dir(cache.path().join("unfinished-before")).unwrap();
        let work = cache.work().unwrap();
        assert!(!cache.path().join("unfinished-before").exists());
        let content = work.path().join("content");
        fs::create_dir(&content).unwrap();
        assert_eq!(cache.newest("one").unwrap(), None);
        let kept = cache.keep(&content, "one_1").unwrap();
        assert_eq!(cache.newest("one").unwrap(), Some(kept));
        assert!(File::open(cache.path().join("lock")).unwrap().try_lock().is_err());
    }
}
