//! A port's queue that lives on while the ring in it comes and goes.
//!
//! The application polls a queue whether a peer or a device is there or not. The control thread puts a ring into the queue's lane when
//! one is set up, and takes it out when that ends; from then on nobody touches the ring or its memory. Both
//! hold a lock for that, which a polling thread takes once a burst and never waits for.

mod queues;
mod turn;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub(crate) use self::queues::{Lanes, Receive, Transmit};
use self::turn::{Taken, Turn};
use crate::virtqueue::{Bell, Broken, Ringer};

/// Where a queue's ring is while there is one.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    name: String,
    slot: Turn<Slot<T>>,
    /// The control thread waits for the lock.
    wanted: AtomicU32,
    /// There is a ring, it is enabled, and nothing is wrong with it.
    working: AtomicBool,
    /// No ring will come again.
    ended: AtomicBool,
    /// The other side tells by the bell; else the queue can only be polled.
    rings: AtomicBool,
    /// Rings in which the other side broke the protocol.
    broken: AtomicU64,
    bell: Bell,
    /// Wakes a sleeper when a ring comes.
    nudge: Ringer,
}

#[derive(Debug)]
struct Slot<T> {
    ring: Option<T>,
    enabled: bool,
}

impl<T> Lane<T> {
    /// Without a ring. `name` is the queue's, for messages.
    pub(crate) fn new(name: String) -> std::io::Result<Arc<Self>> {
        let (bell, nudge) = (Bell::new()?, Ringer::new()?);
        bell.listen_to(nudge.as_fd())?;
        Ok(Arc::new(Self {
            name,
            slot: Turn::new(Slot { ring: None, enabled: false }),
            wanted: AtomicU32::new(0),
            working: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            rings: AtomicBool::new(true),
            broken: AtomicU64::new(0),
            bell,
            nudge,
        }))
    }

    /// Works on the ring, if there is one that is enabled; to be called by the queue's owner, once a burst. None when there
    /// is none, or the control thread has it at the moment. A ring of which `work` says that it is broken is not worked on
    /// again.
    #[inline]
    pub(crate) fn work<R>(&self, work: impl FnOnce(&mut T) -> (R, Result<(), Broken>)) -> Option<R> {
        if self.wanted.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let mut slot = self.slot.try_take()?;
        let Slot { ring: Some(ring), enabled: true } = &mut *slot else { return None };
        let (result, health) = work(ring);
        if let Err(broken) = health {
            self.give_up(slot, broken);
        }
        Some(result)
    }

    /// Works on a ring, enabled or not, from the control thread or for a rare call of the owner.
    pub(crate) fn with<R>(&self, work: impl FnOnce(Option<&mut T>) -> R) -> R {
        work(self.lock().ring.as_mut())
    }

    #[cold]
    fn give_up(&self, mut slot: Taken<'_, Slot<T>>, broken: Broken) {
        slot.enabled = false;
        self.working.store(false, Ordering::Relaxed);
        self.broken.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            "{}: the other side broke the ring's rules: {broken}; it rests until it is set up anew",
            self.name
        );
    }

    fn lock(&self) -> Taken<'_, Slot<T>> {
        // The owner of the queue looks at this first, or it would come first again and again.
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let slot = self.slot.take();
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        slot
    }

    /// Puts a ring in, not enabled; what was there before is dropped.
    pub(crate) fn install(&self, ring: T) {
        let before = {
            let mut slot = self.lock();
            slot.enabled = false;
            self.working.store(false, Ordering::Relaxed);
            slot.ring.replace(ring)
        };
        drop(before);
    }

    /// Lets the ring work or rest.
    pub(crate) fn enable(&self, on: bool) {
        let mut slot = self.lock();
        slot.enabled = on && slot.ring.is_some();
        self.working.store(slot.enabled, Ordering::Relaxed);
        drop(slot);
        // A sleeper has to ask for notifications again.
        self.nudge.ring();
    }

    /// Takes the ring out.
    pub(crate) fn remove(&self) -> Option<T> {
        let mut slot = self.lock();
        slot.enabled = false;
        self.working.store(false, Ordering::Relaxed);
        slot.ring.take()
    }

    /// Says that no ring will come again: the device is gone.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.nudge.ring();
    }

    /// Whether no ring will come again.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Says that the other side cannot tell of packets, so that nobody waits for that. To be called before the lane's
    /// queue is given out.
    pub(crate) fn only_polled(&self) {
        self.rings.store(false, Ordering::Relaxed);
    }

    /// Whether packets can pass.
    #[inline]
    pub(crate) fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed)
    }

    /// Rings in which the other side broke the protocol.
    pub(crate) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// What the queue's owner waits for.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Readable when the ring has something, or comes; none when that is not told.
    pub(crate) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.rings.load(Ordering::Relaxed).then(|| self.bell.as_fd())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_an_enabled_ring_works_and_a_broken_one_no_more() {
        let lane = Lane::new("rx".into()).unwrap();
        let count = |lane: &Lane<u32>| lane.work(|ring| (std::mem::replace(ring, *ring + 1), Ok(())));
        assert_eq!(count(&lane), None);
        lane.install(5);
        assert_eq!((count(&lane), lane.is_working()), (None, false));
        lane.enable(true);
        assert_eq!((count(&lane), count(&lane), lane.is_working()), (Some(5), Some(6), true));
        lane.enable(false);
        assert_eq!(count(&lane), None);
        lane.enable(true);
        let broken = lane.work(|_| ((), Err(Broken::Endless)));
        assert_eq!((broken, count(&lane), lane.is_working(), lane.broken()), (Some(()), None, false, 1));
        assert_eq!((lane.remove(), lane.remove()), (Some(7), None));
        lane.enable(true);
        assert!(!lane.is_working());
    }

    #[test]
    fn the_control_thread_gets_its_turn_beside_one_that_polls_without_end() {
        let lane = Lane::new("rx".into()).unwrap();
        lane.install(0u64);
        lane.enable(true);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    lane.work(|ring| {
                        *ring += 1;
                        ((), Ok(()))
                    });
                }
            });
            let begun = Instant::now();
            for _ in 0..200 {
                let ring = lane.remove().unwrap();
                lane.install(ring);
                lane.enable(true);
            }
            let took = begun.elapsed();
            end.store(true, Ordering::Relaxed);
            assert!(took < Duration::from_secs(10), "{took:?}");
        });
    }
}
