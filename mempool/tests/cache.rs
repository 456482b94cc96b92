//! Cache handles: with and without `std`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::thread;

use wirerate_mempool::{HeapMemory, PoolConfig, RawCache, RawPool};

fn pool(count: usize, cache: usize) -> RawPool {
    let config = PoolConfig::new("test", count, 64).cache(cache);
    let memory = HeapMemory::new(config.memory_len(), config.alignment()).unwrap();
    RawPool::new(config, vec![Box::new(memory)]).unwrap()
}

fn get(cache: &mut RawCache, n: usize) -> Option<Vec<NonNull<u8>>> {
    let mut out = vec![MaybeUninit::uninit(); n];
    cache.get_bulk(&mut out).ok()?;
    // SAFETY: `get_bulk` has written all of them.
    Some(out.into_iter().map(|object| unsafe { object.assume_init() }).collect())
}

#[test]
fn what_goes_through_a_handle_is_counted_and_comes_home() {
    let pool = pool(1000, 64);
    let mut cache = pool.cache().unwrap();
    let objects = get(&mut cache, 100).unwrap();
    assert_eq!(pool.counts().in_use, 100);
    assert!(get(&mut cache, 901).is_none());
    assert_eq!(pool.counts().in_use, 100);
    // SAFETY: in use, and put once.
    unsafe { cache.put_bulk(&objects) };
    let counts = pool.counts();
    assert_eq!((counts.in_use, counts.free + counts.cached), (0, 1000));
    assert!(counts.cached > 0, "{counts}");
    pool.audit().unwrap();
}

#[test]
fn what_is_in_a_handle_can_be_had_by_others() {
    let pool = pool(100, 64);
    let mut idle = pool.cache().unwrap();
    let one = idle.get().unwrap();
    // SAFETY: in use, and put once.
    unsafe { idle.put(one) };
    let mut other = pool.cache().unwrap();
    let all = get(&mut other, 100).unwrap();
    assert!(idle.get().is_none());
    // SAFETY: in use, and put once.
    unsafe { other.put_bulk(&all) };
    let all = get(&mut idle, 100).unwrap();
    // SAFETY: in use, and put once.
    unsafe { idle.put_bulk(&all) };
    pool.audit().unwrap();
}

#[test]
fn handles_go_to_other_threads_and_their_places_are_used_again() {
    let pool = pool(1000, 32);
    let handles: Vec<_> = std::iter::from_fn(|| pool.cache()).collect();
    assert_eq!(handles.len(), 256);
    thread::scope(|scope| {
        for mut cache in handles.into_iter().take(8) {
            scope.spawn(move || {
                for n in 0..200 {
                    let objects = get(&mut cache, n % 40).unwrap();
                    // SAFETY: in use, and put once.
                    unsafe { cache.put_bulk(&objects) };
                }
            });
        }
    });
    assert_eq!(std::iter::from_fn(|| pool.cache()).collect::<Vec<_>>().len(), 256);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn a_handle_keeps_the_pool_and_a_pool_without_caches_has_none() {
    let lone = pool(10, 8);
    let mut cache = lone.cache().unwrap();
    drop(lone);
    let one = cache.get().unwrap();
    assert_eq!(cache.pool().counts().in_use, 1);
    // SAFETY: in use, and put once.
    unsafe { cache.put(one) };
    assert!(pool(10, 0).cache().is_none());
}
