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

mod address;
mod bind;
mod device;
mod error;
mod function;
mod modules;
mod select;

pub use address::{PciAddress, PciAddressError};
pub use bind::{Binder, Bound, KernelControl, MEMORY, RealKernel};
pub use device::{HANDOVER_DRIVERS, PciDevice, PciInterface, find, scan};
pub use error::PciError;
pub use function::PciFunction;
pub use modules::DriverCandidates;
pub use select::{PciDevargs, PciDevargsError, SelectedPci, select};
