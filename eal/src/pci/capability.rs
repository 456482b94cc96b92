//! What a function's configuration space lists of its abilities (PCI 3.0, 6.7; PCI Express 5.0, 7.6.3).
//!
//! A list comes from the device, so nothing in it is believed: offsets out of range and lists that turn round end it.

use super::PciFunction;

/// An entry of the list of the first 256 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// What it is: 0x09 is the vendor's own, 0x10 PCI Express, 0x11 MSI-X.
    pub id: u8,
    /// Where it begins, a multiple of 4 from 0x40 to 0xfc.
    pub offset: u16,
}

/// An entry of the list from byte 256 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// What it is.
    pub id: u16,
    /// In which version, 0 to 15.
    pub version: u8,
    /// Where it begins, a multiple of 4 from 0x100 to 0xffc.
    pub offset: u16,
}

/// The number of a capability that the vendor defines. Its third byte is its length.
pub const VENDOR: u8 = 0x09;

/// The status register says that there is a list.
const STATUS_LIST: u32 = 1 << 20;
/// Where the list's first offset is, for functions and bridges, and for bridges to CardBus.
const LIST: u16 = 0x34;
const LIST_CARDBUS: u16 = 0x14;

/// The capabilities in the order of their list.
#[must_use]
pub fn capabilities<F: PciFunction + ?Sized>(function: &F) -> Vec<Capability> {
    let status = function.config_read(0x04);
    if status == u32::MAX || status & STATUS_LIST == 0 {
        return Vec::new();
    }
    // The header's kind (PCI 3.0, 6.1).
    let list = match function.config_read(0x0c) >> 16 & 0x7f {
        0 | 1 => LIST,
        2 => LIST_CARDBUS,
        _ => return Vec::new(),
    };
    let mut found: Vec<Capability> = Vec::new();
    let mut next = function.config_read(list) & 0xff;
    loop {
        // The lowest two bits are reserved. The offset fits: it has 8 bits.
        let offset = next as u16 & 0xfc;
        if offset < 0x40 || found.iter().any(|capability| capability.offset == offset) {
            return found;
        }
        let head = function.config_read(offset);
        if head == u32::MAX {
            return found;
        }
        found.push(Capability { id: head as u8, offset });
        next = head >> 8 & 0xff;
    }
}

/// The extended capabilities in the order of their list; none for a function without PCI Express.
#[must_use]
pub fn extended_capabilities<F: PciFunction + ?Sized>(function: &F) -> Vec<ExtendedCapability> {
    let mut found: Vec<ExtendedCapability> = Vec::new();
    let mut offset = 0x100;
    loop {
        if offset < 0x100 || found.iter().any(|capability| capability.offset == offset) {
            return found;
        }
        let head = function.config_read(offset);
        // A list that is empty is one entry of zeroes.
        if head == u32::MAX || head == 0 {
            return found;
        }
        found.push(ExtendedCapability { id: head as u16, version: (head >> 16 & 0xf) as u8, offset });
        offset = (head >> 20) as u16 & 0xffc;
    }
}

/// Reads bytes of the configuration space, as for a vendor's capability; bytes that are not there are ones.
pub fn read<F: PciFunction + ?Sized>(function: &F, offset: u16, bytes: &mut [u8]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        let at = usize::from(offset) + at;
        *byte = match u16::try_from(at) {
            Ok(at) => function.config_read(at & !3).to_le_bytes()[usize::from(at & 3)],
            Err(_) => u8::MAX,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::sync::Arc;

    use super::super::{PciAddress, PciError};
    use super::*;
    use crate::dma::DmaSpace;
    use crate::mmio::Bar;

    /// Configuration space and nothing else.
    #[derive(Debug)]
    struct Config(Vec<u8>);

    impl Config {
        fn new(first: u8, bytes: &[(usize, &[u8])]) -> Self {
            let mut config = vec![0; 4096];
            config[6] = 0x10;
            config[0x34] = first;
            for (at, bytes) in bytes {
                config[*at..*at + bytes.len()].copy_from_slice(bytes);
            }
            Self(config)
        }

        fn list(&self) -> Vec<(u8, u16)> {
            capabilities(self).iter().map(|capability| (capability.id, capability.offset)).collect()
        }

        fn extended(&self) -> Vec<(u16, u16)> {
            extended_capabilities(self).iter().map(|capability| (capability.id, capability.offset)).collect()
        }
    }

    impl PciFunction for Config {
        type Bar = Bar;
        fn address(&self) -> PciAddress {
            unreachable!()
        }
        fn config_read(&self, offset: u16) -> u32 {
            assert!(offset.is_multiple_of(4));
            let at = usize::from(offset);
            self.0
                .get(at..at + 4)
                .map_or(u32::MAX, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        }
        fn config_write(&self, _: u16, _: u8, _: u32) {}
        fn bar(&self, _: u8) -> Result<Arc<Bar>, PciError> {
            unreachable!()
        }
        fn dma(&self) -> Arc<dyn DmaSpace> {
            unreachable!()
        }
        fn set_bus_master(&self, _: bool) -> Result<(), PciError> {
            unreachable!()
        }
        fn reset(&self) -> Result<bool, PciError> {
            unreachable!()
        }
        fn msix_vectors(&self) -> u16 {
            unreachable!()
        }
        fn enable_msix(&self, _: u16) -> Result<Vec<OwnedFd>, PciError> {
            unreachable!()
        }
        fn enable_intx(&self) -> Result<OwnedFd, PciError> {
            unreachable!()
        }
        fn unmask_intx(&self) {}
        fn disable_interrupts(&self) {}
        fn removal(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    #[test]
    fn a_list_is_walked_to_its_end() {
        let config = Config::new(0x98, &[(0x98, &[0x11, 0x84]), (0x84, &[0x09, 0x43]), (0x40, &[0x01, 0])]);
        assert_eq!(config.list(), [(0x11, 0x98), (0x09, 0x84), (0x01, 0x40)]);
        let config = Config::new(0, &[(0x100, &[1, 0, 2, 0x14]), (0x140, &[3, 0, 1, 0])]);
        assert_eq!(config.extended(), [(1, 0x100), (3, 0x140)]);
        assert_eq!(extended_capabilities(&config)[0].version, 2);
        assert!(config.list().is_empty());
    }

    #[test]
    fn a_list_that_turns_round_or_leaves_ends() {
        let config = Config::new(0x40, &[(0x40, &[9, 0x50]), (0x50, &[9, 0x40])]);
        assert_eq!(config.list(), [(9, 0x40), (9, 0x50)]);
        assert_eq!(Config::new(0x43, &[(0x40, &[9, 0x40])]).list(), [(9, 0x40)]);
        assert_eq!(Config::new(0x40, &[(0x40, &[9, 0x3c])]).list(), [(9, 0x40)]);
        assert_eq!(Config::new(0xfc, &[(0xfc, &[9, 0xff])]).list(), [(9, 0xfc)]);
        assert!(Config::new(0x10, &[]).list().is_empty());
        assert!(Config::new(0x40, &[(0x0e, &[3])]).list().is_empty());
        assert!(Config::new(0x40, &[(6, &[0])]).list().is_empty());
        // All entries, each pointing to the next, and the last to itself.
        let mut config = Config::new(0x40, &[]);
        for at in (0x40..0x100).step_by(4) {
            config.0[at..at + 2].copy_from_slice(&[9, (at + 4).min(0xfc) as u8]);
        }
        for at in (0x100..0x1000).step_by(4) {
            let head = 1 | ((at as u32 + 4).min(0xffc)) << 20;
            config.0[at..at + 4].copy_from_slice(&head.to_le_bytes());
        }
        assert_eq!((config.list().len(), config.extended().len()), (48, 960));
        let back = Config::new(0, &[(0x100, &[1, 0, 1, 0x04])]);
        assert_eq!(back.extended(), [(1, 0x100)]);
    }

    #[test]
    fn a_function_that_is_gone_or_small_has_none() {
        let gone = Config(vec![0xff; 4096]);
        assert!(gone.list().is_empty() && gone.extended().is_empty());
        let mut small = Config::new(0x40, &[(0x40, &[9, 0])]);
        small.0.truncate(256);
        assert_eq!((small.list().len(), small.extended().len()), (1, 0));
    }

    #[test]
    fn bytes_are_read_from_anywhere() {
        let config = Config::new(0, &[(0x41, &[1, 2, 3, 4, 5]), (0xffe, &[6, 7])]);
        let mut bytes = [0; 5];
        read(&config, 0x41, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 5]);
        read(&config, 0xffe, &mut bytes);
        assert_eq!(bytes, [6, 7, 0xff, 0xff, 0xff]);
        read(&config, 0xffff, &mut bytes);
        assert_eq!(bytes, [0xff; 5]);
    }
}
