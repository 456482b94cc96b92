//! Gigantic pages, cut up: a page of 1 GiB serves several regions, and is given back with the last of them.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::mapping::Mapping;
use super::meminfo;

/// A mapping of gigantic pages.
#[derive(Debug)]
pub(super) struct Segment {
    mapping: Mapping,
    shared: bool,
    room: Mutex<Room>,
}

/// What of a segment is free, as offsets in bytes.
#[derive(Debug)]
struct Room {
    /// Ascending, and with something between any two.
    holes: Vec<Range<usize>>,
    /// The bytes from here on were never handed out, so they are zero.
    clean_from: usize,
}

impl Segment {
    pub(super) fn new(mapping: Mapping, shared: bool) -> Arc<Self> {
        let room = Room { holes: vec![0..mapping.len(); 1], clean_from: 0 };
        Arc::new(Self { mapping, shared, room: Mutex::new(room) })
    }

    /// Whether a region for this node, shared or not, may lie in it.
    pub(super) fn suits(&self, node: Option<u32>, shared: bool) -> bool {
        self.shared == shared && (node.is_none() || self.mapping.node() == node)
    }

    /// The first `len` free bytes at a multiple of `align`, zeroed.
    pub(super) fn carve(self: &Arc<Self>, len: usize, align: usize) -> Option<Carved> {
        let page = meminfo::page_size();
        let len = len.checked_next_multiple_of(page)?;
        let base = self.mapping.base().as_ptr().addr();
        let range = {
            let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            room.take(len, align.max(page), base)?
        };
        let carved = Carved { segment: Arc::clone(self), range: range.range };
        // SAFETY: the bytes up to `dirty` lie in the carved range, which is in the mapping and nobody else's.
        unsafe { carved.base().as_ptr().write_bytes(0, range.dirty) };
        Some(carved)
    }
}

/// A range taken from the room, whose first `dirty` bytes were used before.
struct Taken {
    range: Range<usize>,
    dirty: usize,
}

impl Room {
    fn take(&mut self, len: usize, align: usize, base: usize) -> Option<Taken> {
        let fits = |hole: &Range<usize>| {
            let begin = (base + hole.start).checked_next_multiple_of(align)? - base;
            let end = begin.checked_add(len)?;
            (end <= hole.end).then_some(begin..end)
        };
        let (index, range) =
            self.holes.iter().enumerate().find_map(|(index, hole)| Some((index, fits(hole)?)))?;
        let hole = self.holes.remove(index);
        let rest = [hole.start..range.start, range.end..hole.end];
        self.holes.splice(index..index, rest.into_iter().filter(|rest| !rest.is_empty()));
        let dirty = self.clean_from.clamp(range.start, range.end) - range.start;
        self.clean_from = self.clean_from.max(range.end);
        Some(Taken { range, dirty })
    }

    fn give_back(&mut self, mut range: Range<usize>) {
        let mut index = self.holes.partition_point(|hole| hole.start < range.start);
        if self.holes.get(index).is_some_and(|next| next.start == range.end) {
            range.end = self.holes.remove(index).end;
        }
        if index > 0 && self.holes[index - 1].end == range.start {
            index -= 1;
            range.start = self.holes.remove(index).start;
        }
        self.holes.insert(index, range);
    }
}

/// A part of a segment, given back to it on drop.
#[derive(Debug)]
pub(super) struct Carved {
    segment: Arc<Segment>,
    range: Range<usize>,
}

impl Carved {
    pub(super) fn mapping(&self) -> &Mapping {
        &self.segment.mapping
    }

    /// Where in the segment it begins, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.range.start
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        // SAFETY: ranges are cut out of holes, and the first hole is the mapping, so the offset lies in it.
        unsafe { self.segment.mapping.base().add(self.range.start) }
    }
}

impl Drop for Carved {
    fn drop(&mut self) {
        let mut room = self.segment.room.lock().unwrap_or_else(PoisonError::into_inner);
        room.give_back(self.range.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Ordinary pages: carving is the same.
    fn segment(pages: usize) -> Arc<Segment> {
        Segment::new(Mapping::anonymous(pages * 4096, 1 << 16).unwrap(), true)
    }

    /// Where holes begin and end, in pages.
    fn holes(segment: &Segment) -> Vec<(usize, usize)> {
        let holes = &segment.room.lock().unwrap().holes;
        holes.iter().map(|hole| (hole.start / 4096, hole.end / 4096)).collect()
    }

    #[test]
    fn regions_lie_side_by_side_and_come_back_as_one_hole() {
        let segment = segment(16);
        let a = segment.carve(1, 1).unwrap();
        let b = segment.carve(2 * 4096, 1).unwrap();
        let c = segment.carve(4096 + 1, 1).unwrap();
        assert_eq!((a.offset(), b.offset(), c.offset()), (0, 4096, 3 * 4096));
        drop(b);
        assert_eq!(holes(&segment), [(1, 3), (5, 16)]);
        assert_eq!(segment.carve(3 * 4096, 1).unwrap().offset(), 5 * 4096);
        assert_eq!(segment.carve(2 * 4096, 1).unwrap().offset(), 4096);
        drop(c);
        assert_eq!(holes(&segment), [(1, 16)]);
        drop(a);
        assert_eq!(holes(&segment), [(0, 16)]);
        assert!(segment.carve(16 * 4096 + 1, 1).is_none());
        assert!(segment.carve(usize::MAX, 1).is_none());
    }

    #[test]
    fn the_gap_before_an_aligned_region_stays_free() {
        let segment = segment(64);
        let _first = segment.carve(4096, 1).unwrap();
        let aligned = segment.carve(4096, 1 << 16).unwrap();
        assert_eq!(aligned.base().as_ptr().addr() % (1 << 16), 0);
        assert_eq!(segment.carve(4096, 1).unwrap().offset(), 4096);
    }

    #[test]
    fn what_was_used_before_is_zero_again() {
        let segment = segment(8);
        let fill = |carved: &Carved, len: usize| {
            // SAFETY: the region has `len` bytes and the test alone uses them.
            let bytes = unsafe { std::slice::from_raw_parts_mut(carved.base().as_ptr(), len) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xff);
        };
        for pages in [2, 5, 8, 1, 8] {
            let carved = segment.carve(pages * 4096, 1).unwrap();
            fill(&carved, pages * 4096);
        }
    }

    #[test]
    fn private_and_shared_regions_do_not_meet() {
        let segment = Segment::new(Mapping::anonymous(4096, 1).unwrap(), true);
        assert!(segment.suits(None, true));
        assert!(!segment.suits(Some(0), true) && !segment.suits(None, false));
    }
}
