//! What a port and the thread that watches its function share: the function while it is there, and what becomes of it. When
//! the physical function was reset, the thread brings the virtual one up again, with the same queues.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirerate_eal::pci::PciFunction;

use super::mailbox::News;
use super::stats::Totals;
use super::unit::{Plan, Unit};
use crate::drivers::ixgbe::error::IxgbeError;
use crate::drivers::ixgbe::queues::IxgbeLanes;
use crate::drivers::ixgbe::watch::{State, Told, Watched};
use crate::port::{DeviceStats, Link};

const DOWN: Link = Link { up: false, speed: None };

/// A port's function.
#[derive(Debug)]
pub(super) struct Shared<F: PciFunction> {
    pub(super) name: String,
    /// Packets that were copied because the device did not reach them.
    pub(super) copied: Arc<AtomicU64>,
    link_changes: AtomicU64,
    recoveries: AtomicU64,
    link: Mutex<Link>,
    totals: Mutex<Totals>,
    work: Mutex<Option<Work<F>>>,
    unit: Mutex<Option<Unit<F>>>,
}

/// A port that was started.
#[derive(Debug)]
struct Work<F: PciFunction> {
    plan: Plan,
    lanes: IxgbeLanes<F::Bar>,
    /// It waits until the physical function does what it needs.
    lost: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: PciFunction> Work<F> {
    /// Brings the function up.
    fn begin(&mut self, unit: &mut Unit<F>, totals: &mut Totals) -> Result<(), IxgbeError> {
        unit.start(&self.plan, &self.lanes)?;
        totals.begin(&unit.registers);
        self.lanes.rx.iter().for_each(|lane| lane.enable(true));
        self.lanes.tx.iter().for_each(|lane| lane.enable(true));
        self.lost = false;
        Ok(())
    }

    /// Pauses the function: its rings come out of the lanes, it lets go of them, and only then do their packets go home.
    fn end(&self, unit: &mut Unit<F>, totals: &mut Totals) {
        let rx: Vec<_> = self.lanes.rx.iter().filter_map(|lane| lane.remove()).collect();
        let tx: Vec<_> = self.lanes.tx.iter().filter_map(|lane| lane.remove()).collect();
        if unit.is_awake() {
            totals.add(&unit.registers);
        }
        unit.pause();
        drop((rx, tx));
    }
}

impl<F: PciFunction> Shared<F> {
    pub(super) fn new(name: String, unit: Unit<F>) -> Self {
        Self {
            name,
            copied: Arc::default(),
            link_changes: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            link: Mutex::new(DOWN),
            totals: Mutex::default(),
            work: Mutex::new(None),
            unit: Mutex::new(Some(unit)),
        }
    }

    /// The function; none when it is gone.
    pub(super) fn unit(&self) -> MutexGuard<'_, Option<Unit<F>>> {
        lock(&self.unit)
    }

    /// Starts it, as `plan` says, with rings in `lanes`.
    ///
    /// # Errors
    /// [`IxgbeError`] says why it does not start; it is at rest then.
    pub(super) fn start(&self, plan: Plan, lanes: IxgbeLanes<F::Bar>) -> Result<(), IxgbeError> {
        let mut guard = self.unit();
        let unit = guard.as_mut().ok_or(IxgbeError::Gone)?;
        let mut work = Work { plan, lanes, lost: false };
        let begun = work.begin(unit, &mut lock(&self.totals));
        *lock(&self.work) = Some(work);
        if begun.is_err() {
            self.rest(unit);
        }
        begun
    }

    /// Stops it, whether it is up, half up, or gone.
    pub(super) fn stop(&self) {
        match self.unit().as_mut() {
            Some(unit) => self.rest(unit),
            None => *lock(&self.work) = None,
        }
    }

    fn rest(&self, unit: &mut Unit<F>) {
        if let Some(work) = lock(&self.work).take() {
            work.end(unit, &mut lock(&self.totals));
        }
        unit.halt();
        *lock(&self.link) = DOWN;
    }

    /// What a start uses changes while the port works, so that another start has it, too.
    pub(super) fn remember(&self, change: impl FnOnce(&mut Plan)) {
        if let Some(work) = lock(&self.work).as_mut() {
            change(&mut work.plan);
        }
    }

    /// Looks how the function is; an error means that it is gone.
    fn follow(&self, unit: &mut Unit<F>) -> Result<(), IxgbeError> {
        let mut guard = lock(&self.work);
        let Some(work) = guard.as_mut() else { return Ok(()) };
        let mut totals = lock(&self.totals);
        if work.lost {
            if unit.talk.mailbox.news(&unit.registers)? == News::Resetting {
                return Ok(());
            }
        } else {
            if !totals.add(&unit.registers) {
                return Err(IxgbeError::Gone);
            }
            match unit.talk.mailbox.news(&unit.registers)? {
                News::None => {
                    self.note(unit.link()?);
                    return Ok(());
                }
                News::Resetting | News::WasReset => {
                    tracing::warn!("{}: its physical function was reset", self.name);
                    work.end(unit, &mut totals);
                    self.note(DOWN);
                    work.lost = true;
                }
            }
        }
        match work.begin(unit, &mut totals) {
            Ok(()) => {
                self.recoveries.fetch_add(1, Ordering::Relaxed);
                tracing::info!("{}: it works again", self.name);
                self.note(unit.link()?);
                Ok(())
            }
            Err(error) => {
                work.end(unit, &mut totals);
                if unit.registers.is_gone() {
                    return Err(IxgbeError::Gone);
                }
                tracing::debug!("{}: {error}", self.name);
                Ok(())
            }
        }
    }

    fn note(&self, now: Link) {
        let before = std::mem::replace(&mut *lock(&self.link), now);
        if before != now {
            self.link_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!("{}: the link is {now}", self.name);
        }
    }

    /// The link, as it is now where there is a function that works.
    pub(super) fn link(&self) -> Link {
        match self.unit().as_mut().filter(|unit| unit.is_awake()) {
            Some(unit) => unit.link().unwrap_or(DOWN),
            None => DOWN,
        }
    }

    /// Adds what was counted until now to the sums, which `tell` is given.
    fn with_totals<R>(&self, tell: impl FnOnce(&mut Totals) -> R) -> R {
        let unit = self.unit();
        let mut totals = lock(&self.totals);
        if let Some(unit) = unit.as_ref().filter(|unit| unit.is_awake()) {
            totals.add(&unit.registers);
        }
        tell(&mut totals)
    }

    fn own_counts(&self) -> [(&'static str, &AtomicU64); 3] {
        [
            ("ixgbe_tx_copied", &self.copied),
            ("ixgbe_link_changes", &self.link_changes),
            ("ixgbe_recoveries", &self.recoveries),
        ]
    }

    /// What was counted until now.
    pub(super) fn stats(&self) -> DeviceStats {
        let mut stats = self.with_totals(|totals| totals.tell());
        for (name, count) in self.own_counts() {
            stats.extended.push((name.to_owned(), count.load(Ordering::Relaxed)));
        }
        stats
    }

    /// Counts from zero.
    pub(super) fn reset_stats(&self) {
        self.with_totals(Totals::reset);
        self.own_counts().iter().for_each(|(_, count)| count.store(0, Ordering::Relaxed));
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
        // What a line would tell of is not told apart, and a virtual function has none.
        let told = unit.interrupts.config_vector().and_then(|_| unit.interrupts.config_fd());
        let told = own(told)?.map(|fd| Told { fd, is_line: false });
        Ok(Some(State { works: unit.is_awake(), removal, told }))
    }

    fn look(&self, _: bool) -> bool {
        let mut guard = self.unit();
        let Some(unit) = guard.as_mut() else { return false };
        let followed = self.follow(unit);
        drop(guard);
        if followed.is_err() {
            self.lose("the device is gone");
        }
        followed.is_ok()
    }

    fn lose(&self, why: &str) {
        let mut guard = self.unit();
        let work = lock(&self.work).take();
        if let Some(mut unit) = guard.take() {
            if let Some(work) = &work {
                work.end(&mut unit, &mut lock(&self.totals));
            }
            tracing::error!("{}: {why}: its receive queues have ended", self.name);
        }
        drop(guard);
        *lock(&self.link) = DOWN;
        if let Some(work) = work {
            work.lanes.rx.iter().for_each(|lane| lane.end());
            work.lanes.tx.iter().for_each(|lane| lane.end());
        }
    }
}
