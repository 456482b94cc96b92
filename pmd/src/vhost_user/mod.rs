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
//! | [`backend`] | the back end: one session, and the device that it serves |
//! | [`frontend`] | the front end: one session |
//! | `port` | what the ports at both ends have in common |
//! | [`endpoint`] | where peers come from, and the thread that serves them |
//! | [`error`] | what can go wrong |

pub mod backend;
pub mod codes;
pub mod connection;
pub mod endpoint;
pub mod error;
pub mod frontend;
pub mod message;
pub mod payload;
pub(crate) mod port;
pub mod wake;

pub use backend::{BackChannel, BackEnd, Device, Ended, RingSetup};
pub use connection::Connection;
pub use endpoint::{ControlThread, Endpoint, EndpointError};
pub use error::{ProtocolError, VhostUserError};
pub use frontend::{Events, FrontEnd, MemoryRegion, NetConfig, RingAddresses, Watch};
pub use message::{Request, parse};
pub use wake::{Waited, Wake};

#[cfg(test)]
mod tests;
