//! Drivers of virtio-net devices: the queues, which are the same whatever carries their rings, and the ports.
//!
//! | file | |
//! |---|---|
//! | `rx`, `tx` | receiving and sending by a ring, as its driver |
//! | `rings` | where rings lie |
//! | `pairs` | making queues over them |
//! | `state` | what is known of a device |
//! | `session` | bringing a device of another process up, and letting go of it |
//! | [`pci`] | `net_virtio`: a device on PCI |
//! | [`user`] | `net_virtio_user`: a device of another process, over vhost-user |

mod pairs;
pub mod pci;
mod rings;
mod rx;
mod session;
mod state;
mod tx;
pub mod user;
