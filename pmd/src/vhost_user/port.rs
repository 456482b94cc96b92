//! What the ports at both ends of vhost-user have in common: where the peer is found, and how many queues there are.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::Endpoint;
use crate::port::{DevArgs, PortError};

/// The most pairs of queues: requests of vhost-user name 256 rings.
pub(crate) const MAX_PAIRS: u16 = 128;

/// How a port finds its peer.
#[derive(Debug)]
pub(crate) enum Place {
    /// By a socket's path.
    Path {
        /// The path.
        path: PathBuf,
        /// Whether the port listens there, or connects.
        server: bool,
    },
    /// By one stream, for one session.
    Stream(Option<UnixStream>),
}

impl Place {
    /// Where the control thread is to look.
    ///
    /// # Errors
    /// When the stream was used up by the session before.
    pub(crate) fn endpoint(&mut self, device: &str) -> Result<Endpoint, PortError> {
        match self {
            Self::Path { path, server: true } => Ok(Endpoint::Server(path.clone())),
            Self::Path { path, server: false } => Ok(Endpoint::Client(path.clone())),
            Self::Stream(stream) => {
                stream.take().map(Endpoint::Stream).ok_or_else(|| PortError::Configuration {
                    device: device.to_owned(),
                    problem: "its stream was used by the session before".to_owned(),
                })
            }
        }
    }
}

/// Takes the number of pairs of queues out of devargs; 1 unless given.
pub(crate) fn take_pairs(args: &mut DevArgs) -> Result<u16, PortError> {
    const QUEUES: &str = "pairs of queues, 1 to 128";
    let pairs = args.take::<u16>("queues", QUEUES)?.unwrap_or(1);
    if (1..=MAX_PAIRS).contains(&pairs) {
        return Ok(pairs);
    }
    Err(args.bad("queues", &pairs.to_string(), &format!("expected {QUEUES}")))
}
