//! Slots: a thread's cache in one pool, and the gate by which others can keep it out.
//!
//! A slot holds two magazines, `loaded` and `previous` (Bonwick and Adams, section 3.1). Gets and puts use
//! `loaded`; when it has run empty (or full) the two change places, and only when both are empty (or full) is
//! one exchanged with the depot. So a thread that gets and puts around the edge of a magazine does not go to the depot for each.
//!
//! # The gate
//! Only the thread that owns the slot uses it, without atomic read-modify-writes. Another thread that
//! wants what is in it (the pool is dry; the pool closes) has to keep the owner out:
//!
//! ```text
//!   owner                              another, under the pool's lock
//!   busy = 1                           gate = closed
//!   (light barrier)                    (heavy barrier)
//!   if gate is open: use the slot      wait until busy == 0
//!   busy = 0            (release)      use the slot
//!                                      gate = open                (release)
//! ```
//!
//! This is Dekker's pattern: with the barriers, at least one of the two sees what the other wrote (see
//! `barrier` for why an asymmetric pair is enough). If the owner reads "open", its `busy` is visible
//! to the other, who waits; the owner's release and the other's acquire of `busy == 0` hand the slot over. If the owner
//! reads "closed", it leaves the slot alone and waits for the pool's lock. The other's release of the gate and the owner's
//! acquire hand the slot back. Gates are closed under the lock only, so the holder of the lock has its own slot to
//! itself.
//!
//! # A put never fails
//! With magazines of M objects, a pool of N objects has K = ceil(N / M) magazines and two more for each slot. Whatever
//! is done, a slot holds two magazines; only between the two steps of an exchange with the depot does it hold three,
//! because an exchange pops before it pushes. A put needs an empty magazine from the depot only when both of its
//! own are full. Suppose there is none, and let t other slots be in the midst of an exchange. Then the depot has
//! K - t full magazines; each of those t slots has a full magazine (in a put: the two it wants to get rid of; in a get:
//! the one it popped); and our slot has two, and an object in hand. That is (K + 2) M objects and one, less what
//! may be missing in the one magazine that was not filled up when the pool was made, which is below M: more than
//! N, which cannot be. So there is an empty magazine.

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::compiler_fence;

use crate::barrier::Mode;
use crate::depot::Depot;
use crate::magazine::{Block, Find, Magazine};
use crate::sync::{AtomicPtr, AtomicU32, Ordering, fence, relax};

/// The gate's states, as bits: closed for a while, owners must fence, closed for good.
pub(crate) const CLOSED: u32 = 1;
const FENCED: u32 = 2;
pub(crate) const FINAL: u32 = 4;

/// A thread's cache. On lines of its own: its owner writes to it all the time.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    busy: AtomicU32,
    gate: AtomicU32,
    /// Odd while magazines change places, when the lengths below may not tell of all objects; counted up at the
    /// beginning and at the end.
    moving: AtomicU32,
    capacity: u32,
    loaded: AtomicPtr<Magazine>,
    previous: AtomicPtr<Magazine>,
    /// The lengths are the owner's; others read them to know where to look, and to count.
    loaded_len: AtomicU32,
    previous_len: AtomicU32,
    /// The gate's state when it is open: 0, or `FENCED`.
    open: u32,
}

impl Slot {
    /// A slot with these two magazines, which are empty and nobody else's.
    pub(crate) fn new(mode: Mode, capacity: u32, magazines: [NonNull<Magazine>; 2]) -> Self {
        let open = match mode {
            Mode::Kernel => 0,
            Mode::Fenced => FENCED,
        };
        let [loaded, previous] = magazines.map(|magazine| AtomicPtr::new(magazine.as_ptr()));
        Self {
            busy: AtomicU32::new(0),
            gate: AtomicU32::new(open),
            moving: AtomicU32::new(0),
            capacity,
            loaded,
            previous,
            loaded_len: AtomicU32::new(0),
            previous_len: AtomicU32::new(0),
            open,
        }
    }

    /// The fast path of a get: takes `n` objects if the loaded magazine has them and the gate is open. True if so.
    ///
    /// The slot may be gone by the time this returns, if the objects taken are the caller's only hold on the pool.
    ///
    /// # Safety
    /// `slot` lives at the call and is the calling thread's own; `out` has room for `n` objects.
    #[inline(always)]
    pub(crate) unsafe fn get(slot: NonNull<Self>, out: *mut NonNull<u8>, n: usize) -> bool {
        // SAFETY: the slot lives until `busy` is reset: who frees it closes the gate and waits for that. No reference is held
        // over that point. The loaded magazine has `len` objects, of which the last `n` are copied; it is this thread's
        // alone while the gate is open and `busy` is set.
        unsafe {
            let slot = slot.as_ptr();
            (*slot).busy.store(1, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            let open = (*slot).gate.load(Ordering::Acquire) == 0;
            let len = (*slot).loaded_len.load(Ordering::Relaxed) as usize;
            let fits = open && n <= len;
            if fits {
                let magazine = NonNull::new_unchecked((*slot).loaded.load(Ordering::Relaxed));
                let left = len - n;
                Magazine::read(magazine);
                copy(Magazine::objects(magazine).add(left), out, n);
                (*slot).loaded_len.store(left as u32, Ordering::Relaxed);
            }
            (*slot).busy.store(0, Ordering::Release);
            fits
        }
    }

    /// The fast path of a put: adds `n` objects if the loaded magazine has room and the gate is open. True if so.
    ///
    /// The slot may be gone by the time this returns: the last objects may have come home.
    ///
    /// # Safety
    /// `slot` lives at the call and is the calling thread's own; `objects` are `n` of the pool's, in use and the caller's.
    #[inline(always)]
    pub(crate) unsafe fn put(slot: NonNull<Self>, objects: *const NonNull<u8>, n: usize) -> bool {
        // SAFETY: as in `get`; the magazine has room for `capacity` objects.
        unsafe {
            let slot = slot.as_ptr();
            (*slot).busy.store(1, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            let open = (*slot).gate.load(Ordering::Acquire) == 0;
            let len = (*slot).loaded_len.load(Ordering::Relaxed) as usize;
            let fits = open && n <= (*slot).capacity as usize - len;
            if fits {
                let magazine = NonNull::new_unchecked((*slot).loaded.load(Ordering::Relaxed));
                Magazine::written(magazine);
                copy(objects, Magazine::objects(magazine).add(len), n);
                (*slot).loaded_len.store((len + n) as u32, Ordering::Relaxed);
            }
            (*slot).busy.store(0, Ordering::Release);
            fits
        }
    }

    /// Enters the slot as its owner; the gate's state if it is closed.
    ///
    /// # Safety
    /// `slot` lives at the call and until the hold is dropped by what the caller holds of the pool, and is the calling
    /// thread's own.
    pub(crate) unsafe fn enter(slot: NonNull<Self>) -> Result<Entered, u32> {
        // SAFETY: it lives, as the caller says.
        let shared = unsafe { slot.as_ref() };
        shared.busy.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let mut gate = shared.gate.load(Ordering::Acquire);
        if gate == FENCED {
            fence(Ordering::SeqCst);
            gate = shared.gate.load(Ordering::Acquire);
        }
        if gate & (CLOSED | FINAL) == 0 {
            Ok(Entered(Hold(slot)))
        } else {
            shared.busy.store(0, Ordering::Release);
            Err(gate)
        }
    }

    /// Closes the gate, for a while or (`FINAL`) for good. The owner is out after a heavy barrier and `wait`. Under
    /// the pool's lock only.
    pub(crate) fn close(&self, how: u32) {
        self.gate.store(self.open | how, Ordering::Relaxed);
    }

    /// Waits until the owner has left; after `close` and a heavy barrier.
    pub(crate) fn wait(&self) {
        let mut round = 0;
        while self.busy.load(Ordering::Acquire) != 0 {
            relax(round);
            round = round.saturating_add(1);
        }
    }

    /// Lets the owner in again.
    pub(crate) fn open(&self) {
        self.gate.store(self.open, Ordering::Release);
    }

    /// Whether the gate is closed. Under the pool's lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.gate.load(Ordering::Relaxed) & (CLOSED | FINAL) != 0
    }

    /// Objects in it; exact while its owner does nothing.
    pub(crate) fn len(&self) -> usize {
        self.loaded_len.load(Ordering::Relaxed) as usize + self.previous_len.load(Ordering::Relaxed) as usize
    }

    /// Whether objects may be had here: it has some, or its owner is just moving some.
    pub(crate) fn is_worth_a_look(&self) -> bool {
        // Acquire: if a move is over, its lengths are seen. If one begins while we read them, the count has changed after.
        let before = self.moving.load(Ordering::Acquire);
        let len = self.len();
        fence(Ordering::Acquire);
        len > 0 || before % 2 == 1 || self.moving.load(Ordering::Relaxed) != before
    }
}

/// Copies `n` objects' addresses. In blocks of fixed size, and so in line, where `n` is a constant: a call of `memcpy` for a burst
/// takes longer than the copy itself.
///
/// # Safety
/// `from` has `n`, `to` has room for `n`, and they do not overlap.
#[inline(always)]
unsafe fn copy(from: *const NonNull<u8>, to: *mut NonNull<u8>, n: usize) {
    const BLOCK: usize = 8;
    // SAFETY: every block, and the rest, is within the `n`.
    unsafe {
        let mut done = 0;
        while done + BLOCK <= n {
            // In two halves, lest the compiler takes the loop for a `memcpy`.
            let (from, to) = (from.add(done), to.add(done));
            to.copy_from_nonoverlapping(from, BLOCK / 2);
            to.add(BLOCK / 2).copy_from_nonoverlapping(from.add(BLOCK / 2), BLOCK / 2);
            done += BLOCK;
        }
        while done < n {
            to.add(done).write(from.add(done).read());
            done += 1;
        }
    }
}

/// A slot with its two magazines, as allocated for a thread.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct OwnedSlot {
    pub(crate) slot: Slot,
    pub(crate) magazines: Block,
}

impl OwnedSlot {
    /// None if the heap has no room.
    pub(crate) fn new(mode: Mode, capacity: u32, first_number: u32) -> Option<Box<Self>> {
        let magazines = Block::new(2, capacity as usize, first_number)?;
        let slot = Slot::new(mode, capacity, [magazines.get(0), magazines.get(1)]);
        Some(Box::new(Self { slot, magazines }))
    }
}

/// A slot entered by its owner; left on drop.
#[derive(Debug)]
pub(crate) struct Entered(Hold);

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
pub(crate) struct Hold(NonNull<Slot>);

/// Which of the two magazines.
#[derive(Debug, Clone, Copy)]
enum Place {
    Loaded,
    Previous,
}

impl Hold {
    /// A hold without entering: under the pool's lock, of the caller's own slot, of the shared one, or of one whose gate
    /// was closed and whose owner has left.
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
        // SAFETY: the magazine has `len` objects and is ours alone; the last `taken` are copied to where there is room.
        unsafe {
            Magazine::read(magazine);
            out.copy_from_nonoverlapping(Magazine::objects(magazine).add(left), taken);
        }
        self.set(Place::Loaded, (magazine, left as u32));
        taken
    }

    /// Says that magazines are about to change places. The fence pairs with that of a thread that looks for
    /// objects (`pool::reclaim`): if it does not see this, then we see the depot as it left it, and what we take from there
    /// or bring changes the depot's version after it looked.
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

    /// Takes up to `n` objects from here and the depot; says how many. If fewer than `n`, both magazines are empty.
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
            // SAFETY: the magazine is ours alone and has room for `now` behind its `len`; `given` of `n` are done.
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
                // It cannot be (see the module's head). If it were, to lose the objects would do the least harm.
                debug_assert!(false, "no empty magazine for {} objects", n - given);
                return;
            };
            // SAFETY: the previous magazine is full, ours, and replaced in the next step.
            unsafe { depot.full.push(table, previous.0, previous.1) };
            self.set(Place::Previous, self.magazine(Place::Loaded));
            self.set(Place::Loaded, empty);
        }
    }

    /// Takes up to `n` objects of another slot, by exchanging our empty loaded magazine for one of its. So what is left in
    /// the magazine is ours, and the next calls need not come back. Ours must both be empty; says how many were taken.
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
