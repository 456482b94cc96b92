//! What a port and the thread that watches its device share: the device while it is there, and what becomes of it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wirerate_eal::pci::PciFunction;

use super::common::{ALL_ONES, NEEDS_RESET};
use super::config::Now;
use super::control::Command;
use super::unit::Unit;
use crate::drivers::interrupts::Interrupts;
use crate::drivers::virtio::state::State;
use crate::net::MacAddress;
use crate::packet::{Burst, MbufPool};
use crate::port::Counters;

/// A port's device.
#[derive(Debug)]
pub(super) struct Shared<F: PciFunction> {
    pub(super) name: String,
    pub(super) state: State,
    /// Megabits a second that the device tells; 0 when it does not.
    pub(super) speed: AtomicU32,
    /// How often the device asked to be reset.
    pub(super) broken: AtomicU64,
    /// How often it asked to be announced.
    pub(super) announced: AtomicU64,
    /// How often its link has changed.
    pub(super) link_changes: AtomicU64,
    unit: Mutex<Option<Unit<F>>>,
}

/// How a look at a device ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// It works.
    Works,
    /// It is there, and rests: it tells of nothing any more.
    Rests,
    /// It is gone, and all that belonged to it was given back.
    Gone,
}

impl<F: PciFunction> Shared<F> {
    pub(super) fn new(name: String, mac: MacAddress, unit: Unit<F>) -> Self {
        Self {
            name,
            state: State::new(mac),
            speed: AtomicU32::new(0),
            broken: AtomicU64::new(0),
            announced: AtomicU64::new(0),
            link_changes: AtomicU64::new(0),
            unit: Mutex::new(Some(unit)),
        }
    }

    /// The device; none when it is gone.
    pub(super) fn unit(&self) -> MutexGuard<'_, Option<Unit<F>>> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops a device: its rings come out of the lanes, it lets go of them, and only then do their packets go home.
    pub(super) fn halt(&self, unit: &mut Unit<F>) {
        let taken = self.state.end(&self.state.lanes());
        unit.halt();
        drop(taken);
    }

    /// Gives up a device that is gone, or is wanted back.
    pub(super) fn lose(&self, why: &str) {
        let mut guard = self.unit();
        if let Some(mut unit) = guard.take() {
            self.halt(&mut unit);
            tracing::error!("{}: {why}: its receive queues have ended", self.name);
        }
        let lanes = self.state.lanes();
        lanes.rx.iter().for_each(|lane| lane.end());
        lanes.tx.iter().for_each(|lane| lane.end());
    }

    /// Looks how the device is, after an `interrupt` or because it is time.
    pub(super) fn look(&self, interrupt: bool, pool: &MbufPool) -> Looked {
        let mut guard = self.unit();
        let Some(unit) = guard.as_mut() else { return Looked::Gone };
        let by_line = matches!(unit.interrupts, Interrupts::Line(_));
        if interrupt && by_line {
            // Reading it ends the interrupt. Its descriptor is readable until it is unmasked.
            let _ = unit.registers.take_interrupt();
        }
        let status = unit.registers.status();
        if status == ALL_ONES {
            drop(guard);
            self.lose("the device is gone");
            return Looked::Gone;
        }
        if unit.features().is_none() {
            return Looked::Rests;
        }
        if status & NEEDS_RESET != 0 {
            self.broken.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                "{}: the device met an error and asks to be reset; it rests until the port is stopped and started",
                self.name
            );
            self.halt(unit);
            return Looked::Rests;
        }
        match unit.now() {
            Ok(now) => self.note(unit, now, pool),
            Err(error) => tracing::warn!("{}: {error}", self.name),
        }
        if interrupt && by_line {
            unit.function.unmask_intx();
        }
        Looked::Works
    }

    /// Takes over what the device says of its link, and announces us if it asks for that.
    pub(super) fn note(&self, unit: &mut Unit<F>, now: Now, pool: &MbufPool) {
        self.speed.store(now.speed.unwrap_or(0), Ordering::Relaxed);
        if self.state.set_up(now.up) != now.up {
            self.link_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!("{}: the link is {}", self.name, if now.up { "up" } else { "down" });
        }
        if now.announce {
            self.announced.fetch_add(1, Ordering::Relaxed);
            self.announce(pool);
            if let Err(error) = unit.command(Command::Announced) {
                tracing::warn!("{}: {error}", self.name);
            }
        }
    }

    /// Sends a packet that says where we are, so that switches learn it anew (RFC 903, as DPDK does).
    fn announce(&self, pool: &MbufPool) {
        let lanes = self.state.lanes();
        let (Some(lane), Some(packet)) = (lanes.tx.first(), pool.alloc_from(&rarp(self.state.mac()))) else {
            return;
        };
        let mut burst = Burst::new(1);
        if burst.push(packet).is_ok() {
            // No queue counts what its owner has not sent. A ring that is broken is found out by its owner.
            let counters = Counters::new();
            lane.with(|tx| tx.map(|tx| crate::lane::Transmit::send(tx, &mut burst, &counters)));
        }
    }
}

/// A reverse ARP request for ourselves, to all stations.
fn rarp(mac: MacAddress) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    // Ethernet type 0x8035; hardware 1 with 6 bytes, protocol IPv4 with 4; request reverse.
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac.0);
    frame[32..38].copy_from_slice(&mac.0);
    frame
}
