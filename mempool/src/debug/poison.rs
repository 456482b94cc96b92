//! Poison: what is in a free object is known, so that a write to it is found when it is got.
//!
//! Where objects need not keep what is in them, a put fills them with one byte, which also shows in whatever
//! still reads them. Where they do, a put keeps a copy. A copy and not a checksum, because it tells which byte
//! was written; and to copy and to compare is fast also where nothing is optimised.

use core::ptr::NonNull;

use super::first_difference;
use crate::{HeapMemory, Memory, MemoryError};

/// What free objects are filled with.
const BYTE: u8 = 0xdd;

/// A byte of a free object that was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// Bytes from the object's first to this one.
    pub(super) offset: usize,
    pub(super) found: u8,
    pub(super) was: u8,
}

/// What is known of what is in free objects.
#[derive(Debug)]
pub(super) struct Poison {
    /// Bytes of an object.
    size: usize,
    /// What was in each object when it was put; none where they are filled.
    copies: Option<HeapMemory>,
}

impl Poison {
    /// For objects that need not keep what is in them.
    pub(super) fn filling(size: usize) -> Self {
        Self { size, copies: None }
    }

    /// For `count` objects that keep it.
    pub(super) fn copying(count: usize, size: usize) -> Result<Self, MemoryError> {
        Ok(Self { size, copies: Some(HeapMemory::new(count.saturating_mul(size), 1)?) })
    }

    /// Where the copy of an object is.
    fn copy(&self, copies: &HeapMemory, index: usize) -> NonNull<u8> {
        // SAFETY: there is a copy for every object.
        unsafe { copies.base().add(index * self.size) }
    }

    /// Notes what is in an object that is put.
    ///
    /// # Safety
    /// It is object `index` of the pool, and the caller's alone.
    pub(super) unsafe fn note(&self, index: usize, object: NonNull<u8>) {
        match &self.copies {
            // SAFETY: the object has `size` bytes, and is the caller's.
            None => unsafe { object.write_bytes(BYTE, self.size) },
            // SAFETY: as above; the copy belongs to whoever has the object.
            Some(copies) => unsafe {
                self.copy(copies, index).copy_from_nonoverlapping(object, self.size);
            },
        }
    }

    /// The first byte that is not as it was noted.
    ///
    /// # Safety
    /// As for `note`, and it was noted.
    pub(super) unsafe fn change(&self, index: usize, object: NonNull<u8>) -> Option<Change> {
        const FILLED: [u8; 256] = [BYTE; 256];
        let Some(copies) = &self.copies else {
            return (0..self.size).step_by(FILLED.len()).find_map(|start| {
                let len = FILLED.len().min(self.size - start);
                // SAFETY: within the object, which is the caller's.
                let (place, found) = unsafe { first_difference(object.as_ptr().add(start), &FILLED[..len]) }?;
                Some(Change { offset: start + place, found, was: BYTE })
            });
        };
        // SAFETY: the copy has `size` bytes and belongs to whoever has the object.
        let copy = unsafe { core::slice::from_raw_parts(self.copy(copies, index).as_ptr(), self.size) };
        // SAFETY: the object has as many, and is the caller's.
        let (offset, found) = unsafe { first_difference(object.as_ptr(), copy) }?;
        Some(Change { offset, found, was: copy[offset] })
    }
}
