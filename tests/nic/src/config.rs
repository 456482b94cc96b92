//! The function's configuration space (datasheet, 9.3).

use super::registers::{BAR_LEN, VF_BAR_LEN};

/// The command register's bus master bit (9.3.2.2).
const COMMAND_MASTER: u32 = 1 << 2;
/// Device control starts a function-level reset (9.3.10.5).
const DEVICE_CONTROL_RESET: u32 = 1 << 15;

/// How many vectors MSI-X has (9.3.8.1), and that of a virtual function (9.4.4).
const VECTORS: u16 = 64;
const VF_VECTORS: u16 = 3;

/// Capabilities: power management, MSI, MSI-X and PCI Express (9.3.4).
const POWER: u16 = 0x40;
const MSI: u16 = 0x50;
const MSIX: u16 = 0x70;
const EXPRESS: u16 = 0xa0;

/// Words of a virtual function that can be written. Its BARs are where those of the device are, in a guest that has it;
/// the one of MSI-X is number 3.
const VF_WRITABLE: [(u16, u32); 9] = [
    (0x04, 0x0000_0547),
    (0x0c, 0x0000_00ff),
    (0x10, 0xffff_c000),
    (0x14, u32::MAX),
    (0x1c, 0xffff_c000),
    (0x20, u32::MAX),
    (0x3c, 0x0000_00ff),
    (MSIX, 0xc000_0000),
    (EXPRESS + 8, 0x0000_78ff),
];

/// Words that can be written, and which of their bits.
const WRITABLE: [(u16, u32); 11] = [
    (0x04, 0x0000_0547),
    (0x0c, 0x0000_00ff),
    (0x10, 0xfff8_0000),
    (0x14, u32::MAX),
    (0x20, 0xffff_c000),
    (0x24, u32::MAX),
    (0x3c, 0x0000_00ff),
    (POWER + 4, 0x0000_0103),
    (MSI, 0x0001_0000),
    (MSIX, 0xc000_0000),
    (EXPRESS + 8, 0x0000_78ff),
];

/// What writing meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was kept, as far as it can be written.
    Kept,
    /// The function is to be reset.
    Reset,
    /// Nothing of it can be written.
    Refused,
}

/// Configuration space.
#[derive(Debug)]
pub(crate) struct Config {
    words: [u32; 64],
    is_virtual: bool,
}

impl Config {
    /// Of the device, or of a virtual function.
    pub(crate) fn new(is_virtual: bool) -> Self {
        let words = if is_virtual { Self::of_virtual() } else { Self::of_device() };
        Self { words, is_virtual }
    }

    /// As after power-on, again.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.is_virtual);
    }

    /// How many vectors MSI-X has.
    pub(crate) fn vectors(&self) -> u16 {
        if self.is_virtual { VF_VECTORS } else { VECTORS }
    }

    /// Bytes of BAR 0.
    pub(crate) fn bar_len(&self) -> usize {
        if self.is_virtual { VF_BAR_LEN } else { BAR_LEN }
    }

    /// Whether it has INTx.
    pub(crate) fn has_line(&self) -> bool {
        !self.is_virtual
    }

    /// Which BAR has the MSI-X table; it has 16 KiB.
    pub(crate) fn msix_bar(&self) -> u8 {
        if self.is_virtual { 3 } else { 4 }
    }

    /// A virtual function's as a guest sees it: of its own it has neither an identity nor BARs (9.4.1).
    fn of_virtual() -> [u32; 64] {
        let mut words = [0u32; 64];
        let mut set = |offset: u16, value| words[usize::from(offset / 4)] = value;
        // 8086:10ed, a network controller of revision 1.
        set(0x00, 0x10ed_8086);
        set(0x04, 0x0010_0000);
        set(0x08, 0x0200_0001);
        set(0x2c, 0x0003_8086);
        set(0x10, 0x0000_000c);
        set(0x1c, 0x0000_000c);
        set(0x34, MSIX.into());
        set(MSIX, u32::from(VF_VECTORS - 1) << 16 | u32::from(EXPRESS) << 8 | 0x11);
        set(MSIX + 4, 0x0000_0003);
        set(MSIX + 8, 0x0000_2003);
        set(EXPRESS, 0x0002_0010);
        set(EXPRESS + 4, 0x1000_8cc2);
        set(EXPRESS + 12, 0x0042_7c82);
        set(EXPRESS + 36, 0x0000_001f);
        words
    }

    fn of_device() -> [u32; 64] {
        let mut words = [0u32; 64];
        let mut set = |offset: u16, value| words[usize::from(offset / 4)] = value;
        // 8086:10fb, a network controller of revision 1, of Intel's X520-2 boards.
        set(0x00, 0x10fb_8086);
        set(0x04, 0x0010_0000);
        set(0x08, 0x0200_0001);
        set(0x2c, 0x0003_8086);
        // BAR 0 has the registers, BAR 4 the MSI-X table; both have 64 bits and can be prefetched.
        set(0x10, 0x0000_000c);
        set(0x20, 0x0000_000c);
        set(0x34, POWER.into());
        set(0x3c, 0x0000_0100);
        set(POWER, 0x4823_0001 | u32::from(MSI) << 8);
        set(POWER + 4, 0x0000_2008);
        set(MSI, 0x0180_0005 | u32::from(MSIX) << 8);
        set(MSIX, u32::from(VECTORS - 1) << 16 | u32::from(EXPRESS) << 8 | 0x11);
        set(MSIX + 4, 0x0000_0004);
        set(MSIX + 8, 0x0000_2004);
        // An endpoint of version 2, with eight lanes at 5 GT/s.
        set(EXPRESS, 0x0002_0010);
        set(EXPRESS + 4, 0x1000_8cc2);
        set(EXPRESS + 8, 0x0000_2810);
        set(EXPRESS + 12, 0x0042_7c82);
        set(EXPRESS + 16, 0x1082_0000);
        set(EXPRESS + 36, 0x0000_001f);
        words
    }

    /// Four bytes at a multiple of 4; the extended space is there, and empty.
    pub(crate) fn read(&self, offset: u16) -> u32 {
        match self.words.get(usize::from(offset / 4)) {
            _ if !offset.is_multiple_of(4) || offset >= 4096 => u32::MAX,
            Some(word) => *word,
            None => 0,
        }
    }

    /// Writes the lowest `len` bytes of a value.
    pub(crate) fn write(&mut self, offset: u16, len: u8, value: u32) -> Written {
        let (word, shift) = (offset & !3, 8 * u32::from(offset & 3));
        let right = matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len.into());
        let writable = if self.is_virtual { &VF_WRITABLE[..] } else { &WRITABLE[..] };
        let Some((_, mask)) = writable.iter().find(|(writable, _)| right && *writable == word) else {
            return Written::Refused;
        };
        let bytes = if len == 4 { u32::MAX } else { ((1 << (8 * u32::from(len))) - 1) << shift };
        let value = value << shift;
        if word == EXPRESS + 8 && value & bytes & DEVICE_CONTROL_RESET != 0 {
            return Written::Reset;
        }
        let mask = mask & bytes;
        let kept = &mut self.words[usize::from(word / 4)];
        *kept = *kept & !mask | value & mask;
        Written::Kept
    }

    pub(crate) fn is_master(&self) -> bool {
        self.words[1] & COMMAND_MASTER != 0
    }

    pub(crate) fn set_master(&mut self, on: bool) {
        self.words[1] = self.words[1] & !COMMAND_MASTER | if on { COMMAND_MASTER } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_written_is() {
        let mut config = Config::new(false);
        assert_eq!(config.write(0, 4, 0), Written::Refused);
        assert_eq!(config.write(5, 2, 0), Written::Refused);
        assert_eq!(config.write(4, 2, 0x0406), Written::Kept);
        assert_eq!((config.read(4), config.is_master()), (0x0010_0406, true));
        assert_eq!(config.write(0xaa, 2, 0xffff), Written::Kept);
        assert_eq!(config.write(0xa8, 2, 0xa810), Written::Reset);
        assert_eq!(config.read(0xa8), 0x2810);
        assert_eq!((config.read(0x104), config.read(4096), config.read(2)), (0, u32::MAX, u32::MAX));
        config.set_master(false);
        assert_eq!(config.read(4), 0x0010_0402);
    }
}
