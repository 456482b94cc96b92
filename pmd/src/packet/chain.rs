//! Packets of several segments.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use thiserror::Error;

use super::Mbuf;
use super::header::Header;
use super::mbuf::{data_of, writable};

/// Two packets could not be made one; the second comes back.
#[derive(Debug, Error)]
#[error(
    "a packet of {segments} segments and {bytes} bytes is more than one packet can be (65535 segments, 4 GiB)"
)]
pub struct ChainError {
    /// The packet that was to be the tail.
    pub tail: Mbuf,
    /// Segments that the whole would have.
    pub segments: usize,
    /// Bytes that the whole would have.
    pub bytes: usize,
}

impl Mbuf {
    /// The bytes of each segment, in order.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.0), packet: core::marker::PhantomData }
    }

    /// Makes `tail` the end of this packet.
    ///
    /// # Errors
    /// [`ChainError`] gives `tail` back when the whole would have over 65,535 segments or 4 GiB.
    pub fn chain(&mut self, tail: Self) -> Result<(), ChainError> {
        let segments = self.segment_count() + tail.segment_count();
        let bytes = self.len() + tail.len();
        if segments > usize::from(u16::MAX) || bytes > u32::MAX as usize {
            return Err(ChainError { tail, segments, bytes });
        }
        let last = self.last_segment();
        let tail = ManuallyDrop::new(tail);
        // SAFETY: `last` is a segment of this packet and `tail` was owned by the caller; the chain owns both
        // from here, since `tail`'s handle is not dropped.
        unsafe {
            (*last.as_ptr()).next = Some(tail.0);
            let first = self.0.as_ptr();
            (*first).segments = segments as u16;
            (*first).packet_len = bytes as u32;
        }
        Ok(())
    }

    /// Moves all bytes into the first segment and frees the others; false, and no change, when they do not
    /// fit behind its data or it is not writable.
    pub fn linearise(&mut self) -> bool {
        if self.is_contiguous() {
            return true;
        }
        if !self.is_writable() {
            return false;
        }
        let (offset, len, packet) = self.extent();
        let room = usize::from(self.header().buffer_len) - usize::from(offset) - usize::from(len);
        if packet as usize - usize::from(len) > room {
            return false;
        }
        let Some(rest) = self.split_rest() else { return true };
        for segment in rest.segments() {
            // Cannot fail: the room for all of them was counted above.
            let fitted = self.append_slice(segment);
            debug_assert!(fitted, "the tailroom was counted before");
        }
        true
    }

    /// Cuts the chain after the first segment and returns the rest as a packet of its own.
    fn split_rest(&mut self) -> Option<Self> {
        let (_, len, packet) = self.extent();
        let segments = self.header().segments;
        // SAFETY: the first segment is owned by this handle.
        let next = unsafe { (*self.0.as_ptr()).next.take() }?;
        // SAFETY: `next` was owned by the chain and is owned by the returned handle alone from here. Its
        // packet-wide fields are brought up to date before anybody reads them.
        unsafe {
            (*self.0.as_ptr()).segments = 1;
            (*self.0.as_ptr()).packet_len = u32::from(len);
            (*next.as_ptr()).segments = segments - 1;
            (*next.as_ptr()).packet_len = packet - u32::from(len);
        }
        Some(Self(next))
    }

    /// `len` bytes from `offset` on: a slice of the packet where they lie in one segment, else a copy in
    /// `scratch` (DPDK's `rte_pktmbuf_read`). None when the packet is shorter, or when a copy is needed and
    /// `scratch` is shorter than `len`.
    #[must_use]
    pub fn read<'a>(&'a self, offset: usize, len: usize, scratch: &'a mut [u8]) -> Option<&'a [u8]> {
        let end = offset.checked_add(len)?;
        if end > self.len() {
            return None;
        }
        if let Some(bytes) = self.data().get(offset..end) {
            return Some(bytes);
        }
        let scratch = scratch.get_mut(..len)?;
        let mut skip = offset;
        let mut filled = 0;
        for segment in self.segments() {
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let take = (segment.len() - skip).min(len - filled);
            scratch[filled..filled + take].copy_from_slice(&segment[skip..skip + take]);
            filled += take;
            skip = 0;
            if filled == len {
                break;
            }
        }
        Some(scratch)
    }

    /// Writes `bytes` over those from `offset` on, in as many segments as they lie in; the counterpart of
    /// [`read`](Self::read). False, and no change, when the packet is shorter or a segment there is not writable.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len()).filter(|end| *end <= self.len()) else {
            return false;
        };
        if let Some(place) = self.data_mut().and_then(|data| data.get_mut(offset..end)) {
            place.copy_from_slice(bytes);
            return true;
        }
        // Asked of all segments before the first is written.
        self.is_writable_at(offset, bytes.len())
            && self.each_part(offset, end, |part, from| {
                let Some(part) = part else { return false };
                let Some(bytes) = bytes.get(from..from + part.len()) else { return false };
                part.copy_from_slice(bytes);
                true
            })
    }

    /// Whether the packet has `len` bytes from `offset` on, and all segments that they lie in are writable.
    pub(crate) fn is_writable_at(&mut self, offset: usize, len: usize) -> bool {
        offset
            .checked_add(len)
            .is_some_and(|end| end <= self.len() && self.each_part(offset, end, |part, _| part.is_some()))
    }

    /// Calls `action` with the bytes between `offset` and `end` of each segment that has some, none where they are
    /// not writable, and with how many came before; stops and is false when it says false.
    fn each_part(
        &mut self,
        offset: usize,
        end: usize,
        mut action: impl FnMut(Option<&mut [u8]>, usize) -> bool,
    ) -> bool {
        let (mut at, mut next) = (0, Some(self.0));
        while let Some(segment) = next.filter(|_| at < end) {
            // SAFETY: a live segment of this packet.
            let header = unsafe { segment.as_ref() };
            let len = usize::from(header.data_len);
            let (from, to) = (offset.max(at), end.min(at + len));
            if from < to {
                let part = writable(header).then(|| {
                    let start = usize::from(header.data_offset) + (from - at);
                    // SAFETY: `from - at .. to - at` lies within the segment's data, which lies in its buffer; the
                    // buffer is its own and nobody else reads it (it is writable), and `&mut self` is the only
                    // handle to it.
                    unsafe { core::slice::from_raw_parts_mut(header.buffer.as_ptr().add(start), to - from) }
                });
                if !action(part, from - offset) {
                    return false;
                }
            }
            at += len;
            next = header.next;
        }
        true
    }
}

/// The segments of a packet; see [`Mbuf::segments`].
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    next: Option<NonNull<Header>>,
    packet: core::marker::PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next.take()?;
        // SAFETY: a live segment of the packet that 'a borrows.
        let header: &'a Header = unsafe { segment.as_ref() };
        self.next = header.next;
        Some(data_of(header))
    }
}
