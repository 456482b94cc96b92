//! `net_ixgbe`: the driver of Intel's 82599 (datasheet 331520), after its chapter 4.6, and of X540 and X550, which are alike but
//! for what `chip` says. It was run against a model of the 82599, and against none of the others.
//!
//! Rings and packets are mapped for the device, so packets are not copied; those that it does not reach are. What it writes
//! into rings and registers is checked, and whatever it is waited for has a time limit. It is reset before memory is given
//! back, on every way out; when it is gone by itself, its receive queues [end](crate::RxQueue::ended) and other ports go on.
//! Queues are polled; interrupts are off. Received packets are spread over queues by RSS. Checksums, tags and segmentation are
//! left to the device where the application lets it. Receive queues can be slept on.
//!
//! | parameter | |
//! |---|---|
//! | `queues` | the most queues each way, 1 to 16; one for each lcore unless given |
//! | `queue_size` | descriptors in each ring, 128 to 4096 in steps of 8; as the port is configured, up to 1024, unless given |
//! | `flow_ctrl` | `none`, `rx`: pause frames are obeyed, `tx`: they are sent when the packet buffer fills up, `full`: both; `none` unless given |
//! | `allow_unsupported_sfp` | 1: modules are used that are not known to work with an 82599; 0 unless given |
//!
//! | file | |
//! |---|---|
//! | `chip` | which devices there are, and how they differ |
//! | `registers` | what they are called, and waiting for them |
//! | `semaphore` | what the port shares with its neighbour and the firmware |
//! | `eeprom` | whether its settings are whole |
//! | `link` | the link |
//! | `sfp`, `i2c` | the module in the cage, and the wires to it |
//! | `phy` | the PHY of those with copper |
//! | `flow` | pause frames |
//! | `filters` | which frames are received, and by which queue |
//! | `init` | resets, and the set-up of what queues share |
//! | `interrupt` | how the device tells of packets and changes |
//! | `stats`, `dump` | what the device counts, and its registers to be shown |
//! | `descriptor`, `rings` | descriptors, and where they lie |
//! | `offload` | what the device does with packets, and tells of them |
//! | `line` | what the device has of ours |
//! | `rx`, `tx`, `queues` | receiving and sending, and how the device is told of it |
//! | `unit` | a device, brought up and at rest |
//! | `shared`, `watch` | what becomes of it while nobody calls |
//! | [`vf`] | the driver of its virtual functions |

mod chip;
mod descriptor;
mod dump;
mod eeprom;
mod error;
mod filters;
mod flow;
mod i2c;
mod init;
mod interrupt;
mod line;
mod link;
mod offload;
mod options;
mod phy;
mod queues;
mod registers;
mod rings;
mod rx;
mod semaphore;
mod sfp;
mod shared;
mod stats;
#[cfg(test)]
mod testing;
mod tx;
mod unit;
pub mod vf;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use wirerate_eal::Eal;
use wirerate_eal::pci::PciFunction;

use self::chip::Family;
pub use self::error::IxgbeError;
use self::init::Filter;
use self::options::{MOST_QUEUES, Options};
use self::queues::{IxgbeLanes, Mappings, QueuePlan};
use self::registers::ADDRESSES;
use self::rings::RingMemory;
use self::rx::{ROOM_STEP, room_of};
use self::shared::Shared;
use self::unit::{Plan, Unit};
use self::watch::Watch;
use crate::lane::Lanes;
use crate::net::MacAddress;
use crate::packet::Offload;
use crate::port::{
    DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, Held, Link, PortConfig, PortError, RegisterValue,
    RssConfig,
};

/// The driver's name, DPDK's.
pub const NAME: &str = "net_ixgbe";

/// What the devices are known by: vendor and device.
pub const IDS: [(u16, u16); chip::IDS.len()] = chip::IDS;

/// The longest frame in bytes, frame check sequence included, as DPDK has it; MAXFRS takes a little more (8.2.3.22.13).
const LONGEST: usize = 15_872;
/// What a frame has beside its payload, in bytes: Ethernet header and frame check sequence.
const BESIDE: usize = 14 + 4;
/// The least MTU in bytes (RFC 791).
const LEAST_MTU: usize = 68;

#[derive(Debug)]
struct Ixgbe<F: PciFunction> {
    /// Ends before the rest goes.
    watch: Option<Watch>,
    options: Options,
    queues: u16,
    memory: Arc<RingMemory>,
    config: Option<PortConfig>,
    family: Family,
    mac: MacAddress,
    mtu: usize,
    filter: Filter,
    addresses: Vec<MacAddress>,
    vlans: BTreeSet<u16>,
    /// As the application wants it; evenly unless it says how.
    rss: Option<RssConfig>,
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
    let (unit, mac) = Unit::open(&name, function).map_err(|error| problem(error.to_string()))?;
    let lcores = u16::try_from(eal.lcores().len()).unwrap_or(MOST_QUEUES);
    let queues = options.queues.unwrap_or(lcores).clamp(1, MOST_QUEUES);
    let memory = RingMemory::reserve(eal, &name, 2 * queues, options.most())
        .map_err(|error| problem(error.to_string()))?;
    let mut port = Ixgbe {
        watch: None,
        options,
        queues,
        memory: Arc::new(memory),
        config: None,
        family: unit.registers.family(),
        mac,
        mtu: 1500,
        filter: Filter::default(),
        addresses: Vec::new(),
        vlans: BTreeSet::new(),
        rss: None,
        shared: Arc::new(Shared::new(name.clone(), unit)),
    };
    port.begin_watch()?;
    Ok(Box::new(port))
}

impl<F: PciFunction> Ixgbe<F> {
    fn problem(&self, problem: &impl ToString) -> PortError {
        PortError::Configuration { device: self.shared.name.clone(), problem: problem.to_string() }
    }

    fn begin_watch(&mut self) -> Result<(), PortError> {
        let error = |source| PortError::system(&self.shared.name, "watching the device", source);
        self.watch = Watch::begin(&self.shared).map_err(error)?;
        Ok(())
    }

    fn plan(&self) -> Result<Plan, PortError> {
        let config = self.config.as_ref().ok_or_else(|| self.problem(&"it was not configured"))?;
        let pool = config.pool.clone().ok_or_else(|| self.problem(&"it has no pool"))?;
        Ok(Plan {
            queues: QueuePlan {
                receives: config.rx_queues,
                sends: config.tx_queues,
                rx_size: self.options.size(config.rx_descriptors),
                tx_size: self.options.size(config.tx_descriptors),
                memory: Arc::clone(&self.memory),
                pool,
                strips: config.rx_offloads.contains(Offload::RX_VLAN_STRIPPED),
                waits: self.options.flow.asks,
                copied: Arc::clone(&self.shared.copied),
            },
            mac: self.mac,
            filter: self.filter,
            flow: self.options.flow,
            any_module: self.options.any_module,
            vlans: config.vlan_filter.then(|| self.vlans.iter().copied().collect()),
            rss: self.spread(config.rx_queues),
            addresses: self.addresses.clone(),
            longest: longest(self.mtu),
        })
    }

    /// How frames are spread over so many queues.
    fn spread(&self, queues: u16) -> Option<RssConfig> {
        (queues > 1)
            .then(|| self.rss.clone().unwrap_or_else(|| RssConfig::even(filters::info(self.family), queues)))
    }

    fn bring_up(&self, plan: &Plan, lanes: &IxgbeLanes<F::Bar>) -> Result<(), IxgbeError> {
        let mut guard = self.shared.unit();
        let unit = guard.as_mut().ok_or(IxgbeError::Gone)?;
        unit.start(plan, lanes)?;
        lanes.rx.iter().for_each(|lane| lane.enable(true));
        lanes.tx.iter().for_each(|lane| lane.enable(true));
        tracing::info!("{}: started", self.shared.name);
        Ok(())
    }

    /// Takes the device down, whether it is up, half up, or gone.
    fn take_down(&mut self) {
        self.watch = None;
        if let Some(unit) = self.shared.unit().as_mut() {
            self.shared.halt(unit);
        }
        self.shared.set_lanes(Lanes::default());
    }

    /// Tells a device that works. One that is at rest is told when it is started.
    fn tell(&self, tell: impl FnOnce(&registers::Registers<F::Bar>)) -> Result<(), PortError> {
        let guard = self.shared.unit();
        let unit = guard.as_ref().ok_or_else(|| self.problem(&IxgbeError::Gone))?;
        if unit.is_awake() {
            unit.registers.here().map_err(|error| self.problem(&error))?;
            tell(&unit.registers);
        }
        Ok(())
    }

    fn check_mtu(&self, mtu: usize) -> Result<(), PortError> {
        let most = LONGEST - BESIDE;
        match (LEAST_MTU..=most).contains(&mtu) {
            true => Ok(()),
            false => {
                Err(self.problem(&format!("an MTU of {mtu}, and the device takes {LEAST_MTU} to {most}")))
            }
        }
    }
}

/// Bytes of the longest frame for an MTU. The register is not to be below a plain Ethernet frame (8.2.3.22.13).
fn longest(mtu: usize) -> u32 {
    (mtu + BESIDE).max(1500 + BESIDE) as u32
}

impl<F: PciFunction> Device for Ixgbe<F> {
    fn info(&self) -> DeviceInfo {
        let mut info = DeviceInfo::new(NAME, self.queues, self.queues);
        info.max_frame = LONGEST - 4;
        info.rx_held = Held::Mbufs(self.options.most().into());
        info.tx_held = Held::Mbufs(self.options.most().into());
        info.rx_offloads = offload::RECEIVING;
        info.tx_offloads = offload::SENDING;
        info.vlan_filter = true;
        info.rss = (self.queues > 1).then_some(filters::info(self.family));
        info
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        let Some(pool) = &config.pool else {
            return Err(self.problem(
                &"the memory of its packets is mapped for the device, and the configuration has no pool: give it one also when \
                 it only sends",
            ));
        };
        if room_of(pool.data_room()) == 0 {
            return Err(self.problem(&format!(
                "the mbufs of pool \"{}\" have room for {} bytes, and its buffers are of {ROOM_STEP} at least",
                pool.name(),
                pool.data_room()
            )));
        }
        config.mtu.map_or(Ok(()), |mtu| self.check_mtu(mtu))?;
        let mut guard = self.shared.unit();
        let unit = guard.as_mut().ok_or_else(|| self.problem(&IxgbeError::Gone))?;
        // What was mapped before goes first: the device is at rest.
        unit.mappings = None;
        let mappings = Mappings::new(&*unit.function.dma(), &self.memory, pool);
        unit.mappings = Some(mappings.map_err(|error| self.problem(&error))?);
        drop(guard);
        self.mtu = config.mtu.unwrap_or(self.mtu);
        self.filter.promiscuous = config.promiscuous;
        // One that names queues which are no more does not stay.
        self.rss =
            self.rss.take().filter(|rss| rss.problem(filters::info(self.family), config.rx_queues).is_none());
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let plan = self.plan()?;
        self.watch = None;
        let lanes = IxgbeLanes::new(&self.shared.name, plan.queues.receives.max(plan.queues.sends))?;
        self.shared.set_lanes(lanes.clone());
        let started = self.bring_up(&plan, &lanes).map_err(|error| self.problem(&error));
        if let Err(error) = started.and_then(|()| self.begin_watch()) {
            self.take_down();
            return Err(error);
        }
        let left = self.config.as_ref().map_or(Offload::empty(), |config| config.tx_offloads);
        let can = Arc::new(AtomicU32::new((left & offload::SENDING).bits()));
        Ok(lanes.queues(plan.queues.receives, plan.queues.sends, &can))
    }

    fn stop(&mut self) -> Result<(), PortError> {
        self.take_down();
        self.begin_watch()
    }

    fn link(&self) -> Link {
        self.shared.link()
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        if mac.0 == [0; 6] || mac.is_multicast() {
            return Err(self.problem(&format!("{mac} can be no station's address")));
        }
        self.tell(|registers| init::set_address(registers, 0, Some(mac)))?;
        self.mac = mac;
        Ok(())
    }

    fn set_mtu(&mut self, mtu: usize) -> Result<(), PortError> {
        self.check_mtu(mtu)?;
        self.tell(|registers| init::set_longest_frame(registers, longest(mtu)))?;
        self.mtu = mtu;
        Ok(())
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        let filter = Filter { promiscuous: on, ..self.filter };
        self.tell(|registers| init::set_filter(registers, filter))?;
        self.filter = filter;
        Ok(())
    }

    fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        let filter = Filter { all_multicast: on, ..self.filter };
        self.tell(|registers| init::set_filter(registers, filter))?;
        self.filter = filter;
        Ok(())
    }

    fn set_mac_filter(&mut self, addresses: &[MacAddress]) -> Result<(), PortError> {
        if addresses.len() > ADDRESSES - 1 {
            return Err(PortError::Unsupported { what: "a filter of more than 127 MAC addresses" });
        }
        let before = self.addresses.len();
        self.tell(|registers| {
            for index in 0..before.max(addresses.len()) {
                init::set_address(registers, index + 1, addresses.get(index).copied());
            }
        })?;
        self.addresses = addresses.to_vec();
        Ok(())
    }

    fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        self.tell(|registers| filters::set_vlan(registers, vlan, on))?;
        if on {
            self.vlans.insert(vlan);
        } else {
            self.vlans.remove(&vlan);
        }
        Ok(())
    }

    fn set_rss(&mut self, rss: &RssConfig) -> Result<(), PortError> {
        let several = self.config.as_ref().is_some_and(|config| config.rx_queues > 1);
        self.tell(|registers| filters::set_rss(registers, Some(rss).filter(|_| several)))?;
        self.rss = Some(rss.clone());
        Ok(())
    }

    fn rss(&self) -> Option<RssConfig> {
        let guard = self.shared.unit();
        match guard.as_ref().filter(|unit| unit.is_awake()) {
            Some(unit) => filters::rss(&unit.registers),
            None => self.config.as_ref().and_then(|config| self.spread(config.rx_queues)),
        }
    }

    fn registers(&self) -> Vec<RegisterValue> {
        let (receives, sends) =
            self.config.as_ref().map_or((0, 0), |config| (config.rx_queues, config.tx_queues));
        self.shared.unit().as_ref().map_or(Vec::new(), |unit| dump::dump(&unit.registers, receives, sends))
    }

    fn stats(&self) -> DeviceStats {
        self.shared.stats()
    }

    fn reset_stats(&mut self) {
        self.shared.reset_stats();
    }
}

impl<F: PciFunction> Drop for Ixgbe<F> {
    fn drop(&mut self) {
        self.take_down();
    }
}
