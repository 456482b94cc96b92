//! `net_virtio`: the driver of virtio network devices on PCI, of virtio 1.0 and later (virtio 1.2, 4.1).
//!
//! Rings and packets are mapped for the device, so packets are not copied; those of other pools are. What the device
//! writes into rings and registers is checked. It is reset before memory is given back, on every way out; when it is gone
//! by itself, its receive queues [end](crate::RxQueue::ended) and other ports go on.
//!
//! | parameter | |
//! |---|---|
//! | `queues` | the most pairs of queues, 1 to 128; one for each lcore unless given, and never more than the device has |
//! | `queue_size` | descriptors in each ring, 2 to 32768, or what the device has if that is less; as the port is configured, up to 1024, unless given |
//! | `packed_vq` | 1: packed rings or none, 0: split rings; packed if the device offers them unless given |
//! | `mrg_rxbuf` | 0: a received packet lies in one buffer; 1 unless given |
//! | `in_order` | 0: the device may use buffers in any order; 1 unless given |
//! | `speed` | the link's speed in Mb/s, as shown; the device's unless given |
//!
//! | file | |
//! |---|---|
//! | `capability` | where registers are |
//! | `common` | what they mean, and resets |
//! | `config` | what the device says of itself |
//! | `control` | commands |
//! | `wishes` | what it has to be told again after a reset |
//! | `unit` | a device, brought up and at rest |
//! | `shared`, `watch` | what becomes of it while nobody calls |

mod capability;
mod common;
mod config;
mod control;
mod error;
mod options;
mod shared;
mod unit;
mod watch;
mod wishes;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wirerate_eal::Eal;
use wirerate_eal::pci::PciFunction;

use self::control::Command;
pub use self::error::VirtioPciError;
use self::options::Options;
use self::shared::Shared;
use self::unit::{Mappings, Plan, Unit};
use self::watch::Watch;
use self::wishes::Wishes;
use super::pairs::check_room;
use super::rings::RingMemory;
use super::state::{self, VirtioLanes};
use crate::lane::Lanes;
use crate::net::MacAddress;
use crate::packet::Offload;
use crate::port::{
    DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, Held, Link, PortConfig, PortError, RssConfig,
};
use crate::virtqueue::{Features, net_offload};

/// The driver's name, DPDK's.
pub const NAME: &str = "net_virtio";

/// What the devices are known by: vendor and device (virtio 1.2, 4.1.2). The first is of virtio 1.0; the second may be.
pub const IDS: [(u16, u16); 2] =
    [(common::VENDOR, common::MODERN_NET), (common::VENDOR, common::TRANSITIONAL_NET)];

#[derive(Debug)]
struct VirtioPci<F: PciFunction> {
    /// Ends before the rest goes.
    watch: Option<Watch>,
    options: Options,
    /// What does not change while the device is open.
    info: DeviceInfo,
    offered: Features,
    /// The most descriptors in a ring.
    most: u16,
    memory: Arc<RingMemory>,
    config: Option<PortConfig>,
    wishes: Wishes,
    shared: Arc<Shared<F>>,
}

/// Opens the device `function`, called and parametrised by `args`.
///
/// # Errors
/// [`PortError`] when a parameter is unknown or out of range, the device cannot be driven, or there is no memory for
/// its rings.
pub fn open<F: PciFunction>(eal: &Eal, function: F, args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    let (name, options) = Options::take(args)?;
    let problem = |problem: String| PortError::Configuration { device: name.clone(), problem };
    let unit = Unit::open(&name, function).map_err(|error| problem(error.to_string()))?;
    let offered = unit.offered.consistent();
    if options.packed == Some(true) && !offered.contains(Features::RING_PACKED) {
        return Err(problem("it does not offer packed rings (packed_vq=1)".to_owned()));
    }
    let lcores = u16::try_from(eal.lcores().len()).unwrap_or(u16::MAX);
    let pairs = unit.config.pairs.min(options.queues.unwrap_or(lcores)).max(1);
    let most = options.most(unit.largest);
    // One more for commands.
    let memory = RingMemory::reserve(eal, &name, 2 * pairs + 1, most.max(64), false)
        .map_err(|error| problem(error.to_string()))?;

    let mut info = DeviceInfo::new(NAME, pairs, pairs);
    info.rx_held = Held::Mbufs(most.into());
    info.tx_held = Held::Mbufs(most.into());
    info.vlan_filter = offered.contains(Features::CTRL_VLAN);
    info.rss = unit.config.rss.filter(|_| offered.contains(Features::RSS) && pairs > 1);
    info.rx_offloads = Offload::RX_L4_CHECKSUM_GOOD
        | Offload::RX_LRO
        | Offload::TX_TCP_CHECKSUM
        | Offload::TX_UDP_CHECKSUM
        | Offload::TX_TCP_SEGMENTATION;
    info.tx_offloads = net_offload::to_device(offered);
    let number = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let config = unit.config;
    let shared = Arc::new(Shared::new(name.clone(), MacAddress::local(number), unit));
    shared.state.learn(offered, config.mac, config.mtu, false);
    let mut port = VirtioPci {
        watch: None,
        options,
        info,
        offered,
        most,
        memory: Arc::new(memory),
        config: None,
        wishes: Wishes::default(),
        shared,
    };
    port.watch_at_rest()?;
    Ok(Box::new(port))
}

impl<F: PciFunction> VirtioPci<F> {
    fn problem(&self, problem: &impl ToString) -> PortError {
        PortError::Configuration { device: self.shared.name.clone(), problem: problem.to_string() }
    }

    fn watch_at_rest(&mut self) -> Result<(), PortError> {
        let error = |source| PortError::system(&self.shared.name, "watching the device", source);
        self.watch = Watch::begin(&self.shared, None).map_err(error)?;
        Ok(())
    }

    /// What to ask the device for.
    fn wanted(&self, config: &PortConfig) -> Features {
        let mut wanted = state::wanted(config, self.options.mergeable, self.options.in_order)
            | Features::CTRL_RX
            | Features::CTRL_MAC_ADDR
            | Features::GUEST_ANNOUNCE
            | Features::RSS
            | Features::SPEED_DUPLEX;
        wanted.set(Features::RING_PACKED, self.options.packed != Some(false));
        // A device with this feature drops frames of all VLANs that it was not told of.
        wanted.set(Features::CTRL_VLAN, config.vlan_filter);
        wanted
    }

    fn plan(&self) -> Result<Plan, PortError> {
        let config = self.config.as_ref().ok_or_else(|| self.problem(&"it was not configured"))?;
        let pool = config.pool.clone().ok_or_else(|| self.problem(&"it has no pool"))?;
        let size =
            |asked: u16| self.options.queue_size.map_or(asked, |_| self.most).clamp(2, self.most.max(2));
        Ok(Plan {
            wanted: self.wanted(config),
            receives: config.rx_queues,
            sends: config.tx_queues,
            rx_size: size(config.rx_descriptors),
            tx_size: size(config.tx_descriptors),
            memory: Arc::clone(&self.memory),
            pool,
            copied: self.shared.state.copied(),
        })
    }

    /// Brings the device up with rings in `lanes`.
    fn bring_up(&mut self, plan: &Plan, lanes: &VirtioLanes) -> Result<(), VirtioPciError> {
        let mut guard = self.shared.unit();
        let unit = guard.as_mut().ok_or(VirtioPciError::Gone)?;
        let features = unit.start(plan, lanes)?;
        unit.tell(&self.wishes, plan)?;
        let now = unit.now()?;
        self.shared.state.begin(features, lanes);
        // Buffers were posted before the device could be told.
        lanes.rx.iter().for_each(|lane| lane.with(|rx| rx.into_iter().for_each(|rx| rx.kick())));
        self.shared.state.set_up(now.up);
        self.shared.note(unit, now, &plan.pool);
        tracing::info!("{}: started, features {:#x}", self.shared.name, features.bits());
        Ok(())
    }

    /// Takes the device down, whether it is up, half up, or gone.
    fn take_down(&mut self) {
        self.watch = None;
        if let Some(unit) = self.shared.unit().as_mut() {
            self.shared.halt(unit);
        }
        self.shared.state.set_lanes(Lanes::default());
    }

    /// Has a device that works carry out a command, where it has agreed to `feature`. One that is at rest is told when it
    /// is started, if it offers that.
    fn command(&self, feature: Features, what: &'static str, command: Command<'_>) -> Result<(), PortError> {
        let mut guard = self.shared.unit();
        let unit = guard.as_mut().ok_or_else(|| self.problem(&VirtioPciError::Gone))?;
        if !unit.features().unwrap_or(self.offered).contains(feature) {
            return Err(PortError::Unsupported { what });
        }
        match unit.features() {
            Some(_) => unit.command(command).map_err(|error| self.problem(&error)),
            None => Ok(()),
        }
    }
}

impl<F: PciFunction> Device for VirtioPci<F> {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        let Some(pool) = &config.pool else {
            return Err(self.problem(
                &"the memory of its packets is mapped for the device, and the configuration has no pool: give it one also when \
                 it only sends",
            ));
        };
        check_room(&self.shared.name, pool)?;
        let most = self.shared.state.mtu();
        if let Some(mtu) = config.mtu.filter(|mtu| self.offered.contains(Features::MTU) && *mtu > most) {
            return Err(self.problem(&format!("an MTU of {mtu}, and the device takes up to {most}")));
        }
        let mut guard = self.shared.unit();
        let unit = guard.as_mut().ok_or_else(|| self.problem(&VirtioPciError::Gone))?;
        // What was mapped before goes first: the device is at rest.
        unit.mappings = None;
        let mappings = Mappings::new(&*unit.function.dma(), &self.memory, pool);
        unit.mappings = Some(mappings.map_err(|error| self.problem(&error))?);
        drop(guard);
        self.wishes.promiscuous = Some(config.promiscuous);
        // One that names queues which are no more does not stay.
        let fits =
            |rss: &RssConfig| self.info.rss.is_some_and(|info| rss.problem(info, config.rx_queues).is_none());
        self.wishes.rss = self.wishes.rss.take().filter(fits);
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let plan = self.plan()?;
        self.watch = None;
        let lanes = VirtioLanes::new(&self.shared.name, plan.receives.max(plan.sends))?;
        self.shared.state.set_lanes(lanes.clone());
        let started = self.bring_up(&plan, &lanes).map_err(|error| self.problem(&error));
        let watched = started.and_then(|()| {
            let watch = Watch::begin(&self.shared, Some(plan.pool.clone()));
            watch.map_err(|source| PortError::system(&self.shared.name, "watching the device", source))
        });
        match watched {
            Ok(watch) => self.watch = watch,
            Err(error) => {
                self.take_down();
                return Err(error);
            }
        }
        Ok(lanes.queues(plan.receives, plan.sends, self.shared.state.can()))
    }

    fn stop(&mut self) -> Result<(), PortError> {
        self.take_down();
        self.watch_at_rest()
    }

    fn link(&self) -> Link {
        let told = Some(self.shared.speed.load(Ordering::Relaxed)).filter(|speed| *speed > 0);
        self.shared.state.link(self.options.speed.or(told))
    }

    fn mac(&self) -> MacAddress {
        self.shared.state.mac()
    }

    fn mtu(&self) -> usize {
        self.shared.state.mtu()
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        self.command(Features::CTRL_MAC_ADDR, "a change of the MAC address", Command::Address(mac))?;
        self.wishes.mac = Some(mac);
        self.shared.state.set_mac(mac);
        Ok(())
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        self.command(Features::CTRL_RX, "promiscuous mode", Command::Promiscuous(on))?;
        self.wishes.promiscuous = Some(on);
        Ok(())
    }

    fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        self.command(Features::CTRL_RX, "all-multicast mode", Command::AllMulticast(on))?;
        self.wishes.all_multicast = on;
        Ok(())
    }

    fn set_mac_filter(&mut self, addresses: &[MacAddress]) -> Result<(), PortError> {
        if !wishes::has_room(addresses) {
            return Err(PortError::Unsupported { what: "a filter of more than 64 MAC addresses of a kind" });
        }
        self.command(Features::CTRL_RX, "a filter of MAC addresses", Command::Filter(addresses))?;
        self.wishes.addresses = addresses.to_vec();
        Ok(())
    }

    fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        self.command(Features::CTRL_VLAN, "a VLAN filter", Command::Vlan(vlan, on))?;
        if on {
            self.wishes.vlans.insert(vlan);
        } else {
            self.wishes.vlans.remove(&vlan);
        }
        Ok(())
    }

    fn set_rss(&mut self, rss: &RssConfig) -> Result<(), PortError> {
        let pairs = self.config.as_ref().map_or(1, |config| config.rx_queues.max(config.tx_queues));
        self.command(Features::RSS, "RSS", Command::Rss(rss, pairs))?;
        self.wishes.rss = Some(rss.clone());
        Ok(())
    }

    fn rss(&self) -> Option<RssConfig> {
        let queues = self.config.as_ref().map_or(0, |config| config.rx_queues);
        let info = self.info.rss.filter(|_| queues > 1)?;
        Some(self.wishes.rss.clone().unwrap_or_else(|| RssConfig::even(info, queues)))
    }

    fn stats(&self) -> DeviceStats {
        let shared = &self.shared;
        let mut extended = shared.state.counts();
        for (name, count) in [
            ("virtio_needs_reset", &shared.broken),
            ("virtio_link_changes", &shared.link_changes),
            ("virtio_announcements", &shared.announced),
        ] {
            extended.push((name.to_owned(), count.load(Ordering::Relaxed)));
        }
        DeviceStats { missed: 0, extended }
    }
}

impl<F: PciFunction> Drop for VirtioPci<F> {
    fn drop(&mut self) {
        self.take_down();
    }
}
