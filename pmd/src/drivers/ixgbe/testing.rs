//! What the tests of the queues need: registers that remember, memory, and the device's hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use core::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use wirerate_eal::mmio::Mmio;

use super::descriptor::Ring;
use crate::drivers::reach::{Range, Reach};
use crate::packet::{MbufPool, MbufPoolConfig};

/// Registers that keep what was written last, and to where.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) value: AtomicU32,
    pub(super) log: Mutex<Vec<(usize, u32)>>,
}

impl Mmio for Written {
    fn len(&self) -> usize {
        super::registers::LEN
    }
    fn read8(&self, _: usize) -> u8 {
        0
    }
    fn read16(&self, _: usize) -> u16 {
        0
    }
    fn read32(&self, _: usize) -> u32 {
        self.value.load(Ordering::Relaxed)
    }
    fn write8(&self, _: usize, _: u8) {}
    fn write16(&self, _: usize, _: u16) {}
    fn write32(&self, offset: usize, value: u32) {
        self.value.store(value, Ordering::Relaxed);
        self.log.lock().unwrap().push((offset, value));
    }
}

/// The device's side of a ring.
#[derive(Debug)]
pub(super) struct Hand(Arc<Vec<AtomicU64>>);

impl Hand {
    /// A ring of `size` descriptors, and the hand that plays its device.
    pub(super) fn with_ring(size: u16) -> (Self, Ring) {
        let words: Arc<Vec<AtomicU64>> = Arc::new((0..2 * size).map(|_| AtomicU64::new(u64::MAX)).collect());
        let base: NonNull<u8> = NonNull::from(&words[0]).cast();
        assert!(base.as_ptr().addr().is_multiple_of(16));
        // SAFETY: the words are there, accessed atomically by both sides, and kept.
        let ring = unsafe { Ring::new(base, size, Arc::clone(&words) as _) };
        (Self(words), ring)
    }

    pub(super) fn words(&self, index: u16) -> [u64; 2] {
        let at = 2 * usize::from(index);
        [&self.0[at], &self.0[at + 1]].map(|word| word.load(Ordering::Acquire))
    }

    pub(super) fn write_back(&self, index: u16, word: u64) {
        self.0[2 * usize::from(index) + 1].store(word, Ordering::Release);
    }
}

pub(super) fn pool(count: usize) -> MbufPool {
    MbufPool::on_heap(&MbufPoolConfig::new("packets", count).cache(0)).unwrap()
}

/// All memory of a pool, at addresses of our own but for `away`.
pub(super) fn reach(pool: &MbufPool, away: u64) -> Reach {
    Reach::new(pool.raw().memories().map(|memory| {
        let same = Range::same(memory);
        Range { device: same.device.wrapping_add(away), ..same }
    }))
}
