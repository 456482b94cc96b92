//! A device while it is there: brought up with rings, and made to let go of them again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use wirerate_eal::dma::{DmaMapping, DmaSpace};
use wirerate_eal::pci::PciFunction;
use wirerate_mempool::Memory;

use super::chip::{Chip, Family};
use super::descriptor::DESCRIPTOR;
use super::error::IxgbeError;
use super::filters;
use super::flow::{self, FlowControl};
use super::init::{self, Filter};
use super::interrupt::{self, MOST_VECTORS, QueueInterrupt};
use super::link::{self, Media};
use super::phy;
use super::registers::{
    DCA_RXCTRL_MUST_BE_0, DCA_TXCTRL_WRITE_BACK_RO, DCTL_ENABLE, DCTL_SWFLSH, RXDCTL_VME, Registers,
    SRRCTL_ADVANCED, SRRCTL_DROP_EN, dca_rxctrl, dca_txctrl, rdbah, rdbal, rdh, rdlen, rdt, rxdctl, srrctl,
    tdbah, tdbal, tdh, tdlen, tdt, txdctl,
};
use super::rings::RingMemory;
use super::rx::{IxgbeRx, room_of};
use super::sfp::{self, Module};
use super::stats;
use super::tx::IxgbeTx;
use crate::drivers::interrupts::Interrupts;
use crate::drivers::reach::{Range, Reach};
use crate::lane::Lanes;
use crate::net::MacAddress;
use crate::packet::MbufPool;
use crate::port::RssConfig;

/// How long a queue may take to be enabled or disabled. Devices need some microseconds.
const QUEUE_TIME: Duration = Duration::from_millis(100);
/// Descriptors that a transmit queue fetches ahead (PTHRESH, 8.2.3.9.10). WTHRESH stays 0: only reports are written back.
const FETCH_AHEAD: u32 = 32;

/// The lanes of a port over registers `B`.
pub(super) type IxgbeLanes<B> = Lanes<IxgbeRx<B>, IxgbeTx<B>>;

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
    /// [`IxgbeError::Dma`].
    pub(super) fn new(
        space: &dyn DmaSpace,
        memory: &RingMemory,
        pool: &MbufPool,
    ) -> Result<Self, IxgbeError> {
        let map = |memory: &dyn Memory, keep| {
            // SAFETY: `keep` keeps the region, or the pool with all its memories. The device is told to write rings, which are
            // only accessed by atomic operations, and blanks of the pool, which nobody reads before they have come back.
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
    pub(super) receives: u16,
    pub(super) sends: u16,
    /// Descriptors of each receive and each transmit ring.
    pub(super) rx_size: u16,
    pub(super) tx_size: u16,
    pub(super) memory: Arc<RingMemory>,
    pub(super) pool: MbufPool,
    pub(super) mac: MacAddress,
    pub(super) filter: Filter,
    pub(super) flow: FlowControl,
    /// Whether modules are used that are not known to work.
    pub(super) any_module: bool,
    /// Whether tags are taken out of received frames.
    pub(super) strips: bool,
    /// The only VLANs that are received; none receives all.
    pub(super) vlans: Option<Vec<u16>>,
    /// How received frames are spread over queues.
    pub(super) rss: Option<RssConfig>,
    /// Addresses that are received for, too.
    pub(super) addresses: Vec<MacAddress>,
    /// Bytes of the longest frame, frame check sequence included and tags not.
    pub(super) longest: u32,
    /// Counts packets that have to be copied.
    pub(super) copied: Arc<AtomicU64>,
}

/// A device.
#[derive(Debug)]
pub(super) struct Unit<F: PciFunction> {
    name: String,
    /// Not at rest: the device may use memory.
    awake: bool,
    media: Media,
    /// The module in the cage, once it was found.
    module: Option<Module>,
    any_module: bool,
    pub(super) interrupts: Interrupts,
    pub(super) mappings: Option<Mappings>,
    pub(super) registers: Registers<F::Bar>,
    /// The last that is dropped.
    pub(super) function: F,
}

impl<F: PciFunction> Unit<F> {
    /// Finds the device, resets it, and asks it for its address. It is at rest afterwards.
    ///
    /// # Errors
    /// [`IxgbeError`] says why it cannot be driven.
    pub(super) fn open(name: &str, function: F) -> Result<(Self, MacAddress), IxgbeError> {
        let identity = function.config_read(0);
        if identity == u32::MAX {
            return Err(IxgbeError::Gone);
        }
        let (vendor, device) = (identity as u16, (identity >> 16) as u16);
        let chip = Chip::of(vendor, device).ok_or(IxgbeError::Foreign { vendor, device })?;
        let (family, media) = (chip.family, chip.media);
        if family != Family::I82599 {
            tracing::warn!(
                "{name}: this driver was run against no model and no card of an {}, only against a model of the 82599",
                family.name()
            );
        }
        let registers = Registers::new(function.bar(0)?, family)?;
        // Whatever it did before, it does not reach memory from here on.
        function.set_bus_master(false)?;
        let unit = Self {
            name: name.to_owned(),
            awake: false,
            media,
            module: None,
            any_module: false,
            interrupts: Interrupts::None,
            mappings: None,
            registers,
            function,
        };
        init::reset(&unit.registers)?;
        super::eeprom::check(&unit.registers)?;
        let mac = init::address(&unit.registers)?;
        Ok((unit, mac))
    }

    /// Brings the device up with rings in `lanes`, as `plan` says. The lanes are empty, and let nothing pass until the caller
    /// says so. When it fails the rings are still there; [`halt`](Self::halt) comes before they are dropped.
    ///
    /// # Errors
    /// [`IxgbeError`] says what the device does not do.
    pub(super) fn start(&mut self, plan: &Plan, lanes: &IxgbeLanes<F::Bar>) -> Result<(), IxgbeError> {
        self.awake = true;
        // 4.6.3, step by step.
        init::reset(&self.registers)?;
        self.function.set_bus_master(true)?;
        self.interrupts = Interrupts::enable(&self.name, &self.function, plan.receives, MOST_VECTORS);
        self.any_module = plan.any_module;
        self.start_link()?;
        stats::clear(&self.registers);
        stats::prepare(&self.registers);
        init::prepare(&self.registers, plan.mac);
        flow::set_up(&self.registers, plan.flow);
        for (index, mac) in plan.addresses.iter().enumerate() {
            init::set_address(&self.registers, index + 1, Some(*mac));
        }
        init::set_filter(&self.registers, plan.filter);
        init::set_longest_frame(&self.registers, plan.longest);
        for vlan in plan.vlans.iter().flatten() {
            filters::set_vlan(&self.registers, *vlan, true);
        }
        filters::set_vlan_filter(&self.registers, plan.vlans.is_some());
        filters::set_rss(&self.registers, plan.rss.as_ref());
        let mappings = self.mappings.as_ref().ok_or(IxgbeError::NotMapped)?;
        let rings = Mappings::reach(std::slice::from_ref(&mappings.rings));
        let packets = Mappings::reach(&mappings.pool);
        if plan.sends > 0 {
            init::transmit_on(&self.registers);
        }
        for (queue, lane) in (0..plan.sends).zip(&lanes.tx) {
            // SAFETY: the device was reset, so it uses no ring; the lanes are empty, and what was in those before was dropped
            // when the port stopped.
            let made = unsafe { plan.memory.ring(2 * queue + 1, plan.tx_size, &rings) };
            let (ring, address) = made.ok_or(IxgbeError::Ring { size: plan.tx_size })?;
            let (pool, copied) = (plan.pool.clone(), Arc::clone(&plan.copied));
            let bar = Arc::clone(self.registers.bar());
            lane.only_polled();
            lane.install(IxgbeTx::new(ring, tdt(queue.into()), pool, packets.clone(), copied, bar));
            self.start_transmit(queue.into(), address, plan.tx_size)?;
        }
        for (queue, lane) in (0..plan.receives).zip(&lanes.rx) {
            // SAFETY: as above.
            let made = unsafe { plan.memory.ring(2 * queue, plan.rx_size, &rings) };
            let (ring, address) = made.ok_or(IxgbeError::Ring { size: plan.rx_size })?;
            let bar = Arc::clone(self.registers.bar());
            let mut rx =
                IxgbeRx::new(ring, rdt(queue.into()), plan.pool.clone(), packets.clone(), plan.strips, bar);
            match self.interrupts.receive_fd(queue) {
                Some(fd) => {
                    let error = |source| IxgbeError::System { doing: "listening to an interrupt", source };
                    lane.bell().listen_to(fd).map_err(error)?;
                    rx.set_interrupt(QueueInterrupt::of(&self.interrupts, queue, plan.receives));
                }
                None => lane.only_polled(),
            }
            // The lane keeps what the device may write from now on.
            lane.install(rx);
            self.start_receive(queue.into(), address, plan)?;
            lane.with(|rx| rx.into_iter().for_each(|rx| rx.ring_doorbell()));
        }
        if plan.receives > 0 {
            init::receive_on(&self.registers)?;
        }
        interrupt::set_up(&self.registers, &self.interrupts, plan.receives);
        self.registers.here()
    }

    /// Sets up the module, if there is one, and the link.
    fn start_link(&mut self) -> Result<(), IxgbeError> {
        self.module = None;
        if self.media == Media::Sfp && !self.find_module()? {
            tracing::warn!("{}: there is no module in its cage; one that is put in is used", self.name);
        }
        if self.media == Media::Copper
            && let Err(error) = phy::power_up(&self.registers, init::port(&self.registers))
        {
            if let IxgbeError::Gone = error {
                return Err(error);
            }
            tracing::warn!("{}: {error}; the link is as the firmware has it", self.name);
        }
        link::set_up(&self.registers, self.media)
    }

    /// Looks for a module and sets it up; whether there is one.
    fn find_module(&mut self) -> Result<bool, IxgbeError> {
        let port = init::port(&self.registers);
        let Some(module) = Module::find(&self.registers, port)? else { return Ok(false) };
        module.check(&self.registers, self.any_module)?;
        sfp::initialise(&self.registers, &module, port)?;
        sfp::laser_on(&self.registers);
        tracing::info!("{}: the module in its cage is {module}", self.name);
        self.module = Some(module);
        Ok(true)
    }

    /// Uses a module that was put into a cage which was empty.
    ///
    /// # Errors
    /// [`IxgbeError`] when it cannot be used; it is looked for again then.
    pub(super) fn look_for_module(&mut self) -> Result<(), IxgbeError> {
        if self.media == Media::Sfp && self.module.is_none() && self.find_module()? {
            link::set_up(&self.registers, self.media)?;
        }
        Ok(())
    }

    /// Enables a receive queue without buffers (4.6.7.1).
    fn start_receive(&self, queue: usize, address: u64, plan: &Plan) -> Result<(), IxgbeError> {
        let registers = &self.registers;
        registers.write(rdbal(queue), address as u32);
        registers.write(rdbah(queue), (address >> 32) as u32);
        registers.write(rdlen(queue), u32::from(plan.rx_size) * DESCRIPTOR as u32);
        let room = room_of(plan.pool.data_room());
        // Where the other end can be told to wait, frames wait for buffers.
        let drop = if plan.flow.asks { 0 } else { SRRCTL_DROP_EN };
        registers.write(srrctl(queue), room | SRRCTL_ADVANCED | drop);
        registers.clear(dca_rxctrl(queue), DCA_RXCTRL_MUST_BE_0);
        registers.write(rdh(queue), 0);
        registers.write(rdt(queue), 0);
        let strips = if plan.strips { RXDCTL_VME } else { 0 };
        registers.change(rxdctl(queue), RXDCTL_VME, strips);
        registers.set(rxdctl(queue), DCTL_ENABLE);
        registers.wait("enabling a receive queue", rxdctl(queue), DCTL_ENABLE, DCTL_ENABLE, QUEUE_TIME)?;
        Ok(())
    }

    /// Enables a transmit queue (4.6.8.1).
    fn start_transmit(&self, queue: usize, address: u64, size: u16) -> Result<(), IxgbeError> {
        let registers = &self.registers;
        registers.write(tdbal(queue), address as u32);
        registers.write(tdbah(queue), (address >> 32) as u32);
        registers.write(tdlen(queue), u32::from(size) * DESCRIPTOR as u32);
        registers.clear(dca_txctrl(queue), DCA_TXCTRL_WRITE_BACK_RO);
        registers.write(tdh(queue), 0);
        registers.write(tdt(queue), 0);
        registers.write(txdctl(queue), FETCH_AHEAD);
        registers.write(txdctl(queue), FETCH_AHEAD | DCTL_ENABLE);
        registers.wait("enabling a transmit queue", txdctl(queue), DCTL_ENABLE, DCTL_ENABLE, QUEUE_TIME)?;
        Ok(())
    }

    /// Whether the device works.
    pub(super) fn is_awake(&self) -> bool {
        self.awake
    }

    /// Makes the device let go of all memory, whether it works or is gone. Rings and packets can be dropped afterwards.
    pub(super) fn halt(&mut self) {
        if !std::mem::replace(&mut self.awake, false) {
            return;
        }
        init::farewell(&self.registers);
        for queue in 0..usize::from(super::options::MOST_QUEUES) {
            self.registers.write(txdctl(queue), DCTL_SWFLSH);
            self.registers.change(rxdctl(queue), DCTL_ENABLE, DCTL_SWFLSH);
        }
        match init::reset(&self.registers) {
            Ok(()) => {}
            // It reaches nothing any more, as far as we can tell.
            Err(IxgbeError::Gone) => tracing::debug!("{}: there is no device to reset", self.name),
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
    }
}

impl<F: PciFunction> Drop for Unit<F> {
    fn drop(&mut self) {
        self.halt();
    }
}
