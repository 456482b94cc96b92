//! What keeps cards going: a thread that steps them while there is something to do.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use wirerate_nic::Card;

/// How long to sleep at most: time goes by for a link that comes up.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Steps after a sleep: cards count time in steps, and wait so long with what they tell at last.
const STEPS: usize = 100;

/// What servers and the thread say to each other.
#[derive(Debug)]
struct Shared {
    /// Accesses that want a card now. A lock that is taken again and again lets nobody else in, so the thread waits.
    wanted: AtomicUsize,
    sleeps: AtomicBool,
    ends: AtomicBool,
    wake: OwnedFd,
}

/// The thread; it ends with the value.
#[derive(Debug)]
pub(super) struct Pump {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A server's part: it tells when it has to do with a card.
#[derive(Debug, Clone)]
pub(super) struct Work(Arc<Shared>);

impl Work {
    /// Before a card is accessed.
    pub(super) fn before(&self) {
        self.0.wanted.fetch_add(1, SeqCst);
    }

    /// After that: there may be something to do now.
    pub(super) fn after(&self) {
        self.0.wanted.fetch_sub(1, SeqCst);
        self.0.wake();
    }
}

impl Shared {
    fn wake(&self) {
        if self.sleeps.swap(false, SeqCst) {
            // It fails only when nobody has read for 2^64 times.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Pump {
    /// Keeps `cards` going. A frame may be there for one of them when one of `plugs` is readable.
    pub(super) fn start(cards: Vec<Arc<Card>>, plugs: Vec<OwnedFd>) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("making an eventfd")?;
        let shared = Arc::new(Shared {
            wanted: AtomicUsize::new(0),
            sleeps: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            wake,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || run(&theirs, &cards, &plugs));
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn work(&self) -> Work {
        Work(Arc::clone(&self.shared))
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // What it panicked with was printed.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, cards: &[Arc<Card>], plugs: &[OwnedFd]) {
    let step = || {
        let mut works = false;
        for card in cards {
            while shared.wanted.load(SeqCst) > 0 {
                std::thread::yield_now();
            }
            works |= card.model().step();
        }
        works
    };
    while !shared.ends.load(SeqCst) {
        if step() {
            // Servers that have got a message may have their turn first.
            std::thread::yield_now();
            continue;
        }
        // What comes after this wakes, what came before is seen by one step more.
        shared.sleeps.store(true, SeqCst);
        if !step() && !shared.ends.load(SeqCst) {
            let all = std::iter::once(&shared.wake).chain(plugs);
            let mut waits: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            // Woken or not, the next step will tell.
            let _ = poll(&mut waits, Some(&NAP));
        }
        shared.sleeps.store(false, SeqCst);
        let _ = (0..STEPS).any(|_| step());
        let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
    }
}
