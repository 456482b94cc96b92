//! Threads that start together, each on its CPU, and how long they took for how much.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{CpuSet, sched_setaffinity};
use wirerate_eal::Clock;

/// How long to work.
#[derive(Clone, Copy)]
pub(super) struct Timer {
    clock: Clock,
    cycles: u64,
}

impl Timer {
    pub(super) fn new(clock: Clock, ms: u32) -> Self {
        Self { clock, cycles: clock.hz() / 1000 * u64::from(ms) }
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.clock.cycles()
    }

    /// Cycles since `begun`, and whether that is enough.
    #[inline]
    pub(super) fn since(&self, begun: u64) -> (u64, bool) {
        let took = self.now().saturating_sub(begun);
        (took, took >= self.cycles)
    }
}

/// What a thread did. Nothing, where it only served another whose work counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) objects: u64,
    pub(super) took: u64,
}

/// Where threads wait for each other.
pub(super) struct Start {
    arrived: AtomicUsize,
    threads: usize,
    /// Whether threads have no CPU to themselves.
    crowd: bool,
    /// When the first of a crowd began; 0 before.
    first: AtomicU64,
}

impl Start {
    /// Waits by spinning until all are here.
    pub(super) fn wait(&self) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0u32;
        while self.arrived.load(Ordering::Acquire) < self.threads {
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            // More threads than CPUs: those that are not here yet need one.
            if spins.is_multiple_of(4096) {
                thread::yield_now();
            }
        }
    }

    /// When a thread that has waited begins. In a crowd that is when the first did: a thread that got its CPU
    /// later would otherwise work on when others are done, and have a CPU to itself then.
    pub(super) fn begun(&self, timer: Timer) -> u64 {
        let now = timer.now();
        if !self.crowd {
            return now;
        }
        match self.first.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => now,
            Err(first) => first,
        }
    }
}

/// Lets the others go when a thread panics, who would wait for it for ever.
struct Leaving<'a>(&'a Start);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.arrived.fetch_add(self.0.threads, Ordering::AcqRel);
        }
    }
}

/// A thread's work, and the CPU on which it is to run, if it is to be pinned.
pub(super) type Job<'a> = (Option<u32>, Box<dyn FnOnce(&Start) -> Done + Send + 'a>);

/// Runs the jobs at once, each on a thread of its own; objects for each cycle, all threads together.
pub(super) fn together(jobs: Vec<Job<'_>>) -> Result<f64> {
    let crowd = jobs.iter().any(|(cpu, _)| cpu.is_none());
    let start = Start { arrived: AtomicUsize::new(0), threads: jobs.len(), crowd, first: AtomicU64::new(0) };
    let run = |(cpu, work): Job<'_>| -> Result<Done> {
        let _leaving = Leaving(&start);
        let pinned = cpu.map_or(Ok(()), pin);
        // Also when it is not: the others wait.
        let done = work(&start);
        pinned.map(|()| done)
    };
    let done = thread::scope(|scope| {
        let running: Vec<_> = jobs.into_iter().map(|job| scope.spawn(|| run(job))).collect();
        let join =
            |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked")));
        running.into_iter().map(join).collect::<Result<Vec<Done>>>()
    });
    let done = done.context("a thread of the contest failed")?;
    Ok(done.iter().filter(|done| done.took > 0).map(|done| done.objects as f64 / done.took as f64).sum())
}

fn pin(cpu: u32) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).with_context(|| format!("binding a thread to CPU {cpu}"))
}

/// The end of a run whose pool or ring has lost objects.
#[cold]
#[inline(never)]
pub(super) fn dry() -> ! {
    panic!("it ran dry, though it has objects for all threads");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_threads_add_up_and_those_that_serve_do_not_count() {
        let job = |objects, took| -> Job<'_> {
            (
                None,
                Box::new(move |start: &Start| {
                    start.wait();
                    Done { objects, took }
                }),
            )
        };
        assert_eq!(together(vec![job(10, 20), job(30, 20), job(0, 0)]).unwrap(), 2.0);
    }

    #[test]
    fn a_thread_that_panics_is_an_error_and_nobody_waits_for_it() {
        let waits: Job<'_> = (
            None,
            Box::new(|start: &Start| {
                start.wait();
                Done::default()
            }),
        );
        let error = together(vec![waits, (None, Box::new(|_: &Start| dry()))]).unwrap_err();
        assert_eq!(format!("{error:#}"), "a thread of the contest failed: it panicked");
    }
}
