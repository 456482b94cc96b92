//! Buffers that a device has: not packets yet, or not packets any more.
//!
//! An [`Mbuf`] is the application's, who may read and write it. What a driver has posted for a device to fill is a
//! [`Blank`]: it has an address and no bytes, until the device has written them and [`Blank::filled`] makes a packet of
//! it. What a driver has handed to a device to send is [`Parked`]: it can only go home.

use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

use arrayvec::ArrayVec;
use wirerate_mempool::RawHandle;

use super::header::{BUFFER_OFFSET, Header};
use super::{MAX_BURST, Mbuf, MbufPool};

/// An mbuf out of its pool that is no packet yet. Goes home when it is dropped.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Blank(NonNull<Header>);

// SAFETY: as for `Mbuf`: it is the only handle to its object.
unsafe impl Send for Blank {}
// SAFETY: a shared reference gives the address and no access.
unsafe impl Sync for Blank {}

/// Blanks that travel together.
pub(crate) type Blanks = ArrayVec<Blank, MAX_BURST>;

impl Blank {
    /// Where its buffer begins, headroom included. What is there may be read and written as long as the blank is.
    #[inline(always)]
    pub(crate) fn buffer(&self) -> NonNull<u8> {
        // SAFETY: the buffer follows header and extension in the same object.
        unsafe { self.0.cast::<u8>().add(BUFFER_OFFSET) }
    }

    /// Asks the processor for the header's cache line, ahead of [`filled`](Self::filled).
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        crate::virtqueue::layout::prefetch(self.0.as_ptr().cast());
    }

    /// A packet of the `len` bytes from `offset` on, which somebody has written.
    ///
    /// # Safety
    /// Both together are at most the length of the buffer.
    #[inline(always)]
    pub(crate) unsafe fn filled(self, offset: u16, len: u32) -> Mbuf {
        let mut packet = Mbuf(ManuallyDrop::new(self).0);
        debug_assert!(u32::from(offset) + len <= u32::from(packet.header().buffer_len));
        let mut header = packet.header_mut();
        header.set_data(offset, len as u16, len);
        header.set_flags(0);
        packet
    }

    /// A packet of the `len` bytes from `offset` on, which somebody has written; of as many as fit, if those are fewer.
    #[inline]
    pub(crate) fn filled_within(self, offset: usize, len: u32) -> Mbuf {
        let mut packet = Mbuf(ManuallyDrop::new(self).0);
        let whole = packet.header().buffer_len;
        let offset = offset.min(usize::from(whole)) as u16;
        let len = len.min(u32::from(whole - offset));
        let mut header = packet.header_mut();
        header.set_data(offset, len as u16, len);
        header.set_flags(0);
        packet
    }
}

impl Drop for Blank {
    fn drop(&mut self) {
        // At home, and out of it as a blank, it is simple: see `Header`.
        drop(Mbuf(self.0));
    }
}

impl MbufPool {
    /// Adds `count` blanks to `blanks`: all of them, or none and false when the pool has fewer or `blanks` no room.
    #[inline]
    pub(crate) fn blanks(&self, blanks: &mut Blanks, count: usize) -> bool {
        let here = blanks.len();
        if count > MAX_BURST - here {
            return false;
        }
        // SAFETY: there is room for `count` more; a blank is a transparent pointer to an object of the pool, and the
        // pool writes all of them before it returns Ok. On error the length stays.
        unsafe {
            let free = blanks.as_mut_ptr().add(here).cast::<MaybeUninit<NonNull<u8>>>();
            if self.raw().get_bulk(core::slice::from_raw_parts_mut(free, count)).is_err() {
                return false;
            }
            blanks.set_len(here + count);
        }
        true
    }
}

/// A packet that was handed to a device, and goes home when the device is done with it.
///
/// It notes whether the packet was simple, of one segment that nobody else reads: since nobody has it meanwhile, it is so
/// still when the device gives it back, and its header need not be looked at again.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Parked(NonNull<u8>);

// SAFETY: as for `Mbuf`.
unsafe impl Send for Parked {}
// SAFETY: a shared reference gives no access.
unsafe impl Sync for Parked {}

/// In a parked packet's address, which is a multiple of 64: it is not simple, or not of the queue's pool.
const ODD: usize = 1;
/// No packet: a mark without an address.
const NOTHING: NonNull<u8> = NonNull::without_provenance(core::num::NonZero::<usize>::MIN);
const _: () = assert!(core::num::NonZero::<usize>::MIN.get() == ODD);

/// Puts packets home one by one.
///
/// # Safety
/// None is used afterwards.
#[cold]
unsafe fn drop_run(run: &mut [ManuallyDrop<Parked>]) {
    for packet in run {
        // SAFETY: the caller does not use it again.
        unsafe { ManuallyDrop::drop(packet) };
    }
}

impl Parked {
    /// Parks a packet, in a queue whose simple packets are all of `home`.
    #[inline(always)]
    pub(crate) fn new(packet: Mbuf, home: RawHandle) -> Self {
        let plain = packet.is_simple() && packet.pool_handle() == home;
        let object = ManuallyDrop::new(packet).0.cast::<u8>();
        // The result is not null: the address of an object is not, and the mark is added.
        Self(object.map_addr(|address| address | if plain { 0 } else { ODD }))
    }

    /// None, where there could be one.
    #[inline(always)]
    pub(crate) const fn nothing() -> Self {
        Self(NOTHING)
    }

    /// The packet, if there is one.
    fn into_packet(self) -> Option<Mbuf> {
        let object = ManuallyDrop::new(self).0;
        let address = core::num::NonZero::new(object.addr().get() & !ODD)?;
        Some(Mbuf(object.with_addr(address).cast()))
    }

    /// Puts packets home that were parked in a queue with this `home`.
    ///
    /// # Safety
    /// Each was made by [`new`](Self::new) with the same `home`.
    #[inline]
    pub(crate) unsafe fn free(parked: &mut ArrayVec<Self, MAX_BURST>, home: RawHandle) {
        let count = parked.len();
        // SAFETY: the places up to the length have packets, and the length is 0 before they go, so they go once; what is asked
        // of them, the caller says.
        unsafe {
            parked.set_len(0);
            let first = parked.as_mut_ptr().cast::<ManuallyDrop<Self>>();
            Self::free_run(core::slice::from_raw_parts_mut(first, count), home);
        }
    }

    /// Puts all of a run home, as [`free`](Self::free) does.
    ///
    /// # Safety
    /// Each was made by [`new`](Self::new) with the same `home`, or is nothing. None is used afterwards.
    #[inline(always)]
    pub(crate) unsafe fn free_run(run: &mut [ManuallyDrop<Self>], home: RawHandle) {
        let marks = run.iter().fold(0, |marks, packet| marks | packet.0.addr().get());
        if marks & ODD != 0 {
            // SAFETY: the caller gives them up.
            unsafe { drop_run(run) };
            return;
        }
        // SAFETY: what is parked, and has no mark, is the address of an object in use, of `home`, with all that holds at home;
        // the caller gives them up. Both types are transparent.
        unsafe {
            let objects = core::ptr::from_ref::<[ManuallyDrop<Self>]>(run) as *const [NonNull<u8>];
            home.put_bulk(&*objects);
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        drop(Self(self.0).into_packet());
    }
}
