//! How a device keeps its distance from a driver that shows one descriptor after the other.
//!
//! Four descriptors share a cache line. Our driver shows a burst at once, by the flags that it writes last; DPDK's shows each
//! descriptor as it writes it. A device that is faster than such a driver catches up with it in the midst of a burst, and stays
//! there: the line that is being written then travels twice for each descriptor, and the driver, which sets the pace, waits for
//! it. So a device that has noticed this lets the driver get two lines ahead of what it takes, for as long as the driver goes on.
//! Where it pauses, the device has waited once, for [`PATIENCE`], and takes what there is as before.

use core::time::Duration;

use wirerate_eal::Clock;

/// The longest that available descriptors are left alone. A driver writes a burst of 32 in less.
const PATIENCE: Duration = Duration::from_micros(2);
/// Descriptors that the driver is to be ahead by: two lines.
const AHEAD: usize = 8;

/// The distance of a device from the driver.
#[derive(Debug)]
pub(super) struct Distance {
    clock: Clock,
    /// [`PATIENCE`] in cycles.
    patience: u64,
    /// Whether the driver was caught up with, and has not paused since.
    kept: bool,
    /// Whether the last burst was full.
    full: bool,
    /// Since when the driver is waited for.
    since: Option<u64>,
}

impl Distance {
    pub(super) fn new() -> Self {
        let clock = Clock::calibrate();
        Self { clock, patience: clock.from_duration(PATIENCE), kept: false, full: false, since: None }
    }

    /// Whether a burst of `wanted` out of a ring of `size` is to be left alone for now; `is_available` tells of the descriptor
    /// so many places on.
    #[inline(always)]
    pub(super) fn is_too_short(
        &mut self,
        wanted: usize,
        size: u16,
        is_available: impl Fn(u16) -> bool,
    ) -> bool {
        let far = wanted + AHEAD - 1;
        // The driver can write so much while half of the ring is with the device.
        self.kept && far < usize::from(size / 2) && !is_available(far as u16) && self.is_patient()
    }

    /// Whether to wait on. When it is over, the driver has paused, and what there is can be had undisturbed.
    fn is_patient(&mut self) -> bool {
        let now = self.clock.cycles();
        let waited = now.wrapping_sub(*self.since.get_or_insert(now));
        self.kept = waited < self.patience;
        self.kept
    }

    /// Notes that a burst of `count` is taken, of the `wanted` that there was room for.
    #[inline(always)]
    pub(super) fn took(&mut self, count: usize, wanted: usize) {
        self.since = None;
        let full = count == wanted;
        // Either the driver was caught in the midst of a burst, or it pauses.
        self.kept |= self.full && !full;
        self.full = full;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks about bursts of 32 in a ring of 256 that has `ahead` available, until an answer is no; how long that took.
    fn waited(distance: &mut Distance, ahead: u16) -> Duration {
        let start = distance.clock.cycles();
        while distance.is_too_short(32, 256, |places| places < ahead) {}
        distance.clock.to_duration(distance.clock.cycles() - start)
    }

    #[test]
    fn full_bursts_and_short_ones_are_taken_at_once() {
        let mut distance = Distance::new();
        for count in [32, 32, 32] {
            distance.took(count, 32);
            assert!(!distance.is_too_short(32, 256, |_| false));
        }
        let mut distance = Distance::new();
        for count in [1, 31, 2] {
            distance.took(count, 32);
            assert!(!distance.is_too_short(32, 256, |_| false));
        }
    }

    #[test]
    fn a_driver_that_was_caught_is_let_ahead() {
        let mut distance = Distance::new();
        distance.took(32, 32);
        distance.took(5, 32);
        assert!(distance.is_too_short(32, 256, |places| places < 39));
        for _ in 0..1000 {
            assert!(!distance.is_too_short(32, 256, |places| places < 40), "two lines ahead");
            distance.took(32, 32);
            assert!(distance.is_too_short(32, 256, |_| false), "the distance is kept");
        }
    }

    #[test]
    fn a_driver_that_pauses_is_waited_for_once() {
        let mut distance = Distance::new();
        distance.took(32, 32);
        distance.took(5, 32);
        assert!(waited(&mut distance, 20) >= PATIENCE);
        distance.took(20, 32);
        for _ in 0..1000 {
            assert!(!distance.is_too_short(32, 256, |_| false), "it was seen to pause");
        }
        distance.took(32, 32);
        assert!(!distance.is_too_short(32, 256, |_| false));
    }

    #[test]
    fn small_rings_are_never_waited_for() {
        let mut distance = Distance::new();
        distance.took(32, 32);
        distance.took(5, 32);
        for size in [1, 32, 64, 78] {
            assert!(!distance.is_too_short(32, size, |_| panic!("no place beyond the ring is looked at")));
        }
    }
}
