//! The rings that driver and kernel share: their measures, their mapping, and who owns a slot when.
//!
//! A ring is blocks of whole slots; a slot starts with a `tpacket2_hdr`, whose status word says whose it is.
//! The side that owns a slot may touch all of it, and gives it away by storing the status with release order;
//! the other side takes it by loading the status with acquire order. Here an owned slot is a value ([`Filled`],
//! [`Vacant`]), so its bytes cannot be reached before the status was looked at, nor after it was given away.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use libc::{sockaddr_ll, tpacket_req, tpacket2_hdr};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(libc::TPACKET_ALIGNMENT)
}

/// Bytes from the start of a slot to the sender's address, which the kernel puts behind the header.
const ADDRESS: usize = aligned(size_of::<tpacket2_hdr>());

/// Bytes that a received Ethernet frame leaves unused at the start of its slot: header and address, with the
/// network header aligned to 16 behind at least as many for the link header (`tpacket_rcv` in the kernel).
pub(super) const RX_OVERHEAD: usize = aligned(ADDRESS + size_of::<sockaddr_ll>() + 16) - 14;

/// Bytes from the start of a slot to the frame to send.
pub(super) const TX_OVERHEAD: usize = ADDRESS;

/// The smallest slot, in bytes: room for what the kernel writes in front, and for the smallest frame.
pub(super) const MIN_SLOT: usize = 128;

/// The measures of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes in a block: a multiple of the page size.
    pub block_size: u32,
    /// Blocks in the ring.
    pub blocks: u32,
    /// Bytes in a slot: a multiple of 16, from [`MIN_SLOT`] to `block_size`.
    pub slot_size: u32,
}

impl Geometry {
    pub(super) const fn slots_per_block(&self) -> u32 {
        self.block_size / self.slot_size
    }

    pub(super) const fn slots(&self) -> u32 {
        self.slots_per_block() * self.blocks
    }

    /// Bytes of memory.
    pub(super) const fn len(&self) -> usize {
        self.block_size as usize * self.blocks as usize
    }

    /// As the kernel wants it told.
    pub(super) const fn request(&self) -> tpacket_req {
        tpacket_req {
            tp_block_size: self.block_size,
            tp_block_nr: self.blocks,
            tp_frame_size: self.slot_size,
            tp_frame_nr: self.slots(),
        }
    }

    /// Where slot `index` starts, from the start of the ring.
    const fn offset(&self, index: u32) -> usize {
        let (block, within) = (index / self.slots_per_block(), index % self.slots_per_block());
        block as usize * self.block_size as usize + within as usize * self.slot_size as usize
    }
}

/// The memory of a socket's rings: the receive ring, and the transmit ring behind it.
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is memory of the process, valid in every thread until it is dropped. Access to its bytes is
// through `Slots` alone, each of which has a part for itself.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared `Mapping` offers no access at all.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the rings of a packet socket, `len` bytes altogether.
    pub(super) fn of_socket(socket: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: no address is asked for, so nothing that is mapped is replaced.
        let base = unsafe {
            mmap(core::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, socket, 0)?
        };
        Self::over(base.cast(), len)
    }

    fn over(base: *mut u8, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base).ok_or_else(|| io::Error::other("the kernel mapped at address 0"))?;
        Ok(Self { base, len })
    }

    /// Cuts the memory into rings of these measures, one behind the other. None when it is too small.
    pub(super) fn split(self, rings: &[Geometry]) -> Option<Vec<Slots>> {
        let mapping = Arc::new(self);
        let mut start = 0;
        let mut all = Vec::new();
        for ring in rings {
            let end = start + ring.len();
            if end > mapping.len {
                return None;
            }
            // SAFETY: start <= end <= len.
            let base = unsafe { mapping.base.add(start) };
            all.push(Slots {
                base,
                offsets: (0..ring.slots()).map(|index| ring.offset(index)).collect(),
                size: ring.slot_size as usize,
                _mapping: Arc::clone(&mapping),
            });
            start = end;
        }
        Some(all)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `of_socket` made; every `Slots` over it holds it, so none is left.
        // That it fails cannot be, and would leave it mapped.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len)
    }
}

/// The slots of one ring.
pub(super) struct Slots {
    base: NonNull<u8>,
    /// Where each slot starts: `offset + size` is within the ring's part of the mapping, by `Geometry`.
    offsets: Box<[usize]>,
    size: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: a `Slots` is the only one over its part of the mapping (`Mapping::split` consumes the mapping and
// makes each part once), and it keeps the mapping alive, whichever thread has it.
unsafe impl Send for Slots {}

/// Whose a transmit slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TxState {
    /// Ours, to fill.
    Vacant,
    /// Filled, and not yet looked at by the kernel, which looks only while it is asked to send.
    Queued,
    /// The kernel's, until the frame has left.
    Sending,
    /// Refused by the kernel, which goes no further until it is queued anew.
    Refused,
}

impl Slots {
    /// How many there are, at least 1.
    pub(super) fn count(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes in a slot.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// The slot after slot `index`, going round.
    pub(super) fn after(&self, index: usize, steps: usize) -> usize {
        let sum = index + steps;
        if sum < self.count() { sum } else { (sum - self.count()) % self.count() }
    }

    /// Where slot `index` starts. An index that cannot be is taken for 0.
    fn slot(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.offsets.len());
        let offset = self.offsets.get(index).copied().unwrap_or(0);
        // SAFETY: offset + size is within the ring's part of the mapping.
        unsafe { self.base.add(offset) }
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        let header = self.slot(index).cast::<tpacket2_hdr>();
        // SAFETY: a slot holds a header at its start, aligned to 16 because block and slot sizes are multiples
        // of that. `tp_status` is reached by atomic operations alone while the kernel may write it.
        unsafe { AtomicU32::from_ptr(&raw mut (*header.as_ptr()).tp_status) }
    }

    /// How many of the slots from `index` on, at most `most`, hold received frames one after the other.
    #[inline]
    pub(super) fn ready(&self, index: usize, most: usize) -> usize {
        let most = most.min(self.count());
        let mut at = index;
        for ready in 0..most {
            if self.status(at).load(Ordering::Relaxed) & libc::TP_STATUS_USER == 0 {
                return ready;
            }
            at = self.after(at, 1);
        }
        most
    }

    /// The received frame in slot `index`, if there is one.
    #[inline]
    pub(super) fn filled(&mut self, index: usize) -> Option<Filled<'_>> {
        // Acquire pairs with the kernel's release: what it wrote before the status is seen.
        let status = self.status(index).load(Ordering::Acquire);
        let slot = Slot { start: self.slot(index), size: self.size, _ring: PhantomData };
        // Made only when there is one: one that is dropped gives the slot to the kernel, with what came meanwhile.
        (status & libc::TP_STATUS_USER != 0).then(|| Filled { slot })
    }

    /// Whose transmit slot `index` is.
    #[inline]
    pub(super) fn state(&self, index: usize) -> TxState {
        let status = self.status(index).load(Ordering::Acquire);
        if status & libc::TP_STATUS_WRONG_FORMAT != 0 {
            TxState::Refused
        } else if status & libc::TP_STATUS_SENDING != 0 {
            TxState::Sending
        } else if status & libc::TP_STATUS_SEND_REQUEST != 0 {
            TxState::Queued
        } else {
            // What else may be set says that the frame was stamped on its way out.
            TxState::Vacant
        }
    }

    /// Transmit slot `index`, if it may be filled.
    #[inline]
    pub(super) fn vacant(&mut self, index: usize) -> Option<Vacant<'_>> {
        let vacant = self.state(index) == TxState::Vacant;
        let slot = Slot { start: self.slot(index), size: self.size, _ring: PhantomData };
        vacant.then_some(Vacant { slot })
    }

    /// Takes a frame back that is queued or refused. Not to be called while the kernel is asked to send.
    pub(super) fn withdraw(&mut self, index: usize) {
        if matches!(self.state(index), TxState::Queued | TxState::Refused) {
            self.status(index).store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
        }
    }

    /// Puts the frame that is queued in slot `from` into slot `to` and queues it there. False, and no change,
    /// when either slot is being sent. Not to be called while the kernel is asked to send.
    pub(super) fn advance(&mut self, from: usize, to: usize) -> bool {
        if from == to || self.state(from) != TxState::Queued || self.state(to) == TxState::Sending {
            return false;
        }
        // SAFETY: two different slots of this ring, `size` bytes each, so they do not overlap. Neither is the
        // kernel's: it takes queued ones only while it is asked to send, and that is done through the value
        // that has these slots, which is borrowed for us alone.
        unsafe {
            core::ptr::copy_nonoverlapping(self.slot(from).as_ptr(), self.slot(to).as_ptr(), self.size);
        }
        self.status(to).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.withdraw(from);
        true
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slots({} of {} bytes)", self.count(), self.size)
    }
}

/// A slot that is ours, for as long as it borrows the ring.
struct Slot<'a> {
    start: NonNull<u8>,
    size: usize,
    _ring: PhantomData<&'a mut Slots>,
}

impl Slot<'_> {
    /// `len` bytes from `offset` on; none when they are not all behind the header and in the slot.
    #[inline]
    fn bytes(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        let end = offset.checked_add(len)?;
        if offset < ADDRESS || end > self.size {
            return None;
        }
        // SAFETY: the range was just checked to be inside the slot and behind the header, so no status word is
        // in it. The slot is ours: its status said so when this was made, and is stored only by what consumes
        // this. The bytes are initialised, since the kernel gives out zeroed memory.
        Some(unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), len) })
    }

    /// Gives the slot away.
    #[inline]
    fn give(&self, status: u32) {
        let header = self.start.cast::<tpacket2_hdr>();
        // SAFETY: as in `Slots::status`.
        let word = unsafe { AtomicU32::from_ptr(&raw mut (*header.as_ptr()).tp_status) };
        // Release: our reads and writes of the slot are over before the kernel sees that it has it.
        word.store(status, Ordering::Release);
    }
}

/// What the kernel says about a received frame. Nothing in it is checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Description {
    /// `TP_STATUS_*`.
    pub status: u32,
    /// Bytes in the frame.
    pub len: u32,
    /// Bytes of it in the slot.
    pub kept: u32,
    /// Where they start.
    pub offset: u16,
    /// The VLAN tag that the kernel took out.
    pub tci: u16,
    /// Its type.
    pub tpid: u16,
    /// `PACKET_*`: whom the frame is for.
    pub kind: u8,
}

/// A received frame's slot. Dropping it gives the slot back to the kernel.
pub(super) struct Filled<'a> {
    slot: Slot<'a>,
}

impl Filled<'_> {
    /// What the kernel says about the frame.
    #[inline]
    pub(super) fn description(&self) -> Description {
        // SAFETY: slot and header are as in `Slots::status`, the address follows at 32 (MIN_SLOT has room for
        // it), aligned to 16. The slot is ours, so the kernel writes neither.
        let (header, address) = unsafe {
            (
                self.slot.start.cast::<tpacket2_hdr>().read(),
                self.slot.start.add(ADDRESS).cast::<sockaddr_ll>().read(),
            )
        };
        Description {
            status: header.tp_status,
            len: header.tp_len,
            kept: header.tp_snaplen,
            offset: header.tp_mac,
            tci: header.tp_vlan_tci,
            tpid: header.tp_vlan_tpid,
            kind: address.sll_pkttype,
        }
    }

    /// `len` bytes from `offset` on; none when they are not in the slot.
    #[inline]
    pub(super) fn bytes(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        self.slot.bytes(offset, len)
    }
}

impl Drop for Filled<'_> {
    #[inline]
    fn drop(&mut self) {
        self.slot.give(libc::TP_STATUS_KERNEL);
    }
}

/// A slot to put a frame to send into.
pub(super) struct Vacant<'a> {
    slot: Slot<'a>,
}

impl Vacant<'_> {
    /// Room for a frame of `len` bytes; none when the slot is smaller.
    #[inline]
    pub(super) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot.bytes(TX_OVERHEAD, len)
    }

    /// Queues the first `len` bytes of the room as a frame.
    #[inline]
    pub(super) fn queue(self, len: u32) {
        let header = self.slot.start.cast::<tpacket2_hdr>();
        // SAFETY: the header as in `Slots::status`; the slot is ours until the status is stored.
        unsafe { (*header.as_ptr()).tp_len = len };
        self.slot.give(libc::TP_STATUS_SEND_REQUEST);
    }
}

#[cfg(test)]
pub(super) mod fake;

#[cfg(test)]
mod tests;
