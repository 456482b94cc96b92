//! Virtqueues: the rings by which a driver and a device hand each other buffers in shared memory.
//!
//! | room | what is in it |
//! |---|---|
//! | [`features`] | what both sides agree on |
//! | [`layout`] | how rings lie in memory |
//! | [`driver`] | the side that makes buffers available: [`DriverRing`] |
//! | [`device`] | the side that uses them: [`DeviceRing`] |
//! | [`split`], [`packed`] | both sides of the two kinds of rings |
//! | [`shared_memory`] | the driver's memory, as the device has mapped it |
//! | [`net_header`] | what stands before each packet |
//! | [`notify`] | doorbells: eventfds and registers, and what a sleeper waits for |
//!
//! Each side checks all that the other writes: an index, an identifier, a length, a chain's end.

pub(crate) mod copy;
pub mod device;
pub mod driver;
pub mod features;
pub mod layout;
pub mod net_header;
pub(crate) mod net_offload;
pub mod notify;
pub mod packed;
pub mod shared_memory;
pub mod split;
#[cfg(test)]
mod tests;

pub use device::{AnyDeviceRing, BadChain, Chain, DeviceRing, Head};
pub use driver::{AnyDriverRing, Broken, Buffer, Direction, DriverRing, Table};
pub use features::Features;
pub use layout::{Descriptor, Format, Lengths, RingArea};
pub use net_header::NetHeader;
pub(crate) use notify::Kick;
pub use notify::{Bell, Ringer};
pub use shared_memory::SharedMemory;
