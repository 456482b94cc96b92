//! The drivers by name. This is the one place that knows them all.

use wirerate_eal::Eal;
use wirerate_eal::pci::{self, OpenOptions, PciFunction, SelectedPci};

use super::error::did_you_mean;
use super::{DevArgs, Device, Opened, Port, PortError};
use crate::drivers;

/// A driver as the registry knows it.
#[derive(Debug)]
pub struct Driver {
    /// The name that devargs give it.
    pub name: &'static str,
    /// What it is, and its parameters.
    pub help: &'static str,
    open: Open,
}

/// How a driver opens a device.
type Open = fn(&Eal, DevArgs) -> Result<Box<dyn Device>, PortError>;

/// All drivers.
pub const DRIVERS: &[Driver] = &[
    Driver {
        name: "net_af_packet",
        help: "a Linux interface by packet sockets: iface=NAME, qpairs=N, blocksz=BYTES, framesz=BYTES, framecnt=N, qdisc_bypass=0|1, fanout_mode=hash|lb|cpu|rollover|rnd|qm",
        open: drivers::af_packet::open,
    },
    Driver {
        name: "net_null",
        help: "receives empty frames without end, sends into nothing: size=BYTES, copy=0|1, no-rx=0|1",
        open: drivers::null::open,
    },
    Driver {
        name: "net_pcap",
        help: "capture files: rx_pcap=FILE (one a queue), tx_pcap=FILE (one a queue), infinite_rx=0|1, snaplen=BYTES",
        open: drivers::pcap::open,
    },
    Driver {
        name: "net_ring",
        help: "a ring in memory: what is sent is received again: size=PACKETS",
        open: drivers::ring::open,
    },
    Driver {
        name: "net_vhost",
        help: "a virtio device for others to drive, over vhost-user: iface=PATH, queues=N, client=0|1, tso=0|1",
        open: drivers::vhost::open,
    },
    Driver {
        name: "net_virtio_user",
        help: "the driver of another process's virtio device, over vhost-user: path=PATH, server=0|1, queues=N, queue_size=N, mac=ADDRESS, mrg_rxbuf=0|1, in_order=0|1, packed_vq=0|1, cq=0|1, speed=MBPS",
        open: drivers::virtio::user::open,
    },
];

/// Opens the device that `devargs` describe as port number `id`.
///
/// # Errors
/// [`PortError`] says what is wrong with the devargs, or why the device cannot be opened.
pub fn open(eal: &Eal, id: u16, devargs: &str) -> Result<Port<Opened>, PortError> {
    let args = DevArgs::parse(devargs)?;
    let name = args.name().to_owned();
    let Some(driver) = DRIVERS.iter().find(|driver| driver.name == args.driver()) else {
        return Err(PortError::UnknownDriver {
            hint: did_you_mean(args.driver(), DRIVERS.iter().map(|driver| driver.name)),
            known: DRIVERS.iter().map(|driver| driver.name).collect::<Vec<_>>().join(", "),
            name,
        });
    };
    Ok(Port::new((driver.open)(eal, args)?, name, id))
}

/// A driver of devices on PCI.
#[derive(Debug)]
pub struct PciDriver {
    /// Its name.
    pub name: &'static str,
    /// What it is, and its parameters.
    pub help: &'static str,
    /// Vendor and device of what it drives.
    pub ids: &'static [(u16, u16)],
    kind: PciKind,
}

/// A driver is generic over how functions are reached, which no table of functions can hold.
#[derive(Debug)]
enum PciKind {
    Ixgbe,
    IxgbeVf,
    Virtio,
}

/// All drivers of devices on PCI.
pub const PCI_DRIVERS: &[PciDriver] = &[
    PciDriver {
        name: drivers::ixgbe::NAME,
        help: "an Intel 82599 10 Gigabit port: queues=N, queue_size=N",
        ids: &drivers::ixgbe::IDS,
        kind: PciKind::Ixgbe,
    },
    PciDriver {
        name: drivers::ixgbe::vf::NAME,
        help: "a virtual function of an Intel 82599: queues=N, queue_size=N",
        ids: &drivers::ixgbe::vf::IDS,
        kind: PciKind::IxgbeVf,
    },
    PciDriver {
        name: drivers::virtio::pci::NAME,
        help: "a virtio network device of virtio 1.0 and later: queues=N, queue_size=N, packed_vq=0|1, mrg_rxbuf=0|1, in_order=0|1, speed=MBPS",
        ids: &drivers::virtio::pci::IDS,
        kind: PciKind::Virtio,
    },
];

/// The driver of a PCI device, by its vendor's and its own number.
#[must_use]
pub fn pci_driver(vendor: u16, device: u16) -> Option<&'static PciDriver> {
    PCI_DRIVERS.iter().find(|driver| driver.ids.contains(&(vendor, device)))
}

/// Opens the PCI device `function` as port number `id`. `devargs` are its address and parameters, as in
/// `0000:00:03.0,queue_size=512`.
///
/// # Errors
/// [`PortError`] says what is wrong with the devargs, that nobody drives such a device, or why it cannot be opened.
pub fn open_pci<F: PciFunction>(
    eal: &Eal,
    id: u16,
    function: F,
    devargs: &str,
) -> Result<Port<Opened>, PortError> {
    open_function(eal, id, function, DevArgs::parse(devargs)?)
}

fn open_function<F: PciFunction>(
    eal: &Eal,
    id: u16,
    function: F,
    args: DevArgs,
) -> Result<Port<Opened>, PortError> {
    let name = args.name().to_owned();
    let identity = function.config_read(0);
    let (vendor, device) = (identity as u16, (identity >> 16) as u16);
    let Some(driver) = pci_driver(vendor, device) else {
        let problem = match identity {
            u32::MAX => "the device is gone: its registers read as all ones".to_owned(),
            _ => format!("no driver knows PCI device {vendor:04x}:{device:04x}"),
        };
        return Err(PortError::Configuration { device: name, problem });
    };
    let device = match driver.kind {
        PciKind::Ixgbe => drivers::ixgbe::open(eal, function, args)?,
        PciKind::IxgbeVf => drivers::ixgbe::vf::open(eal, function, args)?,
        PciKind::Virtio => drivers::virtio::pci::open(eal, function, args)?,
    };
    Ok(Port::new(device, name, id))
}

/// Opens the PCI devices that the environment's options select, then every device of `--vdev`, in order; their numbers
/// count up from 0.
///
/// A PCI device that was not asked for by `-a`, and that nobody drives or that cannot be opened, is passed over with a
/// word in the log.
///
/// # Errors
/// As [`open`] and [`open_pci`], and [`PortError::NameTaken`] when two have one name.
pub fn open_all(eal: &Eal) -> Result<Vec<Port<Opened>>, PortError> {
    let mut ports: Vec<Port<Opened>> = Vec::new();
    for selected in eal.pci_devices()? {
        let id = ports.len() as u16;
        match open_selected(eal, id, &selected) {
            Ok(port) => ports.push(port),
            Err(error) if selected.named => return Err(error),
            Err(error) => tracing::warn!("passed over: {error}"),
        }
    }
    for devargs in eal.vdevs() {
        let port = open(eal, ports.len() as u16, devargs)?;
        if ports.iter().any(|other| other.name() == port.name()) {
            return Err(PortError::NameTaken { name: port.name().to_owned() });
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Opens a PCI device by VFIO or UIO. Beside the parameters of its driver it takes `no_iommu=1`, for VFIO on machines
/// without an IOMMU.
fn open_selected(eal: &Eal, id: u16, selected: &SelectedPci) -> Result<Port<Opened>, PortError> {
    let SelectedPci { device, devargs, .. } = selected;
    let address = device.address;
    if pci_driver(device.vendor, device.device).is_none() {
        let problem = format!("no driver knows PCI device {:04x}:{:04x}", device.vendor, device.device);
        return Err(PortError::Configuration { device: address.to_string(), problem });
    }
    let comma = if devargs.is_empty() { "" } else { "," };
    let mut args = DevArgs::parse(&format!("{address}{comma}{devargs}"))?;
    let options = OpenOptions { no_iommu: args.take_flag("no_iommu")? };
    let function = pci::open(eal, address, &options)?;
    open_function(eal, id, function, args)
}
