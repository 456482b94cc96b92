//! What is done with packets: a source, stages, a sink, run burst by burst.
//!
//! The whole pipeline is one type, so the compiler sees through all of it: there is no call by pointer but the
//! queues' own. Each stage has [`Counters`] with the cycles spent in it, which cost one read of the time stamp
//! counter a burst. A pipeline runs to completion on one lcore, or is [`cut`](Builder::cut) in two, which
//! hand packets over by a ring and may run on two.
//!
//! ```
//! use wirerate_pmd::pipeline::{Discard, Pipeline};
//! # fn example(rx: wirerate_pmd::RxQueue) {
//! let pipeline = Pipeline::from(rx).each("swap", |_packet| { /* ... */ }).to(Discard);
//! # drop(pipeline);
//! # }
//! ```

mod ends;
mod stages;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use wirerate_eal::{StopToken, clock};

use crate::packet::{Burst, Mbuf};
use crate::port::{Counters, DropReason};

pub use ends::{Discard, Retry, RingSink, RingSource, Sink, Source};
use stages::{Each, Filter, Timed};
pub use stages::{Stage, Stages};

/// A pipeline without its sink yet.
#[derive(Debug)]
pub struct Builder<S, C> {
    source: S,
    stages: C,
    burst: usize,
}

/// A source, stages and a sink.
#[derive(Debug)]
pub struct Pipeline<S, C, K> {
    source: S,
    stages: C,
    sink: K,
    burst: Burst,
    source_counters: Arc<Counters>,
    sink_counters: Arc<Counters>,
}

/// A part of a pipeline by name, and what it has counted: `packets` are those that the source gave, that a
/// stage let through, or that the sink was offered.
#[derive(Debug, Clone)]
pub struct Part {
    /// `source`, a stage's name, or `sink`.
    pub name: String,
    /// Its counters.
    pub counters: Arc<Counters>,
}

impl<S: Source> Pipeline<S, (), ()> {
    /// Begins a pipeline.
    pub fn from(source: S) -> Builder<S, ()> {
        Builder { source, stages: (), burst: Burst::DEFAULT_LIMIT }
    }
}

impl<S: Source, C: Stages> Builder<S, C> {
    /// Sets how many packets travel together, 1 to [`MAX_BURST`](crate::packet::MAX_BURST).
    #[must_use]
    pub fn burst(mut self, packets: usize) -> Self {
        self.burst = packets;
        self
    }

    /// Adds a stage.
    #[must_use]
    pub fn stage<T: Stage>(self, name: impl Into<String>, stage: T) -> Builder<S, (C, Timed<T>)> {
        let stages = (self.stages, Timed::new(name.into(), stage));
        Builder { source: self.source, stages, burst: self.burst }
    }

    /// Adds a stage that does something with each packet.
    #[must_use]
    pub fn each<F: FnMut(&mut Mbuf)>(
        self,
        name: impl Into<String>,
        action: F,
    ) -> Builder<S, (C, Timed<Each<F>>)> {
        self.stage(name, Each(action))
    }

    /// Adds a stage that lets packets through, or drops them for a reason.
    #[must_use]
    pub fn filter<F: FnMut(&mut Mbuf) -> Result<(), DropReason>>(
        self,
        name: impl Into<String>,
        verdict: F,
    ) -> Builder<S, (C, Timed<Filter<F>>)> {
        self.stage(name, Filter(verdict))
    }

    /// Ends the pipeline.
    pub fn to<K: Sink>(self, sink: K) -> Pipeline<S, C, K> {
        Pipeline {
            source: self.source,
            stages: self.stages,
            sink,
            burst: Burst::new(self.burst),
            source_counters: Arc::new(Counters::new()),
            sink_counters: Arc::new(Counters::new()),
        }
    }

    /// Cuts the pipeline here: what was added so far ends in a ring of `capacity` packets, and what is added
    /// to the returned builder begins at it, for another lcore to run.
    pub fn cut(self, capacity: usize) -> (Pipeline<S, C, RingSink>, Builder<RingSource, ()>) {
        let burst = self.burst;
        let (sink, source) = ends::ring_between(capacity);
        (self.to(sink), Builder { source, stages: (), burst })
    }
}

impl<S: Source, C: Stages, K: Sink> Pipeline<S, C, K> {
    /// Moves one burst through the pipeline and returns how many packets the source gave.
    #[inline]
    pub fn poll(&mut self) -> usize {
        let start = clock::cycles();
        let pulled = self.source.pull(&mut self.burst);
        self.source_counters.polled();
        if pulled == 0 {
            self.sink.idle();
            return 0;
        }
        let pulled_at = clock::cycles();
        self.source_counters.passed(pulled as u64, 0);
        self.source_counters.spent(pulled_at.wrapping_sub(start));
        let staged_at = self.stages.run(&mut self.burst, pulled_at);
        let offered = self.burst.len() as u64;
        self.sink.push(&mut self.burst, &self.sink_counters);
        // Sinks take or drop everything; one that does not must not block the next burst.
        self.burst.free();
        self.sink_counters.passed(offered, 0);
        self.sink_counters.spent(clock::cycles().wrapping_sub(staged_at));
        pulled
    }

    /// Whether the source has given all that it ever will.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.source.ended()
    }

    /// The source, for those who wait for it.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The source, to arm and disarm it around a sleep.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Polls until `stop` is requested or the source has ended.
    pub fn run(&mut self, stop: &StopToken) {
        while !stop.requested() {
            if self.poll() == 0 && self.source.ended() {
                break;
            }
        }
    }

    /// The parts, first to last. The counters stay readable while another thread runs the pipeline.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let part = |name: &str, counters: &Arc<Counters>| Part {
            name: name.to_owned(),
            counters: Arc::clone(counters),
        };
        let mut parts = vec![part("source", &self.source_counters)];
        self.stages.describe(&mut parts);
        parts.push(part("sink", &self.sink_counters));
        parts
    }
}

/// Cycles that the parts of a pipeline spent on bursts with packets in them, together.
#[must_use]
pub fn busy_cycles(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.counters.cycles()).sum()
}
