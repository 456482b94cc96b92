//! Which kernel drivers could have a function: those whose modules name it, and those that hand any over.
//!
//! Modules name the devices that they know by patterns in `modules.alias`, against which a function's `modalias` is held
//! (kernel `Documentation/ABI/testing/sysfs-bus-pci` and `scripts/mod/file2alias.c`).

use super::device::{DEVICES, HANDOVER_DRIVERS, PciDevice};
use crate::system::SystemRoot;

/// The kernel's modules for PCI, and what they know.
#[derive(Debug)]
pub struct DriverCandidates {
    root: SystemRoot,
    /// Pattern and module.
    patterns: Vec<(String, String)>,
    /// Drivers that are loaded.
    loaded: Vec<String>,
    handover: Vec<&'static str>,
}

impl DriverCandidates {
    /// Reads them. Without a `modules.alias`, as in most containers, only the drivers that hand over are known.
    #[must_use]
    pub fn read(root: &SystemRoot) -> Self {
        let release = root.text("proc/sys/kernel/osrelease").unwrap_or_default();
        let folder = format!("lib/modules/{release}");
        let table = root.text(format!("{folder}/modules.alias")).unwrap_or_default();
        let pattern = |line: &str| {
            let (pattern, module) = line.strip_prefix("alias ")?.split_once(' ')?;
            pattern.starts_with("pci:").then(|| (pattern.to_owned(), module.trim().to_owned()))
        };
        let modules = root.text(format!("{folder}/modules.dep")).unwrap_or_default();
        let loaded = root.names("sys/bus/pci/drivers");
        let there = |driver: &&str| {
            let file = format!("/{}.ko", driver.replace('-', "_"));
            loaded.iter().any(|known| known == driver)
                || modules
                    .lines()
                    .filter_map(|line| line.split(':').next())
                    .any(|module| module.replace('-', "_").contains(&file))
        };
        Self {
            patterns: table.lines().filter_map(pattern).collect(),
            handover: HANDOVER_DRIVERS.into_iter().filter(there).collect(),
            loaded,
            root: root.clone(),
        }
    }

    /// The drivers that could have the function, but the one that has it.
    #[must_use]
    pub fn unused(&self, device: &PciDevice) -> Vec<String> {
        let alias = self.root.text(format!("{DEVICES}/{}/modalias", device.address)).unwrap_or_default();
        let knowing = self.patterns.iter().filter(|(pattern, _)| matches(pattern, &alias));
        let mut all: Vec<String> = knowing.map(|(_, module)| module.clone()).collect();
        all.extend(self.handover.iter().map(|&driver| driver.to_owned()));
        let mut unused: Vec<String> = Vec::new();
        for module in all {
            // A module's name has an underscore where its driver's may have a dash.
            let same = |other: &str| other.replace('-', "_") == module.replace('-', "_");
            if !device.driver.as_deref().is_some_and(same) && !unused.iter().any(|known| same(known)) {
                let driver = self.loaded.iter().find(|driver| same(driver)).cloned();
                unused.push(driver.unwrap_or(module));
            }
        }
        unused
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::device::{self, tests::Tree};
    use super::*;

    #[test]
    fn patterns_are_held_against_a_function() {
        let alias = "pci:v00001AF4d00001041sv00001AF4sd00001041bc02sc00i00";
        for (pattern, expected) in [
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", true),
            ("pci:v00001AF4d00001041sv*sd*bc*sc*i*", true),
            ("pci:v*d*sv*sd*bc02sc00i00*", true),
            (alias, true),
            ("*", true),
            ("pci:v00001AF4d00001042sv*sd*bc*sc*i*", false),
            ("pci:v*d*sv*sd*bc0Csc03i20*", false),
            ("pci:v00001AF4d*sv*sd*bc*sc*i01", false),
            ("pci:", false),
            ("", false),
        ] {
            assert_eq!(matches(pattern, alias), expected, "{pattern}");
        }
        assert!(!matches("aa*aa", "aaa"));
    }

    #[test]
    fn the_drivers_that_could_have_a_function_are_found() {
        let tree = Tree::new();
        let nic = "0000:00:03.0";
        tree.function(nic, ["0x8086", "0x10fb"], "0x020000", Some("ixgbe"));
        let read = || {
            let device = device::find(&tree.root(), nic.parse().unwrap()).unwrap();
            DriverCandidates::read(&tree.root()).unused(&device)
        };
        assert_eq!(read(), [""; 0]);
        tree.write("sys/bus/pci/drivers/vfio-pci/x", "");
        assert_eq!(read(), ["vfio-pci"]);
        tree.write("proc/sys/kernel/osrelease", "6.1.0\n");
        tree.write(
            &format!("{DEVICES}/{nic}/modalias"),
            "pci:v00008086d000010FBsv00008086sd00000003bc02sc00i00\n",
        );
        tree.write(
            "lib/modules/6.1.0/modules.alias",
            "# Aliases extracted from modules themselves.\nalias usb:v1p2* usbnet\n\
             alias pci:v00008086d000010FBsv*sd*bc*sc*i* ixgbe\nalias pci:v00008086d*sv*sd*bc02sc*i* odd_one\n\
             alias pci:v00008086d000010FAsv*sd*bc*sc*i* other\nalias\nalias pci:v00008086d*\n",
        );
        tree.write(
            "lib/modules/6.1.0/modules.dep",
            "kernel/drivers/uio/uio_pci_generic.ko.xz: kernel/drivers/uio/uio.ko.xz\n",
        );
        assert_eq!(read(), ["odd_one", "vfio-pci", "uio_pci_generic"]);
        // By the name of the driver, once it is known.
        tree.write("sys/bus/pci/drivers/odd-one/x", "");
        assert_eq!(read(), ["odd-one", "vfio-pci", "uio_pci_generic"]);
    }
}
