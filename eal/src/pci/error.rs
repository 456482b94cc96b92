//! What goes wrong with PCI functions.

use super::PciAddress;
use crate::dma::DmaError;

/// Why a PCI function could not be found, bound, opened or used. The text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// There is no such function.
    #[error("{address}: there is no such PCI function; `wirerate bind` lists those that there are")]
    NotFound {
        /// Where it was looked for.
        address: PciAddress,
    },
    /// The machine or a program uses the function, and nobody asked to take it all the same.
    #[error("{address} is in use: {by}; end that first, or take it all the same (--force)")]
    InUse {
        /// The function.
        address: PciAddress,
        /// Who uses it and how, in words.
        by: String,
    },
    /// The function cannot be used so. `problem` says what was tried, what was found and what would mend it.
    #[error("{address}: {problem}")]
    Unusable {
        /// The function.
        address: PciAddress,
        /// In one line.
        problem: String,
    },
    /// A system call failed.
    #[error("{address}: {doing} failed: {source}")]
    System {
        /// The function.
        address: PciAddress,
        /// What was tried.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its memory could not be mapped.
    #[error(transparent)]
    Dma(#[from] DmaError),
}
