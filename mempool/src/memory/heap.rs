//! Memory from the global allocator.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;

use super::Memory;
use crate::MemoryError;

/// The page size that is reported: the smallest of any machine that runs this. No device address depends on
/// it.
const PAGE: usize = 4096;

/// Zeroed memory from the global allocator. No device and no other process can reach it.
#[derive(Debug)]
pub struct HeapMemory {
    base: NonNull<u8>,
    layout: Layout,
}

impl HeapMemory {
    /// `len` bytes (at least 1), aligned to `align` bytes (a power of two).
    ///
    /// # Errors
    /// [`MemoryError::Layout`] when the figures cannot be, [`MemoryError::Heap`] when there is no such
    /// memory.
    pub fn new(len: usize, align: usize) -> Result<Self, MemoryError> {
        let layout = Layout::from_size_align(len, align).map_err(|_| MemoryError::Layout { len, align })?;
        if len == 0 {
            return Err(MemoryError::Layout { len, align });
        }
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(MemoryError::Heap { len, align })?;
        Ok(Self { base, layout })
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: `base` was allocated with `layout` in `new` and is freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: the memory is owned, and reached by a raw pointer only.
unsafe impl Send for HeapMemory {}
// SAFETY: as above; `&HeapMemory` gives out the address and no access.
unsafe impl Sync for HeapMemory {}

// SAFETY: the allocation has `layout.size()` bytes, nobody else has its address, and it is freed on drop
// only.
unsafe impl Memory for HeapMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.layout.size()
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_memory_is_aligned_zeroed_and_writable() {
        let memory = HeapMemory::new(10_000, 4096).unwrap();
        assert_eq!(memory.base().as_ptr() as usize % 4096, 0);
        assert_eq!(Memory::len(&memory), 10_000);
        assert!(memory.device_address(0).is_none());
        // SAFETY: the memory is 10,000 bytes long and nobody else uses it.
        let bytes = unsafe { core::slice::from_raw_parts_mut(memory.base().as_ptr(), memory.len()) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        assert_eq!(bytes[9_999], 7);
    }

    #[test]
    fn heap_memory_refuses_what_cannot_be() {
        assert!(matches!(HeapMemory::new(0, 64), Err(MemoryError::Layout { len: 0, align: 64 })));
        assert!(matches!(HeapMemory::new(64, 3), Err(MemoryError::Layout { len: 64, align: 3 })));
        assert!(matches!(HeapMemory::new(usize::MAX, 8), Err(MemoryError::Layout { .. })));
    }
}
