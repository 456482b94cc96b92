//! The sequence of writes, and what is undone, on a made-up machine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;

use super::super::device::tests::Tree;
use super::*;

const NIC: &str = "0000:00:03.0";

/// Does to the tree what a kernel does, and writes down what it was asked.
struct Fake<'a> {
    tree: &'a Tree,
    asked: RefCell<Vec<String>>,
    /// What drivers say instead of taking a function.
    refuses: RefCell<BTreeMap<String, Errno>>,
    /// The driver that ids lead to.
    natural: Option<&'static str>,
    /// Modules that can be loaded.
    modules: Vec<&'static str>,
    addresses: Vec<(String, IpAddr)>,
}

impl<'a> Fake<'a> {
    fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            asked: RefCell::default(),
            refuses: RefCell::default(),
            natural: Some("virtio-pci"),
            modules: vec!["vfio-pci"],
            addresses: vec![],
        }
    }

    fn take(&self, driver: &str, address: &str) -> io::Result<()> {
        if let Some(errno) = self.refuses.borrow().get(driver) {
            return Err((*errno).into());
        }
        symlink(format!("../../drivers/{driver}"), self.tree.path(&format!("{DEVICES}/{address}/driver")))
    }
}

impl KernelControl for &Fake<'_> {
    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let short = file.strip_prefix("sys/bus/pci/").unwrap();
        self.asked.borrow_mut().push(format!("{short} < {}", text.trim_end()));
        let parts: Vec<&str> = short.split('/').collect();
        match parts[..] {
            ["devices", address, "driver_override"] => {
                let text = if text == "\n" { "(null)\n" } else { text };
                fs::write(self.tree.path(&format!("{DEVICES}/{address}/driver_override")), text)
            }
            ["devices", address, "driver", "unbind"] => {
                assert_eq!(text, address);
                fs::remove_file(self.tree.path(&format!("{DEVICES}/{address}/driver")))
            }
            ["drivers", driver, "bind"] => self.take(driver, text),
            ["drivers_probe"] => self.natural.map_or(Ok(()), |driver| self.take(driver, text)),
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn load_module(&self, module: &str) -> io::Result<()> {
        self.asked.borrow_mut().push(format!("modprobe {module}"));
        if !self.modules.contains(&module) {
            return Err(io::Error::other(format!("FATAL: Module {module} not found")));
        }
        fs::create_dir_all(self.tree.path(&format!("sys/bus/pci/drivers/{module}")))
    }

    fn addresses(&self) -> Vec<(String, IpAddr)> {
        self.addresses.clone()
    }
}

/// A NIC of the kernel's, with an IOMMU.
fn machine() -> Tree {
    let tree = Tree::new();
    tree.function(NIC, ["0x1af4", "0x1041"], "0x020000", Some("virtio-pci"));
    tree.interface("0000:00:03.0/virtio2/net/eth0", "0x1003", "up");
    tree.link(&format!("{DEVICES}/{NIC}/iommu_group"), "../../iommu_groups/7");
    tree.write("sys/bus/pci/drivers/uio_pci_generic/x", "");
    tree
}

fn binder<'a>(tree: &Tree, kernel: &'a Fake<'a>) -> Binder<&'a Fake<'a>> {
    Binder::with(tree.root(), tree.path("run/bind"), kernel)
}

fn nic() -> PciAddress {
    NIC.parse().unwrap()
}

fn driver(tree: &Tree) -> (Option<String>, String) {
    let text = tree.root().text(format!("{DEVICES}/{NIC}/driver_override")).unwrap();
    (device::find(&tree.root(), nic()).unwrap().driver, text)
}

fn has(driver: &str, driver_override: &str) -> (Option<String>, String) {
    (Some(driver.to_owned()), driver_override.to_owned())
}

#[test]
fn a_function_is_taken_and_given_back() {
    let tree = machine();
    let kernel = Fake::new(&tree);
    let bound = binder(&tree, &kernel).bind(nic(), "vfio-pci", false).unwrap();
    assert_eq!((bound.before.as_deref(), bound.after.as_deref()), (Some("virtio-pci"), Some("vfio-pci")));
    assert!(bound.in_the_way.is_empty());
    let expected = [
        "modprobe vfio-pci",
        "devices/0000:00:03.0/driver_override < vfio-pci",
        "devices/0000:00:03.0/driver/unbind < 0000:00:03.0",
        "drivers/vfio-pci/bind < 0000:00:03.0",
    ];
    assert_eq!(*kernel.asked.borrow(), expected);
    assert_eq!(driver(&tree), has("vfio-pci", "vfio-pci"));

    // Taken once more, by another process: the first driver counts.
    kernel.asked.borrow_mut().clear();
    let other = binder(&tree, &kernel);
    assert_eq!(other.remembered(), [nic()]);
    other.bind(nic(), "uio_pci_generic", false).unwrap();
    assert_eq!(
        other.bind(nic(), "uio_pci_generic", false).unwrap().before.as_deref(),
        Some("uio_pci_generic")
    );
    assert_eq!(driver(&tree), has("uio_pci_generic", "uio_pci_generic"));
    kernel.asked.borrow_mut().clear();
    assert_eq!(other.restore(nic(), false).unwrap().after.as_deref(), Some("virtio-pci"));
    let expected = [
        "devices/0000:00:03.0/driver_override < ",
        "devices/0000:00:03.0/driver/unbind < 0000:00:03.0",
        "drivers/virtio-pci/bind < 0000:00:03.0",
    ];
    assert_eq!(*kernel.asked.borrow(), expected);
    assert_eq!(driver(&tree), has("virtio-pci", "(null)"));
    assert!(other.remembered().is_empty());
    // There is nothing more to give back.
    kernel.asked.borrow_mut().clear();
    other.restore(nic(), false).unwrap();
    assert!(kernel.asked.borrow().is_empty());
}

#[test]
fn what_was_overridden_before_is_so_again() {
    let tree = machine();
    tree.write(&format!("{DEVICES}/{NIC}/driver_override"), "virtio-pci\n");
    let kernel = Fake::new(&tree);
    binder(&tree, &kernel).bind(nic(), "vfio-pci", false).unwrap();
    binder(&tree, &kernel).restore(nic(), false).unwrap();
    assert_eq!(driver(&tree), has("virtio-pci", "virtio-pci"));
}

#[test]
fn a_function_is_left_without_a_driver_and_given_back() {
    let tree = machine();
    let kernel = Fake::new(&tree);
    let binder = binder(&tree, &kernel);
    let bound = binder.unbind(nic(), false).unwrap();
    assert_eq!((bound.before.as_deref(), bound.after), (Some("virtio-pci"), None));
    assert_eq!(binder.unbind(nic(), false).unwrap().before, None);
    binder.bind(nic(), "vfio-pci", false).unwrap();
    binder.restore(nic(), false).unwrap();
    assert_eq!(driver(&tree), has("virtio-pci", "(null)"));

    // One that had no driver at first has none again.
    fs::remove_file(tree.path(&format!("{DEVICES}/{NIC}/driver"))).unwrap();
    binder.bind(nic(), "vfio-pci", false).unwrap();
    assert_eq!(binder.restore(nic(), false).unwrap().after, None);
    assert_eq!(driver(&tree), (None, "(null)".to_owned()));
}

#[test]
fn without_a_memory_the_kernel_finds_the_driver() {
    let tree = machine();
    let kernel = Fake::new(&tree);
    let binder = binder(&tree, &kernel);
    binder.bind(nic(), "vfio-pci", false).unwrap();
    fs::remove_dir_all(tree.path("run")).unwrap();
    assert_eq!(binder.restore(nic(), false).unwrap().after.as_deref(), Some("virtio-pci"));
    assert_eq!(kernel.asked.borrow().last().unwrap(), "drivers_probe < 0000:00:03.0");
    // A memory of what somebody else has given back already is cleared away.
    binder.bind(nic(), "vfio-pci", false).unwrap();
    fs::remove_file(tree.path(&format!("{DEVICES}/{NIC}/driver"))).unwrap();
    kernel.take("virtio-pci", NIC).unwrap();
    binder.restore(nic(), false).unwrap();
    assert_eq!(driver(&tree), has("virtio-pci", "(null)"));
    assert!(binder.remembered().is_empty());
}

#[test]
fn what_the_kernel_refuses_is_undone() {
    let tree = machine();
    let kernel = Fake::new(&tree);
    let binder = binder(&tree, &kernel);
    for (to, errno, words) in [
        ("vfio-pci", Errno::INVAL, "IOMMU group"),
        ("uio_pci_generic", Errno::NODEV, "INTx"),
        ("vfio-pci", Errno::BUSY, "dmesg"),
    ] {
        kernel.refuses.borrow_mut().insert(to.to_owned(), errno);
        let error = binder.bind(nic(), to, false).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{NIC}: {to} did not take it: ")), "{error}");
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
        assert_eq!(driver(&tree), has("virtio-pci", "(null)"));
        assert!(binder.remembered().is_empty());
    }
    // A kernel driver that does not know it is not made to take it.
    tree.write("sys/bus/pci/drivers/ixgbe/x", "");
    kernel.refuses.borrow_mut().insert("ixgbe".to_owned(), Errno::NODEV);
    kernel.asked.borrow_mut().clear();
    let error = binder.bind(nic(), "ixgbe", false).unwrap_err().to_string();
    assert!(error.contains("ixgbe does not know 1af4:1041"), "{error}");
    assert_eq!(kernel.asked.borrow()[0], "devices/0000:00:03.0/driver_override < ");
    // When not even that works, the memory stays for later.
    kernel.refuses.borrow_mut().insert("virtio-pci".to_owned(), Errno::IO);
    let error = binder.bind(nic(), "vfio-pci", false).unwrap_err().to_string();
    assert!(
        error.contains("giving it back failed too") && error.contains("--restore 0000:00:03.0"),
        "{error}"
    );
    assert_eq!(driver(&tree), (None, "(null)".to_owned()));
    assert_eq!(binder.remembered(), [nic()]);
    let error = binder.restore(nic(), false).unwrap_err().to_string();
    assert!(error.contains("virtio-pci did not take it"), "{error}");
    kernel.refuses.borrow_mut().clear();
    binder.restore(nic(), false).unwrap();
    assert_eq!(driver(&tree), has("virtio-pci", "(null)"));
}

#[test]
fn nothing_is_touched_without_an_iommu_or_a_driver() {
    let tree = machine();
    let mut kernel = Fake::new(&tree);
    fs::remove_file(tree.path(&format!("{DEVICES}/{NIC}/iommu_group"))).unwrap();
    let error = binder(&tree, &kernel).bind(nic(), "vfio-pci", false).unwrap_err().to_string();
    assert!(error.contains("intel_iommu=on") && error.contains("uio_pci_generic"), "{error}");
    assert_eq!(*kernel.asked.borrow(), ["modprobe vfio-pci"]);
    for name in ["", "../x", "a b", "vfio-pci\n"] {
        let error = binder(&tree, &kernel).bind(nic(), name, false).unwrap_err().to_string();
        assert!(error.contains("is no driver's name"), "{error}");
    }
    kernel.asked.borrow_mut().clear();
    kernel.modules.clear();
    let error = binder(&tree, &kernel).bind(nic(), "igb_uio", false).unwrap_err().to_string();
    assert!(error.contains("FATAL: Module igb_uio not found; load it: modprobe igb_uio"), "{error}");
    assert_eq!(*kernel.asked.borrow(), ["modprobe igb_uio"]);
    assert!(binder(&tree, &kernel).remembered().is_empty());
    // Without an IOMMU by express wish.
    tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    binder(&tree, &kernel).bind(nic(), "vfio-pci", false).unwrap();
}

#[test]
fn what_the_machine_uses_is_taken_by_force_only() {
    let tree = machine();
    let mut kernel = Fake::new(&tree);
    kernel.addresses = vec![("eth0".to_owned(), "192.0.2.2".parse().unwrap())];
    let binder = binder(&tree, &kernel);
    let error = binder.bind(nic(), "uio_pci_generic", false).unwrap_err();
    assert!(matches!(&error, PciError::InUse { address, .. } if *address == nic()), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("its interface eth0 has the address 192.0.2.2"), "{error}");
    assert!(matches!(binder.unbind(nic(), false), Err(PciError::InUse { .. })));
    assert!(kernel.asked.borrow().is_empty() && binder.remembered().is_empty());
    assert_eq!(driver(&tree), has("virtio-pci", "(null)"));
    binder.bind(nic(), "uio_pci_generic", true).unwrap();
    // A program works with it.
    fs::remove_dir_all(tree.path(&format!("{DEVICES}/{NIC}/virtio2"))).unwrap();
    tree.write(&format!("{DEVICES}/{NIC}/uio/uio0/dev"), "1:1");
    tree.link("proc/42/fd/3", "/dev/uio0");
    assert!(matches!(binder.restore(nic(), false), Err(PciError::InUse { .. })));
    binder.restore(nic(), true).unwrap();
    assert_eq!(driver(&tree), has("virtio-pci", "(null)"));
}

#[test]
fn the_rest_of_a_group_is_told() {
    let tree = machine();
    let kernel = Fake::new(&tree);
    tree.function("0000:00:04.0", ["0x8086", "0x1533"], "0x020000", Some("igb"));
    tree.function("0000:00:01.0", ["0x8086", "0x1533"], "0x060400", Some("pcieport"));
    tree.function("0000:00:05.0", ["0x8086", "0x1533"], "0x020000", None);
    for member in [NIC, "0000:00:04.0", "0000:00:01.0", "0000:00:05.0"] {
        tree.write(&format!("sys/kernel/iommu_groups/7/devices/{member}"), "");
    }
    let bound = binder(&tree, &kernel).bind(nic(), "vfio-pci", false).unwrap();
    assert_eq!(bound.in_the_way, ["0000:00:04.0".parse().unwrap()]);
    assert!(binder(&tree, &kernel).restore(nic(), false).unwrap().in_the_way.is_empty());
}

#[test]
fn a_function_that_is_not_there_is_an_error() {
    let tree = machine();
    let kernel = Fake::new(&tree);
    let gone = "00:1f.0".parse().unwrap();
    let binder = binder(&tree, &kernel);
    for result in [binder.bind(gone, "vfio-pci", true), binder.unbind(gone, true), binder.restore(gone, true)]
    {
        assert!(matches!(result, Err(PciError::NotFound { .. })), "{result:?}");
    }
}
