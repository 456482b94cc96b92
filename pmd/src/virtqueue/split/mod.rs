//! Split rings (virtio 1.2, 2.7): a table of descriptors, a ring of what is available, a ring of what is used.
//!
//! Each cache line that both sides write costs both of them a trip between their caches. So both sides of these rings
//! write an entry only when it changes: while buffers come round in order, the available ring always says the same, and
//! so does the used ring for packets of one length; then those lines stay in both caches, and only descriptors and
//! indices move.

mod device;
mod driver;

pub use device::SplitDevice;
pub use driver::SplitDriver;

/// Words before the entries of the available and the used ring: flags and index.
const FLAGS: usize = 0;
const INDEX: usize = 1;
const ENTRIES: usize = 2;
