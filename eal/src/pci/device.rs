//! The PCI functions of a machine, as sysfs describes them.
//!
//! Documented in the kernel's `Documentation/ABI/testing/sysfs-bus-pci` and `sysfs-class-net`.

use super::{PciAddress, PciError};
use crate::system::SystemRoot;

/// Where the kernel lists functions.
pub(super) const DEVICES: &str = "sys/bus/pci/devices";

/// Kernel drivers that hand a function over to a program, the best first.
pub const HANDOVER_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// A PCI function as the kernel knows it at the moment of the look.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PciDevice {
    /// Where it is.
    pub address: PciAddress,
    /// Who made it.
    pub vendor: u16,
    /// What it is, by its maker's numbering.
    pub device: u16,
    /// Who made the board; 0 where it does not say.
    pub subsystem_vendor: u16,
    /// What the board is; 0 where it does not say.
    pub subsystem_device: u16,
    /// Base class, subclass and programming interface, 8 bits each (PCI Code and ID Assignment 1.11, 1).
    pub class: u32,
    /// Its revision.
    pub revision: u8,
    /// The NUMA node that it is on; none where the kernel does not know.
    pub numa: Option<u32>,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group; none without an IOMMU.
    pub iommu_group: Option<u32>,
    /// Its number N as `/dev/uioN`, when a UIO driver has it.
    pub uio: Option<u32>,
    /// The network interfaces that its kernel driver makes of it, by name.
    pub interfaces: Vec<PciInterface>,
}

/// A network interface that the kernel makes of a PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PciInterface {
    /// Its name, as in `eth0`.
    pub name: String,
    /// Whether it is switched on (`IFF_UP`).
    pub up: bool,
    /// Whether it has a carrier and can send (`operstate` is `up`).
    pub running: bool,
    /// What is stacked on it, by name: the bridge or bond that it is a port of, its VLANs.
    pub uppers: Vec<String>,
}

impl PciDevice {
    /// Whether it is a network controller (base class 02h).
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.class >> 16 == 0x02
    }

    /// Whether its driver is one that hands it over to programs ([`HANDOVER_DRIVERS`]).
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| HANDOVER_DRIVERS.contains(&driver))
    }
}

/// All functions, by address. An entry that cannot be read, as that of a function which is being unplugged, is left out.
#[must_use]
pub fn scan(root: &SystemRoot) -> Vec<PciDevice> {
    let addresses = root.names(DEVICES).into_iter().filter_map(|name| name.parse().ok());
    let mut devices: Vec<PciDevice> = addresses.filter_map(|address| read(root, address)).collect();
    devices.sort_by_key(|device| device.address);
    devices.dedup_by_key(|device| device.address);
    devices
}

/// The function at an address.
///
/// # Errors
/// [`PciError::NotFound`] when there is none, or it is being unplugged.
pub fn find(root: &SystemRoot, address: PciAddress) -> Result<PciDevice, PciError> {
    read(root, address).ok_or(PciError::NotFound { address })
}

fn read(root: &SystemRoot, address: PciAddress) -> Option<PciDevice> {
    let at = format!("{DEVICES}/{address}");
    let file = |name: &str| format!("{at}/{name}");
    let short = |name: &str| root.hex(file(name)).and_then(|number| u16::try_from(number).ok());
    let class = root.hex(file("class"))?;
    Some(PciDevice {
        address,
        vendor: short("vendor")?,
        device: short("device")?,
        subsystem_vendor: short("subsystem_vendor").unwrap_or(0),
        subsystem_device: short("subsystem_device").unwrap_or(0),
        class: class & 0xff_ffff,
        revision: root.hex(file("revision")).and_then(|number| u8::try_from(number).ok()).unwrap_or(0),
        // The kernel says -1 for a node that it does not know.
        numa: root.number(file("numa_node")).and_then(|node| u32::try_from(node).ok()),
        driver: root.link_name(file("driver")),
        iommu_group: root.link_name(file("iommu_group")).and_then(|name| name.parse().ok()),
        uio: root.numbered(file("uio"), "uio", "").first().copied(),
        interfaces: interfaces(root, &at),
    })
}

/// The interfaces in `net/` of a function, or of the virtio device on it.
fn interfaces(root: &SystemRoot, at: &str) -> Vec<PciInterface> {
    let below = root.names(at).into_iter().filter(|name| name.starts_with("virtio"));
    let places = std::iter::once(format!("{at}/net")).chain(below.map(|name| format!("{at}/{name}/net")));
    let interface = |place: &str, name: String| {
        let file = |file: &str| format!("{place}/{name}/{file}");
        PciInterface {
            up: root.hex(file("flags")).is_some_and(|flags| flags & IFF_UP != 0),
            running: root.text(file("operstate")).is_some_and(|state| state == "up"),
            uppers: root
                .names(file(""))
                .iter()
                .filter_map(|name| name.strip_prefix("upper_"))
                .map(str::to_owned)
                .collect(),
            name,
        }
    };
    let mut found: Vec<PciInterface> = places
        .flat_map(|place| {
            root.names(&place).into_iter().map(|name| interface(&place, name)).collect::<Vec<_>>()
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// `IFF_UP` (`linux/if.h`).
const IFF_UP: u32 = 1;

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// A made-up machine.
    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(crate) fn root(&self) -> SystemRoot {
            SystemRoot::at(self.0.path())
        }

        pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
            self.0.path().join(file)
        }

        pub(crate) fn write(&self, file: &str, text: &str) {
            let path = self.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn link(&self, file: &str, target: impl AsRef<Path>) {
            let path = self.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }

        /// A function with a driver or without.
        pub(crate) fn function(&self, address: &str, ids: [&str; 2], class: &str, driver: Option<&str>) {
            let at = format!("{DEVICES}/{address}");
            for (file, text) in [
                ("vendor", ids[0]),
                ("device", ids[1]),
                ("class", class),
                ("numa_node", "-1"),
                ("driver_override", "(null)"),
            ] {
                self.write(&format!("{at}/{file}"), &format!("{text}\n"));
            }
            if let Some(driver) = driver {
                fs::create_dir_all(self.path(&format!("sys/bus/pci/drivers/{driver}"))).unwrap();
                self.link(&format!("{at}/driver"), format!("../../../bus/pci/drivers/{driver}"));
            }
        }

        pub(crate) fn interface(&self, place: &str, flags: &str, state: &str) {
            self.write(&format!("{DEVICES}/{place}/flags"), &format!("{flags}\n"));
            self.write(&format!("{DEVICES}/{place}/operstate"), &format!("{state}\n"));
        }
    }

    #[test]
    fn functions_are_told_with_all_that_is_known_of_them() {
        let tree = Tree::new();
        tree.function("0000:81:00.1", ["0x8086", "0x10fb"], "0x020000", Some("vfio-pci"));
        for (file, text) in [
            ("subsystem_vendor", "0x8086"),
            ("subsystem_device", "0x0003"),
            ("revision", "0x01"),
            ("numa_node", "1"),
            ("uio/uio3/name", "x"),
        ] {
            tree.write(&format!("{DEVICES}/0000:81:00.1/{file}"), text);
        }
        tree.link(&format!("{DEVICES}/0000:81:00.1/iommu_group"), "../../../kernel/iommu_groups/17");
        tree.function("0000:00:03.0", ["0x1af4", "0x1041"], "0x020000", Some("virtio-pci"));
        tree.interface("0000:00:03.0/virtio2/net/eth0", "0x1003", "up");
        tree.link(&format!("{DEVICES}/0000:00:03.0/virtio2/net/eth0/upper_br0"), "../../br0");
        tree.function("0000:00:04.0", ["0x8086", "0x1533"], "0x020000", Some("igb"));
        tree.interface("0000:00:04.0/net/enp4s0", "0x1002", "down");

        let devices = scan(&tree.root());
        let addresses: Vec<String> = devices.iter().map(|device| device.address.to_string()).collect();
        assert_eq!(addresses, ["0000:00:03.0", "0000:00:04.0", "0000:81:00.1"]);
        let [virtio, igb, ixgbe] = &devices[..] else { panic!("{devices:?}") };
        assert_eq!((virtio.driver.as_deref(), virtio.numa, virtio.uio), (Some("virtio-pci"), None, None));
        assert!(virtio.is_network() && !virtio.is_handed_over());
        let bridged =
            PciInterface { name: "eth0".into(), up: true, running: true, uppers: vec!["br0".into()] };
        assert_eq!(virtio.interfaces, [bridged]);
        let off = PciInterface { name: "enp4s0".into(), up: false, running: false, uppers: vec![] };
        assert_eq!(igb.interfaces, [off]);
        assert!(ixgbe.is_handed_over());
        assert_eq!((ixgbe.vendor, ixgbe.device, ixgbe.subsystem_vendor), (0x8086, 0x10fb, 0x8086));
        assert_eq!((ixgbe.subsystem_device, ixgbe.revision, ixgbe.class), (3, 1, 0x02_0000));
        assert_eq!((ixgbe.numa, ixgbe.iommu_group, ixgbe.uio), (Some(1), Some(17), Some(3)));
        assert_eq!(&find(&tree.root(), ixgbe.address).unwrap(), ixgbe);
        let error = find(&tree.root(), "00:1f.0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("0000:00:1f.0: there is no such PCI function"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let tree = Tree::new();
        tree.function("0000:00:01.0", ["0x8086", "0x1237"], "0x060000", None);
        tree.function("nonsense", ["0x8086", "0x1237"], "0x060000", None);
        tree.function("0000:00:02.0", ["0x18086", "0x1237"], "0x020000", None);
        tree.function("0000:00:03.0", ["", "0x1237"], "0x020000", None);
        tree.function("0000:00:04.0", ["0x8086", "0x1237"], "2", None);
        // Taken away between the listing and the look: a link that leads nowhere.
        tree.link(&format!("{DEVICES}/0000:00:05.0"), "gone");
        // Text that is no text, and links that are none.
        tree.function("0000:00:06.0", ["0x8086", "0x1237"], "0xff020000", None);
        fs::write(tree.path(&format!("{DEVICES}/0000:00:06.0/numa_node")), [0xff, 0xfe]).unwrap();
        tree.write(&format!("{DEVICES}/0000:00:06.0/driver"), "x");
        tree.write(&format!("{DEVICES}/0000:00:06.0/net"), "x");
        tree.link(&format!("{DEVICES}/0000:00:06.0/iommu_group"), "..");
        tree.write(&format!("{DEVICES}/0000:00:06.0/uio/uio99999999999/name"), "x");

        let devices = scan(&tree.root());
        let addresses: Vec<String> = devices.iter().map(|device| device.address.to_string()).collect();
        assert_eq!(addresses, ["0000:00:01.0", "0000:00:06.0"]);
        let odd = &devices[1];
        assert_eq!((odd.class, odd.numa, odd.iommu_group, odd.uio), (0x02_0000, None, None, None));
        assert!(odd.driver.is_none() && odd.interfaces.is_empty());
        assert!(scan(&SystemRoot::at("/nowhere")).is_empty());
    }
}
