//! A device while it is there: brought up with rings, and made to let go of them again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use wirerate_eal::dma::{DmaMapping, DmaSpace};
use wirerate_eal::pci::PciFunction;
use wirerate_mempool::Memory;

use super::common::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NO_VECTOR, Registers};
use super::config::{NetConfig, Now};
use super::control::{Command, ControlQueue, LEAST_SIZE};
use super::error::VirtioPciError;
use super::wishes::Wishes;
use crate::drivers::interrupts::Interrupts;
use crate::drivers::reach::{Range, Reach};
use crate::drivers::virtio::pairs::{Made, Pairs};
use crate::drivers::virtio::rings::RingMemory;
use crate::drivers::virtio::state::VirtioLanes;
use crate::packet::MbufPool;
use crate::port::RssConfig;
use crate::virtqueue::{Features, Format};

/// The rings and the pool, as the device reaches them.
#[derive(Debug)]
pub(super) struct Mappings {
    rings: DmaMapping,
    pool: Vec<DmaMapping>,
}

impl Mappings {
    /// Maps both, until they are dropped.
    ///
    /// # Errors
    /// [`VirtioPciError::Dma`].
    pub(super) fn new(
        space: &dyn DmaSpace,
        memory: &RingMemory,
        pool: &MbufPool,
    ) -> Result<Self, VirtioPciError> {
        let map = |memory: &dyn Memory, keep| {
            // SAFETY: `keep` keeps the region, or the pool with all its memories. The device is told to write rings, which are
            // only accessed by atomic operations, answers of the control queue, which are read by volatile ones, and blanks
            // of the pool, which nobody reads before they have come back.
            unsafe { space.map(memory, keep) }
        };
        let region = memory.region();
        let rings = map(&**region, Arc::clone(region) as _)?;
        let pool: Result<Vec<_>, _> =
            pool.raw().memories().map(|memory| map(memory, Arc::new(pool.clone()) as _)).collect();
        Ok(Self { rings, pool: pool? })
    }

    fn reach(mappings: &[DmaMapping]) -> Reach {
        let ranges = mappings.iter().flat_map(DmaMapping::ranges);
        Reach::new(ranges.map(|range| Range {
            base: range.base as u64,
            len: range.len as u64,
            device: range.device,
        }))
    }
}

/// How a device is to be started.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) wanted: Features,
    pub(super) receives: u16,
    pub(super) sends: u16,
    /// Descriptors of each receive and each transmit ring, unless the device has fewer.
    pub(super) rx_size: u16,
    pub(super) tx_size: u16,
    pub(super) memory: Arc<RingMemory>,
    pub(super) pool: MbufPool,
    /// Counts packets that have to be copied.
    pub(super) copied: Arc<AtomicU64>,
}

/// A device.
#[derive(Debug)]
pub(super) struct Unit<F: PciFunction> {
    name: String,
    /// Not at rest: the device may use memory and interrupts.
    awake: bool,
    control: Option<ControlQueue>,
    pub(super) interrupts: Interrupts,
    pub(super) mappings: Option<Mappings>,
    pub(super) registers: Registers<F::Bar>,
    /// What the device offers.
    pub(super) offered: Features,
    /// What it says of itself.
    pub(super) config: NetConfig,
    /// The most descriptors that its queues can have.
    pub(super) largest: u16,
    /// What was agreed on.
    features: Features,
    /// The last that is dropped.
    pub(super) function: F,
}

impl<F: PciFunction> Unit<F> {
    /// Finds the device, resets it, and asks what it can do. It is at rest afterwards.
    ///
    /// # Errors
    /// [`VirtioPciError`] says why it cannot be driven.
    pub(super) fn open(name: &str, function: F) -> Result<Self, VirtioPciError> {
        let registers = Registers::find(&function)?;
        registers.reset()?;
        let mut unit = Self {
            name: name.to_owned(),
            awake: true,
            control: None,
            interrupts: Interrupts::None,
            mappings: None,
            registers,
            offered: Features::empty(),
            config: NetConfig::default(),
            largest: 0,
            features: Features::empty(),
            function,
        };
        unit.examine()?;
        unit.halt();
        Ok(unit)
    }

    /// Asks a device that was reset what it can do.
    fn examine(&mut self) -> Result<(), VirtioPciError> {
        self.registers.set_status(ACKNOWLEDGE);
        self.registers.set_status(ACKNOWLEDGE | DRIVER);
        self.offered = self.registers.offered();
        self.config = NetConfig::read(&self.registers, self.offered)?;
        if self.registers.is_gone() {
            return Err(VirtioPciError::Gone);
        }
        if !self.offered.contains(Features::VERSION_1) {
            return Err(VirtioPciError::Legacy);
        }
        // Only an IOMMU has windows.
        let is_translated = !self.function.dma().windows().is_empty();
        if is_translated && !self.offered.contains(Features::ACCESS_PLATFORM) {
            return Err(VirtioPciError::PastIommu);
        }
        let pairs = match self.offered.consistent().intersects(Features::MQ | Features::RSS) {
            // Not less for the queues that the device has now: QEMU makes those of further pairs when they are agreed on.
            true => self.config.pairs,
            false => 1,
        };
        self.config.pairs = pairs.max(1);
        self.largest = self.registers.queue_size(0)?.max(self.registers.queue_size(1)?);
        Ok(())
    }

    /// Brings the device up with rings in `lanes`, as `plan` and `wishes` say. The lanes are empty, and let nothing pass
    /// until the caller says so. When it fails the rings are still there; [`halt`](Self::halt) comes before they are
    /// dropped.
    ///
    /// # Errors
    /// [`VirtioPciError`] says what the device does not do.
    pub(super) fn start(&mut self, plan: &Plan, lanes: &VirtioLanes) -> Result<Features, VirtioPciError> {
        self.awake = true;
        // 3.1.1, step by step.
        self.registers.reset()?;
        self.registers.set_status(ACKNOWLEDGE);
        self.registers.set_status(ACKNOWLEDGE | DRIVER);
        let pairs = plan.receives.max(plan.sends);
        let features = self.choose(plan.wanted, pairs)?;
        self.registers.accept(features)?;
        self.features = features;

        self.function.set_bus_master(true)?;
        self.interrupts = Interrupts::enable(&self.name, &self.function, plan.receives, u16::MAX);
        if !self.registers.set_config_vector(self.interrupts.config_vector().unwrap_or(NO_VECTOR)) {
            tracing::warn!("{}: it takes no interrupt for its configuration", self.name);
        }
        let mappings = self.mappings.as_ref().ok_or(VirtioPciError::Missing { what: "mapped memory" })?;
        let makes = Pairs {
            memory: Arc::clone(&plan.memory),
            rings: Mappings::reach(std::slice::from_ref(&mappings.rings)),
            pool: plan.pool.clone(),
            packets: Mappings::reach(&mappings.pool),
            features,
            receives: plan.receives,
            copied: Arc::clone(&plan.copied),
        };
        for (pair, (rx, tx)) in (0..pairs).zip(lanes.rx.iter().zip(&lanes.tx)) {
            let (size, kick) = self.queue(2 * pair, plan.rx_size, makes.format())?;
            // SAFETY: the device was reset, so it uses no ring; the lanes are empty, and what was in those before was
            // dropped when the port stopped.
            let made = unsafe { makes.receive(pair, size, kick) };
            let made = made.ok_or_else(|| no_memory(2 * pair, size))?;
            let vector = self.interrupts.receive_vector(pair).unwrap_or(NO_VECTOR);
            match self.interrupts.receive_fd(pair) {
                Some(fd) if pair < plan.receives => rx.bell().listen_to(fd).map_err(|source| {
                    VirtioPciError::System { doing: "listening to an interrupt", source }
                })?,
                _ => rx.only_polled(),
            }
            // The lane keeps what the device may write from now on.
            rx.install(made.queue);
            self.registers.enable_queue(2 * pair, size, vector, made.addresses)?;

            let (size, kick) = self.queue(2 * pair + 1, plan.tx_size, makes.format())?;
            // SAFETY: as above.
            let made = unsafe { makes.transmit(pair, size, kick) };
            let made = made.ok_or_else(|| no_memory(2 * pair + 1, size))?;
            tx.install(made.queue);
            self.registers.enable_queue(2 * pair + 1, size, NO_VECTOR, made.addresses)?;
        }
        if features.contains(Features::CTRL_VQ) {
            self.start_control(&makes, 2 * pairs)?;
        }
        self.registers.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Ok(features)
    }

    /// What to agree on for so many pairs of queues.
    fn choose(&self, wanted: Features, pairs: u16) -> Result<Features, VirtioPciError> {
        // How the platform orders and translates is the device's to say (6.1): what it asks for is kept to.
        let platform = Features::ACCESS_PLATFORM | Features::ORDER_PLATFORM;
        let mut features = self.registers.offered() & (wanted | platform);
        if pairs == 1 {
            features -= Features::MQ | Features::RSS;
        }
        if self.config.rss.is_none() {
            features -= Features::RSS;
        }
        let features = features.consistent();
        if !features.contains(Features::VERSION_1) {
            return Err(VirtioPciError::Missing { what: "virtio 1.0" });
        }
        if pairs > 1 && !features.intersects(Features::MQ | Features::RSS) {
            return Err(VirtioPciError::Missing { what: "as many pairs of queues as the port has" });
        }
        Ok(features)
    }

    /// The size of a queue and its doorbell.
    fn queue(
        &self,
        queue: u16,
        wanted: u16,
        format: Format,
    ) -> Result<(u16, crate::virtqueue::Kick), VirtioPciError> {
        let size = self.registers.queue_size(queue)?.min(wanted);
        let size = match format {
            Format::Packed => size,
            // 2.7: a power of two.
            Format::Split => 1 << size.max(1).ilog2(),
        };
        Ok((size, self.registers.doorbell(queue)?))
    }

    /// Starts the control queue, in the memory of ring `place`.
    fn start_control(&mut self, makes: &Pairs, place: u16) -> Result<(), VirtioPciError> {
        // 5.1.2: behind all that the device could have, if it was told that we know of those.
        let all = self.features.intersects(Features::MQ | Features::RSS);
        let queue = if all { 2 * self.pairs_of_device()? } else { 2 };
        let (size, kick) = self.queue(queue, 64, makes.format())?;
        if size < LEAST_SIZE {
            let problem = format!("it has {size} descriptors, and a command takes {LEAST_SIZE}");
            return Err(VirtioPciError::Queue { queue, problem });
        }
        // SAFETY: the device was reset, and `halt` has dropped the control queue from before.
        let (made, side) = unsafe {
            let made = makes.ring(place, size).ok_or_else(|| no_memory(queue, size))?;
            (made, makes.memory.side(place, size, &makes.rings).ok_or_else(|| no_memory(queue, size))?)
        };
        let Made { queue: ring, addresses, .. } = made;
        self.control = Some(ControlQueue::new(ring, side, kick));
        self.registers.enable_queue(queue, size, NO_VECTOR, addresses)
    }

    /// As many pairs as the device could have, used or not.
    fn pairs_of_device(&self) -> Result<u16, VirtioPciError> {
        let pairs = NetConfig::read(&self.registers, self.features)?.pairs;
        // More has no number for its control queue.
        pairs.checked_mul(2).map(|_| pairs).ok_or_else(|| VirtioPciError::Structure {
            what: "device configuration",
            problem: format!("it tells of {pairs} pairs of queues, and 32767 is the most"),
        })
    }

    /// Tells a device that works what was wished. What it refuses is told in the log, but for how queues are to be used.
    ///
    /// # Errors
    /// [`VirtioPciError`] when it refuses that, or does not answer.
    pub(super) fn tell(&mut self, wishes: &Wishes, plan: &Plan) -> Result<(), VirtioPciError> {
        let pairs = plan.receives.max(plan.sends);
        let even = self.config.rss.map(|info| RssConfig::even(info, plan.receives));
        let rss = wishes.rss.as_ref().or(even.as_ref());
        for command in wishes.commands(self.features, pairs, rss) {
            match self.command(command) {
                Err(error @ VirtioPciError::Refused { .. })
                    if !matches!(command, Command::Pairs(_) | Command::Rss(..)) =>
                {
                    tracing::warn!("{}: {error}", self.name);
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// What was agreed on, while the device works.
    pub(super) fn features(&self) -> Option<Features> {
        self.awake.then_some(self.features)
    }

    /// Has the device carry out a command.
    ///
    /// # Errors
    /// [`VirtioPciError`]; [`VirtioPciError::Missing`] when there is no control queue.
    pub(super) fn command(&mut self, command: Command<'_>) -> Result<(), VirtioPciError> {
        let control = self.control.as_mut().ok_or(VirtioPciError::Missing { what: "a control queue" })?;
        control.run(&self.registers, command)
    }

    /// How the link is.
    ///
    /// # Errors
    /// [`VirtioPciError`] when that cannot be read.
    pub(super) fn now(&self) -> Result<Now, VirtioPciError> {
        Now::read(&self.registers, self.features)
    }

    /// Makes the device let go of all memory and interrupts, whether it works or is gone. Rings and packets can be dropped
    /// afterwards.
    pub(super) fn halt(&mut self) {
        if !std::mem::replace(&mut self.awake, false) {
            return;
        }
        match self.registers.reset() {
            Ok(()) => {}
            // It reaches nothing any more, as far as we can tell.
            Err(VirtioPciError::Gone) => tracing::debug!("{}: there is no device to reset", self.name),
            Err(error) => {
                tracing::error!("{}: {error}", self.name);
                if !self.function.reset().unwrap_or(false) {
                    tracing::error!("{}: it cannot be reset by PCI either", self.name);
                }
            }
        }
        // If it has not heard of the reset it loses its way to memory by this.
        if let Err(error) = self.function.set_bus_master(false) {
            tracing::debug!("{}: {error}", self.name);
        }
        self.function.disable_interrupts();
        self.interrupts = Interrupts::None;
        self.control = None;
    }
}

impl<F: PciFunction> Drop for Unit<F> {
    fn drop(&mut self) {
        self.halt();
    }
}

fn no_memory(queue: u16, size: u16) -> VirtioPciError {
    let problem = format!(
        "the device does not reach memory for {size} descriptors in one piece: use hugepages or an IOMMU, or a smaller \
         queue_size"
    );
    VirtioPciError::Queue { queue, problem }
}
