//! Models of the pool, which loom runs through the interleavings and the reorderings that the memory model
//! allows.
//!
//! Magazines' contents are tracked (`Magazine::contents`), so two threads in one slot at a time are found as
//! a race, whatever comes of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{PoolConfig, RawHandle, RawPool};
use crate::{HeapMemory, Memory, thread};

fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(check);
}

/// Memory that counts how often it was freed.
#[derive(Debug)]
struct Watched(HeapMemory, Arc<AtomicUsize>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
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

fn pool(count: usize, cache: usize) -> (RawPool, Arc<AtomicUsize>) {
    let config = PoolConfig::new("model", count, 8).align(8).cache(cache);
    let freed = Arc::new(AtomicUsize::new(0));
    let memory = HeapMemory::new(config.memory_len(), 8).unwrap();
    (RawPool::new(config, vec![Box::new(Watched(memory, Arc::clone(&freed)))]).unwrap(), freed)
}

fn get<const N: usize>(pool: &RawPool) -> Option<[NonNull<u8>; N]> {
    let mut out = [MaybeUninit::uninit(); N];
    pool.get_bulk(&mut out).ok()?;
    // SAFETY: `get_bulk` has written all.
    Some(out.map(|object| unsafe { object.assume_init() }))
}

/// Objects on their way to another thread.
struct Sent<const N: usize>([NonNull<u8>; N]);
// SAFETY: objects may be put by any thread.
unsafe impl<const N: usize> Send for Sent<N> {}

fn put<const N: usize>(handle: RawHandle, objects: Sent<N>) {
    // SAFETY: in use, and put once.
    unsafe { handle.put_bulk(&objects.0) };
}

/// One thread works with its slot while another finds the depot dry and takes what is in there.
#[test]
fn loom_reclaim_from_a_live_slot() {
    model(3, || {
        thread::assume(Some(0));
        let (pool, freed) = pool(2, 1);
        // Both are in our slot now.
        let first: [_; 1] = get(&pool).unwrap();
        put(pool.handle(), Sent(first));
        let other = {
            let pool = pool.clone();
            loom::thread::spawn(move || {
                thread::assume(Some(1));
                let mine: [_; 1] = get(&pool).expect("one of two is free all the time");
                put(pool.handle(), Sent(mine));
            })
        };
        let mine: [_; 1] = get(&pool).expect("one of two is free all the time");
        put(pool.handle(), Sent(mine));
        other.join().unwrap();
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
        drop(pool);
        assert_eq!(freed.load(Ordering::SeqCst), 1);
    });
}

/// Two threads make their slots and get at the same time: there is one for each.
#[test]
fn loom_the_last_objects_are_found() {
    for numbers in [[Some(0), Some(1)], [Some(0), None]] {
        model(3, move || {
            thread::assume(numbers[0]);
            let (pool, _) = pool(2, 1);
            let other = {
                let pool = pool.clone();
                loom::thread::spawn(move || {
                    thread::assume(numbers[1]);
                    Sent::<1>(get(&pool).expect("there is one for each"))
                })
            };
            let mine: [_; 1] = get(&pool).expect("there is one for each");
            let theirs = other.join().unwrap();
            assert_ne!(mine, theirs.0);
            put(pool.handle(), theirs);
            put(pool.handle(), Sent(mine));
            pool.audit().unwrap();
        });
    }
}

/// A bulk that fails does not make another call fail: of the two, at least one gets what it wants.
#[test]
fn loom_a_failing_bulk_hides_nothing() {
    model(3, || {
        thread::assume(Some(0));
        let (pool, _) = pool(2, 1);
        let first: [_; 1] = get(&pool).unwrap();
        put(pool.handle(), Sent(first));
        let other = {
            let pool = pool.clone();
            loom::thread::spawn(move || {
                thread::assume(Some(1));
                get::<2>(&pool).map(Sent)
            })
        };
        let mine = get::<1>(&pool);
        let theirs = other.join().unwrap();
        assert!(mine.is_some() != theirs.is_some(), "one of them, and not both");
        if let Some(mine) = mine {
            put(pool.handle(), Sent(mine));
        }
        if let Some(theirs) = theirs {
            put(pool.handle(), theirs);
        }
        pool.audit().unwrap();
    });
}

/// While one thread's magazines change places, or go to the depot, another finds what is in them.
///
/// `prepare` gets all objects, and keeps what it does not put.
fn another_finds_one(
    count: usize,
    prepare: impl Fn(&RawPool, &mut Vec<NonNull<u8>>) + Send + Sync + 'static,
    work: impl Fn(&RawPool, &mut Vec<NonNull<u8>>) + Send + Sync + 'static,
) {
    model(3, move || {
        thread::assume(Some(0));
        let (pool, _) = pool(count, 1);
        let mut objects: Vec<NonNull<u8>> = (0..count).flat_map(|_| get::<1>(&pool).unwrap()).collect();
        prepare(&pool, &mut objects);
        let other = {
            let pool = pool.clone();
            loom::thread::spawn(move || {
                thread::assume(Some(1));
                Sent::<1>(get(&pool).expect("some are free all the time"))
            })
        };
        work(&pool, &mut objects);
        put(pool.handle(), other.join().unwrap());
        put_all(&pool, &mut objects);
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
    });
}

fn put_all(pool: &RawPool, objects: &mut Vec<NonNull<u8>>) {
    for object in objects.drain(..) {
        put(pool.handle(), Sent([object]));
    }
}

/// Eight of nine objects are in the previous magazine, and the loaded one is empty: the next get makes them
/// change places.
#[test]
fn loom_magazines_that_change_places_are_seen() {
    let prepare = |pool: &RawPool, objects: &mut Vec<_>| {
        put_all(pool, objects);
        objects.extend(get::<1>(pool).unwrap());
    };
    another_finds_one(9, prepare, |pool, objects| objects.extend(get::<1>(pool).unwrap()));
}

/// Both magazines are full: the next put sends one to the depot, and the gets that follow empty the other.
#[test]
fn loom_magazines_on_their_way_to_the_depot_are_seen() {
    let prepare = |pool: &RawPool, objects: &mut Vec<_>| {
        let held = objects.pop();
        put_all(pool, objects);
        objects.extend(held);
    };
    another_finds_one(17, prepare, |pool, objects| {
        put_all(pool, objects);
        objects.extend(get::<9>(pool).unwrap());
    });
}

/// The last handle goes while the last objects come home from another thread: the pool is freed, once, and
/// nobody touches it after.
#[test]
fn loom_the_last_handle_and_the_last_object() {
    for number in [Some(1), None] {
        model(3, move || {
            thread::assume(Some(0));
            let (pool, freed) = pool(3, 1);
            if number == Some(1) {
                // So that the other thread has a slot whose gate is open.
                thread::assume(number);
                let one: [_; 1] = get(&pool).unwrap();
                put(pool.handle(), Sent(one));
                thread::assume(Some(0));
            }
            let (one, two): (Sent<1>, Sent<1>) = (Sent(get(&pool).unwrap()), Sent(get(&pool).unwrap()));
            let handle = pool.handle();
            let other = loom::thread::spawn(move || {
                thread::assume(number);
                put(handle, one);
                put(handle, two);
            });
            drop(pool);
            other.join().unwrap();
            assert_eq!(freed.load(Ordering::SeqCst), 1);
        });
    }
}

/// As above, with a put on each of two threads, neither of which has the last handle.
#[test]
fn loom_the_last_two_objects_on_two_threads() {
    model(3, || {
        thread::assume(None);
        let (pool, freed) = pool(2, 0);
        let (one, two): (Sent<1>, Sent<1>) = (Sent(get(&pool).unwrap()), Sent(get(&pool).unwrap()));
        let handle = pool.handle();
        let others = [one, two].map(|object| {
            loom::thread::spawn(move || {
                thread::assume(None);
                put(handle, object);
            })
        });
        drop(pool);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(freed.load(Ordering::SeqCst), 1);
    });
}

/// A cache handle works while another thread takes what is in it; then another handle takes its place over.
#[test]
fn loom_a_cache_handle_is_reclaimed_from() {
    model(3, || {
        thread::assume(None);
        let (pool, freed) = pool(2, 1);
        let mut cache = pool.cache().unwrap();
        let first = cache.get().unwrap();
        // SAFETY: in use, and put once.
        unsafe { cache.put(first) };
        let other = {
            let pool = pool.clone();
            loom::thread::spawn(move || {
                thread::assume(Some(1));
                let mine: [_; 1] = get(&pool).expect("one of two is free all the time");
                put(pool.handle(), Sent(mine));
            })
        };
        let mine = cache.get().expect("one of two is free all the time");
        // SAFETY: as above.
        unsafe { cache.put(mine) };
        drop(cache);
        let mut cache = pool.cache().unwrap();
        let mine = cache.get().expect("one of two is free all the time");
        // SAFETY: as above.
        unsafe { cache.put(mine) };
        other.join().unwrap();
        drop(cache);
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
        drop(pool);
        assert_eq!(freed.load(Ordering::SeqCst), 1);
    });
}
