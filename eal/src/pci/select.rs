//! Which PCI functions a program may use: `-a`, `-b`, `--no-pci`.

use std::fmt;
use std::str::FromStr;

use super::device::{self, PciDevice};
use super::{PciAddress, PciError};
use crate::options::EalOptions;
use crate::system::SystemRoot;

/// A PCI function by its address, and what its driver is told: `0000:00:03.0,key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevargs {
    /// The function.
    pub address: PciAddress,
    /// `key=value` pairs, divided by commas; empty for none. Their meaning is the driver's.
    pub arguments: String,
}

impl From<PciAddress> for PciDevargs {
    fn from(address: PciAddress) -> Self {
        Self { address, arguments: String::new() }
    }
}

impl fmt::Display for PciDevargs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = if self.arguments.is_empty() { "" } else { "," };
        write!(f, "{}{comma}{}", self.address, self.arguments)
    }
}

/// A text that names no PCI function. The text is one line, and says what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PciDevargsError(String);

impl FromStr for PciDevargs {
    type Err = PciDevargsError;

    /// Reads `0000:00:03.0`, `00:03.0,key=value`, or either after `pci:`, as DPDK does.
    fn from_str(text: &str) -> Result<Self, PciDevargsError> {
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let bare = name.strip_prefix("pci:").unwrap_or(name);
        match bare.parse() {
            Ok(address) => Ok(Self { address, arguments: arguments.to_owned() }),
            Err(_) if is_vdev(name) => {
                Err(PciDevargsError(format!("{name} is a virtual device, which --vdev makes: --vdev {text}")))
            }
            Err(error) => {
                let mut line = error.to_string();
                if let Some(meant) = meant(bare) {
                    line.push_str(&format!("; did you mean {meant}?"));
                } else {
                    line.push_str("; `wirerate bind` lists those that there are");
                }
                Err(PciDevargsError(line))
            }
        }
    }
}

/// Whether it looks like a driver's name with a number, as in `net_null0` or `eth_pcap0`.
fn is_vdev(name: &str) -> bool {
    name.contains('_') && name.starts_with(|first: char| first.is_ascii_alphabetic()) && !name.contains(':')
}

/// The address that was probably meant: with a colon for the point, or without its function.
fn meant(name: &str) -> Option<PciAddress> {
    let point_for_colon = name.rsplit_once(':').map(|(rest, function)| format!("{rest}.{function}"));
    let with_function = format!("{name}.0");
    // With three numbers and no point, the last is taken for the function where it can be one.
    let candidates = match name.matches(':').count() {
        2 if name.starts_with("0000:") => [Some(with_function), point_for_colon],
        _ => [point_for_colon, Some(with_function)],
    };
    candidates.into_iter().flatten().find_map(|text| text.parse().ok())
}

/// A PCI function that a program may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelectedPci {
    /// The function.
    pub device: PciDevice,
    /// What its driver is told: `key=value` pairs, divided by commas; mostly empty.
    pub devargs: String,
    /// Whether it was asked for by its address (`-a`). It is an error then when it cannot be used; one that was merely
    /// found can be passed over.
    pub named: bool,
}

/// DPDK programs are told to use no PCI device by `-a 0000:00:00.0`, where a host bridge is, or nothing.
const NO_DEVICE: Option<PciAddress> = PciAddress::new(0, 0, 0, 0);

/// The functions that `options` select on the machine under `root`, by address, or in the order of `-a`.
///
/// # Errors
/// [`PciError::NotFound`] when one that was named is not there.
pub fn select(root: &SystemRoot, options: &EalOptions) -> Result<Vec<SelectedPci>, PciError> {
    if options.no_pci {
        return Ok(Vec::new());
    }
    if options.allow.is_empty() {
        let blocked =
            |device: &PciDevice| options.block.iter().any(|blocked| blocked.address == device.address);
        return Ok(device::scan(root)
            .into_iter()
            .filter(|device| device.is_handed_over() && !blocked(device))
            .map(|device| SelectedPci { device, devargs: String::new(), named: false })
            .collect());
    }
    let mut selected: Vec<SelectedPci> = Vec::new();
    for allowed in &options.allow {
        let device = match device::find(root, allowed.address) {
            Ok(device) if Some(allowed.address) == NO_DEVICE && !device.is_network() => continue,
            Err(PciError::NotFound { address }) if Some(address) == NO_DEVICE => continue,
            found => found?,
        };
        let devargs = allowed.arguments.clone();
        // As in DPDK, what is said last of a function counts.
        match selected.iter_mut().find(|known| known.device.address == allowed.address) {
            Some(known) => known.devargs = devargs,
            None => selected.push(SelectedPci { device, devargs, named: true }),
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::device::tests::Tree;
    use super::*;

    const NIC: &str = "0x020000";
    const VIRTIO: [&str; 2] = ["0x1af4", "0x1041"];

    fn machine() -> Tree {
        let tree = Tree::new();
        tree.function("0000:00:00.0", ["0x8086", "0x1237"], "0x060000", None);
        tree.function("0000:00:03.0", VIRTIO, NIC, Some("vfio-pci"));
        tree.function("0000:00:04.0", VIRTIO, NIC, Some("virtio-pci"));
        tree.function("0000:00:05.0", VIRTIO, NIC, Some("uio_pci_generic"));
        tree
    }

    fn selected(tree: &Tree, line: &str) -> Result<Vec<String>, PciError> {
        let (options, _) = EalOptions::parse_from(line.split_whitespace()).unwrap();
        let list = select(&tree.root(), &options)?;
        let told = |one: SelectedPci| {
            assert_eq!(one.named, line.contains("-a"));
            PciDevargs { address: one.device.address, arguments: one.devargs }.to_string()
        };
        Ok(list.into_iter().map(told).collect())
    }

    #[test]
    fn options_select_functions() {
        let tree = machine();
        for (line, expected) in [
            ("", &["0000:00:03.0", "0000:00:05.0"][..]),
            ("--no-pci", &[]),
            ("-b 00:03.0", &["0000:00:05.0"]),
            ("-b 00:03.0 -b 0000:00:05.0 -b 7f:00.0", &[]),
            ("-a 00:05.0,a=1,b=2 -a 00:03.0", &["0000:00:05.0,a=1,b=2", "0000:00:03.0"]),
            ("-a pci:0000:00:04.0", &["0000:00:04.0"]),
            ("-a 00:03.0,a=1 -a 0000:00:03.0,a=2", &["0000:00:03.0,a=2"]),
            ("-a 00:03.0 --no-pci", &[]),
            ("-a 0000:00:00.0", &[]),
            ("-a 0:0.0 -a 00:03.0", &["0000:00:03.0"]),
        ] {
            assert_eq!(selected(&tree, line).unwrap(), expected, "{line}");
        }
        assert_eq!(selected(&Tree::new(), "-a 0000:00:00.0").unwrap(), [""; 0]);
        let error = selected(&tree, "-a 00:03.0 -a 00:09.0").unwrap_err().to_string();
        assert!(error.starts_with("0000:00:09.0: there is no such PCI function"), "{error}");
        // Where a network device is in that place, it is meant.
        let tree = Tree::new();
        tree.function("0000:00:00.0", VIRTIO, NIC, Some("vfio-pci"));
        assert_eq!(selected(&tree, "-a 0000:00:00.0").unwrap(), ["0000:00:00.0"]);
    }

    #[test]
    fn what_names_no_function_is_told_with_what_was_meant() {
        for (text, words) in [
            ("net_null0", "net_null0 is a virtual device, which --vdev makes: --vdev net_null0"),
            ("net_pcap0,iface=lo", "--vdev net_pcap0,iface=lo"),
            ("01:00:0", "did you mean 0000:01:00.0?"),
            ("0000:01:00", "did you mean 0000:01:00.0?"),
            ("0000:01:00:1", "did you mean 0000:01:00.1?"),
            ("01:00", "did you mean 0000:01:00.0?"),
            ("eth0", "`wirerate bind` lists those that there are"),
            ("", "`wirerate bind` lists those that there are"),
            ("pci:", "is no PCI address"),
        ] {
            let error = text.parse::<PciDevargs>().unwrap_err().to_string();
            assert!(error.contains(words) && error.lines().count() == 1, "{text}: {error}");
        }
    }
}
