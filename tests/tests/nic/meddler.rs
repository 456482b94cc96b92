//! What stands between a driver and its device, and makes one of them look broken to the other: it alters registers as
//! they are read and written, descriptors and data as the device fetches and writes them, and frames on the wire.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirerate_nic::{Dma, Mapped, Unreachable, Wire};

/// Which ring a descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Receive,
    Transmit,
}
use Way::{Receive, Transmit};

/// The two words of a descriptor.
pub(crate) type Words = [u64; 2];

type OnRead = Box<dyn Fn(usize, u32) -> u32 + Send + Sync>;
type OnWrite = Box<dyn Fn(usize, u32) -> Vec<(usize, u32)> + Send + Sync>;
type OnDescriptor = Box<dyn Fn(Way, &mut Words) + Send + Sync>;
type OnData = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;
type OnFrame = Box<dyn Fn(Vec<u8>) -> Vec<Vec<u8>> + Send + Sync>;

/// What is altered. By default, nothing.
#[derive(Default)]
pub(crate) struct Meddler {
    on_read: Option<OnRead>,
    on_write: Option<OnWrite>,
    on_fetch: Option<OnDescriptor>,
    on_write_back: Option<OnDescriptor>,
    on_data: Option<OnData>,
    on_departure: Option<OnFrame>,
    on_arrival: Option<OnFrame>,
    data_comes_late: bool,
    /// The driver does not take the bus from the device.
    pub(super) keeps_bus: bool,
    /// What was written last to the registers of rings.
    rings: Mutex<BTreeMap<usize, u32>>,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddler").finish_non_exhaustive()
    }
}

impl Meddler {
    /// Registers read as this makes of what the device says.
    pub(crate) fn on_read(alter: impl Fn(usize, u32) -> u32 + Send + Sync + 'static) -> Self {
        Self { on_read: Some(Box::new(alter)), ..Self::default() }
    }

    /// These are written instead of what the driver writes.
    pub(crate) fn on_write(alter: impl Fn(usize, u32) -> Vec<(usize, u32)> + Send + Sync + 'static) -> Self {
        Self { on_write: Some(Box::new(alter)), ..Self::default() }
    }

    /// Registers read so, besides.
    pub(crate) fn and_on_read(mut self, alter: impl Fn(usize, u32) -> u32 + Send + Sync + 'static) -> Self {
        self.on_read = Some(Box::new(alter));
        self
    }

    /// Descriptors are altered as the device fetches them, as if the driver had written them so.
    pub(crate) fn on_fetch(alter: impl Fn(Way, &mut Words) + Send + Sync + 'static) -> Self {
        Self { on_fetch: Some(Box::new(alter)), ..Self::default() }
    }

    /// Descriptors are altered as the device writes them back.
    pub(crate) fn on_write_back(alter: impl Fn(Way, &mut Words) + Send + Sync + 'static) -> Self {
        Self { on_write_back: Some(Box::new(alter)), ..Self::default() }
    }

    /// The data that the device writes are altered.
    pub(crate) fn on_data(alter: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self { on_data: Some(Box::new(alter)), ..Self::default() }
    }

    /// Frames are altered as they leave the device.
    pub(crate) fn on_departure(alter: impl Fn(Vec<u8>) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { on_departure: Some(Box::new(alter)), ..Self::default() }
    }

    /// Frames are altered as they come to the device.
    pub(crate) fn on_arrival(alter: impl Fn(Vec<u8>) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { on_arrival: Some(Box::new(alter)), ..Self::default() }
    }

    /// Data are in memory only when the device writes the next.
    pub(crate) fn data_comes_late() -> Self {
        Self { data_comes_late: true, ..Self::default() }
    }

    /// The driver does not take the bus from the device.
    pub(crate) fn keeps_bus() -> Self {
        Self { keeps_bus: true, ..Self::default() }
    }

    pub(super) fn meddles_with_memory(&self) -> bool {
        self.on_fetch.is_some()
            || self.on_write_back.is_some()
            || self.on_data.is_some()
            || self.data_comes_late
    }

    fn rings(&self) -> MutexGuard<'_, BTreeMap<usize, u32>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, register: usize, value: u32) -> u32 {
        self.on_read.as_ref().map_or(value, |alter| alter(register, value))
    }

    pub(super) fn written(&self, register: usize, value: u32) -> Vec<(usize, u32)> {
        let altered =
            self.on_write.as_ref().map_or_else(|| vec![(register, value)], |alter| alter(register, value));
        for (register, value) in &altered {
            if (0x1000..0x2000).contains(register) || (0x6000..0x7000).contains(register) {
                self.rings().insert(*register, *value);
            }
        }
        altered
    }

    /// Which ring an address is in, and where it begins.
    fn ring(&self, address: u64) -> Option<(Way, u64)> {
        let rings = self.rings();
        let value = |register| u64::from(rings.get(&register).copied().unwrap_or(0));
        // The first registers of queues are those of their rings' bases and lengths (8.2.3.8.1, 8.2.3.9.5).
        [(Receive, 0x1000), (Transmit, 0x6000)].into_iter().find_map(|(way, first)| {
            (0..16).map(|queue| first + 0x40 * queue).find_map(|at| {
                let base = value(at + 4) << 32 | value(at);
                (base..base + value(at + 8)).contains(&address).then_some((way, base))
            })
        })
    }

    /// The wire as it looks through this.
    pub(crate) fn wire(self: &Arc<Self>, wire: impl Wire + 'static) -> Box<dyn Wire> {
        Box::new(AlteredWire { wire: Box::new(wire), meddler: Arc::clone(self), waiting: Vec::new() })
    }
}

/// The device's way to memory, with somebody on it.
#[derive(Debug)]
pub(super) struct Altered {
    memory: Mapped,
    meddler: Arc<Meddler>,
    late: Mutex<Option<(u64, Vec<u8>)>>,
}

impl Altered {
    pub(super) fn new(memory: Mapped, meddler: Arc<Meddler>) -> Self {
        Self { memory, meddler, late: Mutex::new(None) }
    }
}

/// Alters the whole descriptors in `bytes`.
fn alter_each(bytes: &mut [u8], alter: impl Fn(&mut Words)) {
    for descriptor in bytes.as_chunks_mut::<16>().0 {
        let whole = u128::from_le_bytes(*descriptor);
        let mut words = [whole as u64, (whole >> 64) as u64];
        alter(&mut words);
        *descriptor = (u128::from(words[1]) << 64 | u128::from(words[0])).to_le_bytes();
    }
}

impl Dma for Altered {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreachable> {
        self.memory.read(address, bytes)?;
        if let (Some(alter), Some((way, _))) = (&self.meddler.on_fetch, self.meddler.ring(address)) {
            alter_each(bytes, |words| alter(way, words));
        }
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        let Some((way, base)) = self.meddler.ring(address) else {
            let mut data = bytes.to_vec();
            if let Some(alter) = &self.meddler.on_data {
                alter(&mut data);
            }
            if !self.meddler.data_comes_late {
                return self.memory.write(address, &data);
            }
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            return late
                .replace((address, data))
                .map_or(Ok(()), |(address, data)| self.memory.write(address, &data));
        };
        let Some(alter) = &self.meddler.on_write_back else { return self.memory.write(address, bytes) };
        // What is written may be a part of a descriptor, or several: those that it touches, whole.
        let start = base + (address - base) / 16 * 16;
        let first = (address - start) as usize;
        let mut whole = vec![0; (first + bytes.len()).next_multiple_of(16)];
        self.memory.read(start, &mut whole)?;
        whole[first..first + bytes.len()].copy_from_slice(bytes);
        alter_each(&mut whole, |words| alter(way, words));
        self.memory.write(address, &whole[first..first + bytes.len()])
    }
}

/// A wire with somebody on it.
#[derive(Debug)]
struct AlteredWire {
    wire: Box<dyn Wire>,
    meddler: Arc<Meddler>,
    waiting: Vec<Vec<u8>>,
}

impl Wire for AlteredWire {
    fn send(&mut self, frame: Vec<u8>) {
        match &self.meddler.on_departure {
            None => self.wire.send(frame),
            Some(alter) => alter(frame).into_iter().for_each(|frame| self.wire.send(frame)),
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let Some(alter) = &self.meddler.on_arrival else { return self.wire.receive() };
        while self.waiting.is_empty() {
            self.waiting = alter(self.wire.receive()?);
        }
        Some(self.waiting.remove(0))
    }
}
