//! Queues: the data side of a port.

use core::cell::Cell;
use core::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::mend::Mender;
use super::{Counters, DropReason, RxDriver, TxDriver};
use crate::packet::{Burst, Offload};

/// Held by each queue, so that the port knows when all are given back.
pub(super) type Lease = Arc<()>;

/// A receive queue. It has one owner, who may move it to another thread but not share it:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<wirerate_pmd::RxQueue>();
/// ```
#[derive(Debug)]
pub struct RxQueue {
    driver: Box<dyn RxDriver>,
    counters: Arc<Counters>,
    port: u16,
    index: u16,
    _lease: Lease,
    _one_owner: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(super) fn new(
        driver: Box<dyn RxDriver>,
        counters: Arc<Counters>,
        port: u16,
        index: u16,
        lease: Lease,
    ) -> Self {
        Self { driver, counters, port, index, _lease: lease, _one_owner: PhantomData }
    }

    /// Adds waiting packets to `burst`, up to its limit, and returns how many came.
    #[inline]
    pub fn rx_burst(&mut self, burst: &mut Burst) -> usize {
        let before = burst.len();
        self.driver.rx_burst(burst, &self.counters);
        self.counters.polled();
        let received = &mut burst[before..];
        if received.is_empty() {
            return 0;
        }
        let mut bytes = 0;
        for packet in &mut *received {
            packet.set_port(self.port);
            bytes += packet.len() as u64;
        }
        self.counters.passed(received.len() as u64, bytes);
        received.len()
    }

    /// Whether nothing can ever come again, as at the end of a file. A port on a wire never ends.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.driver.ended()
    }

    /// A descriptor that becomes readable when packets wait, the same for as long as the queue lives; none when the
    /// queue can only be polled. [`arm_wait`](Self::arm_wait) comes before each sleep on it.
    #[must_use]
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.driver.wait_fd()
    }

    /// Asks the device to tell of packets by [`wait_fd`](Self::wait_fd), before a sleep. True when packets wait
    /// already: then poll instead.
    #[must_use = "true says that packets wait, and that a sleep would be wrong"]
    pub fn arm_wait(&mut self) -> bool {
        self.driver.arm_wait()
    }

    /// Takes that back, after a sleep.
    pub fn disarm_wait(&mut self) {
        self.driver.disarm_wait();
    }

    /// The port's number.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The queue's number in the port.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// What the queue has counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// A transmit queue. Like [`RxQueue`] it has one owner:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<wirerate_pmd::TxQueue>();
/// ```
#[derive(Debug)]
pub struct TxQueue {
    driver: Box<dyn TxDriver>,
    counters: Arc<Counters>,
    mender: Mender,
    /// Whether the mender has segments that wait.
    waiting: bool,
    port: u16,
    index: u16,
    _lease: Lease,
    _one_owner: PhantomData<Cell<()>>,
}

impl TxQueue {
    pub(super) fn new(
        driver: Box<dyn TxDriver>,
        counters: Arc<Counters>,
        port: u16,
        index: u16,
        lease: Lease,
    ) -> Self {
        let mender = Mender::new();
        Self { driver, counters, mender, waiting: false, port, index, _lease: lease, _one_owner: PhantomData }
    }

    /// Sends packets off the front of `burst`, as many as the queue takes, and returns how many those were.
    /// The rest stays in the burst: send it again, or drop it by name.
    ///
    /// What packets ask for by their [`Offload`] flags and the device does not do, the queue does in software first. A
    /// packet that it cuts into segments is taken as a whole: segments for which the device has no room
    /// [wait](Self::waiting) in the queue and go first the next time. What cannot be done is dropped and counted by
    /// its reason.
    #[inline]
    #[must_use = "packets that the queue did not take are still in the burst"]
    pub fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if burst.is_empty() {
            self.flush();
            return 0;
        }
        let before = burst.len();
        if self.waiting || burst.offloads().intersects(Offload::TX_ALL) {
            self.send_flagged(burst);
        } else {
            self.driver.tx_burst(burst, &self.counters);
        }
        before - burst.len()
    }

    /// Some packets of the burst ask for something, or segments wait.
    #[inline(never)]
    fn send_flagged(&mut self, burst: &mut Burst) {
        let missing = (burst.offloads() & Offload::TX_ALL) - self.driver.offloads();
        if self.waiting || !missing.is_empty() {
            self.mender.send(&mut *self.driver, burst, &self.counters);
            self.waiting = self.mender.waiting() > 0;
        } else {
            self.driver.tx_burst(burst, &self.counters);
        }
    }

    /// Sends segments that [wait](Self::waiting), as many as the device takes. [`tx_burst`](Self::tx_burst) does it,
    /// too; a thread that has nothing else to send calls this.
    #[inline]
    pub fn flush(&mut self) {
        if self.waiting {
            self.waiting = !self.mender.flush(&mut *self.driver, &self.counters);
        }
    }

    /// Segments of packets that were taken, which wait until the device has room for them; 512 at most.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.mender.waiting()
    }

    /// What the device does of what packets can ask for, at the moment. The rest is done in software.
    #[must_use]
    pub fn offloads(&self) -> Offload {
        self.driver.offloads() & Offload::TX_ALL
    }

    /// Sends what the queue takes, and drops the rest, counted as [`DropReason::TxFull`]. Returns how many
    /// the queue took.
    #[inline]
    pub fn send_or_drop(&mut self, burst: &mut Burst) -> usize {
        let taken = self.tx_burst(burst);
        self.give_up(burst);
        taken
    }

    /// Drops what is in `burst`, counted as [`DropReason::TxFull`].
    #[inline]
    pub fn give_up(&mut self, burst: &mut Burst) {
        if !burst.is_empty() {
            self.counters.dropped(DropReason::TxFull, burst.len() as u64);
            burst.free();
        }
    }

    /// The port's number.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The queue's number in the port.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// What the queue has counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.mender.stop(&mut *self.driver, &self.counters);
    }
}
