//! When to shrink, and when to grow again.

use std::time::{Duration, Instant};

use super::{EventSource, PressureError, PressureEvent};
use crate::{Pool, PoolError, Poolable, RawPool};

/// How long [`PressureWatcher::run`] waits before it asks again whether to stop.
const ASK_TO_STOP: Duration = Duration::from_millis(500);

/// What can be made smaller and larger while it is used.
pub trait Elastic {
    /// How many objects there are now, free or not.
    fn objects(&self) -> usize;

    /// Gives back memory, down to `keep` objects or as far as it is possible now; tells how many bytes.
    fn shrink(&self, keep: usize) -> usize;

    /// Grows up to `to` objects; tells how many were added.
    ///
    /// # Errors
    /// As the pool tells, when there is no memory.
    fn grow(&self, to: usize) -> Result<usize, PoolError>;
}

impl Elastic for RawPool {
    fn objects(&self) -> usize {
        self.counts().size
    }

    fn shrink(&self, keep: usize) -> usize {
        Self::shrink(self, keep).bytes
    }

    fn grow(&self, to: usize) -> Result<usize, PoolError> {
        Self::grow(self, to)
    }
}

impl<T: Poolable + ?Sized> Elastic for Pool<T> {
    fn objects(&self) -> usize {
        self.counts().size
    }

    fn shrink(&self, keep: usize) -> usize {
        Self::shrink(self, keep).bytes
    }

    fn grow(&self, to: usize) -> Result<usize, PoolError> {
        Self::grow(self, to)
    }
}

impl<E: Elastic + ?Sized> Elastic for &E {
    fn objects(&self) -> usize {
        (**self).objects()
    }

    fn shrink(&self, keep: usize) -> usize {
        (**self).shrink(keep)
    }

    fn grow(&self, to: usize) -> Result<usize, PoolError> {
        (**self).grow(to)
    }
}

/// How to shrink and to grow.
#[derive(Clone, Copy, Debug)]
pub struct PressureConfig {
    floor: usize,
    bound: usize,
    percent: u8,
    calm: Duration,
    every: Duration,
    step: usize,
}

impl PressureConfig {
    /// Between `floor` and `bound` objects: all above the floor goes at events; after 10 s of calm an eighth
    /// of what lies between comes back each second.
    #[must_use]
    pub fn new(floor: usize, bound: usize) -> Self {
        let step = bound.saturating_sub(floor).div_ceil(8).max(1);
        let (calm, every) = (Duration::from_secs(10), Duration::from_secs(1));
        Self { floor, bound, percent: 100, calm, every, step }
    }

    /// How much of what lies above the floor goes at each event: 1 to 100 percent, rounded up.
    #[must_use]
    pub fn percent(self, percent: u8) -> Self {
        Self { percent, ..self }
    }

    /// How long there must be no event before it grows.
    #[must_use]
    pub fn calm(self, calm: Duration) -> Self {
        Self { calm, ..self }
    }

    /// The time from one step of growth to the next: more than zero.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// How many objects a step of growth adds: at least one.
    #[must_use]
    pub fn step(self, step: usize) -> Self {
        Self { step, ..self }
    }

    fn check(&self) -> Result<(), PressureError> {
        let bad = |what, mend| Err(PressureError::BadPolicy { what, mend });
        if self.floor > self.bound {
            return bad(format!("floor {} above bound {}", self.floor, self.bound), "take a lower floor");
        }
        if !(1..=100).contains(&self.percent) {
            return bad(format!("{} percent an event", self.percent), "take 1 to 100");
        }
        if self.step == 0 || self.every.is_zero() || self.calm.is_zero() {
            return bad("a zero step, interval or calm time".to_owned(), "take more than zero");
        }
        Ok(())
    }
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureCounts {
    /// Events of pressure.
    pub events: u64,
    /// Bytes given back.
    pub bytes: u64,
    /// Steps of growth that added objects.
    pub grown: u64,
    /// Steps of growth that failed or added nothing; the next one waits for the calm time again.
    pub not_grown: u64,
}

/// Shrinks and grows by events and times that are given to it.
#[derive(Debug)]
pub struct PressurePolicy<E> {
    elastic: E,
    config: PressureConfig,
    /// When to grow next; `None` while there is nothing to grow back.
    due: Option<Instant>,
    counts: PressureCounts,
}

impl<E: Elastic> PressurePolicy<E> {
    /// A policy for `elastic`.
    ///
    /// # Errors
    /// [`PressureError::BadPolicy`] when `config` contradicts itself.
    pub fn new(elastic: E, config: PressureConfig) -> Result<Self, PressureError> {
        config.check()?;
        Ok(Self { elastic, config, due: None, counts: PressureCounts::default() })
    }

    /// Does what is to be done for `event` at the time `now`. It grows only what an event made smaller.
    pub fn on(&mut self, event: PressureEvent, now: Instant) {
        match event {
            PressureEvent::Pressure => self.shrink(now),
            PressureEvent::Timeout if self.due.is_some_and(|due| due <= now) => self.grow(now),
            PressureEvent::Timeout | PressureEvent::Gone => {}
        }
    }

    fn shrink(&mut self, now: Instant) {
        self.counts.events += 1;
        let above = self.elastic.objects().saturating_sub(self.config.floor);
        if above > 0 {
            // In u128, for a product of any size.
            let part = (above as u128 * u128::from(self.config.percent)).div_ceil(100) as usize;
            let keep = self.config.floor + above - part;
            self.counts.bytes += self.elastic.shrink(keep) as u64;
        }
        self.due = (self.elastic.objects() < self.config.bound).then(|| now + self.config.calm);
    }

    fn grow(&mut self, now: Instant) {
        let objects = self.elastic.objects();
        let to = objects.saturating_add(self.config.step).min(self.config.bound);
        let wait = if to <= objects {
            None
        } else if self.elastic.grow(to).is_ok_and(|added| added > 0) {
            self.counts.grown += 1;
            (self.elastic.objects() < self.config.bound).then_some(self.config.every)
        } else {
            self.counts.not_grown += 1;
            Some(self.config.calm)
        };
        self.due = wait.map(|wait| now + wait);
    }

    /// How long it is until it wants to grow; `None` when it does not.
    #[must_use]
    pub fn until_due(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> PressureCounts {
        self.counts
    }

    /// What it shrinks and grows.
    pub fn elastic(&self) -> &E {
        &self.elastic
    }
}

/// A [`PressurePolicy`] fed by a source of events.
#[derive(Debug)]
pub struct PressureWatcher<S, E> {
    source: S,
    policy: PressurePolicy<E>,
}

impl<S: EventSource, E: Elastic> PressureWatcher<S, E> {
    /// Watches `source` for `elastic`.
    ///
    /// # Errors
    /// [`PressureError::BadPolicy`] when `config` contradicts itself.
    pub fn new(source: S, elastic: E, config: PressureConfig) -> Result<Self, PressureError> {
        Ok(Self { source, policy: PressurePolicy::new(elastic, config)? })
    }

    /// Waits for at most `timeout`, or less when growth is due before, and does what is to be done.
    ///
    /// # Errors
    /// [`PressureError::Gone`] when no more events will come, [`PressureError::Wait`] when waiting failed.
    pub fn step(&mut self, timeout: Duration) -> Result<PressureEvent, PressureError> {
        let due = self.policy.until_due(Instant::now());
        let event = self.source.wait(due.map_or(timeout, |due| due.min(timeout)))?;
        self.policy.on(event, Instant::now());
        if event == PressureEvent::Gone { Err(PressureError::Gone) } else { Ok(event) }
    }

    /// Watches until `stop` says so, which is asked after each wait, at least twice a second.
    ///
    /// # Errors
    /// As of [`step`](Self::step).
    pub fn run(&mut self, stop: impl Fn() -> bool) -> Result<(), PressureError> {
        while !stop() {
            self.step(ASK_TO_STOP)?;
        }
        Ok(())
    }

    /// The policy, with its counts.
    pub fn policy(&self) -> &PressurePolicy<E> {
        &self.policy
    }

    /// The source of events, for its descriptor.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The policy, for loops that wait by themselves.
    pub fn policy_mut(&mut self) -> &mut PressurePolicy<E> {
        &mut self.policy
    }
}
