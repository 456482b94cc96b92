//! Memory pressure: a trigger of the kernel's pressure stall information (PSI), and a watcher that shrinks on
//! pressure and grows back when it is over. Linux, feature `psi`.
//!
//! PSI tells for what time some tasks, or all that are not idle, waited for memory. Who writes a line such as
//! `some 150000 1000000` to `/proc/pressure/memory` is told by `POLLPRI` if that was more than 150 ms within
//! one second, at most once a window (Linux, `Documentation/accounting/psi.rst`, "Monitoring for pressure
//! thresholds"). The trigger ends with its descriptor.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use wirerate_mempool::PoolError;
//! use wirerate_mempool::pressure::{Elastic, PressureConfig, PressureEvent, PressurePolicy};
//!
//! struct Chunks(std::sync::atomic::AtomicUsize);
//!
//! impl Elastic for Chunks {
//!     fn objects(&self) -> usize {
//!         self.0.load(std::sync::atomic::Ordering::Relaxed)
//!     }
//!     fn shrink(&self, keep: usize) -> usize {
//!         self.0.swap(keep, std::sync::atomic::Ordering::Relaxed).saturating_sub(keep) * 2048
//!     }
//!     fn grow(&self, to: usize) -> Result<usize, PoolError> {
//!         Ok(to - self.0.swap(to, std::sync::atomic::Ordering::Relaxed))
//!     }
//! }
//!
//! let config = PressureConfig::new(256, 1024).step(512);
//! let mut policy = PressurePolicy::new(Chunks(1024.into()), config)?;
//! let start = Instant::now();
//! policy.on(PressureEvent::Pressure, start);
//! assert_eq!(policy.elastic().objects(), 256);
//! policy.on(PressureEvent::Timeout, start + Duration::from_secs(10));
//! assert_eq!(policy.elastic().objects(), 768);
//! # Ok::<(), wirerate_mempool::pressure::PressureError>(())
//! ```
//!
//! With the kernel's events it is a [`PressureWatcher`] in a thread of its own:
//!
//! ```no_run
//! # use wirerate_mempool::pressure::*;
//! # use wirerate_mempool::RawPool;
//! # fn watch(pool: RawPool, stop: &std::sync::atomic::AtomicBool) -> Result<(), PressureError> {
//! let trigger = PressureTrigger::open(TriggerConfig::default())?;
//! let mut watcher = PressureWatcher::new(trigger, pool, PressureConfig::new(1024, 65536))?;
//! watcher.run(|| stop.load(std::sync::atomic::Ordering::Relaxed))
//! # }
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::{Pool, PoolError, Poolable, RawPool};

/// The file of the whole machine's memory pressure.
pub const SYSTEM_MEMORY: &str = "/proc/pressure/memory";

/// How long [`PressureWatcher::run`] waits before it asks again whether to stop.
const ASK_TO_STOP: Duration = Duration::from_millis(500);

/// Why there is no trigger, or no more events.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PressureError {
    /// The trigger is outside of what the kernel takes.
    #[error(
        "a pressure trigger of {stall_us} us in a window of {window_us} us: the window must be 500000 to \
         10000000 us, and the stall 1 us up to the window"
    )]
    BadTrigger {
        /// The stall asked, in microseconds.
        stall_us: u128,
        /// The window asked, in microseconds.
        window_us: u128,
    },
    /// The policy contradicts itself.
    #[error("a pressure policy with {what}: {mend}")]
    BadPolicy {
        /// What was found.
        what: String,
        /// What would mend it.
        mend: &'static str,
    },
    /// The kernel refused the trigger.
    #[error("{action} {path:?}: {source}; {mend}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The pressure file.
        path: PathBuf,
        /// What would mend it.
        mend: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The source of events has ended: its control group was removed.
    #[error("no more pressure events: the file's control group was removed; watch another file")]
    Gone,
    /// Waiting failed.
    #[error("waiting for a pressure event: {0}")]
    Wait(#[source] io::Error),
}

/// Whose waiting counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Time in which at least one task waited for memory.
    Some,
    /// Time in which all tasks that were not idle waited for memory.
    Full,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Some => "some",
            Self::Full => "full",
        })
    }
}

/// What a [`PressureTrigger`] watches. By default: some task waiting for 150 ms within 2 s, on the whole
/// machine; this window needs no privilege since Linux 6.5.
#[derive(Clone, Debug)]
pub struct TriggerConfig {
    /// The pressure file: [`SYSTEM_MEMORY`], or `memory.pressure` of a control group (version 2).
    pub path: PathBuf,
    /// Whose waiting counts.
    pub stall: Stall,
    /// How much waiting within the window is an event: 1 us up to the window.
    pub threshold: Duration,
    /// The window: 500 ms to 10 s; without CAP_SYS_RESOURCE a multiple of 2 s.
    pub window: Duration,
}

impl Default for TriggerConfig {
    fn default() -> Self {
        Self {
            path: SYSTEM_MEMORY.into(),
            stall: Stall::Some,
            threshold: Duration::from_millis(150),
            window: Duration::from_secs(2),
        }
    }
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PressureEvent {
    /// The threshold was passed.
    Pressure,
    /// Nothing happened for the time given, or a signal ended the wait before.
    Timeout,
    /// There will be no more events: the control group was removed.
    Gone,
}

/// Where events come from: a [`PressureTrigger`], or a fake in tests.
pub trait EventSource {
    /// Waits for an event, for at most `timeout`; may end before it as [`PressureEvent::Timeout`].
    ///
    /// # Errors
    /// [`PressureError::Wait`], when waiting is not possible.
    fn wait(&self, timeout: Duration) -> Result<PressureEvent, PressureError>;
}

/// A trigger in the kernel, which lasts as long as this value.
///
/// In an event loop of the caller's own, register its descriptor for priority events (`EPOLLPRI`, in mio
/// `Interest::PRIORITY`), and give what the loop reports to [`PressurePolicy::on`]: as
/// [`PressureEvent::Gone`] if it has the error flag, else as [`PressureEvent::Pressure`]. Do not call
/// [`wait`](EventSource::wait) after it: the poll that reports an event also takes it.
#[derive(Debug)]
pub struct PressureTrigger {
    file: File,
}

impl PressureTrigger {
    /// Opens the pressure file and arms the trigger.
    ///
    /// # Errors
    /// [`PressureError::BadTrigger`] for times out of range, [`PressureError::Refused`] when the file is not
    /// there or the kernel does not take the trigger.
    pub fn open(config: TriggerConfig) -> Result<Self, PressureError> {
        let TriggerConfig { path, stall, threshold, window } = config;
        let (stall_us, window_us) = (threshold.as_micros(), window.as_micros());
        if !(500_000..=10_000_000).contains(&window_us) || !(1..=window_us).contains(&stall_us) {
            return Err(PressureError::BadTrigger { stall_us, window_us });
        }
        let refused = |action, source: io::Error| {
            let mend = mend(&source, &path);
            PressureError::Refused { action, path: path.clone(), mend, source }
        };
        let mut file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|e| refused("opening", e))?;
        // Nothing is written to a file that is something else: it would be spoiled.
        let mut averages = String::new();
        file.read_to_string(&mut averages).map_err(|e| refused("reading", e))?;
        if !["some avg10=", "full avg10="].iter().any(|start| averages.starts_with(start)) {
            let other = io::Error::new(io::ErrorKind::InvalidData, "it has no pressure averages");
            return Err(refused("reading", other));
        }
        // The kernel takes the trigger from one write, and overwrites the last byte of it with a zero.
        let line = format!("{stall} {stall_us} {window_us}\0");
        file.write_all(line.as_bytes()).map_err(|e| refused("writing a trigger to", e))?;
        Ok(Self { file })
    }
}

/// What would mend a refusal.
fn mend(error: &io::Error, path: &Path) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) if path == Path::new(SYSTEM_MEMORY) => {
            "the kernel has no PSI (CONFIG_PSI) or it is off (boot with psi=1), or a container hides the file"
        }
        Some(Errno::NOENT) => {
            "name memory.pressure of a version 2 control group that exists and that this container sees; \
             PSI may be off (boot with psi=1)"
        }
        Some(Errno::OPNOTSUPP) => "PSI is off: boot with psi=1",
        Some(Errno::INVAL) => {
            "take a window that is a multiple of 2 s, or give CAP_SYS_RESOURCE; and check that this is a \
             pressure file"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "give write permission or CAP_SYS_RESOURCE; since Linux 6.5 a window that is a multiple of 2 s \
             needs no privilege"
        }
        Some(Errno::ROFS) => "the file is mounted read-only, as containers do: mount it writable",
        _ => "check that this is a pressure file",
    }
}

impl AsFd for PressureTrigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl EventSource for PressureTrigger {
    fn wait(&self, timeout: Duration) -> Result<PressureEvent, PressureError> {
        let mut fds = [PollFd::new(&self.file, PollFlags::PRI)];
        // A time that the kernel's type cannot hold is as good as for ever.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(PressureEvent::Timeout),
            // A removed group reports POLLPRI too.
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL) => Ok(PressureEvent::Gone),
            Ok(_) => Ok(PressureEvent::Pressure),
            Err(error) => Err(PressureError::Wait(error.into())),
        }
    }
}

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
