//! Device registers, behind one small trait: mapped from a real device, or played by a model.
//!
//! A driver is written for any [`Mmio`] and compiled for the one it gets, so that a model costs a real device nothing.

use std::fmt;

mod bar;

pub use bar::Bar;

/// Registers at byte offsets, little-endian as PCI has them.
///
/// What lies outside reads as all ones and takes no writes, like a device that is gone. Accesses are not reordered among
/// themselves, and a write is not overtaken by stores to memory that come before it in the program.
pub trait Mmio: Send + Sync + fmt::Debug + 'static {
    /// Bytes of registers.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads two bytes; `offset` is a multiple of 2.
    fn read16(&self, offset: usize) -> u16;
    /// Reads four bytes; `offset` is a multiple of 4.
    fn read32(&self, offset: usize) -> u32;
    /// Writes a byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes two bytes; `offset` is a multiple of 2.
    fn write16(&self, offset: usize, value: u16);
    /// Writes four bytes; `offset` is a multiple of 4.
    fn write32(&self, offset: usize, value: u32);
}
