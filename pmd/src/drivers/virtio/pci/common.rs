//! The registers of a virtio device on PCI: the common configuration (virtio 1.2, 4.1.4.3), doorbells and interrupt status.

use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::PciFunction;

use super::capability::{self, Structures};
use super::error::VirtioPciError;
use crate::virtqueue::{Features, Kick};

/// How long a reset may take. Devices need some milliseconds at most.
const RESET_TIME: Duration = Duration::from_secs(1);

/// Vendor and devices: a network device of virtio 1.0, and one that may have a legacy interface, too (4.1.2).
pub(super) const VENDOR: u16 = 0x1af4;
pub(super) const MODERN_NET: u16 = 0x1041;
pub(super) const TRANSITIONAL_NET: u16 = 0x1000;

/// Device status bits (2.1).
pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 0x40;
/// No device status, but what registers read as that are not there.
pub(super) const ALL_ONES: u8 = 0xff;

/// No interrupt for an event (4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const STATUS: usize = 0x14;
const GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFF: usize = 0x1e;
/// The addresses of the descriptors, the driver's area and the device's area follow each other, 64 bits each.
const QUEUE_ADDRESSES: usize = 0x20;

/// A device's registers.
#[derive(Debug)]
pub(super) struct Registers<B> {
    parts: Structures<B>,
}

impl<B: Mmio> Registers<B> {
    /// Finds the registers of a virtio network device.
    ///
    /// # Errors
    /// [`VirtioPciError`] when it is another device, is gone, or has no interface of virtio 1.0.
    pub(super) fn find<F: PciFunction<Bar = B>>(function: &F) -> Result<Self, VirtioPciError> {
        let identity = function.config_read(0);
        if identity == u32::MAX {
            return Err(VirtioPciError::Gone);
        }
        let (vendor, device) = (identity as u16, (identity >> 16) as u16);
        if vendor != VENDOR || !matches!(device, MODERN_NET | TRANSITIONAL_NET) {
            return Err(VirtioPciError::Foreign { vendor, device });
        }
        Ok(Self { parts: capability::find(function)? })
    }

    /// The device status.
    pub(super) fn status(&self) -> u8 {
        self.parts.common.read8(STATUS)
    }

    /// Whether the device does not answer any more.
    pub(super) fn is_gone(&self) -> bool {
        self.status() == ALL_ONES
    }

    /// Sets the device status.
    pub(super) fn set_status(&self, status: u8) {
        self.parts.common.write8(STATUS, status);
    }

    /// Resets the device: it lets go of all rings and buffers (4.1.4.3.1: it is done when its status reads as 0).
    ///
    /// # Errors
    /// [`VirtioPciError::Gone`], and [`VirtioPciError::Reset`] when it takes longer than a second.
    pub(super) fn reset(&self) -> Result<(), VirtioPciError> {
        self.set_status(0);
        let begun = Instant::now();
        loop {
            match self.status() {
                0 => return Ok(()),
                ALL_ONES => return Err(VirtioPciError::Gone),
                status if begun.elapsed() >= RESET_TIME => {
                    return Err(VirtioPciError::Reset { status, milliseconds: RESET_TIME.as_millis() });
                }
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// What the device offers.
    pub(super) fn offered(&self) -> Features {
        let half = |select| {
            self.parts.common.write32(DEVICE_FEATURE_SELECT, select);
            u64::from(self.parts.common.read32(DEVICE_FEATURE))
        };
        Features::from_bits_retain(half(0) | half(1) << 32)
    }

    /// Agrees on `features`; the device is in the state after `DRIVER` (3.1.1).
    ///
    /// # Errors
    /// [`VirtioPciError::Features`] when the device does not.
    pub(super) fn accept(&self, features: Features) -> Result<(), VirtioPciError> {
        let bits = features.bits();
        for (select, half) in [(0, bits as u32), (1, (bits >> 32) as u32)] {
            self.parts.common.write32(DRIVER_FEATURE_SELECT, select);
            self.parts.common.write32(DRIVER_FEATURE, half);
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        match self.status() {
            ALL_ONES => Err(VirtioPciError::Gone),
            status if status & FEATURES_OK == 0 => Err(VirtioPciError::Features { features: bits }),
            _ => Ok(()),
        }
    }

    /// How many queues there are.
    pub(super) fn queues(&self) -> u16 {
        self.parts.common.read16(NUM_QUEUES)
    }

    /// Reads the device's own configuration as `read` does, as often as it takes to read one state of it (2.5.1).
    ///
    /// # Errors
    /// [`VirtioPciError::Unstable`] when it changes each time.
    pub(super) fn stable<T>(&self, read: impl Fn(&Self) -> T) -> Result<T, VirtioPciError> {
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            let before = self.parts.common.read8(GENERATION);
            let value = read(self);
            if self.parts.common.read8(GENERATION) == before {
                return Ok(value);
            }
        }
        Err(VirtioPciError::Unstable { tries: TRIES })
    }

    /// A byte of the device's own configuration; none where it has no such byte.
    pub(super) fn config8(&self, at: usize) -> Option<u8> {
        (at < self.parts.device.len()).then(|| self.parts.device.read8(at))
    }

    /// Two bytes of it.
    pub(super) fn config16(&self, at: usize) -> Option<u16> {
        (at + 2 <= self.parts.device.len()).then(|| self.parts.device.read16(at))
    }

    /// Four bytes of it.
    pub(super) fn config32(&self, at: usize) -> Option<u32> {
        (at + 4 <= self.parts.device.len()).then(|| self.parts.device.read32(at))
    }

    /// Why the device interrupted, bit 0 for a queue, bit 1 for its configuration; the interrupt ends by that (4.1.4.5).
    pub(super) fn take_interrupt(&self) -> u8 {
        self.parts.isr.read8(0)
    }

    /// Chooses the vector by which the device tells that its configuration has changed; false when it cannot.
    pub(super) fn set_config_vector(&self, vector: u16) -> bool {
        self.parts.common.write16(CONFIG_VECTOR, vector);
        self.parts.common.read16(CONFIG_VECTOR) == vector
    }

    /// The most descriptors that queue `queue` can have.
    ///
    /// # Errors
    /// [`VirtioPciError::Queue`] when there is no such queue, or that number cannot be.
    pub(super) fn queue_size(&self, queue: u16) -> Result<u16, VirtioPciError> {
        let problem = |problem: String| VirtioPciError::Queue { queue, problem };
        let queues = self.queues();
        if queue >= queues {
            return Err(problem(format!("the device says that it has {queues}")));
        }
        self.parts.common.write16(QUEUE_SELECT, queue);
        match self.parts.common.read16(QUEUE_SIZE) {
            0 => Err(problem("the device has not made it available".to_owned())),
            // A device that is gone, or one that lies.
            size if size > crate::virtqueue::layout::MAX_SIZE => {
                Err(problem(format!("it is said to have {size} descriptors, and 32768 is the most")))
            }
            size => Ok(size),
        }
    }

    /// How the device is told of what is in queue `queue`.
    ///
    /// # Errors
    /// [`VirtioPciError::Queue`] when its doorbell lies outside of the doorbells.
    pub(super) fn doorbell(&self, queue: u16) -> Result<Kick, VirtioPciError> {
        self.parts.common.write16(QUEUE_SELECT, queue);
        let number = self.parts.common.read16(QUEUE_NOTIFY_OFF);
        let at = u64::from(number) * u64::from(self.parts.notify_multiplier);
        let bell = usize::try_from(at).ok().and_then(|at| self.parts.notify.doorbell(at));
        let (registers, offset) = bell.ok_or_else(|| VirtioPciError::Queue {
            queue,
            problem: format!("its doorbell is said to be at {at:#x} of {:#x} bytes", self.parts.notify.len()),
        })?;
        Ok(Kick::Register { registers, offset, ring: queue })
    }

    /// Gives queue `queue` its rings, and lets the device use it (4.1.5.1.3).
    ///
    /// # Errors
    /// [`VirtioPciError::Queue`] when the device does not take the vector.
    pub(super) fn enable_queue(
        &self,
        queue: u16,
        size: u16,
        vector: u16,
        addresses: [u64; 3],
    ) -> Result<(), VirtioPciError> {
        let common = &self.parts.common;
        common.write16(QUEUE_SELECT, queue);
        common.write16(QUEUE_SIZE, size);
        common.write16(QUEUE_VECTOR, vector);
        let taken = common.read16(QUEUE_VECTOR);
        if taken != vector {
            let problem = format!("the device takes no interrupt vector {vector} for it");
            return Err(VirtioPciError::Queue { queue, problem });
        }
        for (number, address) in addresses.into_iter().enumerate() {
            let at = QUEUE_ADDRESSES + 8 * number;
            common.write32(at, address as u32);
            common.write32(at + 4, (address >> 32) as u32);
        }
        common.write16(QUEUE_ENABLE, 1);
        Ok(())
    }
}
