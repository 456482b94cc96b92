//! Models of both rings for loom. Each place's value is tracked, so two threads at one place are found as a
//! race.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Mode, Multi, Single, ring};

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(check);
}

/// One thread puts 1, 2 and 3 in, another takes them out, with room for two: in order, each once.
fn in_order<P: Mode + Send, C: Mode + Send>() {
    model(|| {
        let (mut producer, mut consumer) = ring::<Box<u32>, P, C>(2);
        let other = loom::thread::spawn(move || {
            let mut items: Vec<Box<u32>> = [1, 2, 3].map(Box::new).into();
            while !items.is_empty() {
                if producer.enqueue_burst(&mut items) == 0 {
                    loom::thread::yield_now();
                }
            }
        });
        let mut out: Vec<Box<u32>> = Vec::new();
        while out.len() < 3 {
            if consumer.dequeue_burst(&mut out, 2) == 0 {
                loom::thread::yield_now();
            }
        }
        other.join().unwrap();
        assert_eq!(out.iter().map(|item| **item).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(consumer.is_closed() && consumer.pop().is_none());
    });
}

#[test]
fn loom_ring_single_to_single() {
    in_order::<Single, Single>();
}

#[test]
fn loom_ring_single_to_multi() {
    in_order::<Single, Multi>();
}

#[test]
fn loom_ring_multi_to_single() {
    in_order::<Multi, Single>();
}

/// Two producers put a pair in each, two consumers take what there is; what is left is taken at the end.
/// Pairs are all or nothing, each value is there once, and the values of a producer come in order.
#[test]
fn loom_ring_multi_to_multi() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(|| {
        let (producer, mut consumer) = ring::<Box<u32>, Multi, Multi>(3);
        let put = |mut producer: super::Producer<Box<u32>, Multi, Multi>, first: u32| {
            let mut pair: Vec<Box<u32>> = [first, first + 1].map(Box::new).into();
            producer.enqueue_bulk(&mut pair).is_ok()
        };
        let others = {
            let producer = producer.clone();
            let mut consumer = consumer.clone();
            loom::thread::spawn(move || {
                let went = put(producer, 10);
                let mut out = Vec::new();
                consumer.dequeue_burst(&mut out, 1);
                (went, out)
            })
        };
        let mine = put(producer, 20);
        let mut all = Vec::new();
        consumer.dequeue_burst(&mut all, 2);
        let (theirs, out) = others.join().unwrap();
        assert!(mine || theirs, "there was room for one pair at least");
        consumer.dequeue_burst(&mut all, 4);
        let values: Vec<u32> = all.iter().map(|item| **item).collect();
        let mut together: Vec<u32> = values.iter().copied().chain(out.iter().map(|item| **item)).collect();
        together.sort_unstable();
        let pair = |went: bool, first: u32| if went { [first, first + 1].to_vec() } else { Vec::new() };
        assert_eq!(together, [pair(theirs, 10), pair(mine, 20)].concat());
        for pair in [[10, 11], [20, 21]] {
            let at = pair.map(|value| values.iter().position(|found| *found == value));
            if let [Some(first), Some(second)] = at {
                assert!(first < second, "{values:?}");
            }
        }
    });
}

/// Values left in the ring are dropped with it, whichever end goes last.
#[test]
fn loom_ring_drops_what_is_left() {
    model(|| {
        let left = alloc::sync::Arc::new(());
        let (mut producer, mut consumer) = ring::<_, Single, Single>(2);
        let other = {
            let left = alloc::sync::Arc::clone(&left);
            loom::thread::spawn(move || {
                assert!(producer.push(alloc::sync::Arc::clone(&left)).is_ok());
                assert!(producer.push(left).is_ok());
            })
        };
        drop(consumer.pop());
        drop(consumer);
        other.join().unwrap();
        assert_eq!(alloc::sync::Arc::strong_count(&left), 1);
    });
}
