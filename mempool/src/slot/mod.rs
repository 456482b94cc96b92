//! Slots: a thread's cache in one pool, and the gate by which others can keep it out.
//!
//! A slot holds two magazines, `loaded` and `previous` (Bonwick and Adams, section 3.1). Gets and puts use
//! `loaded`; when it has run empty (or full) the two change places, and only when both are empty (or full) is
//! one exchanged with the depot. So a thread that gets and puts around the edge of a magazine does not go to
//! the depot for each.
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
//! `barrier` for why an asymmetric pair is enough). If the owner reads "open", its `busy` is visible to the
//! other, who waits; the owner's release and the other's acquire of `busy == 0` hand the slot over. If the
//! owner reads "closed", it leaves the slot alone and waits for the pool's lock. The other's release of the
//! gate and the owner's acquire hand the slot back. Gates are closed under the lock only, so the holder of
//! the lock has its own slot to itself.
//!
//! # A put never fails
//! With magazines of M objects, a pool of N objects has K = ceil(N / M) magazines and two more for each slot.
//! Whatever is done, a slot holds two magazines; only between the two steps of an exchange with the depot
//! does it hold three, because an exchange pops before it pushes. A put needs an empty magazine from the
//! depot only when both of its own are full. Suppose there is none, and let t other slots be in the midst of
//! an exchange. Then the depot has K - t full magazines; each of those t slots has a full magazine (in a put:
//! the two it wants to get rid of; in a get: the one it popped); and our slot has two, and an object in hand.
//! That is (K + 2) M objects and one, less what may be missing in the one magazine that was not filled up
//! when the pool was made, which is below M: more than N, which cannot be. So there is an empty magazine.

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::compiler_fence;

use crate::barrier::Mode;
use crate::magazine::{Block, Magazine};
use crate::sync::{AtomicPtr, AtomicU32, Ordering, fence, relax};

mod hold;

pub(crate) use hold::{Entered, Hold};

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
    /// Odd while magazines change places, when the lengths below may not tell of all objects; counted up at
    /// the beginning and at the end.
    moving: AtomicU32,
    capacity: u32,
    loaded: AtomicPtr<Magazine>,
    previous: AtomicPtr<Magazine>,
    /// The lengths are the owner's; others read them to know where to look, and to count.
    loaded_len: AtomicU32,
    previous_len: AtomicU32,
    /// The gate's state when it is open: 0, or `FENCED`, which sends the owner off the fast path, to `enter`,
    /// where it executes the fence. So the fast path need not ask which barrier is in use.
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

    /// The fast path of a get: takes `n` objects if the loaded magazine has them and the gate is open. True
    /// if so.
    ///
    /// The slot may be gone by the time this returns, if the objects taken are the caller's only hold on the
    /// pool.
    ///
    /// # Safety
    /// `slot` lives at the call and is the calling thread's own; `out` has room for `n` objects.
    #[inline(always)]
    pub(crate) unsafe fn get(slot: NonNull<Self>, out: *mut NonNull<u8>, n: usize) -> bool {
        // SAFETY: the slot lives until `busy` is reset: who frees it closes the gate and waits for that. No
        // reference is held over that point. The loaded magazine has `len` objects, of which the last `n` are
        // copied; it is this thread's alone while the gate is open and `busy` is set.
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

    /// The fast path of a put: adds `n` objects if the loaded magazine has room and the gate is open. True if
    /// so.
    ///
    /// The slot may be gone by the time this returns: the last objects may have come home.
    ///
    /// # Safety
    /// `slot` lives at the call and is the calling thread's own; `objects` are `n` of the pool's, in use and
    /// the caller's.
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
    /// `slot` lives at the call and until the hold is dropped by what the caller holds of the pool, and is
    /// the calling thread's own.
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

    /// Closes the gate, for a while or (`FINAL`) for good. The owner is out after a heavy barrier and `wait`.
    /// Under the pool's lock only.
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
        // Acquire: if a move is over, its lengths are seen. If one begins while we read them, the count has
        // changed after.
        let before = self.moving.load(Ordering::Acquire);
        let len = self.len();
        fence(Ordering::Acquire);
        len > 0 || before % 2 == 1 || self.moving.load(Ordering::Relaxed) != before
    }
}

/// Copies `n` objects' addresses. In blocks of fixed size, and so in line, where `n` is a constant: a call of
/// `memcpy` for a burst takes longer than the copy itself.
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
