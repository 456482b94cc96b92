//! The right to use a slot: its owner's, or that of the holder of the pool's lock; and what is done with the
//! two magazines.

use core::ptr::NonNull;

use super::Slot;
use crate::depot::Depot;
use crate::magazine::{Find, Magazine};
use crate::sync::{Ordering, fence};

/// A slot entered by its owner; left on drop.
#[derive(Debug)]
pub(crate) struct Entered(pub(super) Hold);

impl core::ops::Deref for Entered {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.0
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: the slot lives until `busy` is reset, and is not touched after that.
        unsafe { (*self.0.0.as_ptr()).busy.store(0, Ordering::Release) };
    }
}

/// The right to use a slot, which one thread has at a time.
#[derive(Debug)]
pub(crate) struct Hold(pub(super) NonNull<Slot>);

/// Which of the two magazines.
#[derive(Debug, Clone, Copy)]
enum Place {
    Loaded,
    Previous,
}

impl Hold {
    /// A hold without entering: under the pool's lock, of the caller's own slot, of the shared one, or of one
    /// whose gate was closed and whose owner has left.
    ///
    /// # Safety
    /// One of those is the case, and stays so as long as the hold is used; the slot lives.
    pub(crate) unsafe fn exclusive(slot: NonNull<Slot>) -> Self {
        Self(slot)
    }

    /// Whether it is of this slot.
    pub(crate) fn is(&self, slot: NonNull<Slot>) -> bool {
        self.0 == slot
    }

    fn slot(&self) -> &Slot {
        // SAFETY: who made the hold said that the slot lives as long as the hold is used.
        unsafe { self.0.as_ref() }
    }

    fn magazine(&self, place: Place) -> (NonNull<Magazine>, u32) {
        let slot = self.slot();
        let (magazine, len) = match place {
            Place::Loaded => (&slot.loaded, &slot.loaded_len),
            Place::Previous => (&slot.previous, &slot.previous_len),
        };
        // SAFETY: a slot has two magazines from its beginning; the pointers are never null.
        let magazine = unsafe { NonNull::new_unchecked(magazine.load(Ordering::Relaxed)) };
        (magazine, len.load(Ordering::Relaxed))
    }

    fn set(&self, place: Place, (magazine, len): (NonNull<Magazine>, u32)) {
        let slot = self.slot();
        let (to, to_len) = match place {
            Place::Loaded => (&slot.loaded, &slot.loaded_len),
            Place::Previous => (&slot.previous, &slot.previous_len),
        };
        to.store(magazine.as_ptr(), Ordering::Relaxed);
        to_len.store(len, Ordering::Relaxed);
    }

    fn swap(&self) {
        let (loaded, previous) = (self.magazine(Place::Loaded), self.magazine(Place::Previous));
        self.set(Place::Loaded, previous);
        self.set(Place::Previous, loaded);
    }

    /// Takes up to `n` objects out of the loaded magazine; says how many.
    ///
    /// # Safety
    /// `out` has room for `n`.
    unsafe fn take_loaded(&self, out: *mut NonNull<u8>, n: usize) -> usize {
        let (magazine, len) = self.magazine(Place::Loaded);
        let taken = n.min(len as usize);
        let left = len as usize - taken;
        // SAFETY: the magazine has `len` objects and is ours alone; the last `taken` are copied to where
        // there is room.
        unsafe {
            Magazine::read(magazine);
            out.copy_from_nonoverlapping(Magazine::objects(magazine).add(left), taken);
        }
        self.set(Place::Loaded, (magazine, left as u32));
        taken
    }

    /// Says that magazines are about to change places. The fence pairs with that of a thread that looks for
    /// objects (`pool::reclaim`): if it does not see this, then we see the depot as it left it, and what we
    /// take from there or bring changes the depot's version after it looked.
    fn begin_move(&self) {
        self.count_move();
        fence(Ordering::SeqCst);
    }

    fn end_move(&self) {
        self.count_move();
    }

    fn count_move(&self) {
        let moving = &self.slot().moving;
        // Only the holder writes it: no read-modify-write is needed.
        moving.store(moving.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// Takes `n` objects from here and the depot: all or, if there are not enough, none. True if all.
    ///
    /// # Safety
    /// `out` has room for `n`; `depot` and `table` are the pool's.
    pub(crate) unsafe fn get(
        &self,
        depot: &Depot,
        table: &impl Find,
        out: *mut NonNull<u8>,
        n: usize,
    ) -> bool {
        // A thread that finds the pool dry again and again must not look as if it moved something.
        if n > self.slot().len() && depot.full.is_empty() {
            return false;
        }
        self.begin_move();
        // SAFETY: as the caller says; what was taken is given back where it came from.
        let all = unsafe {
            let taken = self.take(depot, table, out, n);
            if taken < n {
                self.give(depot, table, out, taken);
            }
            taken == n
        };
        self.end_move();
        all
    }

    /// Takes up to `n` objects from here and the depot; says how many. If fewer than `n`, both magazines are
    /// empty.
    ///
    /// # Safety
    /// As for `get`.
    pub(crate) unsafe fn take(
        &self,
        depot: &Depot,
        table: &impl Find,
        out: *mut NonNull<u8>,
        n: usize,
    ) -> usize {
        let mut taken = 0;
        loop {
            // SAFETY: `taken` of `n` are written, so there is room for the others.
            taken += unsafe { self.take_loaded(out.add(taken), n - taken) };
            if taken == n {
                return n;
            }
            // The loaded magazine is empty.
            if self.magazine(Place::Previous).1 > 0 {
                self.swap();
                continue;
            }
            let Some(full) = depot.full.pop(table) else { return taken };
            // SAFETY: the previous magazine is empty, ours, and replaced in the next step.
            unsafe { depot.empty.push(table, self.magazine(Place::Previous).0, 0) };
            self.set(Place::Previous, self.magazine(Place::Loaded));
            self.set(Place::Loaded, full);
        }
    }

    /// Puts `n` objects here, and what does not fit into the depot.
    ///
    /// # Safety
    /// `objects` are `n` of the pool's, in use and the caller's; `depot` and `table` are the pool's.
    pub(crate) unsafe fn put(&self, depot: &Depot, table: &impl Find, objects: *const NonNull<u8>, n: usize) {
        self.begin_move();
        // SAFETY: as the caller says.
        unsafe { self.give(depot, table, objects, n) };
        self.end_move();
    }

    /// As `put`, within a move that has begun.
    ///
    /// # Safety
    /// As for `put`.
    pub(crate) unsafe fn give(
        &self,
        depot: &Depot,
        table: &impl Find,
        objects: *const NonNull<u8>,
        n: usize,
    ) {
        let capacity = self.slot().capacity;
        let mut given = 0;
        loop {
            let (magazine, len) = self.magazine(Place::Loaded);
            let now = (n - given).min((capacity - len) as usize);
            // SAFETY: the magazine is ours alone and has room for `now` behind its `len`; `given` of `n` are
            // done.
            unsafe {
                Magazine::written(magazine);
                let to = Magazine::objects(magazine).add(len as usize);
                to.copy_from_nonoverlapping(objects.add(given), now);
            }
            self.set(Place::Loaded, (magazine, len + now as u32));
            given += now;
            if given == n {
                return;
            }
            // The loaded magazine is full.
            let previous = self.magazine(Place::Previous);
            if previous.1 < capacity {
                self.swap();
                continue;
            }
            let Some(empty) = depot.empty.pop(table) else {
                // It cannot be (see the module's head). If it were, to lose the objects would do the least
                // harm.
                debug_assert!(false, "no empty magazine for {} objects", n - given);
                return;
            };
            // SAFETY: the previous magazine is full, ours, and replaced in the next step.
            unsafe { depot.full.push(table, previous.0, previous.1) };
            self.set(Place::Previous, self.magazine(Place::Loaded));
            self.set(Place::Loaded, empty);
        }
    }

    /// Takes up to `n` objects of another slot, by exchanging our empty loaded magazine for one of its. So
    /// what is left in the magazine is ours, and the next calls need not come back. Ours must both be empty;
    /// says how many were taken.
    ///
    /// # Safety
    /// `out` has room for `n`; both slots are of one pool.
    pub(crate) unsafe fn steal(&self, from: &Self, out: *mut NonNull<u8>, n: usize) -> usize {
        let mut taken = 0;
        while taken < n {
            // The previous one first: the owner works with the loaded one.
            let place = match (from.magazine(Place::Previous).1, from.magazine(Place::Loaded).1) {
                (0, 0) => break,
                (0, _) => Place::Loaded,
                _ => Place::Previous,
            };
            let theirs = from.magazine(place);
            from.set(place, self.magazine(Place::Loaded));
            self.set(Place::Loaded, theirs);
            // SAFETY: `taken` of `n` are written, so there is room for the others.
            taken += unsafe { self.take_loaded(out.add(taken), n - taken) };
        }
        taken
    }

    /// Visits both magazines with their lengths.
    pub(crate) fn visit(&self, mut visit: impl FnMut(NonNull<Magazine>, u32)) {
        for place in [Place::Loaded, Place::Previous] {
            let (magazine, len) = self.magazine(place);
            visit(magazine, len);
        }
    }
}
