//! A model of a virtio-net device on PCI, as a driver sees it: configuration space, registers, interrupts, and rings that it
//! works on. What is sent by a pair of queues is received by the same pair.
//!
//! It reaches memory by addresses of its own, only where it is mapped, and only while it is a bus master; whatever else the
//! driver has it do is noted as a fault.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rustix::event::{EventfdFlags, eventfd};
use wirerate_eal::dma::DmaRange;
use wirerate_pmd::MbufPool;
use wirerate_pmd::virtqueue::shared_memory::SharedRegion;
use wirerate_pmd::virtqueue::{AnyDeviceRing, Features, Format, RingArea, SharedMemory};

use super::function::Function;
use super::work;

/// The BAR that has the registers, and where in it the structures are.
pub(crate) const BAR: u8 = 4;
pub(crate) const BAR_LEN: u32 = 0x4000;
pub(crate) const COMMON: u32 = 0;
pub(crate) const ISR: u32 = 0x1000;
pub(crate) const DEVICE: u32 = 0x2000;
pub(crate) const NOTIFY: u32 = 0x3000;
const MULTIPLIER: u32 = 4;

pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const NEEDS_RESET: u8 = 0x40;

/// The station address.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x41];

/// A capability of the list: `cfg_type`, BAR, offset, length, and bytes of the capability itself.
pub(crate) type Capability = (u8, u8, u32, u32, u8);

/// How a device is. What is not like a device's belongs to hostile ones.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) id: u16,
    pub(crate) offered: Features,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) loops: bool,
    pub(crate) pairs: u16,
    /// What the configuration says of them, if that is something else.
    pub(crate) told_pairs: Option<u16>,
    pub(crate) queue_size: u16,
    pub(crate) notify_off: Option<u16>,
    pub(crate) multiplier: u32,
    pub(crate) msix: u16,
    /// As many as the system has, whatever the device has.
    pub(crate) system_vectors: u16,
    pub(crate) intx: bool,
    pub(crate) refuses_vectors: bool,
    pub(crate) refuses_features: bool,
    pub(crate) refuses: Option<(u8, u8)>,
    pub(crate) silent: bool,
    pub(crate) never_resets: bool,
    pub(crate) restless: bool,
    /// Device addresses of the rings are one piece for so many bytes only.
    pub(crate) ring_piece: Option<usize>,
    /// Those of the pool are.
    pub(crate) pool_piece: Option<usize>,
    /// Device addresses are an IOMMU's.
    pub(crate) translated: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            id: 0x1041,
            offered: Features::VERSION_1
                | Features::ACCESS_PLATFORM
                | Features::ORDER_PLATFORM
                | Features::INDIRECT
                | Features::MAC
                | Features::STATUS
                | Features::MTU
                | Features::MRG_RXBUF
                | Features::MQ
                | Features::CTRL_VQ
                | Features::CTRL_RX
                | Features::CTRL_VLAN
                | Features::CTRL_MAC_ADDR
                | Features::GUEST_ANNOUNCE
                | Features::SPEED_DUPLEX
                | Features::RSS,
            capabilities: vec![
                (1, BAR, COMMON, 0x38, 16),
                (3, BAR, ISR, 1, 16),
                (4, BAR, DEVICE, 24, 16),
                (2, BAR, NOTIFY, 0x1000, 20),
                (5, 0, 0, 0, 20),
            ],
            loops: false,
            pairs: 2,
            told_pairs: None,
            queue_size: 256,
            notify_off: None,
            multiplier: MULTIPLIER,
            msix: 16,
            system_vectors: 16,
            intx: true,
            refuses_vectors: false,
            refuses_features: false,
            refuses: None,
            silent: false,
            never_resets: false,
            restless: false,
            translated: true,
            ring_piece: None,
            pool_piece: None,
        }
    }
}

/// A queue's registers, and its ring while it has one.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) size: u16,
    pub(crate) vector: u16,
    pub(crate) addresses: [u32; 6],
    pub(crate) ring: Option<AnyDeviceRing>,
}

/// All that changes.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) status: u8,
    pub(crate) accepted: u64,
    device_select: u32,
    driver_select: u32,
    queue_select: u16,
    generation: u8,
    pub(crate) link: u16,
    pub(crate) speed: u32,
    pub(crate) queues: Vec<Queue>,
    config_vector: u16,
    pub(crate) isr: u8,
    pub(crate) vectors: Vec<OwnedFd>,
    pub(crate) line: Option<OwnedFd>,
    pub(crate) masked: bool,
    pub(crate) gone: bool,
    pub(crate) released: bool,
    pub(crate) bus_master: bool,
    pub(crate) function_resets: u32,
    pub(crate) mapped: Vec<DmaRange>,
    pub(crate) next_address: u64,
    pub(crate) commands: Vec<(u8, u8, Vec<u8>)>,
    pub(crate) faults: Vec<String>,
    pub(crate) kicks: u64,
    pub(crate) interrupts: u64,
    /// The pool of received packets, of which some are out until the device was reset.
    pub(crate) witness: Option<MbufPool>,
    /// Packets in more pieces than a header and their segments.
    pub(crate) split: u64,
}

/// The device, to those who test.
#[derive(Debug)]
pub(crate) struct Machine {
    inner: Mutex<Inner>,
    pub(crate) removal: OwnedFd,
    pub(crate) me: Weak<Machine>,
}

pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn ring(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let mut inner = Inner {
            status: 0,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            generation: 0,
            link: 1,
            speed: 25_000,
            queues: Vec::new(),
            config_vector: 0xffff,
            isr: 0,
            vectors: Vec::new(),
            line: None,
            masked: false,
            gone: false,
            released: false,
            bus_master: false,
            function_resets: 0,
            mapped: Vec::new(),
            next_address: 0x10_0000_0000,
            commands: Vec::new(),
            faults: Vec::new(),
            kicks: 0,
            interrupts: 0,
            witness: None,
            split: 0,
            settings,
        };
        inner.reset();
        Arc::new_cyclic(|me| Self { inner: Mutex::new(inner), removal: event(), me: me.clone() })
    }

    /// The function, for a driver.
    pub(crate) fn function(&self) -> Function {
        Function(self.me.upgrade().unwrap())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Changes what the configuration says, and tells the driver.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        inner.generation = inner.generation.wrapping_add(1);
        let vector = inner.config_vector;
        inner.interrupt(vector, 2);
    }

    /// The system wants the function back.
    pub(crate) fn want_back(&self) {
        ring(&self.removal);
    }

    /// Takes the device out without a word.
    pub(crate) fn pull_out(&self) {
        let mut inner = self.lock();
        inner.gone = true;
        inner.let_go();
    }

    /// Nothing was done wrong.
    pub(crate) fn assert_good(&self) {
        let faults = self.lock().faults.clone();
        assert!(faults.is_empty(), "{faults:?}");
    }

    /// The driver has given back all, and the device is at rest.
    pub(crate) fn assert_released(&self) {
        let inner = self.lock();
        assert!(inner.faults.is_empty(), "{:?}", inner.faults);
        assert!(inner.released, "the function is still held");
        assert!(inner.mapped.is_empty(), "memory is still mapped: {:?}", inner.mapped);
        assert!(!inner.bus_master, "it is still a bus master");
        assert!(inner.gone || inner.status == 0, "its status is {:#x}", inner.status);
        assert!(inner.vectors.is_empty() && inner.line.is_none(), "interrupts are still on");
    }
}

impl Inner {
    /// Forgets all rings.
    pub(crate) fn let_go(&mut self) {
        self.queues.clear();
        let count = 2 * self.settings.pairs + 1;
        let queue = || Queue { size: self.settings.queue_size, vector: 0xffff, ..Queue::default() };
        self.queues.extend((0..count).map(|_| queue()));
    }

    pub(crate) fn reset(&mut self) {
        self.let_go();
        (self.status, self.accepted, self.config_vector, self.isr) = (0, 0, 0xffff, 0);
    }

    pub(crate) fn features(&self) -> Features {
        Features::from_bits_retain(self.accepted)
    }

    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// The number of the control queue.
    pub(crate) fn control(&self) -> u16 {
        if self.features().intersects(Features::MQ | Features::RSS) { 2 * self.settings.pairs } else { 2 }
    }

    /// Where a device address is.
    pub(crate) fn host(&mut self, address: u64, len: usize) -> Option<NonNull<u8>> {
        let found = self.mapped.iter().find_map(|range| {
            let offset = usize::try_from(address.checked_sub(range.device)?).ok()?;
            (offset < range.len && len <= range.len - offset).then(|| range.base + offset)
        });
        if found.is_none() {
            self.fault(format!("{len} bytes at {address:#x} are not mapped"));
        } else if !self.bus_master {
            self.fault("an access to memory while it is no bus master");
        }
        NonNull::new(std::ptr::with_exposed_provenance_mut(found?))
    }

    /// What is mapped first, where tables are.
    pub(crate) fn memory(&self) -> SharedMemory {
        let region = |range: &DmaRange| {
            let host = NonNull::new(std::ptr::with_exposed_provenance_mut(range.base)).unwrap();
            // SAFETY: the driver keeps what it has mapped until it is unmapped, which takes the lock that is held here; and
            // says that nobody borrows what the device writes.
            unsafe { SharedRegion::from_raw(range.device, range.device, host, range.len, Box::new(())) }
                .unwrap()
        };
        SharedMemory::new(self.mapped.iter().take(8).map(region).collect()).unwrap()
    }

    pub(crate) fn interrupt(&mut self, vector: u16, isr: u8) {
        self.interrupts += 1;
        if let Some(fd) = self.vectors.get(usize::from(vector)) {
            ring(fd);
        } else if let Some(line) = &self.line {
            self.isr |= isr;
            if !self.masked {
                self.masked = true;
                ring(line);
            }
        }
    }

    fn enable(&mut self, number: u16) {
        if self.status & FEATURES_OK == 0 || self.status & DRIVER_OK != 0 {
            self.fault(format!("queue {number} is enabled in status {:#x}", self.status));
        }
        let Some(queue) = self.queues.get(usize::from(number)) else { return };
        let size = queue.size;
        let [a, b, c, d, e, f] = queue.addresses.map(u64::from);
        let format =
            if self.features().contains(Features::RING_PACKED) { Format::Packed } else { Format::Split };
        let lengths = format.lengths(size);
        let parts = [
            self.host(a | b << 32, lengths.descriptors),
            self.host(c | d << 32, lengths.driver),
            self.host(e | f << 32, lengths.device),
        ];
        let [Some(descriptors), Some(driver), Some(device)] = parts else { return };
        // SAFETY: all parts are mapped, and stay so until the driver unmaps them, which is a fault while there is a ring.
        let area = unsafe { RingArea::new(format, size, descriptors, driver, device, Arc::new(())) };
        let Some(area) = area else {
            self.fault(format!("queue {number} has {size} descriptors at {:#x?}", parts));
            return;
        };
        let base = if format == Format::Packed { 0x8000_8000 } else { 0 };
        let mut ring = AnyDeviceRing::new(area, self.features(), base);
        ring.arm();
        self.queues[usize::from(number)].ring = Some(ring);
    }

    pub(crate) fn read(&mut self, offset: usize, len: usize) -> u64 {
        let ones = u64::MAX >> (64 - 8 * len);
        if self.gone || offset + len > BAR_LEN as usize {
            return ones;
        }
        let offset = offset as u32;
        match (offset & 0xf000, offset & 0xfff) {
            (COMMON, at) => self.read_common(at),
            (ISR, 0) => std::mem::take(&mut self.isr).into(),
            (DEVICE, at) => {
                let mut config = MAC.to_vec();
                config.extend(self.link.to_le_bytes());
                let pairs = self.settings.told_pairs.unwrap_or(self.settings.pairs);
                config.extend(pairs.to_le_bytes());
                config.extend(1500u16.to_le_bytes());
                config.extend(self.speed.to_le_bytes());
                // Duplex, key, table, hashes.
                config.extend([1, 40, 128, 0, 0x3f, 0, 0, 0]);
                let at = at as usize;
                let mut bytes = [0; 8];
                bytes[..len].copy_from_slice(&config[at..at + len]);
                u64::from_le_bytes(bytes)
            }
            _ => 0,
        }
    }

    fn read_common(&mut self, at: u32) -> u64 {
        let selected = self.queue_select;
        let queue = self.queues.get(usize::from(selected));
        match at {
            0x04 => (self.settings.offered.bits() >> (32 * self.device_select.min(1))) & 0xffff_ffff,
            0x10 => self.config_vector.into(),
            // As QEMU's: queues of further pairs are made when they are agreed on.
            0x12 if self.accepted & (Features::MQ | Features::RSS).bits() == 0 => {
                self.queues.len().min(3) as u64
            }
            0x12 => self.queues.len() as u64,
            0x14 => self.status.into(),
            0x15 => {
                self.generation = self.generation.wrapping_add(self.settings.restless.into());
                self.generation.into()
            }
            0x18 => queue.map_or(0, |queue| queue.size.into()),
            0x1a => queue.map_or(0xffff, |queue| queue.vector.into()),
            0x1c => queue.map_or(0, |queue| queue.ring.is_some().into()),
            0x1e => self.settings.notify_off.unwrap_or(selected).into(),
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, offset: usize, value: u32) {
        if self.gone || offset >= BAR_LEN as usize {
            return;
        }
        let offset = offset as u32;
        match (offset & 0xf000, offset & 0xfff) {
            (COMMON, at) => self.write_common(at, value),
            (NOTIFY, at) => {
                self.kicks += 1;
                if self.status & DRIVER_OK == 0 {
                    self.fault(format!("queue {value} is told of in status {:#x}", self.status));
                }
                if at != value * self.settings.multiplier {
                    self.fault(format!("queue {value} is told of at {at:#x}"));
                }
                work::work(self);
            }
            _ => self.fault(format!("a write at {offset:#x}")),
        }
    }

    fn write_common(&mut self, at: u32, value: u32) {
        let selected = usize::from(self.queue_select);
        let takes = !self.settings.refuses_vectors;
        match at {
            0x00 => self.device_select = value,
            0x08 => self.driver_select = value,
            0x0c => {
                let shift = 32 * self.driver_select.min(1);
                self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(value) << shift;
            }
            0x10 if takes => self.config_vector = value as u16,
            0x14 if value == 0 && self.settings.never_resets => {}
            0x14 if value == 0 => {
                let has_rings = self.queues.iter().any(|queue| queue.ring.is_some());
                if has_rings && self.witness.as_ref().is_some_and(|pool| pool.counts().in_use == 0) {
                    self.fault("packets went home before the device had let go of them");
                }
                self.reset();
            }
            0x14 => self.set_status(value as u8),
            0x16 => self.queue_select = value as u16,
            0x18 => self.queues[selected].size = value as u16,
            0x1a if takes => self.queues[selected].vector = value as u16,
            0x1c => self.enable(selected as u16),
            0x20..0x38 => self.queues[selected].addresses[(at as usize - 0x20) / 4] = value,
            _ => {}
        }
    }

    fn set_status(&mut self, status: u8) {
        self.status = status;
        if status & FEATURES_OK != 0 {
            let features = self.features();
            let known = self.settings.offered.contains(features) && features.contains(Features::VERSION_1);
            if !known || self.settings.refuses_features {
                self.status &= !FEATURES_OK;
            }
        }
        if status & DRIVER_OK != 0 {
            work::work(self);
        }
    }
}
