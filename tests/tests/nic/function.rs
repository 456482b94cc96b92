//! The model as a PCI function of this process: its configuration space, its BAR, what it is mapped, and its end.

use std::any::Any;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};
use wirerate_eal::dma::{DmaError, DmaMapping, DmaRange, DmaSpace};
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{PciAddress, PciError, PciFunction};
use wirerate_mempool::Memory;
use wirerate_tests::nic::registers::BAR_LEN;
use wirerate_tests::nic::{Model, Settings};

/// What there is of a machine: the device and what the system knows of it.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) model: Model,
    /// Vendor and device.
    pub(crate) identity: u32,
    pub(crate) mapped: Vec<DmaRange>,
    next_address: u64,
    pub(crate) bus_master: bool,
    /// All its registers read as ones.
    pub(crate) gone: bool,
    /// Nobody has the function.
    pub(crate) released: bool,
    /// Registers of which reads have these bits, whatever the model says: a device that is stuck.
    pub(crate) stuck: Vec<(usize, u32, u32)>,
    pub(crate) function_resets: u32,
}

/// A machine with an 82599.
#[derive(Debug)]
pub(crate) struct Machine {
    inner: Mutex<Inner>,
    removal: OwnedFd,
    me: Weak<Self>,
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let inner = Inner {
            model: Model::new(settings),
            identity: 0x10fb_8086,
            mapped: Vec::new(),
            next_address: 0x8_0000_0000,
            bus_master: false,
            gone: false,
            released: true,
            stuck: Vec::new(),
            function_resets: 0,
        };
        let removal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Arc::new_cyclic(|me| Self { inner: Mutex::new(inner), removal, me: me.clone() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn function(&self) -> Function {
        self.lock().released = false;
        Function(self.me.upgrade().unwrap())
    }

    /// The system wants the device back.
    pub(crate) fn want_back(&self) {
        rustix::io::write(&self.removal, &1_u64.to_ne_bytes()).unwrap();
    }

    /// The driver has broken no rule.
    #[track_caller]
    pub(crate) fn assert_good(&self) {
        let inner = self.lock();
        let faults: Vec<String> = inner.model.faults().list().iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{} faults: {faults:#?}", inner.model.faults().count());
    }

    /// The device is given back, and reaches nothing.
    #[track_caller]
    pub(crate) fn assert_released(&self) {
        self.assert_good();
        let inner = self.lock();
        assert!(inner.released && !inner.bus_master && inner.mapped.is_empty(), "{inner:?}");
    }
}

/// The function, which the driver has.
#[derive(Debug)]
pub(crate) struct Function(Arc<Machine>);

impl Drop for Function {
    fn drop(&mut self) {
        self.0.lock().released = true;
    }
}

/// BAR 0.
#[derive(Debug)]
pub(crate) struct Bar(Arc<Machine>);

impl Mmio for Bar {
    fn len(&self) -> usize {
        BAR_LEN
    }

    fn read8(&self, offset: usize) -> u8 {
        panic!("a byte is read at {offset:#x}")
    }

    fn read16(&self, offset: usize) -> u16 {
        panic!("two bytes are read at {offset:#x}")
    }

    fn read32(&self, offset: usize) -> u32 {
        let mut inner = self.0.lock();
        if inner.gone {
            return u32::MAX;
        }
        let value = inner.model.read32(offset as u32);
        inner
            .stuck
            .iter()
            .filter(|(register, ..)| *register == offset)
            .fold(value, |value, (_, mask, bits)| value & !mask | bits)
    }

    fn write8(&self, offset: usize, _: u8) {
        panic!("a byte is written at {offset:#x}")
    }

    fn write16(&self, offset: usize, _: u16) {
        panic!("two bytes are written at {offset:#x}")
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut inner = self.0.lock();
        if !inner.gone {
            inner.model.write32(offset as u32, value);
        }
    }
}

fn unusable(problem: &str) -> PciError {
    PciError::Unusable { address: super::NAME.parse().unwrap(), problem: problem.into() }
}

impl PciFunction for Function {
    type Bar = Bar;

    fn address(&self) -> PciAddress {
        super::NAME.parse().unwrap()
    }

    fn config_read(&self, offset: u16) -> u32 {
        let inner = self.0.lock();
        match offset {
            _ if inner.gone => u32::MAX,
            0 => inner.identity,
            _ => 0,
        }
    }

    fn config_write(&self, offset: u16, _: u8, value: u32) {
        panic!("{value:#x} is written to configuration space at {offset:#x}")
    }

    fn bar(&self, index: u8) -> Result<Arc<Bar>, PciError> {
        if index == 0 {
            Ok(Arc::new(Bar(Arc::clone(&self.0))))
        } else {
            Err(unusable("there is no such BAR"))
        }
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::new(Space(Arc::downgrade(&self.0)))
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        self.0.lock().bus_master = on;
        Ok(())
    }

    fn reset(&self) -> Result<bool, PciError> {
        let mut inner = self.0.lock();
        inner.function_resets += 1;
        inner.model.reset();
        Ok(true)
    }

    fn msix_vectors(&self) -> u16 {
        64
    }

    fn enable_msix(&self, _: u16) -> Result<Vec<OwnedFd>, PciError> {
        Err(unusable("no vectors in this test"))
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        Err(unusable("no interrupt in this test"))
    }

    fn unmask_intx(&self) {}

    fn disable_interrupts(&self) {}

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.removal.as_fd())
    }
}

/// What the device reaches.
#[derive(Debug)]
struct Space(Weak<Machine>);

/// Memory that is mapped.
struct Way(Weak<Machine>, DmaRange);

impl Drop for Way {
    fn drop(&mut self) {
        let Some(machine) = self.0.upgrade() else { return };
        let mut inner = machine.lock();
        assert!(!inner.bus_master || inner.gone, "memory is unmapped while the device may use it");
        inner.mapped.retain(|range| *range != self.1);
    }
}

impl DmaSpace for Space {
    unsafe fn map(
        &self,
        memory: &dyn Memory,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<DmaMapping, DmaError> {
        let machine = self.0.upgrade().unwrap();
        let mut inner = machine.lock();
        let (base, len) = (memory.base().as_ptr().expose_provenance(), memory.len());
        let range = DmaRange { base, len, device: inner.next_address };
        inner.next_address += (len as u64).next_multiple_of(4096) + 0x10_0000;
        inner.mapped.push(range);
        Ok(DmaMapping::new([range], Box::new(Way(self.0.clone(), range)), keep))
    }

    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=u64::MAX]
    }
}
