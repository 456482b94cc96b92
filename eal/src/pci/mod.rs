//! PCI functions: found in sysfs, bound to a driver that hands them over, and driven from this process.
//!
//! | file | |
//! |---|---|
//! | [`PciAddress`] (`address`) | `0000:00:03.0` |
//! | [`PciFunction`] (`function`) | a function that this process has, as a driver sees it |

mod address;
mod error;
mod function;

pub use address::{PciAddress, PciAddressError};
pub use error::PciError;
pub use function::PciFunction;
