//! The second socket of a session, over which the back end has requests of its own.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

use crate::vhost_user::codes::BackEndCode;
use crate::vhost_user::connection::send_some;
use crate::vhost_user::message::encode;

/// Tells the front end what changed. Clones are the same one, and may be used by any thread.
#[derive(Debug, Clone, Default)]
pub struct BackChannel {
    stream: Arc<Mutex<Option<UnixStream>>>,
}

impl BackChannel {
    /// Tells the front end that the configuration changed (the link's state, for instance), so that it reads it
    /// again. Returns whether it was told: it is not when there is no front end, when it did not ask for this, or
    /// when it has not read what it was told before. Never waits.
    pub fn config_changed(&self) -> bool {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = stream.as_ref() else { return false };
        let message = encode(BackEndCode::ConfigChange as u32, 0, &[]);
        match send_some(socket, &message, &[]) {
            Ok(sent) if sent == message.len() => true,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
            // Closed by the other side, or left in the middle of a message.
            Ok(_) | Err(_) => {
                *stream = None;
                false
            }
        }
    }

    /// Takes the socket that the front end gave, instead of the one before.
    pub(super) fn set(&self, fd: OwnedFd) -> Result<(), String> {
        let unix_stream = socket_domain(&fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
        if !unix_stream {
            return Err("the descriptor is no unix stream socket".into());
        }
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(fd.into());
        Ok(())
    }

    /// Closes it.
    pub(super) fn close(&self) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
