//! `net_ixgbe_vf`: the driver of a virtual function of Intel's 82599 (datasheet 331520, 7.10 and 8.3), as a machine's guest
//! has it.
//!
//! It has some of its port's queues, and registers for nothing else: which frames come in, and how long they may be, the
//! physical function decides, which is asked by a mailbox. Its driver is somebody else's, so nothing of what it says is
//! trusted, and it is waited for with a limit. When it was reset, which an interrupt tells, the function is brought up again,
//! and its queues stay.
//!
//! Of tagged frames only those of VLANs that were [asked for](crate::PortConfig::vlan_filter) come in. Promiscuity, which is
//! over VLANs, too, takes a physical function that lets it, and an 82599's cannot; a port that starts does with less then,
//! all groups or its own.
//!
//! | parameter | |
//! |---|---|
//! | `queues` | the most queues each way; as many as the physical function gives, one for each lcore, unless given |
//! | `queue_size` | descriptors in each ring, 128 to 4096 in steps of 8; as the port is configured, up to 1024, unless given |
//!
//! | file | |
//! |---|---|
//! | `registers` | what they are called |
//! | `mailbox`, `talk` | asking the physical function, and for what |
//! | `stats` | what is counted |
//! | `unit` | the function, brought up and at rest |
//! | `shared` | what becomes of it while nobody calls |

mod mailbox;
mod registers;
mod shared;
mod stats;
mod talk;
mod unit;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use wirerate_eal::Eal;
use wirerate_eal::pci::PciFunction;

use self::shared::Shared;
use self::talk::{MOST_GROUPS, Talk};
use self::unit::{Plan, Unit};
use super::chip::VENDOR;
use super::error::IxgbeError;
use super::init::Filter;
use super::offload;
use super::options::Options;
use super::queues::{IxgbeLanes, Mappings, QueuePlan};
use super::registers::Registers;
use super::rings::RingMemory;
use super::rx::{ROOM_STEP, room_of};
use super::watch::Watch;
use super::{BESIDE, LEAST_MTU, longest};
use crate::net::MacAddress;
use crate::packet::Offload;
use crate::port::{
    DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, Held, Link, PortConfig, PortError,
};

/// The driver's name, DPDK's.
pub const NAME: &str = "net_ixgbe_vf";

/// The devices.
const DEVICES: [u16; 1] = [0x10ed];

/// What the devices are known by: vendor and device.
pub const IDS: [(u16, u16); 1] = [(VENDOR, DEVICES[0])];

/// The longest frame in bytes, frame check sequence included, that physical functions let their virtual ones have.
const LONGEST: usize = 9728;

#[derive(Debug)]
struct IxgbeVf<F: PciFunction> {
    /// Ends before the rest goes.
    watch: Option<Watch>,
    options: Options,
    queues: u16,
    memory: Arc<RingMemory>,
    config: Option<PortConfig>,
    mac: MacAddress,
    mtu: usize,
    filter: Filter,
    addresses: Vec<MacAddress>,
    vlans: Vec<u16>,
    shared: Arc<Shared<F>>,
}

/// Opens the virtual function `function`, called and parametrised by `args`.
///
/// # Errors
/// [`PortError`] when a parameter is unknown or out of range, the function cannot be driven, or there is no memory for its
/// rings.
pub fn open<F: PciFunction>(eal: &Eal, function: F, args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    let (name, options) = Options::take(args)?;
    let problem = |problem: String| PortError::Configuration { device: name.clone(), problem };
    let (unit, found) = Unit::open(&name, function).map_err(|error| problem(error.to_string()))?;
    let lcores = u16::try_from(eal.lcores().len()).unwrap_or(found.queues);
    let queues = options.queues.unwrap_or(lcores).clamp(1, found.queues);
    let memory = RingMemory::reserve(eal, &name, 2 * queues, options.most())
        .map_err(|error| problem(error.to_string()))?;
    let mut port = IxgbeVf {
        watch: None,
        options,
        queues,
        memory: Arc::new(memory),
        config: None,
        // Nobody has one for it: one that nobody else has, by all odds.
        mac: found.mac.unwrap_or_else(|| MacAddress::local(RandomState::new().hash_one(0) as u32)),
        mtu: 1500,
        filter: Filter::default(),
        addresses: Vec::new(),
        vlans: Vec::new(),
        shared: Arc::new(Shared::new(name.clone(), unit)),
    };
    port.begin_watch()?;
    Ok(Box::new(port))
}

impl<F: PciFunction> IxgbeVf<F> {
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
                waits: false,
                copied: Arc::clone(&self.shared.copied),
            },
            mac: self.mac,
            filter: self.filter,
            addresses: self.addresses.clone(),
            vlans: self.vlans.clone(),
            longest: longest(self.mtu),
        })
    }

    /// Takes the function down, whether it is up, half up, or gone.
    fn take_down(&mut self) {
        self.watch = None;
        self.shared.stop();
    }

    /// Asks the physical function of one that works. One that is at rest asks when it is started.
    fn ask(
        &self,
        ask: impl FnOnce(&mut Talk, &Registers<F::Bar>) -> Result<(), IxgbeError>,
    ) -> Result<(), PortError> {
        let mut guard = self.shared.unit();
        let unit = guard.as_mut().ok_or_else(|| self.problem(&IxgbeError::Gone))?;
        if unit.is_awake() {
            ask(&mut unit.talk, &unit.registers).map_err(|error| self.problem(&error))?;
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

    fn change_filter(&mut self, filter: Filter) -> Result<(), PortError> {
        self.ask(|talk, registers| talk.set_filter(registers, filter))?;
        self.filter = filter;
        self.shared.remember(|plan| plan.filter = filter);
        Ok(())
    }
}

impl<F: PciFunction> Device for IxgbeVf<F> {
    fn info(&self) -> DeviceInfo {
        let mut info = DeviceInfo::new(NAME, self.queues, self.queues);
        info.max_frame = LONGEST - 4;
        info.rx_offloads = offload::RECEIVING;
        info.tx_offloads = offload::SENDING;
        info.vlan_filter = true;
        info.rx_held = Held::Mbufs(self.options.most().into());
        info.tx_held = Held::Mbufs(self.options.most().into());
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
        if !config.vlan_filter {
            self.vlans.clear();
        }
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let plan = self.plan()?;
        let (receives, sends) = (plan.queues.receives, plan.queues.sends);
        self.watch = None;
        let lanes = IxgbeLanes::new(&self.shared.name, receives.max(sends))?;
        let started = self.shared.start(plan, lanes.clone()).map_err(|error| self.problem(&error));
        if let Err(error) = started.and_then(|()| self.begin_watch()) {
            self.take_down();
            return Err(error);
        }
        tracing::info!("{}: started", self.shared.name);
        let left = self.config.as_ref().map_or(Offload::empty(), |config| config.tx_offloads);
        let can = Arc::new(AtomicU32::new((left & offload::SENDING).bits()));
        Ok(lanes.queues(receives, sends, &can))
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
        self.ask(|talk, registers| talk.set_mac(registers, mac))?;
        self.mac = mac;
        self.shared.remember(|plan| plan.mac = mac);
        Ok(())
    }

    fn set_mtu(&mut self, mtu: usize) -> Result<(), PortError> {
        self.check_mtu(mtu)?;
        self.ask(|talk, registers| talk.set_longest_frame(registers, longest(mtu)))?;
        self.mtu = mtu;
        self.shared.remember(|plan| plan.longest = longest(mtu));
        Ok(())
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        self.change_filter(Filter { promiscuous: on, ..self.filter })
    }

    fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        self.change_filter(Filter { all_multicast: on, ..self.filter })
    }

    fn set_mac_filter(&mut self, addresses: &[MacAddress]) -> Result<(), PortError> {
        if addresses.iter().filter(|mac| mac.is_multicast()).count() > MOST_GROUPS {
            return Err(PortError::Unsupported { what: "a filter of more than 30 groups" });
        }
        self.ask(|talk, registers| talk.set_addresses(registers, addresses))?;
        self.addresses = addresses.to_vec();
        self.shared.remember(|plan| plan.addresses = addresses.to_vec());
        Ok(())
    }

    fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        self.ask(|talk, registers| talk.set_vlan(registers, vlan, on))?;
        self.vlans.retain(|other| *other != vlan);
        if on {
            self.vlans.push(vlan);
        }
        self.shared.remember(|plan| plan.vlans = self.vlans.clone());
        Ok(())
    }

    fn stats(&self) -> DeviceStats {
        self.shared.stats()
    }

    fn reset_stats(&mut self) {
        self.shared.reset_stats();
    }
}

impl<F: PciFunction> Drop for IxgbeVf<F> {
    fn drop(&mut self) {
        self.take_down();
    }
}
