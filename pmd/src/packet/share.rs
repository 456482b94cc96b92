//! Packets that read bytes which are not theirs: another packet's, or memory from outside any pool.
//!
//! An attached mbuf has its buffer pointer at the shared bytes and says in its extension whose they are. The
//! header of the mbuf that owns them counts its readers; the last one to let go puts it home.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};
use std::sync::Arc;

use super::header::{ATTACHED, Attachment, BUFFER_OFFSET, Extension, Header, NO_DEVICE_ADDRESS};
use super::{Mbuf, MbufPool, Offload};

impl Mbuf {
    /// A second packet over the same bytes, made of one fresh mbuf of `pool` a segment. While both live,
    /// the bytes can be read through either and written through neither. None when the pool has not enough
    /// mbufs, or when 65,535 packets share the bytes already.
    #[must_use]
    pub fn clone_shared(&self, pool: &MbufPool) -> Option<Self> {
        let mut clone: Option<Self> = None;
        let mut next = Some(self.0);
        while let Some(source) = next {
            // SAFETY: a live segment of this packet.
            let header = unsafe { source.as_ref() };
            let mut segment = pool.alloc()?;
            segment.attach_to(source)?;
            match &mut clone {
                None => {
                    segment.copy_metadata(self);
                    clone = Some(segment);
                }
                // The clone has as many segments and bytes as the source, so the chain takes it.
                Some(first) => first.chain(segment).ok()?,
            }
            next = header.next;
        }
        clone
    }

    /// Makes this fresh mbuf read the bytes of segment `source`; none when the owner has 65,535 readers.
    fn attach_to(&mut self, source: NonNull<Header>) -> Option<()> {
        // SAFETY: `source` is a live segment of a packet that the caller borrows.
        let from = unsafe { source.as_ref() };
        let attachment = if from.flags & ATTACHED == 0 {
            retain(source)?;
            Attachment::Clone(source)
        } else {
            // SAFETY: the extension of a live, initialised object; the caller's borrow keeps it unchanged.
            match unsafe { &source.add(1).cast::<Extension>().as_ref().attachment } {
                Attachment::Clone(owner) => {
                    retain(*owner)?;
                    Attachment::Clone(*owner)
                }
                Attachment::External(memory) => Attachment::External(Arc::clone(memory)),
                Attachment::None => return None,
            }
        };
        self.extension_mut().attachment = attachment;
        // SAFETY: this handle owns its header. The buffer stays valid as long as the attachment is held.
        unsafe {
            let header = self.0.as_ptr();
            (*header).buffer = from.buffer;
            (*header).device = from.device;
            (*header).buffer_len = from.buffer_len;
            (*header).flags |= ATTACHED;
        }
        self.header_mut().set_data(from.data_offset, from.data_len, u32::from(from.data_len));
        Some(())
    }

    /// A packet that reads memory from outside any pool, and keeps it alive. It can be read, sent and cloned,
    /// not written. None when the pool is empty or the memory is over 65,535 bytes.
    #[must_use]
    pub fn from_external<M>(pool: &MbufPool, memory: Arc<M>) -> Option<Self>
    where
        M: AsRef<[u8]> + Send + Sync + 'static,
    {
        // Asked once: an `as_ref` that answers differently each time must not move the bytes under a reader.
        let bytes: &[u8] = (*memory).as_ref();
        let len = u16::try_from(bytes.len()).ok()?;
        let start = NonNull::from(bytes).cast::<u8>();
        let mut mbuf = pool.alloc()?;
        mbuf.extension_mut().attachment = Attachment::External(memory);
        // SAFETY: this handle owns its header. The bytes live as long as the `Arc` in the attachment, and no
        // `&mut` to them can exist while it does; they are only read, because ATTACHED forbids writing.
        unsafe {
            let header = mbuf.0.as_ptr();
            (*header).buffer = start;
            (*header).device = NO_DEVICE_ADDRESS;
            (*header).buffer_len = len;
            (*header).flags |= ATTACHED;
        }
        mbuf.header_mut().set_data(0, len, u32::from(len));
        Some(mbuf)
    }

    /// A packet of its own with the same bytes and metadata, in one segment or in as many as `pool`'s
    /// buffers need. None when the pool has not enough mbufs.
    #[must_use]
    pub fn copy(&self, pool: &MbufPool) -> Option<Self> {
        self.copy_into(|| pool.alloc())
    }

    /// As [`copy`](Self::copy), into mbufs of `alloc`.
    pub(crate) fn copy_into(&self, mut alloc: impl FnMut() -> Option<Self>) -> Option<Self> {
        let mut copy = alloc()?;
        for segment in self.segments() {
            copy.extend_by(segment, &mut alloc)?;
        }
        copy.copy_metadata(self);
        Some(copy)
    }

    /// Takes over port, flags, hash, VLAN, lengths and, where it is set, the time stamp.
    pub(crate) fn copy_metadata(&mut self, from: &Self) {
        let source = from.header();
        let flags = Offload::from_bits_truncate(source.flags);
        if flags.contains(Offload::TIMESTAMP) {
            self.extension_mut().timestamp = from.extension().timestamp;
        }
        // SAFETY: this handle owns its header.
        unsafe {
            let header = self.0.as_ptr();
            (*header).port = source.port;
            (*header).flags = ((*header).flags & ATTACHED) | flags.bits();
            (*header).hash = source.hash;
            (*header).vlan_tci = source.vlan_tci;
            (*header).lengths = source.lengths;
        }
    }
}

/// Gives a segment its own buffer back, if it reads another's, and lets go of that one.
pub(super) fn detach(segment: NonNull<Header>) {
    // SAFETY: the caller holds the only handle to this live segment.
    if unsafe { (*segment.as_ptr()).flags } & ATTACHED == 0 {
        return;
    }
    // SAFETY: as above; the extension is initialised, and `BUFFER_OFFSET` is where the own buffer starts.
    let attachment = unsafe {
        let extension = segment.add(1).cast::<Extension>().as_mut();
        let header = segment.as_ptr();
        (*header).flags &= !ATTACHED;
        (*header).buffer = segment.cast::<u8>().add(BUFFER_OFFSET);
        (*header).device = extension.home_device;
        (*header).buffer_len = extension.home_len;
        core::mem::replace(&mut extension.attachment, Attachment::None)
    };
    if let Attachment::Clone(owner) = attachment {
        release(owner);
    }
}

/// The reference counter of an mbuf that is not home. Its owner may be writing the other fields on another
/// thread, so no reference to the whole header is made.
fn references<'a>(header: NonNull<Header>) -> &'a AtomicU16 {
    // SAFETY: the callers hold one of the references, or borrow somebody who does, while they use the result;
    // so the object is live. The counter is only ever reached atomically.
    unsafe { &(*header.as_ptr()).references }
}

/// Adds a reader; none when there are as many as the counter holds.
fn retain(header: NonNull<Header>) -> Option<()> {
    references(header)
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |readers| readers.checked_add(1))
        .ok()
        .map(|_| ())
}

/// Takes one reference off a segment whose other fields are as at home, and puts it home with the last.
pub(super) fn release(segment: NonNull<Header>) {
    let references = references(segment);
    if references.fetch_sub(1, Ordering::Release) != 1 {
        return;
    }
    // Pairs with the release above in the other holders: their reads come before whatever is done with the
    // object from here on.
    fence(Ordering::Acquire);
    references.store(1, Ordering::Relaxed);
    // SAFETY: that was the last reference, so nobody else reaches the object; `next`, `segments` and the
    // buffer are as at home, because the owner's handle restored them before it let go of its reference.
    unsafe {
        let pool = (*segment.as_ptr()).pool;
        pool.put(segment.cast());
    }
}
