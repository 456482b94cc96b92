//! What can go wrong between a front end and a back end.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::codes::Code;
use crate::virtqueue::shared_memory::SharedMemoryError;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Fewer bytes than a header has.
    #[error("a message of {found} bytes; expected a header of 12")]
    Header {
        /// Bytes there are.
        found: usize,
    },
    /// Another version than 1.
    #[error("message {request}: flags {flags:#x} have another version than 1")]
    Version {
        /// Its number.
        request: u32,
        /// Its flags.
        flags: u32,
    },
    /// A reply where a request was expected, or a request for a reply.
    #[error("message {request}: flags {flags:#x}: expected a {expected}")]
    Direction {
        /// Its number.
        request: u32,
        /// Its flags.
        flags: u32,
        /// `request` or `reply`.
        expected: &'static str,
    },
    /// A reply to something else.
    #[error("a reply to request {found}; expected one to {expected}")]
    Reply {
        /// The request that was sent.
        expected: u32,
        /// The request that was answered.
        found: u32,
    },
    /// A number that no request has.
    #[error("request {request} is not known")]
    Unknown {
        /// The number.
        request: u32,
    },
    /// A request that belongs to a feature that was not offered.
    #[error("{code} belongs to a feature that was not offered")]
    NotOffered {
        /// The request.
        code: Code,
    },
    /// A payload longer than any message has.
    #[error("message {request}: a payload of {size} bytes; the longest has {longest}")]
    TooLong {
        /// Its number.
        request: u32,
        /// Bytes that it says it has.
        size: u32,
        /// Bytes that are read.
        longest: usize,
    },
    /// A payload that is not as long as the request wants it.
    #[error("message {request}: a payload of {found} bytes; expected {expected}")]
    Size {
        /// Its number.
        request: u32,
        /// Bytes that it has.
        found: usize,
        /// Bytes that it should have.
        expected: usize,
    },
    /// More or fewer descriptors than the request wants.
    #[error("message {request}: {found} file descriptors came along; expected {expected}")]
    Fds {
        /// Its number.
        request: u32,
        /// Descriptors that came.
        found: usize,
        /// Descriptors that should have come.
        expected: usize,
    },
    /// Too many descriptors for any message.
    #[error("more than {most} file descriptors came with one message")]
    TooManyFds {
        /// The most that a message has.
        most: usize,
    },
    /// A number out of its range.
    #[error("{code}: {what} is {found:#x}; expected {expected}")]
    Value {
        /// The request.
        code: Code,
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it could be.
        expected: &'static str,
    },
}

impl ProtocolError {
    /// Whether the message itself was whole, and is only one that cannot be served: its sender can be told so.
    #[must_use]
    pub fn refusable(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::NotOffered { .. } | Self::Value { .. })
    }
}

/// Why a session of vhost-user ended, or could not begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// The other side sent what the protocol does not allow.
    #[error("vhost-user: the other side breaks the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// A request that could not be served, from a peer that did not ask for an answer.
    #[error("vhost-user: {code} was refused: {reason}")]
    Refused {
        /// The request.
        code: Code,
        /// What was wrong.
        reason: String,
    },
    /// A request that the other side answered with a failure.
    #[error("vhost-user: the back end answered {code} with failure {answer}")]
    Failed {
        /// The request.
        code: Code,
        /// The answer.
        answer: u64,
    },
    /// The other side has not what is needed.
    #[error("vhost-user: the back end has no {what}")]
    Missing {
        /// What was needed.
        what: &'static str,
    },
    /// The other side stopped in the middle of a message, or does not answer.
    #[error("vhost-user: the other side kept this one waiting for {doing} for more than {limit:?}")]
    Stalled {
        /// What was waited for.
        doing: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The other side closed the socket.
    #[error("vhost-user: the other side closed the socket in the middle of {doing}")]
    Closed {
        /// What was being done.
        doing: &'static str,
    },
    /// This side was told to stop.
    #[error("vhost-user: stopped while {doing}")]
    Stopped {
        /// What was being done.
        doing: &'static str,
    },
    /// The system refused something.
    #[error("vhost-user: {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Memory of the other side could not be mapped.
    #[error("vhost-user: {0}")]
    Memory(#[from] SharedMemoryError),
}

impl VhostUserError {
    /// An error of the system while something was being done.
    pub(super) fn io(doing: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |errno| Self::Io { doing, source: errno.into() }
    }
}
