//! Mapped memory, counted: what is mapped twice is mapped once, and unmapped when nobody needs it any more.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use wirerate_mempool::Memory;

use super::{DmaError, DmaMapping, DmaRange, DmaSpace};

/// How whole pages are made reachable for devices.
pub(crate) trait Mapper: Send + fmt::Debug + 'static {
    /// Bytes of a page, a power of two.
    fn page(&self) -> usize;

    /// Maps `pages`, none of which is mapped. The ranges cover them in ascending order.
    fn map(&mut self, pages: Range<usize>) -> Result<Box<[DmaRange]>, DmaError>;

    /// Undoes what `map` returned `ranges` for.
    fn unmap(&mut self, ranges: &[DmaRange]);

    /// Is told of which pages memory is made that is to be mapped.
    fn look_at(&mut self, _memory_page: usize) {}

    /// The device addresses that it gives; empty for physical ones.
    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        Vec::new()
    }
}

/// A space of device addresses by a [`Mapper`].
///
/// Memory is mapped in pieces that do not overlap. A mapping shares the pieces that are there and adds those between
/// them, so that memory which begins or ends within a page of other memory is no special case.
#[derive(Debug)]
pub(crate) struct Space<M: Mapper> {
    table: Arc<Mutex<Table<M>>>,
}

#[derive(Debug)]
struct Table<M: Mapper> {
    mapper: M,
    /// By the first byte.
    pieces: BTreeMap<usize, Entry<M>>,
    /// Pieces that there ever were.
    count: u64,
}

#[derive(Debug)]
struct Entry<M: Mapper> {
    number: u64,
    end: usize,
    ranges: Arc<[DmaRange]>,
    piece: Weak<Piece<M>>,
}

/// Pages that are mapped until this is dropped. It keeps the memory that they were mapped for, lest other memory comes
/// to the same place and is taken for it.
struct Piece<M: Mapper> {
    table: Arc<Mutex<Table<M>>>,
    start: usize,
    number: u64,
    ranges: Arc<[DmaRange]>,
    _memory: Arc<dyn Any + Send + Sync>,
}

impl<M: Mapper> Drop for Piece<M> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // `map` may have come first and unmapped it already.
        if table.pieces.get(&self.start).is_some_and(|entry| entry.number == self.number) {
            table.pieces.remove(&self.start);
            table.mapper.unmap(&self.ranges);
        }
    }
}

/// What is in the table is whole after each step, so a panic of another thread spoils nothing.
fn lock<M: Mapper>(table: &Mutex<Table<M>>) -> MutexGuard<'_, Table<M>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Mapper> Table<M> {
    /// The live piece that covers `at`, and where it ends. One that nobody has any more, but that is not dropped yet, is
    /// unmapped: its drop waits for the lock, and it may have lost its last user at any time until now.
    fn covering(&mut self, at: usize) -> Option<(usize, Arc<Piece<M>>)> {
        let (&start, entry) = self.pieces.range(..=at).next_back()?;
        if entry.end <= at {
            return None;
        }
        let live = entry.piece.upgrade().map(|piece| (entry.end, piece));
        if live.is_none()
            && let Some(entry) = self.pieces.remove(&start)
        {
            self.mapper.unmap(&entry.ranges);
        }
        live
    }
}

impl<M: Mapper> Space<M> {
    pub(crate) fn new(mapper: M) -> Self {
        Self { table: Arc::new(Mutex::new(Table { mapper, pieces: BTreeMap::new(), count: 0 })) }
    }

    /// Does something with the mapper.
    pub(crate) fn with_mapper<R>(&self, body: impl FnOnce(&mut M) -> R) -> R {
        body(&mut lock(&self.table).mapper)
    }

    /// Maps `memory`, which is kept by `keep`.
    fn map_bytes(
        &self,
        memory: Range<usize>,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<DmaMapping, DmaError> {
        // Declared before the lock, so that pieces which an error leaves are dropped after it is released.
        let mut pieces: Vec<Arc<Piece<M>>> = Vec::new();
        let mut table = lock(&self.table);
        let page = table.mapper.page();
        let Some(end) = memory.end.checked_next_multiple_of(page) else {
            return Err(DmaError::Refused {
                problem: "memory at the end of all addresses cannot be mapped".into(),
            });
        };
        let pages =
            memory.start & !(page - 1)..if memory.is_empty() { memory.start & !(page - 1) } else { end };
        let mut at = pages.start;
        while at < pages.end {
            if let Some((end, piece)) = table.covering(at) {
                at = end;
                pieces.push(piece);
                continue;
            }
            // It covers nothing at `at`, so this is further on.
            let next = table.pieces.range(at..pages.end).next().map_or(pages.end, |(start, _)| *start);
            let ranges: Arc<[DmaRange]> = table.mapper.map(at..next)?.into();
            table.count += 1;
            let piece = Arc::new(Piece {
                table: Arc::clone(&self.table),
                start: at,
                number: table.count,
                ranges: Arc::clone(&ranges),
                _memory: Arc::clone(&keep),
            });
            let entry = Entry { number: table.count, end: next, ranges, piece: Arc::downgrade(&piece) };
            table.pieces.insert(at, entry);
            pieces.push(piece);
            at = next;
        }
        drop(table);
        let ranges = join(pieces.iter().flat_map(|piece| piece.ranges.iter().copied()), &memory);
        Ok(DmaMapping::new(ranges, Box::new(pieces), keep))
    }
}

/// What of `ranges` is in `memory`, in as few ranges as possible.
fn join(ranges: impl Iterator<Item = DmaRange>, memory: &Range<usize>) -> Vec<DmaRange> {
    let mut joined: Vec<DmaRange> = Vec::new();
    for range in ranges {
        let base = range.base.max(memory.start);
        let end = (range.base + range.len).min(memory.end);
        if base >= end {
            continue;
        }
        let device = range.device + (base - range.base) as u64;
        match joined.last_mut() {
            Some(last) if last.base + last.len == base && last.device + last.len as u64 == device => {
                last.len += end - base;
            }
            _ => joined.push(DmaRange { base, len: end - base, device }),
        }
    }
    joined
}

impl<M: Mapper> DmaSpace for Space<M> {
    unsafe fn map(
        &self,
        memory: &dyn Memory,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<DmaMapping, DmaError> {
        // `Memory` promises that it does not reach beyond the last address.
        let base = memory.base().as_ptr().expose_provenance();
        self.with_mapper(|mapper| mapper.look_at(memory.page_size()));
        self.map_bytes(base..base + memory.len(), keep)
    }

    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        self.with_mapper(|mapper| mapper.windows())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Gives each mapping the next device addresses, and notes what is mapped.
    #[derive(Debug, Default)]
    struct Model {
        next: u64,
        /// As an IOMMU would have them.
        mapped: Vec<Range<usize>>,
        refuse: bool,
        physical: bool,
    }

    impl Mapper for Model {
        fn page(&self) -> usize {
            4096
        }

        fn map(&mut self, pages: Range<usize>) -> Result<Box<[DmaRange]>, DmaError> {
            assert!((pages.start | pages.end).is_multiple_of(4096) && !pages.is_empty());
            assert!(!self.mapped.iter().any(|other| other.start < pages.end && pages.start < other.end));
            if self.refuse {
                return Err(DmaError::Refused { problem: "no".into() });
            }
            self.mapped.push(pages.clone());
            let step = if self.physical { 4096 } else { pages.len() };
            let range = |base| {
                self.next += 0x10_0000;
                DmaRange { base, len: step, device: self.next }
            };
            Ok(pages.step_by(step).map(range).collect())
        }

        fn unmap(&mut self, ranges: &[DmaRange]) {
            let pages = ranges[0].base..ranges.last().map(|last| last.base + last.len).unwrap();
            let before = self.mapped.len();
            self.mapped.retain(|mapped| *mapped != pages);
            assert_eq!(self.mapped.len() + 1, before);
        }
    }

    fn mapped(space: &Space<Model>) -> Vec<Range<usize>> {
        space.with_mapper(|mapper| mapper.mapped.clone())
    }

    fn range(base: usize, len: usize, device: u64) -> DmaRange {
        DmaRange { base, len, device }
    }

    #[test]
    fn memory_that_is_mapped_twice_is_mapped_once_and_kept_until_the_last_is_gone() {
        let space = Space::new(Model::default());
        let memory = Arc::new(());
        let first = space.map_bytes(0x1_0100..0x1_2000, memory.clone()).unwrap();
        assert_eq!(first.ranges(), [range(0x1_0100, 0x1f00, 0x10_0100)]);
        let again = space.map_bytes(0x1_0100..0x1_2000, memory.clone()).unwrap();
        assert_eq!(again.ranges(), first.ranges());
        drop(first);
        assert_eq!(mapped(&space).len(), 1);
        assert!(Arc::strong_count(&memory) > 1);
        drop(again);
        assert!(mapped(&space).is_empty());
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn memory_that_shares_a_page_with_other_memory_shares_its_piece() {
        let space = Space::new(Model::default());
        let (low, high) = (Arc::new(()), Arc::new(()));
        let one = space.map_bytes(0x1_0000..0x1_0800, low.clone()).unwrap();
        let two = space.map_bytes(0x1_0800..0x1_2800, high.clone()).unwrap();
        assert_eq!(two.ranges(), [range(0x1_0800, 0x800, 0x10_0800), range(0x1_1000, 0x1800, 0x20_0000)]);
        drop(one);
        // The page is still needed, so what it was mapped for is kept.
        assert_eq!(Arc::strong_count(&low), 2);
        drop(two);
        assert_eq!((Arc::strong_count(&low), Arc::strong_count(&high)), (1, 1));
        assert!(mapped(&space).is_empty());
    }

    #[test]
    fn gaps_between_pieces_are_filled() {
        let space = Space::new(Model::default());
        let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
        let inner = space.map_bytes(0x1_2000..0x1_3000, keep.clone()).unwrap();
        let outer = space.map_bytes(0x1_1000..0x1_5000, keep.clone()).unwrap();
        assert_eq!(mapped(&space), [0x1_2000..0x1_3000, 0x1_1000..0x1_2000, 0x1_3000..0x1_5000]);
        assert_eq!(outer.ranges().iter().map(|range| range.len).sum::<usize>(), 0x4000);
        drop((inner, outer));
        assert!(mapped(&space).is_empty());
    }

    #[test]
    fn a_failure_leaves_nothing_of_its_own() {
        let space = Space::new(Model::default());
        let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
        let held = space.map_bytes(0x1_1000..0x1_2000, keep.clone()).unwrap();
        space.with_mapper(|mapper| mapper.refuse = true);
        assert!(space.map_bytes(0x1_1000..0x1_3000, keep.clone()).is_err());
        assert!(space.map_bytes(usize::MAX - 10..usize::MAX, keep.clone()).is_err());
        assert_eq!(mapped(&space).len(), 1);
        drop(held);
        assert!(space.map_bytes(0x1_1000..0x1_1000, keep).unwrap().ranges().is_empty());
    }

    #[test]
    fn pages_that_follow_each_other_for_the_device_are_one_range() {
        let space = Space::new(Model { physical: true, ..Model::default() });
        let mapping = space.map_bytes(0x1_0010..0x1_3000, Arc::new(())).unwrap();
        assert_eq!(mapping.ranges().len(), 3);
        let ranges =
            [range(0x1000, 0x1000, 0x5000), range(0x2000, 0x1000, 0x6000), range(0x3000, 0x1000, 0x9000)];
        let joined = join(ranges.into_iter(), &(0x1800..0x3800));
        assert_eq!(joined, [range(0x1800, 0x1800, 0x5800), range(0x3000, 0x800, 0x9000)]);
    }

    #[test]
    fn threads_that_map_and_drop_the_same_memory_do_not_disturb_each_other() {
        let space = Space::new(Model::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..20_000 {
                        let start = 0x1_0000 + turn % 3 * 0x1000;
                        drop(space.map_bytes(start..start + 0x1800, Arc::new(())).unwrap());
                    }
                });
            }
        });
        assert!(mapped(&space).is_empty());
    }
}
