//! Stages, and how they are strung together without calls by pointer.

use core::fmt;
use std::sync::Arc;

use wirerate_eal::clock;

use super::Part;
use crate::packet::{Burst, Mbuf};
use crate::port::{Counters, DropReason};

/// Work on a burst. A stage may change packets, take some out, and put others in; what it drops it counts by
/// a reason.
pub trait Stage {
    /// Works on `burst`.
    fn process(&mut self, burst: &mut Burst, counters: &Counters);
}

impl<F: FnMut(&mut Burst, &Counters)> Stage for F {
    #[inline]
    fn process(&mut self, burst: &mut Burst, counters: &Counters) {
        self(burst, counters);
    }
}

/// Stages one after another; implemented for the chains that a [`Builder`](super::Builder) makes.
pub trait Stages {
    /// Runs all stages. `start` is the clock's reading before, and what comes back is the reading after.
    fn run(&mut self, burst: &mut Burst, start: u64) -> u64;

    /// Adds each stage to `parts`.
    fn describe(&self, parts: &mut Vec<Part>);
}

impl Stages for () {
    #[inline]
    fn run(&mut self, _burst: &mut Burst, start: u64) -> u64 {
        start
    }

    fn describe(&self, _parts: &mut Vec<Part>) {}
}

impl<C: Stages, T: Stage> Stages for (C, Timed<T>) {
    #[inline]
    fn run(&mut self, burst: &mut Burst, start: u64) -> u64 {
        let start = self.0.run(burst, start);
        self.1.run(burst, start)
    }

    fn describe(&self, parts: &mut Vec<Part>) {
        self.0.describe(parts);
        parts.push(Part { name: self.1.name.clone(), counters: Arc::clone(&self.1.counters) });
    }
}

/// A stage with its name and counters.
pub struct Timed<T> {
    name: String,
    stage: T,
    counters: Arc<Counters>,
}

impl<T: Stage> Timed<T> {
    pub(super) fn new(name: String, stage: T) -> Self {
        Self { name, stage, counters: Arc::new(Counters::new()) }
    }

    #[inline]
    fn run(&mut self, burst: &mut Burst, start: u64) -> u64 {
        self.stage.process(burst, &self.counters);
        let end = clock::cycles();
        self.counters.passed(burst.len() as u64, 0);
        self.counters.spent(end.wrapping_sub(start));
        end
    }
}

impl<T> fmt::Debug for Timed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).field("counters", &self.counters).finish()
    }
}

/// Does something with each packet.
pub struct Each<F>(pub(super) F);

impl<F> fmt::Debug for Each<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Each")
    }
}

impl<F: FnMut(&mut Mbuf)> Stage for Each<F> {
    #[inline]
    fn process(&mut self, burst: &mut Burst, _counters: &Counters) {
        burst.iter_mut().for_each(&mut self.0);
    }
}

/// Lets packets through or drops them.
pub struct Filter<F>(pub(super) F);

impl<F> fmt::Debug for Filter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

impl<F: FnMut(&mut Mbuf) -> Result<(), DropReason>> Stage for Filter<F> {
    #[inline]
    fn process(&mut self, burst: &mut Burst, counters: &Counters) {
        burst.retain(|packet| match (self.0)(packet) {
            Ok(()) => true,
            Err(reason) => {
                counters.dropped(reason, 1);
                false
            }
        });
    }
}
