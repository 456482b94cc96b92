//! The typed pool: values made once, kept, dropped once.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrayvec::ArrayVec;
use wirerate_mempool::{Exhausted, HeapMemory, Memory, Pool, PoolConfig, PoolError, Pooled};

/// A value that counts how many of its kind there are.
#[derive(Debug)]
struct Counted {
    alive: Arc<AtomicUsize>,
    uses: usize,
}

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self { alive: Arc::clone(alive), uses: 0 }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn counted(count: usize) -> (Pool<Counted>, Arc<AtomicUsize>) {
    let alive = Arc::new(AtomicUsize::new(0));
    let pool = Pool::on_heap(count, || Counted::new(&alive)).unwrap();
    (pool, alive)
}

#[test]
fn values_are_made_with_the_pool_and_dropped_with_it() {
    let (pool, alive) = counted(100);
    assert_eq!(alive.load(Ordering::SeqCst), 100);
    let held: Vec<_> = (0..100).map(|_| pool.get().unwrap()).collect();
    assert!(pool.get().is_none());
    assert_eq!(pool.counts().in_use, 100);
    drop(held);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 100);
    drop(pool);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn values_keep_their_state() {
    let (pool, _alive) = counted(1);
    for uses in 0..3 {
        let mut value = pool.get().unwrap();
        assert_eq!(value.uses, uses);
        value.uses += 1;
    }
}

#[test]
fn a_value_outlives_its_pool() {
    let (pool, alive) = counted(10);
    let (mut one, other) = (pool.get().unwrap(), pool.get().unwrap());
    drop(pool);
    one.uses = 7;
    drop(other);
    assert_eq!(alive.load(Ordering::SeqCst), 10);
    assert_eq!(one.uses, 7);
    thread::spawn(move || drop(one)).join().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn bulks_are_all_or_nothing() {
    let (pool, _alive) = counted(100);
    let mut vector: Vec<Pooled<Counted>> = Vec::new();
    pool.get_bulk(&mut vector, 70).unwrap();
    for value in &mut vector {
        value.uses += 1;
    }
    assert!(vector.iter().all(|value| value.uses == 1), "each value is there once");
    assert_eq!(pool.get_bulk(&mut vector, 31), Err(Exhausted));
    assert_eq!((vector.len(), pool.counts().in_use), (70, 70));
    let mut array: ArrayVec<_, 32> = ArrayVec::new();
    pool.get_bulk(&mut array, 20).unwrap();
    assert_eq!(pool.get_bulk(&mut array, 13), Err(Exhausted), "no room for them");
    pool.get_bulk(&mut array, 10).unwrap();
    assert_eq!((array.len(), pool.counts().in_use), (30, 100));
    pool.get_bulk(&mut array, 0).unwrap();
    drop((vector, array));
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn a_type_larger_or_more_aligned_than_the_configuration_is_refused() {
    let small = PoolConfig::new("small", 4, size_of::<[u64; 4]>() - 1);
    let memory: Vec<Box<dyn Memory>> = vec![Box::new(HeapMemory::new(4096, 64).unwrap())];
    let error = Pool::<[u64; 4]>::new(small, memory, || [0; 4]).unwrap_err();
    assert!(matches!(error, PoolError::Config { what: "object_size", found: 31, .. }), "{error}");
    let unaligned = PoolConfig::new("unaligned", 4, 32).align(4);
    let error = Pool::<[u64; 4]>::new(unaligned, Vec::new(), || [0; 4]).unwrap_err();
    assert!(matches!(error, PoolError::Config { what: "align", found: 4, .. }), "{error}");
    let none = Pool::<u8>::on_heap(0, || 0).unwrap_err();
    assert!(matches!(none, PoolError::Config { what: "count", found: 0, .. }), "{none}");
}

#[test]
fn values_without_size_work() {
    let pool = Pool::on_heap(3, || ()).unwrap();
    let held = (pool.get().unwrap(), pool.get().unwrap(), pool.get().unwrap());
    assert!(pool.get().is_none());
    drop(held);
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn a_panic_in_init_drops_what_was_made() {
    let alive = Arc::new(AtomicUsize::new(0));
    let result = std::panic::catch_unwind(|| {
        let mut left = 5;
        Pool::on_heap(10, || {
            assert!(left > 0, "no more");
            left -= 1;
            Counted::new(&alive)
        })
    });
    assert!(result.is_err());
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_bulk_goes_home_also_what_is_of_another_pool() {
    let (one, two) = (Pool::on_heap(200, || 1_u64).unwrap(), Pool::on_heap(200, || 2_u64).unwrap());
    let mut mixed = Vec::new();
    for n in 0..150 {
        mixed.push(if n % 3 == 0 { two.get().unwrap() } else { one.get().unwrap() });
    }
    assert_eq!((one.counts().in_use, two.counts().in_use), (100, 50));
    one.put_bulk(&mut mixed);
    assert!(mixed.is_empty());
    assert_eq!((one.counts().in_use, two.counts().in_use), (0, 0));
    one.audit().unwrap();
    two.audit().unwrap();
    let mut all: ArrayVec<Pooled<u64>, 200> = ArrayVec::new();
    one.get_bulk(&mut all, 200).unwrap();
    assert!(all.iter().all(|value| **value == 1));
    one.put_bulk(&mut all);
    assert_eq!(one.counts().in_use, 0);
}
