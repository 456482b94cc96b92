//! On made-up machines, with a kernel that does what it is asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use clap::Parser;
use tempfile::TempDir;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Binds as asked, but for `igb_uio`.
struct Obedient<'a>(&'a Path);

impl KernelControl for Obedient<'_> {
    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let link = |address: &str| self.0.join(format!("sys/bus/pci/devices/{address}/driver"));
        let parts: Vec<&str> = file.split('/').skip(3).collect();
        match parts[..] {
            ["drivers", "igb_uio", "bind"] => Err(io::Error::other("no such device")),
            ["drivers", driver, "bind"] => symlink(format!("../../drivers/{driver}"), link(text)),
            ["devices", address, "driver", "unbind"] => fs::remove_file(link(address)),
            _ => Ok(()),
        }
    }

    fn load_module(&self, _module: &str) -> io::Result<()> {
        Err(io::Error::other("not found"))
    }

    fn addresses(&self) -> Vec<(String, IpAddr)> {
        vec![("eth0".to_owned(), "192.0.2.2".parse().unwrap())]
    }
}

fn device(
    root: &Path,
    address: &str,
    ids: [&str; 2],
    class: &str,
    driver: Option<&str>,
    interface: Option<&str>,
) {
    let at = root.join("sys/bus/pci/devices").join(address);
    fs::create_dir_all(&at).unwrap();
    for (file, text) in [("vendor", ids[0]), ("device", ids[1]), ("class", class)] {
        fs::write(at.join(file), text).unwrap();
    }
    if let Some(driver) = driver {
        fs::create_dir_all(root.join("sys/bus/pci/drivers").join(driver)).unwrap();
        symlink(format!("../../drivers/{driver}"), at.join("driver")).unwrap();
    }
    if let Some(name) = interface {
        let at = at.join("net").join(name);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("flags"), "0x1003").unwrap();
        fs::write(at.join("operstate"), "up").unwrap();
    }
}

fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let nic = "0x020000";
    device(root.path(), "0000:00:00.0", ["0x8086", "0x1237"], "0x060000", None, None);
    device(root.path(), "0000:00:03.0", ["0x1af4", "0x1041"], nic, Some("virtio-pci"), Some("eth0"));
    device(root.path(), "0000:00:04.0", ["0x8086", "0x10fb"], nic, Some("ixgbe"), Some("e\x1bth1"));
    device(root.path(), "0000:00:05.0", ["0x8086", "0x10fb"], nic, Some("uio_pci_generic"), None);
    device(root.path(), "0000:00:06.0", ["0x1af4", "0x1041"], nic, None, None);
    fs::write(root.path().join("sys/bus/pci/devices/0000:00:05.0/numa_node"), "1").unwrap();
    for driver in ["vfio-pci", "igb_uio"] {
        fs::create_dir_all(root.path().join("sys/bus/pci/drivers").join(driver)).unwrap();
    }
    let ids = "# pci.ids\n1af4  Red Hat, Inc.\n\t1041  Virtio 1.0 network device\n\t1042  Other\n\n\
               8086  Intel Corporation\n\t10fb  82599ES 10-Gigabit SFI/SFP+ Network Connection\n\
               \t\t8086 0003  Ethernet Server Adapter X520-2\n\nC 02  Network controller\n\t10fb  Not this\n";
    fs::create_dir_all(root.path().join("usr/share/misc")).unwrap();
    fs::write(root.path().join("usr/share/misc/pci.ids"), ids).unwrap();
    root
}

fn run_line(root: &TempDir, line: &str) -> (String, Result<()>) {
    let words = std::iter::once("bind").chain(line.split_whitespace());
    let mut shown = String::new();
    let parsed = match Line::try_parse_from(words) {
        Ok(parsed) => parsed,
        Err(error) => return (shown, Err(error.into())),
    };
    let machine = Machine::at(root.path());
    let binder = Binder::with(machine.system(), root.path().join("run"), Obedient(root.path()));
    let done = run_in(&machine, &binder, &parsed.options, &mut shown);
    (shown, done)
}

fn driver(root: &TempDir, address: &str) -> Option<String> {
    let target = fs::read_link(root.path().join(format!("sys/bus/pci/devices/{address}/driver"))).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

#[test]
fn the_status_is_in_the_words_of_devbind() {
    let root = machine();
    let expected = "\
Network devices using DPDK-compatible driver
============================================
0000:00:05.0 '82599ES 10-Gigabit SFI/SFP+ Network Connection 10fb' numa_node=1 drv=uio_pci_generic unused=vfio-pci,igb_uio

Network devices using kernel driver
===================================
0000:00:03.0 'Virtio 1.0 network device 1041' if=eth0 drv=virtio-pci unused=vfio-pci,uio_pci_generic,igb_uio *Active*
0000:00:04.0 '82599ES 10-Gigabit SFI/SFP+ Network Connection 10fb' if=e?th1 drv=ixgbe unused=vfio-pci,uio_pci_generic,igb_uio

Other Network devices
=====================
0000:00:06.0 'Virtio 1.0 network device 1041' unused=vfio-pci,uio_pci_generic,igb_uio
";
    for line in ["", "status", "-s", "--status"] {
        let (shown, done) = run_line(&root, line);
        done.unwrap();
        assert_eq!(shown, expected, "{line:?}");
    }
    fs::remove_dir_all(root.path().join("usr")).unwrap();
    assert!(run_line(&root, "").0.contains("0000:00:06.0 'Device 1af4:1041' unused="));
    let empty = tempfile::tempdir().unwrap();
    assert!(run_line(&empty, "").0.starts_with("No 'Network' devices detected\n"));
}

#[test]
fn json_says_the_same_and_more() {
    let root = machine();
    let (shown, done) = run_line(&root, "--json");
    done.unwrap();
    let told: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let devices = told["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 4);
    let virtio = &devices[0];
    assert_eq!(virtio["address"], "0000:00:03.0");
    assert_eq!((&virtio["vendor"], &virtio["class"]), (&"1af4".into(), &"020000".into()));
    assert_eq!(
        (&virtio["driver"], &virtio["name"]),
        (&"virtio-pci".into(), &"Virtio 1.0 network device".into())
    );
    assert_eq!(virtio["interfaces"][0]["name"], "eth0");
    assert_eq!(virtio["interfaces"][0]["running"], true);
    assert_eq!(virtio["in_use"], "its interface eth0 has the address 192.0.2.2");
    assert_eq!(devices[2]["unused_drivers"][0], "vfio-pci");
    assert_eq!((&devices[2]["numa_node"], &devices[2]["taken"]), (&1.into(), &false.into()));
    assert!(devices[3]["driver"].is_null());
}

#[test]
fn devices_are_bound_and_given_back() {
    let root = machine();
    let (shown, done) = run_line(&root, "-b uio_pci_generic 00:04.0 0000:00:06.0 00:04.0 -s");
    done.unwrap();
    let expected = "0000:00:04.0: uio_pci_generic instead of ixgbe\n\
                    0000:00:06.0: uio_pci_generic instead of no driver\nNetwork devices using DPDK";
    assert!(shown.starts_with(expected), "{shown}");
    assert!(shown.ends_with(
        "\nTaken from their drivers: 0000:00:04.0 0000:00:06.0; wirerate bind --restore gives back\n"
    ));
    assert_eq!(driver(&root, "0000:00:04.0").unwrap(), "uio_pci_generic");
    let (shown, done) = run_line(&root, "--bind=uio_pci_generic 00:04.0");
    done.unwrap();
    assert_eq!(shown, "0000:00:04.0: uio_pci_generic as before\n");
    let (shown, done) = run_line(&root, "--restore");
    done.unwrap();
    assert_eq!(
        shown,
        "0000:00:04.0: ixgbe instead of uio_pci_generic\n0000:00:06.0: no driver instead of uio_pci_generic\n"
    );
    assert_eq!(
        (driver(&root, "0000:00:04.0").unwrap(), driver(&root, "0000:00:06.0")),
        ("ixgbe".into(), None)
    );
    assert!(run_line(&root, "--restore").0.starts_with("no device was taken"));

    for line in ["-u 00:04.0", "-b none 00:04.0"] {
        let (shown, done) = run_line(&root, line);
        done.unwrap();
        assert_eq!(shown, "0000:00:04.0: no driver instead of ixgbe\n");
        run_line(&root, "--restore 0000:00:04.0").1.unwrap();
        assert_eq!(driver(&root, "0000:00:04.0").unwrap(), "ixgbe");
    }
}

#[test]
fn one_that_is_refused_does_not_keep_the_others() {
    let root = machine();
    let (shown, done) = run_line(&root, "-b uio_pci_generic eth0 00:04.0");
    let error = done.unwrap_err();
    assert!(error.is::<Refused>());
    let text = error.to_string();
    assert!(
        text.starts_with("0000:00:03.0 is in use: its interface eth0 has the address 192.0.2.2; "),
        "{text}"
    );
    assert_eq!(shown, "0000:00:04.0: uio_pci_generic instead of ixgbe\n");
    assert_eq!(driver(&root, "0000:00:03.0").unwrap(), "virtio-pci");
    run_line(&root, "-b uio_pci_generic --force eth0").1.unwrap();
    assert_eq!(driver(&root, "0000:00:03.0").unwrap(), "uio_pci_generic");

    let error = run_line(&root, "-b igb_uio 00:06.0 00:04.0").1.unwrap_err().to_string();
    assert!(error.contains("; also 0000:00:04.0: ") && error.lines().count() == 1, "{error}");
    for (line, words) in [
        ("-b igb_uio 00:06.0", "igb_uio did not take it: no such device"),
        ("-b vfio-pci 00:06.0", "there is no IOMMU"),
        ("-b mlx5_core 00:06.0", "modprobe mlx5_core"),
    ] {
        let error = run_line(&root, line).1.unwrap_err();
        assert!(error.is::<Refused>() && error.to_string().contains(words), "{line}: {error}");
        assert_eq!(driver(&root, "0000:00:06.0"), None);
    }
}

#[test]
fn what_there_is_not_is_bad_input() {
    let root = machine();
    for (line, words) in [
        ("-b vfio-pci 00:09.0", "0000:00:09.0: there is no such PCI function"),
        ("-u eth7", "no device \"eth7\""),
        ("-u eth7", "eth0, e?th1"),
        ("--restore 00:04", "no device \"00:04\""),
        ("eth0", "what is to be done with eth0? Give --bind DRIVER, --unbind or --restore"),
        ("-s eth0", "what is to be done with eth0?"),
    ] {
        let (shown, done) = run_line(&root, line);
        let error = done.unwrap_err();
        assert!(!error.is::<Refused>() && error.to_string().contains(words), "{line}: {error}");
        assert_eq!(shown, "");
    }
    // A wrong one among right ones: nothing is done.
    assert!(run_line(&root, "-b uio_pci_generic 00:04.0 00:09.0").1.is_err());
    assert_eq!(driver(&root, "0000:00:04.0").unwrap(), "ixgbe");
    for line in ["-b vfio-pci", "-u", "-b", "-b vfio-pci -u 00:04.0", "--restore -u 00:04.0", "--no-such"] {
        assert!(run_line(&root, line).1.unwrap_err().is::<clap::Error>(), "{line}");
    }
}
