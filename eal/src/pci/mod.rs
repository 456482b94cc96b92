//! PCI functions: found in sysfs, bound to a driver that hands them over, and driven from this process.
//!
//! | file | |
//! |---|---|
//! | [`PciAddress`] (`address`) | `0000:00:03.0` |
//! | [`PciFunction`] (`function`) | a function that this process has, as a driver sees it |
//! | [`open()`] (`open`) | takes a real one, by VFIO or UIO |
//! | `holder` | which driver of the kernel has it |
//! | `config`, `bars` | its configuration space and its registers, as files |
//! | [`capability`] | what its configuration space lists |

mod address;
pub(crate) mod bars;
pub mod capability;
pub(crate) mod config;
mod error;
mod function;
pub(crate) mod holder;
mod open;
#[cfg(test)]
pub(crate) mod tests;

pub use address::{PciAddress, PciAddressError};
pub use error::PciError;
pub use function::PciFunction;
pub(crate) use open::Shared;
pub use open::{Function, OpenOptions, open};
