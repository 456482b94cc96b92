//! Memory from an anonymous mapping.

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::Memory;
use crate::{MemoryError, PoolConfig};

/// Zeroed private memory from the kernel, given back to it on drop. Pages appear when they are first touched.
#[derive(Debug)]
pub struct MmapMemory {
    base: NonNull<u8>,
    /// As asked for.
    len: usize,
    page: usize,
}

impl MmapMemory {
    /// `len` bytes (at least 1), aligned to a page.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] when the length cannot be, [`MemoryError::Map`] when the kernel refuses.
    pub fn new(len: usize) -> Result<Self, MemoryError> {
        let page = rustix::param::page_size();
        if len == 0 || isize::try_from(len).is_err() {
            return Err(MemoryError::Layout { len, align: page });
        }
        // SAFETY: with a null address the kernel chooses one where nothing is mapped, so nobody's memory
        // changes.
        let base = unsafe {
            mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }
        .map_err(|source| MemoryError::Map { len, source: source.into() })?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or(MemoryError::Map { len, source: std::io::Error::other("it returned the null address") })?;
        Ok(Self { base, len, page })
    }

    /// Pieces of at most `chunk` bytes (rounded up to pages, and to at least one object) that hold the objects of
    /// a pool so made, for [`RawPool::elastic`](crate::RawPool::elastic).
    ///
    /// # Errors
    /// As for `new`.
    pub fn chunks(config: &PoolConfig, chunk: usize) -> Result<Vec<Box<dyn Memory>>, MemoryError> {
        let page = rustix::param::page_size();
        let of = |count: usize| PoolConfig::memory_len(&config.clone().with_count(count));
        let skew = config.alignment().saturating_sub(page);
        let fits = |count: usize| of(count).saturating_add(skew) <= chunk.next_multiple_of(page);
        // Objects are at equal distances, so the length grows evenly with their number.
        let (one, stride) = (of(1).saturating_add(skew), of(2) - of(1));
        let each = (chunk.next_multiple_of(page).saturating_sub(one) / stride.max(1) + 1).max(1);
        debug_assert!(each == 1 || fits(each), "{each} objects in {chunk} bytes");
        let mut pieces: Vec<Box<dyn Memory>> = Vec::new();
        let mut left = config.count();
        while left > 0 {
            let count = left.min(each);
            pieces.push(Box::new(Self::new(of(count).saturating_add(skew))?));
            left -= count;
        }
        Ok(pieces)
    }

    /// Asks the kernel to back it by transparent huge pages. True if the kernel took the advice; whether
    /// and when it follows, `/proc/self/smaps` tells.
    #[must_use]
    pub fn advise_huge_pages(&self) -> bool {
        // SAFETY: the range is this mapping, and the advice changes the pages' size and not what is in them.
        unsafe { madvise(self.address(), self.len, Advice::LinuxHugepage) }.is_ok()
    }

    fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }
}

impl Drop for MmapMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new`, is this value's own, and is unmapped only here.
        let unmapped = unsafe { munmap(self.address(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of {} bytes failed: {unmapped:?}", self.len);
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached by a raw pointer only.
unsafe impl Send for MmapMemory {}
// SAFETY: as above; `&MmapMemory` gives out the address and no access.
unsafe impl Sync for MmapMemory {}

// SAFETY: the mapping is readable and writable, `len` bytes long, private to this value, and unmapped on drop
// only.
unsafe impl Memory for MmapMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    fn page_size(&self) -> usize {
        self.page
    }

    fn is_releasable(&self) -> bool {
        true
    }

    unsafe fn release(&self) {
        // SAFETY: the range is this mapping, and nobody uses what is in it, as the caller says. Pages come back
        // zeroed when they are next touched (madvise(2), MADV_DONTNEED).
        let released = unsafe { madvise(self.address(), self.len, Advice::LinuxDontNeed) };
        debug_assert!(released.is_ok(), "madvise of {} bytes failed: {released:?}", self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_memory_is_aligned_zeroed_and_writable() {
        let memory = MmapMemory::new(3 * 4096 + 1).unwrap();
        assert_eq!(memory.base().as_ptr() as usize % memory.page_size(), 0);
        assert_eq!(memory.len(), 3 * 4096 + 1);
        // SAFETY: the memory is as long as it says and nobody else uses it.
        let bytes = unsafe { core::slice::from_raw_parts_mut(memory.base().as_ptr(), memory.len()) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        assert_eq!(bytes[3 * 4096], 7);
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        assert!(matches!(MmapMemory::new(0), Err(MemoryError::Layout { len: 0, .. })));
        assert!(matches!(MmapMemory::new(1 << 60), Err(MemoryError::Map { .. })));
    }
}
