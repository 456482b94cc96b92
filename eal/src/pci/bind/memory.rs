//! What driver a function had before it was taken, in a file each, so that another process can give it back.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use super::super::{PciAddress, PciError};
use super::is_name;

/// What a function had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) driver: Option<String>,
    pub(super) driver_override: Option<String>,
}

/// A directory of files that are named by addresses.
#[derive(Debug)]
pub(super) struct Memory(PathBuf);

impl Memory {
    pub(super) fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// Writes it down, whole or not at all.
    pub(super) fn remember(&self, address: PciAddress, what: &Remembered) -> Result<(), PciError> {
        let mut text = String::new();
        for (key, value) in [("driver", &what.driver), ("driver_override", &what.driver_override)] {
            text.push_str(&format!("{key}={}\n", value.as_deref().unwrap_or_default()));
        }
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let unfinished = self.0.join(format!("{address}.new"));
            let mut file = fs::File::create(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, self.file(address))
        };
        write().map_err(|source| self.error(address, "writing down its driver in", source))
    }

    /// What was written down; none when nothing was, or it makes no sense.
    pub(super) fn read(&self, address: PciAddress) -> Option<Remembered> {
        let text = fs::read_to_string(self.file(address)).ok()?;
        let mut what = Remembered::default();
        for line in text.lines() {
            let (key, value) = line.split_once('=')?;
            let value = match value {
                "" => None,
                name if is_name(name) => Some(name.to_owned()),
                _ => return None,
            };
            match key {
                "driver" => what.driver = value,
                "driver_override" => what.driver_override = value,
                _ => return None,
            }
        }
        // Both lines, or it is no file of ours.
        (text.lines().count() == 2).then_some(what)
    }

    pub(super) fn forget(&self, address: PciAddress) -> Result<(), PciError> {
        match fs::remove_file(self.file(address)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error(address, "removing what was written down of its driver in", error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn all(&self) -> Vec<PciAddress> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<PciAddress> = names.filter_map(|name| name.parse().ok()).collect();
        all.sort();
        all
    }

    fn file(&self, address: PciAddress) -> PathBuf {
        self.0.join(address.to_string())
    }

    fn error(&self, address: PciAddress, doing: &str, source: io::Error) -> PciError {
        let place = self.0.display();
        if source.kind() == io::ErrorKind::PermissionDenied {
            let problem = format!("{doing} {place} is not permitted: run it as root");
            return PciError::Unusable { address, problem };
        }
        PciError::System { address, doing: format!("{doing} {place}"), source }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_written_down_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::at(directory.path().join("deep/down"));
        let (one, other): (PciAddress, PciAddress) =
            ("0000:00:03.0".parse().unwrap(), "81:00.1".parse().unwrap());
        assert!(memory.all().is_empty() && memory.read(one).is_none());
        memory.forget(one).unwrap();
        let whole = Remembered { driver: Some("ixgbe".into()), driver_override: Some("x-y_z".into()) };
        memory.remember(other, &whole).unwrap();
        memory.remember(one, &Remembered::default()).unwrap();
        assert_eq!(memory.all(), [one, other]);
        assert_eq!((memory.read(other).unwrap(), memory.read(one).unwrap()), (whole, Remembered::default()));
        memory.forget(other).unwrap();
        assert_eq!(memory.all(), [one]);
    }

    #[test]
    fn a_file_of_somebody_else_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::at(directory.path());
        let address: PciAddress = "0000:00:03.0".parse().unwrap();
        for text in [
            "",
            "ixgbe",
            "driver=ixgbe\n",
            "driver=../../x\ndriver_override=\n",
            "driver=a b\ndriver_override=\n",
            "driver=a\nelse=b\n",
        ] {
            fs::write(directory.path().join("0000:00:03.0"), text).unwrap();
            assert!(memory.read(address).is_none(), "{text:?}");
        }
    }
}
