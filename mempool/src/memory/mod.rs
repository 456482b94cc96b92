//! Where objects live.

use alloc::boxed::Box;
use core::fmt::Debug;
use core::ptr::NonNull;
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

mod heap;
#[cfg(all(feature = "std", target_os = "linux"))]
mod mmap;

pub use heap::HeapMemory;
#[cfg(all(feature = "std", target_os = "linux"))]
pub use mmap::MmapMemory;

/// One piece of memory with a fixed address.
///
/// A pool owns its memory and frees it, by dropping it, when the pool and its last object are gone.
///
/// # Safety
/// - `base()` to `base() + len()` is valid for reads and writes for as long as the value lives, and no
///   reference made by anyone else points into it.
/// - `base()` and `len()` always return the same, also after the value has moved.
pub unsafe trait Memory: Send + Sync + Debug {
    /// Address of byte 0.
    fn base(&self) -> NonNull<u8>;

    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether it has no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a page: physical (and so device) addresses are contiguous within one.
    fn page_size(&self) -> usize;

    /// The address by which a device reaches byte `offset`; none if no device can.
    fn device_address(&self, offset: usize) -> Option<u64> {
        let _ = offset;
        None
    }

    /// A descriptor by which another process can map it, and the offset in it of byte 0; none if it is
    /// private.
    #[cfg(feature = "std")]
    fn shared_fd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}

// SAFETY: every call is passed on to a `Memory`, and a box does not move what is in it.
unsafe impl Memory for Box<dyn Memory> {
    fn base(&self) -> NonNull<u8> {
        (**self).base()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn page_size(&self) -> usize {
        (**self).page_size()
    }

    fn device_address(&self, offset: usize) -> Option<u64> {
        (**self).device_address(offset)
    }

    #[cfg(feature = "std")]
    fn shared_fd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        (**self).shared_fd()
    }
}
