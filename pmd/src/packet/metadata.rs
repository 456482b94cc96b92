//! What is known of a packet beside its bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::header::ATTACHED;
use super::{DynField, Mbuf, Offload, TxLengths};
use crate::virtqueue::layout::{prefetch, prefetch_write};

/// What a port has found out about a packet: [`Offload`] bits, and what these say is valid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) flags: u32,
    pub(crate) hash: u32,
    pub(crate) tag: u16,
}

impl Mbuf {
    /// The port that the packet came in by, or [`NO_PORT`](Self::NO_PORT).
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.header().port
    }

    /// Notes the port that the packet came in by.
    #[inline]
    pub fn set_port(&mut self, port: u16) {
        self.header_mut().set_port(port);
    }

    /// The packet's offload flags.
    #[inline]
    #[must_use]
    pub fn offload(&self) -> Offload {
        Offload::from_bits_truncate(self.header().flags)
    }

    /// Replaces the packet's offload flags.
    #[inline]
    pub fn set_offload(&mut self, flags: Offload) {
        let kept = self.header().flags & ATTACHED;
        self.header_mut().set_flags(kept | flags.bits());
    }

    /// The RSS hash that the port computed, if it did.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        self.offload().contains(Offload::RX_RSS_HASH).then(|| self.header().hash)
    }

    /// Notes the RSS hash.
    pub fn set_rss_hash(&mut self, hash: u32) {
        // SAFETY: this handle owns its header.
        unsafe { (*self.0.as_ptr()).hash = hash };
        self.set_offload(self.offload() | Offload::RX_RSS_HASH);
    }

    /// Notes what a port has found out about a packet that it has received just now.
    #[inline(always)]
    pub(crate) fn note(&mut self, found: Found) {
        self.header_mut().set_found(found);
    }

    /// The VLAN tag control information that goes with a VLAN flag.
    #[inline]
    #[must_use]
    pub fn vlan_tci(&self) -> u16 {
        self.header().vlan_tci
    }

    /// Sets the VLAN tag control information; the flag says what it means.
    pub fn set_vlan_tci(&mut self, tci: u16) {
        // SAFETY: this handle owns its header.
        unsafe { (*self.0.as_ptr()).vlan_tci = tci };
    }

    /// Header lengths for transmit offloads.
    #[must_use]
    pub fn tx_lengths(&self) -> TxLengths {
        self.header().lengths
    }

    /// Sets header lengths for transmit offloads.
    pub fn set_tx_lengths(&mut self, lengths: TxLengths) {
        // SAFETY: this handle owns its header.
        unsafe { (*self.0.as_ptr()).lengths = lengths };
    }

    /// When the packet came in, in nanoseconds since 1970, if its port stamps packets.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        self.offload().contains(Offload::TIMESTAMP).then(|| self.extension().timestamp)
    }

    /// Stamps the packet with nanoseconds since 1970.
    pub fn set_timestamp(&mut self, nanoseconds: u64) {
        self.extension_mut().timestamp = nanoseconds;
        self.set_offload(self.offload() | Offload::TIMESTAMP);
    }

    /// The value of a dynamic field.
    #[must_use]
    pub fn dynamic<T: FromBytes + IntoBytes + Immutable>(&self, field: DynField<T>) -> Option<T> {
        field.read(&self.extension().dynamic)
    }

    /// Sets the value of a dynamic field.
    pub fn set_dynamic<T: FromBytes + IntoBytes + Immutable>(&mut self, field: DynField<T>, value: &T) {
        field.write(&mut self.extension_mut().dynamic, value);
    }

    /// Asks the processor for the first cache line of data, ahead of its use.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.data_start());
    }

    /// Asks the processor for the first cache line of data, ahead of its being written. Where other processors have read
    /// the mbuf's last packet, that is what a write waits for.
    #[inline]
    pub fn prefetch_write(&self) {
        prefetch_write(self.data_start());
    }

    #[inline]
    fn data_start(&self) -> *const u8 {
        let header = self.header();
        header.buffer.as_ptr().wrapping_add(usize::from(header.data_offset))
    }
}
