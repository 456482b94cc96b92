//! The loop of DPDK's `mempool_perf_autotest`: get all in bulks of n, put all back in bulks of n.

use std::hint::black_box;
use std::mem::MaybeUninit;

use super::threads::{Done, Start, Timer};

/// A pool that gives objects by address, key or box: something to keep in a table.
///
/// The methods are called in loops with `N` constant, and are to be inlined there.
pub(super) trait Untyped: Sync {
    type Object: Send;
    /// What a thread has of its own, for instance a cache; made on that thread.
    type Own;

    fn own(&self) -> Self::Own;

    /// Gets `N` objects.
    ///
    /// # Safety
    /// There is room for `N` at `to`. `own` is of this pool and this thread.
    unsafe fn get<const N: usize>(&self, own: &mut Self::Own, to: *mut Self::Object);

    /// Puts `N` objects back.
    ///
    /// # Safety
    /// At `from` are `N` that were got from this pool, and they are not used again. `own` is as for `get`.
    unsafe fn put<const N: usize>(&self, own: &mut Self::Own, from: *mut Self::Object);
}

/// A pool whose objects can be got and put back by turns.
pub(super) trait Churn: Sync {
    /// What a thread keeps from one turn to the next.
    type Kept;

    /// Room for `keep` objects.
    fn kept(&self, keep: usize) -> Self::Kept;

    /// Gets `keep` objects in bulks of `N`, and puts them back so. `keep` is a multiple of `N`, and what
    /// `kept` was told.
    fn turn<const N: usize>(&self, kept: &mut Self::Kept, keep: usize);
}

impl<P: Untyped> Churn for P {
    type Kept = (P::Own, Table<P::Object>);

    fn kept(&self, keep: usize) -> Self::Kept {
        (self.own(), Table::new(keep))
    }

    #[inline(always)]
    fn turn<const N: usize>(&self, (own, table): &mut Self::Kept, keep: usize) {
        let places = table.places(keep);
        let mut at = 0;
        while at < keep {
            // SAFETY: the table has room for `keep`, of which `N` is a divisor; `own` was made by `kept`.
            unsafe { self.get::<N>(own, places.add(at)) };
            at += N;
        }
        // What is in the table could be used here.
        let places = black_box(places);
        at = 0;
        while at < keep {
            // SAFETY: got above, `N` by `N`, and put once.
            unsafe { self.put::<N>(own, places.add(at)) };
            at += N;
        }
    }
}

/// Room for objects, aligned to a cache line, as the table in C is.
pub(super) struct Table<T>(Vec<Line<T>>);

#[repr(align(64))]
struct Line<T>([MaybeUninit<T>; 8]);

impl<T> Table<T> {
    fn new(keep: usize) -> Self {
        const { assert!(size_of::<Line<T>>() == 8 * size_of::<T>(), "the places follow each other") };
        Self((0..keep.div_ceil(8)).map(|_| Line([const { MaybeUninit::uninit() }; 8])).collect())
    }

    /// The first of `keep` places.
    #[inline(always)]
    fn places(&mut self, keep: usize) -> *mut T {
        assert!(keep <= 8 * self.0.len());
        self.0.as_mut_ptr().cast()
    }
}

/// Turns of one thread until time is up. The clock is looked at each 16,384 objects, or each turn.
pub(super) fn churn<P: Churn, const N: usize>(pool: &P, keep: usize, start: &Start, timer: Timer) -> Done {
    assert!(keep.is_multiple_of(N), "{keep} objects are no whole number of bulks of {N}");
    let mut kept = pool.kept(keep);
    let count = (16_384 / keep).max(1);
    turns::<P, N>(pool, &mut kept, keep, count);
    start.wait();
    let begun = start.begun(timer);
    let mut objects = 0;
    loop {
        turns::<P, N>(pool, &mut kept, keep, count);
        objects += (count * keep) as u64;
        let (took, over) = timer.since(begun);
        if over {
            return Done { objects, took };
        }
    }
}

#[inline(never)]
fn turns<P: Churn, const N: usize>(pool: &P, kept: &mut P::Kept, keep: usize, count: usize) {
    for _ in 0..count {
        pool.turn::<N>(kept, keep);
    }
}
