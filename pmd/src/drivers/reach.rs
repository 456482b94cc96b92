//! What of this process's memory the device reaches, and by which addresses.

use core::ptr::NonNull;

use wirerate_mempool::Memory;

/// A range of memory, and where the device finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first byte's address here.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// The first byte's address for the device.
    pub device: u64,
}

impl Range {
    /// Memory that the device reaches by our own addresses, as over vhost-user.
    pub(crate) fn same(memory: &dyn Memory) -> Self {
        let base = memory.base().as_ptr().addr() as u64;
        Self { base, len: memory.len() as u64, device: base }
    }

    #[inline(always)]
    fn translate(&self, address: u64, len: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.base);
        (offset < self.len && len <= self.len - offset).then(|| self.device.wrapping_add(offset))
    }
}

/// The ranges that the device reaches, by ascending addresses of ours. The one in which an address was found last is looked at first.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    last: Range,
    all: Box<[Range]>,
}

impl Reach {
    /// With these ranges.
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range>) -> Self {
        let mut ranges: Vec<Range> = ranges.into_iter().collect();
        ranges.sort_by_key(|range| range.base);
        let mut all: Vec<Range> = Vec::new();
        for range in ranges {
            match all.last_mut() {
                // It goes on for both sides.
                Some(last)
                    if last.base.wrapping_add(last.len) == range.base
                        && last.device.wrapping_add(last.len) == range.device =>
                {
                    last.len += range.len;
                }
                _ => all.push(range),
            }
        }
        let all = all.into_boxed_slice();
        let last = all.first().copied().unwrap_or(Range { base: 0, len: 0, device: 0 });
        Self { last, all }
    }

    /// Where the device finds `len` bytes from `place` on; none if it does not reach all of them.
    #[inline(always)]
    pub(crate) fn address(&mut self, place: NonNull<u8>, len: usize) -> Option<u64> {
        let address = place.as_ptr().addr() as u64;
        match self.last.translate(address, len as u64) {
            Some(address) => Some(address),
            None => self.search(address, len as u64),
        }
    }

    /// Where the device finds the byte at `place`, and how many of the `len` bytes from there on follow in one piece; none if
    /// it does not reach that byte. Where device addresses are physical, what crosses a page has several pieces.
    #[cold]
    pub(crate) fn piece(&self, place: NonNull<u8>, len: usize) -> Option<(u64, usize)> {
        let address = place.as_ptr().addr() as u64;
        let range = self.find(address)?;
        let offset = address - range.base;
        Some((range.device.wrapping_add(offset), usize::try_from(range.len - offset).unwrap_or(len).min(len)))
    }

    #[cold]
    fn search(&mut self, address: u64, len: u64) -> Option<u64> {
        let range = *self.find(address)?;
        let found = range.translate(address, len)?;
        self.last = range;
        Some(found)
    }

    /// The range that has an address.
    fn find(&self, address: u64) -> Option<&Range> {
        let behind = self.all.partition_point(|range| range.base <= address);
        self.all.get(behind.checked_sub(1)?).filter(|range| address - range.base < range.len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn only_what_lies_whole_in_a_range_is_reached() {
        let ranges = [
            Range { base: 0x1000, len: 0x100, device: 0x9000 },
            Range { base: 0x2000, len: 0x10, device: 0 },
            // These two are one, and behind them is one that is not, for the device.
            Range { base: 0x3010, len: 0x10, device: 0x110 },
            Range { base: 0x3000, len: 0x10, device: 0x100 },
            Range { base: 0x3020, len: 0x10, device: 0x200 },
        ];
        let mut reach = Reach::new(ranges);
        let mut at = |address: usize, len| {
            reach.address(NonNull::without_provenance(address.try_into().unwrap()), len)
        };
        assert_eq!(at(0x1000, 0x100), Some(0x9000));
        assert_eq!(at(0x10ff, 1), Some(0x90ff));
        assert_eq!(at(0x10ff, 2), None);
        assert_eq!(at(0x0fff, 2), None);
        assert_eq!(at(0x2008, 8), Some(8));
        assert_eq!(at(0x2008, 9), None);
        assert_eq!((at(0x3008, 0x18), at(0x3018, 9), at(0x3020, 8)), (Some(0x108), None, Some(0x200)));
        assert_eq!(at(0x1100, 0), None);
        assert_eq!(at(usize::MAX, 2), None);
        let piece =
            |address: usize, len| reach.piece(NonNull::without_provenance(address.try_into().unwrap()), len);
        assert_eq!((piece(0x10f0, 0x20), piece(0x10f0, 0x10)), (Some((0x90f0, 0x10)), Some((0x90f0, 0x10))));
        assert_eq!((piece(0x2000, 1), piece(0x1fff, 1), piece(0x2010, 1)), (Some((0, 1)), None, None));
        assert_eq!(Reach::new([]).address(NonNull::dangling(), 1), None);
    }
}
