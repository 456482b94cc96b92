//! Waiting for a socket without ever waiting for ever.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, retry_on_intr};

/// Tells a thread that waits on sockets to stop. Clones are the same one; once raised, it stays so.
#[derive(Debug, Clone)]
pub struct Wake {
    fd: Arc<OwnedFd>,
}

impl Wake {
    /// A new one, not raised.
    ///
    /// # Errors
    /// When the system gives no descriptor.
    pub fn new() -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Wakes whoever waits, now or later.
    pub fn raise(&self) {
        // It can only fail when the counter is full, and then it is raised already.
        let _ = rustix::io::write(&*self.fd, &1_u64.to_ne_bytes());
    }

    /// Whether it was raised.
    #[must_use]
    pub fn raised(&self) -> bool {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The descriptor at this place of those given has something, or was closed on the other side.
    Ready(usize),
    /// The [`Wake`] was raised.
    Woken,
    /// The time is over.
    TimedOut,
}

/// Waits until one of the descriptors is ready for `what`, the wake is raised, or the deadline has passed. The wake
/// comes first when several are ready.
pub(crate) fn wait(
    fds: &[BorrowedFd<'_>],
    what: PollFlags,
    wake: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
) -> Result<Waited, Errno> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, what)).collect();
    polled.extend(wake.map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN)));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        retry_on_intr(|| poll(&mut polled, timeout.as_ref()))?;
        if polled.get(fds.len()).is_some_and(|wake| !wake.revents().is_empty()) {
            return Ok(Waited::Woken);
        }
        if let Some(ready) = polled.iter().position(|fd| !fd.revents().is_empty()) {
            return Ok(Waited::Ready(ready));
        }
        if left == Some(Duration::ZERO) {
            return Ok(Waited::TimedOut);
        }
    }
}
