//! Where objects live.

use alloc::boxed::Box;
use core::fmt::Debug;
use core::ptr::NonNull;
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

use crate::MemoryError;

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

    /// Whether [`release`](Self::release) gives it back to the system.
    fn is_releasable(&self) -> bool {
        false
    }

    /// Gives the pages back to the system, and undoes what maps them for a device; the address stays this
    /// value's. What was in them is lost.
    ///
    /// # Safety
    /// Until [`restore`](Self::restore) has returned, nobody reads or writes a byte of it, or has a device do
    /// so.
    unsafe fn release(&self) {}

    /// Makes it usable after a `release`, at the same addresses, also for a device. It reads as zeroes.
    ///
    /// # Errors
    /// [`MemoryError`] when the pages cannot be had or mapped.
    fn restore(&self) -> Result<(), MemoryError> {
        Ok(())
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

    fn is_releasable(&self) -> bool {
        (**self).is_releasable()
    }

    unsafe fn release(&self) {
        // SAFETY: as the caller says.
        unsafe { (**self).release() }
    }

    fn restore(&self) -> Result<(), MemoryError> {
        (**self).restore()
    }

    #[cfg(feature = "std")]
    fn shared_fd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        (**self).shared_fd()
    }
}
