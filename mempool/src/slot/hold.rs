//! The right to use a slot: its owner's, or that of the holder of the pool's lock; and what is done with the
//! magazines.

use core::ptr::NonNull;

use super::{BUSY, GATE, Slot, state_of};
use crate::copy::{copy, write_alongside};
use crate::depot::Depot;
use crate::magazine::{Find, Magazine};
use crate::sync::{Ordering, fence, store_and_fence};

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
        // SAFETY: the slot lives until the flag is reset, and is not touched after that.
        unsafe {
            let slot = self.0.slot.as_ptr();
            let state = (*slot).state.load(Ordering::Relaxed);
            (*slot).state.store(state & !BUSY, Ordering::Release);
        }
    }
}

/// The right to use a slot, which one thread has at a time. Made by `Slot::enter`, `own` and `of_another`.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(super) slot: NonNull<Slot>,
    pub(super) by: By,
}

/// Who holds it, which says where the length of the loaded magazine is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// The owner, within its flag.
    Entered,
    /// The owner, under the pool's lock.
    Owner,
    /// Another, under the pool's lock, behind a gate that is closed and void.
    Another,
}

/// Which of the magazines.
#[derive(Debug, Clone, Copy)]
enum Place {
    Loaded,
    Spare,
}

impl Hold {
    /// Whether it is of this slot.
    pub(crate) fn is(&self, slot: NonNull<Slot>) -> bool {
        self.slot == slot
    }

    fn slot(&self) -> &Slot {
        // SAFETY: who made the hold said that the slot lives as long as the hold is used.
        unsafe { self.slot.as_ref() }
    }

    fn magazine(&self, place: Place) -> (NonNull<Magazine>, u32) {
        let slot = self.slot();
        let (magazine, len) = match place {
            Place::Loaded => (&slot.entrance, slot.loaded_len()),
            Place::Spare => (&slot.spare, slot.spare_len.load(Ordering::Relaxed)),
        };
        let magazine = magazine.load(Ordering::Relaxed).map_addr(|address| address & !GATE);
        // SAFETY: a slot has two magazines from its beginning; the pointers are never null.
        (unsafe { NonNull::new_unchecked(magazine) }, len)
    }

    fn set(&self, place: Place, (magazine, len): (NonNull<Magazine>, u32)) {
        let slot = self.slot();
        match place {
            Place::Loaded => {
                self.set_loaded_len(len);
                // A gate that another closes meanwhile stays closed.
                slot.set_entrance(|entrance| {
                    magazine.as_ptr().map_addr(|address| address | entrance.addr() & GATE)
                });
            }
            Place::Spare => {
                slot.spare.store(magazine.as_ptr(), Ordering::Relaxed);
                slot.spare_len.store(len, Ordering::Relaxed);
            }
        }
    }

    fn set_loaded_len(&self, len: u32) {
        let slot = self.slot();
        let state = state_of(len, slot.capacity);
        match self.by {
            By::Entered => slot.state.store(state | BUSY, Ordering::Relaxed),
            By::Owner => slot.state.store(state, Ordering::Relaxed),
            By::Another => slot.void_len.store(len, Ordering::Relaxed),
        }
    }

    fn swap(&self) {
        let (loaded, spare) = (self.magazine(Place::Loaded), self.magazine(Place::Spare));
        self.set(Place::Loaded, spare);
        self.set(Place::Spare, loaded);
    }

    /// Loads `magazine`, makes what was loaded the spare one, and returns what was that.
    fn rotate(&self, magazine: (NonNull<Magazine>, u32)) -> (NonNull<Magazine>, u32) {
        let out = self.magazine(Place::Spare);
        self.set(Place::Spare, self.magazine(Place::Loaded));
        self.set(Place::Loaded, magazine);
        out
    }

    /// Counts objects that went to the depot, or (negative) came from there.
    fn count_sent(&self, objects: isize) {
        let sent = &self.slot().sent;
        // Only the holder writes it: no read-modify-write is needed.
        sent.store(sent.load(Ordering::Relaxed).wrapping_add_signed(objects), Ordering::Relaxed);
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
            copy(Magazine::objects(magazine).add(left), out, taken, self.slot().wide);
        }
        self.set_loaded_len(left as u32);
        taken
    }

    /// Says that magazines are about to change places. The fence pairs with that of a thread that looks for
    /// objects (`pool::reclaim`): if it does not see this, then we see the depot as it left it, and what we
    /// take from there or bring changes the depot's version after it looked.
    fn begin_move(&self) {
        let moving = &self.slot().moving;
        // Only the holder writes it.
        store_and_fence(moving, moving.load(Ordering::Relaxed).wrapping_add(1));
    }

    /// As `begin_move`, for what stays within the slot: the depot is not concerned, and it is enough that who
    /// sees one of the new lengths sees that something moves.
    fn begin_swap(&self) {
        let moving = &self.slot().moving;
        moving.store(moving.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
    }

    fn end_move(&self) {
        let moving = &self.slot().moving;
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
        if n <= self.slot().len() {
            self.begin_swap();
        } else if depot.full.is_empty() {
            // A thread that finds the pool dry again and again must not look as if it moved something.
            return false;
        } else {
            self.begin_move();
        }
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
            if self.magazine(Place::Spare).1 > 0 {
                self.swap();
                continue;
            }
            let Some(full) = depot.full.pop(table) else { return taken };
            self.count_sent(-(full.1 as isize));
            let (empty, _) = self.rotate(full);
            // SAFETY: it is empty, and was ours until it was rotated out.
            unsafe { depot.empty.push(table, empty, 0) };
        }
    }

    /// Puts `n` objects here, and what does not fit into the depot.
    ///
    /// # Safety
    /// `objects` are `n` of the pool's, in use and the caller's; `depot` and `table` are the pool's.
    pub(crate) unsafe fn put(&self, depot: &Depot, table: &impl Find, objects: *const NonNull<u8>, n: usize) {
        let slot = self.slot();
        if n <= 2 * slot.capacity as usize - slot.len() {
            self.begin_swap();
        } else {
            self.begin_move();
        }
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
                copy(objects.add(given), to, now, self.slot().wide);
            }
            self.set_loaded_len(len + now as u32);
            given += now;
            if given == n {
                return;
            }
            // The loaded magazine is full.
            if self.magazine(Place::Spare).1 < capacity {
                self.swap();
                continue;
            }
            let Some(empty) = depot.empty.pop(table) else {
                // It cannot be (see the module's head). If it were, to lose the objects would do the least
                // harm.
                debug_assert!(false, "no empty magazine for {} objects", n - given);
                return;
            };
            let (full, len) = self.rotate(empty);
            self.count_sent(len as isize);
            // SAFETY: it is full, and was ours until it was rotated out.
            unsafe { depot.full.push(table, full, len) };
        }
    }

    /// Takes up to `n` objects of another slot, a magazine's content at a time. So what is left of that is ours,
    /// and the next calls need not come back. Ours must both be empty; says how many were taken.
    ///
    /// # Safety
    /// `out` has room for `n`; both slots are of one pool.
    pub(crate) unsafe fn steal(&self, from: &Self, out: *mut NonNull<u8>, n: usize) -> usize {
        let mut taken = 0;
        while taken < n {
            let ((ours, _), (theirs, len)) = (self.magazine(Place::Loaded), from.magazine(Place::Loaded));
            // The spare one first: the owner works with the loaded one.
            let spare = from.magazine(Place::Spare);
            if spare.1 > 0 {
                from.set(Place::Spare, (ours, 0));
                self.set(Place::Loaded, spare);
            } else if len > 0 {
                // Only its content: the owner may just be writing behind that.
                // SAFETY: magazines of a pool have equal room, and ours is empty.
                unsafe {
                    Magazine::read(theirs);
                    Magazine::written(ours);
                    let (theirs, ours) = (Magazine::objects(theirs), Magazine::objects(ours));
                    copy(theirs, ours, len as usize, self.slot().wide);
                }
                from.set_loaded_len(0);
                self.set_loaded_len(len);
            } else {
                break;
            }
            // SAFETY: `taken` of `n` are written, so there is room for the others.
            taken += unsafe { self.take_loaded(out.add(taken), n - taken) };
        }
        taken
    }

    /// Keeps those objects of both magazines that `stay`.
    pub(crate) fn retain(&self, mut stay: impl FnMut(NonNull<u8>) -> bool) {
        for place in [Place::Loaded, Place::Spare] {
            let (magazine, len) = self.magazine(place);
            let mut kept = 0;
            for at in 0..len as usize {
                // SAFETY: the first `len` places are written, of which the magazine's owner, if it is still at it,
                // writes none; and `kept` is no larger than `at`. It may be reading: hence not a plain write.
                unsafe {
                    Magazine::written(magazine);
                    let objects = Magazine::objects(magazine);
                    let object = *objects.add(at);
                    if stay(object) {
                        write_alongside(objects.add(kept), object);
                        kept += 1;
                    }
                }
            }
            if kept < len as usize {
                self.set(place, (magazine, kept as u32));
            }
        }
    }

    /// Visits both magazines with their lengths.
    pub(crate) fn visit(&self, mut visit: impl FnMut(NonNull<Magazine>, u32)) {
        for place in [Place::Loaded, Place::Spare] {
            let (magazine, len) = self.magazine(place);
            visit(magazine, len);
        }
    }
}
