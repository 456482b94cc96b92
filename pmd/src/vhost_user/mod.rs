//! vhost-user: how two processes agree on virtqueues in shared memory, over a unix socket.
//!
//! The front end owns the memory and fills it with packets to be sent and buffers to be filled; the back end maps
//! that memory and works on the rings in it. A guest's virtual machine monitor is a front end, and so is
//! `net_virtio_user`; `net_vhost` is a back end. The authority is the vhost-user specification
//! (`docs/interop/vhost-user.rst` of QEMU).
//!
//! | file | |
//! |---|---|
//! | [`codes`], [`payload`] | numbers and structures |
//! | [`message`] | one message from and to bytes, every field checked |
//! | [`connection`], [`wake`] | messages and descriptors over a socket, with time limits |
//! | [`error`] | what can go wrong |

pub mod codes;
pub mod connection;
pub mod error;
pub mod message;
pub mod payload;
pub mod wake;

pub use connection::Connection;
pub use error::{ProtocolError, VhostUserError};
pub use message::{Request, parse};
pub use wake::{Waited, Wake};
