//! Where packets come from and where they go.

use std::os::fd::BorrowedFd;

use wirerate_mempool::ring::{Consumer, Producer, Single, ring};

use crate::packet::{Burst, Mbuf};
use crate::port::{Counters, DropReason, RxQueue, TxQueue};

/// Gives packets.
pub trait Source {
    /// Adds packets to `burst`, up to its limit, and returns how many.
    fn pull(&mut self, burst: &mut Burst) -> usize;

    /// Whether it has given all that it ever will.
    fn ended(&self) -> bool {
        false
    }

    /// A descriptor that becomes readable when there is something to give; none when one has to look.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// As [`RxQueue::arm_wait`].
    fn arm_wait(&mut self) -> bool {
        false
    }

    /// As [`RxQueue::disarm_wait`].
    fn disarm_wait(&mut self) {}
}

/// Takes packets.
pub trait Sink {
    /// Takes all of `burst`: what it cannot hand on it drops, and counts by a reason.
    fn push(&mut self, burst: &mut Burst, counters: &Counters);

    /// Is called when the source has nothing, to hand on what the sink may have kept.
    #[inline]
    fn idle(&mut self) {}
}

impl Source for RxQueue {
    #[inline]
    fn pull(&mut self, burst: &mut Burst) -> usize {
        self.rx_burst(burst)
    }

    fn ended(&self) -> bool {
        RxQueue::ended(self)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        RxQueue::wait_fd(self)
    }

    fn arm_wait(&mut self) -> bool {
        RxQueue::arm_wait(self)
    }

    fn disarm_wait(&mut self) {
        RxQueue::disarm_wait(self);
    }
}

/// Sends what the queue takes and drops the rest, as DPDK's l2fwd does; the queue counts both.
impl Sink for TxQueue {
    #[inline]
    fn push(&mut self, burst: &mut Burst, _counters: &Counters) {
        self.send_or_drop(burst);
    }

    #[inline]
    fn idle(&mut self) {
        self.flush();
    }
}

/// A transmit queue that is offered a burst up to `attempts` more times before the rest is dropped.
#[derive(Debug)]
pub struct Retry {
    /// The queue.
    pub queue: TxQueue,
    /// Further attempts after the first.
    pub attempts: u32,
}

impl Sink for Retry {
    #[inline]
    fn push(&mut self, burst: &mut Burst, _counters: &Counters) {
        for _ in 0..=self.attempts {
            let _ = self.queue.tx_burst(burst);
            if burst.is_empty() {
                return;
            }
            core::hint::spin_loop();
        }
        self.queue.give_up(burst);
    }

    #[inline]
    fn idle(&mut self) {
        self.queue.flush();
    }
}

/// Puts every packet home.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    #[inline]
    fn push(&mut self, burst: &mut Burst, _counters: &Counters) {
        burst.free();
    }
}

/// The end of a pipeline that another one goes on from.
#[derive(Debug)]
pub struct RingSink(Producer<Mbuf, Single, Single>);

/// The beginning of a pipeline that goes on from another one. It ends when that one is dropped and the ring
/// is empty.
#[derive(Debug)]
pub struct RingSource(Consumer<Mbuf, Single, Single>);

/// A ring of `capacity` packets between two pipelines.
pub(super) fn ring_between(capacity: usize) -> (RingSink, RingSource) {
    let (producer, consumer) = ring(capacity.max(1));
    (RingSink(producer), RingSource(consumer))
}

impl Sink for RingSink {
    #[inline]
    fn push(&mut self, burst: &mut Burst, counters: &Counters) {
        self.0.enqueue_burst(burst.as_batch());
        counters.dropped(DropReason::RingFull, burst.len() as u64);
        burst.free();
    }
}

impl Source for RingSource {
    #[inline]
    fn pull(&mut self, burst: &mut Burst) -> usize {
        let room = burst.room();
        self.0.dequeue_burst(burst.as_batch(), room)
    }

    fn ended(&self) -> bool {
        // Closed is asked first: what was sent before the close is seen by the second question.
        self.0.is_closed() && self.0.is_empty()
    }
}
