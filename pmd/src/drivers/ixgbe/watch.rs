//! The thread that watches a device: for its counts and its link, for its end, and for the system that wants it back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use wirerate_eal::pci::PciFunction;

use super::shared::Shared;
use crate::drivers::interrupts::Interrupts;
use crate::vhost_user::Wake;
use crate::vhost_user::wake::{Waited, wait};

/// How often a device that works is looked at. Its counts of bytes, of 36 bits, are full after 55 s at 10 Gb/s.
const PERIOD: Duration = Duration::from_secs(1);

/// A running watch. Dropping it ends the thread and waits for that.
#[derive(Debug)]
pub(super) struct Watch {
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the device of `shared`, which works or is at rest; of one at rest only the system that wants it back is told.
    /// None when there is nothing to watch.
    ///
    /// # Errors
    /// When the system gives no descriptor or thread.
    pub(super) fn begin<F: PciFunction>(shared: &Arc<Shared<F>>) -> io::Result<Option<Self>> {
        let guard = shared.unit();
        let Some(unit) = guard.as_ref() else { return Ok(None) };
        let works = unit.is_awake();
        let own = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| fd.try_clone_to_owned()).transpose();
        let removal = own(unit.function.removal())?;
        let is_line = matches!(unit.interrupts, Interrupts::Line(_));
        let told = own(unit.interrupts.config_fd())?.map(|fd| Told { fd, is_line });
        drop(guard);
        if !works && removal.is_none() {
            return Ok(None);
        }
        let wake = Wake::new()?;
        let (theirs, shared) = (wake.clone(), Arc::clone(shared));
        let thread = thread::Builder::new()
            .name(shared.name.clone())
            .spawn(move || run(&shared, works, told.as_ref(), removal.as_ref(), &theirs))?;
        Ok(Some(Self { wake, thread: Some(thread) }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.wake.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that watches an 82599 panicked");
        }
    }
}

/// What becomes readable when the link changes.
struct Told {
    fd: OwnedFd,
    /// An interrupt line: it is unmasked after the look, and its descriptor not read.
    is_line: bool,
}

fn run<F: PciFunction>(
    shared: &Shared<F>,
    works: bool,
    told: Option<&Told>,
    removal: Option<&OwnedFd>,
    wake: &Wake,
) {
    let fds: Vec<BorrowedFd<'_>> =
        removal.into_iter().chain(told.map(|told| &told.fd)).map(AsFd::as_fd).collect();
    loop {
        let deadline = works.then(|| Instant::now() + PERIOD);
        match wait(&fds, PollFlags::IN, Some(wake.as_fd()), deadline) {
            Ok(Waited::Woken) => return,
            Ok(Waited::Ready(0)) if removal.is_some() => {
                shared.lose("the system wants the device back");
                return;
            }
            Ok(ready) => {
                let interrupt = ready != Waited::TimedOut;
                if let (true, Some(Told { fd, is_line: false })) = (interrupt, told) {
                    // An eventfd that is readable: this resets it, and does not wait.
                    let _ = rustix::io::read(fd, &mut [0; 8]);
                }
                if !shared.look(interrupt) {
                    return;
                }
            }
            Err(error) => {
                tracing::error!("{}: cannot watch the device: {error}", shared.name);
                return;
            }
        }
    }
}
