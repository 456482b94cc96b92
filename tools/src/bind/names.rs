//! The names of PCI devices, from the list that `lspci` uses.

use std::collections::HashMap;

use wirerate_eal::pci::PciDevice;

use crate::machine::Machine;

/// Where distributions keep the list.
const LISTS: [&str; 3] = ["usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids", "usr/share/pci.ids"];

/// Names by vendor and device.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<(u16, u16), String>);

impl Names {
    /// Those of the devices that are asked for; none where there is no list.
    pub(super) fn of(machine: &Machine, devices: &[PciDevice]) -> Self {
        let list = LISTS.iter().find_map(|list| machine.text(list)).unwrap_or_default();
        let wanted = |ids: &(u16, u16)| devices.iter().any(|device| (device.vendor, device.device) == *ids);
        let mut names = HashMap::new();
        let mut vendor = None;
        for line in list.lines() {
            // A vendor at the start of a line, its devices below after a tab, theirs after two.
            let (device, rest) = match line.strip_prefix('\t') {
                Some(rest) => (true, rest),
                None => (false, line),
            };
            let read = || {
                let (id, name) = rest.split_once("  ")?;
                (id.len() == 4).then_some((u16::from_str_radix(id, 16).ok()?, name))
            };
            match (read(), device) {
                (Some((id, name)), true) => {
                    if let Some(ids) = vendor.map(|vendor| (vendor, id)).filter(wanted) {
                        names.insert(ids, name.trim().to_owned());
                    }
                }
                (Some((id, _)), false) => vendor = Some(id),
                // Classes come after the vendors, and have devices of another kind below.
                (None, false) if !line.starts_with('#') && !line.is_empty() => vendor = None,
                (None, _) => {}
            }
        }
        Self(names)
    }

    /// A device as `dpdk-devbind.py` writes it: its name and number, or both numbers.
    pub(super) fn describe(&self, device: &PciDevice) -> String {
        match self.get(device) {
            Some(name) => format!("{name} {:04x}", device.device),
            None => format!("Device {:04x}:{:04x}", device.vendor, device.device),
        }
    }

    pub(super) fn get(&self, device: &PciDevice) -> Option<&str> {
        self.0.get(&(device.vendor, device.device)).map(String::as_str)
    }
}
