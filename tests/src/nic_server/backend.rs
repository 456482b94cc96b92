//! What QEMU asks of a card by vfio-user.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::sync::Arc;

use vfio_bindings::bindings::vfio;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};
use wirerate_nic::{Card, Mode};

use super::pump::Work;
use super::{Manner, vectors};

/// A card, as its server has it.
pub(super) struct Backend {
    card: Arc<Card>,
    work: Work,
    /// Of MSI-X.
    vectors: u32,
    has_msix: bool,
}

/// Where the capability of MSI says which comes next, and what it says without MSI-X: PCI Express's (datasheet, 9.3.4).
const AFTER_MSI: u64 = 0x51;
const EXPRESS: u8 = 0xa0;

fn refused(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, problem)
}

impl Backend {
    pub(super) fn new(card: Arc<Card>, work: Work, manner: Manner) -> Self {
        Self { card, work, vectors: vectors(manner.is_virtual), has_msix: manner.has_msix }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.card.read_config(offset, data);
        let place = AFTER_MSI.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        if let (false, Some(next)) = (self.has_msix, place.and_then(|at| data.get_mut(at))) {
            *next = EXPRESS;
        }
    }

    /// The other side is gone, and its memory with it.
    pub(super) fn leave(&self) {
        self.work.before();
        self.card.tell_nobody();
        self.card.power_on();
        if let Err(error) = self.card.memory().unmap_files(0, u64::MAX) {
            eprintln!("vfio-user: {error}");
        }
        self.work.after();
    }

    /// Which kind of interrupt an index of VFIO means, and how many there are.
    fn kind(&self, index: u32) -> Result<(Mode, u32), Error> {
        match index {
            vfio::VFIO_PCI_INTX_IRQ_INDEX => Ok((Mode::Line, 1)),
            vfio::VFIO_PCI_MSI_IRQ_INDEX => Ok((Mode::Msi, 1)),
            vfio::VFIO_PCI_MSIX_IRQ_INDEX => Ok((Mode::Msix, self.vectors)),
            _ => Err(refused("no such kind of interrupt")),
        }
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        self.work.before();
        match region {
            vfio::VFIO_PCI_BAR0_REGION_INDEX => self.card.read_bar(offset, data),
            vfio::VFIO_PCI_CONFIG_REGION_INDEX => self.read_config(offset, data),
            // What is behind the MSI-X table that QEMU has in its place.
            _ => data.fill(0),
        }
        self.work.after();
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.work.before();
        match region {
            vfio::VFIO_PCI_BAR0_REGION_INDEX => self.card.write_bar(offset, data),
            vfio::VFIO_PCI_CONFIG_REGION_INDEX => self.card.write_config(offset, data),
            _ => {}
        }
        self.work.after();
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> Result<(), Error> {
        // What is no file is not reached: firmware, which no driver gives to a device.
        let Some(file) = fd else { return Ok(()) };
        let writable = flags.contains(DmaMapFlags::WRITE);
        self.card.memory().map_file(&file, offset, address, size, writable)
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> Result<(), Error> {
        let all = flags.contains(DmaUnmapFlags::UNMAP_ALL);
        let (address, size) = if all { (0, u64::MAX) } else { (address, size) };
        self.card.memory().unmap_files(address, size)
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.work.before();
        self.card.power_on();
        self.work.after();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> Result<(), Error> {
        // Errors and requests to let it go: it has none to tell.
        if matches!(index, vfio::VFIO_PCI_ERR_IRQ_INDEX | vfio::VFIO_PCI_REQ_IRQ_INDEX) {
            return Ok(());
        }
        let (kind, most) = self.kind(index)?;
        let end = start.checked_add(count).filter(|end| *end <= most);
        let end = end.ok_or_else(|| refused("there are not so many vectors"))?;
        let action = flags & vfio::VFIO_IRQ_SET_ACTION_TYPE_MASK;
        let data = flags & vfio::VFIO_IRQ_SET_DATA_TYPE_MASK;
        match (action, data) {
            (vfio::VFIO_IRQ_SET_ACTION_TRIGGER, vfio::VFIO_IRQ_SET_DATA_NONE) if count == 0 => {
                self.work.before();
                self.card.tell_nobody();
                self.work.after();
            }
            (vfio::VFIO_IRQ_SET_ACTION_TRIGGER, vfio::VFIO_IRQ_SET_DATA_EVENTFD)
                if fds.is_empty() || fds.len() == count as usize =>
            {
                self.work.before();
                self.card.tell_by(kind, start as u16, super::events(fds, count as usize));
                self.work.after();
            }
            (
                action @ (vfio::VFIO_IRQ_SET_ACTION_MASK | vfio::VFIO_IRQ_SET_ACTION_UNMASK),
                vfio::VFIO_IRQ_SET_DATA_NONE,
            ) => {
                let masked = action == vfio::VFIO_IRQ_SET_ACTION_MASK;
                (start..end).for_each(|vector| self.card.mask(kind, vector as u16, masked));
            }
            _ => return Err(refused("interrupts are told by events only")),
        }
        Ok(())
    }
}
