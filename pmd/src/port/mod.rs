//! What packets travel through: ports, their queues, what is counted, and how they are named and found.

mod counters;
mod devargs;
mod device;
mod error;
mod mend;
#[expect(clippy::module_inception, reason = "the port is what this room is about")]
mod port;
mod queue;
pub mod registry;
mod rss;

pub use counters::{Counters, DropReason, PortStats};
pub use devargs::DevArgs;
pub use device::{
    Device, DeviceInfo, DeviceQueues, DeviceStats, Held, Link, RegisterValue, RxDriver, TxDriver,
};
pub use error::PortError;
pub use port::{Configured, Opened, Port, PortConfig, Queues, Started, StillHeld};
pub use queue::{RxQueue, TxQueue};
pub use rss::{RssConfig, RssHash, RssInfo};
