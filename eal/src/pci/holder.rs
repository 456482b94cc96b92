//! Which driver of the kernel holds a function, and with which other functions it shares an IOMMU group.

use std::path::PathBuf;

use super::{PciAddress, PciError};
use crate::system::SystemRoot;

/// A function in sysfs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) root: &'a SystemRoot,
    pub(crate) address: PciAddress,
}

/// Who hands a function over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// vfio-pci, or one of its variants for a device.
    Vfio,
    /// uio_pci_generic.
    Uio,
}

impl Place<'_> {
    /// Relative to the root.
    fn directory(&self) -> String {
        format!("sys/bus/pci/devices/{}", self.address)
    }

    /// A file of the function in sysfs.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.path(self.directory()).join(name)
    }

    /// The numbers N of what is called `<prefix>N` in a directory of the function.
    pub(crate) fn numbered(&self, directory: &str, prefix: &str) -> Vec<u32> {
        self.root.numbered(format!("{}/{directory}", self.directory()), prefix, "")
    }

    /// The last part of where a link leads.
    fn link(&self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.file(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The kernel's driver.
    pub(crate) fn driver(&self) -> Option<String> {
        self.link("driver")
    }

    /// The IOMMU group.
    pub(crate) fn group(&self) -> Option<u32> {
        self.link("iommu_group")?.parse().ok()
    }

    /// Whether an IOMMU translates its addresses for the kernel (`Documentation/ABI/testing/sysfs-kernel-iommu_groups`), so
    /// that it does not reach memory by physical ones.
    pub(crate) fn is_translated(&self) -> bool {
        let kind = |group| self.root.text(format!("sys/kernel/iommu_groups/{group}/type"));
        self.group().and_then(kind).is_some_and(|kind| kind.starts_with("DMA"))
    }

    /// An error about this function.
    pub(crate) fn unusable(&self, problem: impl Into<String>) -> PciError {
        PciError::Unusable { address: self.address, problem: problem.into() }
    }

    /// A system call about this function that failed.
    pub(crate) fn failed(&self, doing: impl Into<String>, source: std::io::Error) -> PciError {
        PciError::System { address: self.address, doing: doing.into(), source }
    }

    /// Who hands the function over.
    ///
    /// # Errors
    /// [`PciError`] when it is not there, or nobody does.
    pub(crate) fn holder(&self) -> Result<Holder, PciError> {
        if !self.root.path(self.directory()).exists() {
            return Err(PciError::NotFound { address: self.address });
        }
        let mend = format!("run `wirerate bind --driver vfio-pci {}` as root", self.address);
        match self.driver() {
            Some(driver) if is_vfio(&driver) => Ok(Holder::Vfio),
            Some(driver) if driver == "uio_pci_generic" => Ok(Holder::Uio),
            Some(driver) => Err(self.unusable(format!("it belongs to the kernel's driver {driver}; {mend}"))),
            None => Err(self.unusable(format!("no driver hands it over; {mend}"))),
        }
    }

    /// The other functions of its group that drivers of the kernel use, each with its driver.
    pub(crate) fn in_the_way(&self) -> Vec<String> {
        let Some(group) = self.group() else { return Vec::new() };
        let in_use = |name: String| {
            let address: PciAddress = name.parse().ok()?;
            let driver = Place { root: self.root, address }.driver()?;
            // Bridges and stubs do no DMA for others, so the kernel lets them stay.
            let harmless = is_vfio(&driver) || driver == "pci-stub" || driver == "pcieport";
            (!harmless).then(|| format!("{address} ({driver})"))
        };
        self.root
            .names(format!("sys/kernel/iommu_groups/{group}/devices"))
            .into_iter()
            .filter_map(in_use)
            .collect()
    }
}

/// vfio-pci, or a variant such as mlx5_vfio_pci.
fn is_vfio(driver: &str) -> bool {
    driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::tests::Machine;
    use super::*;

    #[test]
    fn a_function_is_held_by_vfio_by_uio_or_by_none_that_hands_it_over() {
        let machine = Machine::new();
        for (address, driver) in [
            ("0000:00:03.0", Some("vfio-pci")),
            ("0000:00:04.0", Some("mlx5_vfio_pci")),
            ("0000:00:05.0", Some("uio_pci_generic")),
            ("0000:00:06.0", Some("virtio-pci")),
            ("0000:00:07.0", None),
        ] {
            machine.function(address, driver, None);
        }
        let holder = |address| machine.place(address).holder();
        assert_eq!(holder("00:03.0").unwrap(), Holder::Vfio);
        assert_eq!(holder("00:04.0").unwrap(), Holder::Vfio);
        assert_eq!(holder("00:05.0").unwrap(), Holder::Uio);
        assert_eq!(
            holder("00:06.0").unwrap_err().to_string(),
            "0000:00:06.0: it belongs to the kernel's driver virtio-pci; run `wirerate bind --driver vfio-pci \
             0000:00:06.0` as root"
        );
        assert!(holder("00:07.0").unwrap_err().to_string().contains("no driver hands it over"));
        assert!(holder("00:08.0").unwrap_err().to_string().contains("there is no such PCI function"));
    }

    #[test]
    fn functions_of_the_same_group_that_are_in_use_are_named() {
        let machine = Machine::new();
        machine.function("0000:00:03.0", Some("vfio-pci"), Some(7));
        machine.function("0000:00:03.1", Some("e1000e"), Some(7));
        machine.function("0000:00:03.2", None, Some(7));
        machine.function("0000:00:1c.0", Some("pcieport"), Some(7));
        machine.function("0000:00:04.0", Some("ahci"), Some(8));
        assert_eq!(machine.place("00:03.0").in_the_way(), ["0000:00:03.1 (e1000e)"]);
    }
}
