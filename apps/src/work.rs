//! What an lcore of a program does from start to end: one engine after the other, and a rest when none has work.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use wirerate_eal::wait::{IdlePolicy, IdleTimes, Idler};
use wirerate_eal::{Clock, LcoreContext};
use wirerate_pmd::pipeline::{Part, busy_cycles};

use crate::engines::Engine;

/// The engines of one lcore, and how it rests.
#[derive(Debug)]
pub struct Work<E> {
    engines: Vec<E>,
    idler: Idler,
}

/// What one lcore did with its time; readable while it works.
#[derive(Debug)]
pub struct Share {
    parts: Vec<Part>,
    idle: Arc<IdleTimes>,
}

impl<E: Engine> Work<E> {
    /// The work with these engines.
    ///
    /// # Errors
    /// When the system refuses what the policy needs.
    pub fn new(engines: Vec<E>, policy: IdlePolicy, clock: Clock) -> Result<Self> {
        let mut fds = Vec::new();
        engines.iter().for_each(|engine| engine.wait_fds(&mut fds));
        let idler = Idler::new(policy, clock, fds).context("cannot wait for the queues' descriptors")?;
        Ok(Self { engines, idler })
    }

    /// What the lcore does with its time, to be told when it has ended.
    #[must_use]
    pub fn share(&self) -> Share {
        let parts = self.engines.iter().flat_map(Engine::parts).collect();
        Share { parts, idle: self.idler.times() }
    }

    /// Works until the lcore is to stop or every engine has ended. `beside` is called in each round and does what
    /// else there is to do; it says whether it did something.
    pub fn run(&mut self, lcore: &LcoreContext, mut beside: impl FnMut() -> bool) {
        while !lcore.stop().requested() && !self.engines.iter().all(Engine::ended) {
            let moved: usize = self.engines.iter_mut().map(Engine::poll).sum();
            if beside() || moved > 0 {
                self.idler.worked();
            } else if self.idler.may_sleep() {
                self.sleep();
            }
        }
    }

    #[cold]
    fn sleep(&mut self) {
        // All of them are armed, whatever the first says.
        let waiting = self.engines.iter_mut().fold(false, |waiting, engine| engine.arm_wait() | waiting);
        if !waiting {
            self.idler.sleep();
        }
        self.engines.iter_mut().for_each(Engine::disarm_wait);
    }
}

impl Share {
    /// `busy 12.3 %, polling in vain 4.0 %, asleep 83.7 % (512 sleeps)` of `elapsed`. Busy is the time in bursts with
    /// packets in them, which is what a load above 100 % would have to come out of.
    #[must_use]
    pub fn told(&self, clock: &Clock, elapsed: Duration) -> String {
        let whole = (clock.from_duration(elapsed) as f64).max(1.0);
        let busy = (busy_cycles(&self.parts) as f64 / whole * 100.0).min(100.0);
        let asleep = (self.idle.asleep() as f64 / whole * 100.0).min(100.0 - busy);
        let polling = 100.0 - busy - asleep;
        let sleeps = self.idle.sleeps();
        format!("busy {busy:.1} %, polling in vain {polling:.1} %, asleep {asleep:.1} % ({sleeps} sleeps)")
    }
}
