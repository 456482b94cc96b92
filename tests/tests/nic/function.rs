//! The model's card in a machine that has its troubles: a device that is stuck, gone, another, or wanted back.

use std::any::Any;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use wirerate_eal::dma::{DmaError, DmaMapping, DmaSpace};
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{PciAddress, PciError, PciFunction};
use wirerate_mempool::Memory;
use wirerate_nic::{Card, Function, Model, ModelBar, Settings, Wire};

use super::meddler::{Altered, Meddler};

/// What is wrong with the device, and what the driver did.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Vendor and device, if it is another.
    pub(crate) identity: Option<u32>,
    /// All its registers read as ones.
    pub(crate) gone: bool,
    /// Registers, bits, and how these read whatever the device says.
    pub(crate) stuck: Vec<(usize, u32, u32)>,
    /// It has no MSI-X.
    pub(crate) only_line: bool,
    pub(crate) bus_master: bool,
    /// The driver has the function.
    held: bool,
    /// Memory was unmapped while the device might have used it.
    early: bool,
    pub(crate) function_resets: u32,
}

/// A machine with an 82599.
#[derive(Debug)]
pub(crate) struct Machine {
    card: Arc<Card>,
    troubles: Mutex<Troubles>,
    removal: OwnedFd,
    /// What stands between the driver and the device and alters what they tell each other.
    meddler: Arc<Meddler>,
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Self::with(settings, Meddler::default())
    }

    /// One in which somebody stands between the driver and the device.
    pub(crate) fn with(settings: Settings, meddler: Meddler) -> Arc<Self> {
        let removal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let card = Card::new(super::NAME.parse().unwrap(), settings);
        let meddler = Arc::new(meddler);
        if meddler.meddles_with_memory() {
            card.model().set_dma(Box::new(Altered::new(card.memory().clone(), Arc::clone(&meddler))));
        }
        Arc::new(Self { card, troubles: Mutex::default(), removal, meddler })
    }

    pub(crate) fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.card.model()
    }

    /// A register, as the device has it.
    pub(crate) fn read(&self, register: u32) -> u32 {
        self.model().read32(register)
    }

    /// The function, for a driver.
    pub(crate) fn function(self: &Arc<Self>) -> Held {
        self.troubles().held = true;
        let function = self.card.function();
        Held {
            bar: Arc::new(Bar(Arc::clone(self), function.bar(0).unwrap())),
            function,
            machine: Arc::clone(self),
        }
    }

    /// The system wants the device back.
    pub(crate) fn want_back(&self) {
        rustix::io::write(&self.removal, &1_u64.to_ne_bytes()).unwrap();
    }

    /// The driver has broken no rule.
    #[track_caller]
    pub(crate) fn assert_good(&self) {
        let model = self.model();
        let faults: Vec<String> = model.faults().list().iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{} faults: {faults:#?}", model.faults().count());
        assert!(!self.troubles().early, "memory was unmapped while the device might have used it");
    }

    /// The first rule that was broken, if any.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.troubles().early {
            return Some("memory was unmapped while the device might have used it".into());
        }
        self.model().faults().list().first().map(ToString::to_string)
    }

    /// Pieces of memory that are mapped for the device.
    pub(crate) fn mapped(&self) -> usize {
        self.card.memory().pieces()
    }

    /// The wire as it looks through the one who stands on it.
    pub(crate) fn wire(&self, wire: impl Wire + 'static) -> Box<dyn Wire> {
        self.meddler.wire(wire)
    }

    /// Whether the driver has let go of the function.
    pub(crate) fn is_released(&self) -> bool {
        !self.troubles().held
    }

    /// The device is given back, and reaches nothing.
    #[track_caller]
    pub(crate) fn assert_released(&self) {
        self.assert_good();
        assert!(self.is_released() && !self.troubles().bus_master);
        assert_eq!(self.card.memory().pieces(), 0);
    }
}

/// The function, which the driver has.
#[derive(Debug)]
pub(crate) struct Held {
    function: Function,
    bar: Arc<Bar>,
    machine: Arc<Machine>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.machine.troubles().held = false;
    }
}

/// BAR 0.
#[derive(Debug)]
pub(crate) struct Bar(Arc<Machine>, Arc<ModelBar>);

impl Mmio for Bar {
    fn len(&self) -> usize {
        self.1.len()
    }

    fn read8(&self, offset: usize) -> u8 {
        self.1.read8(offset)
    }

    fn read16(&self, offset: usize) -> u16 {
        self.1.read16(offset)
    }

    fn read32(&self, offset: usize) -> u32 {
        if self.0.troubles().gone {
            return u32::MAX;
        }
        let value = self.1.read32(offset);
        let troubles = self.0.troubles();
        let stuck = troubles.stuck.iter().filter(|(register, ..)| *register == offset);
        let value = stuck.fold(value, |value, (_, mask, bits)| value & !mask | bits);
        drop(troubles);
        self.0.meddler.read(offset, value)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.1.write8(offset, value);
    }

    fn write16(&self, offset: usize, value: u16) {
        self.1.write16(offset, value);
    }

    fn write32(&self, offset: usize, value: u32) {
        if !self.0.troubles().gone {
            let meddler = &self.0.meddler;
            meddler.written(offset, value).into_iter().for_each(|(at, value)| self.1.write32(at, value));
        }
    }
}

impl PciFunction for Held {
    type Bar = Bar;

    fn address(&self) -> PciAddress {
        self.function.address()
    }

    fn config_read(&self, offset: u16) -> u32 {
        let troubles = self.machine.troubles();
        match troubles.identity {
            _ if troubles.gone => u32::MAX,
            Some(identity) if offset == 0 => identity,
            _ => self.function.config_read(offset),
        }
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        self.function.config_write(offset, len, value);
    }

    fn bar(&self, index: u8) -> Result<Arc<Bar>, PciError> {
        self.function.bar(index).map(|_| Arc::clone(&self.bar))
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::new(Space(self.function.dma(), Arc::clone(&self.machine)))
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        if !on && self.machine.meddler.keeps_bus {
            return Ok(());
        }
        self.machine.troubles().bus_master = on;
        self.function.set_bus_master(on)
    }

    fn reset(&self) -> Result<bool, PciError> {
        self.machine.troubles().function_resets += 1;
        self.function.reset()
    }

    fn msix_vectors(&self) -> u16 {
        if self.machine.troubles().only_line { 0 } else { self.function.msix_vectors() }
    }

    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError> {
        self.function.enable_msix(count)
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        self.function.enable_intx()
    }

    fn unmask_intx(&self) {
        self.function.unmask_intx();
    }

    fn disable_interrupts(&self) {
        self.function.disable_interrupts();
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.machine.removal.as_fd())
    }
}

/// What the device reaches.
#[derive(Debug)]
struct Space(Arc<dyn DmaSpace>, Arc<Machine>);

/// Memory that is mapped: it is to be unmapped while the device is no bus master.
struct Way(Arc<Machine>, #[expect(dead_code, reason = "it is the way, until it is dropped")] DmaMapping);

impl Drop for Way {
    fn drop(&mut self) {
        let mut troubles = self.0.troubles();
        troubles.early |= troubles.bus_master;
    }
}

impl DmaSpace for Space {
    unsafe fn map(
        &self,
        memory: &dyn Memory,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<DmaMapping, DmaError> {
        // SAFETY: the caller's promise, passed on.
        let mapping = unsafe { self.0.map(memory, Arc::clone(&keep)) }?;
        let ranges = mapping.ranges().to_vec();
        Ok(DmaMapping::new(ranges, Box::new(Way(Arc::clone(&self.1), mapping)), keep))
    }

    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        self.0.windows()
    }
}
