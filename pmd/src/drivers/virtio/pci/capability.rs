//! Where a device's registers are: found by the capabilities in its configuration space (virtio 1.2, 4.1.4).
//!
//! What a capability says is compared with the registers that there are, once; later accesses cannot leave them.

use std::sync::Arc;

use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::PciFunction;

use super::error::VirtioPciError;

/// Configuration space: command and status; bit 20 says that there is a list of capabilities (PCI 3.0, 6.2.3).
const COMMAND_STATUS: u16 = 0x04;
const HAS_CAPABILITIES: u32 = 1 << 20;
/// Configuration space: where the list begins.
const CAPABILITIES: u16 = 0x34;
/// A capability of the vendor (PCI 3.0, appendix H).
const VENDOR: u8 = 0x09;
/// As many capabilities of 4 bytes as configuration space has room for behind its header: a longer list is a loop.
const MOST_CAPABILITIES: usize = (256 - 64) / 4;

/// `cfg_type` of the structures (4.1.4). The last one, access by configuration space, is for firmware.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

/// Bytes of the common configuration that every device has (4.1.4.3).
pub(super) const COMMON_LEN: usize = 0x38;
/// Bytes of the device configuration: an address and the link's status (5.1.4).
const DEVICE_LEN: usize = 8;

/// A part of a device's registers. What lies outside reads as all ones and takes no writes.
#[derive(Debug)]
pub(super) struct Window<B> {
    registers: Arc<B>,
    start: usize,
    len: usize,
}

impl<B: Mmio> Window<B> {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where in all the registers `bytes` bytes at `at` are.
    fn at(&self, at: usize, bytes: usize) -> Option<usize> {
        at.checked_add(bytes).filter(|end| *end <= self.len).map(|_| self.start + at)
    }

    pub(super) fn read8(&self, at: usize) -> u8 {
        self.at(at, 1).map_or(u8::MAX, |at| self.registers.read8(at))
    }

    pub(super) fn read16(&self, at: usize) -> u16 {
        self.at(at, 2).map_or(u16::MAX, |at| self.registers.read16(at))
    }

    pub(super) fn read32(&self, at: usize) -> u32 {
        self.at(at, 4).map_or(u32::MAX, |at| self.registers.read32(at))
    }

    pub(super) fn write8(&self, at: usize, value: u8) {
        if let Some(at) = self.at(at, 1) {
            self.registers.write8(at, value);
        }
    }

    pub(super) fn write16(&self, at: usize, value: u16) {
        if let Some(at) = self.at(at, 2) {
            self.registers.write16(at, value);
        }
    }

    pub(super) fn write32(&self, at: usize, value: u32) {
        if let Some(at) = self.at(at, 4) {
            self.registers.write32(at, value);
        }
    }

    /// All the registers, and where in them a 16-bit register at `at` is.
    pub(super) fn doorbell(&self, at: usize) -> Option<(Arc<dyn Mmio>, usize)> {
        let at = self.at(at, 2).filter(|at| at.is_multiple_of(2))?;
        Some((Arc::clone(&self.registers) as Arc<dyn Mmio>, at))
    }
}

/// The structures of a modern device.
#[derive(Debug)]
pub(super) struct Structures<B> {
    pub(super) common: Window<B>,
    pub(super) notify: Window<B>,
    /// Bytes between doorbells, 0 when all queues have one (4.1.4.4).
    pub(super) notify_multiplier: u32,
    pub(super) isr: Window<B>,
    pub(super) device: Window<B>,
}

/// Looks for a structure in the order of the list: the first one that can be used is the one to use (4.1.4.1).
struct Search<B> {
    what: &'static str,
    least: usize,
    align: usize,
    found: Option<Window<B>>,
    problem: Option<String>,
}

impl<B: Mmio> Search<B> {
    fn new(what: &'static str, least: usize, align: usize) -> Self {
        Self { what, least, align, found: None, problem: None }
    }

    /// True when this capability's structure is the one that is used.
    fn consider<F: PciFunction<Bar = B>>(&mut self, function: &F, bar: u8, offset: u32, len: u32) -> bool {
        if self.found.is_some() {
            return false;
        }
        match self.window(function, bar, offset, len) {
            Ok(window) => self.found = Some(window),
            Err(problem) => self.problem = Some(problem),
        }
        self.found.is_some()
    }

    fn window<F: PciFunction<Bar = B>>(
        &self,
        function: &F,
        bar: u8,
        offset: u32,
        len: u32,
    ) -> Result<Window<B>, String> {
        if bar > 5 {
            return Err(format!("it is said to be in BAR {bar}, and there are 0 to 5"));
        }
        let registers = function.bar(bar).map_err(|error| error.to_string())?;
        let (start, len, all) = (offset as usize, len as usize, registers.len());
        if start.checked_add(len).is_none_or(|end| end > all) {
            return Err(format!("{len:#x} bytes at {start:#x} are not in the {all:#x} bytes of BAR {bar}"));
        }
        if len < self.least || !start.is_multiple_of(self.align) {
            return Err(format!(
                "{len} bytes at {start:#x} of BAR {bar}, and {} are needed, aligned to {}",
                self.least, self.align
            ));
        }
        Ok(Window { registers, start, len })
    }

    fn end(self) -> Result<Window<B>, VirtioPciError> {
        let Self { what, found, problem, .. } = self;
        let problem = problem.unwrap_or_else(|| "no capability tells where it is".to_owned());
        found.ok_or(VirtioPciError::Structure { what, problem })
    }
}

/// Finds the structures of a function.
///
/// # Errors
/// [`VirtioPciError::Legacy`] when there are none at all, and [`VirtioPciError::Structure`] when one is missing.
pub(super) fn find<F: PciFunction>(function: &F) -> Result<Structures<F::Bar>, VirtioPciError> {
    let mut common = Search::new("common configuration", COMMON_LEN, 4);
    let mut notify = Search::new("notification registers", 2, 2);
    let mut isr = Search::new("interrupt status", 1, 1);
    let mut device = Search::new("device configuration", DEVICE_LEN, 4);
    let mut notify_multiplier = 0;
    let mut any = false;
    let has_list = function.config_read(COMMAND_STATUS) & HAS_CAPABILITIES != 0;
    let mut at = if has_list { function.config_read(CAPABILITIES) as u8 & !3 } else { 0 };
    for _ in 0..MOST_CAPABILITIES {
        if at < 0x40 {
            break;
        }
        let place = u16::from(at);
        let [id, next, len, kind] = function.config_read(place).to_le_bytes();
        at = next & !3;
        if id != VENDOR || len < 16 {
            continue;
        }
        any = true;
        let bar = function.config_read(place + 4) as u8;
        let (offset, length) = (function.config_read(place + 8), function.config_read(place + 12));
        match kind {
            COMMON => {
                common.consider(function, bar, offset, length);
            }
            NOTIFY if len >= 20 && notify.consider(function, bar, offset, length) => {
                notify_multiplier = function.config_read(place + 16);
            }
            ISR => {
                isr.consider(function, bar, offset, length);
            }
            DEVICE => {
                device.consider(function, bar, offset, length);
            }
            _ => {}
        }
    }
    if !any {
        return Err(VirtioPciError::Legacy);
    }
    if notify_multiplier != 0 && (!notify_multiplier.is_power_of_two() || notify_multiplier < 2) {
        let problem = format!("{notify_multiplier} bytes between doorbells are no power of two from 2 on");
        return Err(VirtioPciError::Structure { what: "notification registers", problem });
    }
    Ok(Structures {
        common: common.end()?,
        notify: notify.end()?,
        notify_multiplier,
        isr: isr.end()?,
        device: device.end()?,
    })
}
