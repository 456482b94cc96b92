//! The ring in all its forms: order, all or nothing, exact capacity, drops.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrayvec::ArrayVec;
use proptest::prelude::*;
use wirerate_mempool::ring::{Consumer, Empty, Full, Mode, Multi, Producer, Single, ring};

/// Runs a check on all four rings.
macro_rules! all_rings {
    ($($name:ident: $check:ident;)*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn single_to_single() {
                $check::<Single, Single>();
            }
            #[test]
            fn single_to_multi() {
                $check::<Single, Multi>();
            }
            #[test]
            fn multi_to_single() {
                $check::<Multi, Single>();
            }
            #[test]
            fn multi_to_multi() {
                $check::<Multi, Multi>();
            }
        }
    )*};
}

all_rings! {
    capacity_is_exact: exact_capacity;
    bulks_are_all_or_nothing: bulks;
    what_is_left_is_dropped: drops;
    ends_know_when_the_other_is_gone: closing;
    one_thread_to_another_keeps_the_order: order;
    any_calls_do_as_a_queue_does: as_a_queue;
}

fn exact_capacity<P: Mode, C: Mode>() {
    for capacity in [1, 2, 3, 7, 8, 1000] {
        let (mut producer, mut consumer) = ring::<usize, P, C>(capacity);
        assert_eq!((producer.capacity(), consumer.capacity()), (capacity, capacity));
        for round in 0..5 {
            for item in 0..capacity {
                assert_eq!(producer.len(), item);
                producer.push(round * 10_000 + item).unwrap();
            }
            assert_eq!(producer.push(7), Err(7));
            let mut out = Vec::new();
            assert_eq!(consumer.dequeue_burst(&mut out, usize::MAX), capacity);
            assert_eq!(out, (0..capacity).map(|item| round * 10_000 + item).collect::<Vec<_>>());
            assert!(consumer.is_empty() && consumer.pop().is_none());
        }
    }
}

fn bulks<P: Mode, C: Mode>() {
    let (mut producer, mut consumer) = ring::<String, P, C>(6);
    let mut five: ArrayVec<String, 8> = (0..5).map(|n| n.to_string()).collect();
    let mut two: ArrayVec<String, 2> = ["a", "b"].map(String::from).into();
    producer.enqueue_bulk(&mut five).unwrap();
    assert!(five.is_empty());
    assert_eq!(producer.enqueue_bulk(&mut two), Err(Full));
    assert_eq!(two.len(), 2, "a bulk that fails is left as it was");
    assert_eq!(producer.enqueue_burst(&mut two), 1);
    assert_eq!(two.as_slice(), ["b"]);
    let mut out = Vec::new();
    assert_eq!(consumer.dequeue_bulk(&mut out, 7), Err(Empty));
    assert!(out.is_empty());
    let mut small: ArrayVec<String, 4> = ArrayVec::new();
    assert_eq!(consumer.dequeue_bulk(&mut small, 5), Err(Empty), "no room for 5");
    assert_eq!(consumer.dequeue_burst(&mut small, 5), 4);
    consumer.dequeue_bulk(&mut out, 2).unwrap();
    assert_eq!(small.as_slice(), ["0", "1", "2", "3"]);
    assert_eq!(out, ["4", "a"]);
    let mut none: Vec<String> = Vec::new();
    producer.enqueue_bulk(&mut none).unwrap();
    assert_eq!(producer.enqueue_burst(&mut none), 0);
    consumer.dequeue_bulk(&mut out, 0).unwrap();
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn drops<P: Mode, C: Mode>() {
    for producer_first in [true, false] {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (mut producer, mut consumer) = ring::<Counted, P, C>(5);
        // So that what is left goes over the end of the storage.
        for _ in 0..6 {
            producer.push(Counted(Arc::clone(&dropped))).unwrap();
            drop(consumer.pop().unwrap());
        }
        let mut items: Vec<_> = (0..7).map(|_| Counted(Arc::clone(&dropped))).collect();
        assert_eq!(producer.enqueue_burst(&mut items), 5);
        drop(consumer.pop());
        assert_eq!(dropped.load(Ordering::SeqCst), 7);
        if producer_first {
            drop(producer);
            assert_eq!(dropped.load(Ordering::SeqCst), 7);
            drop(consumer);
        } else {
            drop(consumer);
            assert_eq!(dropped.load(Ordering::SeqCst), 7);
            drop(producer);
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 11);
        drop(items);
        assert_eq!(dropped.load(Ordering::SeqCst), 13);
    }
}

fn closing<P: Mode, C: Mode>() {
    let (mut producer, mut consumer) = ring::<u8, P, C>(4);
    assert!(!producer.is_closed() && !consumer.is_closed());
    producer.push(1).unwrap();
    drop(producer);
    assert!(consumer.is_closed());
    assert_eq!(consumer.pop(), Some(1));
    let (producer, consumer) = ring::<u8, P, C>(4);
    drop(consumer);
    assert!(producer.is_closed());
}

fn order<P: Mode + Send, C: Mode + Send>() {
    const COUNT: u64 = 100_000;
    let (mut producer, mut consumer) = ring::<u64, P, C>(100);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = 0;
            let mut batch: ArrayVec<u64, 32> = ArrayVec::new();
            while next < COUNT || !batch.is_empty() {
                while !batch.is_full() && next < COUNT {
                    batch.push(next);
                    next += 1;
                }
                if producer.enqueue_burst(&mut batch) == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        let mut out: ArrayVec<u64, 24> = ArrayVec::new();
        while expected < COUNT {
            if consumer.dequeue_burst(&mut out, 24) == 0 {
                thread::yield_now();
            }
            for item in out.drain(..) {
                assert_eq!(item, expected);
                expected += 1;
            }
        }
        assert!(consumer.pop().is_none());
    });
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Push,
    Pop,
    EnqueueBulk(usize),
    EnqueueBurst(usize),
    DequeueBulk(usize),
    DequeueBurst(usize),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        Just(Call::Push),
        Just(Call::Pop),
        (0..12_usize).prop_map(Call::EnqueueBulk),
        (0..12_usize).prop_map(Call::EnqueueBurst),
        (0..12_usize).prop_map(Call::DequeueBulk),
        (0..12_usize).prop_map(Call::DequeueBurst),
    ]
}

/// Whatever is called, the ring does as a queue with a bound does.
fn as_a_queue<P: Mode, C: Mode>() {
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() },
        |(capacity in 1..17_usize, calls in prop::collection::vec(call(), 0..200))| {
        let (mut producer, mut consumer) = ring::<Box<usize>, P, C>(capacity);
        let mut queue = std::collections::VecDeque::new();
        let mut next = 0;
        let mut fresh = |n: usize| -> Vec<Box<usize>> {
            (0..n).map(|_| { next += 1; Box::new(next) }).collect()
        };
        for call in calls {
            let room = capacity - queue.len();
            match call {
                Call::Push => {
                    let item = fresh(1).remove(0);
                    if room > 0 {
                        queue.push_back(item.clone());
                        prop_assert_eq!(producer.push(item), Ok(()));
                    } else {
                        prop_assert_eq!(producer.push(item.clone()), Err(item));
                    }
                }
                Call::Pop => prop_assert_eq!(consumer.pop(), queue.pop_front()),
                Call::EnqueueBulk(n) => {
                    let mut items = fresh(n);
                    if n <= room {
                        queue.extend(items.iter().cloned());
                        prop_assert_eq!(producer.enqueue_bulk(&mut items), Ok(()));
                        prop_assert!(items.is_empty());
                    } else {
                        let before = items.clone();
                        prop_assert_eq!(producer.enqueue_bulk(&mut items), Err(Full));
                        prop_assert_eq!(items, before);
                    }
                }
                Call::EnqueueBurst(n) => {
                    let mut items = fresh(n);
                    let now = n.min(room);
                    queue.extend(items[..now].iter().cloned());
                    let rest = items[now..].to_vec();
                    prop_assert_eq!(producer.enqueue_burst(&mut items), now);
                    prop_assert_eq!(items, rest);
                }
                Call::DequeueBulk(n) => {
                    let mut out = Vec::new();
                    if n <= queue.len() {
                        prop_assert_eq!(consumer.dequeue_bulk(&mut out, n), Ok(()));
                        prop_assert_eq!(out, queue.drain(..n).collect::<Vec<_>>());
                    } else {
                        prop_assert_eq!(consumer.dequeue_bulk(&mut out, n), Err(Empty));
                        prop_assert!(out.is_empty());
                    }
                }
                Call::DequeueBurst(n) => {
                    let mut out: ArrayVec<Box<usize>, 8> = ArrayVec::new();
                    let now = n.min(8).min(queue.len());
                    prop_assert_eq!(consumer.dequeue_burst(&mut out, n), now);
                    prop_assert_eq!(out.to_vec(), queue.drain(..now).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(producer.len(), queue.len());
        }
    });
}

/// Three producers and three consumers: every value comes out once, the values of a producer come to a
/// consumer in order, and a bulk, being all or nothing, comes without a gap.
#[test]
fn many_to_many() {
    const EACH: u64 = 30_000;
    let (producer, consumer) = ring::<(u64, u64), Multi, Multi>(64);
    let mut received: Vec<Vec<(u64, u64)>> = Vec::new();
    thread::scope(|scope| {
        for id in 0..3 {
            let mut producer: Producer<_, Multi, Multi> = producer.clone();
            scope.spawn(move || {
                let mut next = 0;
                while next < EACH {
                    let n = (1 + next % 9).min(EACH - next);
                    let mut bulk: Vec<_> = (next..next + n).map(|value| (id, value)).collect();
                    while producer.enqueue_bulk(&mut bulk).is_err() {
                        assert_eq!(bulk.len() as u64, n);
                        thread::yield_now();
                    }
                    next += n;
                }
            });
        }
        drop(producer);
        let consumers: Vec<_> = (0..3_usize)
            .map(|id| {
                let mut consumer: Consumer<_, Multi, Multi> = consumer.clone();
                scope.spawn(move || {
                    let mut all = Vec::new();
                    loop {
                        let closed = consumer.is_closed();
                        let before = all.len();
                        if id == 0 {
                            all.extend(consumer.pop());
                        } else if consumer.dequeue_bulk(&mut all, 4).is_err() {
                            consumer.dequeue_burst(&mut all, 3);
                        }
                        if all.len() == before {
                            if closed {
                                return all;
                            }
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        received = consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect();
    });
    for values in &received {
        for id in 0..3 {
            let own: Vec<_> = values.iter().filter(|(from, _)| *from == id).map(|(_, value)| value).collect();
            assert!(own.is_sorted(), "the values of producer {id} came out of order");
        }
    }
    let mut all: Vec<_> = received.concat();
    all.sort_unstable();
    let expected: Vec<_> = (0..3).flat_map(|id| (0..EACH).map(move |value| (id, value))).collect();
    assert!(all == expected, "{} of {} came out, or not the same", all.len(), expected.len());
}

#[test]
#[should_panic(expected = "a ring of 0 cannot be")]
fn a_ring_for_nothing_is_refused() {
    let _ = ring::<u8, Single, Single>(0);
}
