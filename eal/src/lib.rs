//! The machine as a value: hugepages, lcores, clock, topology and PCI functions for poll-mode programs.
//!
//! An [`Eal`] is made from DPDK's own option names ([`Eal::from_args`]), from [`EalOptions`], or by a
//! [builder](Eal::builder). It needs no privilege and no set-up: what the machine does not offer is left out,
//! and [`Eal::memory_report`] says what was missing and which command mends it. There is no global state, so
//! many may live in one process, and dropping one gives everything back.
//!
//! ```
//! use wirerate_eal::{Eal, MemoryRequest};
//!
//! let eal = Eal::builder().no_huge(true).build()?;
//! let rings = eal.reserve(MemoryRequest::new(1 << 20).name("rings").shared(true))?;
//! let first = eal.main_lcore().id();
//! let sum = eal.scope(|scope| {
//!     let lcore = scope.launch(first, |lcore| {
//!         let mut sum = 0;
//!         while sum < 1000 && !lcore.stop().requested() {
//!             sum += 1;
//!         }
//!         sum
//!     })?;
//!     lcore.join()
//! })??;
//! assert_eq!(sum, 1000);
//! println!("{}", eal.memory_report());
//! # drop(rings);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#[cfg(not(target_os = "linux"))]
compile_error!("wirerate-eal talks to the Linux kernel and runs nowhere else");

pub mod clock;
mod cpulist;
pub mod dma;
mod eal;
mod error;
pub mod lcore;
#[cfg(feature = "logging")]
pub mod logging;
pub mod memory;
pub mod mmio;
pub mod options;
pub mod pci;
mod stop;
mod system;
pub mod topology;
mod uio;
mod vfio;
pub mod wait;

pub use clock::Clock;
pub use eal::{Eal, EalBuilder};
pub use error::EalError;
pub use lcore::{Lcore, LcoreContext, LcoreError, LcoreHandle, LcoreScope};
pub use memory::{MemoryError, MemoryReport, MemoryRequest, PageKind, Region, hugetlb};
pub use options::{EalOptions, OptionsError, one_line};
pub use stop::StopToken;
pub use system::SystemRoot;
pub use topology::Topology;
pub use wait::{IdlePolicy, Idler};
