//! A port over the model, which a thread keeps going, and the other end of its cable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_nic::{CableEnd, Settings, Wire, cable};
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::{Burst, MbufPool, Port, PortConfig};

use super::function::Machine;
use super::{config, eal, eventually, open, pool};

/// A port that works.
pub(crate) struct Lab {
    pub(crate) machine: Arc<Machine>,
    pub(crate) pool: MbufPool,
    pub(crate) port: Option<Port<Started>>,
    pub(crate) queues: Queues,
    pub(crate) far: CableEnd,
    end: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
    _eal: Eal,
}

/// A frame of `len` bytes to `to`, number `at`.
pub(crate) fn frame(to: [u8; 6], at: usize, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|byte| (at * 31 + byte * 7) as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame
}

/// The address of nobody here.
pub(crate) const SOMEBODY: [u8; 6] = [2, 0, 0, 0, 0, 9];

impl Lab {
    /// With so many queues each way, and a configuration that was changed so.
    pub(crate) fn with(queues: u16, parameters: &str, change: impl FnOnce(PortConfig) -> PortConfig) -> Self {
        Self::of(Settings::default(), queues, parameters, change)
    }

    /// Likewise, of another device.
    pub(crate) fn of(
        settings: Settings,
        queues: u16,
        parameters: &str,
        change: impl FnOnce(PortConfig) -> PortConfig,
    ) -> Self {
        Self::on(Machine::new(settings), queues, parameters, change)
    }

    /// On this machine.
    pub(crate) fn on(
        machine: Arc<Machine>,
        queues: u16,
        parameters: &str,
        change: impl FnOnce(PortConfig) -> PortConfig,
    ) -> Self {
        let eal = eal();
        let pool = pool(&eal, "packets");
        let (near, far) = cable();
        machine.model().set_wire(Box::new(near));
        let configured = open(&eal, &machine, parameters).unwrap().configure(&change(config(&pool, queues)));
        let (port, queues) = configured.unwrap().start().unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let (theirs, over) = (Arc::clone(&machine), Arc::clone(&end));
        let pump = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                theirs.model().step();
                std::thread::yield_now();
            }
        });
        let lab = Self { machine, pool, port: Some(port), queues, far, end, pump: Some(pump), _eal: eal };
        if lab.machine.model().has_module() {
            eventually("the link stays down", || lab.port().link().up);
        }
        lab
    }

    pub(crate) fn new(queues: u16) -> Self {
        Self::with(queues, "", |config| config)
    }

    pub(crate) fn port(&self) -> &Port<Started> {
        self.port.as_ref().unwrap()
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.port().xstats().into_iter().find(|(other, _)| other == name).unwrap().1
    }

    /// Sends all of a frame's bytes in one packet, of as many segments as it takes.
    pub(crate) fn packet(&self, bytes: &[u8]) -> wirerate_pmd::Mbuf {
        let mut chunks = bytes.chunks(1800);
        let mut packet = self.pool.alloc_from(chunks.next().unwrap()).unwrap();
        chunks.for_each(|chunk| packet.chain(self.pool.alloc_from(chunk).unwrap()).unwrap());
        packet
    }

    /// Sends frames out of a queue, however long that takes.
    pub(crate) fn send(&mut self, queue: usize, frames: &[Vec<u8>]) {
        let begun = Instant::now();
        for frame in frames {
            let mut burst = Burst::new(1);
            burst.push(self.packet(frame)).unwrap();
            while self.queues.tx[queue].tx_burst(&mut burst) == 0 {
                assert!(begun.elapsed() < Duration::from_secs(20), "the queue stays full");
                std::thread::yield_now();
            }
        }
    }

    /// What comes out at the far end: so many frames.
    pub(crate) fn arrived(&mut self, count: usize) -> Vec<Vec<u8>> {
        let (mut frames, begun) = (Vec::new(), Instant::now());
        while frames.len() < count {
            match self.far.receive() {
                Some(frame) => frames.push(frame),
                None => std::thread::yield_now(),
            }
            self.assert_soon(begun, frames.len(), count);
        }
        frames
    }

    /// So many frames that the first queue receives.
    pub(crate) fn received(&mut self, count: usize) -> Vec<Vec<u8>> {
        let (mut frames, begun) = (Vec::new(), Instant::now());
        let mut burst = Burst::new(32);
        while frames.len() < count {
            self.queues.rx[0].rx_burst(&mut burst);
            frames
                .extend(burst.iter().map(|packet| packet.segments().flatten().copied().collect::<Vec<u8>>()));
            burst.free();
            self.assert_soon(begun, frames.len(), count);
        }
        frames
    }

    fn assert_soon(&self, begun: Instant, found: usize, count: usize) {
        if begun.elapsed() > Duration::from_secs(20) {
            self.machine.assert_good();
            panic!("{found} of {count} frames came");
        }
    }

    /// Stops the port and starts it again.
    pub(crate) fn restart(&mut self) {
        (self.queues.rx, self.queues.tx) = (Vec::new(), Vec::new());
        let port = self.port.take().unwrap().stop().unwrap();
        assert_eq!(self.pool.counts().in_use, 0);
        let (port, queues) = port.start().unwrap();
        (self.port, self.queues) = (Some(port), queues);
        eventually("the link stays down", || self.port().link().up);
    }

    /// Drops all, and looks that all came home and no rule was broken.
    pub(crate) fn end(mut self) {
        self.port = None;
        (self.queues.rx, self.queues.tx) = (Vec::new(), Vec::new());
        self.machine.assert_released();
        assert_eq!(self.pool.counts().in_use, 0);
        self.pool.audit().unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.pump.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the model panicked");
    }
}
