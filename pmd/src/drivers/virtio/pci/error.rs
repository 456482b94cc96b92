//! What goes wrong with virtio devices on PCI.

use thiserror::Error;
use wirerate_eal::dma::DmaError;
use wirerate_eal::pci::PciError;

/// Why a virtio-net device on PCI cannot be driven. The text is one line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VirtioPciError {
    /// Another device.
    #[error("it is {vendor:04x}:{device:04x}, which is no virtio network device")]
    Foreign {
        /// The vendor's number.
        vendor: u16,
        /// The device's.
        device: u16,
    },
    /// A device that has only the interface from before virtio 1.0.
    #[error(
        "it has no virtio 1.0 interface, and the legacy one is not driven here: give it one (QEMU: disable-modern=off)"
    )]
    Legacy,
    /// A part of the interface that is not there, or not where it is said to be.
    #[error("its {what} cannot be used: {problem}")]
    Structure {
        /// Which part (virtio 1.2, 4.1.4).
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A device that takes device addresses for physical ones, while they are an IOMMU's (virtio 1.2, 6.1).
    #[error(
        "it goes past the IOMMU (no VIRTIO_F_ACCESS_PLATFORM), and what it was told to write would go anywhere: let it go \
         through (QEMU: iommu_platform=on), or bind it to uio_pci_generic on a machine without an IOMMU"
    )]
    PastIommu,
    /// The device does not answer, or was unplugged.
    #[error("the device is gone: its registers read as all ones")]
    Gone,
    /// A device that does not finish its reset.
    #[error(
        "it does not finish its reset: its status was {status:#04x} after {milliseconds} ms; power it off and on"
    )]
    Reset {
        /// The device status (2.1).
        status: u8,
        /// How long it was waited for.
        milliseconds: u128,
    },
    /// A feature that is needed, and not offered.
    #[error("it does not offer {what}")]
    Missing {
        /// The feature.
        what: &'static str,
    },
    /// A device that takes none of what it has offered.
    #[error("it does not accept features {features:#x} out of those that it offers")]
    Features {
        /// What was asked for.
        features: u64,
    },
    /// A configuration that changes whenever it is read.
    #[error("its configuration does not stand still: it changed in each of {tries} readings")]
    Unstable {
        /// How often it was read.
        tries: u32,
    },
    /// A queue that cannot be set up.
    #[error("its queue {queue} cannot be used: {problem}")]
    Queue {
        /// The queue's number.
        queue: u16,
        /// What is wrong.
        problem: String,
    },
    /// A command that the device refuses.
    #[error("it refuses {what}")]
    Refused {
        /// The command.
        what: &'static str,
    },
    /// A command that is not answered.
    #[error("it does not answer {what}; its control queue rests until the port is started anew")]
    Silent {
        /// The command.
        what: &'static str,
    },
    /// PCI itself.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Memory that cannot be mapped.
    #[error("mapping memory for the device: {0}")]
    Dma(#[from] DmaError),
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
