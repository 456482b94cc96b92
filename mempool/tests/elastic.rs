//! Pools that give memory back and take it again.
#![cfg(feature = "std")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use wirerate_mempool::{HeapMemory, Memory, MemoryError, MmapMemory, Pool, PoolConfig, RawPool, Shrunk};

/// Memory that notes what is done to it, and can refuse to come back.
#[derive(Debug)]
struct Noted {
    memory: MmapMemory,
    gone: AtomicBool,
    refuses: Arc<AtomicBool>,
}

// SAFETY: all is `MmapMemory`'s.
unsafe impl Memory for Noted {
    fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }
    fn len(&self) -> usize {
        self.memory.len()
    }
    fn page_size(&self) -> usize {
        self.memory.page_size()
    }
    fn is_releasable(&self) -> bool {
        true
    }
    unsafe fn release(&self) {
        assert!(!self.gone.swap(true, Ordering::SeqCst), "released twice");
        // SAFETY: as the caller says.
        unsafe { self.memory.release() };
    }
    fn restore(&self) -> Result<(), MemoryError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(MemoryError::Heap { len: self.len(), align: 1 });
        }
        assert!(self.gone.swap(false, Ordering::SeqCst), "restored without being released");
        self.memory.restore()
    }
}

/// A pool of `chunks` chunks of `each` objects of 64 bytes, whose first word is their number plus 1.
fn pool(chunks: usize, each: usize, cache: usize) -> (RawPool, Arc<AtomicBool>) {
    let config = PoolConfig::new("elastic", chunks * each, 64).cache(cache);
    let refuses = Arc::new(AtomicBool::new(false));
    let piece = |_| -> Box<dyn Memory> {
        let memory = MmapMemory::new(config.clone().with_count(each).memory_len()).unwrap();
        Box::new(Noted { memory, gone: AtomicBool::new(false), refuses: Arc::clone(&refuses) })
    };
    let memory = (0..chunks).map(piece).collect();
    let pool = RawPool::elastic(config, memory, |object, info| {
        // SAFETY: an object has 64 bytes, and nobody else has it yet.
        unsafe { object.cast::<usize>().write(info.index + 1) };
    })
    .unwrap();
    (pool, refuses)
}

fn get(pool: &RawPool, n: usize) -> Option<Vec<NonNull<u8>>> {
    let mut out = vec![MaybeUninit::uninit(); n];
    pool.get_bulk(&mut out).ok()?;
    // SAFETY: `get_bulk` has written all of them.
    let objects: Vec<_> = out.into_iter().map(|object| unsafe { object.assume_init() }).collect();
    for object in &objects {
        // SAFETY: it is ours, and has 64 bytes.
        assert_eq!(unsafe { object.cast::<usize>().read() }, pool.index_of(*object).unwrap() + 1);
    }
    Some(objects)
}

fn put(pool: &RawPool, objects: &[NonNull<u8>]) {
    // SAFETY: in use, and put once.
    unsafe { pool.put_bulk(objects) };
}

#[test]
fn chunks_go_down_to_what_is_kept_and_come_back() {
    let (pool, _) = pool(8, 50, 32);
    let all = get(&pool, 400).unwrap();
    put(&pool, &all);
    let shrunk = pool.shrink(120);
    assert_eq!((shrunk.chunks, shrunk.objects), (5, 250));
    assert!(shrunk.bytes >= 250 * 64);
    assert_eq!(pool.counts().size, 150);
    pool.audit().unwrap();
    assert!(get(&pool, 151).is_none());
    let most = get(&pool, 150).unwrap();
    assert_eq!(pool.outstanding().unwrap().len(), 150);
    assert_eq!(pool.shrink(0), Shrunk::default());
    put(&pool, &most);
    assert_eq!(pool.grow(201).unwrap(), 100);
    assert_eq!(pool.counts().size, 250);
    pool.audit().unwrap();
    assert_eq!(pool.grow(usize::MAX).unwrap(), 150);
    assert_eq!(pool.grow(usize::MAX).unwrap(), 0);
    put(&pool, &get(&pool, 400).unwrap());
    assert_eq!(pool.shrink(0).objects, 400);
    assert_eq!(pool.counts().size, 0);
    assert!(get(&pool, 1).is_none());
    pool.audit().unwrap();
    assert_eq!(pool.grow(1).unwrap(), 50);
}

#[test]
fn one_object_in_use_keeps_its_chunk_and_no_other() {
    let (pool, _) = pool(8, 50, 32);
    let mut all = get(&pool, 400).unwrap();
    let held = all.remove(210);
    put(&pool, &all);
    let chunk = pool.index_of(held).unwrap() / 50;
    assert_eq!(pool.shrink(0).chunks, 7);
    assert_eq!(pool.counts().size, 50);
    let rest = get(&pool, 49).unwrap();
    assert!(rest.iter().all(|object| pool.index_of(*object).unwrap() / 50 == chunk));
    put(&pool, &rest);
    put(&pool, &[held]);
    assert_eq!(pool.shrink(0).chunks, 1);
}

#[test]
fn what_idles_in_caches_of_others_keeps_no_chunk() {
    let (pool, _) = pool(8, 50, 32);
    let mut cache = pool.cache().unwrap();
    let one = cache.get().unwrap();
    // SAFETY: in use, and put once.
    unsafe { cache.put(one) };
    thread::scope(|scope| {
        scope.spawn(|| put(&pool, &get(&pool, 10).unwrap()));
    });
    assert_eq!(pool.shrink(0).chunks, 8);
    assert!(cache.get().is_none());
    pool.grow(100).unwrap();
    let one = cache.get().unwrap();
    // SAFETY: in use, and put once.
    unsafe { cache.put(one) };
    pool.audit().unwrap();
}

#[test]
fn memory_that_does_not_come_back_is_an_error_and_nothing_is_lost() {
    let (pool, refuses) = pool(4, 50, 32);
    pool.shrink(50);
    refuses.store(true, Ordering::SeqCst);
    let error = pool.grow(200).unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
    assert_eq!(pool.counts().size, 50);
    refuses.store(false, Ordering::SeqCst);
    assert_eq!(pool.grow(200).unwrap(), 150);
    pool.audit().unwrap();
}

#[test]
fn pools_that_are_not_elastic_and_memory_that_cannot_go_stay() {
    let config = PoolConfig::new("fixed", 100, 64);
    let memory = || -> Vec<Box<dyn Memory>> { vec![Box::new(MmapMemory::new(config.memory_len()).unwrap())] };
    let fixed = RawPool::new(config.clone(), memory()).unwrap();
    assert_eq!(fixed.shrink(0), Shrunk::default());
    assert_eq!(fixed.grow(1000).unwrap(), 0);
    let heap: Vec<Box<dyn Memory>> = vec![Box::new(HeapMemory::new(config.memory_len(), 64).unwrap())];
    let on_heap = RawPool::elastic(config.clone(), heap, |_, _| {}).unwrap();
    assert_eq!(on_heap.shrink(0), Shrunk::default());
}

#[test]
fn pieces_made_for_a_pool_hold_all_its_objects() {
    for (count, size, align, chunk) in [
        (1, 1, 1, 1),
        (100, 2048, 64, 1 << 16),
        (1000, 100, 4096, 1 << 14),
        (7, 70_000, 64, 4096),
        (3, 64, 16_384, 100),
    ] {
        let config = PoolConfig::new("chunks", count, size).align(align);
        let pieces = MmapMemory::chunks(&config, chunk).unwrap();
        let least = config.clone().with_count(1).memory_len() + align;
        assert!(pieces.iter().all(|piece| piece.len() <= chunk.next_multiple_of(4096).max(least)));
        let pool = RawPool::elastic(config, pieces, |_, _| {}).unwrap();
        assert_eq!(pool.counts().size, count);
        put(&pool, &{
            let mut out = vec![MaybeUninit::uninit(); count];
            pool.get_bulk(&mut out).unwrap();
            // SAFETY: `get_bulk` has written all of them.
            out.into_iter().map(|object| unsafe { object.assume_init() }).collect::<Vec<_>>()
        });
        assert_eq!(pool.shrink(0).objects, count);
    }
}

/// Counts itself.
struct Counted(Arc<AtomicUsize>, [u8; 3000]);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn values_are_dropped_before_their_memory_goes_and_made_when_it_comes() {
    let living = Arc::new(AtomicUsize::new(0));
    let panics = Arc::new(AtomicBool::new(false));
    let config = Pool::<Counted>::config("values", 64);
    let memory = MmapMemory::chunks(&config, 16_384).unwrap();
    let chunks = memory.len();
    assert!(chunks > 10);
    let pool = Pool::elastic(config, memory, {
        let (living, panics) = (Arc::clone(&living), Arc::clone(&panics));
        move || {
            let n = living.fetch_add(1, Ordering::SeqCst);
            if panics.load(Ordering::SeqCst) && n % 4 == 2 {
                living.fetch_sub(1, Ordering::SeqCst);
                panic!("as asked");
            }
            Counted(Arc::clone(&living), [7; 3000])
        }
    })
    .unwrap();
    assert_eq!(living.load(Ordering::SeqCst), 64);
    let held = pool.get().unwrap();
    let shrunk = pool.shrink(0);
    assert_eq!(shrunk.chunks, chunks - 1);
    assert_eq!(living.load(Ordering::SeqCst), 64 - shrunk.objects);
    assert!(held.1.iter().all(|byte| *byte == 7));
    drop(held);
    panics.store(true, Ordering::SeqCst);
    let before = pool.counts().size;
    assert!(catch_unwind(AssertUnwindSafe(|| pool.grow(64))).is_err());
    assert_eq!(living.load(Ordering::SeqCst), pool.counts().size);
    assert!(pool.counts().size >= before);
    panics.store(false, Ordering::SeqCst);
    pool.grow(64).unwrap();
    assert_eq!((living.load(Ordering::SeqCst), pool.counts().size), (64, 64));
    pool.audit().unwrap();
    pool.shrink(20);
    drop(pool);
    assert_eq!(living.load(Ordering::SeqCst), 0);
}

#[test]
fn traffic_goes_on_while_the_pool_shrinks_and_grows() {
    let (pool, _) = pool(16, 64, 32);
    let stop = AtomicBool::new(false);
    let handed: Mutex<Vec<Vec<usize>>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for who in 0..3_usize {
            let (pool, stop, handed) = (pool.clone(), &stop, &handed);
            scope.spawn(move || {
                let mut cache = (who == 2).then(|| pool.cache().unwrap());
                let mut rounds = 0_usize;
                while !stop.load(Ordering::Relaxed) {
                    rounds += 1;
                    let n = 1 + rounds % 40;
                    let objects = match &mut cache {
                        None => get(&pool, n).unwrap_or_default(),
                        Some(cache) => (0..n).map_while(|_| cache.get()).collect(),
                    };
                    for object in &objects {
                        // SAFETY: it is ours, and has 64 bytes, of which the first 8 tell its number.
                        unsafe { object.cast::<usize>().add(1).write(who) };
                    }
                    for object in &objects {
                        // SAFETY: as above.
                        assert_eq!(unsafe { object.cast::<usize>().add(1).read() }, who);
                    }
                    if rounds.is_multiple_of(7) && who == 1 {
                        // To another thread.
                        let sent = objects.iter().map(|object| object.as_ptr() as usize).collect();
                        handed.lock().unwrap().push(sent);
                        let theirs = handed.lock().unwrap().pop().unwrap_or_default();
                        let objects: Vec<_> =
                            theirs.into_iter().map(|at| NonNull::new(at as *mut u8).unwrap()).collect();
                        put(&pool, &objects);
                    } else if let Some(cache) = &mut cache {
                        // SAFETY: in use, and put once.
                        unsafe { cache.put_bulk(&objects) };
                    } else {
                        put(&pool, &objects);
                    }
                }
                assert!(rounds > 10);
            });
        }
        let (mut gone, mut came) = (0, 0);
        for round in 0..200 {
            gone += pool.shrink(round % 3 * 200).objects;
            pool.audit().unwrap();
            thread::sleep(Duration::from_micros(200));
            came += pool.grow(400 + round).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(gone > 1000 && came > 1000, "{gone} went, {came} came");
    });
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    pool.grow(usize::MAX).unwrap();
    assert_eq!(pool.counts().size, 1024);
    put(&pool, &get(&pool, 1024).unwrap());
}

#[derive(Debug, Clone)]
enum Step {
    Get(usize),
    Put(usize),
    Cache(usize),
    Shrink(usize),
    Grow(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..60_usize).prop_map(Step::Get),
        (0..60_usize).prop_map(Step::Put),
        (0..30_usize).prop_map(Step::Cache),
        (0..200_usize).prop_map(Step::Shrink),
        (0..200_usize).prop_map(Step::Grow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is there, and what is in use, is always what a simple model says.
    #[test]
    fn any_steps_do_as_the_model_does(
        (chunks, each) in (1..7_usize, 1..30_usize),
        cache in prop_oneof![Just(0_usize), 1..40_usize],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let (pool, _) = pool(chunks, each, cache);
        let mut handle = pool.cache();
        let mut present: HashSet<usize> = (0..chunks).collect();
        let mut held: Vec<NonNull<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Get(n) => match get(&pool, n) {
                    Some(objects) => held.extend(objects),
                    None => prop_assert!(held.len() + n > present.len() * each),
                },
                Step::Put(n) => {
                    let back = held.split_off(held.len().saturating_sub(n));
                    put(&pool, &back);
                }
                Step::Cache(n) => if let Some(handle) = &mut handle {
                    let got: Vec<_> = (0..n).map_while(|_| handle.get()).collect();
                    // SAFETY: in use, and put once.
                    unsafe { handle.put_bulk(&got) };
                },
                Step::Shrink(keep) => {
                    let mut used: HashMap<usize, usize> = HashMap::new();
                    for object in &held {
                        *used.entry(pool.index_of(*object).unwrap() / each).or_default() += 1;
                    }
                    let mut expected = 0;
                    for chunk in (0..chunks).rev() {
                        if present.contains(&chunk)
                            && !used.contains_key(&chunk)
                            && present.len() * each - each >= keep
                        {
                            present.remove(&chunk);
                            expected += 1;
                        }
                    }
                    prop_assert_eq!(pool.shrink(keep).chunks, expected);
                }
                Step::Grow(to) => {
                    let mut expected = 0;
                    for chunk in 0..chunks {
                        if present.len() * each < to && present.insert(chunk) {
                            expected += each;
                        }
                    }
                    prop_assert_eq!(pool.grow(to).unwrap(), expected);
                }
            }
            let counts = pool.counts();
            prop_assert_eq!((counts.size, counts.in_use), (present.len() * each, held.len()));
            prop_assert_eq!(counts.free + counts.cached + counts.in_use, counts.size);
        }
        pool.audit().unwrap();
        let distinct: HashSet<_> = held.iter().collect();
        prop_assert_eq!(distinct.len(), held.len());
        put(&pool, &held);
        pool.grow(usize::MAX).unwrap();
        put(&pool, &get(&pool, chunks * each).unwrap());
        pool.audit().unwrap();
    }
}
