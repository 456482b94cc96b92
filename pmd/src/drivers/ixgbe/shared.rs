//! What a port and the thread that watches its device share: the device while it is there, and what becomes of it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirerate_eal::pci::PciFunction;

use super::queues::IxgbeLanes;
use super::stats::Totals;
use super::unit::Unit;
use super::watch::{State, Told, Watched};
use super::{interrupt, link};
use crate::drivers::interrupts::Interrupts;
use crate::port::{DeviceStats, Link};

const DOWN: Link = Link { up: false, speed: None };

/// A port's device.
#[derive(Debug)]
pub(super) struct Shared<F: PciFunction> {
    pub(super) name: String,
    /// Packets that were copied because the device did not reach them.
    pub(super) copied: Arc<AtomicU64>,
    link_changes: AtomicU64,
    link: Mutex<Link>,
    totals: Mutex<Totals>,
    lanes: Mutex<IxgbeLanes<F::Bar>>,
    unit: Mutex<Option<Unit<F>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: PciFunction> Shared<F> {
    pub(super) fn new(name: String, unit: Unit<F>) -> Self {
        Self {
            name,
            copied: Arc::default(),
            link_changes: AtomicU64::new(0),
            link: Mutex::new(DOWN),
            totals: Mutex::default(),
            lanes: Mutex::default(),
            unit: Mutex::new(Some(unit)),
        }
    }

    /// The device; none when it is gone.
    pub(super) fn unit(&self) -> MutexGuard<'_, Option<Unit<F>>> {
        lock(&self.unit)
    }

    pub(super) fn set_lanes(&self, lanes: IxgbeLanes<F::Bar>) {
        *lock(&self.lanes) = lanes;
    }

    /// Stops a device: its rings come out of the lanes, it lets go of them, and only then do their packets go home.
    pub(super) fn halt(&self, unit: &mut Unit<F>) {
        let lanes = lock(&self.lanes).clone();
        let rx: Vec<_> = lanes.rx.iter().filter_map(|lane| lane.remove()).collect();
        let tx: Vec<_> = lanes.tx.iter().filter_map(|lane| lane.remove()).collect();
        if unit.is_awake() {
            // The reset would set what was counted to zero.
            lock(&self.totals).add(&unit.registers);
        }
        unit.halt();
        drop((rx, tx));
        *lock(&self.link) = DOWN;
    }

    fn note(&self, now: Link) {
        let before = std::mem::replace(&mut *lock(&self.link), now);
        if before != now {
            self.link_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!("{}: the link is {now}", self.name);
        }
    }

    /// The link, as it is now where there is a device that works.
    pub(super) fn link(&self) -> Link {
        match self.unit().as_ref().filter(|unit| unit.is_awake()) {
            Some(unit) => link::now(&unit.registers).unwrap_or(DOWN),
            None => DOWN,
        }
    }

    /// What the device has counted until now.
    pub(super) fn stats(&self) -> DeviceStats {
        let unit = self.unit();
        let mut totals = lock(&self.totals);
        if let Some(unit) = unit.as_ref().filter(|unit| unit.is_awake()) {
            totals.add(&unit.registers);
        }
        let mut stats = totals.tell(lock(&self.lanes).rx.len());
        for (name, count) in [("ixgbe_tx_copied", &*self.copied), ("ixgbe_link_changes", &self.link_changes)]
        {
            stats.extended.push((name.to_owned(), count.load(Ordering::Relaxed)));
        }
        stats
    }

    /// Counts from zero.
    pub(super) fn reset_stats(&self) {
        let unit = self.unit();
        let mut totals = lock(&self.totals);
        if let Some(unit) = unit.as_ref().filter(|unit| unit.is_awake()) {
            totals.add(&unit.registers);
        }
        *totals = Totals::default();
        self.copied.store(0, Ordering::Relaxed);
        self.link_changes.store(0, Ordering::Relaxed);
    }
}

impl<F: PciFunction> Watched for Shared<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn state(&self) -> io::Result<Option<State>> {
        let guard = self.unit();
        let Some(unit) = guard.as_ref() else { return Ok(None) };
        let own = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| fd.try_clone_to_owned()).transpose();
        let removal = own(unit.function.removal())?;
        let is_line = matches!(unit.interrupts, Interrupts::Line(_));
        let told = own(unit.interrupts.config_fd())?.map(|fd| Told { fd, is_line });
        Ok(Some(State { works: unit.is_awake(), removal, told }))
    }

    fn lose(&self, why: &str) {
        let mut guard = self.unit();
        if let Some(mut unit) = guard.take() {
            self.halt(&mut unit);
            tracing::error!("{}: {why}: its receive queues have ended", self.name);
        }
        drop(guard);
        let lanes = lock(&self.lanes).clone();
        lanes.rx.iter().for_each(|lane| lane.end());
        lanes.tx.iter().for_each(|lane| lane.end());
    }

    /// Takes over its counts, before these are full, and its link.
    fn look(&self, interrupt: bool) -> bool {
        let mut guard = self.unit();
        let Some(unit) = guard.as_mut() else { return false };
        if !unit.is_awake() {
            return true;
        }
        if let Err(error) = unit.look_for_module() {
            tracing::debug!("{}: {error}", self.name);
        }
        if interrupt {
            interrupt::take(&unit.registers);
        }
        let counted = lock(&self.totals).add(&unit.registers);
        match link::now(&unit.registers) {
            Ok(now) if counted => {
                self.note(now);
                if interrupt && matches!(unit.interrupts, Interrupts::Line(_)) {
                    unit.function.unmask_intx();
                }
                true
            }
            _ => {
                drop(guard);
                self.lose("the device is gone");
                false
            }
        }
    }
}
