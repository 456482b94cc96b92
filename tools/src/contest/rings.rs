//! Values through a ring in bulks: in and out on one thread, or in on one and out on another.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;

use super::threads::{Done, Start, Timer, dry};

/// A ring by its two ends. The methods are to be inlined into loops with `N` constant.
pub(super) trait Ring {
    type In: Send;
    type Out: Send;

    fn ends() -> (Self::In, Self::Out);

    /// Moves values of `batch` in, all or none where the ring has such a call; says how many.
    fn enqueue<const N: usize>(end: &mut Self::In, batch: &mut ArrayVec<usize, N>) -> usize;

    /// Moves `N` values out into `batch`, which is empty, all or none where the ring has such a call; says
    /// how many.
    fn dequeue<const N: usize>(end: &mut Self::Out, batch: &mut ArrayVec<usize, N>) -> usize;
}

/// A full batch.
fn batch<const N: usize>() -> ArrayVec<usize, N> {
    black_box((0..N).collect())
}

/// In and out on one thread.
#[inline(never)]
pub(super) fn alone<R: Ring, const N: usize>(
    mut into: R::In,
    mut out_of: R::Out,
    start: &Start,
    timer: Timer,
) -> Done {
    let mut batch = batch::<N>();
    start.wait();
    let mut objects = 0;
    let begun = timer.now();
    loop {
        for _ in 0..1024 {
            let moved = R::enqueue(&mut into, &mut batch);
            let back = R::dequeue(&mut out_of, &mut batch);
            if moved != N || back != N {
                dry();
            }
        }
        objects += 1024 * N as u64;
        let (took, over) = timer.since(begun);
        if over {
            return Done { objects, took };
        }
    }
}

/// Says to the other side that nothing more comes, also when this one panics.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The side at which values go in, whose work counts.
#[inline(never)]
pub(super) fn producer<R: Ring, const N: usize>(
    mut end: R::In,
    over: &AtomicBool,
    start: &Start,
    timer: Timer,
) -> Done {
    let mut batch = batch::<N>();
    let ending = Ending(over);
    let (mut objects, mut bulks) = (0, 0u32);
    start.wait();
    let begun = timer.now();
    loop {
        // SAFETY: it was full once, and numbers stay where they were when they are copied out: the same ones
        // go in again, as in C.
        unsafe { batch.set_len(N) };
        let moved = R::enqueue(&mut end, &mut batch);
        if moved == 0 {
            spin_loop();
        }
        objects += moved as u64;
        bulks = bulks.wrapping_add(1);
        if bulks.is_multiple_of(64) && timer.since(begun).1 {
            break;
        }
    }
    let took = timer.since(begun).0;
    drop(ending);
    Done { objects, took }
}

/// The side at which they come out, until the other is done and the ring is empty.
#[inline(never)]
pub(super) fn consumer<R: Ring, const N: usize>(mut end: R::Out, over: &AtomicBool, start: &Start) -> Done {
    let mut batch = ArrayVec::<usize, N>::new();
    start.wait();
    loop {
        let ended = over.load(Ordering::Acquire);
        batch.clear();
        if R::dequeue(&mut end, &mut batch) == 0 {
            if ended {
                return Done::default();
            }
            spin_loop();
        }
        black_box(&mut batch);
    }
}
