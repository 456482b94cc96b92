//! The ring between one producer and one consumer: two positions, plain loads and stores.
//!
//! The producer owns the places from its position up to the consumer's plus the capacity, the consumer those
//! from its own up to the producer's. Each side moves its own position only, with release, after it has moved
//! the values; the other reads it with acquire.

use super::Amount;
use super::storage::Shared;
use crate::sync::Ordering;

/// Says how many of `n` went in.
///
/// # Safety
/// Called by one thread at a time, with the `position` and `seen` of the ring's producer; `items` are `n`, of
/// which those that went in are moved out.
#[inline]
pub(super) unsafe fn enqueue<T>(
    ring: &Shared<T>,
    position: &mut usize,
    seen: &mut usize,
    items: *const T,
    n: usize,
    amount: Amount,
) -> usize {
    let mut room = ring.capacity - position.wrapping_sub(*seen);
    if room < n {
        *seen = ring.consumers.position.load(Ordering::Acquire);
        room = ring.capacity - position.wrapping_sub(*seen);
    }
    let now = if room >= n {
        n
    } else if amount == Amount::Some {
        room
    } else {
        0
    };
    // SAFETY: there is room for `now`, at most the capacity, and these places are the producer's.
    unsafe { ring.write(*position, items, now) };
    *position = position.wrapping_add(now);
    ring.producers.position.store(*position, Ordering::Release);
    now
}

/// Says how many of `n` came out.
///
/// # Safety
/// Called by one thread at a time, with the `position` and `seen` of the ring's consumer; `out` has room for
/// `n`.
#[inline]
pub(super) unsafe fn dequeue<T>(
    ring: &Shared<T>,
    position: &mut usize,
    seen: &mut usize,
    out: *mut T,
    n: usize,
    amount: Amount,
) -> usize {
    let mut there = seen.wrapping_sub(*position);
    if there < n {
        *seen = ring.producers.position.load(Ordering::Acquire);
        there = seen.wrapping_sub(*position);
    }
    let now = if there >= n {
        n
    } else if amount == Amount::Some {
        there
    } else {
        0
    };
    // SAFETY: there are `now`, at most the capacity, and these places are the consumer's.
    unsafe { ring.read(*position, out, now) };
    *position = position.wrapping_add(now);
    ring.consumers.position.store(*position, Ordering::Release);
    now
}
