//! The thread that watches a device: for its counts and its link, for its end, and for the system that wants it back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::vhost_user::Wake;
use crate::vhost_user::wake::{Waited, wait};

/// How often a device that works is looked at. Its counts of bytes, of 36 bits, are full after 55 s at 10 Gb/s.
const PERIOD: Duration = Duration::from_secs(1);

/// What is watched: a device, and what belongs to it.
pub(super) trait Watched: Send + Sync + 'static {
    /// The device's name.
    fn name(&self) -> &str;

    /// How it is now; none when it is gone.
    ///
    /// # Errors
    /// When the system gives no descriptor.
    fn state(&self) -> io::Result<Option<State>>;

    /// Looks how a device that works is, after an `interrupt` or because it is time. False when it is gone, and all that
    /// belonged to it was given back.
    fn look(&self, interrupt: bool) -> bool;

    /// Gives up a device that is gone, or is wanted back.
    fn lose(&self, why: &str);
}

/// How a device is.
#[derive(Debug)]
pub(super) struct State {
    /// Not at rest.
    pub(super) works: bool,
    /// Readable when the system wants it back.
    pub(super) removal: Option<OwnedFd>,
    /// What it tells by, if it does.
    pub(super) told: Option<Told>,
}

/// What becomes readable when a device has something to tell.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) fd: OwnedFd,
    /// An interrupt line: it is unmasked after the look, and its descriptor not read.
    pub(super) is_line: bool,
}

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
    pub(super) fn begin<W: Watched>(shared: &Arc<W>) -> io::Result<Option<Self>> {
        let Some(State { works, removal, told }) = shared.state()? else { return Ok(None) };
        if !works && removal.is_none() {
            return Ok(None);
        }
        let wake = Wake::new()?;
        let (theirs, shared) = (wake.clone(), Arc::clone(shared));
        let thread = thread::Builder::new()
            .name(shared.name().to_owned())
            .spawn(move || run(&*shared, works, told.as_ref(), removal.as_ref(), &theirs))?;
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

fn run<W: Watched>(shared: &W, works: bool, told: Option<&Told>, removal: Option<&OwnedFd>, wake: &Wake) {
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
                tracing::error!("{}: cannot watch the device: {error}", shared.name());
                return;
            }
        }
    }
}
