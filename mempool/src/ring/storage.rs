//! What both kinds of ring are made of: places for values, and a position for each side.

use alloc::boxed::Box;
use core::cell::{Cell, UnsafeCell};
use core::fmt::Debug;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr;

use crate::copy::copy_values;
use crate::sync::{AtomicU32, AtomicUsize, Ordering, Tracker};

/// How many threads may be at an end of a ring: [`Single`] or [`Multi`].
pub trait Mode: sealed::Mode {}

mod sealed {
    pub trait Mode: super::Debug + 'static {
        const MULTI: bool;
    }
}

/// One thread at a time: the end can be sent to another thread, but not shared.
#[derive(Debug)]
pub struct Single(PhantomData<Cell<()>>);

/// Any number of threads, each with a clone of the end.
#[derive(Debug)]
pub struct Multi(());

impl Mode for Single {}
impl Mode for Multi {}

impl sealed::Mode for Single {
    const MULTI: bool = false;
}

impl sealed::Mode for Multi {
    const MULTI: bool = true;
}

/// One side's position, counted from 0 without end, on cache lines of its own. Both wrap around with `usize`.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Side {
    pub(super) position: AtomicUsize,
    /// Ends that there are.
    pub(super) alive: AtomicUsize,
}

impl Side {
    fn new() -> Self {
        Self { position: AtomicUsize::new(0), alive: AtomicUsize::new(1) }
    }
}

/// The ring.
pub(super) struct Shared<T> {
    pub(super) producers: Side,
    pub(super) consumers: Side,
    pub(super) capacity: usize,
    mask: usize,
    values: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// For each place, where an end is multi; else none.
    sequences: Box<[AtomicU32]>,
    /// For each place, in a loom model.
    trackers: Box<[Tracker]>,
}

// SAFETY: values are moved in by one thread and out by another, hence `Send`; the protocols of `spsc` and
// `sequenced` give each place to one thread at a time.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: it owns its values.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(capacity: usize, sequenced: bool) -> Self {
        // A sequence number tells "filled" from "free for the next turn" only if a turn is longer than 1.
        let places = capacity.next_power_of_two().max(2);
        let sequences = if sequenced { places } else { 0 };
        Self {
            producers: Side::new(),
            consumers: Side::new(),
            capacity,
            mask: places - 1,
            values: (0..places).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
            sequences: (0..sequences).map(|place| AtomicU32::new(place as u32)).collect(),
            trackers: (0..if cfg!(loom) { places } else { 0 }).map(|_| Tracker::default()).collect(),
        }
    }

    /// Places in storage.
    pub(super) fn places(&self) -> usize {
        self.mask + 1
    }

    /// The sequence number of the place at a position.
    ///
    /// # Safety
    /// The ring was made with numbers.
    #[inline]
    pub(super) unsafe fn sequence(&self, position: usize) -> &AtomicU32 {
        debug_assert!(!self.sequences.is_empty(), "a ring without numbers");
        // SAFETY: where there are numbers there is one for each place; masked, so it is within them.
        unsafe { self.sequences.get_unchecked(position & self.mask) }
    }

    pub(super) fn len(&self) -> usize {
        // In this order, so that the difference is not below what it was at the first load.
        let consumed = self.consumers.position.load(Ordering::Acquire);
        let produced = self.producers.position.load(Ordering::Acquire);
        produced.wrapping_sub(consumed).min(self.capacity)
    }

    /// The place at a position, and how many there are from there to the end of the storage.
    #[inline]
    fn place(&self, position: usize) -> (*mut T, usize) {
        let place = position & self.mask;
        // SAFETY: masked, so within the storage. `UnsafeCell` and `MaybeUninit` are laid out as what they
        // have in them.
        (unsafe { self.values.as_ptr().add(place).cast_mut().cast() }, self.places() - place)
    }

    /// Moves `n` values into the places from `position` on.
    ///
    /// # Safety
    /// The places are the caller's, and have no values; `n` is at most `places()`.
    #[inline]
    pub(super) unsafe fn write(&self, position: usize, items: *const T, n: usize) {
        self.track(position, n, Tracker::writes);
        let (place, ahead) = self.place(position);
        // SAFETY: up to the end of the storage, then from its beginning; `n` is at most all of it.
        unsafe {
            if n <= ahead {
                copy_values(items, place, n);
            } else {
                ptr::copy_nonoverlapping(items, place, ahead);
                ptr::copy_nonoverlapping(items.add(ahead), self.place(0).0, n - ahead);
            }
        }
    }

    /// Moves `n` values out of the places from `position` on.
    ///
    /// # Safety
    /// The places are the caller's, and have values; `n` is at most `places()`.
    #[inline]
    pub(super) unsafe fn read(&self, position: usize, out: *mut T, n: usize) {
        self.track(position, n, Tracker::reads);
        let (place, ahead) = self.place(position);
        // SAFETY: as above.
        unsafe {
            if n <= ahead {
                copy_values(place, out, n);
            } else {
                ptr::copy_nonoverlapping(place, out, ahead);
                ptr::copy_nonoverlapping(self.place(0).0, out.add(ahead), n - ahead);
            }
        }
    }

    #[inline(always)]
    fn track(&self, position: usize, n: usize, access: impl Fn(&Tracker)) {
        if cfg!(loom) {
            (0..n).for_each(|ahead| access(&self.trackers[position.wrapping_add(ahead) & self.mask]));
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let mut position = self.consumers.position.load(Ordering::Relaxed);
        let end = self.producers.position.load(Ordering::Relaxed);
        // No end is left, so no call is under way: every place between the positions has a value.
        while position != end {
            let (place, _) = self.place(position);
            position = position.wrapping_add(1);
            // SAFETY: it has a value, which is dropped once.
            unsafe { place.drop_in_place() };
        }
    }
}
