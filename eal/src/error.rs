//! Why there is no environment.

use crate::memory::MemoryError;
use crate::options::OptionsError;

/// Why an [`Eal`](crate::Eal) could not be made. The text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EalError {
    /// The command line is wrong, or asked for help.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// An lcore is to run on a CPU that is not there or that this process may not use.
    #[error(
        "lcore {lcore} cannot run on CPU {cpu}: this process may use CPUs {allowed}; choose from these by -l, as in \
         -l {lcore}@{example}"
    )]
    NoSuchCpu {
        /// The lcore.
        lcore: u32,
        /// The CPU.
        cpu: u32,
        /// The CPUs that may be used, as a list.
        allowed: String,
        /// One of them.
        example: u32,
    },
    /// The main lcore is not one of the lcores.
    #[error("the main lcore {lcore} is not one of the lcores {lcores}: add it to -l, or choose one of these")]
    MainLcore {
        /// The lcore asked for.
        lcore: u32,
        /// The lcores that there are, as a list.
        lcores: String,
    },
    /// There is no memory of the kind asked for.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl EalError {
    /// The exit code of a program that ends by this: 2, or 0 when it was asked for a text.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Options(error) => error.exit_code(),
            _ => 2,
        }
    }
}
