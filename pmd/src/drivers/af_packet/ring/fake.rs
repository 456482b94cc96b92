//! The kernel's side of a ring in ordinary memory, for tests.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use libc::{sockaddr_ll, tpacket2_hdr};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use super::{ADDRESS, Geometry, Mapping, RX_OVERHEAD, Slots, TX_OVERHEAD};

/// Memory that no kernel writes to.
pub(crate) fn mapping(len: usize) -> Mapping {
    // SAFETY: no address is asked for, so nothing that is mapped is replaced.
    let base = unsafe {
        mmap_anonymous(core::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    Mapping::over(base.unwrap().cast(), len).unwrap()
}

/// A ring of `slots` slots of `size` bytes, with a page for each `4096 / size` of them, and its kernel's side,
/// which must not be used after the ring is dropped.
pub(crate) fn ring(slots: u32, size: u32) -> (Slots, FakeKernel) {
    let per_block = 4096 / size;
    let ring = Geometry { block_size: 4096, blocks: slots.div_ceil(per_block), slot_size: size };
    let mut parts = mapping(ring.len()).split(&[Geometry { ..ring }]).unwrap();
    let mut slots_made = parts.pop().unwrap();
    // A ring of exactly as many as asked for, so that tests can fill it.
    slots_made.offsets = slots_made.offsets.iter().copied().take(slots as usize).collect();
    let kernel =
        FakeKernel { base: slots_made.base, offsets: slots_made.offsets.clone(), size: size as usize };
    (slots_made, kernel)
}

/// Reads and writes a ring as the kernel does.
#[derive(Debug, Clone)]
pub(crate) struct FakeKernel {
    base: NonNull<u8>,
    offsets: Box<[usize]>,
    size: usize,
}

// SAFETY: the tests use it from one thread at a time.
unsafe impl Send for FakeKernel {}

impl FakeKernel {
    pub(crate) fn slots(&self) -> usize {
        self.offsets.len()
    }

    fn header(&self, index: usize) -> *mut tpacket2_hdr {
        // SAFETY: the offsets are those of the ring, which the test keeps alive.
        unsafe { self.base.add(self.offsets[index]).as_ptr().cast() }
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        // SAFETY: as in `Slots::status`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.header(index)).tp_status) }
    }

    pub(crate) fn status(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::Acquire)
    }

    pub(crate) fn set_status(&self, index: usize, status: u32) {
        self.word(index).store(status, Ordering::Release);
    }

    /// Puts a frame where the kernel puts it, cut to the slot as it does.
    pub(crate) fn deliver(&self, index: usize, frame: &[u8]) {
        self.deliver_as(index, frame, |_, _| {});
    }

    /// The same, with a last word on header and address.
    pub(crate) fn deliver_as(
        &self,
        index: usize,
        frame: &[u8],
        change: impl FnOnce(&mut tpacket2_hdr, &mut sockaddr_ll),
    ) {
        let kept = frame.len().min(self.size - RX_OVERHEAD);
        // SAFETY: slot memory of the ring, which the test keeps alive; plain integers, so any bytes are valid.
        let (mut header, mut address) = unsafe {
            (
                self.header(index).read(),
                self.header(index).cast::<u8>().add(ADDRESS).cast::<sockaddr_ll>().read(),
            )
        };
        header.tp_status = libc::TP_STATUS_USER;
        header.tp_len = frame.len() as u32;
        header.tp_snaplen = kept as u32;
        header.tp_mac = RX_OVERHEAD as u16;
        header.tp_net = RX_OVERHEAD as u16 + 14;
        address.sll_pkttype = libc::PACKET_OTHERHOST;
        change(&mut header, &mut address);
        let status = core::mem::replace(&mut header.tp_status, 0);
        // SAFETY: as above; the frame was cut to the slot.
        unsafe {
            let slot = self.header(index).cast::<u8>();
            slot.add(RX_OVERHEAD).copy_from_nonoverlapping(frame.as_ptr(), kept);
            slot.add(ADDRESS).cast::<sockaddr_ll>().write(address);
            self.header(index).write(header);
        }
        self.set_status(index, status);
    }

    /// The frame that was put into transmit slot `index`.
    pub(crate) fn frame(&self, index: usize) -> Vec<u8> {
        // SAFETY: as above; a queued frame fits its slot.
        unsafe {
            let len = (*self.header(index)).tp_len as usize;
            assert!(TX_OVERHEAD + len <= self.size);
            core::slice::from_raw_parts(self.header(index).cast::<u8>().add(TX_OVERHEAD), len).to_vec()
        }
    }
}
