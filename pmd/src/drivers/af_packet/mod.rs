//! `net_af_packet`: a network interface of Linux, through packet sockets with memory-mapped rings.
//!
//! It needs no driver of its own for the hardware and no kernel bypass: whatever Linux can send and receive by,
//! this can. It needs `CAP_NET_RAW`.
//!
//! | parameter | |
//! |---|---|
//! | `iface` | the interface, in the network namespace of the thread that opens and starts the port |
//! | `qpairs` | the most queue pairs that the port may be configured with; 1 unless given |
//! | `blocksz` | bytes in a block of a ring, a multiple of the page size; as many as a slot needs unless given |
//! | `framesz` | bytes in a slot, a multiple of 16; 2048 unless given, or more where the MTU needs it |
//! | `framecnt` | slots in each ring; the port's number of descriptors unless given |
//! | `qdisc_bypass` | 0: sent frames go through the interface's queueing discipline; 1 unless given |
//! | `fanout_mode` | how frames are shared out over queues: `hash`, `lb`, `cpu`, `rollover`, `rnd`, `qm`; `hash` unless given |
//!
//! **Rings.** Both directions are TPACKET_V2: the kernel hands over each frame as it comes, by a status word in
//! the frame's slot. TPACKET_V3 packs frames of any length into blocks, but hands over a block only when it is
//! full or its timer (in milliseconds) has run out, which saves wake-ups of a process that sleeps; a poll loop
//! has none to save, and would pay the wait with every packet.
//!
//! **Frames are handed on as they are on the wire.** The kernel takes VLAN tags out and leaves checksums of
//! local senders to hardware; here tags are put back, and checksums are finished in software, so that TCP
//! through a veth works as it is found (DPDK needs `ethtool -K ... tx off` on the far end). Fragments are not
//! put together on the way. Frames that were merged (GRO, TSO) and do not fit a slot are dropped as
//! `rx_too_long`, and the log says once what to switch off.
//!
//! **Sending.** Packets are copied into the ring and the kernel is told once a burst. The queueing discipline is
//! passed by unless `qdisc_bypass=0` (the other way round in DPDK): a forwarder's queues are its own, and
//! another one behind them costs time and hides its drops. Frames that the kernel refuses stop its ring
//! (`PACKET_LOSS`, which makes it skip them in silence, is not used), so each is counted and taken out.
//!
//! **Several queues** are sockets in one `PACKET_FANOUT` group. Only as many sockets receive as the port has
//! receive queues.

mod interface;
mod options;
mod ring;
mod rx;
mod socket;
mod tx;

use core::sync::atomic::{AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use wirerate_eal::Eal;

use self::interface::Interface;
use self::options::Options;
use self::rx::Rx;
use self::socket::{Failed, Shared, Socket, SocketConfig, bind_all, packet_socket, set_promiscuous};
use self::tx::Tx;
use crate::net::MacAddress;
use crate::port::{
    DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, Link, PortConfig, PortError, RxDriver, TxDriver,
};

/// Bytes that a frame may have beside its payload: Ethernet header and one VLAN tag.
const LINK_OVERHEAD: usize = 14 + 4;

/// Opens a `net_af_packet` device.
///
/// # Errors
/// [`PortError`] when a parameter cannot be, when there is no such interface or it is no Ethernet, or when the
/// program may not open packet sockets.
pub fn open(_eal: &Eal, args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    let options = Options::take(args)?;
    let system = |action: String, source| PortError::system(options.device.clone(), action, source);
    let interface = Interface::new(&options.iface)
        .map_err(|source| system(format!("ask about interface {}", options.iface), source))?;
    let index = interface.index().map_err(|source| missing(&options, source))?;
    let (kind, _) = interface
        .hardware()
        .map_err(|source| system(format!("read the hardware address of {}", options.iface), source))?;
    if kind != libc::ARPHRD_ETHER && kind != libc::ARPHRD_LOOPBACK {
        let problem = format!("interface \"{}\" is no Ethernet (its link type is {kind})", options.iface);
        return Err(PortError::Configuration { device: options.device, problem });
    }
    let mtu =
        interface.mtu().map_err(|source| system(format!("read the MTU of {}", options.iface), source))?;
    let membership = packet_socket().map_err(|source| failed(&options.device, Failed::opening(source)))?;
    Ok(Box::new(AfPacket {
        shared: Arc::new(Shared::new(interface, mtu)),
        options,
        index,
        membership,
        promiscuous: false,
        config: None,
        running: Vec::new(),
        slot_mtu: None,
        missed: AtomicU64::new(0),
        unfinished_before: 0,
    }))
}

/// The error for an interface that cannot be found.
fn missing(options: &Options, source: io::Error) -> PortError {
    if source.raw_os_error() != Some(libc::ENODEV) {
        return PortError::system(
            options.device.clone(),
            format!("look up interface {}", options.iface),
            source,
        );
    }
    let problem = format!(
        "no interface is called \"{}\" in this network namespace; there are {}",
        options.iface,
        interface::all_names().join(", ")
    );
    PortError::Configuration { device: options.device.clone(), problem }
}

/// The error for a step that failed, with what would mend it.
fn failed(device: &str, Failed { action, source }: Failed) -> PortError {
    let remedy = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; it needs CAP_NET_RAW: run as root, or give it to the program by `setcap cap_net_raw,cap_net_admin+ep \
             PROGRAM`"
        }
        Some(libc::ENOMEM) => {
            "; the rings are more than there is memory for: give a smaller framecnt or framesz"
        }
        _ => "",
    };
    PortError::System {
        device: device.to_owned(),
        action: action.to_owned(),
        source,
        remedy: remedy.to_owned(),
    }
}

/// A port over one interface.
#[derive(Debug)]
struct AfPacket {
    options: Options,
    shared: Arc<Shared>,
    /// The interface's number.
    index: libc::c_int,
    /// Holds the promiscuous membership, which ends with it.
    membership: OwnedFd,
    promiscuous: bool,
    config: Option<PortConfig>,
    /// The sockets that receive, while the port runs.
    running: Vec<Arc<Socket>>,
    /// The MTU that the slots were made for, while the port runs.
    slot_mtu: Option<usize>,
    /// Frames that the kernel dropped because a ring was full: the kernel forgets them when it is asked.
    missed: AtomicU64,
    /// Checksums that could not be finished before the last reset.
    unfinished_before: u64,
}

impl AfPacket {
    fn system(&self, action: String, source: io::Error) -> PortError {
        let denied = matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES));
        let remedy = if denied { "; it needs CAP_NET_ADMIN: run as root" } else { "" };
        PortError::System { device: self.options.device.clone(), action, source, remedy: remedy.to_owned() }
    }

    /// Asks the kernel for the drops that it counted since it was last asked.
    fn collect_missed(&self) -> u64 {
        let new = self.running.iter().filter_map(|socket| socket.missed().ok()).sum();
        self.missed.fetch_add(new, Ordering::Relaxed) + new
    }

    /// What is worth knowing about the interface before frames are missed.
    fn warn(&self) {
        let interface = &self.shared.interface;
        let (device, name) = (&self.options.device, interface.name());
        if !interface.is_up() {
            tracing::warn!("{device}: {name} is down; switch it on by `ip link set {name} up`");
        }
        if interface.merges_frames() {
            tracing::warn!(
                "{device}: {name} merges received frames; those that get longer than its MTU are dropped as \
                 rx_too_long; switch that off by `ethtool -K {name} gro off lro off`"
            );
        }
    }
}

impl Device for AfPacket {
    fn info(&self) -> DeviceInfo {
        let pairs = self.options.qpairs;
        let mut info = DeviceInfo::new("net_af_packet", pairs, pairs);
        info.max_frame = self.mtu() + LINK_OVERHEAD;
        info.tx_offloads = tx::OFFLOADS;
        info
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        if let Some(mtu) = config.mtu {
            self.set_mtu(mtu)?;
        }
        let mtu = self.shared.look_up_mtu();
        for descriptors in [config.rx_descriptors, config.tx_descriptors] {
            self.options.ring(mtu, descriptors)?;
        }
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let mut queues = DeviceQueues { rx: Vec::new(), tx: Vec::new() };
        let Some(config) = self.config.clone() else { return Ok(queues) };
        // The interface may have been replaced by another one of the same name.
        self.index = self.shared.interface.index().map_err(|source| missing(&self.options, source))?;
        let mtu = self.shared.look_up_mtu();
        let (rx, tx) =
            (self.options.ring(mtu, config.rx_descriptors)?, self.options.ring(mtu, config.tx_descriptors)?);
        let device = self.options.device.clone();
        let mut pairs = Vec::new();
        for number in 0..config.rx_queues.max(config.tx_queues) {
            let socket = SocketConfig {
                rx: (number < config.rx_queues).then_some(rx),
                tx: (number < config.tx_queues).then_some(tx),
                qdisc_bypass: self.options.qdisc_bypass,
            };
            pairs.push(Socket::with_rings(&self.shared, &socket).map_err(|error| failed(&device, error))?);
        }
        self.set_promiscuous(config.promiscuous)?;
        self.warn();
        bind_all(&pairs, usize::from(config.rx_queues), self.index, self.options.fanout)
            .map_err(|error| failed(&device, error))?;
        for pair in pairs {
            if let Some((slots, pool)) = pair.rx.zip(config.pool.clone()) {
                self.running.push(Arc::clone(&pair.socket));
                queues.rx.push(Box::new(Rx::new(slots, pool, Arc::clone(&pair.socket))) as Box<dyn RxDriver>);
            }
            if let Some(slots) = pair.tx {
                queues.tx.push(Box::new(Tx::new(slots, pair.socket)) as Box<dyn TxDriver>);
            }
        }
        self.slot_mtu = Some(mtu);
        Ok(queues)
    }

    fn stop(&mut self) -> Result<(), PortError> {
        self.collect_missed();
        self.running.clear();
        self.slot_mtu = None;
        Ok(())
    }

    fn link(&self) -> Link {
        Link { up: self.shared.interface.is_running(), speed: self.shared.interface.speed() }
    }

    fn mac(&self) -> MacAddress {
        self.shared.interface.hardware().map(|(_, mac)| mac).unwrap_or_default()
    }

    fn mtu(&self) -> usize {
        self.shared.mtu()
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        let name = self.shared.interface.name();
        self.shared
            .interface
            .set_mac(mac)
            .map_err(|source| self.system(format!("give {name} the address {mac}"), source))
    }

    fn set_mtu(&mut self, mtu: usize) -> Result<(), PortError> {
        if let Some(most) = self.slot_mtu {
            let config = self.config.as_ref().map_or(1, |config| config.rx_descriptors);
            if self.options.ring(mtu, config)?.slot_size > self.options.ring(most, config)?.slot_size {
                let problem = format!(
                    "the slots of the running port hold no frames of MTU {mtu}; stop it, set the MTU, start it"
                );
                return Err(PortError::Configuration { device: self.options.device.clone(), problem });
            }
        } else {
            self.options.ring(mtu, 1)?;
        }
        let name = self.shared.interface.name();
        if self.shared.interface.mtu().ok() != Some(mtu) {
            self.shared
                .interface
                .set_mtu(mtu)
                .map_err(|source| self.system(format!("give {name} an MTU of {mtu}"), source))?;
        }
        self.shared.look_up_mtu();
        Ok(())
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        if self.promiscuous != on {
            let verb = if on { "on" } else { "off" };
            set_promiscuous(self.membership.as_fd(), self.index, on).map_err(|source| {
                self.system(format!("switch promiscuous mode of {} {verb}", self.options.iface), source)
            })?;
            self.promiscuous = on;
        }
        Ok(())
    }

    fn stats(&self) -> DeviceStats {
        let unfinished = self.shared.unfinished_checksums() - self.unfinished_before;
        DeviceStats {
            missed: self.collect_missed(),
            extended: vec![("rx_unfinished_checksums".to_owned(), unfinished)],
        }
    }

    fn reset_stats(&mut self) {
        self.collect_missed();
        self.missed.store(0, Ordering::Relaxed);
        self.unfinished_before = self.shared.unfinished_checksums();
    }
}
