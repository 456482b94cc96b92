//! Time in cycles: the processor's own counter, calibrated against the kernel's clock.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the counter is watched to learn its rate.
const CALIBRATION: Duration = Duration::from_millis(20);
const NS_PER_S: u128 = 1_000_000_000;

/// The processor's cycle counter as it is: `rdtsc` on x86-64, the generic timer on AArch64, elsewhere the
/// monotonic clock in nanoseconds. For the cost of a piece of code on one lcore; for time, take a [`Clock`].
///
/// It does not wait for earlier instructions to finish, as is right around a burst.
#[inline]
#[must_use]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the instruction reads a counter and nothing else. Linux lets programs execute it unless one
        // asks by prctl(PR_SET_TSC) for a signal instead.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let count: u64;
        // SAFETY: the instruction reads a counter, which Linux lets programs do, and touches neither memory nor flags.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags))
        };
        count
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        kernel_ns(ClockId::MonotonicRaw)
    }
}

/// What a [`Clock`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The processor's counter, which runs at one rate on all CPUs: what [`cycles`] reads.
    Counter,
    /// Nanoseconds of `CLOCK_MONOTONIC_RAW`, because the processor's counter changes its rate.
    Kernel,
}

/// A clock that costs one instruction to read. Copies are as good as the original.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    source: ClockSource,
    hz: u64,
    /// Nanoseconds in a cycle, times 2^32: a multiplication is cheaper than a division by `hz`.
    ns_per_cycle: u64,
    /// A moment of this clock, and the same moment in nanoseconds since 1970.
    anchor: (u64, u64),
}

impl Clock {
    /// This machine's clock. The first call in a process takes 20 ms to learn the counter's rate; later ones
    /// only take the wall time anew.
    #[must_use]
    pub fn calibrate() -> Self {
        static RATE: OnceLock<(ClockSource, u64)> = OnceLock::new();
        let &(source, hz) = RATE.get_or_init(|| match counter_is_invariant() {
            true => (ClockSource::Counter, counter_hz()),
            false => {
                tracing::warn!(
                    "the cycle counter of this processor changes its rate: time is taken from the kernel"
                );
                (ClockSource::Kernel, 1_000_000_000)
            }
        });
        Self::new(source, hz)
    }

    fn new(source: ClockSource, hz: u64) -> Self {
        let hz = hz.max(1);
        let ns_per_cycle = u64::try_from((NS_PER_S << 32) / u128::from(hz)).unwrap_or(u64::MAX);
        let mut clock = Self { source, hz, ns_per_cycle, anchor: (0, 0) };
        clock.resync();
        clock
    }

    /// Now, in cycles since an arbitrary moment.
    #[inline]
    #[must_use]
    pub fn cycles(&self) -> u64 {
        match self.source {
            ClockSource::Counter => cycles(),
            ClockSource::Kernel => kernel_ns(ClockId::MonotonicRaw),
        }
    }

    /// Cycles in a second.
    #[must_use]
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// What the clock counts.
    #[must_use]
    pub fn source(&self) -> ClockSource {
        self.source
    }

    /// How long this many cycles take.
    #[must_use]
    pub fn to_duration(&self, cycles: u64) -> Duration {
        Duration::from_nanos(self.ns_in(cycles))
    }

    /// The cycles in this time; `u64::MAX` if they are more.
    #[must_use]
    pub fn from_duration(&self, duration: Duration) -> u64 {
        let cycles = duration.as_nanos().saturating_mul(u128::from(self.hz)) / NS_PER_S;
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }

    /// A moment of this clock as nanoseconds since 1970 (`CLOCK_REALTIME`), for the time stamp of a packet.
    ///
    /// It is right at the last [`resync`](Self::resync) and then drifts from the kernel's time by the error of
    /// the calibration (some parts in a million) and by what NTP corrects.
    #[inline]
    #[must_use]
    pub fn wall_ns(&self, cycles: u64) -> u64 {
        let (then, wall) = self.anchor;
        // The two's complement difference also serves moments before the anchor.
        match cycles.wrapping_sub(then) as i64 {
            after @ 0.. => wall.wrapping_add(self.ns_in(after.unsigned_abs())),
            before => wall.wrapping_sub(self.ns_in(before.unsigned_abs())),
        }
    }

    /// Takes the wall time anew; a capture that runs for long does so once a second.
    pub fn resync(&mut self) {
        self.anchor = closest(|| self.cycles(), || kernel_ns(ClockId::Realtime));
    }

    #[inline]
    fn ns_in(&self, cycles: u64) -> u64 {
        let ns = (u128::from(cycles) * u128::from(self.ns_per_cycle)) >> 32;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

fn kernel_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// The same moment on two clocks: of several tries the one that took least, and its middle.
fn closest(counter: impl Fn() -> u64, kernel: impl Fn() -> u64) -> (u64, u64) {
    let mut best = (u64::MAX, (0, 0));
    for _ in 0..16 {
        let before = counter();
        let time = kernel();
        let took = counter().wrapping_sub(before);
        if took < best.0 {
            best = (took, (before.wrapping_add(took / 2), time));
        }
    }
    best.1
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    // AMD64 Programmer's Manual 3, "Fn8000_0007": EDX bit 8 says that the TSC runs at one rate in all states.
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn counter_is_invariant() -> bool {
    // The generic timer's rate is fixed by the architecture; the kernel's clock is what it says.
    true
}

fn counter_hz() -> u64 {
    let moment = || closest(cycles, || kernel_ns(ClockId::MonotonicRaw));
    let (from, began) = moment();
    thread::sleep(CALIBRATION);
    let (to, ended) = moment();
    let counted = u128::from(to.wrapping_sub(from)) * NS_PER_S;
    u64::try_from(counted / u128::from(ended.wrapping_sub(began).max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    /// A moment on both clocks. On a busy machine the thread may lose its CPU between them; then once more.
    fn moment(clock: Clock) -> (u64, Instant) {
        loop {
            let before = Instant::now();
            let cycles = clock.cycles();
            if before.elapsed() < Duration::from_micros(200) {
                return (cycles, before);
            }
        }
    }

    #[test]
    fn a_sleep_is_measured_within_five_percent() {
        for clock in [Clock::calibrate(), Clock::new(ClockSource::Kernel, 1_000_000_000)] {
            let (from, began) = moment(clock);
            thread::sleep(Duration::from_millis(50));
            let (to, ended) = moment(clock);
            let (measured, slept) = (clock.to_duration(to - from), ended - began);
            assert!(measured.abs_diff(slept) < slept / 20, "{measured:?} instead of {slept:?}");
        }
    }

    #[test]
    fn durations_go_there_and_back() {
        let clock = Clock::new(ClockSource::Counter, 2_445_400_000);
        assert_eq!(clock.from_duration(Duration::from_secs(2)), 4_890_800_000);
        for ns in [0, 1_000, 999_999_999, 86_400_000_000_000] {
            let back = clock.to_duration(clock.from_duration(Duration::from_nanos(ns)));
            assert!(
                back.abs_diff(Duration::from_nanos(ns)).as_nanos() <= 2 + u128::from(ns / 1_000_000_000),
                "{ns}"
            );
        }
        assert_eq!(clock.from_duration(Duration::MAX), u64::MAX);
        assert!(clock.to_duration(u64::MAX) > Duration::from_secs(7_000_000_000));
    }

    #[test]
    fn wall_time_is_the_systems() {
        let system = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let clock = Clock::calibrate();
        let before = system();
        let now = clock.cycles();
        let after = system();
        let (wall, slack) = (Duration::from_nanos(clock.wall_ns(now)), Duration::from_millis(5));
        assert!(
            before - slack < wall && wall < after + slack,
            "{wall:?} is not between {before:?} and {after:?}"
        );
        let second = clock.hz();
        let before = clock.wall_ns(now) - clock.wall_ns(now - second);
        assert!(before.abs_diff(1_000_000_000) < 10, "{before}");
    }
}
