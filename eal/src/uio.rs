//! Functions by uio_pci_generic (`Documentation/driver-api/uio-howto.rst`): registers and configuration space by sysfs,
//! and an INTx interrupt. No IOMMU watches them; who binds a function to that driver agrees to that.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::dma::DmaSpace;
use crate::mmio::Bar;
use crate::pci::bars::Bars;
use crate::pci::config::{COMMAND_INTX_DISABLE, ConfigSpace};
use crate::pci::holder::Place;
use crate::pci::{PciAddress, PciError, PciFunction};

/// A function by UIO. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Device {
    address: PciAddress,
    config: ConfigSpace,
    bars: Bars,
    dma: Arc<dyn DmaSpace>,
    /// Of the function, in sysfs.
    directory: PathBuf,
    uio: File,
}

/// `IORESOURCE_MEM` (`linux/ioport.h`).
const RESOURCE_MEMORY: u64 = 0x200;
/// Says which pin the function interrupts by; 0 for none (PCI 3.0, 6.2.4).
const INTERRUPT_PIN: u16 = 0x3c;

impl Device {
    pub(crate) fn open(place: &Place<'_>, dma: Arc<dyn DmaSpace>) -> Result<Self, PciError> {
        if place.is_translated() {
            return Err(place.unusable(
                "an IOMMU translates its addresses, which uio_pci_generic knows nothing of: bind it to vfio-pci, or boot \
                 with iommu=pt",
            ));
        }
        let number = *place
            .numbered("uio", "uio")
            .first()
            .ok_or_else(|| place.unusable("sysfs does not name its UIO device: bind it anew"))?;
        let path = place.root.path(format!("dev/uio{number}"));
        let uio = open(place, &path, OFlags::NONBLOCK)?;
        // UIO would let any number of programs have it.
        flock(&uio, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| place.unusable(format!("another program has it ({})", path.display())))?;
        let config = open(place, &place.file("config"), OFlags::empty())?;
        let len = config
            .metadata()
            .map_err(|error| place.failed("asking for the size of its configuration space", error))?
            .len();
        let device = Self {
            address: place.address,
            config: ConfigSpace::new(config, 0, len),
            bars: Bars::default(),
            dma,
            directory: place.file(""),
            uio,
        };
        device.set_bus_master(false)?;
        device.disable_interrupts();
        Ok(device)
    }

    fn unusable(&self, problem: impl Into<String>) -> PciError {
        PciError::Unusable { address: self.address, problem: problem.into() }
    }

    fn failed(&self, doing: impl Into<String>, source: io::Error) -> PciError {
        PciError::System { address: self.address, doing: doing.into(), source }
    }

    fn map_bar(&self, index: u8) -> Result<Bar, PciError> {
        let resources = fs::read_to_string(self.directory.join("resource"))
            .map_err(|error| self.failed("reading its resources", error))?;
        let len = match memory(&resources, index) {
            Some(len) => len,
            None => return Err(self.unusable(format!("it has no BAR {index} in memory"))),
        };
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.directory.join(format!("resource{index}")))
            .and_then(|file| Bar::map(&file, 0, len))
            .map_err(|error| self.failed(format!("mapping BAR {index}, {len} bytes"), error))
    }

    /// Lets the descriptor wait for the next interrupt.
    fn drain(&self) {
        // An error is that there was nothing.
        let _ = rustix::io::read(&self.uio, &mut [0u8; 4]);
    }
}

/// Opens a file of the function.
fn open(place: &Place<'_>, path: &Path, flags: OFlags) -> Result<File, PciError> {
    let flags = flags.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                place.unusable(format!("no permission to open {}: run as root", path.display()))
            }
            _ => place.failed(format!("opening {}", path.display()), error),
        }
    })
}

/// The length of resource `index` if that is in memory. Each line of `resource` has the first byte's address, the last
/// byte's, and flags.
fn memory(resources: &str, index: u8) -> Option<usize> {
    let line = resources.lines().take(6).nth(index.into())?;
    let mut numbers =
        line.split_whitespace().map(|number| u64::from_str_radix(number.trim_start_matches("0x"), 16).ok());
    let (first, last, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if flags & RESOURCE_MEMORY == 0 {
        return None;
    }
    usize::try_from(last.checked_sub(first)?.checked_add(1)?).ok()
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

    /// By the kernel, which knows how, and what to wait for and to put back after it.
    fn reset(&self) -> Result<bool, PciError> {
        let path = self.directory.join("reset");
        match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            opened => opened
                .and_then(|mut file| io::Write::write_all(&mut file, b"1"))
                .map(|()| true)
                .map_err(|error| self.failed("resetting it", error)),
        }
    }

    fn msix_vectors(&self) -> u16 {
        0
    }

    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError> {
        if count == 0 {
            self.disable_interrupts();
            return Ok(Vec::new());
        }
        Err(self.unusable("uio_pci_generic has no MSI-X: use INTx, or bind it to vfio-pci"))
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        // 0xff: the function is gone.
        if matches!(self.config.read(INTERRUPT_PIN) >> 8 & 0xff, 0 | 0xff) {
            return Err(self.unusable("it has no INTx interrupt"));
        }
        let fd = self
            .uio
            .try_clone()
            .map_err(|error| self.failed("duplicating the descriptor of its interrupt", error))?;
        self.unmask_intx();
        Ok(fd.into())
    }

    fn unmask_intx(&self) {
        self.drain();
        if !self.config.change_command(0, COMMAND_INTX_DISABLE) {
            tracing::debug!("{}: its INTx interrupt cannot be unmasked", self.address);
        }
    }

    fn disable_interrupts(&self) {
        if !self.config.change_command(COMMAND_INTX_DISABLE, 0) {
            tracing::debug!("{}: its INTx interrupt cannot be masked", self.address);
        }
        self.drain();
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.disable_interrupts();
        // A function that is gone does no more, and the kernel would wait a minute for its reset.
        if self.config.is_gone() {
            return;
        }
        if let Err(error) = self.set_bus_master(false).and_then(|()| self.reset()) {
            tracing::warn!("giving a function back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::dma::physical::Physical;
    use crate::dma::space::Space;
    use crate::mmio::Mmio;
    use crate::pci::tests::Machine;

    const DIRECTORY: &str = "sys/bus/pci/devices/0000:00:05.0";
    const RESOURCES: &str = "0x00000000febc0000 0x00000000febc0fff 0x0000000000040200\n\
                             0x000000000000c000 0x000000000000c01f 0x0000000000040101\n\
                             0x0000000000000000 0x0000000000000000 0x0000000000000000\n";

    /// A function whose files are real ones.
    fn machine() -> Machine {
        let machine = Machine::new();
        machine.function("0000:00:05.0", Some("uio_pci_generic"), None);
        machine.file(&format!("{DIRECTORY}/uio/uio3/name"), b"");
        machine.file("dev/uio3", b"");
        let mut config = vec![0; 256];
        config[..8].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10, 0x07, 0x00, 0x10, 0x00]);
        config[0x3d] = 1;
        machine.file(&format!("{DIRECTORY}/config"), &config);
        machine.file(&format!("{DIRECTORY}/resource"), RESOURCES.as_bytes());
        machine.file(&format!("{DIRECTORY}/resource0"), &[7; 4096]);
        machine.file(&format!("{DIRECTORY}/reset"), b"");
        machine
    }

    fn open(machine: &Machine) -> Result<Device, PciError> {
        Device::open(&machine.place("00:05.0"), Arc::new(Space::new(Physical::default())))
    }

    fn command(machine: &Machine) -> u16 {
        let config = fs::read(machine.place("00:05.0").file("config")).unwrap();
        u16::from_le_bytes([config[4], config[5]])
    }

    #[test]
    fn a_function_is_quiet_when_opened_and_given_back() {
        let machine = machine();
        let device = open(&machine).unwrap();
        assert_eq!(command(&machine), 0x0402 | 1);
        device.set_bus_master(true).unwrap();
        let fd = device.enable_intx().unwrap();
        assert_eq!(command(&machine), 0x0007);
        assert_eq!(device.bar(0).unwrap().read32(0xffc), 0x0707_0707);
        assert!(Arc::ptr_eq(&device.bar(0).unwrap(), &device.bar(0).unwrap()));
        for index in [1, 2, 3, 6, 255] {
            assert!(device.bar(index).is_err(), "{index}");
        }
        assert!(device.enable_msix(1).is_err() && device.enable_msix(0).unwrap().is_empty());
        drop((fd, device));
        assert_eq!(command(&machine), 0x0403);
        assert_eq!(fs::read(machine.place("00:05.0").file("reset")).unwrap(), b"1");
        assert!(open(&machine).is_ok());
    }

    #[test]
    fn a_function_is_had_once() {
        let machine = machine();
        let device = open(&machine).unwrap();
        assert!(open(&machine).unwrap_err().to_string().contains("another program has it"));
        drop(device);
        assert!(open(&machine).is_ok());
    }

    #[test]
    fn a_function_that_goes_away_is_let_go() {
        let machine = machine();
        let device = open(&machine).unwrap();
        machine.file(&format!("{DIRECTORY}/config"), &[0xff; 256]);
        assert!(device.set_bus_master(true).unwrap_err().to_string().contains("it is gone"));
        assert!(device.enable_intx().is_err());
        drop(device);
        assert!(fs::read(machine.place("00:05.0").file("reset")).unwrap().is_empty());
    }

    #[test]
    fn a_function_behind_an_iommu_that_translates_is_refused() {
        let machine = Machine::new();
        machine.function("0000:00:05.0", Some("uio_pci_generic"), Some(9));
        for (kind, translates) in [("DMA-FQ\n", true), ("DMA\n", true), ("identity\n", false)] {
            machine.file("sys/kernel/iommu_groups/9/type", kind.as_bytes());
            let error = open(&machine).unwrap_err().to_string();
            assert_eq!(error.contains("translates"), translates, "{error}");
        }
    }

    #[test]
    fn resources_in_memory_have_a_length() {
        assert_eq!(memory(RESOURCES, 0), Some(4096));
        for (text, index) in [
            (RESOURCES, 1),
            (RESOURCES, 2),
            (RESOURCES, 3),
            ("0x5 0x4 0x200", 0),
            ("0x0 0xffffffffffffffff 0x200", 0),
            ("0x0 x 0x200", 0),
            ("0x0", 0),
            ("", 0),
        ] {
            assert_eq!(memory(text, index), None, "{text:?}");
        }
    }
}
