//! Pools of byte buffers, and buffers that devices have.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrayvec::ArrayVec;
use wirerate_mempool::{Exhausted, HeapMemory, Memory, OnDevice, Pool, PoolConfig, PoolError, Pooled};

#[test]
fn buffers_have_the_length_that_was_asked_for() {
    for len in [1, 63, 64, 65, 1500, 65_536] {
        let pool = Pool::buffers("buffers", 20, len).unwrap();
        assert_eq!(pool.buffer_len(), len);
        let mut held: Vec<Pooled<[u8]>> = (0..20).map(|_| pool.get().unwrap()).collect();
        assert!(pool.get().is_none());
        for (number, buffer) in held.iter_mut().enumerate() {
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % PoolConfig::DEFAULT_ALIGN, 0);
            assert!(buffer.iter().all(|byte| *byte == 0), "zero at first");
            buffer.fill(number as u8);
        }
        for (number, buffer) in held.iter().enumerate() {
            assert!(buffer.iter().all(|byte| *byte == number as u8), "no two overlap");
        }
        drop(held);
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
    }
}

#[test]
fn buffers_are_slices_to_generic_code() {
    fn sum(bytes: impl AsRef<[u8]>) -> u32 {
        bytes.as_ref().iter().map(|byte| u32::from(*byte)).sum()
    }
    fn set(mut bytes: impl AsMut<[u8]>) {
        bytes.as_mut().fill(2);
    }
    let pool = Pool::buffers("buffers", 1, 10).unwrap();
    set(pool.get().unwrap());
    assert_eq!(sum(pool.get().unwrap()), 20, "what is in a buffer stays");
    assert_eq!(format!("{:?}", pool.get().unwrap()), format!("{:?}", [2; 10]));
}

#[test]
fn a_handle_is_two_words_and_a_buffer_three() {
    assert_eq!(size_of::<Pooled<[u64; 100]>>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Pooled<[u8]>>(), 3 * size_of::<usize>());
    assert_eq!(size_of::<Option<Pooled<[u8]>>>(), 3 * size_of::<usize>());
}

#[test]
fn bulks_of_buffers_are_all_or_nothing() {
    let pool = Pool::buffers("buffers", 100, 100).unwrap();
    let mut vector: Vec<Pooled<[u8]>> = Vec::new();
    pool.get_bulk(&mut vector, 70).unwrap();
    for buffer in &mut vector {
        assert_eq!(buffer.len(), 100);
        buffer[99] += 1;
    }
    assert!(vector.iter().all(|buffer| buffer[99] == 1), "each buffer is there once");
    assert_eq!(pool.get_bulk(&mut vector, 31), Err(Exhausted));
    let mut array: ArrayVec<Pooled<[u8]>, 32> = ArrayVec::new();
    pool.get_bulk(&mut array, 1).unwrap();
    pool.get_bulk(&mut array, 29).unwrap();
    assert_eq!(pool.get_bulk(&mut array, 3), Err(Exhausted), "no room for them");
    assert_eq!((array.len(), pool.counts().in_use), (30, 100));
    drop((vector, array));
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn buffers_outlive_their_pool_and_go_home_from_other_threads() {
    let pool = Pool::buffers("buffers", 10, 2048).unwrap();
    let (mut one, other) = (pool.get().unwrap(), pool.get().unwrap());
    thread::spawn(move || drop(other)).join().unwrap();
    assert_eq!(pool.counts().in_use, 1);
    drop(pool);
    one[2047] = 7;
    assert_eq!(thread::spawn(move || one[2047]).join().unwrap(), 7);
}

#[test]
fn buffers_live_in_given_memory_as_zeros() {
    let memory = HeapMemory::new(4096, 64).unwrap();
    // SAFETY: 4,096 bytes that nobody else uses.
    unsafe { memory.base().write_bytes(0xaa, 4096) };
    let at = memory.base().as_ptr() as usize;
    let pool =
        Pool::buffers_in(PoolConfig::new("given", 31, 100).guards(false), vec![Box::new(memory)]).unwrap();
    let held: Vec<_> = (0..31).map(|_| pool.get().unwrap()).collect();
    for buffer in &held {
        assert!((at..at + 4096).contains(&(buffer.as_ptr() as usize)));
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn buffers_that_cannot_be_are_refused() {
    let error = Pool::buffers("empty", 4, 0).unwrap_err();
    assert!(matches!(error, PoolError::Config { what: "object_size", found: 0, .. }), "{error}");
    let error = Pool::buffers("none", 0, 4).unwrap_err();
    assert!(matches!(error, PoolError::Config { what: "count", found: 0, .. }), "{error}");
    let error = Pool::buffers("huge", 1 << 20, 1 << 50).unwrap_err();
    assert!(matches!(error, PoolError::Config { what: "object_size", .. }), "{error}");
    let memory: Vec<Box<dyn Memory>> = vec![Box::new(HeapMemory::new(1000, 64).unwrap())];
    let error = Pool::buffers_in(PoolConfig::new("small", 10, 128).guards(false), memory).unwrap_err();
    assert!(matches!(error, PoolError::TooSmall { fit: 7, .. }), "{error}");
}

/// Memory that a device finds at another address.
#[derive(Debug)]
struct Mapped(HeapMemory, u64);

// SAFETY: all but the device address is `HeapMemory`'s.
unsafe impl Memory for Mapped {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn page_size(&self) -> usize {
        self.0.page_size()
    }
    fn device_address(&self, offset: usize) -> Option<u64> {
        Some(self.1 + offset as u64)
    }
}

fn mapped(config: PoolConfig, pieces: &[(usize, u64)]) -> Pool<[u8]> {
    let piece =
        |&(len, device)| -> Box<dyn Memory> { Box::new(Mapped(HeapMemory::new(len, 4096).unwrap(), device)) };
    Pool::buffers_in(config, pieces.iter().map(piece).collect()).unwrap()
}

#[test]
fn a_device_is_told_where_each_buffer_is() {
    let pool = mapped(
        PoolConfig::new("mapped", 8, 1000).guards(false),
        &[(3 * 1024, 0x10_0000), (5 * 1024, 0x70_0000)],
    );
    let held: Vec<OnDevice<[u8]>> = (0..8).map(|_| pool.get().unwrap().into_device()).collect();
    let mut told: Vec<u64> = held.iter().map(|buffer| pool.device_address(buffer).unwrap()).collect();
    told.sort_unstable();
    let first = (0..3).map(|nth| 0x10_0000 + nth * 1024);
    let second = (0..5).map(|nth| 0x70_0000 + nth * 1024);
    assert_eq!(told, first.chain(second).collect::<Vec<_>>());
    for buffer in held {
        assert_eq!((buffer.len(), buffer.is_empty()), (1000, false));
        // SAFETY: there is no device.
        drop(unsafe { buffer.reclaim() });
    }
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn a_pool_tells_no_address_of_what_is_not_its_own_or_no_device_can_reach() {
    let pool = mapped(PoolConfig::new("mapped", 1, 64), &[(4096, 0x10_0000)]);
    let heap = Pool::buffers("heap", 1, 64).unwrap();
    let (near, far) = (heap.get().unwrap().into_device(), pool.get().unwrap().into_device());
    assert_eq!(pool.device_address(&near), None, "another pool's");
    assert_eq!(heap.device_address(&near), None, "no device reaches the heap");
    assert_eq!(pool.device_address(&far), Some(0x10_0000));
    // SAFETY: there is no device.
    unsafe { drop((near.reclaim(), far.reclaim())) };
}

#[test]
fn a_device_fills_a_buffer_and_it_comes_back() {
    let pool = Pool::buffers("received", 2, 1000).unwrap();
    for round in 1..100 {
        let mut buffer = pool.get().unwrap();
        buffer.fill(0);
        let (buffer, done) = (buffer.into_device(), AtomicBool::new(false));
        let (at, len) = (buffer.as_ptr() as usize, buffer.len());
        let buffer = thread::scope(|scope| {
            scope.spawn(|| {
                // The device's own order, which the hand-over has to match: data first, then the flag.
                // SAFETY: the buffer is the device's, and as long.
                unsafe { (at as *mut u8).write_bytes(round, len) };
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            // SAFETY: it has told that it is done; bytes are bytes.
            unsafe { buffer.reclaim() }
        });
        assert!(buffer.iter().all(|byte| *byte == round));
    }
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn any_value_may_go_to_a_device() {
    let pool = Pool::on_heap(1, || [1u32, 2, 3]).unwrap();
    let value = pool.get().unwrap().into_device();
    assert_eq!((value.len(), size_of_val(&value)), (12, 2 * size_of::<usize>()));
    // SAFETY: there is no device.
    let value = thread::spawn(move || unsafe { value.reclaim() }).join().unwrap();
    assert_eq!(*value, [1, 2, 3]);
}

static LOST: OnceLock<ManuallyDrop<OnDevice<[u8]>>> = OnceLock::new();

/// A leak rather than a corruption.
#[test]
fn what_is_dropped_on_the_device_is_never_used_again() {
    let pool = Pool::buffers("lost", 4, 64).unwrap();
    let lost = pool.get().unwrap().into_device();
    let line = line!() - 1;
    let at = lost.as_ptr();
    // So that leak checkers find what is lost here on purpose. SAFETY: it is neither used nor dropped.
    LOST.set(ManuallyDrop::new(unsafe { std::ptr::read(&raw const lost) })).unwrap();
    drop(lost);
    assert_eq!(pool.counts().in_use, 1);
    for _ in 0..10 {
        let rest: Vec<_> = std::iter::from_fn(|| pool.get()).collect();
        assert_eq!(rest.len(), 3);
        assert!(rest.iter().all(|buffer| !std::ptr::eq(buffer.as_ptr(), at)));
    }
    let outstanding = pool.outstanding().unwrap();
    let [lost] = outstanding.as_slice() else { panic!("{outstanding:?}") };
    assert_eq!(lost.object.as_ptr(), at);
    if cfg!(debug_assertions) {
        let got_at = lost.got_at.unwrap();
        assert_eq!((got_at.file(), got_at.line()), (file!(), line));
    }
    pool.audit().unwrap();
    // The device may write on when the pool is dropped: its memory stays.
    drop(pool);
    // SAFETY: the memory is never freed, and no one else has it.
    unsafe { at.write_bytes(0xee, 64) };
}
