//! `net_ixgbe` against the model of an 82599, which keeps each rule of the datasheet that a driver breaks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bring_up;
mod captures;
mod ends;
mod exchange;
mod function;
mod lab;
mod meddler;
mod modules;
mod mutations;
mod offloads;
mod packets;
mod pausing;
mod sleep;
mod steering;
mod traffic;
mod troubles;
mod vf;

use std::sync::Arc;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::port::{Opened, PortError, registry};
use wirerate_pmd::{MbufPool, MbufPoolConfig, Port, PortConfig};

use function::Machine;

const NAME: &str = "0000:03:00.0";

fn eal() -> Eal {
    Eal::builder().no_huge(true).build().unwrap()
}

fn pool(eal: &Eal, name: &str) -> MbufPool {
    MbufPool::new(eal, &MbufPoolConfig::new(name, 8192)).unwrap()
}

fn open(eal: &Eal, machine: &Arc<Machine>, parameters: &str) -> Result<Port<Opened>, PortError> {
    registry::open_pci(eal, 0, machine.function(), &format!("{NAME},queues=4{parameters}"))
}

fn config(pool: &MbufPool, queues: u16) -> PortConfig {
    PortConfig::new(pool.clone()).rx_queues(queues).tx_queues(queues)
}

/// Waits until it is so.
fn eventually(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does it until it says so.
fn eventually_mut(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}
