//! Lcores: threads on chosen CPUs, launched with closures that may borrow, and joined with their results.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::clock::Clock;
use crate::cpulist;
use crate::stop::StopToken;

/// A logical core: a number, and the CPUs on which its thread runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lcore {
    pub(crate) id: u32,
    pub(crate) cpus: Vec<u32>,
    pub(crate) numa: Option<u32>,
}

impl Lcore {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The CPUs on which it may run, ascending; mostly one.
    #[must_use]
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// The NUMA node of its CPUs; none when they lie on several or the kernel has no NUMA.
    #[must_use]
    pub fn numa(&self) -> Option<u32> {
        self.numa
    }

    /// Binds the calling thread to the CPUs. False, and a warning, if the kernel refuses.
    fn pin(&self) -> bool {
        let mut set = CpuSet::new();
        self.cpus.iter().for_each(|&cpu| set.set(cpu as usize));
        let done = sched_setaffinity(None, &set);
        if let Err(error) = done {
            let cpus = cpulist::format(&self.cpus);
            tracing::warn!("lcore {} is not pinned: binding it to CPU {cpus} failed: {error}", self.id);
        }
        done.is_ok()
    }
}

/// Why an lcore did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LcoreError {
    /// There is no lcore of this number.
    #[error("there is no lcore {lcore}: there are {lcores}; name more by -l")]
    Unknown {
        /// The number asked for.
        lcore: u32,
        /// The lcores that there are, as a list.
        lcores: String,
    },
    /// It is still busy with what was launched before.
    #[error("lcore {lcore} is running already: launch on another, or join it first")]
    Busy {
        /// The lcore.
        lcore: u32,
    },
    /// The kernel did not give a thread.
    #[error("starting the thread of lcore {lcore} failed: {source}")]
    Spawn {
        /// The lcore.
        lcore: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its closure panicked. The others were asked to stop.
    #[error("lcore {lcore} panicked: {message}")]
    Panicked {
        /// The lcore.
        lcore: u32,
        /// What it panicked with.
        message: String,
    },
}

/// The lcores of an environment, and which of them run.
#[derive(Debug)]
pub(crate) struct Lcores {
    list: Vec<Lcore>,
    running: Arc<Mutex<BTreeSet<u32>>>,
}

impl Lcores {
    pub(crate) fn new(list: Vec<Lcore>) -> Self {
        Self { list, running: Arc::default() }
    }

    pub(crate) fn list(&self) -> &[Lcore] {
        &self.list
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Lcore> {
        self.list.iter().find(|lcore| lcore.id == id)
    }

    /// The numbers as a list, for people.
    pub(crate) fn numbers(&self) -> String {
        cpulist::format(&self.list.iter().map(|lcore| lcore.id).collect::<Vec<_>>())
    }

    /// Runs `body`, then waits for all lcores that it launched.
    pub(crate) fn scope<'env, R>(
        &'env self,
        stop: &StopToken,
        clock: Clock,
        body: impl for<'scope> FnOnce(&LcoreScope<'scope, 'env>) -> R,
    ) -> Result<R, LcoreError> {
        let panics = Panics::default();
        let result = thread::scope(|scope| {
            let scope = LcoreScope { scope, lcores: self, stop: stop.clone(), clock, panics: panics.clone() };
            // A body that unwinds leaves lcores that nobody else would stop, and the scope waits for them.
            let _stop = StopOnUnwind(stop);
            body(&scope)
        });
        match lock(&panics.0).drain(..).next() {
            Some((lcore, message)) => Err(LcoreError::Panicked { lcore, message }),
            None => Ok(result),
        }
    }
}

/// Requests the stop when dropped by a panic.
struct StopOnUnwind<'a>(&'a StopToken);

impl Drop for StopOnUnwind<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.request();
        }
    }
}

/// What lcores panicked with, the first first.
#[derive(Debug, Clone, Default)]
struct Panics(Arc<Mutex<Vec<(u32, String)>>>);

/// Nothing under these locks can panic half-way, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where lcores are launched; made by [`Eal::scope`](crate::Eal::scope).
pub struct LcoreScope<'scope, 'env: 'scope> {
    scope: &'scope Scope<'scope, 'env>,
    lcores: &'env Lcores,
    stop: StopToken,
    clock: Clock,
    panics: Panics,
}

impl fmt::Debug for LcoreScope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LcoreScope").field("lcores", &self.lcores).finish_non_exhaustive()
    }
}

impl<'scope> LcoreScope<'scope, '_> {
    /// Runs `work` on an lcore, in a thread named `lcore-N` that is bound to the lcore's CPUs. What it borrows
    /// has to live longer than the scope.
    ///
    /// A panic in `work` requests the stop of all lcores and becomes the error of the scope.
    ///
    /// # Errors
    /// [`LcoreError`] when there is no such lcore, it is busy, or there is no thread. Lcores that run already are
    /// then asked to stop, because a caller that leaves the scope by this error waits for them.
    pub fn launch<F, T>(&self, lcore: u32, work: F) -> Result<LcoreHandle<'scope, T>, LcoreError>
    where
        F: FnOnce(&LcoreContext) -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let launched = self.try_launch(lcore, work);
        if launched.is_err() {
            self.stop.request();
        }
        launched
    }

    fn try_launch<F, T>(&self, id: u32, work: F) -> Result<LcoreHandle<'scope, T>, LcoreError>
    where
        F: FnOnce(&LcoreContext) -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let unknown = || LcoreError::Unknown { lcore: id, lcores: self.lcores.numbers() };
        let lcore = self.lcores.get(id).ok_or_else(unknown)?.clone();
        let running = Running::begin(&self.lcores.running, id).ok_or(LcoreError::Busy { lcore: id })?;
        let (stop, clock, panics) = (self.stop.clone(), self.clock, self.panics.clone());
        let thread = thread::Builder::new()
            .name(format!("lcore-{id}"))
            .spawn_scoped(self.scope, move || {
                let _running = running;
                let context = LcoreContext { pinned: lcore.pin(), lcore, stop, clock };
                // What the closure captured is dropped within, and nobody looks at it after a panic.
                catch_unwind(AssertUnwindSafe(|| work(&context))).map_err(|panic| {
                    context.stop.request();
                    let message = message_of(&*panic);
                    lock(&panics.0).push((id, message.clone()));
                    message
                })
            })
            .map_err(|source| LcoreError::Spawn { lcore: id, source })?;
        Ok(LcoreHandle { lcore: id, thread })
    }

    /// The request to stop that the lcores poll.
    #[must_use]
    pub fn stop(&self) -> &StopToken {
        &self.stop
    }
}

/// An lcore at work; the entry is taken out when its thread ends, or never came to be.
struct Running {
    all: Arc<Mutex<BTreeSet<u32>>>,
    id: u32,
}

impl Running {
    fn begin(all: &Arc<Mutex<BTreeSet<u32>>>, id: u32) -> Option<Self> {
        lock(all).insert(id).then(|| Self { all: Arc::clone(all), id })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.id);
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".into())
}

/// What a closure on an lcore knows of where it runs.
#[derive(Debug)]
pub struct LcoreContext {
    lcore: Lcore,
    stop: StopToken,
    clock: Clock,
    pinned: bool,
}

impl LcoreContext {
    /// The lcore.
    #[must_use]
    pub fn lcore(&self) -> &Lcore {
        &self.lcore
    }

    /// The request to stop; a loop without an end of its own polls it once a turn.
    #[inline]
    #[must_use]
    pub fn stop(&self) -> &StopToken {
        &self.stop
    }

    /// The environment's clock.
    #[inline]
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the thread is bound to the lcore's CPUs.
    #[must_use]
    pub fn pinned(&self) -> bool {
        self.pinned
    }
}

/// An lcore that was launched. Dropping it leaves the lcore running; the scope waits for it.
#[derive(Debug)]
pub struct LcoreHandle<'scope, T> {
    lcore: u32,
    thread: ScopedJoinHandle<'scope, Result<T, String>>,
}

impl<T> LcoreHandle<'_, T> {
    /// The lcore's number.
    #[must_use]
    pub fn lcore(&self) -> u32 {
        self.lcore
    }

    /// Whether the closure has returned or panicked.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the closure, and returns what it returned.
    ///
    /// # Errors
    /// [`LcoreError::Panicked`] when it panicked; the scope then ends with the same error.
    pub fn join(self) -> Result<T, LcoreError> {
        let lcore = self.lcore;
        // The thread catches panics; one that gets out of it comes from dropping a panic's payload.
        let result = self.thread.join().unwrap_or_else(|panic| Err(message_of(&*panic)));
        result.map_err(|message| LcoreError::Panicked { lcore, message })
    }
}
