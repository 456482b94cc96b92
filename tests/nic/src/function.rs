//! The model as a PCI function, for drivers that run in this process.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use wirerate_eal::dma::DmaSpace;
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{PciAddress, PciError, PciFunction};

use super::config::{Config, Written};
use super::interrupts::Mode;
use super::lines::Lines;
use super::memory::Mapped;
use super::model::{Model, Settings};

/// A card in a slot: the model and what is around it. It outlives the handles that drivers have.
#[derive(Debug)]
pub struct Card {
    address: PciAddress,
    model: Mutex<Model>,
    pub(crate) config: Mutex<Config>,
    memory: Mapped,
    lines: Lines,
}

/// What another thread left after a panic is whole: registers and lines are written one by one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Card {
    /// A card that has just got its power, at `address`.
    #[must_use]
    pub fn new(address: PciAddress, settings: Settings) -> Arc<Self> {
        let (memory, lines) = (Mapped::default(), Lines::default());
        let config = Config::new(settings.is_virtual);
        let mut model = Model::new(settings);
        model.set_signals(Box::new(lines.clone()));
        model.set_dma(Box::new(memory.clone()));
        Arc::new(Self { address, model: Mutex::new(model), config: Mutex::new(config), memory, lines })
    }

    /// A handle for a driver. There is to be one at a time.
    #[must_use]
    pub fn function(self: &Arc<Self>) -> Function {
        let bar = Arc::new(ModelBar(Arc::clone(self)));
        Function { card: Arc::clone(self), bar }
    }

    /// The device itself, to be looked at, stepped, or disturbed.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// What is mapped for the device.
    #[must_use]
    pub fn memory(&self) -> &Mapped {
        &self.memory
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    fn reset(&self) {
        lock(&self.config).reset();
        self.memory.set_master(false);
        self.set_interrupts(Mode::Line, Vec::new(), None);
        self.model().reset();
    }

    fn set_interrupts(&self, mode: Mode, vectors: Vec<OwnedFd>, line: Option<OwnedFd>) {
        let mut model = self.model();
        // None while it changes: a message of the kind before does not come to the one after.
        self.lines.lock().clear();
        model.set_interrupt_mode(mode);
        let mut ends = self.lines.lock();
        ends.set_vectors(0, vectors.into_iter().map(Some));
        ends.set_line(line);
    }

    fn refused(&self, problem: &str) -> PciError {
        PciError::Unusable { address: self.address, problem: problem.into() }
    }

    fn event(&self) -> Result<OwnedFd, PciError> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| self.failed("making an eventfd", error))
    }

    fn failed(&self, doing: &str, source: rustix::io::Errno) -> PciError {
        PciError::System { address: self.address, doing: doing.into(), source: source.into() }
    }

    /// Another descriptor of the same event, for the driver.
    fn share(&self, event: &OwnedFd) -> Result<OwnedFd, PciError> {
        event.try_clone().map_err(|source| PciError::System {
            address: self.address,
            doing: "duplicating an eventfd".into(),
            source,
        })
    }
}

/// The registers, in dwords only (datasheet, 8.2.1).
#[derive(Debug)]
pub struct ModelBar(Arc<Card>);

impl ModelBar {
    fn narrow(&self, offset: usize, value: u32) {
        self.0.model().narrow_access(offset, value);
    }
}

impl Mmio for ModelBar {
    fn len(&self) -> usize {
        lock(&self.0.config).bar_len()
    }

    fn read8(&self, offset: usize) -> u8 {
        self.narrow(offset, 0);
        u8::MAX
    }

    fn read16(&self, offset: usize) -> u16 {
        self.narrow(offset, 0);
        u16::MAX
    }

    fn read32(&self, offset: usize) -> u32 {
        u32::try_from(offset).map_or(u32::MAX, |offset| self.0.model().read32(offset))
    }

    fn write8(&self, offset: usize, value: u8) {
        self.narrow(offset, value.into());
    }

    fn write16(&self, offset: usize, value: u16) {
        self.narrow(offset, value.into());
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Ok(offset) = u32::try_from(offset) {
            self.0.model().write32(offset, value);
        }
    }
}

/// The function, as a driver has it. Dropping it gives the card back: reset, with its interrupts off, and no bus master.
#[derive(Debug)]
pub struct Function {
    card: Arc<Card>,
    bar: Arc<ModelBar>,
}

impl Drop for Function {
    fn drop(&mut self) {
        self.card.reset();
    }
}

impl PciFunction for Function {
    type Bar = ModelBar;

    fn address(&self) -> PciAddress {
        self.card.address
    }

    fn config_read(&self, offset: u16) -> u32 {
        if self.card.model().is_removed() {
            return u32::MAX;
        }
        lock(&self.card.config).read(offset)
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        let written = lock(&self.card.config).write(offset, len, value);
        match written {
            Written::Kept => self.card.memory.set_master(lock(&self.card.config).is_master()),
            Written::Reset => self.card.reset(),
            Written::Refused => self.card.model().config_refused(offset, value),
        }
    }

    fn bar(&self, index: u8) -> Result<Arc<ModelBar>, PciError> {
        let msix = lock(&self.card.config).msix_bar();
        match index {
            0 => Ok(Arc::clone(&self.bar)),
            _ if index == msix => {
                Err(self.card.refused(&format!("BAR {msix} has the MSI-X table, which is the system's")))
            }
            _ => Err(self.card.refused(&format!("there is no BAR {index}"))),
        }
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::new(self.card.memory.clone())
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        lock(&self.card.config).set_master(on);
        self.card.memory.set_master(on);
        Ok(())
    }

    fn reset(&self) -> Result<bool, PciError> {
        self.card.reset();
        Ok(true)
    }

    fn msix_vectors(&self) -> u16 {
        lock(&self.card.config).vectors()
    }

    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError> {
        let vectors = self.msix_vectors();
        if !(1..=vectors).contains(&count) {
            return Err(self.card.refused(&format!("it has {vectors} MSI-X vectors, and not {count}")));
        }
        let events = (0..count).map(|_| self.card.event()).collect::<Result<Vec<_>, _>>()?;
        let shared = events.iter().map(|event| self.card.share(event)).collect::<Result<_, _>>()?;
        self.card.set_interrupts(Mode::Msix, events, None);
        Ok(shared)
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        if !lock(&self.card.config).has_line() {
            return Err(self.card.refused("a virtual function has no INTx"));
        }
        let event = self.card.event()?;
        let shared = self.card.share(&event)?;
        self.card.set_interrupts(Mode::Line, Vec::new(), Some(event));
        Ok(shared)
    }

    fn unmask_intx(&self) {
        let mut ends = self.card.lines.lock();
        if let Some(line) = ends.line() {
            // It is not readable if it was unmasked before.
            let _ = rustix::io::read(line, &mut [0; 8]);
        }
        ends.mask_line(false);
    }

    fn disable_interrupts(&self) {
        self.card.set_interrupts(Mode::Line, Vec::new(), None);
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use wirerate_eal::pci::capability::capabilities;

    use crate::registers::BAR_LEN;

    use super::*;

    fn card() -> Arc<Card> {
        Card::new(PciAddress::new(0, 3, 0, 0).unwrap(), Settings::default())
    }

    fn readable(event: &OwnedFd) -> bool {
        rustix::io::read(event, &mut [0; 8]).is_ok()
    }

    const EICS: usize = 0x808;
    const EIMS: usize = 0x880;
    const EICR: usize = 0x800;

    #[test]
    fn the_function_is_an_82599_with_its_capabilities() {
        let card = card();
        let function = card.function();
        assert_eq!(function.config_read(0), 0x10fb_8086);
        let list: Vec<_> = capabilities(&function).iter().map(|one| (one.id, one.offset)).collect();
        assert_eq!(list, [(1, 0x40), (5, 0x50), (0x11, 0x70), (0x10, 0xa0)]);
        assert_eq!((function.msix_vectors(), function.config_read(0x70) >> 16), (64, 63));
        let bar = function.bar(0).unwrap();
        assert_eq!((bar.len(), bar.read32(0x5404)), (BAR_LEN, 0x8000_5634));
        assert!(function.bar(4).is_err() && function.bar(1).is_err());
        bar.write32(0x5080, 0x400);
        function.config_write(0xa8, 2, 0x8000);
        assert_eq!(bar.read32(0x5080), 0);
        assert_eq!(card.model().faults().count(), 0);
        function.config_write(0, 4, 1);
        bar.write16(0x5080, 1);
        assert_eq!(bar.read8(0x5080), 0xff);
        let faults: Vec<_> = card.model().faults().list().iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "configuration space at 0x0 0x1: nothing of it can be written (82599 datasheet, 9.3)",
                "0x05080 0x1: registers are accessed in dwords (82599 datasheet, 8.2.1)",
                "0x05080 0x0: registers are accessed in dwords (82599 datasheet, 8.2.1)",
            ]
        );
    }

    #[test]
    fn a_virtual_function_is_another_function() {
        let settings = Settings { is_virtual: true, ..Settings::default() };
        let card = Card::new(PciAddress::new(0, 3, 16, 0).unwrap(), settings);
        let function = card.function();
        let list: Vec<_> = capabilities(&function).iter().map(|one| (one.id, one.offset)).collect();
        assert_eq!((function.config_read(0), list), (0x10ed_8086, vec![(0x11, 0x70), (0x10, 0xa0)]));
        let bar = function.bar(0).unwrap();
        assert_eq!((bar.len(), bar.read32(0x4000), function.msix_vectors()), (16 << 10, u32::MAX, 3));
        assert!(function.bar(3).unwrap_err().to_string().contains("MSI-X table"));
        assert!(function.enable_intx().is_err() && function.enable_msix(3).is_ok());
        // A reset of the function is none of the device.
        bar.write32(0x1008, 4096);
        function.config_write(0xa8, 2, 0x8000);
        assert_eq!((bar.read32(0x1008), function.config_read(0)), (4096, 0x10ed_8086));
        assert_eq!(card.model().faults().count(), 0);
    }

    #[test]
    fn vectors_come_as_events() {
        let card = card();
        let function = card.function();
        assert!(function.enable_msix(65).is_err() && function.enable_msix(0).is_err());
        let events = function.enable_msix(3).unwrap();
        let bar = function.bar(0).unwrap();
        bar.write32(0x898, 1 << 4);
        bar.write32(EIMS, 0b1111);
        bar.write32(EICS, 0b1100);
        let told = || events.iter().map(readable).collect::<Vec<_>>();
        assert_eq!(told(), [false, false, true]);
        function.disable_interrupts();
        bar.write32(EICS, 0b0010);
        assert_eq!(told(), [false; 3]);
    }

    #[test]
    fn the_line_comes_again_after_it_was_unmasked() {
        let card = card();
        let function = card.function();
        let event = function.enable_intx().unwrap();
        let bar = function.bar(0).unwrap();
        let waits = || {
            let mut fds = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap()
                == 1
        };
        bar.write32(EIMS, 1);
        assert!(!waits());
        bar.write32(EICS, 1);
        assert!(waits());
        function.unmask_intx();
        assert!(waits(), "its cause was not cleared");
        assert_eq!(bar.read32(EICR), 1);
        function.unmask_intx();
        assert!(!waits());
        assert_eq!(card.model().faults().count(), 0);
    }

    #[test]
    fn a_card_that_is_given_back_is_as_it_was() {
        let card = card();
        let function = card.function();
        function.set_bus_master(true).unwrap();
        assert_eq!(function.config_read(4) & 4, 4);
        function.bar(0).unwrap().write32(0x5080, 0x700);
        let bar = function.bar(0).unwrap();
        drop(function);
        assert_eq!(bar.read32(0x5080), 0);
        assert_eq!(card.function().config_read(4) & 4, 0);
    }
}
