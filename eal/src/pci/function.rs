//! A PCI function that this process has, as a driver sees it.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{PciAddress, PciError};
use crate::dma::DmaSpace;
use crate::mmio::Mmio;

/// A PCI function, real or a model. Dropping the last handle gives it back: interrupts are off, it is no bus master, and
/// was reset if it can be.
pub trait PciFunction: Send + Sync + fmt::Debug + 'static {
    /// What its registers are reached by.
    type Bar: Mmio;

    /// Where it is.
    fn address(&self) -> PciAddress;

    /// Reads four bytes of the configuration space at a multiple of 4 (PCI 3.0, 6.1); all ones when the function is gone
    /// or has no such bytes.
    fn config_read(&self, offset: u16) -> u32;

    /// Writes `len` bytes (1, 2 or 4) of the configuration space, the lowest of `value`, at a multiple of `len`. A real
    /// function is not to be put to sleep so (PCI Power Management): reading its registers then ends the process.
    fn config_write(&self, offset: u16, len: u8, value: u32);

    /// The registers of base address register `index`, 0 to 5. Asking twice gives the same mapping.
    ///
    /// # Errors
    /// [`PciError`] when there are none, they are not in memory, or they cannot be mapped.
    fn bar(&self, index: u8) -> Result<Arc<Self::Bar>, PciError>;

    /// Where memory is mapped for it.
    fn dma(&self) -> Arc<dyn DmaSpace>;

    /// Whether it may access memory by itself. Off until asked for.
    ///
    /// # Errors
    /// [`PciError`] when its command register cannot be written.
    fn set_bus_master(&self, on: bool) -> Result<(), PciError>;

    /// Resets the function, if it can be; false if it cannot.
    ///
    /// # Errors
    /// [`PciError`] when a reset that it should have failed.
    fn reset(&self) -> Result<bool, PciError>;

    /// How many MSI-X vectors it has that can be used; 0 without MSI-X.
    fn msix_vectors(&self) -> u16;

    /// Switches MSI-X on with vectors 0 to `count` - 1, each of which makes its descriptor, an eventfd, readable until it
    /// is read. Interrupts that were on before are off.
    ///
    /// # Errors
    /// [`PciError`] when there are not so many, or the system refuses.
    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError>;

    /// Switches the INTx interrupt on, which makes the descriptor readable, and is masked then until
    /// [`unmask_intx`](Self::unmask_intx). Interrupts that were on before are off. The descriptor is to be waited for and
    /// not to be read: how many bytes that would be differs.
    ///
    /// # Errors
    /// [`PciError`] when there is none, or the system refuses.
    fn enable_intx(&self) -> Result<OwnedFd, PciError>;

    /// Lets INTx come again, after what it told of was looked at, and its descriptor wait for that.
    fn unmask_intx(&self);

    /// Switches all interrupts off.
    fn disable_interrupts(&self);

    /// A descriptor that becomes readable when the system wants the function back, because it is to be unplugged or its
    /// driver unbound; the system then waits until all handles are dropped. None where it does not tell.
    fn removal(&self) -> Option<BorrowedFd<'_>>;
}
