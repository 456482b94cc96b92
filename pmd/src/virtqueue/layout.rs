//! How rings lie in memory (virtio 1.2, 2.7 split, 2.8 packed), and access to what another side writes too.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::any::Any;
use std::sync::Arc;

/// A descriptor's flag: the chain goes on.
pub const NEXT: u16 = 1 << 0;
/// A descriptor's flag: the device writes the buffer.
pub const WRITE: u16 = 1 << 1;
/// A descriptor's flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = 1 << 2;
/// A packed descriptor's flag: made available, in the turn whose wrap counter this equals.
pub const AVAIL: u16 = 1 << 7;
/// A packed descriptor's flag: used, in the turn whose wrap counter this equals.
pub const USED: u16 = 1 << 15;

/// Flag in a split ring's available or used part: no notification is wanted. Without effect when the event index
/// is negotiated.
pub const NO_NOTIFICATION: u16 = 1;

/// Event suppression of packed rings: notifications are wanted (2.8.10).
pub const EVENT_ENABLE: u16 = 0;
/// Event suppression of packed rings: none are wanted.
pub const EVENT_DISABLE: u16 = 1;
/// Event suppression of packed rings: one is wanted at an offset.
pub const EVENT_DESCRIPTOR: u16 = 2;

/// Bytes of a descriptor, split or packed.
pub const DESCRIPTOR: usize = 16;

/// The most descriptors of a ring.
pub const MAX_SIZE: u16 = 1 << 15;

/// The two kinds of rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table of descriptors and a ring for each direction (virtio 1.2, 2.7).
    Split,
    /// One ring that both sides write (virtio 1.2, 2.8).
    Packed,
}

/// Bytes that the three parts of a ring take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// The descriptors.
    pub descriptors: usize,
    /// What the driver writes: the available ring, or its event suppression.
    pub driver: usize,
    /// What the device writes: the used ring, or its event suppression.
    pub device: usize,
}

impl Format {
    /// What a ring of `size` descriptors takes.
    #[must_use]
    pub const fn lengths(self, size: u16) -> Lengths {
        let size = size as usize;
        match self {
            Self::Split => {
                Lengths { descriptors: size * DESCRIPTOR, driver: 6 + 2 * size, device: 6 + 8 * size }
            }
            Self::Packed => Lengths { descriptors: size * DESCRIPTOR, driver: 4, device: 4 },
        }
    }

    /// What the three parts must be aligned to (2.7, 2.8).
    #[must_use]
    pub const fn alignments(self) -> Lengths {
        match self {
            Self::Split => Lengths { descriptors: 16, driver: 2, device: 4 },
            Self::Packed => Lengths { descriptors: 16, driver: 4, device: 4 },
        }
    }

    /// Whether a ring can have `size` descriptors.
    #[must_use]
    pub const fn takes(self, size: u16) -> bool {
        size > 0 && size <= MAX_SIZE && (matches!(self, Self::Packed) || size.is_power_of_two())
    }
}

/// The memory of one ring.
#[derive(Debug, Clone)]
pub struct RingArea {
    pub(super) descriptors: NonNull<u8>,
    pub(super) driver: NonNull<u8>,
    pub(super) device: NonNull<u8>,
    pub(super) size: u16,
    pub(super) format: Format,
    /// Keeps the memory mapped.
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory belongs to no thread, is kept by `_memory`, and is only accessed by atomic operations.
unsafe impl Send for RingArea {}
// SAFETY: as above; a shared reference gives no access that `Send` does not.
unsafe impl Sync for RingArea {}

impl RingArea {
    /// Names the memory of a ring; none when the size or an alignment cannot be.
    ///
    /// # Safety
    /// The three parts have the [lengths](Format::lengths) that `format` and `size` ask for, are readable and writable
    /// for as long as `memory` lives, and no Rust reference points into them.
    #[must_use]
    pub unsafe fn new(
        format: Format,
        size: u16,
        descriptors: NonNull<u8>,
        driver: NonNull<u8>,
        device: NonNull<u8>,
        memory: Arc<dyn Any + Send + Sync>,
    ) -> Option<Self> {
        let align = format.alignments();
        let aligned = |part: NonNull<u8>, to: usize| part.as_ptr().addr().is_multiple_of(to);
        let fits = format.takes(size)
            && aligned(descriptors, align.descriptors)
            && aligned(driver, align.driver)
            && aligned(device, align.device);
        fits.then_some(Self { descriptors, driver, device, size, format, _memory: memory })
    }

    /// The number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The kind of ring.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where its parts are: the descriptors, what the driver writes, what the device writes.
    #[must_use]
    pub fn parts(&self) -> [NonNull<u8>; 3] {
        [self.descriptors, self.driver, self.device]
    }

    /// Both words of descriptor `index`: the address, and the rest.
    ///
    /// # Safety
    /// `index` is below the size.
    #[inline(always)]
    pub(super) unsafe fn descriptor(&self, index: u16) -> &[AtomicU64; 2] {
        debug_assert!(index < self.size);
        // SAFETY: the table has `size` descriptors of 16 bytes, aligned to 16, and nobody makes a reference into it
        // but to atomics.
        unsafe { self.descriptors.add(usize::from(index) * DESCRIPTOR).cast::<[AtomicU64; 2]>().as_ref() }
    }

    /// The 16-bit word number `index` of the driver's part.
    ///
    /// # Safety
    /// The part has that many words.
    #[inline(always)]
    pub(super) unsafe fn driver_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(2 * index + 2 <= self.format.lengths(self.size).driver);
        // SAFETY: the caller says that it is in the part, which is aligned to 2.
        unsafe { self.driver.cast::<AtomicU16>().add(index).as_ref() }
    }

    /// The 16-bit word number `index` of the device's part.
    ///
    /// # Safety
    /// The part has that many words.
    #[inline(always)]
    pub(super) unsafe fn device_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(2 * index + 2 <= self.format.lengths(self.size).device);
        // SAFETY: the caller says that it is in the part, which is aligned to 4.
        unsafe { self.device.cast::<AtomicU16>().add(index).as_ref() }
    }
}

/// A descriptor as it was read, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the buffer is, in the driver's addresses.
    pub address: u64,
    /// Bytes in the buffer.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Split: the next descriptor of the chain. Packed: the buffer's identifier.
    pub other: u16,
}

impl Descriptor {
    /// A split descriptor's second word: length, flags, next.
    #[inline(always)]
    #[must_use]
    pub const fn split(address: u64, rest: u64) -> Self {
        let rest = u64::from_le(rest);
        Self {
            address: u64::from_le(address),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            other: (rest >> 48) as u16,
        }
    }

    /// A packed descriptor's second word: length, identifier, flags.
    #[inline(always)]
    #[must_use]
    pub const fn packed(address: u64, rest: u64) -> Self {
        let rest = u64::from_le(rest);
        Self {
            address: u64::from_le(address),
            len: rest as u32,
            flags: (rest >> 48) as u16,
            other: (rest >> 32) as u16,
        }
    }
}

/// The second word of a split descriptor.
#[inline(always)]
pub(super) const fn split_word(len: u32, flags: u16, next: u16) -> u64 {
    (len as u64 | (flags as u64) << 32 | (next as u64) << 48).to_le()
}

/// The second word of a packed descriptor.
#[inline(always)]
pub(super) const fn packed_word(len: u32, id: u16, flags: u16) -> u64 {
    (len as u64 | (id as u64) << 32 | (flags as u64) << 48).to_le()
}

/// Whether going from `old` to `new` passes `event` (virtio 1.2, 2.7.10.1).
#[inline(always)]
#[must_use]
pub const fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Asks the processor for the cache line at `address`, to read it.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing and does not fault, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks the processor for the cache line at `address`, to write it: others give it up at once, and not only when it is
/// written.
#[inline(always)]
pub(crate) fn prefetch_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing and does not fault, whatever the address. Processors that do not know this one
    // do nothing.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Descriptors in a cache line.
pub(super) const A_LINE: usize = 64 / DESCRIPTOR;

/// Reads an index that the other side writes; what it wrote before is visible after.
#[inline(always)]
pub(super) fn acquire(word: &AtomicU16) -> u16 {
    u16::from_le(word.load(Ordering::Acquire))
}

/// Writes an index that the other side reads; what was written before is visible to it then.
#[inline(always)]
pub(super) fn release(word: &AtomicU16, value: u16) {
    word.store(value.to_le(), Ordering::Release);
}

/// Reads a word that says nothing about others.
#[inline(always)]
pub(super) fn relaxed(word: &AtomicU16) -> u16 {
    u16::from_le(word.load(Ordering::Relaxed))
}

/// Writes a word that says nothing about others.
#[inline(always)]
pub(super) fn set(word: &AtomicU16, value: u16) {
    word.store(value.to_le(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_lengths_of_the_specification() {
        // 2.7: 16 N, 6 + 2 N, 6 + 8 N. 2.8: 16 N, 4, 4.
        assert_eq!(Format::Split.lengths(256), Lengths { descriptors: 4096, driver: 518, device: 2054 });
        assert_eq!(Format::Packed.lengths(100), Lengths { descriptors: 1600, driver: 4, device: 4 });
        assert!(Format::Packed.takes(100) && !Format::Split.takes(100) && Format::Split.takes(1));
        assert!(!Format::Split.takes(0) && !Format::Packed.takes(0) && !Format::Packed.takes(32769));
    }

    #[test]
    fn descriptors_are_read_as_they_were_written() {
        let split = Descriptor::split(7, split_word(1514, NEXT | WRITE, 9));
        assert_eq!(split, Descriptor { address: 7, len: 1514, flags: NEXT | WRITE, other: 9 });
        let packed = Descriptor::packed(7, packed_word(1514, 9, AVAIL | WRITE));
        assert_eq!(packed, Descriptor { address: 7, len: 1514, flags: AVAIL | WRITE, other: 9 });
    }

    #[test]
    fn an_event_is_passed_once() {
        assert!(passes(5, 6, 5) && passes(5, 8, 3) && !passes(5, 5, 3) && !passes(5, 9, 6));
        assert!(passes(u16::MAX, 0, u16::MAX) && passes(u16::MAX, 3, 65_000));
    }
}
