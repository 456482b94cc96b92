//! When a pool ends: when its last handle is gone and its last object is home.
//!
//! An object may outlive all handles. To count the objects in use all the time would cost an atomic operation
//! for each call; so they are counted only once the last handle is gone. The pool then *closes*:
//!
//! 1. Under the lock, every slot's gate is closed for good, and the owners are waited for. From here on no
//!    object goes into a slot or the depot: every put finds its gate closed (or no slot) and takes the slow
//!    path.
//! 2. What is not in a slot or the depot is in use, also what a thread is about to put. That number is fixed
//!    now, and it is added to `outstanding`.
//! 3. Each put subtracts the number of its objects from `outstanding`, and whoever brings it to zero frees
//!    the pool. So that it does not get there between 1 and 2, it begins at `BIAS`, which step 2 takes away
//!    again.
//!
//! Who may touch a pool, and why it is still there:
//! - A caller with a handle: it is not closing.
//! - A put, until it has subtracted its objects: they are among the outstanding. To subtract is the last
//!   thing it does.
//! - A get by a [`RawHandle`](crate::RawHandle): its caller keeps an object in use, by contract.
//! - A put without a handle that ends on the fast path (`Slot::put_last`): the reset of the owner's flag is the
//!   last thing it does, and step 1 waits for that.
//! - A put that took the lock before step 1: it may still be in the lock's release when another thread has
//!   the lock already. So the lock is taken within a *pin*, a count that is taken down after the release;
//!   step 2 comes after all pins of before are gone. Pins of later are of the second or third kind.

use alloc::boxed::Box;
use core::ptr::NonNull;

use super::core::Core;
use crate::slot::FINAL;
use crate::sync::{AtomicBool, AtomicUsize, Guard, Ordering, Tracker, relax};

/// More than there can be objects.
const BIAS: usize = 1 << (usize::BITS - 2);

/// What decides on the end.
#[derive(Debug)]
pub(super) struct Life {
    handles: AtomicUsize,
    /// Written under the lock.
    closing: AtomicBool,
    outstanding: AtomicUsize,
    pins: AtomicUsize,
    /// Stands for the pool's memory in a loom model, which does not see it freed.
    memory: Tracker,
}

impl Life {
    /// The life of a pool with one handle.
    pub(super) fn new() -> Self {
        Self {
            handles: AtomicUsize::new(1),
            closing: AtomicBool::new(false),
            outstanding: AtomicUsize::new(BIAS),
            pins: AtomicUsize::new(0),
            memory: Tracker::default(),
        }
    }

    /// Tells loom that the pool is used here, for the last time before it may be freed.
    #[inline(always)]
    pub(super) fn used(&self) {
        self.memory.reads();
    }

    /// Whether the last handle is gone. Under the lock.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// One handle more, made from another.
    pub(super) fn add_handle(&self) {
        let before = self.handles.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before > 0 && before < usize::MAX / 2, "{before} handles");
    }
}

/// The pool's lock, held.
#[derive(Debug)]
pub(super) struct Pin<'a> {
    core: &'a Core,
    guard: Option<Guard<'a>>,
}

impl<'a> Pin<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        // Relaxed: whether the closing thread sees it is decided by the lock, which orders it before our
        // critical section.
        core.life.pins.fetch_add(1, Ordering::Relaxed);
        Self { core, guard: Some(core.lock.lock()) }
    }

    pub(super) fn is_of(&self, core: &Core) -> bool {
        core::ptr::eq(self.core, core) && self.guard.is_some()
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.guard = None;
        self.core.life.used();
        // Release: the end of the pool comes after all that was done under the pin.
        self.core.life.pins.fetch_sub(1, Ordering::Release);
    }
}

impl Core {
    /// One handle less; the pool closes with the last one.
    ///
    /// # Safety
    /// `core` lives, and the caller has a handle, which it gives up.
    pub(super) unsafe fn drop_handle(core: NonNull<Self>) {
        // SAFETY: it lives until the handle is given up. AcqRel: who closes sees what was done through other
        // handles.
        if unsafe { (*core.as_ptr()).life.handles.fetch_sub(1, Ordering::AcqRel) } == 1 {
            // SAFETY: that was the last one, and nobody makes one from none.
            unsafe { Self::close(core) };
        }
    }

    /// # Safety
    /// `core` lives, and has no handle any more; called once.
    #[cold]
    unsafe fn close(core: NonNull<Self>) {
        // SAFETY: it lives until the bias is taken away, at the end.
        let this = unsafe { core.as_ref() };
        let pin = Pin::new(this);
        this.life.closing.store(true, Ordering::Relaxed);
        if !this.keep_out(FINAL, &pin) {
            // To keep the pool for ever is the safe way out.
            return;
        }
        let at_home = this.in_depot()
            + this.shared.len()
            + this.thread_slots().map(|owned| owned.slot.len()).sum::<usize>();
        let present = this.present.load(Ordering::Relaxed);
        debug_assert!(at_home <= present, "{at_home} of {present} are home");
        drop(pin);
        let mut round = 0;
        while this.life.pins.load(Ordering::Acquire) != 0 {
            relax(round);
            round = round.saturating_add(1);
        }
        let in_use = present.saturating_sub(at_home);
        this.tell_leaks(in_use);
        // AcqRel: the end comes after every put's last step.
        let before = this.life.outstanding.fetch_sub(BIAS - in_use, Ordering::AcqRel);
        if before == BIAS - in_use {
            // SAFETY: nothing is outstanding, no handle is left.
            unsafe { Self::end(core) };
        }
    }

    /// Counts `n` objects as home; the pool ends with the last one.
    ///
    /// # Safety
    /// `core` is closing, and the objects are the caller's, who gives them up.
    pub(super) unsafe fn came_home(core: NonNull<Self>, n: usize) {
        // SAFETY: it lives until these objects are counted, in the next step.
        unsafe { (*core.as_ptr()).life.used() };
        // SAFETY: as above.
        if unsafe { (*core.as_ptr()).life.outstanding.fetch_sub(n, Ordering::AcqRel) } == n {
            // SAFETY: the bias is gone, so the pool has closed; nothing is outstanding.
            unsafe { Self::end(core) };
        }
    }

    /// # Safety
    /// Nobody has a handle or an object, or is in a call.
    unsafe fn end(core: NonNull<Self>) {
        // SAFETY: made by `Box::into_raw` when the pool was made; called once, as `outstanding` gets to zero
        // once.
        let core = unsafe { Box::from_raw(core.as_ptr()) };
        core.life.memory.writes();
        drop(core);
    }
}
