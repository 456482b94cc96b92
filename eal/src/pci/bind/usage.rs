//! Who uses a PCI function: the machine by its network interfaces, or a program that has it open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::super::device::{DEVICES, PciDevice, PciInterface};
use crate::system::SystemRoot;

/// What the machine does with a function's interfaces, in words; none when nothing.
pub(super) fn by_network(
    root: &SystemRoot,
    addresses: &[(String, IpAddr)],
    device: &PciDevice,
) -> Option<String> {
    let routes = routes(root);
    let used = |PciInterface { name, up, uppers, .. }: &PciInterface| {
        // Each interface that is up has a link-local address, so that says nothing.
        let counts = |address: &IpAddr| !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        if let Some((_, address)) = addresses.iter().find(|(of, address)| of == name && counts(address)) {
            return Some(format!("its interface {name} has the address {address}"));
        }
        if let Some((_, route)) = routes.iter().find(|(of, _)| of == name) {
            return Some(format!("its interface {name} is the way to {route}"));
        }
        let upper = uppers.first().filter(|_| *up)?;
        Some(format!("its interface {name} is up and carries {upper}"))
    };
    device.interfaces.iter().find_map(used)
}

/// The program that has a function open, in words; none when no program has, as far as this user can see.
pub(super) fn by_program(root: &SystemRoot, device: &PciDevice) -> Option<String> {
    let mut nodes: Vec<PathBuf> = Vec::new();
    nodes.extend(device.uio.map(|number| format!("/dev/uio{number}").into()));
    if device.driver.as_deref().is_some_and(|driver| driver.contains("vfio")) {
        // A group that was made because there is no IOMMU has a name of its own.
        let group = |number| [format!("/dev/vfio/{number}"), format!("/dev/vfio/noiommu-{number}")];
        nodes.extend(device.iommu_group.into_iter().flat_map(group).map(PathBuf::from));
        let own = root.names(format!("{DEVICES}/{}/vfio-dev", device.address));
        nodes.extend(own.iter().map(|name| format!("/dev/vfio/devices/{name}").into()));
    }
    if nodes.is_empty() {
        return None;
    }
    let has_open = |process: &u32| {
        let open = format!("proc/{process}/fd");
        root.names(&open)
            .iter()
            .filter_map(|fd| std::fs::read_link(root.path(format!("{open}/{fd}"))).ok())
            .any(|target| nodes.contains(&target))
    };
    let process = root.numbered("proc", "", "").into_iter().find(has_open)?;
    let name = root.text(format!("proc/{process}/comm")).unwrap_or_default();
    Some(format!("the program {name:?} (process {process}) has it open"))
}

/// All routes: the interface's name, and where to.
fn routes(root: &SystemRoot) -> Vec<(String, String)> {
    let four = root.text("proc/net/route").unwrap_or_default();
    let six = root.text("proc/net/ipv6_route").unwrap_or_default();
    four.lines().filter_map(route4).chain(six.lines().filter_map(route6)).collect()
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, the addresses as the CPU reads them from memory.
fn route4(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let (destination, mask) = (number(1)?, number(7)?);
    let to = Ipv4Addr::from(destination.to_ne_bytes());
    Some(((*fields.first()?).to_owned(), format!("{to}/{}", mask.count_ones())))
}

/// `destination length source length gateway metric uses references flags interface`.
fn route6(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let to = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    // Those that each interface has which is up.
    if to.is_unicast_link_local() || to.is_multicast() {
        return None;
    }
    let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    Some(((*fields.get(9)?).to_owned(), format!("{to}/{length}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::super::device::{self, tests::Tree};
    use super::*;

    const NIC: &str = "0000:00:03.0";

    fn machine() -> Tree {
        let tree = Tree::new();
        tree.function(NIC, ["0x1af4", "0x1041"], "0x020000", Some("virtio-pci"));
        tree.interface("0000:00:03.0/virtio2/net/eth0", "0x1003", "up");
        tree
    }

    fn network(tree: &Tree, addresses: &[(&str, &str)]) -> Option<String> {
        let addresses: Vec<_> =
            addresses.iter().map(|(name, address)| ((*name).to_owned(), address.parse().unwrap())).collect();
        by_network(&tree.root(), &addresses, &device::find(&tree.root(), NIC.parse().unwrap()).unwrap())
    }

    #[test]
    fn an_address_is_use() {
        let tree = machine();
        let others = [("lo", "127.0.0.1"), ("eth1", "192.0.2.9"), ("eth0", "fe80::1")];
        assert_eq!(network(&tree, &others), None);
        for address in ["192.0.2.2", "fd00::2", "169.254.7.7"] {
            let used = network(&tree, &[others[0], ("eth0", address)]).unwrap();
            assert_eq!(used, format!("its interface eth0 has the address {address}"));
        }
    }

    #[test]
    fn a_route_is_use() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let tree = machine();
        let number = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let route = |name: &str, to: [u8; 4], mask: [u8; 4]| {
            format!("{head}{name}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", number(to), number(mask))
        };
        tree.write("proc/net/route", &route("eth1", [10, 0, 0, 0], [255, 0, 0, 0]));
        assert_eq!(network(&tree, &[]), None);
        tree.write("proc/net/route", &route("eth0", [192, 0, 2, 0], [255, 255, 255, 0]));
        assert_eq!(network(&tree, &[]).unwrap(), "its interface eth0 is the way to 192.0.2.0/24");
        tree.write("proc/net/route", "eth0\n\neth0 x y z\n");
        let six = |to: &str, length: &str, name: &str| {
            let none = "0".repeat(32);
            format!("{to} {length} {none} 00 {none} 00000400 00000001 00000000 00000001 {name}\n")
        };
        let (link, all) = (format!("fe80{}", "0".repeat(28)), format!("ff00{}", "0".repeat(28)));
        let usual = six(&link, "40", "eth0") + &six(&all, "08", "eth0") + &six(&"0".repeat(32), "00", "eth1");
        tree.write("proc/net/ipv6_route", &usual);
        assert_eq!(network(&tree, &[]), None);
        tree.write("proc/net/ipv6_route", &(usual + &six(&"0".repeat(32), "00", "eth0")));
        assert_eq!(network(&tree, &[]).unwrap(), "its interface eth0 is the way to ::/0");
    }

    #[test]
    fn what_is_stacked_on_an_interface_that_is_up_is_use() {
        let tree = machine();
        tree.link(&format!("{DEVICES}/{NIC}/virtio2/net/eth0/upper_br0"), "../../br0");
        assert_eq!(network(&tree, &[]).unwrap(), "its interface eth0 is up and carries br0");
        tree.interface("0000:00:03.0/virtio2/net/eth0", "0x1002", "down");
        assert_eq!(network(&tree, &[]), None);
    }

    #[test]
    fn a_program_that_has_it_open_is_use() {
        for (driver, node) in [
            ("vfio-pci", "/dev/vfio/7"),
            ("vfio-pci", "/dev/vfio/devices/vfio2"),
            ("uio_pci_generic", "/dev/uio1"),
        ] {
            let tree = Tree::new();
            tree.function(NIC, ["0x1af4", "0x1041"], "0x020000", Some(driver));
            tree.link(&format!("{DEVICES}/{NIC}/iommu_group"), "../../iommu_groups/7");
            match driver {
                "vfio-pci" => tree.write(&format!("{DEVICES}/{NIC}/vfio-dev/vfio2/dev"), "1:1"),
                _ => tree.write(&format!("{DEVICES}/{NIC}/uio/uio1/dev"), "1:1"),
            }
            let device = device::find(&tree.root(), NIC.parse().unwrap()).unwrap();
            tree.link("proc/41/fd/0", "/dev/null");
            tree.link("proc/self/fd/0", node);
            assert_eq!(by_program(&tree.root(), &device), None);
            tree.write("proc/42/comm", "dpdk-testpmd\n");
            tree.link("proc/42/fd/17", node);
            let used = by_program(&tree.root(), &device).unwrap();
            assert_eq!(used, "the program \"dpdk-testpmd\" (process 42) has it open", "{node}");
        }
    }
}
