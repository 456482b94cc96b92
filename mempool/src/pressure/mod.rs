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
use std::io;
use std::path::PathBuf;

mod policy;
mod trigger;

pub use policy::{Elastic, PressureConfig, PressureCounts, PressurePolicy, PressureWatcher};
pub use trigger::{EventSource, PressureEvent, PressureTrigger, SYSTEM_MEMORY, Stall, TriggerConfig};

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
