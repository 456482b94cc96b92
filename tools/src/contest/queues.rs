//! The rings that take part: Wirerate's, and crossbeam's bounded queue.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use wirerate_mempool::ring::{Consumer, Mode, Multi, Producer, Single, ring};

use super::rings::{Ring, alone, consumer, producer};
use super::threads::{Done, Start, Timer, together};
use super::{Contestant, Place, RING, Work, with_bulk};

/// All rings of this process, Wirerate's first.
#[must_use]
pub fn rings(place: &Place) -> Vec<Box<dyn Contestant>> {
    vec![
        Box::new(Both::<Ours<Single>, Ours<Multi>>::new("wirerate", place)),
        Box::new(Both::<Bounded, Bounded>::new("ArrayQueue", place)),
    ]
}

/// A ring for single ends, and one for multi ends.
struct Both<S, M> {
    name: &'static str,
    place: Place,
    kinds: PhantomData<fn() -> (S, M)>,
}

impl<S: Ring, M: Ring> Both<S, M> {
    fn new(name: &'static str, place: &Place) -> Self {
        Self { name, place: place.clone(), kinds: PhantomData }
    }
}

impl<S: Ring, M: Ring> Contestant for Both<S, M> {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&mut self, work: Work, bulk: usize, ms: u32) -> Result<Option<f64>> {
        let timer = Timer::new(self.place.clock, ms);
        Ok(match work {
            Work::Ring { multi: false, threads } => {
                Some(with_bulk!(bulk, N => through::<S, N>(&self.place, threads, timer))?)
            }
            Work::Ring { multi: true, threads } => {
                Some(with_bulk!(bulk, N => through::<M, N>(&self.place, threads, timer))?)
            }
            _ => None,
        })
    }
}

fn through<R: Ring, const N: usize>(place: &Place, threads: usize, timer: Timer) -> Result<f64> {
    let (into, out_of) = R::ends();
    let over = AtomicBool::new(false);
    let rate = match (threads, &place.cpus[..]) {
        (1, &[first, ..]) => {
            let work = |start: &Start| -> Done { alone::<R, N>(into, out_of, start, timer) };
            together(vec![(Some(first), Box::new(work))])?
        }
        (2, &[first, second]) => {
            let over = &over;
            let puts = move |start: &Start| -> Done { producer::<R, N>(into, over, start, timer) };
            let takes = move |start: &Start| -> Done { consumer::<R, N>(out_of, over, start) };
            together(vec![(Some(first), Box::new(puts)), (Some(second), Box::new(takes))])?
        }
        (threads, cpus) => anyhow::bail!("{threads} threads, and there are {} CPUs for them", cpus.len()),
    };
    Ok(1.0 / rate)
}

/// Wirerate's ring with both ends of one kind.
struct Ours<M>(PhantomData<M>);

impl<M: Mode> Ring for Ours<M>
where
    Producer<usize, M, M>: Send,
    Consumer<usize, M, M>: Send,
{
    type In = Producer<usize, M, M>;
    type Out = Consumer<usize, M, M>;

    fn ends() -> (Self::In, Self::Out) {
        ring(RING)
    }

    #[inline(always)]
    fn enqueue<const N: usize>(end: &mut Self::In, batch: &mut ArrayVec<usize, N>) -> usize {
        if end.enqueue_bulk(batch).is_ok() { N } else { 0 }
    }

    #[inline(always)]
    fn dequeue<const N: usize>(end: &mut Self::Out, batch: &mut ArrayVec<usize, N>) -> usize {
        if end.dequeue_bulk(batch, N).is_ok() { N } else { 0 }
    }
}

/// crossbeam's queue, one value a call, which any number of threads may be at: there is no other for single
/// ends.
struct Bounded;

impl Ring for Bounded {
    type In = Arc<ArrayQueue<usize>>;
    type Out = Arc<ArrayQueue<usize>>;

    fn ends() -> (Self::In, Self::Out) {
        let queue = Arc::new(ArrayQueue::new(RING));
        (Arc::clone(&queue), queue)
    }

    #[inline(always)]
    fn enqueue<const N: usize>(end: &mut Self::In, batch: &mut ArrayVec<usize, N>) -> usize {
        let moved = batch.iter().take_while(|value| end.push(**value).is_ok()).count();
        batch.clear();
        moved
    }

    #[inline(always)]
    fn dequeue<const N: usize>(end: &mut Self::Out, batch: &mut ArrayVec<usize, N>) -> usize {
        batch.extend(std::iter::from_fn(|| end.pop()).take(N));
        batch.len()
    }
}
