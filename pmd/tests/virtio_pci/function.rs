//! The model as a PCI function: configuration space, registers, interrupts, and what memory it reaches.

use std::any::Any;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use wirerate_eal::dma::{DmaError, DmaMapping, DmaRange, DmaSpace};
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{PciAddress, PciError, PciFunction};
use wirerate_mempool::Memory;

use super::model::{BAR, BAR_LEN, Machine, event};

/// The registers.
#[derive(Debug)]
pub(crate) struct Bar(Arc<Machine>);

impl Mmio for Bar {
    fn len(&self) -> usize {
        BAR_LEN as usize
    }
    fn read8(&self, offset: usize) -> u8 {
        self.0.lock().read(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        assert!(offset.is_multiple_of(2));
        self.0.lock().read(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4));
        self.0.lock().read(offset, 4) as u32
    }
    fn write8(&self, offset: usize, value: u8) {
        self.0.lock().write(offset, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        assert!(offset.is_multiple_of(2));
        self.0.lock().write(offset, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4));
        self.0.lock().write(offset, value);
    }
}

/// The function, as a driver has it.
#[derive(Debug)]
pub(crate) struct Function(pub(crate) Arc<Machine>);

impl Drop for Function {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.released = true;
        (inner.vectors, inner.line) = (Vec::new(), None);
    }
}

impl PciFunction for Function {
    type Bar = Bar;

    fn address(&self) -> PciAddress {
        PciAddress::new(0, 0, 3, 0).unwrap()
    }

    fn config_read(&self, offset: u16) -> u32 {
        let inner = self.0.lock();
        if inner.gone {
            return u32::MAX;
        }
        let settings = &inner.settings;
        let mut space = vec![0u8; 256];
        space[..2].copy_from_slice(&0x1af4u16.to_le_bytes());
        space[2..4].copy_from_slice(&settings.id.to_le_bytes());
        if !settings.capabilities.is_empty() {
            space[6] = 0x10;
            space[0x34] = 0x40;
        }
        let mut at = 0x40;
        for (index, &(kind, bar, start, len, size)) in settings.capabilities.iter().enumerate() {
            let last = index + 1 == settings.capabilities.len();
            let next = if last { if settings.loops { 0x40 } else { 0 } } else { at + 20 };
            space[at..at + 5].copy_from_slice(&[9, next as u8, size, kind, bar]);
            space[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            space[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
            space[at + 16..at + 20].copy_from_slice(&settings.multiplier.to_le_bytes());
            at += 20;
        }
        let at = usize::from(offset);
        u32::from_le_bytes(space[at..at + 4].try_into().unwrap())
    }

    fn config_write(&self, offset: u16, _len: u8, _value: u32) {
        self.0.lock().fault(format!("a write to configuration space at {offset:#x}"));
    }

    fn bar(&self, index: u8) -> Result<Arc<Bar>, PciError> {
        if index == BAR {
            return Ok(Arc::new(Bar(Arc::clone(&self.0))));
        }
        Err(PciError::Unusable { address: self.address(), problem: format!("there is no BAR {index}") })
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::new(Space(self.0.me.clone()))
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        self.0.lock().bus_master = on;
        Ok(())
    }

    fn reset(&self) -> Result<bool, PciError> {
        let mut inner = self.0.lock();
        inner.function_resets += 1;
        inner.reset();
        Ok(true)
    }

    fn msix_vectors(&self) -> u16 {
        self.0.lock().settings.msix
    }

    fn enable_msix(&self, count: u16) -> Result<Vec<OwnedFd>, PciError> {
        let mut inner = self.0.lock();
        if count > inner.settings.system_vectors {
            return Err(PciError::Unusable { address: self.address(), problem: "no more vectors".into() });
        }
        inner.vectors = (0..count).map(|_| event()).collect();
        Ok(inner.vectors.iter().map(|fd| fd.try_clone().unwrap()).collect())
    }

    fn enable_intx(&self) -> Result<OwnedFd, PciError> {
        let mut inner = self.0.lock();
        if !inner.settings.intx {
            return Err(PciError::Unusable { address: self.address(), problem: "no interrupt".into() });
        }
        inner.masked = false;
        Ok(inner.line.insert(event()).try_clone().unwrap())
    }

    fn unmask_intx(&self) {
        let mut inner = self.0.lock();
        inner.masked = false;
        let read = inner.line.as_ref().map(|line| rustix::io::read(line, &mut [0; 8]));
        if read.is_some_and(|read| read.is_err()) {
            inner.fault("the interrupt's descriptor was read, or it was unmasked without an interrupt");
        }
        if inner.isr != 0 {
            inner.interrupt(0, 0);
        }
    }

    fn disable_interrupts(&self) {
        let mut inner = self.0.lock();
        (inner.vectors, inner.line) = (Vec::new(), None);
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.removal.as_fd())
    }
}

/// What the device reaches.
#[derive(Debug)]
struct Space(Weak<Machine>);

/// Memory that is mapped.
struct Way(Weak<Machine>, Vec<DmaRange>);

impl Drop for Way {
    fn drop(&mut self) {
        let Some(machine) = self.0.upgrade() else { return };
        let mut inner = machine.lock();
        if inner.queues.iter().any(|queue| queue.ring.is_some()) {
            inner.fault("memory is unmapped while the device has rings");
            inner.let_go();
        }
        inner.mapped.retain(|range| !self.1.contains(range));
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
        // Rings are mapped first.
        let settings = &inner.settings;
        let piece = if inner.mapped.is_empty() { settings.ring_piece } else { settings.pool_piece };
        let piece = piece.unwrap_or(len);
        let mut ranges = Vec::new();
        for start in (0..len).step_by(piece) {
            let range =
                DmaRange { base: base + start, len: piece.min(len - start), device: inner.next_address };
            // No two pieces follow each other.
            inner.next_address += (range.len as u64).next_multiple_of(4096) + 0x10_0000;
            ranges.push(range);
        }
        inner.mapped.extend(&ranges);
        Ok(DmaMapping::new(ranges.clone(), Box::new(Way(self.0.clone(), ranges)), keep))
    }

    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        let machine = self.0.upgrade().unwrap();
        let translated = machine.lock().settings.translated;
        translated.then_some(0..=u64::MAX).into_iter().collect()
    }
}
