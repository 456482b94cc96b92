//! Descriptors (datasheet 7.1.6 and 7.2.3), and the rings that they lie in.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::any::Any;
use std::sync::Arc;

use super::offload::checksum_flags;
use crate::packet::{Found, Offload};

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;
/// Rings begin at, and are, multiples of this (8.2.3.8.3: 128 bytes).
pub(super) const STEP: u16 = 8;

/// What the device has written into a receive descriptor (7.1.6.2): its two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received(u64, u64);

impl Received {
    /// The descriptor is done: the rest means something.
    const DONE: u64 = 1 << 0;
    /// It has the end of its packet.
    const END: u64 = 1 << 1;
    /// The packet is damaged (RXE of the extended errors).
    const ERROR: u64 = 1 << 29;
    /// In the first word, the kind of hash; 0 is none.
    const HASH_TYPE: u64 = 0xf;

    /// What it tells of the packet, if it has its end.
    #[inline(always)]
    pub(super) fn found(self, stripped: Stripped) -> Found {
        // A hash has a type.
        let hashed = if self.0 & Self::HASH_TYPE != 0 { Offload::RX_RSS_HASH.bits() } else { 0 };
        let tagged = if self.1 & stripped.0 != 0 { Stripped::FLAGS } else { 0 };
        let flags = checksum_flags(self.1) | hashed | tagged;
        Found { flags, hash: (self.0 >> 32) as u32, tag: (self.1 >> 48) as u16 }
    }

    /// Bytes in the buffer.
    #[inline(always)]
    pub(super) const fn len(self) -> usize {
        (self.1 >> 32) as u16 as usize
    }

    /// Whether the packet ends with this buffer.
    #[inline(always)]
    pub(super) const fn is_end(self) -> bool {
        self.1 & Self::END != 0
    }

    /// Whether the buffer has all of its packet, if that did not begin before, and it is not damaged.
    #[inline(always)]
    pub(super) const fn is_whole(self) -> bool {
        self.1 & (Self::END | Self::ERROR) == Self::END
    }

    /// Whether the packet is damaged.
    #[inline(always)]
    pub(super) const fn is_damaged(self) -> bool {
        self.1 & Self::ERROR != 0
    }
}

/// Whether the device takes tags out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stripped(u64);

impl Stripped {
    /// The packet had a tag (VP).
    const TAGGED: u64 = 1 << 3;
    /// Who sends such a packet puts the tag in again.
    const FLAGS: u32 = Offload::RX_VLAN_STRIPPED.union(Offload::TX_VLAN_INSERT).bits();

    pub(super) const fn new(strips: bool) -> Self {
        Self(if strips { Self::TAGGED } else { 0 })
    }
}

/// What a buffer to send is (7.2.3.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// The device's address of the buffer.
    pub(super) address: u64,
    /// Bytes in it, not 0.
    pub(super) len: u16,
    /// Bytes in the whole packet.
    pub(super) packet: u32,
    /// The packet ends with it.
    pub(super) end: bool,
    /// The device is to say when it is done with it, and all before.
    pub(super) report: bool,
    /// What is asked of the device beside that.
    pub(super) asked: u64,
}

impl Sent {
    /// Advanced data (DTYP and DEXT), with a frame check sequence to be added.
    const DATA: u64 = 3 << 20 | 1 << 29 | 1 << 25;
    const END: u64 = 1 << 24;
    const REPORT: u64 = 1 << 27;
    /// Where PAYLEN is in the second word.
    const PACKET_SHIFT: u32 = 32 + 14;

    /// The second word.
    #[inline(always)]
    const fn word(self) -> u64 {
        let mut word = self.len as u64 | Self::DATA | self.asked | (self.packet as u64) << Self::PACKET_SHIFT;
        if self.end {
            word |= Self::END;
        }
        if self.report {
            word |= Self::REPORT;
        }
        word
    }
}

/// DD in the second word of a transmit descriptor that the device has written back (7.2.3.2.5).
const SENT_DONE: u64 = 1 << 32;

/// A ring of descriptors, in memory that the device reads and writes while we do: by atomic operations only.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<[AtomicU64; 2]>,
    size: u16,
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory belongs to no thread and is kept by `_memory`; all accesses are atomic.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// `size` descriptors at `base`, which are zeroed.
    ///
    /// # Safety
    /// So much memory is there and aligned to 16 bytes while `memory` lives, and nobody but a device uses it beside the ring.
    pub(super) unsafe fn new(base: NonNull<u8>, size: u16, memory: Arc<dyn Any + Send + Sync>) -> Self {
        let ring = Self { base: base.cast(), size, _memory: memory };
        for index in 0..size {
            ring.store(index, 0, 0);
        }
        ring
    }

    /// Descriptors.
    #[inline(always)]
    pub(super) const fn size(&self) -> u16 {
        self.size
    }

    #[inline(always)]
    fn slot(&self, index: u16) -> Option<&[AtomicU64; 2]> {
        // SAFETY: below the number of descriptors, so in the memory, which is aligned and only accessed atomically.
        (index < self.size).then(|| unsafe { self.base.add(usize::from(index)).as_ref() })
    }

    #[inline(always)]
    fn store(&self, index: u16, first: u64, second: u64) {
        if let Some([low, high]) = self.slot(index) {
            low.store(first.to_le(), Ordering::Relaxed);
            high.store(second.to_le(), Ordering::Relaxed);
        }
    }

    /// The second word, and all that the device wrote before it.
    #[inline(always)]
    fn load(&self, index: u16) -> u64 {
        self.slot(index).map_or(0, |[_, high]| u64::from_le(high.load(Ordering::Acquire)))
    }

    /// Gives the device a buffer to receive into (7.1.6.1).
    #[inline(always)]
    pub(super) fn post(&self, index: u16, address: u64) {
        self.store(index, address, 0);
    }

    /// What the device has received into a buffer; none as long as it has not.
    #[inline(always)]
    pub(super) fn received(&self, index: u16) -> Option<Received> {
        let [low, high] = self.slot(index)?;
        // All that the device wrote before it said that it is done.
        let high = u64::from_le(high.load(Ordering::Acquire));
        (high & Received::DONE != 0).then(|| Received(u64::from_le(low.load(Ordering::Relaxed)), high))
    }

    /// Gives the device a buffer to send.
    #[inline(always)]
    pub(super) fn send(&self, index: u16, sent: Sent) {
        self.store(index, sent.address, sent.word());
    }

    /// Gives the device a context (7.2.3.2.3).
    pub(super) fn context(&self, index: u16, [first, second]: [u64; 2]) {
        self.store(index, first, second);
    }

    /// Whether the device is done with a buffer of which it was to report.
    #[inline(always)]
    pub(super) fn is_sent(&self, index: u16) -> bool {
        self.load(index) & SENT_DONE != 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::testing::Hand;
    use super::*;

    #[test]
    fn receive_descriptors_are_as_the_datasheet_draws_them() {
        let (hand, ring) = Hand::with_ring(8);
        assert_eq!((0..8).map(|index| hand.words(index)).max(), Some([0, 0]));
        ring.post(3, 0x1122_3344_5566_7788);
        assert_eq!((hand.words(3), ring.received(3)), ([0x1122_3344_5566_7788, 0], None));
        // Status is bits 0 to 19 of the second word, errors are 20 to 31, the length is 32 to 47, the VLAN tag is 48 to 63.
        hand.write_back(3, 0x0064_05dc_0000_0003);
        let received = ring.received(3).unwrap();
        assert_eq!((received.len(), received.is_end(), received.is_damaged()), (1500, true, false));
        hand.write_back(3, 0xffff_ffff_2000_0001);
        let received = ring.received(3).unwrap();
        assert_eq!((received.len(), received.is_end(), received.is_damaged()), (65535, false, true));
        hand.write_back(3, !1);
        assert_eq!(ring.received(3), None);
    }

    #[test]
    fn transmit_descriptors_are_as_the_datasheet_draws_them() {
        let (hand, ring) = Hand::with_ring(8);
        let sent = Sent { address: 0xa000, len: 60, packet: 60, end: true, report: true, asked: 0 };
        ring.send(7, sent);
        // DTYP 3, EOP, IFCS, RS, DEXT; PAYLEN from bit 46 on.
        assert_eq!(hand.words(7), [0xa000, 0x003c | 0x2b30_0000 | 60 << 46]);
        assert!(!ring.is_sent(7));
        ring.send(0, Sent { len: 0xffff, packet: 0x3_ffff, end: false, report: false, ..sent });
        assert_eq!(hand.words(0), [0xa000, 0xffff | 0x2230_0000 | 0x3_ffff << 46]);
        assert!(!ring.is_sent(0));
        hand.write_back(0, 1 << 32);
        assert!(ring.is_sent(0));
    }

    #[test]
    fn an_index_outside_is_nothing() {
        let (_hand, ring) = Hand::with_ring(8);
        ring.post(8, 1);
        ring.post(u16::MAX, 1);
        assert_eq!((ring.received(8), ring.is_sent(u16::MAX)), (None, false));
        assert_eq!(ring.size(), 8);
    }
}
