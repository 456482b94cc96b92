//! `net_virtio` against a model of its device.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a model in a test")]

mod commands;
mod ends;
mod function;
mod hostile;
mod model;
mod told;
mod traffic;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::packet::MAX_BURST;
use wirerate_pmd::port::{Opened, PortError, Queues, Started, registry};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

use model::{Machine, Settings};

pub(crate) const NAME: &str = "0000:00:03.0";

pub(crate) fn eal() -> Eal {
    Eal::builder().no_huge(true).build().unwrap()
}

pub(crate) fn pool(eal: &Eal, name: &str) -> MbufPool {
    MbufPool::new(eal, &MbufPoolConfig::new(name, 4096)).unwrap()
}

pub(crate) fn open(eal: &Eal, machine: &Machine, parameters: &str) -> Result<Port<Opened>, PortError> {
    registry::open_pci(eal, 0, machine.function(), &format!("{NAME},queues=2{parameters}"))
}

fn config(pool: &MbufPool, pairs: u16) -> PortConfig {
    PortConfig::new(pool.clone()).rx_queues(pairs).tx_queues(pairs)
}

/// A device, and the port that drives it.
struct Lab {
    machine: Arc<Machine>,
    pool: MbufPool,
    port: Option<Port<Started>>,
    queues: Queues,
    _eal: Eal,
}

impl Lab {
    fn with(settings: Settings, parameters: &str, pairs: u16) -> Self {
        let eal = eal();
        let pool = pool(&eal, "packets");
        let machine = Machine::new(settings);
        machine.lock().witness = Some(pool.clone());
        let port = open(&eal, &machine, parameters).unwrap().configure(&config(&pool, pairs)).unwrap();
        let (port, queues) = port.start().unwrap();
        Self { machine, pool, port: Some(port), queues, _eal: eal }
    }

    fn new() -> Self {
        Self::with(Settings::default(), "", 2)
    }

    fn port(&mut self) -> &mut Port<Started> {
        self.port.as_mut().unwrap()
    }

    fn count(&mut self, name: &str) -> u64 {
        self.port().xstats().into_iter().find(|(other, _)| other == name).unwrap().1
    }

    /// Sends frames of these lengths out of `from`, and looks that they come back as they were.
    fn exchange_from(&mut self, from: &MbufPool, queue: usize, lens: &[usize]) {
        let mut waiting = Burst::new(MAX_BURST);
        let mut received = Burst::new(32);
        let (mut sent, mut got) = (0, 0);
        let begun = Instant::now();
        while got < lens.len() {
            while waiting.len() < 32 && sent < lens.len() {
                waiting.push(from.alloc_from(&frame(sent, lens[sent])).unwrap()).unwrap();
                sent += 1;
            }
            let _ = self.queues.tx[queue].tx_burst(&mut waiting);
            self.queues.rx[queue].rx_burst(&mut received);
            for packet in received.drain() {
                let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
                assert!(bytes == frame(got, lens[got]), "frame {got} of {}", lens[got]);
                got += 1;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{got} of {} came", lens.len());
            self.machine.assert_good();
        }
    }

    fn exchange(&mut self, queue: usize, lens: &[usize]) {
        let pool = self.pool.clone();
        self.exchange_from(&pool, queue, lens);
    }

    /// Drops all, and looks that all came home.
    fn end(self) {
        let Self { machine, pool, port, queues, .. } = self;
        drop((queues, port));
        machine.assert_released();
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
    }
}

/// A frame that tells its number and length in every byte.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 7 + at * 3 + len) as u8).collect()
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
