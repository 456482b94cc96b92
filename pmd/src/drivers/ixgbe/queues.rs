//! A port's queues: rings that are put into its lanes, and told to the device, by a physical and by a virtual function
//! (datasheet 4.6.7.1 and 4.6.8.1).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use wirerate_eal::dma::{DmaMapping, DmaSpace};
use wirerate_eal::mmio::Mmio;
use wirerate_mempool::Memory;

use super::descriptor::DESCRIPTOR;
use super::error::IxgbeError;
use super::interrupt::{Places, QueueInterrupt};
use super::registers::{
    DCA_RXCTRL_MUST_BE_0, DCA_TXCTRL_WRITE_BACK_RO, DCTL_ENABLE, RXDCTL_VME, Registers, SRRCTL_ADVANCED,
    SRRCTL_DROP_EN, dca_rxctrl, dca_txctrl, rdbah, rdbal, rdh, rdlen, rdt, rxdctl, srrctl, tdbah, tdbal, tdh,
    tdlen, tdt, txdctl,
};
use super::rings::RingMemory;
use super::rx::{IxgbeRx, room_of};
use super::tx::IxgbeTx;
use crate::drivers::interrupts::Interrupts;
use crate::drivers::reach::{Range, Reach};
use crate::lane::Lanes;
use crate::packet::MbufPool;

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

/// How a port's queues are to be.
#[derive(Debug)]
pub(super) struct QueuePlan {
    pub(super) receives: u16,
    pub(super) sends: u16,
    /// Descriptors of each receive and each transmit ring.
    pub(super) rx_size: u16,
    pub(super) tx_size: u16,
    pub(super) memory: Arc<RingMemory>,
    pub(super) pool: MbufPool,
    /// Whether tags are taken out of received frames.
    pub(super) strips: bool,
    /// Whether frames wait for buffers, as where the other end can be told to pause; they are dropped else.
    pub(super) waits: bool,
    /// Counts packets that have to be copied.
    pub(super) copied: Arc<AtomicU64>,
}

impl QueuePlan {
    /// Puts transmit rings into the lanes and enables their queues, the first of which has its registers from `first` on.
    ///
    /// # Errors
    /// [`IxgbeError`] when the device does not reach a ring or does not enable a queue.
    ///
    /// # Safety
    /// The device was reset since it was last given rings, and those are not used any more: the lanes are empty.
    pub(super) unsafe fn transmit<B: Mmio>(
        &self,
        registers: &Registers<B>,
        first: usize,
        mappings: &Mappings,
        lanes: &IxgbeLanes<B>,
    ) -> Result<(), IxgbeError> {
        let rings = Mappings::reach(std::slice::from_ref(&mappings.rings));
        let packets = Mappings::reach(&mappings.pool);
        for (queue, lane) in (0..self.sends).zip(&lanes.tx) {
            // SAFETY: the caller's promise; each index is for one ring.
            let made = unsafe { self.memory.ring(2 * queue + 1, self.tx_size, &rings) };
            let (ring, address) = made.ok_or(IxgbeError::Ring { size: self.tx_size })?;
            let (pool, copied) = (self.pool.clone(), Arc::clone(&self.copied));
            let bar = Arc::clone(registers.bar());
            // What is known of the first queue's registers goes for all.
            let at = |register: fn(usize) -> usize| register(queue.into()) - tdbal(0) + first;
            lane.only_polled();
            lane.install(IxgbeTx::new(ring, at(tdt), pool, packets.clone(), copied, bar));
            registers.write(at(tdbal), address as u32);
            registers.write(at(tdbah), (address >> 32) as u32);
            registers.write(at(tdlen), u32::from(self.tx_size) * DESCRIPTOR as u32);
            registers.clear(at(dca_txctrl), DCA_TXCTRL_WRITE_BACK_RO);
            registers.write(at(tdh), 0);
            registers.write(at(tdt), 0);
            let control = at(txdctl);
            registers.write(control, FETCH_AHEAD);
            registers.write(control, FETCH_AHEAD | DCTL_ENABLE);
            registers.wait("enabling a transmit queue", control, DCTL_ENABLE, DCTL_ENABLE, QUEUE_TIME)?;
        }
        Ok(())
    }

    /// Puts receive rings into the lanes, enables their queues, and gives them buffers. Who sleeps on one is woken by its
    /// interrupt.
    ///
    /// # Errors
    /// As [`transmit`](Self::transmit).
    ///
    /// # Safety
    /// As for [`transmit`](Self::transmit).
    pub(super) unsafe fn receive<B: Mmio>(
        &self,
        registers: &Registers<B>,
        (places, interrupts): (&'static Places, &Interrupts),
        mappings: &Mappings,
        lanes: &IxgbeLanes<B>,
    ) -> Result<(), IxgbeError> {
        let rings = Mappings::reach(std::slice::from_ref(&mappings.rings));
        let packets = Mappings::reach(&mappings.pool);
        for (number, lane) in (0..self.receives).zip(&lanes.rx) {
            // SAFETY: as above.
            let made = unsafe { self.memory.ring(2 * number, self.rx_size, &rings) };
            let (ring, address) = made.ok_or(IxgbeError::Ring { size: self.rx_size })?;
            let bar = Arc::clone(registers.bar());
            let queue = usize::from(number);
            let mut rx = IxgbeRx::new(ring, rdt(queue), self.pool.clone(), packets.clone(), self.strips, bar);
            match interrupts.receive_fd(number) {
                Some(fd) => {
                    let error = |source| IxgbeError::System { doing: "listening to an interrupt", source };
                    // One that is brought up again listens already.
                    lane.bell().forget(fd);
                    lane.bell().listen_to(fd).map_err(error)?;
                    rx.set_interrupt(QueueInterrupt::of(places, interrupts, number, self.receives));
                }
                None => lane.only_polled(),
            }
            // The lane keeps what the device may write from now on.
            lane.install(rx);
            registers.write(rdbal(queue), address as u32);
            registers.write(rdbah(queue), (address >> 32) as u32);
            registers.write(rdlen(queue), u32::from(self.rx_size) * DESCRIPTOR as u32);
            let room = room_of(self.pool.data_room());
            let drop = if self.waits { 0 } else { SRRCTL_DROP_EN };
            registers.write(srrctl(queue), room | SRRCTL_ADVANCED | drop);
            registers.clear(dca_rxctrl(queue), DCA_RXCTRL_MUST_BE_0);
            registers.write(rdh(queue), 0);
            registers.write(rdt(queue), 0);
            let strips = if self.strips { RXDCTL_VME } else { 0 };
            registers.change(rxdctl(queue), RXDCTL_VME, strips);
            registers.set(rxdctl(queue), DCTL_ENABLE);
            let control = rxdctl(queue);
            registers.wait("enabling a receive queue", control, DCTL_ENABLE, DCTL_ENABLE, QUEUE_TIME)?;
            lane.with(|rx| rx.into_iter().for_each(|rx| rx.ring_doorbell()));
        }
        Ok(())
    }
}
