//! The same loops on several pools, and on several rings: how many cycles of the time stamp counter an object
//! costs.
//!
//! The loop of pools is that of DPDK's `mempool_perf_autotest`: get so many objects in bulks of n, put them
//! back in bulks of n. `tools/peers/dpdk.c` has the loops in C, step by step the same, for DPDK. A loop is
//! compiled once for each pool and each n, which is a constant in it, on both sides.

use anyhow::Result;
use wirerate_eal::Topology;
use wirerate_eal::clock::{Clock, ClockSource};

mod churn;
mod pair;
mod pools;
mod queues;
mod rings;
mod threads;

pub use pools::{heap, pools};
pub use queues::rings;

/// Bytes of an object.
pub const OBJECT: usize = 2048;
/// Objects that a thread may keep at hand, in pools that have such a cache.
pub const CACHE: usize = 512;
/// Values that a ring has room for.
pub const RING: usize = 4096;
/// Threads of a crowd, and of what it is compared with.
pub const CROWD: [usize; 2] = [8, 2];

/// Threads that may be at a pool at once, for the size of pools.
const MOST_THREADS: usize = 2;
/// Objects that a thread may have got at once.
const MOST_KEPT: usize = 32_768;
/// Objects of a pool: enough for all threads to have got and to have at hand what they may.
const COUNT: usize = MOST_THREADS * (MOST_KEPT + 2 * CACHE) - 1;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Each thread, pinned, gets `keep` objects in bulks and puts them back so. `keep` is a multiple of the
    /// bulk and at most 32,768, `threads` is 1 or 2.
    Churn {
        /// Objects that a thread has got when it begins to put.
        keep: usize,
        /// Threads that do so.
        threads: usize,
    },
    /// One thread gets, another puts; the objects go from one to the other by a circle of addresses.
    Pair,
    /// Threads that are not pinned and more than there are CPUs churn 512 objects each.
    Crowd,
    /// Values through a ring.
    Ring {
        /// Whether several threads might be at each end, or one at a time.
        multi: bool,
        /// 1: in and out; 2: one in, one out.
        threads: usize,
    },
}

impl Work {
    /// CPUs that it needs.
    #[must_use]
    pub fn cpus(self) -> usize {
        match self {
            Self::Churn { threads, .. } | Self::Ring { threads, .. } => threads,
            Self::Pair => 2,
            Self::Crowd => 1,
        }
    }
}

/// One that takes part.
pub trait Contestant {
    /// What it is called in tables.
    fn name(&self) -> &str;

    /// Works for `ms` milliseconds. Says the cycles for each object that a thread got and put back, or that
    /// it moved; of a pair, that its getter got. None when it has no such work.
    ///
    /// # Errors
    /// When there is no loop for this bulk, memory is refused, or a peer fails.
    fn run(&mut self, work: Work, bulk: usize, ms: u32) -> Result<Option<f64>>;
}

/// Where threads run, and the clock that they look at.
#[derive(Debug, Clone)]
pub struct Place {
    cpus: Vec<u32>,
    clock: Clock,
}

impl Place {
    /// This machine: the second CPU that this process may use is for the first thread, as the first CPU has
    /// more of the kernel's work.
    #[must_use]
    pub fn here() -> Self {
        let mut cpus: Vec<u32> = Topology::discover().cpus().iter().map(|cpu| cpu.id).take(2).collect();
        cpus.reverse();
        Self { cpus, clock: Clock::calibrate() }
    }

    /// The CPUs for pinned threads: two, or one on a machine that has no more.
    #[must_use]
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// What "cycles" are here.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self.clock.source() {
            ClockSource::Counter => "TSC cycles",
            ClockSource::Kernel => "nanoseconds",
        }
    }
}

/// Calls `$run` with the constant `N` that `$bulk` is; an error where no loop was compiled for it.
macro_rules! with_bulk {
    ($bulk:expr, $name:ident => $run:expr) => {
        with_bulk!(@ $bulk, $name, $run, 1 4 8 32 64 256)
    };
    (@ $bulk:expr, $name:ident, $run:expr, $($n:literal)+) => {
        match $bulk {
            $($n => { const $name: usize = $n; $run })+
            other => anyhow::bail!("there is no loop for bulks of {other}"),
        }
    };
}
use with_bulk;

#[cfg(test)]
mod tests {
    use super::*;

    const WORKS: [Work; 5] = [
        Work::Churn { keep: 512, threads: 1 },
        Work::Churn { keep: 512, threads: 2 },
        Work::Churn { keep: MOST_KEPT, threads: 1 },
        Work::Pair,
        Work::Crowd,
    ];

    fn all(contestants: &mut [Box<dyn Contestant>], works: &[Work], place: &Place) {
        let fits = |work: &&Work| work.cpus() <= place.cpus().len();
        for work in works.iter().filter(fits) {
            let mut some = false;
            for contestant in &mut *contestants {
                for bulk in [1, 8, 256] {
                    if let Some(cycles) = contestant.run(*work, bulk, 1).unwrap() {
                        some = true;
                        assert!(cycles.is_finite() && cycles > 0.0, "{}: {cycles}", contestant.name());
                    }
                }
                assert!(
                    contestant.run(*work, 3, 1).is_err() || contestant.run(*work, 4, 1).unwrap().is_none()
                );
            }
            assert!(some, "nobody does {work:?}");
        }
    }

    #[test]
    fn every_pool_does_its_works() {
        let place = Place::here();
        all(&mut pools(&place).unwrap(), &WORKS, &place);
    }

    #[test]
    fn every_ring_does_its_works() {
        let place = Place::here();
        let works = [(false, 1), (true, 1), (false, 2), (true, 2)];
        let works = works.map(|(multi, threads)| Work::Ring { multi, threads });
        all(&mut rings(&place), &works, &place);
    }
}
