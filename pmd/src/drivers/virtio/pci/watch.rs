//! The thread that watches a device: for changes of its configuration, for its end, and for the system that wants it back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use wirerate_eal::pci::PciFunction;

use super::shared::{Looked, Shared};
use crate::drivers::interrupts::Interrupts;
use crate::packet::MbufPool;
use crate::vhost_user::Wake;
use crate::vhost_user::wake::{Waited, wait};

/// How often a device that works is looked at, interrupts or not: a device that is unplugged by surprise does not tell.
const PERIOD: Duration = Duration::from_secs(1);

/// A running watch. Dropping it ends the thread and waits for that.
#[derive(Debug)]
pub(super) struct Watch {
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the device of `shared`: one that works with a `pool`, or one that is at rest, of which only the system that
    /// wants it back is told. None when there is nothing to watch.
    ///
    /// # Errors
    /// When the system gives no descriptor or thread.
    pub(super) fn begin<F: PciFunction>(
        shared: &Arc<Shared<F>>,
        pool: Option<MbufPool>,
    ) -> io::Result<Option<Self>> {
        let own = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| fd.try_clone_to_owned()).transpose();
        let (told, is_line, removal) = match shared.unit().as_ref() {
            Some(unit) => (
                own(unit.interrupts.config_fd())?,
                matches!(unit.interrupts, Interrupts::Line(_)),
                own(unit.function.removal())?,
            ),
            None => return Ok(None),
        };
        let told = told.map(|fd| Told { fd, is_line });
        if pool.is_none() && removal.is_none() {
            return Ok(None);
        }
        let wake = Wake::new()?;
        let (theirs, shared) = (wake.clone(), Arc::clone(shared));
        let thread = thread::Builder::new().name(shared.name.clone()).spawn(move || {
            run(&shared, told, removal.as_ref(), pool.as_ref(), &theirs);
        })?;
        Ok(Some(Self { wake, thread: Some(thread) }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.wake.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that watches a virtio device panicked");
        }
    }
}

/// What becomes readable when the configuration changes.
struct Told {
    fd: OwnedFd,
    /// An interrupt line: it is unmasked after the look, and its descriptor not read.
    is_line: bool,
}

fn run<F: PciFunction>(
    shared: &Shared<F>,
    mut told: Option<Told>,
    removal: Option<&OwnedFd>,
    pool: Option<&MbufPool>,
    wake: &Wake,
) {
    loop {
        let fds: Vec<BorrowedFd<'_>> =
            removal.into_iter().chain(told.as_ref().map(|told| &told.fd)).map(AsFd::as_fd).collect();
        let deadline = pool.map(|_| Instant::now() + PERIOD);
        let interrupt = match wait(&fds, PollFlags::IN, Some(wake.as_fd()), deadline) {
            Ok(Waited::Woken) => return,
            Ok(Waited::Ready(0)) if removal.is_some() => {
                shared.lose("the system wants the device back");
                return;
            }
            Ok(Waited::Ready(_)) => {
                if let Some(Told { fd, is_line: false }) = &told {
                    // An eventfd that is readable: this resets it, and does not wait.
                    let _ = rustix::io::read(fd, &mut [0; 8]);
                }
                true
            }
            Ok(Waited::TimedOut) => false,
            Err(error) => {
                tracing::error!("{}: cannot watch the device: {error}", shared.name);
                return;
            }
        };
        match pool.map(|pool| shared.look(interrupt, pool)) {
            Some(Looked::Gone) => return,
            Some(Looked::Rests) => told = None,
            Some(Looked::Works) | None => {}
        }
    }
}
