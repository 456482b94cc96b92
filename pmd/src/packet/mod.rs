//! What travels: packet buffers, the pools they come from, and the bursts they travel in.

mod blank;
mod burst;
mod chain;
mod dynamic;
mod header;
mod mbuf;
mod metadata;
mod offload;
mod pool;
mod share;
#[cfg(test)]
mod tests;

pub(crate) use blank::{Blank, Blanks, Parked};
pub(crate) use burst::Filler;
pub use burst::{Burst, MAX_BURST};
pub use chain::{ChainError, Segments};
pub use dynamic::{DynField, DynLayout};
pub use mbuf::{Mbuf, TooShort};
pub(crate) use metadata::Found;
pub use offload::{Offload, TxLengths};
pub use pool::{MbufPool, MbufPoolConfig, MbufPoolError};

/// Bytes kept free in front of a fresh packet's data, for headers to be prepended (DPDK's
/// `RTE_PKTMBUF_HEADROOM`).
pub const HEADROOM: usize = 128;
