//! A cable between a guest's interface and a test: each datagram on a pair of unix sockets is a frame.
//!
//! Nothing is lost on it: the kernel lets a few datagrams wait (`net.unix.max_dgram_qlen`), whatever the buffers'
//! size; then QEMU waits for the test, and the test is told to come again.

use std::cell::Cell;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// The longest datagram that is taken whole: a TCP segment of 64 KiB with its headers.
pub(super) const LONGEST: usize = 66_000;
/// Time for a guest's interface to take a frame.
const SEND: Duration = Duration::from_secs(10);

/// The test's end.
#[derive(Debug)]
pub struct Wire {
    socket: UnixDatagram,
    near: PathBuf,
    far: PathBuf,
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Wire {
    /// Makes one, with its sockets in `folder`, which is the test's own. `name` is told from others there.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let (near, far) = ends(folder, name);
        let socket = UnixDatagram::bind(&near).with_context(|| format!("making {}", near.display()))?;
        Ok(Self { socket, near, far, sent: Cell::new(0), received: Cell::new(0) })
    }

    /// The sockets' paths: this end's, and the guest's.
    pub(crate) fn ends(&self) -> (&Path, &Path) {
        (&self.near, &self.far)
    }

    /// Sends a frame, unless the other end has as many as it can hold; whether it was sent.
    ///
    /// # Errors
    /// When there is no guest at the other end.
    pub fn try_send(&self, frame: &[u8]) -> Result<bool> {
        self.socket.set_nonblocking(true)?;
        match self.socket.send_to(frame, &self.far) {
            Ok(_) => {
                self.sent.set(self.sent.get() + 1);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).with_context(|| format!("sending a frame to {}", self.far.display())),
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the other end takes none for some seconds, or there is no guest.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        wait::until("the guest to take a frame", SEND, || self.try_send(frame))
    }

    /// The next frame, if one comes within `limit`, which must not be zero.
    ///
    /// # Errors
    /// When the socket fails, or the frame is longer than any.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(limit))?;
        self.take()
    }

    /// The next frame, if there is one.
    ///
    /// # Errors
    /// When the socket fails, or the frame is longer than any.
    pub fn try_receive(&self) -> Result<Option<Vec<u8>>> {
        self.socket.set_nonblocking(true)?;
        self.take()
    }

    /// Takes what comes until nothing has come for `pause`; how many frames that were.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn drain(&self, pause: Duration) -> Result<u64> {
        let mut count = 0;
        while self.receive(pause)?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Frames sent until now.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Frames received until now.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    fn take(&self) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; LONGEST];
        match self.socket.recv(&mut frame) {
            Ok(LONGEST) => bail!("a frame of {LONGEST} bytes or more came from {}", self.far.display()),
            Ok(length) => {
                frame.truncate(length);
                self.received.set(self.received.get() + 1);
                Ok(Some(frame))
            }
            // The first on a socket that does not block, the other when the time is over.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error).context("receiving a frame"),
        }
    }
}

/// Where the sockets of the wire `name` are: the test's, and the guest's.
pub(super) fn ends(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{name}.test")), folder.join(format!("{name}.guest")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A wire whose far end is this, in place of a guest.
    pub(crate) fn with_far_end(folder: &Path, name: &str) -> (Wire, UnixDatagram) {
        let wire = Wire::new(folder, name).unwrap();
        let far = UnixDatagram::bind(&wire.far).unwrap();
        far.connect(&wire.near).unwrap();
        (wire, far)
    }

    #[test]
    fn frames_come_and_go_and_nothing_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let alone = Wire::new(folder.path(), "alone").unwrap();
        assert!(alone.try_send(b"frame").is_err(), "nobody is there");
        let (wire, far) = with_far_end(folder.path(), "wire");
        assert_eq!(wire.receive(Duration::from_millis(1)).unwrap(), None);
        assert_eq!(wire.try_receive().unwrap(), None);
        far.send(b"one").unwrap();
        far.send(b"two").unwrap();
        assert_eq!(wire.receive(Duration::from_secs(5)).unwrap().unwrap(), b"one");
        assert_eq!(wire.try_receive().unwrap().unwrap(), b"two");
        far.send(&[0; LONGEST]).unwrap();
        assert!(wire.try_receive().is_err());
        let mut sent = 0;
        while wire.try_send(b"frame").unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
        assert_eq!((wire.sent(), wire.received()), (sent, 2));
    }
}
