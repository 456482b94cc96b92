//! Takes a PCI function for this process.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::holder::{Holder, Place};
use super::{PciAddress, PciError, PciFunction};
use crate::Eal;
use crate::dma::DmaSpace;
use crate::dma::physical::Physical;
use crate::dma::space::Space;
use crate::mmio::Bar;
use crate::system::SystemRoot;
use crate::{uio, vfio};

/// How a function is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Use it by VFIO although no IOMMU watches it: it can read and write all memory of the machine then, and so can a
    /// program that has it.
    pub no_iommu: bool,
}

/// What the functions of one [`Eal`] share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    vfio: vfio::Shared,
    physical: Mutex<Weak<Space<Physical>>>,
    taken: Arc<Mutex<BTreeSet<PciAddress>>>,
}

/// A function that is open; VFIO would open it again within the same container.
#[derive(Debug)]
struct Taken {
    all: Arc<Mutex<BTreeSet<PciAddress>>>,
    address: PciAddress,
}

impl Taken {
    fn new(all: &Arc<Mutex<BTreeSet<PciAddress>>>, place: &Place<'_>) -> Result<Self, PciError> {
        let address = place.address;
        if all.lock().unwrap_or_else(PoisonError::into_inner).insert(address) {
            Ok(Self { all: Arc::clone(all), address })
        } else {
            Err(place.unusable("it is open already: drop what has it first"))
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

impl Shared {
    /// Memory by physical addresses.
    fn physical(&self) -> Arc<dyn DmaSpace> {
        let mut shared = self.physical.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let space = Arc::new(Space::new(Physical::default()));
            *shared = Arc::downgrade(&space);
            space
        })
    }

    pub(crate) fn open(
        &self,
        root: &SystemRoot,
        address: PciAddress,
        options: &OpenOptions,
    ) -> Result<Function, PciError> {
        let place = Place { root, address };
        let holder = place.holder()?;
        let taken = Taken::new(&self.taken, &place)?;
        let driver: Box<dyn PciFunction<Bar = Bar>> = match holder {
            Holder::Vfio if options.no_iommu => Box::new(vfio::open_without_iommu(&place, self.physical())?),
            Holder::Vfio => Box::new(self.vfio.open(&place)?),
            Holder::Uio => Box::new(uio::Device::open(&place, self.physical())?),
        };
        Ok(Function { driver, _taken: taken })
    }
}

/// Takes the function at `address`, which vfio-pci or uio_pci_generic holds. It is no bus master and its interrupts are
/// off. Functions of one [`Eal`] share the memory that is mapped for them.
///
/// # Errors
/// [`PciError`] when there is no such function, another driver has it, or something is missing for its use.
pub fn open(eal: &Eal, address: PciAddress, options: &OpenOptions) -> Result<Function, PciError> {
    eal.pci().open(&SystemRoot::default(), address, options)
}

/// A real function, by VFIO or UIO. It is given back when this and all its [`Bar`]s are dropped.
#[derive(Debug)]
pub struct Function {
    // One call more by pointer does not count here: what is called often are the registers, and those are mapped.
    driver: Box<dyn PciFunction<Bar = Bar>>,
    // After what it is said of.
    _taken: Taken,
}

impl PciFunction for Function {
    type Bar = Bar;

    fn address(&self) -> PciAddress {
        self.driver.address()
    }

    fn config_read(&self, offset: u16) -> u32 {
        self.driver.config_read(offset)
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        self.driver.config_write(offset, len, value);
    }

    fn bar(&self, index: u8) -> Result<Arc<Bar>, PciError> {
        self.driver.bar(index)
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        self.driver.dma()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        self.driver.set_bus_master(on)
    }

    fn reset(&self) -> Result<bool, PciError> {
        self.driver.reset()
    }

    fn msix_vectors(&self) -> u16 {
        self.driver.msix_vectors()
    }

    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError> {
        self.driver.enable_msix(count)
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        self.driver.enable_intx()
    }

    fn unmask_intx(&self) {
        self.driver.unmask_intx();
    }

    fn disable_interrupts(&self) {
        self.driver.disable_interrupts();
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        self.driver.removal()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::tests::Machine;
    use super::*;

    #[test]
    fn a_function_is_opened_by_the_driver_that_has_it() {
        let machine = Machine::new();
        machine.function("0000:00:03.0", Some("virtio-pci"), Some(3));
        machine.function("0000:00:04.0", Some("vfio-pci"), Some(4));
        machine.function("0000:00:05.0", Some("uio_pci_generic"), None);
        let open = |address: &str, no_iommu| {
            let options = OpenOptions { no_iommu };
            Shared::default()
                .open(machine.root(), address.parse().unwrap(), &options)
                .unwrap_err()
                .to_string()
        };
        assert!(open("00:03.0", false).contains("virtio-pci"));
        assert!(open("00:04.0", false).contains("dev/vfio/4: bind it to vfio-pci anew"));
        assert!(open("00:04.0", true).contains("dev/vfio/noiommu-4"));
        assert!(open("00:05.0", false).contains("UIO"));
        assert!(open("00:06.0", false).contains("there is no such PCI function"));
        machine.file("dev/vfio/noiommu-4", b"");
        assert!(open("00:04.0", false).contains("no_iommu"));
        assert!(open("00:04.0", true).contains("there is no /dev/vfio/vfio"));
    }

    #[test]
    fn a_function_is_open_once() {
        let machine = Machine::new();
        let all = Arc::default();
        let place = machine.place("00:03.0");
        let first = Taken::new(&all, &place).unwrap();
        assert!(Taken::new(&all, &machine.place("00:04.0")).is_ok());
        assert!(Taken::new(&all, &place).unwrap_err().to_string().contains("open already"));
        drop(first);
        assert!(Taken::new(&all, &place).is_ok());
    }

    #[test]
    fn physical_addresses_are_one_space_while_it_is_used() {
        let shared = Shared::default();
        let first = shared.physical();
        assert!(Arc::ptr_eq(&first, &shared.physical()));
    }
}
