//! Triggers in the kernel, and what comes of waiting for them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::PressureError;

/// The file of the whole machine's memory pressure.
pub const SYSTEM_MEMORY: &str = "/proc/pressure/memory";

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
