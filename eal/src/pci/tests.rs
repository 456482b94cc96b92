//! A made-up machine for tests: a tree with `sys` and `dev`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;

use super::PciAddress;
use super::holder::Place;
use crate::system::SystemRoot;

pub(crate) struct Machine {
    directory: tempfile::TempDir,
    root: SystemRoot,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = SystemRoot::at(directory.path());
        Self { directory, root }
    }

    pub(crate) fn root(&self) -> &SystemRoot {
        &self.root
    }

    pub(crate) fn place(&self, address: &str) -> Place<'_> {
        Place { root: &self.root, address: address.parse().unwrap() }
    }

    /// A file with this content.
    pub(crate) fn file(&self, path: &str, content: &[u8]) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A function with a driver and a group.
    pub(crate) fn function(&self, address: &str, driver: Option<&str>, group: Option<u32>) {
        let address: PciAddress = address.parse().unwrap();
        let device = self.directory.path().join(format!("sys/bus/pci/devices/{address}"));
        fs::create_dir_all(&device).unwrap();
        if let Some(driver) = driver {
            symlink(format!("../../../../bus/pci/drivers/{driver}"), device.join("driver")).unwrap();
        }
        if let Some(group) = group {
            symlink(format!("../../../kernel/iommu_groups/{group}"), device.join("iommu_group")).unwrap();
            let devices = self.directory.path().join(format!("sys/kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&devices).unwrap();
            symlink(format!("../../../../devices/pci0000:00/{address}"), devices.join(address.to_string()))
                .unwrap();
        }
    }
}
