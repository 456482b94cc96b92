//! What debug builds find out: writes out of bounds, writes to free objects, and where what is in use was
//! got; and that programs which do nothing wrong see nothing of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use wirerate_mempool::{Exhausted, HeapMemory, LeakReport, Memory, Pool, PoolConfig, RawPool};

fn heap(len: usize, align: usize) -> Vec<Box<dyn Memory>> {
    vec![Box::new(HeapMemory::new(len, align).unwrap())]
}

fn pool(config: PoolConfig) -> RawPool {
    let memory = heap(config.memory_len(), config.alignment());
    RawPool::new(config, memory).unwrap()
}

#[track_caller]
fn get(pool: &RawPool, n: usize) -> Result<Vec<NonNull<u8>>, Exhausted> {
    let mut out = vec![MaybeUninit::uninit(); n];
    pool.get_bulk(&mut out)?;
    // SAFETY: `get_bulk` has written all of them.
    let mut objects: Vec<_> = out.into_iter().map(|object| unsafe { object.assume_init() }).collect();
    objects.sort_unstable();
    Ok(objects)
}

#[track_caller]
fn put(pool: &RawPool, objects: &[NonNull<u8>]) {
    // SAFETY: the tests put what they got, or what the pool is to refuse.
    unsafe { pool.put_bulk(objects) };
}

/// Writes one byte at a distance from an object's first.
fn write(object: NonNull<u8>, offset: isize, byte: u8) {
    // SAFETY: the tests write within the pool's memory.
    unsafe { object.offset(offset).write(byte) };
}

fn read(object: NonNull<u8>, offset: isize) -> u8 {
    // SAFETY: as above.
    unsafe { object.offset(offset).read() }
}

/// Writes every byte of an object.
fn fill(object: NonNull<u8>, byte: u8, size: usize) {
    // SAFETY: the object is the test's and has `size` bytes.
    unsafe { object.write_bytes(byte, size) };
}

/// Memory with pages of 4096 bytes, no two of which are neighbours for a device.
#[derive(Debug)]
struct Scattered(HeapMemory);

// SAFETY: all but the device address is `HeapMemory`'s.
unsafe impl Memory for Scattered {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn page_size(&self) -> usize {
        4096
    }
    fn device_address(&self, offset: usize) -> Option<u64> {
        Some((offset / 4096 * 3 * 4096 + offset % 4096) as u64)
    }
}

fn scattered(pages: usize) -> Vec<Box<dyn Memory>> {
    vec![Box::new(Scattered(HeapMemory::new(pages * 4096, 4096).unwrap()))]
}

/// Gets all objects, writes them from end to end, and puts them, a few times.
fn use_all(pool: &RawPool) {
    let size = pool.object_size();
    for round in 1..4 {
        let objects = get(pool, pool.config().count()).unwrap();
        for (number, object) in objects.iter().enumerate() {
            fill(*object, (round * 7 + number) as u8, size);
        }
        for (number, object) in objects.iter().enumerate() {
            assert!((0..size as isize).all(|place| read(*object, place) == (round * 7 + number) as u8));
        }
        pool.audit().unwrap();
        put(pool, &objects);
        pool.audit().unwrap();
    }
}

#[test]
fn objects_may_be_written_from_end_to_end() {
    for size in [1, 8, 63, 64, 65, 100, 128, 1000, 4096] {
        for align in [1, 8, 64, 4096] {
            for poison in [false, true] {
                let config = PoolConfig::new("whole", 10, size).align(align).cache(16).poison(poison);
                let pool = pool(config);
                assert_eq!(pool.is_guarded(), cfg!(debug_assertions));
                let objects = get(&pool, 10).unwrap();
                assert!(objects.iter().all(|object| (object.as_ptr() as usize).is_multiple_of(align)));
                assert!(
                    objects.windows(2).all(|two| two[1].as_ptr() as usize - two[0].as_ptr() as usize >= size)
                );
                put(&pool, &objects);
                use_all(&pool);
            }
        }
    }
}

#[test]
fn memory_sized_by_the_objects_is_enough() {
    let config = || PoolConfig::new("exact", 10, 128).align(64);
    let exact = RawPool::new(config(), heap(1280, 64)).unwrap();
    assert!(!exact.is_guarded());
    use_all(&exact);
    assert_eq!(config().guards(false).memory_len(), 1280);
    assert!(!pool(config().guards(false)).is_guarded());
    assert_eq!(config().memory_len() > 1280, cfg!(debug_assertions));
    let short = RawPool::new(config(), heap(1279, 64)).unwrap_err();
    assert!(short.to_string().contains("10 objects of 128 bytes need 1280 bytes"), "{short}");
}

#[test]
fn guards_keep_to_the_pages_of_a_device() {
    // Two objects and their guards in each page.
    let room = RawPool::new(PoolConfig::new("room", 8, 1900), scattered(4)).unwrap();
    // Two objects in each page, and no room between them.
    let none = RawPool::new(PoolConfig::new("none", 8, 2048), scattered(4)).unwrap();
    assert_eq!((room.is_guarded(), none.is_guarded()), (cfg!(debug_assertions), false));
    for pool in [room, none] {
        let objects = get(&pool, 8).unwrap();
        let base = pool.memories().next().unwrap().base();
        for object in &objects {
            let start = object.as_ptr() as usize - base.as_ptr() as usize;
            assert_eq!(start / 4096, (start + pool.object_size() - 1) / 4096, "over an edge");
        }
        put(&pool, &objects);
        use_all(&pool);
    }
}

#[test]
fn many_threads_disturb_no_guard_and_no_copy() {
    let config = PoolConfig::new("threads", 100, 40).align(8).cache(16).poison(true);
    let memory = heap(config.memory_len(), 8);
    let kept = RawPool::with_init(config.clone(), memory, |object, _| fill(object, 0, 40)).unwrap();
    for pool in [pool(config), kept] {
        thread::scope(|scope| {
            for number in 1..=4 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..500 {
                        let Ok(objects) = get(pool, 1 + round % 20) else { continue };
                        objects.iter().for_each(|object| fill(*object, number, 40));
                        assert!(objects.iter().all(|object| read(*object, 39) == number));
                        put(pool, &objects);
                    }
                });
            }
            for _ in 0..5 {
                pool.audit().unwrap();
            }
        });
        pool.audit().unwrap();
        assert_eq!(pool.counts().in_use, 0);
    }
}

#[test]
fn objects_keep_what_is_in_them_unless_asked_otherwise() {
    // Without poison a pool of `new` keeps it too.
    let pool = pool(PoolConfig::new("kept", 1, 64));
    let object = pool.get().unwrap();
    fill(object, 7, 64);
    put(&pool, &[object]);
    assert_eq!(read(pool.get().unwrap(), 63), 7);
    put(&pool, &[object]);
    // With an init, or with values, poison does not touch it.
    let config = PoolConfig::new("made", 1, 64).poison(true);
    let memory = heap(config.memory_len(), 64);
    let pool = RawPool::with_init(config, memory, |object, _| fill(object, 9, 64)).unwrap();
    for expected in [9, 10, 11] {
        let object = pool.get().unwrap();
        assert_eq!(read(object, 63), expected);
        write(object, 63, expected + 1);
        put(&pool, &[object]);
    }
    let config = Pool::<Vec<u32>>::config("values", 2).poison(true);
    let memory = heap(config.memory_len(), config.alignment());
    let pool = Pool::new(config, memory, Vec::<u32>::new).unwrap();
    for expected in 0..3 {
        let (mut one, mut other) = (pool.get().unwrap(), pool.get().unwrap());
        assert_eq!((one.len(), other.len()), (expected, expected));
        one.push(1);
        other.push(2);
    }
    pool.audit().unwrap();
}

#[test]
fn leaks_are_counted_by_the_place_of_the_get() {
    let pool = pool(PoolConfig::new("leaky", 100, 8));
    assert!(pool.leaks().unwrap().is_empty());
    let many: Vec<_> = (0..12).map(|_| pool.get().unwrap()).collect();
    let few = get(&pool, 3).unwrap();
    let report = pool.leaks().unwrap();
    assert_eq!((report.pool.as_str(), report.size, report.in_use), ("leaky", 100, 15));
    let text = report.to_string();
    assert!(text.starts_with("pool \"leaky\": 15 of 100 objects are in use"), "{text}");
    if cfg!(debug_assertions) {
        assert_eq!(report.places.iter().map(|place| place.count).collect::<Vec<_>>(), [12, 3]);
        assert!(report.places.iter().all(|place| place.got_at.file().ends_with("guards.rs")), "{text}");
        assert_ne!(report.places[0].got_at.line(), report.places[1].got_at.line());
        assert_eq!(text.lines().count(), 3);
    } else {
        assert!(report.places.is_empty(), "{text}");
    }
    put(&pool, &many);
    put(&pool, &few);
    assert!(pool.leaks().unwrap().is_empty());
    let values = Pool::on_heap(4, || 0u8).unwrap();
    let held = values.get();
    assert_eq!(values.leaks().unwrap().in_use, 1);
    drop(held);
}

#[test]
fn who_asks_is_told_of_objects_that_outlive_the_handles() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    static PLACES: AtomicUsize = AtomicUsize::new(0);
    fn tell(report: &LeakReport) {
        TOLD.fetch_add(report.in_use, Ordering::SeqCst);
        PLACES.fetch_add(report.places.len(), Ordering::SeqCst);
    }
    let pool = || pool(PoolConfig::new("told", 10, 8).on_leak(tell));
    drop(pool());
    let with_some_out = pool();
    let handle = with_some_out.handle();
    let out = get(&with_some_out, 3).unwrap();
    drop(with_some_out.clone());
    assert_eq!(TOLD.load(Ordering::SeqCst), 0, "all were home, or there was a handle");
    drop(with_some_out);
    assert_eq!(TOLD.load(Ordering::SeqCst), 3);
    assert_eq!(PLACES.load(Ordering::SeqCst), usize::from(cfg!(debug_assertions)));
    // SAFETY: in use, and put once.
    unsafe { handle.put_bulk(&out) };
    assert_eq!(TOLD.load(Ordering::SeqCst), 3);
}

#[cfg(not(debug_assertions))]
#[test]
fn release_builds_have_nothing_of_it() {
    let pool = pool(PoolConfig::new("bare", 10, 128).poison(true));
    assert_eq!(pool.config().memory_len(), 1280);
    let objects = get(&pool, 10).unwrap();
    assert!(objects.windows(2).all(|two| two[1].as_ptr() as usize - two[0].as_ptr() as usize == 128));
    fill(objects[0], 5, 128);
    put(&pool, &objects);
    assert_eq!(read(objects[0], 100), 5, "a put writes nothing into an object");
}

#[cfg(debug_assertions)]
mod misuse {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use wirerate_mempool::AuditError;

    use super::*;

    /// What it panics with.
    fn message(misuse: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(misuse)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    /// Checks that a message has all of these.
    fn tells(text: &str, parts: &[&str]) {
        assert!(parts.iter().all(|part| text.contains(part)), "{text}\nshould have all of {parts:?}");
    }

    /// How a message names the place `lines` lines above.
    #[track_caller]
    fn above(lines: u32) -> String {
        let here = std::panic::Location::caller();
        format!("{}:{}:", here.file(), here.line() - lines)
    }

    fn ten() -> RawPool {
        pool(PoolConfig::new("ten", 10, 100).cache(16))
    }

    #[test]
    fn a_write_behind_an_object_is_found_at_its_put() {
        let pool = ten();
        let object = pool.get().unwrap();
        let place = above(1);
        for (offset, byte) in [(100, 0x41), (105, 0), (113, 0xff)] {
            write(object, offset, byte);
            let text = message(|| put(&pool, &[object]));
            let byte_told = format!("is {byte:#04x} now");
            let start = format!("out of bounds: byte {offset} of object {} ", pool.index_of(object).unwrap());
            let address = format!("of pool \"ten\" at {object:p} was written");
            tells(&text, &[&start, &address, &byte_told, "is in use and was got at ", &place]);
            assert_eq!(pool.counts().in_use, 1, "it is not put");
        }
        // Told once.
        put(&pool, &[object]);
        pool.audit().unwrap();
    }

    #[test]
    fn the_last_object_has_a_guard_too() {
        for (size, align) in [(1, 1), (100, 64), (4000, 4096), (128, 64)] {
            let pool = pool(PoolConfig::new("last", 3, size).align(align));
            let objects = get(&pool, 3).unwrap();
            write(objects[2], size as isize, 1);
            let text = message(|| put(&pool, &objects));
            tells(&text, &[&format!("byte {size} of object 2 of pool \"last\"")]);
            assert_eq!(pool.counts().in_use, 3, "a bulk is put as a whole");
            put(&pool, &objects);
            pool.audit().unwrap();
        }
    }

    #[test]
    fn a_write_in_front_of_an_object_is_found_at_its_put() {
        let pool = ten();
        let objects = get(&pool, 10).unwrap();
        let place = above(1);
        write(objects[4], -1, 0x42);
        put(&pool, &objects[..4]);
        let text = message(|| put(&pool, &[objects[4]]));
        tells(&text, &["out of bounds: byte -1 of object 4 of pool \"ten\"", "is 0x42 now", &place]);
        put(&pool, &objects[4..]);
        pool.audit().unwrap();
    }

    #[test]
    fn who_writes_over_the_whole_gap_is_told_even_if_the_next_one_is_put_first() {
        let pool = ten();
        let objects = get(&pool, 10).unwrap();
        fill(objects[6], 0, 140);
        let text = message(|| put(&pool, &[objects[7]]));
        tells(&text, &["out of bounds: byte 100 of object 6 of pool \"ten\"", "is 0x00 now"]);
        put(&pool, &[objects[7]]);
        let text = message(|| put(&pool, &[objects[6]]));
        tells(&text, &["out of bounds: byte 100 of object 6 of pool \"ten\""]);
        put(&pool, &[&objects[..7], &objects[8..]].concat());
        pool.audit().unwrap();
    }

    #[test]
    fn a_write_around_a_free_object_is_found_at_its_get() {
        let pool = pool(PoolConfig::new("one", 1, 8));
        let object = pool.get().unwrap();
        put(&pool, &[object]);
        write(object, 8, 0);
        let text = message(|| _ = pool.get());
        tells(&text, &["out of bounds: byte 8 of object 0", "is free and was got last at", "guards.rs:"]);
        assert_eq!(pool.counts().in_use, 0, "none is got");
        assert_eq!(get(&pool, 1).unwrap(), [object]);
        put(&pool, &[object]);
    }

    #[test]
    fn an_audit_finds_what_no_put_has_looked_at() {
        let pool = ten();
        let objects = get(&pool, 5).unwrap();
        write(objects[2], 101, 3);
        let index = pool.index_of(objects[2]).unwrap();
        for _ in 0..2 {
            match pool.audit() {
                Err(AuditError::OutOfBounds {
                    index: found_index,
                    offset: 101,
                    found: 3,
                    in_use: true,
                    ..
                }) => {
                    assert_eq!(found_index, index);
                }
                other => panic!("{other:?}"),
            }
        }
        message(|| put(&pool, &objects));
        pool.audit().unwrap();
        put(&pool, &objects);
    }

    #[test]
    fn a_bulk_with_one_wrong_object_is_not_put_at_all() {
        let (pool, other) = (ten(), ten());
        let (mine, theirs) = (get(&pool, 2).unwrap(), get(&other, 1).unwrap());
        for wrong in [theirs[0], mine[0]] {
            let text = message(|| put(&pool, &[mine[0], mine[1], wrong]));
            assert!(text.starts_with("foreign put") || text.starts_with("double put"), "{text}");
            assert_eq!(pool.counts().in_use, 2);
        }
        put(&pool, &mine);
        let text = message(|| put(&pool, &mine[..1]));
        tells(&text, &["double put: ", "it was put at ", &above(2), "and got before at "]);
        put(&other, &theirs);
        pool.audit().unwrap();
    }

    #[test]
    fn a_write_to_a_free_object_is_found_at_its_get() {
        for size in [1, 100, 256, 700] {
            let pool = pool(PoolConfig::new("poisoned", 4, size).poison(true));
            let objects = get(&pool, 4).unwrap();
            objects.iter().for_each(|object| fill(*object, 5, size));
            put(&pool, &objects);
            let place = above(1);
            assert!(objects.iter().all(|object| read(*object, 0) == 0xdd), "what is read shows it");
            let last = size as isize - 1;
            write(objects[1], last, 0x43);
            let start = format!("use after put: byte {last} of object 1 of pool \"poisoned\"");
            let error = pool.audit().unwrap_err().to_string();
            let text = message(|| _ = get(&pool, 4));
            for text in [error, text] {
                tells(&text, &[&start, "is 0x43, and was 0xdd when the object was put at ", &place]);
            }
            assert_eq!(pool.counts().in_use, 0, "none is got");
            use_all(&pool);
        }
    }

    #[test]
    fn a_write_to_a_free_object_that_keeps_its_state_is_found() {
        let config = PoolConfig::new("stateful", 4, 64).poison(true);
        let memory = heap(config.memory_len(), 64);
        let pool =
            RawPool::with_init(config, memory, |object, info| fill(object, info.index as u8, 64)).unwrap();
        let objects = get(&pool, 4).unwrap();
        put(&pool, &objects);
        write(objects[3], 20, 0x44);
        let text = message(|| _ = get(&pool, 4));
        tells(&text, &["use after put: byte 20 of object 3 of pool \"stateful\"", "is 0x44, and was 0x03"]);
        assert_eq!(pool.counts().in_use, 0);
        let objects = get(&pool, 4).unwrap();
        assert_eq!((read(objects[3], 19), read(objects[3], 20)), (3, 0x44));
        put(&pool, &objects);
    }

    #[test]
    fn a_write_to_a_free_value_is_found() {
        let config = Pool::<[u64; 4]>::config("values", 1).poison(true);
        let memory = heap(config.memory_len(), config.alignment());
        let pool = Pool::new(config, memory, || [1_u64; 4]).unwrap();
        let mut value = pool.get().unwrap();
        let stale = NonNull::from(&mut value[2]).cast::<u8>();
        drop(value);
        write(stale, 0, 2);
        let text = message(|| _ = pool.get());
        tells(&text, &["use after put: byte 16 of object 0 of pool \"values\"", "is 0x02, and was 0x01"]);
        drop(pool.get().unwrap());
        pool.audit().unwrap();
    }

    #[test]
    fn the_last_put_of_a_pool_without_handles_is_checked() {
        let pool = ten();
        let handle = pool.handle();
        let object = pool.get().unwrap();
        drop(pool);
        write(object, 100, 1);
        // SAFETY: the object is in use, and put once: the first call puts nothing.
        let text = message(|| unsafe { handle.put(object) });
        tells(&text, &["out of bounds: byte 100 of object "]);
        // SAFETY: as above.
        unsafe { handle.put(object) };
    }
}
