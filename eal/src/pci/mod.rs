//! PCI functions: found in sysfs, bound to a driver that hands them over, and driven from this process.
//!
//! | file | |
//! |---|---|
//! | [`PciAddress`] (`address`) | `0000:00:03.0` |
//! | [`PciDevice`], [`scan`], [`find`] (`device`) | what sysfs tells of the machine's functions |
//! | [`DriverCandidates`] (`modules`) | which kernel drivers could have a function |
//! | [`Binder`] (`bind`) | gives a function to another kernel driver, and gives it back |
//! | [`SelectedPci`] (`select`) | those that a command line selects |
//! | [`PciFunction`] (`function`) | a function that this process has, as a driver sees it |
//! | [`open()`] (`open`) | takes a real one, by VFIO or UIO |
//! | `holder` | which driver of the kernel has it |
//! | `config`, `bars` | its configuration space and its registers, as files |
//! | [`capability`] | what its configuration space lists |

mod address;
pub(crate) mod bars;
mod bind;
pub mod capability;
pub(crate) mod config;
mod device;
mod error;
mod function;
pub(crate) mod holder;
mod modules;
mod open;
mod select;
#[cfg(test)]
pub(crate) mod tests;

pub use address::{PciAddress, PciAddressError};
pub use bind::{Binder, Bound, KernelControl, MEMORY, RealKernel};
pub use device::{HANDOVER_DRIVERS, PciDevice, PciInterface, find, scan};
pub use error::PciError;
pub use function::PciFunction;
pub use modules::DriverCandidates;
pub(crate) use open::Shared;
pub use open::{Function, OpenOptions, open};
pub use select::{PciDevargs, PciDevargsError, SelectedPci, select};
