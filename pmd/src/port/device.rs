//! What a driver has to offer: the control side of a device, and its queues.

use core::fmt;
use std::os::fd::BorrowedFd;

use super::{Counters, PortConfig, PortError, RssConfig, RssInfo};
use crate::net::MacAddress;
use crate::packet::{Burst, Offload};

/// What is fixed about a device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The driver's name, `net_ring` for instance.
    pub driver: &'static str,
    /// The most receive queues that it can have.
    pub max_rx_queues: u16,
    /// The most transmit queues that it can have.
    pub max_tx_queues: u16,
    /// The NUMA node that it is on, where that is known.
    pub numa: Option<u32>,
    /// The longest frame that it takes and gives, in bytes without the frame check sequence.
    pub max_frame: usize,
    /// Mbufs of the receive pool that the device itself holds for each receive queue, beside those in the
    /// application's hands: its ring's worth, or 0 when it copies.
    pub rx_held: Held,
    /// Mbufs that the device holds for each transmit queue.
    pub tx_held: Held,
    /// Whether the mbufs of the receive pool have to lie in memory that another process can map
    /// ([`MbufPoolConfig::shared`](crate::MbufPoolConfig::shared)).
    pub shared_pool: bool,
    /// The flags that the device can set on received packets, of its own accord or as
    /// [`PortConfig::rx_offloads`] allows.
    pub rx_offloads: Offload,
    /// Whether it can receive frames of chosen VLANs only ([`PortConfig::vlan_filter`]).
    pub vlan_filter: bool,
    /// How it can spread received packets over queues, if the application may say ([`Port::set_rss`](super::Port::set_rss)).
    pub rss: Option<RssInfo>,
    /// What the device can do while sending, at best. What a queue does at the moment is
    /// [`TxQueue::offloads`](super::TxQueue::offloads); software does the rest.
    pub tx_offloads: Offload,
}

impl DeviceInfo {
    /// A device of `driver` with `max_rx_queues` and `max_tx_queues`, frames of up to 64 KiB, no mbufs of
    /// its own, and no offloads.
    #[must_use]
    pub fn new(driver: &'static str, max_rx_queues: u16, max_tx_queues: u16) -> Self {
        Self {
            driver,
            max_rx_queues,
            max_tx_queues,
            numa: None,
            max_frame: usize::from(u16::MAX),
            rx_held: Held::Nothing,
            tx_held: Held::Nothing,
            shared_pool: false,
            vlan_filter: false,
            rss: None,
            rx_offloads: Offload::empty(),
            tx_offloads: Offload::empty(),
        }
    }
}

/// How many mbufs a device holds for a queue, in its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Held {
    /// None: it copies.
    #[default]
    Nothing,
    /// One for each descriptor of the configuration.
    Descriptors,
    /// So many, whatever the configuration says.
    Mbufs(usize),
}

impl Held {
    /// How many those are in a ring that was asked to have so many descriptors.
    #[must_use]
    pub fn mbufs(self, descriptors: u16) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Descriptors => usize::from(descriptors),
            Self::Mbufs(count) => count,
        }
    }
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether packets can pass.
    pub up: bool,
    /// Megabits a second, where that is known.
    pub speed: Option<u32>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.up, self.speed) {
            (false, _) => f.write_str("down"),
            (true, None) => f.write_str("up"),
            (true, Some(speed)) if speed % 1000 == 0 => write!(f, "up, {} Gb/s", speed / 1000),
            (true, Some(speed)) => write!(f, "up, {speed} Mb/s"),
        }
    }
}

/// A register of a device, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterValue {
    /// Its name in the device's datasheet, with an index where there are several.
    pub name: String,
    /// Bytes from the first register.
    pub offset: u64,
    /// What it holds.
    pub value: u32,
}

/// Counts that the device keeps itself, since its last reset.
#[derive(Debug, Clone, Default)]
pub struct DeviceStats {
    /// Packets lost before they were polled, beside those that the queues counted.
    pub missed: u64,
    /// What else it counts, by name.
    pub extended: Vec<(String, u64)>,
}

/// The queues of a started device, in order.
#[derive(Debug)]
pub struct DeviceQueues {
    /// Receive queues.
    pub rx: Vec<Box<dyn RxDriver>>,
    /// Transmit queues.
    pub tx: Vec<Box<dyn TxDriver>>,
}

/// The control side of a device, as its driver writes it. [`Port`](super::Port) keeps the order of calls:
/// `configure` before `start`, `start` and `stop` in turns, queues gone before `stop`.
pub trait Device: Send + fmt::Debug {
    /// What is fixed about the device.
    fn info(&self) -> DeviceInfo;

    /// Takes a configuration. Queue counts are within [`info`](Self::info)'s limits.
    ///
    /// # Errors
    /// [`PortError`] when the device cannot be so.
    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError>;

    /// Starts the device and gives out its queues, as many of each as were configured.
    ///
    /// # Errors
    /// [`PortError`] when the device does not start.
    fn start(&mut self) -> Result<DeviceQueues, PortError>;

    /// Stops the device; its queues are gone.
    ///
    /// # Errors
    /// [`PortError`] when the device does not stop.
    fn stop(&mut self) -> Result<(), PortError>;

    /// The state of the link.
    fn link(&self) -> Link;

    /// The station address.
    fn mac(&self) -> MacAddress;

    /// The largest payload of a frame, in bytes; 1500 for plain Ethernet.
    fn mtu(&self) -> usize {
        1500
    }

    /// Changes the station address.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can.
    fn set_mac(&mut self, _mac: MacAddress) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "a change of the MAC address" })
    }

    /// Changes the largest payload.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can.
    fn set_mtu(&mut self, _mtu: usize) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "a change of the MTU" })
    }

    /// Switches reception of frames for other stations on or off.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can.
    fn set_promiscuous(&mut self, _on: bool) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "promiscuous mode" })
    }

    /// Switches reception of all frames for several stations on or off.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can.
    fn set_all_multicast(&mut self, _on: bool) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "all-multicast mode" })
    }

    /// Receives frames for these stations and groups, beside its own, instead of those named before.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can, or for more than the device has room for.
    fn set_mac_filter(&mut self, _addresses: &[MacAddress]) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "a filter of MAC addresses" })
    }

    /// Receives frames of a VLAN, or not any more. `vlan` is below 4096, and [`PortConfig::vlan_filter`] is set.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can.
    fn set_vlan(&mut self, _vlan: u16, _on: bool) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "a VLAN filter" })
    }

    /// Spreads received packets so. It is within [`DeviceInfo::rss`], and names queues that the configuration has.
    ///
    /// # Errors
    /// [`PortError::Unsupported`] unless the driver can.
    fn set_rss(&mut self, _rss: &RssConfig) -> Result<(), PortError> {
        Err(PortError::Unsupported { what: "RSS" })
    }

    /// How received packets are spread: as the device says while it works, as it will be otherwise. None when they are not.
    fn rss(&self) -> Option<RssConfig> {
        None
    }

    /// The device's registers, as they are now, where it has some to show. Looking at them changes nothing.
    fn registers(&self) -> Vec<RegisterValue> {
        Vec::new()
    }

    /// What the device itself has counted.
    fn stats(&self) -> DeviceStats {
        DeviceStats::default()
    }

    /// Sets the device's own counts to zero.
    fn reset_stats(&mut self) {}
}

/// A receive queue, as its driver writes it.
pub trait RxDriver: Send + fmt::Debug {
    /// Adds received packets to `burst`, as many as it has room for and there are. The queue around it counts
    /// packets and bytes; the driver counts drops.
    fn rx_burst(&mut self, burst: &mut Burst, counters: &Counters);

    /// Whether nothing can ever come again: the end of a file.
    fn ended(&self) -> bool {
        false
    }

    /// A descriptor that becomes readable when packets wait, for those who sleep. It is the same for as long as
    /// the queue lives.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Asks the device to tell of packets by [`wait_fd`](Self::wait_fd), and says whether some wait already. What
    /// comes after this call makes the descriptor readable. A device that always tells has nothing to do.
    fn arm_wait(&mut self) -> bool {
        false
    }

    /// Takes that back: the queue is polled again, and need not be told.
    fn disarm_wait(&mut self) {}
}

/// A transmit queue, as its driver writes it.
pub trait TxDriver: Send + fmt::Debug {
    /// Takes packets off the front of `burst`, as many as the queue has room for, and counts those that it
    /// sends ([`Counters::passed`]) and those that cannot be sent, which it drops. What it leaves in the burst
    /// may be offered again.
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters);

    /// The `TX_*` flags that the queue does at the moment. Packets that ask for others do not get here: the queue
    /// around it has done those in software. May change between bursts, when a peer negotiates anew; what it says
    /// holds for the next call of [`tx_burst`](Self::tx_burst), so a queue whose peer changes its mind meanwhile
    /// drops what it cannot send.
    ///
    /// To do [`Offload::TX_TCP_SEGMENTATION`] includes the TCP checksums, of segments of packets over both IPv4 and
    /// IPv6.
    fn offloads(&self) -> Offload {
        Offload::empty()
    }
}
