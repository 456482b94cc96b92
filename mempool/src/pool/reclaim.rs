//! Objects out of other threads' slots, when the depot is dry.
//!
//! The caller holds the pool's lock, so no other thread reclaims. Two things are wanted at odds: a call must
//! find what is free, wherever it is; and calls on a pool that really is empty, which may come in a tight
//! loop, must not each interrupt all processors. So a gate is closed only if the slot looks worth it: it has
//! objects, or its owner is in the midst of moving some. When none does, the depot is looked at again: if
//! nothing came or went there since before the slots were looked at, then no object moved between slots
//! unseen, and all of them are in use.
//!
//! What this promises: a call for n objects fails only if fewer than n were free all through the call. What
//! another thread puts during the call may be missed.

use core::ptr::NonNull;

use super::core::Core;
use super::lifetime::Pin;
use crate::Exhausted;
use crate::slot::{CLOSED, Hold, OwnedSlot, Slot};
use crate::sync::{Ordering, fence};

/// Opens every gate behind which nothing was touched, when it goes; the others' owners open theirs.
struct Gates<'a>(&'a Core);

impl Drop for Gates<'_> {
    fn drop(&mut self) {
        self.0.thread_slots().filter(|owned| owned.slot.is_closed()).for_each(|owned| owned.slot.open());
    }
}

impl Core {
    /// Gets `n` objects out of the depot and any slot, or none. `own` is the caller's slot, in which and in
    /// the depot there were not enough.
    ///
    /// # Safety
    /// `out` has room for `n`; `own` is of this pool.
    #[cold]
    pub(super) unsafe fn reclaim(
        &self,
        pin: &Pin<'_>,
        own: &Hold,
        out: *mut NonNull<u8>,
        n: usize,
    ) -> Result<(), Exhausted> {
        debug_assert!(pin.is_of(self), "the lock of another pool");
        let gates = Gates(self);
        let mut taken = 0;
        loop {
            // SAFETY: `taken` of `n` are written, so there is room for the others; the same holds below.
            taken += unsafe { own.take(&self.depot, self, out.add(taken), n - taken) };
            if taken == n {
                return Ok(());
            }
            // Another thread may have brought something since.
            let Some(version) = self.depot.full.empty_version() else { continue };
            fence(Ordering::SeqCst);
            let shared = NonNull::from(&self.shared);
            if !own.is(shared) {
                // SAFETY: the shared slot is used under the lock only, which we hold.
                taken += unsafe { own.steal(&Slot::own(shared), out.add(taken), n - taken) };
            }
            // SAFETY: gates that are closed by now were closed by a reclaim before this one, and its barrier
            // has come since.
            taken += unsafe { self.steal_behind_gates(own, out.add(taken), n - taken) };
            if taken == n {
                return Ok(());
            }
            let found = match self.close_gates(own) {
                Look::Closed => {
                    // SAFETY: the barrier has come.
                    taken += unsafe { self.steal_behind_gates(own, out.add(taken), n - taken) };
                    true
                }
                Look::Nothing => self.depot.full.empty_version() != Some(version),
                Look::Refused => false,
            };
            if taken == n {
                return Ok(());
            }
            if !found {
                // SAFETY: what was taken is the pool's, and goes back before anyone else has the lock.
                unsafe { own.give(&self.depot, self, out, taken) };
                drop(gates);
                return Err(Exhausted);
            }
        }
    }

    /// Takes up to `n` objects out of the slots whose gates are closed; says how many.
    ///
    /// # Safety
    /// As for `reclaim`; a heavy barrier has come since any gate was closed.
    unsafe fn steal_behind_gates(&self, own: &Hold, out: *mut NonNull<u8>, n: usize) -> usize {
        let mut taken = 0;
        for OwnedSlot { slot, .. } in self.thread_slots().filter(|owned| owned.slot.is_closed()) {
            if taken == n {
                break;
            }
            slot.wait();
            // SAFETY: the gate was closed before a heavy barrier, and the owner has left since; we have the
            // lock. There is room for `n`.
            taken += unsafe { own.steal(&Slot::of_another(NonNull::from(slot)), out.add(taken), n - taken) };
        }
        taken
    }

    /// Closes the gates of slots that look worth it and are not closed yet.
    fn close_gates(&self, own: &Hold) -> Look {
        let mut look = Look::Nothing;
        for OwnedSlot { slot, .. } in self.thread_slots() {
            if !slot.is_closed() && !own.is(NonNull::from(slot)) && slot.is_worth_a_look() {
                slot.close(CLOSED);
                look = Look::Closed;
            }
        }
        if matches!(look, Look::Closed) && !self.mode.heavy() { Look::Refused } else { look }
    }
}

/// What came of looking at the slots.
enum Look {
    /// More gates are closed; their owners will stay out once they have left.
    Closed,
    /// No slot with an open gate has anything.
    Nothing,
    /// The kernel refused the barrier: owners may be in their slots without our seeing it.
    Refused,
}
