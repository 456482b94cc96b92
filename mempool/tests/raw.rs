//! The untyped pool: balance, all or nothing, threads that come and go, objects that outlive it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use wirerate_mempool::{Counts, Exhausted, HeapMemory, Memory, PoolConfig, PoolError, RawHandle, RawPool};

/// Whether threads have caches of their own.
const CACHES: bool = cfg!(feature = "std");

fn heap(config: &PoolConfig) -> Vec<Box<dyn Memory>> {
    vec![Box::new(HeapMemory::new(config.memory_len(), config.alignment()).unwrap())]
}

fn pool(count: usize, cache: usize) -> RawPool {
    let config = PoolConfig::new("test", count, 64).cache(cache);
    let memory = heap(&config);
    RawPool::new(config, memory).unwrap()
}

fn get(pool: &RawPool, n: usize) -> Result<Vec<NonNull<u8>>, Exhausted> {
    let mut out = vec![MaybeUninit::uninit(); n];
    pool.get_bulk(&mut out)?;
    // SAFETY: `get_bulk` has written all of them.
    Ok(out.into_iter().map(|object| unsafe { object.assume_init() }).collect())
}

fn put(pool: &RawPool, objects: &[NonNull<u8>]) {
    // SAFETY: the tests put what they got, once.
    unsafe { pool.put_bulk(objects) };
}

fn addresses(objects: &[NonNull<u8>]) -> HashSet<usize> {
    objects.iter().map(|object| object.as_ptr() as usize).collect()
}

/// Objects on their way to another thread.
struct Sent(Vec<NonNull<u8>>);
// SAFETY: objects may be used and put by any thread.
unsafe impl Send for Sent {}

/// Memory that says when it is freed.
#[derive(Debug)]
struct Watched(HeapMemory, Arc<AtomicBool>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

// SAFETY: all is `HeapMemory`'s.
unsafe impl Memory for Watched {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn page_size(&self) -> usize {
        self.0.page_size()
    }
}

fn watched(count: usize, cache: usize) -> (RawPool, Arc<AtomicBool>) {
    let config = PoolConfig::new("watched", count, 64).cache(cache);
    let freed = Arc::new(AtomicBool::new(false));
    let memory = HeapMemory::new(config.memory_len(), 64).unwrap();
    let pool = RawPool::new(config, vec![Box::new(Watched(memory, Arc::clone(&freed)))]).unwrap();
    (pool, freed)
}

#[test]
fn every_object_is_handed_out_once() {
    for (count, cache) in [(1, 256), (7, 0), (100, 16), (1000, 512), (1000, 0), (64, 8)] {
        let pool = pool(count, cache);
        let objects = get(&pool, count).unwrap();
        assert_eq!(addresses(&objects).len(), count);
        assert_eq!(pool.counts(), Counts { size: count, free: 0, cached: 0, in_use: count });
        assert_eq!(pool.get(), None);
        put(&pool, &objects);
        let counts = pool.counts();
        assert_eq!((counts.in_use, counts.free + counts.cached), (0, count));
        pool.audit().unwrap();
    }
}

#[test]
fn a_failing_bulk_takes_nothing() {
    for cache in [0, 16, 256] {
        let pool = pool(100, cache);
        let held = get(&pool, 37).unwrap();
        for n in [64, 100, 1000] {
            assert_eq!(get(&pool, n), Err(Exhausted));
            assert_eq!(pool.counts().in_use, 37);
            pool.audit().unwrap();
        }
        let rest = get(&pool, 63).unwrap();
        assert!(addresses(&rest).is_disjoint(&addresses(&held)));
        put(&pool, &held);
        put(&pool, &rest);
        pool.audit().unwrap();
    }
}

#[test]
fn bulks_larger_than_a_magazine_work() {
    let pool = pool(1000, 16);
    for n in [8, 9, 100, 999, 1000, 0] {
        let objects = get(&pool, n).unwrap();
        assert_eq!(addresses(&objects).len(), n);
        put(&pool, &objects);
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
    }
}

#[test]
fn a_thread_that_ends_leaves_its_objects_to_others() {
    let pool = pool(64, 64);
    thread::scope(|scope| {
        scope.spawn(|| {
            let objects = get(&pool, 40).unwrap();
            put(&pool, &objects);
            assert!(!CACHES || pool.counts().cached >= 32);
        });
    });
    // Whichever slot it used: another thread gets all that is free, also if it does not take that slot over.
    let mine = get(&pool, 1).unwrap();
    let all = get(&pool, 63).unwrap();
    assert_eq!(addresses(&all).len(), 63);
    put(&pool, &all);
    put(&pool, &mine);
    pool.audit().unwrap();
}

#[test]
fn what_idles_in_a_live_thread_is_reclaimed() {
    let pool = pool(256, 512);
    let (ready, done) = (Barrier::new(3), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let objects = get(&pool, 100).unwrap();
                ready.wait();
                put(&pool, &objects);
                ready.wait();
                done.wait();
                // The slot is in order, and the thread can go on with it.
                let one = get(&pool, 1).unwrap();
                put(&pool, &one);
            });
        }
        ready.wait();
        ready.wait();
        assert!(!CACHES || pool.counts().cached >= 200);
        let all = get(&pool, 256).unwrap();
        assert_eq!(addresses(&all).len(), 256);
        assert_eq!(pool.counts().in_use, 256);
        assert_eq!(pool.get(), None);
        put(&pool, &all);
        done.wait();
    });
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn objects_outlive_the_handles() {
    for cache in [0, 16, 256] {
        let (pool, freed) = watched(100, cache);
        let handle = pool.handle();
        let other = pool.clone();
        let mut objects = get(&pool, 50).unwrap();
        drop(pool);
        let last = objects.pop().unwrap();
        put(&other, &objects.split_off(10));
        drop(other);
        assert!(!freed.load(Ordering::SeqCst));
        for object in objects {
            // SAFETY: the object is in use, and put once.
            unsafe { handle.put(object) };
            assert!(!freed.load(Ordering::SeqCst), "freed too early");
        }
        // SAFETY: the memory is there as long as an object is in use.
        unsafe {
            last.as_ptr().write_bytes(1, 64);
            let mut none = [MaybeUninit::uninit()];
            assert_eq!(handle.get_bulk(&mut none), Err(Exhausted));
            handle.put(last);
        }
        assert!(freed.load(Ordering::SeqCst));
    }
}

#[test]
fn a_pool_with_all_objects_home_is_freed_with_its_last_handle() {
    let (pool, freed) = watched(100, 16);
    let objects = get(&pool, 100).unwrap();
    put(&pool, &objects);
    let clone = pool.clone();
    drop(pool);
    assert!(!freed.load(Ordering::SeqCst));
    drop(clone);
    assert!(freed.load(Ordering::SeqCst));
}

#[test]
fn the_last_objects_come_home_from_many_threads_while_the_handle_goes() {
    for round in 0..200 {
        let (pool, freed) = watched(64, if round % 2 == 0 { 16 } else { 0 });
        let handle = pool.handle();
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..3 {
                let objects = Sent(get(&pool, 20).unwrap());
                let start = &start;
                scope.spawn(move || {
                    let objects = objects;
                    start.wait();
                    for pair in objects.0.chunks(2) {
                        // SAFETY: in use, put once.
                        unsafe { handle.put_bulk(pair) };
                    }
                });
            }
            start.wait();
            drop(pool);
        });
        assert!(freed.load(Ordering::SeqCst), "round {round}");
    }
}

#[test]
fn one_thread_gets_and_another_puts() {
    let pool = pool(300, 64);
    let (send, receive) = std::sync::mpsc::sync_channel::<Sent>(4);
    thread::scope(|scope| {
        scope.spawn(|| {
            for objects in receive {
                put(&pool, &objects.0);
            }
        });
        let mut dry = 0;
        for _ in 0..5_000 {
            match get(&pool, 32) {
                Ok(objects) => send.send(Sent(objects)).unwrap(),
                Err(Exhausted) => dry += 1,
            }
        }
        // At most 6 bursts of 32 are on their way, so 108 objects were always free.
        assert_eq!(dry, 0);
        drop(send);
    });
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn many_threads_keep_the_balance() {
    let pool = pool(500, 32);
    let failures = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seed in 0..8_usize {
            let (pool, failures) = (&pool, &failures);
            scope.spawn(move || {
                let mut state = seed as u64 + 1;
                let mut random = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state
                };
                let mut held: Vec<NonNull<u8>> = Vec::new();
                for _ in 0..20_000 {
                    if random() % 2 == 0 {
                        let n = (random() % 70) as usize;
                        match get(pool, n) {
                            Ok(objects) => {
                                for object in &objects {
                                    // SAFETY: it is ours and has 64 bytes: nobody else may write to it.
                                    unsafe { object.as_ptr().cast::<usize>().write(seed) };
                                }
                                held.extend(objects);
                            }
                            Err(Exhausted) => _ = failures.fetch_add(1, Ordering::Relaxed),
                        }
                    } else {
                        let keep = held.len() - (random() as usize % (held.len() + 1)).min(held.len());
                        let back = held.split_off(keep);
                        for object in &back {
                            // SAFETY: as above.
                            assert_eq!(unsafe { object.as_ptr().cast::<usize>().read() }, seed);
                        }
                        put(pool, &back);
                    }
                }
                put(pool, &held);
            });
        }
        for _ in 0..20 {
            let counts = pool.counts();
            assert_eq!(counts.free + counts.cached + counts.in_use, 500);
            assert!(counts.in_use <= 500);
            pool.audit().unwrap();
            thread::yield_now();
        }
    });
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    let all = get(&pool, 500).unwrap();
    assert_eq!(addresses(&all).len(), 500);
    put(&pool, &all);
}

#[test]
fn a_free_object_is_never_missed_while_others_come_and_go() {
    // Each of four threads needs up to 40 at a time, and there are 160: none may ever be told that there are
    // none.
    let pool = pool(160, 32);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..20_000 {
                    let objects = get(&pool, 1 + round % 40).expect("enough are free all the time");
                    put(&pool, &objects);
                }
            });
        }
    });
    pool.audit().unwrap();
}

#[test]
fn calls_from_destructors_of_thread_locals_work() {
    struct Late(RawPool, NonNull<u8>);
    impl Drop for Late {
        fn drop(&mut self) {
            // By now the thread may have given its number back.
            put(&self.0, &[self.1]);
            let object = self.0.get().unwrap();
            put(&self.0, &[object]);
        }
    }
    thread_local! {
        static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) };
    }
    let pool = pool(8, 16);
    for first in [true, false] {
        thread::scope(|scope| {
            scope.spawn(|| {
                // Destructors run in one order or the other.
                if first {
                    LATE.with(|_| {});
                }
                let object = pool.get().unwrap();
                LATE.set(Some(Late(pool.clone(), object)));
            });
        });
        // A scope does not wait for thread-locals' destructors.
        while pool.counts().in_use > 0 {
            thread::yield_now();
        }
    }
    pool.audit().unwrap();
}

#[test]
fn init_is_told_of_every_object_once() {
    let config = PoolConfig::new("init", 100, 200).align(128);
    let memory = heap(&config);
    let mut seen: Vec<(usize, usize, RawHandle)> = Vec::new();
    let pool = RawPool::with_init(config, memory, |object, info| {
        assert_eq!(info.device_address, None);
        seen.push((info.index, object.as_ptr() as usize, info.handle));
    })
    .unwrap();
    assert_eq!(seen.iter().map(|(index, ..)| *index).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert!(seen.iter().all(|(_, address, handle)| address % 128 == 0 && *handle == pool.handle()));
    let objects = get(&pool, 100).unwrap();
    assert_eq!(addresses(&objects), seen.iter().map(|(_, address, _)| *address).collect());
    for object in &objects {
        let index = pool.index_of(*object).unwrap();
        assert_eq!(seen[index].1, object.as_ptr() as usize);
    }
    put(&pool, &objects);
}

#[test]
fn memory_in_pieces_is_used_and_a_lack_is_explained() {
    let piece = |len| Box::new(HeapMemory::new(len, 64).unwrap()) as Box<dyn Memory>;
    let config = PoolConfig::new("pieces", 10, 100);
    let pool = RawPool::new(config.clone(), vec![piece(500), piece(128 * 6)]).unwrap();
    assert_eq!(pool.memories().count(), 2);
    let objects = get(&pool, 10).unwrap();
    put(&pool, &objects);
    match RawPool::new(config, vec![piece(500), piece(128 * 5)]) {
        Err(
            error @ PoolError::TooSmall { count: 10, stride: 128, needed: 1252, found: 1140, fit: 9, .. },
        ) => {
            let text = error.to_string();
            assert!(text.contains("\"pieces\"") && text.contains("1252") && text.contains("1140"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_in_use_are_listed() {
    let pool = pool(10, 16);
    let held = get(&pool, 3).unwrap();
    let listed = pool.outstanding().unwrap();
    assert_eq!(
        listed.iter().map(|one| one.object.as_ptr() as usize).collect::<HashSet<_>>(),
        addresses(&held)
    );
    for one in listed {
        assert_eq!(pool.index_of(one.object), Some(one.index));
        assert_eq!(one.got_at.is_some_and(|at| at.file().ends_with("raw.rs")), cfg!(debug_assertions));
    }
    put(&pool, &held);
    assert_eq!(pool.outstanding().unwrap(), []);
}

#[cfg(debug_assertions)]
mod misuse {
    use super::*;

    fn message(misuse: impl FnOnce()) -> String {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(misuse)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn a_double_put_names_the_object_and_where_it_was_got() {
        let pool = pool(4, 16);
        let object = pool.get().unwrap();
        put(&pool, &[object]);
        let text = message(|| put(&pool, &[object]));
        assert!(text.starts_with("double put: object ") && text.contains("raw.rs:"), "{text}");
        pool.audit().unwrap();
    }

    #[test]
    fn a_foreign_put_is_found() {
        let (one, other) = (pool(4, 16), pool(4, 16));
        let object = other.get().unwrap();
        let text = message(|| put(&one, &[object]));
        assert!(text.starts_with("foreign put: no object of pool \"test\""), "{text}");
        // SAFETY: within the object.
        let inside = unsafe { object.add(8) };
        let text = message(|| put(&other, &[inside]));
        assert!(text.starts_with("foreign put"), "{text}");
        put(&other, &[object]);
        one.audit().unwrap();
        other.audit().unwrap();
    }
}
