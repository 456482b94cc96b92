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
//! thread that wants what is in it (the pool is dry; the pool closes) has to keep the owner out. The owner's
//! flag and the length of the loaded magazine are one word, `state`, because what a get or a put costs is
//! above all its stores:
//!
//! ```text
//!   owner                              another, under the pool's lock
//!   len = state                        gate = closed
//!   state = len, busy                  (heavy barrier)
//!   (light barrier)                    wait until state is not busy
//!   if gate is open: use the slot      use the slot, but do not write `state`
//!   state = new len     (release)      gate = open, or closed and void   (release)
//! ```
//!
//! This is Dekker's pattern: with the barriers, at least one of the two sees what the other wrote (see
//! `barrier` for why an asymmetric pair is enough). If the owner reads "open", its flag is visible to the
//! other, who waits; the owner's release and the other's acquire hand the slot over. If the owner reads
//! "closed", it writes back the length that it found, leaves the slot alone and waits for the pool's lock.
//!
//! So the owner may write `state` while its gate is closed, but never another length than it had. The other
//! keeps a new length of the loaded magazine elsewhere, in `void_len`, marks the gate as void, and leaves it
//! closed: the owner finds that under the lock, takes the length over and opens the gate itself. A gate that
//! is not void (nothing was taken) is opened by who closed it, and its release and the owner's acquire hand
//! the slot back. Gates are closed under the lock only, so the holder of the lock has its own slot to itself.
//! `entrance` is written by both, the owner's magazine and the other's gate: never without looking.
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
use crate::copy::{Wide, copy};
use crate::magazine::{Block, Magazine};
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence, relax};

mod hold;

use hold::By;
pub(crate) use hold::{Entered, Hold};

/// The gate's states, as bits of `Slot::entrance`: closed for a while, owners must fence, closed for good, the
/// length in `state` no longer holds.
pub(crate) const CLOSED: usize = 1;
const FENCED: usize = 2;
pub(crate) const FINAL: usize = 4;
const VOID: usize = 8;
const GATE: usize = CLOSED | FENCED | FINAL | VOID;
const _: () = assert!(align_of::<Magazine>() > GATE);

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
    /// The gate when it is open: 0, or `FENCED`, which sends the owner off the fast path, to `enter`, where it
    /// executes the fence. So the fast path need not ask which barrier is in use.
    open: usize,
}

impl Slot {
    /// A slot with these magazines, which are empty and nobody else's.
    pub(crate) fn new(mode: Mode, capacity: u32, magazines: [NonNull<Magazine>; MAGAZINES]) -> Self {
        let open = match mode {
            Mode::Kernel => 0,
            Mode::Fenced => FENCED,
        };
        let [loaded, spare] = magazines.map(NonNull::as_ptr);
        Self {
            state: AtomicU64::new(state_of(0, capacity)),
            entrance: AtomicPtr::new(loaded.map_addr(|address| address | open)),
            wide: Wide::detect(),
            capacity,
            moving: AtomicU32::new(0),
            void_len: AtomicU32::new(0),
            spare: AtomicPtr::new(spare),
            spare_len: AtomicU32::new(0),
            sent: AtomicUsize::new(0),
            open,
        }
    }

    /// The fast path of a get: takes `n` objects if the loaded magazine has them and the gate is open. True
    /// if so.
    ///
    /// The slot may be gone by the time this returns, if the objects taken are the caller's only hold on the
    /// pool.
    ///
    /// # Safety
    /// `slot` lives at the call and is the caller's own; `out` has room for `n` objects.
    #[inline(always)]
    pub(crate) unsafe fn get(slot: NonNull<Self>, out: *mut NonNull<u8>, n: usize) -> bool {
        // Models have `Mode::Fenced`, in which this never succeeds: they need not try it in all its interleavings.
        if cfg!(loom) {
            return false;
        }
        // SAFETY: the slot lives until the owner's flag is reset: who frees it closes the gate and waits for
        // that. No reference is held over that point. The loaded magazine has `len` objects, of which the
        // last `n` are copied; it is the caller's alone while the gate is open and the flag is set.
        unsafe {
            let slot = slot.as_ptr();
            let Some((state, magazine)) = Self::claim(slot, |len, _| n <= len) else { return false };
            let end = Magazine::objects(magazine).add(state as u32 as usize);
            Magazine::read(magazine);
            copy(end.sub(n), out, n, (*slot).wide);
            (*slot).state.store(state.wrapping_add(less(n)), Ordering::Release);
            true
        }
    }

    /// The fast path of a put: adds `n` objects if the loaded magazine has room and the gate is open. True if
    /// so.
    ///
    /// The slot may be gone by the time this returns: the last objects may have come home.
    ///
    /// # Safety
    /// `slot` lives at the call and is the caller's own; `objects` are `n` of the pool's, in use and the
    /// caller's.
    #[inline(always)]
    pub(crate) unsafe fn put(slot: NonNull<Self>, objects: *const NonNull<u8>, n: usize) -> bool {
        // Models have `Mode::Fenced`, in which this never succeeds: they need not try it in all its interleavings.
        if cfg!(loom) {
            return false;
        }
        // SAFETY: as in `get`; the magazine has room for `capacity` objects.
        unsafe {
            let slot = slot.as_ptr();
            let Some((state, magazine)) = Self::claim(slot, |_, room| n <= room) else { return false };
            let end = Magazine::objects(magazine).add(state as u32 as usize);
            Magazine::written(magazine);
            copy(objects, end, n, (*slot).wide);
            (*slot).state.store(state.wrapping_sub(less(n)), Ordering::Release);
            true
        }
    }

    /// Sets the owner's flag. The state without it and the loaded magazine, if the gate is open and the
    /// magazine's length and room fit; else the flag is reset.
    ///
    /// # Safety
    /// `slot` lives until the flag is reset, and is the caller's own.
    #[inline(always)]
    unsafe fn claim(
        slot: *mut Self,
        fits: impl FnOnce(usize, usize) -> bool,
    ) -> Option<(u64, NonNull<Magazine>)> {
        // SAFETY: it lives, as the caller says; no reference is held over the reset of the flag. With an open
        // gate, `entrance` is the address of the loaded magazine, which is never null.
        unsafe {
            let state = (*slot).state.load(Ordering::Relaxed);
            (*slot).state.store(state | BUSY, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            let entrance = (*slot).entrance.load(Ordering::Acquire);
            if entrance.addr() & GATE != 0 || cold(!fits(state as u32 as usize, (state >> 32) as usize)) {
                (*slot).state.store(state, Ordering::Release);
                return None;
            }
            Some((state, NonNull::new_unchecked(entrance)))
        }
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
        compiler_fence(Ordering::SeqCst);
        let mut gate = shared.gate();
        if gate == FENCED {
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

    /// Waits until the owner has left; after `close` and a heavy barrier.
    pub(crate) fn wait(&self) {
        let mut round = 0;
        while self.state.load(Ordering::Acquire) & BUSY != 0 {
            relax(round);
            round = round.saturating_add(1);
        }
    }

    /// Lets the owner in again, unless the length that it knows does not hold: then it has to come under the
    /// lock for the new one.
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
