//! Where each object lies in the pieces of memory, and which object an address is.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::Memory;

/// Objects at equal distances in one piece of memory.
#[derive(Debug, Clone, Copy)]
struct Run {
    base: NonNull<u8>,
    /// Number of its first object.
    first: usize,
    count: usize,
    /// Piece of memory, and offset of the first object in it in bytes.
    piece: usize,
    offset: usize,
}

/// The places of all objects.
#[derive(Debug)]
pub(crate) struct Placement {
    /// By number of object.
    runs: Vec<Run>,
    /// Indices of `runs`, by address.
    by_address: Vec<usize>,
    stride: usize,
    count: usize,
}

impl Placement {
    /// Places up to `count` objects of `size` bytes, `stride` bytes apart (a multiple of `align`, at least
    /// `size`).
    ///
    /// An object lies in one piece, and where a piece has device addresses, in one range of them: where the
    /// next page is elsewhere for the device, no object goes over its edge.
    pub(crate) fn new(
        memory: &[Box<dyn Memory>],
        count: usize,
        size: usize,
        stride: usize,
        align: usize,
    ) -> Self {
        let mut placement = Self { runs: Vec::new(), by_address: Vec::new(), stride, count: 0 };
        for (piece, memory) in memory.iter().enumerate() {
            placement.fill(piece, &**memory, count, size, align);
        }
        placement.by_address = (0..placement.runs.len()).collect();
        placement.by_address.sort_unstable_by_key(|run| placement.runs[*run].base);
        placement
    }

    fn fill(&mut self, piece: usize, memory: &dyn Memory, count: usize, size: usize, align: usize) {
        let base = memory.base();
        let aligned = |offset: usize| {
            let address = base.as_ptr() as usize + offset;
            offset + (address.next_multiple_of(align) - address)
        };
        let mut run: Option<Run> = None;
        let mut offset = aligned(0);
        while self.count < count && offset.checked_add(size).is_some_and(|end| end <= memory.len()) {
            if let Some(edge) = broken_at(memory, offset, size) {
                self.runs.extend(run.take());
                offset = aligned(edge);
                continue;
            }
            run.get_or_insert_with(|| Run {
                // SAFETY: `offset + size` is within the memory.
                base: unsafe { base.add(offset) },
                first: self.count,
                count: 0,
                piece,
                offset,
            })
            .count += 1;
            self.count += 1;
            offset += self.stride;
        }
        self.runs.extend(run);
    }

    /// Bytes from the beginning of the first piece to the first aligned one.
    pub(crate) fn skew(memory: &[Box<dyn Memory>], align: usize) -> usize {
        memory.first().map_or(0, |piece| {
            let base = piece.base().as_ptr() as usize;
            base.next_multiple_of(align) - base
        })
    }

    /// Objects placed.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Every object in order: its number, address, piece of memory and offset in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, NonNull<u8>, usize, usize)> {
        let stride = self.stride;
        self.runs.iter().flat_map(move |run| {
            (0..run.count).map(move |nth| {
                let ahead = nth * stride;
                // SAFETY: the run has `count` objects, so this one is within its memory.
                (run.first + nth, unsafe { run.base.add(ahead) }, run.piece, run.offset + ahead)
            })
        })
    }

    /// Finds the piece of memory that each of many objects of the pool lies in. Objects that follow each other
    /// often lie in one piece, which is looked at first.
    pub(crate) fn pieces(&self) -> impl FnMut(NonNull<u8>) -> Option<usize> {
        let mut last: Option<(Run, usize)> = None;
        move |object| {
            let within = |(run, len): &(Run, usize)| {
                (object.as_ptr() as usize).wrapping_sub(run.base.as_ptr() as usize) < *len
            };
            if !last.as_ref().is_some_and(within) {
                let after = self.by_address.partition_point(|run| self.runs[*run].base <= object);
                let run = self.runs[*self.by_address.get(after.checked_sub(1)?)?];
                last = Some((run, run.count * self.stride));
            }
            last.map(|(run, _)| run.piece)
        }
    }

    /// Number of the object that begins at this address; none if none does.
    pub(crate) fn number(&self, object: NonNull<u8>) -> Option<usize> {
        let after = self.by_address.partition_point(|run| self.runs[*run].base <= object);
        let run = self.runs[*self.by_address.get(after.checked_sub(1)?)?];
        let ahead = object.as_ptr() as usize - run.base.as_ptr() as usize;
        let nth = ahead / self.stride;
        (ahead.is_multiple_of(self.stride) && nth < run.count).then_some(run.first + nth)
    }
}

/// The first page edge within an object at which device addresses do not go on; none if they do all along.
fn broken_at(memory: &dyn Memory, offset: usize, size: usize) -> Option<usize> {
    let page = memory.page_size().max(1);
    let start = memory.device_address(offset)?;
    // Pages are counted by address: a piece need not begin on one.
    let skew = memory.base().as_ptr() as usize % page;
    let mut edge = (offset + skew + 1).next_multiple_of(page) - skew;
    while edge < offset + size {
        if memory.device_address(edge) != start.checked_add((edge - offset) as u64) {
            return Some(edge);
        }
        edge += page;
    }
    None
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::HeapMemory;

    /// Memory whose pages a device sees in reverse order, but for pairs.
    #[derive(Debug)]
    struct Scattered(HeapMemory);

    // SAFETY: all but the device address is `HeapMemory`'s.
    unsafe impl Memory for Scattered {
        fn base(&self) -> NonNull<u8> {
            self.0.base()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn page_size(&self) -> usize {
            4096
        }
        fn device_address(&self, offset: usize) -> Option<u64> {
            let pair = offset / 8192;
            Some(((100 - pair) * 8192 + offset % 8192) as u64)
        }
    }

    fn heap(len: usize) -> Box<dyn Memory> {
        Box::new(HeapMemory::new(len, 4096).unwrap())
    }

    #[test]
    fn objects_do_not_straddle_pieces_and_are_found_by_address() {
        let memory = vec![heap(990), heap(99), heap(300)];
        let placement = Placement::new(&memory, 100, 100, 128, 64);
        assert_eq!(placement.count(), 7 + 2);
        for (number, object, piece, offset) in placement.iter() {
            assert_eq!(object.as_ptr() as usize % 64, 0);
            assert!(offset + 100 <= memory[piece].len());
            // SAFETY: the offset is within the piece.
            assert_eq!(object, unsafe { memory[piece].base().add(offset) });
            assert_eq!(placement.number(object), Some(number));
            // SAFETY: the object has 100 bytes.
            assert_eq!(placement.number(unsafe { object.add(1) }), None);
        }
        // SAFETY: 896 is within the 990 bytes of the piece; no object begins there, as it would not fit.
        assert_eq!(placement.number(unsafe { memory[0].base().add(896) }), None);
        assert_eq!(placement.number(NonNull::dangling()), None);
    }

    #[test]
    fn no_more_are_placed_than_asked_for() {
        let memory = vec![heap(1024), heap(1024)];
        let placement = Placement::new(&memory, 5, 128, 128, 64);
        assert_eq!(placement.count(), 5);
        assert_eq!(placement.iter().count(), 5);
    }

    #[test]
    fn no_object_goes_over_an_edge_that_the_device_sees() {
        let memory: Vec<Box<dyn Memory>> =
            vec![Box::new(Scattered(HeapMemory::new(8 * 4096, 4096).unwrap()))];
        let placement = Placement::new(&memory, 1000, 3000, 3008, 64);
        // Two in each pair of pages, where five would fit in two pairs laid end to end.
        assert_eq!(placement.count(), 8);
        for (_, _, piece, offset) in placement.iter() {
            let start = memory[piece].device_address(offset).unwrap();
            assert_eq!(memory[piece].device_address(offset + 2999), Some(start + 2999));
        }
    }
}
