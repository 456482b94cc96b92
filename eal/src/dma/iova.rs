//! Which addresses devices are given, where an IOMMU translates them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Mappings of at least this are placed so that the IOMMU can use pages of this size.
const LARGE: u64 = 2 << 20;

/// The addresses that an IOMMU takes, and which are taken of them.
#[derive(Debug)]
pub(crate) struct Iovas {
    windows: Vec<RangeInclusive<u64>>,
    /// First and last.
    taken: BTreeMap<u64, u64>,
}

impl Iovas {
    pub(crate) fn new(windows: Vec<RangeInclusive<u64>>) -> Self {
        let mut iovas = Self { windows: Vec::new(), taken: BTreeMap::new() };
        iovas.set_windows(windows);
        iovas
    }

    /// What may be taken from now on.
    pub(crate) fn set_windows(&mut self, mut windows: Vec<RangeInclusive<u64>>) {
        windows.retain(|window| !window.is_empty());
        windows.sort_by_key(|window| *window.start());
        self.windows = windows;
    }

    pub(crate) fn windows(&self) -> &[RangeInclusive<u64>] {
        &self.windows
    }

    /// Takes `len` bytes from `start`; false if they are not all free and inside of one window.
    pub(crate) fn take_at(&mut self, start: u64, len: u64) -> bool {
        let Some(last) = len.checked_sub(1).and_then(|most| start.checked_add(most)) else { return false };
        let inside = self.windows.iter().any(|window| window.contains(&start) && window.contains(&last));
        let free = self.taken.range(..=last).next_back().is_none_or(|(_, &end)| end < start);
        if inside && free {
            self.taken.insert(start, last);
        }
        inside && free
    }

    /// Takes the first `len` free bytes. Their address is, within a page of `page` bytes and if possible within one of
    /// 2 MiB, what `like` is. Address 0 is not given out: drivers and devices take it for none.
    pub(crate) fn take(&mut self, len: u64, page: u64, like: u64) -> Option<u64> {
        let align = if len >= LARGE { LARGE.max(page) } else { page };
        let start =
            self.first_fit(len, page, align, like).or_else(|| self.first_fit(len, page, page, like))?;
        self.take_at(start, len).then_some(start)
    }

    fn first_fit(&self, len: u64, page: u64, align: u64, like: u64) -> Option<u64> {
        let most = len.checked_sub(1)?;
        for window in &self.windows {
            let mut from = (*window.start()).max(page);
            // Each turn passes one taken range, so this ends.
            while let Some(start) = congruent(from, align, like) {
                let Some(last) = start.checked_add(most).filter(|last| last <= window.end()) else { break };
                match self.taken.range(..=last).next_back() {
                    Some((_, &end)) if end >= start => match end.checked_add(1) {
                        Some(next) => from = next,
                        None => break,
                    },
                    _ => return Some(start),
                }
            }
        }
        None
    }

    /// Gives back what was taken at `start`.
    pub(crate) fn give_back(&mut self, start: u64) {
        self.taken.remove(&start);
    }
}

/// The first number from `from` on that leaves the rest that `like` leaves when divided by `align`, a power of two.
fn congruent(from: u64, align: u64, like: u64) -> Option<u64> {
    from.checked_add(like.wrapping_sub(from) & (align - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn what_is_asked_for_is_taken_once() {
        let mut iovas = Iovas::new(vec![0x10_0000..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1]);
        assert!(iovas.take_at(0x10_0000, PAGE));
        for (start, len) in
            [(0x10_0000, PAGE), (0xf_f000, 2 * PAGE), (0xfedf_f000, 2 * PAGE), (0x7fff_ffff_f000, PAGE)]
        {
            assert!(!iovas.take_at(start, len), "{start:#x}");
        }
        assert!(!iovas.take_at(0x20_0000, 0) && !iovas.take_at(u64::MAX, PAGE));
        assert!(iovas.take_at((1 << 39) - PAGE, PAGE) && iovas.take_at(0xfedf_f000, PAGE));
        iovas.give_back(0x10_0000);
        assert!(iovas.take_at(0x10_0000, PAGE));
    }

    #[test]
    fn the_first_hole_that_is_large_enough_is_taken() {
        let mut iovas = Iovas::new(vec![0x20_0000..=0x20_2fff, 0..=0xfff, 0x40_0000..=0x100_0000]);
        assert_eq!(iovas.take(PAGE, PAGE, 0), Some(0x20_0000), "never address 0");
        assert_eq!(iovas.take(PAGE, PAGE, 0), Some(0x20_1000));
        assert_eq!(iovas.take(2 * PAGE, PAGE, 0), Some(0x40_0000));
        iovas.give_back(0x20_0000);
        assert_eq!(iovas.take(2 * PAGE, PAGE, 0), Some(0x40_2000));
        assert_eq!(iovas.take(PAGE, PAGE, 0), Some(0x20_0000));
        assert_eq!(iovas.take(1 << 30, PAGE, 0), None);
        assert_eq!(iovas.take(0, PAGE, 0), None);
    }

    #[test]
    fn large_mappings_lie_as_their_memory_does_if_they_can() {
        let mut iovas = Iovas::new(vec![0x1000..=0x7f_ffff]);
        assert_eq!(iovas.take(LARGE, PAGE, 0x7f12_3450_3000), Some(0x10_3000));
        assert_eq!(iovas.take(LARGE, PAGE, 0x7f12_3460_0000), Some(0x40_0000));
        assert_eq!(iovas.take(LARGE, PAGE, 0x7f12_3450_3000), Some(0x60_0000), "better so than not at all");
    }

    #[test]
    fn the_end_of_all_addresses_is_no_trap() {
        let mut iovas = Iovas::new(vec![u64::MAX - 0x1fff..=u64::MAX]);
        assert_eq!(iovas.take(PAGE, PAGE, 0), Some(u64::MAX - 0x1fff));
        assert_eq!(iovas.take(PAGE, PAGE, 0), Some(u64::MAX - 0xfff));
        assert_eq!(iovas.take(PAGE, PAGE, 0), None);
        assert_eq!(Iovas::new(Vec::new()).take(PAGE, PAGE, 0), None);
    }
}
