//! What `wirerate bind` shows: the devices in the sections and words of `dpdk-devbind.py --status`.

use std::fmt::Write;

use serde_json::{Value, json};
use wirerate_eal::pci::{self, Binder, DriverCandidates, KernelControl, PciDevice};

use super::names::Names;
use crate::machine::Machine;

/// A device, and what else is known of it.
struct Row {
    device: PciDevice,
    unused: Vec<String>,
    /// How this machine uses it, in words.
    used: Option<String>,
}

/// Network devices, and all others that are handed over to programs.
fn rows<K: KernelControl>(machine: &Machine, binder: &Binder<K>) -> Vec<Row> {
    let system = machine.system();
    let candidates = DriverCandidates::read(&system);
    let row = |device: PciDevice| {
        let used = binder.network_use(&device);
        Row { unused: candidates.unused(&device), used, device }
    };
    let shown = |device: &PciDevice| device.is_network() || device.is_handed_over();
    pci::scan(&system).into_iter().filter(shown).map(row).collect()
}

pub(super) fn as_text<K: KernelControl>(machine: &Machine, binder: &Binder<K>) -> String {
    let rows = rows(machine, binder);
    let devices: Vec<PciDevice> = rows.iter().map(|row| row.device.clone()).collect();
    let names = Names::of(machine, &devices);
    let mut text = String::new();
    let mut section = |title: &str, belongs: &dyn Fn(&PciDevice) -> bool| {
        let lines: Vec<String> =
            rows.iter().filter(|row| belongs(&row.device)).map(|row| line(row, &names)).collect();
        if !lines.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{gap}{title}\n{}\n{}", "=".repeat(title.len()), lines.join("\n"));
        }
    };
    section("Network devices using DPDK-compatible driver", &|device| {
        device.is_network() && device.is_handed_over()
    });
    section("Network devices using kernel driver", &|device| {
        device.is_network() && !device.is_handed_over() && device.driver.is_some()
    });
    section("Other Network devices", &|device| device.is_network() && device.driver.is_none());
    section("Other devices using DPDK-compatible driver", &|device| !device.is_network());
    if rows.is_empty() {
        text.push_str("No 'Network' devices detected\n=============================\n");
    }
    let taken: Vec<_> = binder.remembered().iter().map(ToString::to_string).collect();
    if !taken.is_empty() {
        let _ = writeln!(
            text,
            "\nTaken from their drivers: {}; wirerate bind --restore gives back",
            taken.join(" ")
        );
    }
    text
}

/// `0000:00:03.0 'Virtio network device 1041' if=eth0 drv=virtio-pci unused=vfio-pci *Active*`
fn line(row: &Row, names: &Names) -> String {
    let device = &row.device;
    let mut line = format!("{} '{}'", device.address, printable(&names.describe(device)));
    if let Some(node) = device.numa {
        line.push_str(&format!(" numa_node={node}"));
    }
    let interfaces: Vec<_> = device.interfaces.iter().map(|interface| printable(&interface.name)).collect();
    if device.driver.is_some() && !device.is_handed_over() {
        line.push_str(&format!(" if={}", interfaces.join(",")));
    }
    if let Some(driver) = &device.driver {
        line.push_str(&format!(" drv={driver}"));
    }
    line.push_str(&format!(" unused={}", row.unused.join(",")));
    if row.used.is_some() {
        line.push_str(" *Active*");
    }
    line
}

pub(super) fn as_json<K: KernelControl>(machine: &Machine, binder: &Binder<K>) -> Value {
    let rows = rows(machine, binder);
    let devices: Vec<PciDevice> = rows.iter().map(|row| row.device.clone()).collect();
    let names = Names::of(machine, &devices);
    let taken = binder.remembered();
    let devices: Vec<_> = rows
        .iter()
        .map(|Row { device, unused, used }| {
            let interfaces: Vec<_> = device
                .interfaces
                .iter()
                .map(|interface| {
                    let pci::PciInterface { name, up, running, uppers, .. } = interface;
                    json!({ "name": name, "up": up, "running": running, "carries": uppers })
                })
                .collect();
            json!({
                "address": device.address.to_string(),
                "vendor": format!("{:04x}", device.vendor),
                "device": format!("{:04x}", device.device),
                "subsystem_vendor": format!("{:04x}", device.subsystem_vendor),
                "subsystem_device": format!("{:04x}", device.subsystem_device),
                "class": format!("{:06x}", device.class),
                "revision": device.revision,
                "name": names.get(device),
                "numa_node": device.numa,
                "driver": device.driver,
                "unused_drivers": unused,
                "iommu_group": device.iommu_group,
                "uio": device.uio,
                "interfaces": interfaces,
                "in_use": used,
                "taken": taken.contains(&device.address),
            })
        })
        .collect();
    json!({ "devices": devices })
}

/// The kernel lets an interface's name have all but white space, slash and colon: no terminal should obey it.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
