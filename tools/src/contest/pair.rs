//! One thread gets, another puts, and between them a circle of addresses with one writer and one reader. The
//! same in `tools/peers/dpdk.c`, so that it weighs the same on both sides.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::churn::Untyped;
use super::threads::{Done, Start, Timer};

/// Places of the circle: a power of two, and a multiple of every bulk.
const CIRCLE: u64 = 1024;

#[repr(align(64))]
struct Line<T>(T);

/// The hand-over. Each side keeps what it last saw of the other.
pub(super) struct Circle<T> {
    written: Line<AtomicU64>,
    read: Line<(AtomicU64, AtomicBool)>,
    places: Line<[UnsafeCell<MaybeUninit<T>>; CIRCLE as usize]>,
}

// SAFETY: a place is written by the getter only while it is not between `read` and `written`, and read by the
// putter only while it is; objects go from thread to thread, and are `Send`.
unsafe impl<T: Send> Sync for Circle<T> {}

impl<T> Circle<T> {
    pub(super) fn new() -> Self {
        Self {
            written: Line(AtomicU64::new(0)),
            read: Line((AtomicU64::new(0), AtomicBool::new(false))),
            places: Line([const { UnsafeCell::new(MaybeUninit::uninit()) }; CIRCLE as usize]),
        }
    }

    /// The places from number `at` on; `N` of them, when `at` is a multiple of `N`.
    #[inline(always)]
    fn place(&self, at: u64) -> *mut T {
        let first = self.places.0.as_ptr().cast_mut().cast::<T>();
        // SAFETY: the remainder is within the array.
        unsafe { first.add((at % CIRCLE) as usize) }
    }

    #[inline(always)]
    fn over(&self) -> &AtomicBool {
        &self.read.0.1
    }
}

/// Says to the putter that nothing more comes, also when the getter panics.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The side that gets, whose work counts.
#[inline(never)]
pub(super) fn getter<P: Untyped, const N: usize>(
    pool: &P,
    circle: &Circle<P::Object>,
    start: &Start,
    timer: Timer,
) -> Done {
    const { assert!((CIRCLE as usize).is_multiple_of(N)) };
    let (n, mut at, mut read, mut bulks) = (N as u64, 0u64, 0u64, 0u32);
    let mut own = pool.own();
    let ending = Ending(circle.over());
    start.wait();
    let begun = timer.now();
    loop {
        if at - read + n > CIRCLE {
            read = circle.read.0.0.load(Ordering::Acquire);
            if at - read + n > CIRCLE {
                spin_loop();
                continue;
            }
        }
        // SAFETY: `N` places from `at` on are free, as was just seen, and ours until `written` says so.
        unsafe { pool.get::<N>(&mut own, circle.place(at)) };
        at += n;
        circle.written.0.store(at, Ordering::Release);
        bulks = bulks.wrapping_add(1);
        if bulks.is_multiple_of(64) && timer.since(begun).1 {
            break;
        }
    }
    drop(ending);
    Done { objects: at, took: timer.since(begun).0 }
}

/// The side that puts, until the getter is done and all are put.
#[inline(never)]
pub(super) fn putter<P: Untyped, const N: usize>(
    pool: &P,
    circle: &Circle<P::Object>,
    start: &Start,
) -> Done {
    let (mut at, mut written) = (0u64, 0u64);
    let mut own = pool.own();
    start.wait();
    loop {
        if at == written {
            let over = circle.over().load(Ordering::Acquire);
            written = circle.written.0.load(Ordering::Acquire);
            if at == written {
                if over {
                    return Done::default();
                }
                spin_loop();
                continue;
            }
        }
        // SAFETY: the getter has written these `N` objects of the pool, and does not touch them again.
        unsafe { pool.put::<N>(&mut own, circle.place(at)) };
        at += N as u64;
        circle.read.0.0.store(at, Ordering::Release);
    }
}
