//! Slots: the cache of a thread, or of a cache handle, in one pool; and the gate by which others keep it out.
//!
//! A slot holds two magazines of the cache's size, one `loaded` and one `spare` (Bonwick and Adams, section 3.1).
//! Gets and puts use the loaded one; when it has run empty (or full) the two change places, and only when both
//! are empty (or full) is one exchanged with the depot. So a thread that gets up to a cache's size and puts it
//! back, again and again, comes to rest: if it got a magazine from the depot in one turn, all fits in the next.
//! (DPDK's caches hold half as many again as their size before they are flushed, for the same reason.)
//!
//! # The gate
//! Only the owner of a slot uses it (a thread, or a cache handle), without atomic read-modify-writes. Another
//! thread that wants what is in it (the pool is dry; the pool closes) has to keep the owner out. What a get or a
//! put costs is above all its stores, so the owner does not even say that it is there: it does its work, and
//! looks afterwards whether it was alone. The length of the loaded magazine and the room left in it are one
//! word, `state`, which is the only thing of the slot that the fast path writes.
//!
//! ```text
//!   owner                                another, under the pool's lock
//!   if gate is open:                     gate = closed
//!     copy from or to the magazine       (heavy barrier)
//!     state = new len        (release)   seen = state           (acquire)
//!     (light barrier)                    gate = closed and void
//!     if gate is open: done              use what `seen` says is in the slot
//!     else: in doubt
//! ```
//!
//! This is Dekker's pattern: with the barriers, at least one of the two sees what the other wrote (see
//! `barrier` for why an asymmetric pair is enough). If the owner reads "open" after its store, the other's
//! `seen` is the new state: the call has taken place before the other looked. If it reads "closed", it is in
//! doubt. Then it takes the pool's lock, which the other holds until it is done, and compares: if `seen` is the
//! state that it stored, the call counts, and if not, the other has seen the state of before, the call has not
//! taken place, and it is made again, under the lock. A get that does not count leaves nothing behind but what
//! it wrote to its caller's array. A put that does not count may still be writing objects while the other uses
//! the slot, but behind the `seen` length of the loaded magazine, where nothing is. So another takes objects
//! out of a loaded magazine, and never the magazine itself, nor adds anything to it; and `state` may be
//! overwritten late: while the gate is void the length is in `void_len`.
//!
//! A gate that is void is opened by the owner alone, under the lock, which takes the length over. A gate that was
//! closed and not made void (the barrier was refused, or was not needed after all) is opened by who closed it,
//! who has looked at nothing. So if the owner finds the very word in `entrance` that it read before, the gate
//! has not been void in between.
//!
//! ## The other way in
//! To be in doubt one must be able to wait for the lock, so the pool must not go meanwhile: the caller has a
//! handle. A put that may be the pool's last cannot know that; it says that it is there, as does everything that
//! takes longer than the fast path:
//!
//! ```text
//!   owner                              another, under the pool's lock
//!   len = state                        gate = closed
//!   state = len, busy                  (heavy barrier)
//!   (light barrier)                    wait until state is not busy
//!   if gate is open: use the slot      as above
//!   state = new len     (release)
//! ```
//!
//! If the owner reads "open", its flag is visible to the other, who waits; the owner's release and the other's
//! acquire hand the slot over. If the owner reads "closed", it writes back the length that it found, leaves the
//! slot alone and waits for the pool's lock.
//!
//! Gates are closed under the lock only, so the holder of the lock has its own slot to itself. `entrance` is
//! written by both, the owner's magazine and the other's gate: never without looking.
//!
//! # A put never fails
//! With magazines of M objects, a pool of N objects has K = ceil(N / M) magazines and two more for each slot.
//! Whatever is done, a slot holds two magazines; only between the two steps of an exchange with the depot does it
//! hold three, because an exchange pops before it pushes. A put needs an empty magazine from the depot only when
//! both of its own are full. Suppose there is none, and let t other slots be in the midst of an exchange. Then
//! the depot has K - t full magazines; each of those t slots has a full magazine (in a put: the two it wants to
//! get rid of; in a get: the one it popped); and our slot has two, and an object in hand. That is (K + 2) M
//! objects and one, less what may be missing in the one magazine that was not filled up when the pool was made,
//! which is below M: more than N, which cannot be. So there is an empty magazine.

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::compiler_fence;

use crate::barrier::Mode;
use crate::copy::{Wide, copy_alongside};
use crate::magazine::{Block, Magazine};
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence, relax};

mod hold;

use hold::By;
pub(crate) use hold::{Entered, Hold};

/// The gate's states, as bits of `Slot::entrance`: closed for a while, owners must fence, closed for good, the
/// length in `state` no longer holds, the processor cannot do the fast path's copies.
pub(crate) const CLOSED: usize = 1;
const FENCED: usize = 2;
pub(crate) const FINAL: usize = 4;
const VOID: usize = 8;
const NARROW: usize = 16;
const GATE: usize = CLOSED | FENCED | FINAL | VOID | NARROW;
const _: () = assert!(align_of::<Magazine>() > GATE);

/// Whether the fast path looks at the gate after its work. That takes stores that are seen in their order, and
/// copies that another may look at while they are made: both are had on this architecture (and in a model).
const LATE: bool = cfg!(any(target_arch = "x86_64", loom));

/// In `state`: the owner is in the slot. Below it, `len` in the low half and the room left above that.
const BUSY: u64 = 1 << 63;

/// What `state` is for a loaded magazine with so many objects of so many.
fn state_of(len: u32, capacity: u32) -> u64 {
    u64::from(capacity - len) << 32 | u64::from(len)
}

/// What to add to `state` for `n` objects less in the magazine; subtracted, for `n` more.
#[inline(always)]
fn less(n: usize) -> u64 {
    ((n as u64) << 32).wrapping_sub(n as u64)
}

/// The owner's half of the barrier.
#[inline(always)]
fn light() {
    // A model knows no other than this.
    if cfg!(loom) {
        fence(Ordering::SeqCst);
    } else {
        compiler_fence(Ordering::SeqCst);
    }
}

/// What came of a call on the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It has taken place.
    Done,
    /// The gate is closed, or the loaded magazine has not enough: nothing was done.
    Not,
    /// The gate was closed meanwhile. Whether the call has taken place, `Slot::counts` knows.
    Doubt(Stored),
}

/// The state that a call in doubt has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored(u64);

impl Attempt {
    /// For the slow path: what there may be a doubt about.
    #[inline(always)]
    pub(crate) fn doubt(self) -> Option<Stored> {
        if let Self::Doubt(stored) = self { Some(stored) } else { None }
    }
}

/// A get or a put, as far as they differ on the fast path.
trait Way {
    /// Whether `n` objects can be had of, or added to, a magazine in this state.
    fn fits(state: u64, n: usize) -> bool;

    /// The state after.
    fn after(state: u64, n: usize) -> u64;

    /// Copies `n` objects before `end`, or from there on.
    ///
    /// # Safety
    /// `end` is where the objects of a magazine end in which `n` fit; the other side has room, or objects,
    /// for `n`.
    unsafe fn copy(self, end: *mut NonNull<u8>, n: usize);
}

/// Objects out of a magazine, to here.
struct Out(*mut NonNull<u8>);

/// Objects from here into a magazine.
struct In(*const NonNull<u8>);

impl Way for Out {
    #[inline(always)]
    fn fits(state: u64, n: usize) -> bool {
        n <= state as u32 as usize
    }

    #[inline(always)]
    fn after(state: u64, n: usize) -> u64 {
        state.wrapping_add(less(n))
    }

    #[inline(always)]
    unsafe fn copy(self, end: *mut NonNull<u8>, n: usize) {
        // SAFETY: as the caller says.
        unsafe { copy_alongside(end.sub(n), self.0, n) };
    }
}

impl Way for In {
    #[inline(always)]
    fn fits(state: u64, n: usize) -> bool {
        n <= (state >> 32) as usize
    }

    #[inline(always)]
    fn after(state: u64, n: usize) -> u64 {
        state.wrapping_sub(less(n))
    }

    #[inline(always)]
    unsafe fn copy(self, end: *mut NonNull<u8>, n: usize) {
        // SAFETY: as the caller says.
        unsafe { copy_alongside(self.0, end, n) };
    }
}

/// Magazines of a slot.
pub(crate) const MAGAZINES: usize = 2;

/// Says that `condition` hardly ever holds, and keeps it a branch of its own: the compiler would compute it and
/// the one beside it as numbers, which takes longer than two branches that are always foretold.
#[inline(always)]
fn cold(condition: bool) -> bool {
    if condition {
        compiler_fence(Ordering::SeqCst);
    }
    condition
}

/// A cache of an owner. On lines of its own: its owner writes to it all the time.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    /// Written by the owner only.
    state: AtomicU64,
    /// The loaded magazine and, in the low bits, the gate.
    entrance: AtomicPtr<Magazine>,
    wide: Wide,
    capacity: u32,
    /// What `state` was when the gate was made void.
    seen: AtomicU64,
    /// Odd while magazines change places, when the lengths may not tell of all objects; counted up at the
    /// beginning and at the end.
    moving: AtomicU32,
    /// Length of the loaded magazine while the gate is void.
    void_len: AtomicU32,
    spare: AtomicPtr<Magazine>,
    /// The owner's; others read it to know where to look, and to count.
    spare_len: AtomicU32,
    /// Objects that went from here to the depot, less those that came from there; wraps. The sum over the slots
    /// is what the depot has: so to count it takes no atomic read-modify-write.
    sent: AtomicUsize,
    /// The gate when it is open: 0, or `FENCED` or `NARROW`, which send the owner off the fast path, to `enter`,
    /// where it executes the fence and copies as it can. So the fast path need not ask for either.
    open: usize,
}

impl Slot {
    /// A slot with these magazines, which are empty and nobody else's.
    pub(crate) fn new(mode: Mode, capacity: u32, magazines: [NonNull<Magazine>; MAGAZINES]) -> Self {
        let wide = Wide::detect();
        let fence = match mode {
            Mode::Kernel => 0,
            // In a model the fast path executes the fence.
            Mode::Fenced if cfg!(loom) => 0,
            Mode::Fenced => FENCED,
        };
        let open = if wide.serves_alongside() { fence } else { fence | NARROW };
        let [loaded, spare] = magazines.map(NonNull::as_ptr);
        Self {
            state: AtomicU64::new(state_of(0, capacity)),
            entrance: AtomicPtr::new(loaded.map_addr(|address| address | open)),
            wide,
            capacity,
            seen: AtomicU64::new(0),
            moving: AtomicU32::new(0),
            void_len: AtomicU32::new(0),
            spare: AtomicPtr::new(spare),
            spare_len: AtomicU32::new(0),
            sent: AtomicUsize::new(0),
            open,
        }
    }

    /// The fast path of a get: takes `n` objects if the loaded magazine has them and the gate is open.
    ///
    /// # Safety
    /// `slot` lives during the call, by what the caller has of the pool and what it gets; it is the caller's
    /// own; `out` has room for `n` objects.
    #[inline(always)]
    pub(crate) unsafe fn get(slot: NonNull<Self>, out: *mut NonNull<u8>, n: usize) -> Attempt {
        // SAFETY: as the caller says.
        unsafe { Self::late(slot, Out(out), n) }
    }

    /// The fast path of a put: adds `n` objects if the loaded magazine has room and the gate is open.
    ///
    /// # Safety
    /// `slot` lives during the call by what the caller has of the pool beside the objects; it is the caller's
    /// own; `objects` are `n` of the pool's, in use and the caller's.
    #[inline(always)]
    pub(crate) unsafe fn put(slot: NonNull<Self>, objects: *const NonNull<u8>, n: usize) -> Attempt {
        // SAFETY: as the caller says.
        unsafe { Self::late(slot, In(objects), n) }
    }

    /// The fast path of a put that may be the pool's last. True if it has taken place.
    ///
    /// The slot may be gone by the time this returns: the last objects may have come home.
    ///
    /// # Safety
    /// `slot` lives at the call and is the caller's own; `objects` are `n` of the pool's, in use and the
    /// caller's.
    #[inline(always)]
    pub(crate) unsafe fn put_last(slot: NonNull<Self>, objects: *const NonNull<u8>, n: usize) -> bool {
        // SAFETY: as the caller says.
        unsafe { Self::claimed(slot, In(objects), n) }
    }

    /// A call that looks at the gate after its work.
    ///
    /// # Safety
    /// As for `get` or `put`.
    #[inline(always)]
    unsafe fn late<W: Way>(slot: NonNull<Self>, way: W, n: usize) -> Attempt {
        // SAFETY: as the caller says. With an open gate, `entrance` is the address of the loaded magazine, which
        // only the owner exchanges, and `state` is what the owner left there; who closes the gate meanwhile
        // bears with the copy (see the module's head).
        unsafe {
            if !LATE {
                return if Self::claimed(slot, way, n) { Attempt::Done } else { Attempt::Not };
            }
            let slot = slot.as_ptr();
            let entrance = (*slot).entrance.load(Ordering::Acquire);
            let state = (*slot).state.load(Ordering::Relaxed);
            if entrance.addr() & GATE != 0 || cold(!W::fits(state, n)) {
                return Attempt::Not;
            }
            let end = Magazine::objects(NonNull::new_unchecked(entrance)).add(state as u32 as usize);
            way.copy(end, n);
            let after = W::after(state, n);
            (*slot).state.store(after, Ordering::Release);
            light();
            if (*slot).entrance.load(Ordering::Relaxed) == entrance {
                Attempt::Done
            } else {
                Attempt::Doubt(Stored(after))
            }
        }
    }

    /// A call within the owner's flag. True if it has taken place.
    ///
    /// # Safety
    /// As for `put_last`.
    #[inline(always)]
    unsafe fn claimed<W: Way>(slot: NonNull<Self>, way: W, n: usize) -> bool {
        // SAFETY: the slot lives until the owner's flag is reset: who frees it closes the gate and waits for
        // that. No reference is held over that point. With an open gate, `entrance` is the address of the loaded
        // magazine, which is the caller's alone while the flag is set.
        unsafe {
            let slot = slot.as_ptr();
            let state = (*slot).state.load(Ordering::Relaxed);
            (*slot).state.store(state | BUSY, Ordering::Relaxed);
            light();
            let entrance = (*slot).entrance.load(Ordering::Acquire);
            if entrance.addr() & GATE != 0 || cold(!W::fits(state, n)) {
                (*slot).state.store(state, Ordering::Release);
                return false;
            }
            let end = Magazine::objects(NonNull::new_unchecked(entrance)).add(state as u32 as usize);
            way.copy(end, n);
            (*slot).state.store(W::after(state, n), Ordering::Release);
            true
        }
    }

    /// Whether the call in doubt that stored this has taken place.
    ///
    /// # Safety
    /// The slot lives and is the caller's own, who has the pool's lock, and has done nothing with the slot since.
    pub(crate) unsafe fn counts(slot: NonNull<Self>, stored: Stored) -> bool {
        // SAFETY: it lives, as the caller says.
        let shared = unsafe { slot.as_ref() };
        // If it is not void, nobody has looked into the slot.
        shared.gate() & VOID == 0 || shared.seen.load(Ordering::Relaxed) == stored.0
    }

    /// Enters the slot as its owner; none if the gate is closed.
    ///
    /// # Safety
    /// `slot` lives at the call and until the hold is dropped by what the caller holds of the pool, and is
    /// the caller's own.
    pub(crate) unsafe fn enter(slot: NonNull<Self>) -> Option<Entered> {
        // SAFETY: it lives, as the caller says.
        let shared = unsafe { slot.as_ref() };
        let state = shared.state.load(Ordering::Relaxed);
        shared.state.store(state | BUSY, Ordering::Relaxed);
        light();
        let mut gate = shared.gate();
        if gate & FENCED != 0 {
            fence(Ordering::SeqCst);
            gate = shared.gate();
        }
        if gate & (CLOSED | FINAL) == 0 {
            Some(Entered(Hold { slot, by: By::Entered }))
        } else {
            shared.state.store(state, Ordering::Release);
            None
        }
    }

    /// The slot without entering it: its owner's, or the shared one. Opens its gate if another left it closed.
    ///
    /// # Safety
    /// The slot lives as long as the hold is used; the caller is its owner, or it is the shared slot; and the
    /// caller has the pool's lock all that time, and the pool does not close.
    pub(crate) unsafe fn own(slot: NonNull<Self>) -> Hold {
        // SAFETY: it lives, as the caller says.
        let shared = unsafe { slot.as_ref() };
        let gate = shared.gate();
        if gate & VOID != 0 {
            // Relaxed: it is the owner that writes, and others look under the lock.
            let len = shared.void_len.load(Ordering::Relaxed);
            shared.state.store(state_of(len, shared.capacity), Ordering::Relaxed);
        }
        if gate != shared.open {
            shared.set_gate(|_| shared.open);
        }
        Hold { slot, by: By::Owner }
    }

    /// The slot of another, to take from or to look at.
    ///
    /// # Safety
    /// The slot lives as long as the hold is used; its gate is closed, a heavy barrier has come after that and
    /// `wait` after that; and the caller has the pool's lock all that time.
    pub(crate) unsafe fn of_another(slot: NonNull<Self>) -> Hold {
        Hold { slot, by: By::Another }
    }

    fn gate(&self) -> usize {
        self.entrance.load(Ordering::Acquire).addr() & GATE
    }

    /// Changes the gate, and not the magazine that an owner may be exchanging at the same time.
    fn set_gate(&self, change: impl Fn(usize) -> usize) {
        self.set_entrance(|entrance| entrance.map_addr(|address| address & !GATE | change(address & GATE)));
    }

    fn set_entrance(&self, change: impl Fn(*mut Magazine) -> *mut Magazine) {
        let mut found = self.entrance.load(Ordering::Relaxed);
        // Release, in whoever opens the gate: the owner sees what was done behind it.
        while let Err(now) =
            self.entrance.compare_exchange_weak(found, change(found), Ordering::Release, Ordering::Relaxed)
        {
            found = now;
        }
    }

    /// Closes the gate, for a while or (`FINAL`) for good. The owner is out after a heavy barrier and `wait`.
    /// Under the pool's lock only.
    pub(crate) fn close(&self, how: usize) {
        self.set_gate(|gate| gate | how);
    }

    /// Waits until the owner has left, and makes the gate void: what was seen here is what is in the slot,
    /// whatever the owner may still write. After `close` and a heavy barrier.
    pub(crate) fn wait(&self) {
        if self.gate() & VOID != 0 {
            return;
        }
        let mut round = 0;
        let seen = loop {
            // Acquire: what the owner did is seen.
            let state = self.state.load(Ordering::Acquire);
            if state & BUSY == 0 {
                break state;
            }
            relax(round);
            round = round.saturating_add(1);
        };
        // Relaxed: the owner reads both under the lock.
        self.seen.store(seen, Ordering::Relaxed);
        self.void_len.store(seen as u32, Ordering::Relaxed);
        self.set_gate(|gate| gate | VOID);
    }

    /// Lets the owner in again, if nobody has looked into the slot; else it has to come under the lock.
    pub(crate) fn open(&self) {
        if self.gate() & VOID == 0 {
            self.set_gate(|_| self.open);
        }
    }

    /// Whether the gate is closed. Under the pool's lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.gate() & (CLOSED | FINAL) != 0
    }

    fn loaded_len(&self) -> u32 {
        if self.gate() & VOID == 0 {
            self.state.load(Ordering::Relaxed) as u32
        } else {
            self.void_len.load(Ordering::Relaxed)
        }
    }

    /// Objects in it; exact while its owner does nothing.
    pub(crate) fn len(&self) -> usize {
        self.loaded_len() as usize + self.spare_len.load(Ordering::Relaxed) as usize
    }

    /// Objects that went from here to the depot, less those that came from there; wraps.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether objects may be had here: it has some, or its owner is just moving some.
    pub(crate) fn is_worth_a_look(&self) -> bool {
        // Acquire: if a move is over, its lengths are seen. If one begins while we read them, the count has
        // changed after.
        let before = self.moving.load(Ordering::Acquire);
        let len = self.len();
        fence(Ordering::Acquire);
        len > 0 || before % 2 == 1 || self.moving.load(Ordering::Relaxed) != before
    }
}

/// A slot with its magazines, as allocated for an owner.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct OwnedSlot {
    pub(crate) slot: Slot,
    pub(crate) magazines: Block,
}

impl OwnedSlot {
    /// None if the heap has no room.
    pub(crate) fn new(mode: Mode, capacity: u32, first_number: u32) -> Option<Box<Self>> {
        let magazines = Block::new(MAGAZINES as u32, capacity as usize, first_number)?;
        let slot = Slot::new(mode, capacity, core::array::from_fn(|nth| magazines.get(nth as u32)));
        Some(Box::new(Self { slot, magazines }))
    }
}
