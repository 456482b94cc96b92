//! A started port's lanes, one for each ring, and the queues that work on the rings in them.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Lane;
use crate::packet::{Burst, Offload};
use crate::port::{Counters, DeviceQueues, DropReason, PortError, RxDriver, TxDriver};
use crate::virtqueue::Broken;

/// A ring that packets are received by.
pub(crate) trait Receive: Send + fmt::Debug {
    /// Adds received packets to `burst`.
    fn receive(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken>;

    /// Asks for notifications, and says whether packets wait already.
    fn arm(&mut self) -> bool;

    /// Takes that back.
    fn disarm(&mut self);
}

/// A ring that packets are sent by.
pub(crate) trait Transmit: Send + fmt::Debug {
    /// Takes packets off the front of `burst`, as many as there is room for.
    fn send(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken>;
}

/// The lanes of a started port, one each way for each pair of rings.
#[derive(Debug)]
pub(crate) struct Lanes<R, T> {
    pub(crate) rx: Vec<Arc<Lane<R>>>,
    pub(crate) tx: Vec<Arc<Lane<T>>>,
}

impl<R, T> Default for Lanes<R, T> {
    fn default() -> Self {
        Self { rx: Vec::new(), tx: Vec::new() }
    }
}

impl<R, T> Clone for Lanes<R, T> {
    fn clone(&self) -> Self {
        Self { rx: self.rx.clone(), tx: self.tx.clone() }
    }
}

impl<R: Receive + 'static, T: Transmit + 'static> Lanes<R, T> {
    /// Lanes without rings for `pairs` pairs of them, of the port `device`.
    ///
    /// # Errors
    /// When the system gives no descriptors.
    pub(crate) fn new(device: &str, pairs: u16) -> Result<Self, PortError> {
        let error = |source| PortError::system(device, "making the descriptors of a queue", source);
        let mut lanes = Self::default();
        for index in 0..pairs {
            lanes.rx.push(Lane::new(format!("{device} rx {index}")).map_err(error)?);
            lanes.tx.push(Lane::new(format!("{device} tx {index}")).map_err(error)?);
        }
        Ok(lanes)
    }

    /// The first `rx` and `tx` queues, which leave to the peer what `can` says at the moment, as `Offload` bits.
    pub(crate) fn queues(&self, rx: u16, tx: u16, can: &Arc<AtomicU32>) -> DeviceQueues {
        let mut queues = DeviceQueues { rx: Vec::new(), tx: Vec::new() };
        for lane in self.rx.iter().take(rx.into()) {
            queues.rx.push(Box::new(LaneRx { lane: Arc::clone(lane) }));
        }
        for lane in self.tx.iter().take(tx.into()) {
            queues.tx.push(Box::new(LaneTx { lane: Arc::clone(lane), can: Arc::clone(can) }));
        }
        queues
    }

    /// Rings in which the other side broke the rules.
    pub(crate) fn broken(&self) -> u64 {
        let rx: u64 = self.rx.iter().map(|lane| lane.broken()).sum();
        rx + self.tx.iter().map(|lane| lane.broken()).sum::<u64>()
    }
}

/// A receive queue.
#[derive(Debug)]
struct LaneRx<R> {
    lane: Arc<Lane<R>>,
}

impl<R: Receive> RxDriver for LaneRx<R> {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        self.lane.work(|rx| ((), rx.receive(burst, counters)));
    }

    fn ended(&self) -> bool {
        self.lane.has_ended()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.lane.wait_fd()
    }

    fn arm_wait(&mut self) -> bool {
        // Who is not told of packets asks for nothing.
        self.lane.wait_fd().is_some() && self.lane.with(|rx| rx.is_some_and(R::arm))
    }

    fn disarm_wait(&mut self) {
        self.lane.with(|rx| rx.into_iter().for_each(R::disarm));
        self.lane.bell().quiet();
    }
}

/// A transmit queue.
#[derive(Debug)]
struct LaneTx<T> {
    lane: Arc<Lane<T>>,
    can: Arc<AtomicU32>,
}

impl<T: Transmit> TxDriver for LaneTx<T> {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let sent = self.lane.work(|tx| ((), tx.send(burst, counters)));
        if sent.is_none() && !self.lane.is_working() {
            counters.dropped(DropReason::TxLinkDown, burst.len() as u64);
            burst.free();
        }
    }

    fn offloads(&self) -> Offload {
        Offload::from_bits_truncate(self.can.load(Ordering::Relaxed))
    }
}
