//! What goes wrong with an 82599.

use thiserror::Error;
use wirerate_eal::dma::DmaError;
use wirerate_eal::pci::PciError;

/// Why an 82599 cannot be driven. The text is one line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IxgbeError {
    /// Another device.
    #[error("it is {vendor:04x}:{device:04x}, which is no 82599, X540 or X550 that is driven here")]
    Foreign {
        /// The vendor's number.
        vendor: u16,
        /// The device's.
        device: u16,
    },
    /// Registers that are too few.
    #[error("its registers are {found:#x} bytes, and an 82599 has {needed:#x}")]
    Registers {
        /// Bytes that there are.
        found: usize,
        /// Bytes that are needed.
        needed: usize,
    },
    /// The device does not answer, or was unplugged.
    #[error("the device is gone: its registers read as all ones")]
    Gone,
    /// Something that the device does not finish.
    #[error(
        "{what} is not done after {milliseconds} ms: the register at {register:#07x} reads {value:#010x}; power it off and on"
    )]
    Late {
        /// What was waited for.
        what: &'static str,
        /// The register that tells.
        register: usize,
        /// What it read last.
        value: u32,
        /// How long it was waited for.
        milliseconds: u128,
    },
    /// Something that other software or the firmware does not let go of.
    #[error(
        "the {what} is held by others for {milliseconds} ms already: the register at {register:#07x} reads {value:#010x}"
    )]
    Held {
        /// What is held.
        what: &'static str,
        /// The register that tells.
        register: usize,
        /// What it read last.
        value: u32,
        /// How long it was waited for.
        milliseconds: u128,
    },
    /// No EEPROM.
    #[error("it has no EEPROM (EEC reads {eec:#010x}), and so no address and no settings")]
    NoEeprom {
        /// The register.
        eec: u32,
    },
    /// An EEPROM that is damaged.
    #[error(
        "the checksum of its EEPROM is {found:#06x} and should be {expected:#06x}: its settings are damaged"
    )]
    Checksum {
        /// What the last word of the sum says.
        found: u16,
        /// What it should say.
        expected: u16,
    },
    /// An address that cannot be a station's.
    #[error("its EEPROM gives it the address {0}, which can be no station's")]
    Address(crate::net::MacAddress),
    /// A module that is not to be used.
    #[error("the module in the cage, {module}, is {problem}: allow_unsupported_sfp=1 uses it all the same")]
    Module {
        /// What it says of itself.
        module: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A module whose identification is damaged.
    #[error(
        "the checksum of the module in the cage is {found:#04x} and should be {expected:#04x}: take it out and put it in again"
    )]
    ModuleChecksum {
        /// What the module says.
        found: u8,
        /// What it should say.
        expected: u8,
    },
    /// A module for which the board has no settings.
    #[error(
        "the EEPROM has no settings for modules of kind {number}, as the one in the cage is: another will work"
    )]
    NoSequence {
        /// Its number in the EEPROM's list.
        number: u16,
    },
    /// No PHY where one should be.
    #[error("no PHY answers at any of its 32 addresses")]
    NoPhy,
    /// Memory that was not mapped before the start.
    #[error("nothing is mapped for it: the port was not configured")]
    NotMapped,
    /// A ring that the device does not reach in one piece.
    #[error(
        "the device does not reach a ring of {size} descriptors in one piece: use hugepages or an IOMMU, or a smaller \
         queue_size"
    )]
    Ring {
        /// Descriptors.
        size: u16,
    },
    /// What the system refuses.
    #[error("{doing}: {source}")]
    System {
        /// What was done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// PCI itself.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Memory that cannot be mapped.
    #[error("mapping memory for the device: {0}")]
    Dma(#[from] DmaError),
    /// A physical function that does not answer.
    #[error(
        "its physical function does not answer {what} after {milliseconds} ms: look whether the driver of the port runs and its \
         link is set up"
    )]
    Silent {
        /// What it was asked for.
        what: &'static str,
        /// How long it was waited for.
        milliseconds: u128,
    },
    /// A physical function that does not do what it is asked for.
    #[error("its physical function refuses {what}: it is up to the port's administrator")]
    Refused {
        /// What it was asked for.
        what: &'static str,
    },
    /// A physical function that was reset since its virtual one was.
    #[error("its physical function was reset, and does nothing for it before it is reset itself, too")]
    NotClear,
    /// An answer that is none.
    #[error("its physical function answers {what} by {found:#010x}, which is no answer to it")]
    Nonsense {
        /// What it was asked for.
        what: &'static str,
        /// The first word of what it said.
        found: u32,
    },
}
