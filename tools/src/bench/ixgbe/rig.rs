//! An 82599 that works only when it is told to: the model of `wirerate-nic`, and in front of its registers a BAR in
//! ordinary memory, where doorbells wait while the driver is measured.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use wirerate_eal::Eal;
use wirerate_eal::dma::DmaSpace;
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{PciAddress, PciError, PciFunction};
use wirerate_nic::registers::BAR_LEN;
use wirerate_nic::{Card, Function, ModelBar, Settings, Wire};
use wirerate_pmd::port::{Queues, Started, registry};
use wirerate_pmd::{MbufPool, MbufPoolConfig, Port, PortConfig};

const ADDRESS: &str = "0000:01:00.0";
/// Descriptors in each ring.
pub(super) const RING: u16 = 512;
/// Packets that the device has received when a measurement begins: the driver has posted as many buffers at any time.
pub(super) const FILLED: usize = RING as usize - 32;
/// Mbufs, and how many of them a thread keeps at hand.
pub(super) const MBUFS: usize = 4096;
pub(super) const CACHE: usize = 256;
/// Bytes of a frame without its checksum: 64 on the wire.
const FRAME: usize = 60;
/// Steps of the model after which it has failed to do something.
const VAIN: usize = 100_000;
/// The tails of the first queue (8.2.3.8.5, 8.2.3.9.8).
const TAILS: [usize; 2] = [0x01018, 0x06018];

/// Registers in memory. Writes go to the model at once, or wait there.
#[derive(Debug)]
pub(super) struct Bar {
    words: Box<[AtomicU32]>,
    deferred: AtomicBool,
    model: Arc<ModelBar>,
}

impl Mmio for Bar {
    fn len(&self) -> usize {
        BAR_LEN
    }

    fn read8(&self, offset: usize) -> u8 {
        self.model.read8(offset)
    }

    fn read16(&self, offset: usize) -> u16 {
        self.model.read16(offset)
    }

    fn read32(&self, offset: usize) -> u32 {
        self.model.read32(offset)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.model.write8(offset, value);
    }

    fn write16(&self, offset: usize, value: u16) {
        self.model.write16(offset, value);
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        if let Some(word) = self.words.get(offset / 4) {
            // A device's register is written after all that came before.
            word.store(value, Ordering::Release);
        }
        if !self.deferred.load(Ordering::Relaxed) {
            self.at_once(offset, value);
        }
    }
}

impl Bar {
    #[cold]
    fn at_once(&self, offset: usize, value: u32) {
        self.model.write32(offset, value);
    }

    /// Keeps what is written from here on, for [`deliver`](Self::deliver).
    fn defer(&self) {
        self.deferred.store(true, Ordering::Relaxed);
    }

    /// Tells the model of the tails, as they are now.
    fn deliver(&self) {
        self.deferred.store(false, Ordering::Relaxed);
        for tail in TAILS {
            if let Some(word) = self.words.get(tail / 4) {
                self.model.write32(tail, word.load(Ordering::Relaxed));
            }
        }
    }
}

/// The model's function, with that BAR.
#[derive(Debug)]
struct Shown {
    function: Function,
    bar: Arc<Bar>,
}

impl PciFunction for Shown {
    type Bar = Bar;

    fn address(&self) -> PciAddress {
        self.function.address()
    }

    fn config_read(&self, offset: u16) -> u32 {
        self.function.config_read(offset)
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        self.function.config_write(offset, len, value);
    }

    fn bar(&self, index: u8) -> Result<Arc<Bar>, PciError> {
        self.function.bar(index).map(|_| Arc::clone(&self.bar))
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        self.function.dma()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        self.function.set_bus_master(on)
    }

    fn reset(&self) -> Result<bool, PciError> {
        self.function.reset()
    }

    fn msix_vectors(&self) -> u16 {
        self.function.msix_vectors()
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
        self.function.removal()
    }
}

/// The other end of the cable: sends as many frames as it is asked for, and counts those that come.
#[derive(Debug, Default)]
struct Traffic {
    due: usize,
    arrived: usize,
    frame: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Plug(Arc<Mutex<Traffic>>);

impl Plug {
    fn with<T>(&self, work: impl FnOnce(&mut Traffic) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wire for Plug {
    fn send(&mut self, _frame: Vec<u8>) {
        self.with(|traffic| traffic.arrived += 1);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.with(|traffic| {
            traffic.due = traffic.due.checked_sub(1)?;
            Some(traffic.frame.clone())
        })
    }
}

/// A port over the model, with one queue each way.
pub(super) struct Rig {
    queues: Queues,
    bar: Arc<Bar>,
    card: Arc<Card>,
    plug: Plug,
    port: Port<Started>,
}

impl Rig {
    /// Brings the driver up on the model.
    ///
    /// # Errors
    /// What the driver says, and that the link stays down.
    pub(super) fn new(eal: &Eal) -> Result<Self> {
        let card = Card::new(ADDRESS.parse()?, Settings::default());
        let plug = Plug::default();
        card.model().set_wire(Box::new(plug.clone()));
        let function = card.function();
        let words = std::iter::repeat_with(AtomicU32::default).take(BAR_LEN / 4).collect();
        let bar = Arc::new(Bar { words, deferred: AtomicBool::new(false), model: function.bar(0)? });
        let shown = Shown { function, bar: Arc::clone(&bar) };

        let pool = MbufPool::new(eal, &MbufPoolConfig::new("mbufs", MBUFS).cache(CACHE))?;
        let config = PortConfig::new(pool).descriptors(RING, RING);
        let port = registry::open_pci(eal, 0, shown, ADDRESS)?;
        let (port, queues) = port.configure(&config)?.start()?;
        let mut frame = vec![0x5a; FRAME];
        frame[..6].copy_from_slice(&port.mac().0);
        plug.with(|traffic| traffic.frame = frame);
        let rig = Self { queues, bar, card, plug, port };
        let up = (0..VAIN).any(|_| {
            rig.card.model().step();
            rig.port.link().up
        });
        ensure!(up, "the link of the model stays down");
        rig.bar.defer();
        Ok(rig)
    }

    /// Lets the device do all that it has to: `frames` frames come in, and what was handed over goes out. Doorbells wait
    /// afterwards.
    ///
    /// # Errors
    /// When it does not do it, or the driver has broken a rule.
    pub(super) fn work(&self, frames: usize) -> Result<()> {
        self.plug.with(|traffic| traffic.due += frames);
        self.bar.deliver();
        let mut model = self.card.model();
        // A step may be short by chance; one without anything to do is the end.
        let steps = (0..VAIN).take_while(|_| model.step()).count();
        ensure!(steps < VAIN, "the model does not come to an end");
        if let Some(fault) = model.faults().list().first() {
            anyhow::bail!("the driver broke a rule of the datasheet: {fault}");
        }
        drop(model);
        self.bar.defer();
        Ok(())
    }

    /// Frames that have come out of the far end since it was asked last.
    pub(super) fn arrived(&self) -> usize {
        self.plug.with(|traffic| std::mem::take(&mut traffic.arrived))
    }

    /// Both queues.
    ///
    /// # Errors
    /// When the port has none.
    pub(super) fn ends(&mut self) -> Result<(&mut wirerate_pmd::RxQueue, &mut wirerate_pmd::TxQueue)> {
        let Queues { rx, tx } = &mut self.queues;
        rx.first_mut().zip(tx.first_mut()).context("a port without queues")
    }
}
