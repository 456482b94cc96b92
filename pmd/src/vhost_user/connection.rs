//! Messages over a unix socket, with the descriptors that travel with them.
//!
//! A descriptor has an owner from the moment it arrives: whatever becomes of its message, it is closed unless
//! somebody keeps it. And nobody is waited for without an end: a peer may take as long as it likes before a message,
//! but within one, or while it does not read, it has only the time limit.

use core::fmt;
use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::FromBytes;

use super::error::{ProtocolError, VhostUserError};
use super::message::{MAX_FDS, payload_len};
use super::payload::{HEADER_LEN, Header};
use super::wake::{Waited, Wake, wait};

/// How long a peer may take within a message, unless another limit was set.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// A message as it came: its length is right, and nothing else was looked at.
#[derive(Debug)]
pub struct Received {
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// The descriptors that came along, at most 8.
    pub fds: Vec<OwnedFd>,
}

impl Received {
    /// The header.
    #[must_use]
    pub fn header(&self) -> Header {
        // `recv` returns nothing shorter than a header.
        Header::read_from_prefix(&self.bytes)
            .map_or(Header { request: 0, flags: 0, size: 0 }, |(header, _)| header)
    }
}

/// One end of a session's socket.
pub struct Connection {
    stream: UnixStream,
    limit: Duration,
    wake: Option<Wake>,
}

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        Self { stream, limit: TIME_LIMIT, wake: None }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("stream", &self.stream)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Over this stream, with [`TIME_LIMIT`].
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        stream.into()
    }

    /// The same with another time limit: for what the other side has begun, or was asked for.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same, and every wait ends with [`VhostUserError::Stopped`] when `wake` is raised.
    #[must_use]
    pub fn with_wake(mut self, wake: &Wake) -> Self {
        self.set_wake(wake);
        self
    }

    /// Lets every wait end with [`VhostUserError::Stopped`] when `wake` is raised.
    pub fn set_wake(&mut self, wake: &Wake) {
        self.wake = Some(wake.clone());
    }

    /// Lets waits end by the time limit alone, which is this one from now on.
    pub(super) fn forget_wake(&mut self, limit: Duration) {
        (self.wake, self.limit) = (None, limit);
    }

    /// What ends every wait, if anything does.
    pub(super) fn wake(&self) -> Option<&Wake> {
        self.wake.as_ref()
    }

    /// How long the other side may take within a message.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        self.limit
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Waits for a message to begin (or the other side to close) for as long as it takes, or until the wake is
    /// raised.
    ///
    /// # Errors
    /// [`VhostUserError::Io`] when the system does not wait.
    pub fn wait(&self) -> Result<Waited, VhostUserError> {
        self.poll(PollFlags::IN, None).map_err(VhostUserError::io("waiting for a message"))
    }

    /// Receives a message, which must begin within the time limit and end within it again. Nothing when the other
    /// side has closed the socket after its last message.
    ///
    /// # Errors
    /// [`VhostUserError`] when the message is too long or has too many descriptors, when the other side stalls or
    /// closes within it, or when the system does not receive. The connection is of no use afterwards.
    pub fn recv(&mut self) -> Result<Option<Received>, VhostUserError> {
        let mut received = Received { bytes: vec![0; HEADER_LEN], fds: Vec::new() };
        let mut deadline = Instant::now() + self.limit;
        let mut filled = 0;
        let mut whole = HEADER_LEN;
        while filled < whole {
            let buffer = received.bytes.get_mut(filled..).unwrap_or_default();
            match self.recv_some(buffer, &mut received.fds) {
                Ok(0) if filled == 0 => return Ok(None),
                Err(Reason::System(Errno::CONNRESET)) if filled == 0 => return Ok(None),
                Ok(0) | Err(Reason::System(Errno::CONNRESET)) => {
                    return Err(VhostUserError::Closed { doing: "a message" });
                }
                Ok(count) => {
                    if filled == 0 {
                        deadline = Instant::now() + self.limit;
                    }
                    filled += count;
                    if filled == HEADER_LEN && whole == HEADER_LEN {
                        whole += payload_len(received.header())?;
                        received.bytes.resize(whole, 0);
                    }
                }
                Err(Reason::System(Errno::AGAIN)) => self.ready(PollFlags::IN, "a message", deadline)?,
                Err(Reason::System(Errno::INTR)) => {}
                Err(Reason::System(errno)) => return Err(VhostUserError::io("receiving a message")(errno)),
                Err(Reason::TooManyFds) => return Err(ProtocolError::TooManyFds { most: MAX_FDS }.into()),
            }
        }
        Ok(Some(received))
    }

    /// Receives what is there, up to the length of the buffer.
    fn recv_some(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Reason> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(buffer)], &mut control, flags)
            .map_err(Reason::System)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                fds.extend(came);
            }
        }
        // The kernel has thrown away what did not fit.
        if got.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(Reason::TooManyFds);
        }
        Ok(got.bytes)
    }

    /// Sends a message, with descriptors beside it.
    ///
    /// # Errors
    /// [`VhostUserError`] when the other side has closed the socket, does not read within the time limit, or the
    /// system does not send. The connection is of no use afterwards.
    pub fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), VhostUserError> {
        let deadline = Instant::now() + self.limit;
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match send_some(&self.stream, rest, if sent == 0 { fds } else { &[] }) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => self.ready(PollFlags::OUT, "room for a message", deadline)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(VhostUserError::Closed { doing: "sending a message" });
                }
                Err(errno) => return Err(VhostUserError::io("sending a message")(errno)),
            }
        }
        Ok(())
    }

    fn poll(&self, what: PollFlags, deadline: Option<Instant>) -> Result<Waited, Errno> {
        wait(&[self.stream.as_fd()], what, self.wake.as_ref().map(AsFd::as_fd), deadline)
    }

    /// Waits until the socket is ready within a message.
    fn ready(&self, what: PollFlags, doing: &'static str, deadline: Instant) -> Result<(), VhostUserError> {
        match self.poll(what, Some(deadline)).map_err(VhostUserError::io("waiting for the socket"))? {
            Waited::Ready(_) => Ok(()),
            Waited::Woken => Err(VhostUserError::Stopped { doing: "waiting for the other side" }),
            Waited::TimedOut => Err(VhostUserError::Stalled { doing, limit: self.limit }),
        }
    }
}

/// Why nothing was received.
enum Reason {
    System(Errno),
    TooManyFds,
}

/// Sends as much as the socket takes at once. It takes the descriptors with the first byte.
pub(super) fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}
