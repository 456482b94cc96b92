//! The ring with a sequence number for each place, for any number of producers and consumers.
//!
//! For position p (counted without end) and a storage of S places, the number of place p mod S is
//!
//! - p: free for the value of position p;
//! - p + 1: filled with it;
//! - p + S: free for the value of position p + S, that is, after the value was taken out.
//!
//! A call finds how many places from its side's position on are ready, moves the position over them by
//! compare-and-swap, and so owns them: nobody else's position passes there before their numbers have gone a
//! turn further. Then it moves the values and sets the numbers, with release; who reads a number with acquire
//! sees the value, or that it is gone.
//!
//! Numbers are positions cut to 32 bits. A place's number is never more than a turn away from any position
//! that a thread could still swap away from, and a turn is at most 2^30; so the difference, as a signed
//! number, tells which is ahead.

use super::Amount;
use super::storage::{Mode, Shared};
use crate::sync::{AtomicUsize, Ordering};

/// Takes up to `n` places over for one side: those whose number is `ready` ahead of their position. The
/// position of the first, and how many.
#[inline]
fn reserve<T, M: Mode>(
    ring: &Shared<T>,
    side: &AtomicUsize,
    own: &mut usize,
    n: usize,
    amount: Amount,
    ready: u32,
    limit: impl Fn(usize) -> usize,
) -> (usize, usize) {
    let mut position = if M::MULTI { side.load(Ordering::Relaxed) } else { *own };
    loop {
        let most = n.min(limit(position));
        let mut now = 0;
        let mut passed = false;
        while now < most {
            let at = position.wrapping_add(now);
            // Acquire: the value has been moved in, or out.
            // SAFETY: a ring with a multi end has numbers.
            let number = unsafe { ring.sequence(at) }.load(Ordering::Acquire);
            let ahead = number.wrapping_sub((at as u32).wrapping_add(ready)) as i32;
            if ahead != 0 {
                passed = ahead > 0;
                break;
            }
            now += 1;
        }
        let enough = now > 0 && (now == n || amount == Amount::Some);
        if M::MULTI {
            if passed || !enough {
                // A position that others have left behind says nothing about the ring as it is.
                let current = side.load(Ordering::Relaxed);
                if current != position {
                    position = current;
                    continue;
                }
            }
            if !enough {
                return (position, 0);
            }
            // Relaxed: what is in the places is ordered by their numbers.
            let next = position.wrapping_add(now);
            match side.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (position, now),
                Err(current) => position = current,
            }
        } else {
            if !enough {
                return (position, 0);
            }
            *own = position.wrapping_add(now);
            side.store(*own, Ordering::Relaxed);
            return (position, now);
        }
    }
}

/// Says how many of `n` went in.
///
/// # Safety
/// If `P` is single: called by one thread at a time, with the `position` of the ring's producer. `items` are
/// `n`, of which those that went in are moved out.
#[inline]
pub(super) unsafe fn enqueue<T, P: Mode>(
    ring: &Shared<T>,
    position: &mut usize,
    items: *const T,
    n: usize,
    amount: Amount,
) -> usize {
    let limit = |position: usize| {
        let used = position.wrapping_sub(ring.consumers.position.load(Ordering::Relaxed)) as isize;
        // Below zero if the position read is older than the other side's.
        ring.capacity.saturating_sub(used.max(0).unsigned_abs())
    };
    let side = &ring.producers.position;
    let (first, now) = reserve::<T, P>(ring, side, position, n, amount, 0, limit);
    // SAFETY: the places were free, and are now this call's.
    unsafe { ring.write(first, items, now) };
    for at in (0..now).map(|ahead| first.wrapping_add(ahead)) {
        // SAFETY: as above.
        unsafe { ring.sequence(at) }.store((at as u32).wrapping_add(1), Ordering::Release);
    }
    now
}

/// Says how many of `n` came out.
///
/// # Safety
/// If `C` is single: called by one thread at a time, with the `position` of the ring's consumer. `out` has
/// room for `n`.
#[inline]
pub(super) unsafe fn dequeue<T, C: Mode>(
    ring: &Shared<T>,
    position: &mut usize,
    out: *mut T,
    n: usize,
    amount: Amount,
) -> usize {
    let side = &ring.consumers.position;
    let (first, now) = reserve::<T, C>(ring, side, position, n, amount, 1, |_| ring.capacity);
    // SAFETY: the places were filled, and are now this call's.
    unsafe { ring.read(first, out, now) };
    let turn = ring.places() as u32;
    for at in (0..now).map(|ahead| first.wrapping_add(ahead)) {
        // SAFETY: as above.
        unsafe { ring.sequence(at) }.store((at as u32).wrapping_add(turn), Ordering::Release);
    }
    now
}
