//! A PCI function, by the file that VFIO made for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{Hold, Opened, info, uapi};
use crate::dma::DmaSpace;
use crate::mmio::Bar;
use crate::pci::bars::Bars;
use crate::pci::config::ConfigSpace;
use crate::pci::holder::Place;
use crate::pci::{PciAddress, PciError, PciFunction};

/// A function by VFIO. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Device {
    address: PciAddress,
    config: ConfigSpace,
    bars: Bars,
    interrupts: Mutex<Interrupts>,
    msix_vectors: u16,
    can_reset: bool,
    /// Readable when the system wants the function back.
    removal: Option<OwnedFd>,
    dma: Arc<dyn DmaSpace>,
    file: File,
    // After the file, which uses it.
    _hold: Hold,
}

/// Which interrupts are on.
#[derive(Debug)]
enum Interrupts {
    Off,
    /// With the descriptor that tells of it.
    Intx(OwnedFd),
    Msix,
}

/// A descriptor that is readable once somebody signalled it. Reading it, 8 bytes, never waits.
fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl Device {
    pub(super) fn new(place: &Place<'_>, opened: Opened) -> Result<Self, PciError> {
        let Opened { file, hold, dma } = opened;
        let fd = file.as_fd();
        let tell = |what: &str, told: io::Result<Vec<u8>>| {
            told.map_err(|error| place.failed(format!("asking VFIO about {what}"), error))
        };
        let device = info::Device::read(&tell("the device", uapi::device_info(fd))?);
        let config =
            info::Region::read(&tell("the configuration space", uapi::region_info(fd, uapi::CONFIG_REGION))?);
        let (Some(device), Some(config)) = (device, config) else {
            return Err(place.unusable("VFIO tells too little about it"));
        };
        if !device.is_pci || device.regions <= uapi::CONFIG_REGION {
            return Err(place.unusable("VFIO has it as something else than a PCI function"));
        }
        let msix_vectors = if device.irqs > uapi::IRQ_MSIX {
            info::irq_count(&tell("MSI-X", uapi::irq_info(fd, uapi::IRQ_MSIX))?).unwrap_or(0)
        } else {
            0
        };
        let config = file
            .try_clone()
            .map(|file| ConfigSpace::new(file, config.offset, config.len))
            .map_err(|error| place.failed("duplicating its descriptor", error))?;
        let device = Self {
            address: place.address,
            config,
            bars: Bars::default(),
            interrupts: Mutex::new(Interrupts::Off),
            // A table has at most 2048 (PCI 3.0, 6.8.2.3).
            msix_vectors: msix_vectors.min(2048) as u16,
            can_reset: device.can_reset,
            removal: (device.irqs > uapi::IRQ_REQUEST).then(|| request_event(&file)).flatten(),
            dma,
            file,
            _hold: hold,
        };
        device.set_bus_master(false)?;
        Ok(device)
    }

    fn failed(&self, doing: impl Into<String>, source: io::Error) -> PciError {
        PciError::System { address: self.address, doing: doing.into(), source }
    }

    fn unusable(&self, problem: impl Into<String>) -> PciError {
        PciError::Unusable { address: self.address, problem: problem.into() }
    }

    fn map_bar(&self, index: u8) -> Result<Bar, PciError> {
        let region = uapi::region_info(self.file.as_fd(), index.into())
            .and_then(|bytes| info::Region::read(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into()))
            .map_err(|error| self.failed(format!("asking VFIO about BAR {index}"), error))?;
        let len = usize::try_from(region.len).unwrap_or(0);
        if len == 0 {
            return Err(self.unusable(format!("it has no BAR {index}")));
        }
        if !region.can_map || region.is_sparse {
            return Err(self.unusable(format!(
                "BAR {index} cannot be mapped: it is in I/O space, or the kernel keeps a part of it for itself"
            )));
        }
        Bar::map(&self.file, region.offset, len)
            .map_err(|error| self.failed(format!("mapping BAR {index}, {len} bytes"), error))
    }

    fn switch_off(&self, interrupts: &mut Interrupts) {
        let index = match interrupts {
            Interrupts::Off => return,
            Interrupts::Intx(_) => uapi::IRQ_INTX,
            Interrupts::Msix => uapi::IRQ_MSIX,
        };
        if let Err(error) = uapi::set_irqs(self.file.as_fd(), index, &[]) {
            tracing::warn!("{}: switching its interrupts off failed: {error}", self.address);
        }
        *interrupts = Interrupts::Off;
    }

    fn lock_interrupts(&self) -> std::sync::MutexGuard<'_, Interrupts> {
        self.interrupts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the kernel say by an event that it wants the device back. Without one, it takes it when it can.
fn request_event(file: &File) -> Option<OwnedFd> {
    let event = event().ok()?;
    uapi::set_irqs(file.as_fd(), uapi::IRQ_REQUEST, &[event.as_fd()])
        .inspect_err(|error| tracing::debug!("VFIO does not tell of removals: {error}"))
        .ok()?;
    Some(event)
}

impl PciFunction for Device {
    type Bar = Bar;

    fn address(&self) -> PciAddress {
        self.address
    }

    fn config_read(&self, offset: u16) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        self.config.write(offset, len, value);
    }

    fn bar(&self, index: u8) -> Result<Arc<Bar>, PciError> {
        self.bars
            .get(index, || self.map_bar(index))
            .unwrap_or_else(|| Err(self.unusable(format!("a function has no BAR {index}"))))
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::clone(&self.dma)
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        self.config.set_bus_master(on).map_err(|problem| self.unusable(problem))
    }

    fn reset(&self) -> Result<bool, PciError> {
        if !self.can_reset {
            return Ok(false);
        }
        uapi::reset(self.file.as_fd()).map_err(|error| self.failed("resetting it", error))?;
        Ok(true)
    }

    fn msix_vectors(&self) -> u16 {
        self.msix_vectors
    }

    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError> {
        if count > self.msix_vectors {
            return Err(self.unusable(format!(
                "{count} MSI-X vectors were asked for, and it has {}",
                self.msix_vectors
            )));
        }
        let mut interrupts = self.lock_interrupts();
        self.switch_off(&mut interrupts);
        let events = (0..count)
            .map(|_| event())
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| self.failed("making event descriptors", error))?;
        let fds: Vec<BorrowedFd<'_>> = events.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            uapi::set_irqs(self.file.as_fd(), uapi::IRQ_MSIX, &fds)
                .map_err(|error| self.failed(format!("switching {count} MSI-X vectors on"), error))?;
            *interrupts = Interrupts::Msix;
        }
        Ok(events)
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        let told = uapi::irq_info(self.file.as_fd(), uapi::IRQ_INTX)
            .map_err(|error| self.failed("asking VFIO about INTx", error))?;
        if info::irq_count(&told).unwrap_or(0) == 0 {
            return Err(self.unusable("it has no INTx interrupt"));
        }
        let mut interrupts = self.lock_interrupts();
        self.switch_off(&mut interrupts);
        let event = event().map_err(|error| self.failed("making an event descriptor", error))?;
        let given =
            event.try_clone().map_err(|error| self.failed("duplicating an event descriptor", error))?;
        uapi::set_irqs(self.file.as_fd(), uapi::IRQ_INTX, &[event.as_fd()])
            .map_err(|error| self.failed("switching INTx on", error))?;
        *interrupts = Interrupts::Intx(event);
        Ok(given)
    }

    fn unmask_intx(&self) {
        let Interrupts::Intx(event) = &*self.lock_interrupts() else { return };
        // What was told is seen: the descriptor waits for the next. An error is that there was nothing.
        let _ = rustix::io::read(event, &mut [0u8; 8]);
        if let Err(error) = uapi::unmask_irq(self.file.as_fd(), uapi::IRQ_INTX) {
            tracing::warn!("{}: unmasking INTx failed: {error}", self.address);
        }
    }

    fn disable_interrupts(&self) {
        self.switch_off(&mut self.lock_interrupts());
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        self.removal.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.disable_interrupts();
        // A function that is gone does no more, and the kernel would wait a minute for its reset.
        if self.config.is_gone() {
            return;
        }
        match self.set_bus_master(false).and_then(|()| self.reset()) {
            Ok(_) => {}
            // The kernel is taking it away, and resets it by itself.
            Err(PciError::System { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!("giving a function back: {error}"),
        }
    }
}
