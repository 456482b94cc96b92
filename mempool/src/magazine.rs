//! Magazines: fixed arrays of free objects, and the blocks that they are allocated in.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;

use crate::sync::{AtomicU32, Tracker};

/// The head of a magazine. Its objects follow it in memory, as many as the pool's magazines hold, so that
/// they begin on a cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Magazine {
    /// Number of the magazine under this one in the depot; means something only there.
    pub(crate) next: AtomicU32,
    /// Objects in it; means something only in the depot. In a slot, the slot knows.
    pub(crate) len: AtomicU32,
    /// Its own number.
    pub(crate) number: u32,
    /// Stands for the objects in a loom model.
    pub(crate) contents: Tracker,
}

impl Magazine {
    /// Where its objects begin.
    ///
    /// # Safety
    /// `magazine` lives, and its pointer came from a [`Block`].
    #[inline(always)]
    pub(crate) unsafe fn objects(magazine: NonNull<Self>) -> *mut NonNull<u8> {
        // SAFETY: the block has room for the objects right behind the head.
        unsafe { magazine.as_ptr().add(1).cast() }
    }

    /// Notes a write to its objects, for loom.
    ///
    /// # Safety
    /// `magazine` lives.
    #[inline(always)]
    pub(crate) unsafe fn written(magazine: NonNull<Self>) {
        // SAFETY: the caller says that it lives; only the tracker is borrowed.
        unsafe { (*magazine.as_ptr()).contents.writes() };
    }

    /// Notes a read of its objects, for loom.
    ///
    /// # Safety
    /// `magazine` lives.
    #[inline(always)]
    pub(crate) unsafe fn read(magazine: NonNull<Self>) {
        // SAFETY: as above.
        unsafe { (*magazine.as_ptr()).contents.reads() };
    }
}

/// Finds a magazine by its number.
pub(crate) trait Find {
    /// The magazine with this number, which is one that this table gave out.
    fn find(&self, number: u32) -> NonNull<Magazine>;
}

/// Some magazines in one allocation.
#[derive(Debug)]
pub(crate) struct Block {
    base: NonNull<u8>,
    count: u32,
    stride: usize,
    layout: Layout,
}

impl Block {
    /// `count` empty magazines (at least 1) of `capacity` objects, numbered from `first`. None if the heap
    /// has no room.
    pub(crate) fn new(count: u32, capacity: usize, first: u32) -> Option<Self> {
        let layout = Self::layout(count, capacity)?;
        let stride = layout.size() / count as usize;
        // SAFETY: at least one magazine's head makes the size not zero.
        let base = NonNull::new(unsafe { alloc(layout) })?;
        let block = Self { base, count, stride, layout };
        for index in 0..count {
            let magazine = Magazine {
                next: AtomicU32::new(0),
                len: AtomicU32::new(0),
                number: first + index,
                contents: Tracker::default(),
            };
            // SAFETY: the place is inside the allocation, aligned as `Magazine` wants, and nobody else's yet.
            unsafe { block.get(index).write(magazine) };
        }
        Some(block)
    }

    fn layout(count: u32, capacity: usize) -> Option<Layout> {
        let one = Layout::new::<Magazine>().extend(Layout::array::<NonNull<u8>>(capacity).ok()?).ok()?.0;
        let stride = one.pad_to_align().size();
        Layout::from_size_align(stride.checked_mul(count.max(1) as usize)?, one.align()).ok()
    }

    /// Bytes that such a block takes of the heap; `usize::MAX` if it cannot be.
    pub(crate) fn bytes(count: u32, capacity: usize) -> usize {
        Self::layout(count, capacity).map_or(usize::MAX, |layout| layout.size())
    }

    /// The magazine at `index`, counted within this block.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> NonNull<Magazine> {
        debug_assert!(index < self.count, "magazine {index} of {}", self.count);
        // SAFETY: `index` is below `count` (callers take it from a number that this block gave), so the place
        // is inside.
        unsafe { self.base.add(index as usize * self.stride).cast() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        for index in 0..self.count {
            // SAFETY: written in `new`; whoever drops the block has no more use for its magazines.
            unsafe { self.get(index).drop_in_place() };
        }
        // SAFETY: allocated with this layout in `new`, freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: a block is memory owned by whoever owns the block; access to the objects is ordered by the depot
// and slots.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` gives out addresses only.
unsafe impl Sync for Block {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn objects_begin_on_a_cache_line_and_magazines_do_not_overlap() {
        let block = Block::new(3, 24, 100).unwrap();
        for index in 0..3 {
            let magazine = block.get(index);
            // SAFETY: the magazine is the block's own, and it has room for 24 objects.
            unsafe {
                assert_eq!(magazine.as_ref().number, 100 + index);
                let objects = Magazine::objects(magazine);
                assert_eq!(objects as usize % 64, 0);
                for place in 0..24 {
                    objects.add(place).write(NonNull::dangling());
                }
            }
        }
        // SAFETY: as above.
        let last = unsafe { Magazine::objects(block.get(0)).add(24) };
        assert!(last as usize <= block.get(1).as_ptr() as usize);
    }

    #[test]
    fn a_block_that_cannot_be_is_none() {
        assert!(Block::new(u32::MAX, usize::MAX / 16, 0).is_none());
        assert_eq!(Block::bytes(u32::MAX, usize::MAX / 16), usize::MAX);
    }
}
