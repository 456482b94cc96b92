//! The packet buffer as an owned, 8-byte handle.

use core::fmt;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU16, Ordering};

use thiserror::Error;

use super::header::{ATTACHED, Attachment, BUFFER_OFFSET, DYNAMIC_LEN, Extension, Header, NO_DEVICE_ADDRESS};
use super::metadata::Found;
use super::share::{detach, release};
use super::{HEADROOM, TxLengths};

/// A packet: one segment of memory, or a chain of them, owned by whoever holds the handle.
///
/// Dropping the handle puts every segment back into the pool that it came from, whichever thread that
/// happens on. There is no other way to give an mbuf back, so it cannot be given back twice or used after.
///
/// [`clone_shared`](Self::clone_shared) makes a second packet that reads the same bytes; while both live,
/// neither can write them.
#[repr(transparent)]
pub struct Mbuf(pub(super) NonNull<Header>);

// SAFETY: an mbuf is the only handle to its header; what clones share of it (`references`, the bytes of the
// buffer) is reached by atomic operations, or read only while `references` says that it is shared.
unsafe impl Send for Mbuf {}
// SAFETY: a shared reference only reads the header and the bytes, and changes `references` atomically.
unsafe impl Sync for Mbuf {}

/// A packet has fewer bytes than were to be taken off it.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{asked} bytes asked of a packet segment that has {found}")]
pub struct TooShort {
    /// Bytes that were to be taken off.
    pub asked: usize,
    /// Bytes there are.
    pub found: usize,
}

impl Mbuf {
    /// The port number of a packet that no port has received.
    pub const NO_PORT: u16 = u16::MAX;

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: the handle owns a live object whose first cache line is an initialised `Header`. Nobody
        // else writes its plain fields; clones touch `references` only, which is atomic.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(super) fn header_mut(&mut self) -> HeaderMut<'_> {
        HeaderMut { header: self.0, owner: core::marker::PhantomData }
    }

    pub(super) fn extension(&self) -> &Extension {
        // SAFETY: the extension follows the header in the same object, was initialised with the pool, and is
        // written only through `&mut self` of the one handle.
        unsafe { self.0.add(1).cast::<Extension>().as_ref() }
    }

    pub(super) fn extension_mut(&mut self) -> &mut Extension {
        // SAFETY: as in `extension`; `&mut self` makes this the only access.
        unsafe { self.0.add(1).cast::<Extension>().as_mut() }
    }

    /// Takes over an object that was just taken out of its pool, and makes an empty packet of it.
    ///
    /// # Safety
    /// `object` is an in-use object of a pool that [`initialise`](Self::initialise) prepared, and nobody else
    /// has it.
    #[inline]
    pub(super) unsafe fn from_home(object: NonNull<u8>) -> Self {
        // SAFETY: by the contract the object starts with an initialised header.
        let mut mbuf = Self(object.cast());
        mbuf.reset();
        mbuf
    }

    /// Makes the packet as empty as a fresh one, for a header that holds the at-home invariants.
    #[inline]
    pub(super) fn reset(&mut self) {
        let mut header = self.header_mut();
        header.set_data(HEADROOM as u16, 0, 0);
        header.set_flags(0);
        header.set_port(Self::NO_PORT);
    }

    /// Writes header and extension of an object that its pool has just made.
    ///
    /// # Safety
    /// `object` is valid for writes of `BUFFER_OFFSET + buffer_len` bytes, aligned to 64, and not yet used.
    pub(super) unsafe fn initialise(
        object: NonNull<u8>,
        pool: wirerate_mempool::RawHandle,
        buffer_len: u16,
        device: Option<u64>,
    ) {
        // SAFETY: inside the object by the contract.
        let buffer = unsafe { object.add(BUFFER_OFFSET) };
        let device = device.map_or(NO_DEVICE_ADDRESS, |address| address + BUFFER_OFFSET as u64);
        let header = Header {
            buffer,
            device,
            pool,
            next: None,
            data_offset: HEADROOM as u16,
            data_len: 0,
            packet_len: 0,
            references: AtomicU16::new(1),
            segments: 1,
            port: Self::NO_PORT,
            buffer_len,
            flags: 0,
            hash: 0,
            vlan_tci: 0,
            lengths: TxLengths::default(),
        };
        let extension = Extension {
            attachment: Attachment::None,
            timestamp: 0,
            home_device: device,
            home_len: buffer_len,
            dynamic: [0; DYNAMIC_LEN],
        };
        // SAFETY: both places are inside the object and aligned to 64 by the contract.
        unsafe {
            object.cast::<Header>().write(header);
            object.add(size_of::<Header>()).cast::<Extension>().write(extension);
        }
    }

    /// Bytes in the whole packet.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.header().packet_len as usize
    }

    /// Whether the packet has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Segments that the packet is made of, at least 1.
    #[inline]
    #[must_use]
    pub fn segment_count(&self) -> usize {
        usize::from(self.header().segments)
    }

    /// Whether all bytes are in one segment, so that [`data`](Self::data) is the whole packet.
    #[inline]
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.header().segments == 1
    }

    /// The bytes of the first segment.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        data_of(self.header())
    }

    /// The bytes of the first segment, to write; none while a clone shares them or when they are an external
    /// buffer's.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> Option<&mut [u8]> {
        if !self.is_writable() {
            return None;
        }
        let header = self.header();
        // SAFETY: data_offset + data_len <= buffer_len is kept by every method that changes them; the buffer
        // is this mbuf's own, `references` says that no clone reads it, and `&mut self` is the only handle
        // that could make one.
        Some(unsafe {
            slice::from_raw_parts_mut(
                header.buffer.as_ptr().add(usize::from(header.data_offset)),
                usize::from(header.data_len),
            )
        })
    }

    /// Whether the first segment's bytes may be written: they are its own, and no clone reads them.
    #[inline]
    #[must_use]
    pub fn is_writable(&self) -> bool {
        writable(self.header())
    }

    /// Bytes free in front of the first segment's data; 0 when it is not writable.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        if self.is_writable() { usize::from(self.header().data_offset) } else { 0 }
    }

    /// Bytes free behind the last segment's data; 0 when that segment is not writable.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        let last = self.last_segment();
        // SAFETY: segments of a chain are live objects owned by this packet.
        let header = unsafe { last.as_ref() };
        if !writable(header) {
            return 0;
        }
        usize::from(header.buffer_len) - usize::from(header.data_offset) - usize::from(header.data_len)
    }

    /// The address by which a device reaches the first byte of data, when the pool's memory is mapped for
    /// devices.
    #[inline]
    #[must_use]
    pub fn device_address(&self) -> Option<u64> {
        let header = self.header();
        (header.device != NO_DEVICE_ADDRESS).then(|| header.device + u64::from(header.data_offset))
    }

    /// Adds `count` bytes in front and returns them, or none when the headroom is smaller. What is in them
    /// is whatever the buffer held before.
    #[inline]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.headroom() {
            return None;
        }
        // `count` is at most `data_offset`, so it fits 16 bits, and so does the sum: both end inside the buffer.
        let (offset, len, packet) = self.extent();
        let grown = packet.checked_add(count as u32)?;
        self.header_mut().set_data(offset - count as u16, len + count as u16, grown);
        self.data_mut()?.get_mut(..count)
    }

    /// Adds `count` bytes at the end of the last segment and returns them, or none when the tailroom is
    /// smaller. What is in them is whatever the buffer held before.
    #[inline]
    pub fn append(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.tailroom() {
            return None;
        }
        let (offset, len, packet) = self.extent();
        let grown = packet.checked_add(count as u32)?;
        let last = self.last_segment();
        let (buffer, start) = if last == self.0 {
            self.header_mut().set_data(offset, len + count as u16, grown);
            (self.header().buffer, usize::from(offset) + usize::from(len))
        } else {
            self.header_mut().set_data(offset, len, grown);
            // SAFETY: the last segment is a live object that only this packet owns; `tailroom` found room for
            // `count` more bytes in it, so the sum stays within `buffer_len`.
            unsafe {
                let header = last.as_ptr();
                let start = usize::from((*header).data_offset) + usize::from((*header).data_len);
                (*header).data_len += count as u16;
                ((*header).buffer, start)
            }
        };
        // SAFETY: `tailroom` was at least `count`, so start + count <= buffer_len; the segment is writable,
        // because its tailroom would be 0 otherwise.
        Some(unsafe { slice::from_raw_parts_mut(buffer.as_ptr().add(start), count) })
    }

    /// Adds `bytes` at the end of the last segment; false, and no change, when they do not fit.
    #[inline]
    pub fn append_slice(&mut self, bytes: &[u8]) -> bool {
        match self.append(bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    /// Makes a packet of one segment `len` bytes long; false, and no change, when it has more segments, is not
    /// writable or has less room. Bytes that come in are whatever the buffer held before: drivers call this
    /// when a device has written them.
    #[inline]
    pub fn resize(&mut self, len: usize) -> bool {
        let header = self.header();
        let room = usize::from(header.buffer_len) - usize::from(header.data_offset);
        if header.segments != 1 || len > room || !self.is_writable() {
            return false;
        }
        let offset = header.data_offset;
        self.header_mut().set_data(offset, len as u16, len as u32);
        true
    }

    /// Takes `count` bytes off the front of the first segment (DPDK's `adj`).
    ///
    /// # Errors
    /// [`TooShort`] when the first segment has fewer bytes; nothing changes then.
    #[inline]
    pub fn trim_front(&mut self, count: usize) -> Result<(), TooShort> {
        let (offset, len, packet) = self.extent();
        if count > usize::from(len) {
            return Err(TooShort { asked: count, found: usize::from(len) });
        }
        self.header_mut().set_data(offset + count as u16, len - count as u16, packet - count as u32);
        Ok(())
    }

    /// Takes `count` bytes off the end of the last segment (DPDK's `trim`).
    ///
    /// # Errors
    /// [`TooShort`] when the last segment has fewer bytes; nothing changes then.
    pub fn trim(&mut self, count: usize) -> Result<(), TooShort> {
        let last = self.last_segment();
        // SAFETY: a live segment of this packet.
        let found = usize::from(unsafe { last.as_ref() }.data_len);
        if count > found {
            return Err(TooShort { asked: count, found });
        }
        // SAFETY: only this packet owns the segment; the new length is not negative.
        unsafe { (*last.as_ptr()).data_len -= count as u16 };
        // SAFETY: the first segment, owned by this handle; the packet has at least the bytes of its last one.
        unsafe { (*self.0.as_ptr()).packet_len -= count as u32 };
        Ok(())
    }

    #[inline]
    pub(super) fn extent(&self) -> (u16, u16, u32) {
        let header = self.header();
        (header.data_offset, header.data_len, header.packet_len)
    }

    #[inline]
    pub(super) fn last_segment(&self) -> NonNull<Header> {
        let mut last = self.0;
        // SAFETY: segments of a chain are live objects owned by this packet.
        while let Some(next) = unsafe { last.as_ref() }.next {
            last = next;
        }
        last
    }

    /// Whether the mbuf can go home as it is: one segment, its own buffer, no clone.
    #[inline]
    pub(super) fn is_simple(&self) -> bool {
        let header = self.header();
        header.next.is_none() && writable(header)
    }

    /// Whether the packet is of one segment and asks for no offload.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        let header = self.header();
        header.next.is_none() && header.flags & super::Offload::TX_ALL.bits() == 0
    }

    /// Where `count` bytes for a header begin, right in front of the data, if the packet is of one segment that nobody
    /// else reads, asks for no offload, and has that much headroom. Nobody reads those bytes, so they may be written.
    #[inline(always)]
    pub(crate) fn headed(&self, count: usize) -> Option<NonNull<u8>> {
        let header = self.header();
        let plain = header.flags & (ATTACHED | super::Offload::TX_ALL.bits()) == 0;
        let fits = plain
            && header.next.is_none()
            && header.references.load(Ordering::Acquire) == 1
            && usize::from(header.data_offset) >= count;
        // SAFETY: the headroom lies in the buffer, and is `data_offset` bytes long.
        fits.then(|| unsafe { header.buffer.add(usize::from(header.data_offset) - count) })
    }

    #[inline]
    pub(crate) fn pool_handle(&self) -> wirerate_mempool::RawHandle {
        self.header().pool
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        if self.is_simple() {
            let pool = self.pool_handle();
            // SAFETY: the object is in use, came from this pool, holds the at-home invariants (it is simple),
            // and this handle is gone after this.
            unsafe { pool.put(self.0.cast()) };
        } else {
            free_chain(self.0);
        }
    }
}

/// Frees a chain, or a segment that is attached or shared.
#[cold]
#[inline(never)]
fn free_chain(first: NonNull<Header>) {
    let mut next = Some(first);
    while let Some(segment) = next {
        // SAFETY: the caller owned the chain, so each segment is live and this is its only handle. `next` and
        // `segments` are brought to what they are at home before the segment can go there.
        unsafe {
            let header = segment.as_ptr();
            next = (*header).next.take();
            (*header).segments = 1;
        }
        detach(segment);
        release(segment);
    }
}

/// Whether a segment's buffer is its own and no clone reads it.
#[inline]
pub(super) fn writable(header: &Header) -> bool {
    // Acquire pairs with the release in a clone's drop: its reads are over before our writes.
    header.flags & ATTACHED == 0 && header.references.load(Ordering::Acquire) == 1
}

/// The bytes of one segment.
#[inline]
pub(super) fn data_of(header: &Header) -> &[u8] {
    // SAFETY: data_offset + data_len <= buffer_len is kept by every method that changes them. The buffer is
    // initialised memory (a pool's memory starts zeroed), and nobody writes it while `header` is borrowed: the
    // owner's handle is borrowed too, and with clones it is writable by none.
    unsafe {
        slice::from_raw_parts(
            header.buffer.as_ptr().add(usize::from(header.data_offset)),
            usize::from(header.data_len),
        )
    }
}

/// Writes to a header's plain fields without a `&mut Header`, which would claim `references` too.
pub(super) struct HeaderMut<'a> {
    header: NonNull<Header>,
    owner: core::marker::PhantomData<&'a mut Mbuf>,
}

const _: () = {
    let start = core::mem::offset_of!(Header, data_offset);
    assert!(start.is_multiple_of(8));
    assert!(core::mem::offset_of!(Header, data_len) == start + 2);
    assert!(core::mem::offset_of!(Header, packet_len) == start + 4);
    let start = core::mem::offset_of!(Header, flags);
    assert!(start.is_multiple_of(8) && core::mem::offset_of!(Header, hash) == start + 4);
};

impl HeaderMut<'_> {
    #[inline]
    pub(super) fn set_data(&mut self, offset: u16, len: u16, packet: u32) {
        let word = if cfg!(target_endian = "little") {
            u64::from(offset) | u64::from(len) << 16 | u64::from(packet) << 32
        } else {
            u64::from(offset) << 48 | u64::from(len) << 32 | u64::from(packet)
        };
        // SAFETY: the handle that this borrows owns the header; these fields are reached through it alone. They are eight
        // bytes that follow each other from a multiple of eight on (looked at below), and are written in one.
        unsafe { (&raw mut (*self.header.as_ptr()).data_offset).cast::<u64>().write(word) };
    }

    #[inline]
    pub(super) fn set_flags(&mut self, flags: u32) {
        // SAFETY: as in `set_data`.
        unsafe { (*self.header.as_ptr()).flags = flags };
    }

    #[inline(always)]
    pub(super) fn set_found(&mut self, found: Found) {
        let Found { flags, hash, tag } = found;
        let word = if cfg!(target_endian = "little") {
            u64::from(flags) | u64::from(hash) << 32
        } else {
            u64::from(flags) << 32 | u64::from(hash)
        };
        // SAFETY: as in `set_data`.
        unsafe {
            let header = self.header.as_ptr();
            (&raw mut (*header).flags).cast::<u64>().write(word);
            (*header).vlan_tci = tag;
        }
    }

    #[inline]
    pub(super) fn set_port(&mut self, port: u16) {
        // SAFETY: as in `set_data`.
        unsafe { (*self.header.as_ptr()).port = port };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.segment_count())
            .field("port", &self.port())
            .field("offload", &self.offload())
            .finish_non_exhaustive()
    }
}
