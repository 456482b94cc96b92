//! The other end of a card's cable as datagrams on unix sockets, a frame each: those of a test's
//! [`Wire`](crate::guest::Wire), or of another program.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use anyhow::{Context, Result};
use wirerate_nic::Wire;

/// Frames that wait for a slow other side; those after them are lost.
const MOST: usize = 4096;
/// The longest datagram that is taken whole.
const LONGEST: usize = 66_000;

/// Where the sockets are.
#[derive(Debug, Clone)]
pub struct Wires {
    /// The card's, which is made.
    pub own: PathBuf,
    /// The other side's, which is there.
    pub other: PathBuf,
}

impl Wires {
    /// Those at the other end of a test's.
    #[must_use]
    pub fn to(wire: &crate::guest::Wire) -> Self {
        let (near, far) = wire.ends();
        Self { own: far.to_owned(), other: near.to_owned() }
    }
}

/// A card's end.
#[derive(Debug)]
pub(super) struct Plug {
    socket: UnixDatagram,
    waiting: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Plug {
    pub(super) fn new(wires: Wires) -> Result<Self> {
        let Wires { own, other } = wires;
        let socket = UnixDatagram::bind(&own).with_context(|| format!("making {}", own.display()))?;
        socket.connect(&other).with_context(|| format!("connecting to {}", other.display()))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, waiting: VecDeque::new(), buffer: vec![0; LONGEST] })
    }

    /// What is readable when a frame has come.
    pub(super) fn waits_on(&self) -> Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Sends what waits, as far as the other side takes it. What fails otherwise has nobody to be told, as on a cable.
    fn flush(&mut self) {
        while let Some(frame) = self.waiting.front() {
            match self.socket.send(frame) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                _ => drop(self.waiting.pop_front()),
            }
        }
    }
}

impl Wire for Plug {
    fn send(&mut self, frame: Vec<u8>) {
        if self.waiting.len() < MOST {
            self.waiting.push_back(frame);
        }
        self.flush();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.flush();
        let length = self.socket.recv(&mut self.buffer).ok()?;
        Some(self.buffer[..length].to_vec())
    }
}
