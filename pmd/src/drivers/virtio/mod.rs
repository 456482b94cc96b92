//! Drivers of virtio-net devices: the queues, which are the same whatever carries their rings, and the ports.
//!
//! | file | |
//! |---|---|
//! | `rx`, `tx` | receiving and sending by a ring, as its driver |
//! | `reach` | what of our memory the device reaches |
//! | `rings` | where rings lie |
//! | `session` | bringing a device of another process up, and letting go of it |
//! | [`user`] | `net_virtio_user`: a device of another process, over vhost-user |

mod reach;
mod rings;
mod rx;
mod session;
mod tx;
pub mod user;
