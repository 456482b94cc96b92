//! A bounded ring that moves values between threads, in bulk.
//!
//! Who may be at either end is a type: [`Single`], one thread at a time, or [`Multi`], any number, each with
//! a clone. There are two rings behind one face:
//!
//! - **Both ends single**: two positions, each written by one side (Lamport's ring), plain loads and stores.
//!   Each side keeps what it saw last of the other's position and reads it again only when that does not
//!   suffice. Every call is wait-free.
//! - **An end is multi**: a sequence number for each place says for which turn of the ring the place is free
//!   or filled (Vyukov's bounded queue). A call looks how many places at its position are ready, takes them
//!   all by one compare-and-swap, moves the values, and then marks each place.
//!
//! DPDK's default ring publishes in the order of reservation, so a thread that was preempted between the two
//! keeps every other one spinning until it runs again. Here nobody waits for anybody in a call: with the
//! thread asleep, other producers go on behind its places, and calls return "full" or nothing when they meet
//! a place that is not ready. That is not the same as lock-freedom of the ring as a whole: consumers take
//! nothing beyond the places of a sleeping producer until it has marked them, as the order is kept.
//!
//! Values are moved by copying memory; no code of theirs runs inside a call, so there is nothing in the midst
//! of which it could panic.
//!
//! ```
//! use arrayvec::ArrayVec;
//! use wirerate_mempool::ring::{Single, ring};
//!
//! let (mut producer, mut consumer) = ring::<_, Single, Single>(4);
//! let mut batch: ArrayVec<String, 8> = (0..6).map(|n| n.to_string()).collect();
//! assert_eq!(producer.enqueue_burst(&mut batch), 4);
//! assert_eq!(batch.len(), 2);
//! assert_eq!(consumer.pop().as_deref(), Some("0"));
//! let mut rest = Vec::new();
//! assert_eq!(consumer.dequeue_burst(&mut rest, 32), 3);
//! assert_eq!(rest, ["1", "2", "3"]);
//! ```
//!
//! A single end cannot be used by two threads at once:
//!
//! ```compile_fail,E0277
//! use wirerate_mempool::ring::{Single, ring};
//! fn shared<T: Sync>(_: &T) {}
//! let (producer, _consumer) = ring::<u32, Single, Single>(4);
//! shared(&producer);
//! ```
//!
//! nor be cloned:
//!
//! ```compile_fail,E0599
//! use wirerate_mempool::ring::{Multi, Single, ring};
//! let (_producer, consumer) = ring::<u32, Multi, Single>(4);
//! let other = consumer.clone();
//! ```

use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};

use thiserror::Error;

use crate::batch::{Batch, forget_front};
use crate::sync::{Arc, Ordering};

#[cfg(all(test, loom))]
mod models;
mod sequenced;
mod spsc;
mod storage;

pub use storage::{Mode, Multi, Single};

use storage::Shared;

/// The largest ring.
pub const MAX_CAPACITY: usize = 1 << 30;

/// The ring has no room for all values; none went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the ring has no room for all of the values")]
pub struct Full;

/// The ring has fewer values than were asked for, or there is no room for them; none came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the ring has fewer values than were asked for, or there is no room for them")]
pub struct Empty;

/// A ring for up to `capacity` values (1 to [`MAX_CAPACITY`]). Its storage is the next power of two.
///
/// # Panics
/// If `capacity` is out of range, or the heap has no room for it.
#[must_use]
pub fn ring<T, P: Mode, C: Mode>(capacity: usize) -> (Producer<T, P, C>, Consumer<T, P, C>) {
    assert!(
        (1..=MAX_CAPACITY).contains(&capacity),
        "a ring of {capacity} cannot be: 1 to {MAX_CAPACITY} can"
    );
    let shared = Arc::new(Shared::new(capacity, P::MULTI || C::MULTI));
    let producer = Producer { shared: Arc::clone(&shared), position: 0, seen: 0, ends: PhantomData };
    (producer, Consumer { shared, position: 0, seen: 0, ends: PhantomData })
}

/// How many of the values asked for will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    /// All or none.
    All,
    /// As many as there are.
    Some,
}

/// The end at which values go in.
pub struct Producer<T, P: Mode, C: Mode> {
    shared: Arc<Shared<T>>,
    /// Where a single end goes on; a multi end does not use it.
    position: usize,
    /// The other side's position when it was last read, where both ends are single.
    seen: usize,
    ends: PhantomData<(P, fn() -> C)>,
}

/// The end at which values come out, in the order in which they went in.
pub struct Consumer<T, P: Mode, C: Mode> {
    shared: Arc<Shared<T>>,
    position: usize,
    seen: usize,
    ends: PhantomData<(C, fn() -> P)>,
}

impl<T, P: Mode, C: Mode> Producer<T, P, C> {
    /// Moves all of `items` into the ring, or none.
    ///
    /// # Errors
    /// [`Full`] when there is no room for all; none was moved.
    #[inline]
    pub fn enqueue_bulk<B: Batch<T>>(&mut self, items: &mut B) -> Result<(), Full> {
        let n = items.count();
        // SAFETY: the first `n` are there; as many as went in are forgotten.
        unsafe {
            let moved = self.enqueue(items.front(), n, Amount::All);
            forget_front(items, moved);
            if moved == n { Ok(()) } else { Err(Full) }
        }
    }

    /// Moves as many of `items` into the ring as it has room for, from the front; says how many.
    #[inline]
    pub fn enqueue_burst<B: Batch<T>>(&mut self, items: &mut B) -> usize {
        let n = items.count();
        // SAFETY: as above.
        unsafe {
            let moved = self.enqueue(items.front(), n, Amount::Some);
            forget_front(items, moved);
            moved
        }
    }

    /// Moves one value into the ring.
    ///
    /// # Errors
    /// The value, when the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        let item = ManuallyDrop::new(item);
        // SAFETY: there is one; if it does not go in it is still ours.
        if unsafe { self.enqueue(&raw const *item, 1, Amount::All) } == 1 {
            Ok(())
        } else {
            Err(ManuallyDrop::into_inner(item))
        }
    }

    /// Says how many went in.
    ///
    /// # Safety
    /// `items` are `n`, of which those that went in are moved out.
    #[inline]
    unsafe fn enqueue(&mut self, items: *const T, n: usize, amount: Amount) -> usize {
        // SAFETY: as the caller says; `&mut self` and the mode keep a single end to one thread, and its
        // position is where it left off.
        unsafe {
            if P::MULTI || C::MULTI {
                sequenced::enqueue::<T, P>(&self.shared, &mut self.position, items, n, amount)
            } else {
                spsc::enqueue(&self.shared, &mut self.position, &mut self.seen, items, n, amount)
            }
        }
    }

    /// Values in the ring; an estimate while others use it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether there are none; an estimate while others use it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most values that it can have.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Whether every consumer is gone, so that nothing will come out any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.consumers.alive.load(Ordering::Acquire) == 0
    }
}

impl<T, P: Mode, C: Mode> Consumer<T, P, C> {
    /// Moves `n` values out of the ring to the end of `out`, or none.
    ///
    /// # Errors
    /// [`Empty`] when the ring has fewer or `out` has no room for `n`; none was moved.
    #[inline]
    pub fn dequeue_bulk<B: Batch<T>>(&mut self, out: &mut B, n: usize) -> Result<(), Empty> {
        if out.room_for(n) < n {
            return Err(Empty);
        }
        if self.fill(out, n, Amount::All) == n { Ok(()) } else { Err(Empty) }
    }

    /// Moves up to `max` values out of the ring to the end of `out`, as far as there is room; says how many.
    #[inline]
    pub fn dequeue_burst<B: Batch<T>>(&mut self, out: &mut B, max: usize) -> usize {
        // So that a `Vec` does not grow for what the ring cannot have.
        let n = out.room_for(max.min(self.shared.capacity));
        self.fill(out, n, Amount::Some)
    }

    /// Moves one value out of the ring; none if it is empty.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let mut item = MaybeUninit::uninit();
        // SAFETY: there is room for one, which is written if it came out.
        unsafe { (self.dequeue(item.as_mut_ptr(), 1, Amount::All) == 1).then(|| item.assume_init()) }
    }

    /// `out` has room for `n`.
    #[inline]
    fn fill<B: Batch<T>>(&mut self, out: &mut B, n: usize, amount: Amount) -> usize {
        let count = out.count();
        // SAFETY: there is room for `n`; as many as came out are written.
        unsafe {
            let moved = self.dequeue(out.spare(), n, amount);
            out.set_count(count + moved);
            moved
        }
    }

    /// Says how many came out.
    ///
    /// # Safety
    /// `out` has room for `n`.
    #[inline]
    unsafe fn dequeue(&mut self, out: *mut T, n: usize, amount: Amount) -> usize {
        // SAFETY: as the caller says; as for `enqueue`.
        unsafe {
            if P::MULTI || C::MULTI {
                sequenced::dequeue::<T, C>(&self.shared, &mut self.position, out, n, amount)
            } else {
                spsc::dequeue(&self.shared, &mut self.position, &mut self.seen, out, n, amount)
            }
        }
    }

    /// Values in the ring; an estimate while others use it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether there are none; an estimate while others use it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most values that it can have.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Whether every producer is gone, so that nothing more will come. What is in the ring can still be taken
    /// out: look at this first, and then take until it is empty.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.producers.alive.load(Ordering::Acquire) == 0
    }
}

impl<T, C: Mode> Clone for Producer<T, Multi, C> {
    fn clone(&self) -> Self {
        self.shared.producers.alive.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), position: 0, seen: 0, ends: PhantomData }
    }
}

impl<T, P: Mode> Clone for Consumer<T, P, Multi> {
    fn clone(&self) -> Self {
        self.shared.consumers.alive.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), position: 0, seen: 0, ends: PhantomData }
    }
}

impl<T, P: Mode, C: Mode> Drop for Producer<T, P, C> {
    fn drop(&mut self) {
        // Release: who sees that we are gone sees all that we put in.
        self.shared.producers.alive.fetch_sub(1, Ordering::Release);
    }
}

impl<T, P: Mode, C: Mode> Drop for Consumer<T, P, C> {
    fn drop(&mut self) {
        self.shared.consumers.alive.fetch_sub(1, Ordering::Release);
    }
}

impl<T, P: Mode, C: Mode> fmt::Debug for Producer<T, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl<T, P: Mode, C: Mode> fmt::Debug for Consumer<T, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}
