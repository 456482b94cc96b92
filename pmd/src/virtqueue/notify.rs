//! Doorbells: eventfds and registers by which one side tells the other that it has put something into a ring.
//!
//! A descriptor that comes from another process is never read, because a read could block, or take what a third party
//! waits for. A [`Bell`] is an epoll instance that hears the edges of such descriptors: it is readable when one was rung,
//! it is the same for as long as the queue lives, and descriptors come and go behind it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use wirerate_eal::mmio::Mmio;

/// What a sleeper waits for.
#[derive(Debug)]
pub struct Bell {
    heard: OwnedFd,
}

impl Bell {
    /// A bell that nobody rings yet.
    ///
    /// # Errors
    /// When the system gives no epoll instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self { heard: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Listens to `fd`, until that is closed by all who have it or [forgotten](Self::forget).
    ///
    /// # Errors
    /// When `fd` is of a kind that cannot tell of anything, a regular file for instance.
    pub fn listen_to(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // By edges: each ring is heard once, and nothing has to be read for that.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.heard, fd, epoll::EventData::new_u64(0), flags)?)
    }

    /// Listens to `fd` no more.
    pub fn forget(&self, fd: BorrowedFd<'_>) {
        // One that was never listened to is as good as forgotten.
        let _ = epoll::delete(&self.heard, fd);
    }

    /// Forgets all that was rung so far: it is readable again with the next ring.
    pub fn quiet(&self) {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
        let _ = epoll::wait(&self.heard, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    }
}

impl AsFd for Bell {
    /// Readable when somebody has rung.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}

/// What rings the other side's bell.
#[derive(Debug)]
pub struct Ringer {
    fd: OwnedFd,
}

impl Ringer {
    /// An eventfd of our own.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// A descriptor that the other side gave. It is set not to block, so that a counter that nobody reads does not stop
    /// us; both sides share that setting.
    ///
    /// # Errors
    /// When the setting cannot be made.
    pub fn from_peer(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(Self { fd })
    }

    /// Rings. Does not wait, unless the other side makes its descriptor wait again and fills the counter in the moment
    /// between a look at it and the write.
    #[cold]
    pub fn ring(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_room =
            poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&now)).is_ok_and(|ready| ready > 0);
        // A full counter has rung already; of any other error the other side is the only one to suffer.
        if has_room {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}

impl AsFd for Ringer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a driver tells its device of what it has put into a ring.
#[derive(Debug)]
pub(crate) enum Kick {
    /// By an eventfd, as over vhost-user.
    Event(Ringer),
    /// By a write to a register, as on PCI (virtio 1.2, 4.1.5.2).
    Register {
        /// The registers.
        registers: Arc<dyn Mmio>,
        /// Where in them, in bytes.
        offset: usize,
        /// The ring's number.
        ring: u16,
    },
}

impl Kick {
    /// Tells the device. Next to what that costs, a system call or a write to a device, the choice and the call by a table
    /// of methods are nothing.
    #[cold]
    pub(crate) fn ring(&self) {
        match self {
            Self::Event(ringer) => ringer.ring(),
            // What was written into the ring before goes before this write: `Mmio` promises that on every machine. On
            // x86-64 stores to memory and to device registers keep their order without more.
            Self::Register { registers, offset, ring } => registers.write16(*offset, *ring),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn is_readable(bell: &Bell) -> bool {
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn each_ring_is_heard_once_and_nothing_is_read() {
        let (bell, ringer) = (Bell::new().unwrap(), Ringer::new().unwrap());
        bell.listen_to(ringer.as_fd()).unwrap();
        assert!(!is_readable(&bell));
        for _ in 0..3 {
            ringer.ring();
            ringer.ring();
            assert!(is_readable(&bell));
            bell.quiet();
            assert!(!is_readable(&bell));
        }
        let mut count = [0; 8];
        rustix::io::read(&ringer.fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 6);
        bell.forget(ringer.as_fd());
        ringer.ring();
        assert!(!is_readable(&bell));
    }

    #[test]
    fn a_full_counter_does_not_block_and_a_file_is_refused() {
        let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let ringer = Ringer::from_peer(full).unwrap();
        ringer.ring();
        // The other side may change its mind.
        let flags = fcntl_getfl(&ringer.fd).unwrap();
        fcntl_setfl(&ringer.fd, flags - OFlags::NONBLOCK).unwrap();
        ringer.ring();
        let file = tempfile::tempfile().unwrap();
        assert!(Bell::new().unwrap().listen_to(file.as_fd()).is_err());
    }
}
