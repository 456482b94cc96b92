//! What a polling thread does while nothing comes: spin, pause, or sleep until a descriptor tells.
//!
//! A poll loop that never rests takes a whole CPU whether packets come or not. An [`Idler`] is asked after each
//! round, and lets the thread rest as its [`IdlePolicy`] says:
//!
//! ```no_run
//! # use std::os::fd::BorrowedFd;
//! # use wirerate_eal::wait::{IdlePolicy, Idler};
//! # struct Queue;
//! # impl Queue {
//! #     fn poll(&mut self) -> usize { 0 }
//! #     fn wait_fd(&self) -> Option<BorrowedFd<'_>> { None }
//! #     fn arm_wait(&mut self) -> bool { false }
//! #     fn disarm_wait(&mut self) {}
//! # }
//! # fn work(mut queue: Queue, eal: &wirerate_eal::Eal) -> std::io::Result<()> {
//! let mut idler = Idler::new("sleep=200us".parse().unwrap_or_default(), *eal.clock(), [queue.wait_fd()])?;
//! while !eal.stop().requested() {
//!     if queue.poll() > 0 {
//!         idler.worked();
//!     } else if idler.may_sleep() {
//!         // What comes from here on makes the descriptor readable; what came before is told by `arm_wait`.
//!         if !queue.arm_wait() {
//!             idler.sleep();
//!         }
//!         queue.disarm_wait();
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Before it sleeps, a thread polls for as long as a sleep and its end would cost, which is at most twice what
//! the best choice would have cost had the future been known.

use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::thread::set_current_timer_slack;
use thiserror::Error;

use crate::clock::Clock;

/// Empty rounds in a row for which a thread polls without a pause: the next burst is often a moment away.
const SPIN_ROUNDS: u32 = 64;
/// How long a thread polls before it sleeps: what it costs to fall asleep and to be woken, about.
const BEFORE_SLEEP: Duration = Duration::from_micros(50);
/// The longest sleep: how late a thread may notice a request to stop, which has no descriptor.
const LONGEST: Duration = Duration::from_millis(10);

/// What to do while nothing comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdlePolicy {
    /// Poll without a rest: the least delay, and a whole CPU. DPDK's way.
    #[default]
    Spin,
    /// Poll with the processor's pause instruction in between, which leaves the core to its other hyperthread
    /// and takes less power. Costs less than a microsecond of delay.
    Pause,
    /// Pause, then sleep until a queue's descriptor tells of packets. A queue without a descriptor is looked at
    /// once in each `budget`.
    Sleep {
        /// How long a packet may wait, in a queue that cannot wake anybody, for the thread to look. Below 50 µs,
        /// which is what falling asleep and waking up take, the thread only pauses.
        budget: Duration,
    },
}

impl IdlePolicy {
    /// The budget of `sleep` unless given.
    pub const DEFAULT_BUDGET: Duration = Duration::from_micros(200);
}

/// A text that is no idle policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{text}\" is no idle policy: expected spin, pause, sleep, or sleep=TIME with a unit, for instance sleep=200us"
)]
pub struct BadIdlePolicy {
    text: String,
}

impl FromStr for IdlePolicy {
    type Err = BadIdlePolicy;

    fn from_str(text: &str) -> Result<Self, BadIdlePolicy> {
        let bad = || BadIdlePolicy { text: text.to_owned() };
        match text.split_once('=') {
            None => match text {
                "spin" => Ok(Self::Spin),
                "pause" => Ok(Self::Pause),
                "sleep" => Ok(Self::Sleep { budget: Self::DEFAULT_BUDGET }),
                _ => Err(bad()),
            },
            Some(("sleep", time)) => Ok(Self::Sleep { budget: duration(time).ok_or_else(bad)? }),
            Some(_) => Err(bad()),
        }
    }
}

/// Reads `20us`, `1ms` or `1s`; at most an hour.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let time = match unit {
        "us" | "µs" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    (time <= Duration::from_secs(3600)).then_some(time)
}

impl fmt::Display for IdlePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spin => f.write_str("spin"),
            Self::Pause => f.write_str("pause"),
            Self::Sleep { budget } => write!(f, "sleep={}us", budget.as_micros()),
        }
    }
}

/// How a thread spent its idle time. It writes, and any thread may read.
#[derive(Debug, Default)]
pub struct IdleTimes {
    asleep: AtomicU64,
    sleeps: AtomicU64,
}

impl IdleTimes {
    /// Cycles of the [`Clock`] that the thread was asleep.
    #[must_use]
    pub fn asleep(&self) -> u64 {
        self.asleep.load(Ordering::Relaxed)
    }

    /// How often it fell asleep.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Ordering::Relaxed)
    }

    /// Adds a sleep; the thread is the only writer.
    fn slept(&self, cycles: u64) {
        self.asleep.store(self.asleep().wrapping_add(cycles), Ordering::Relaxed);
        self.sleeps.store(self.sleeps().wrapping_add(1), Ordering::Relaxed);
    }
}

/// Lets a polling thread rest; see the [module](self).
#[derive(Debug)]
pub struct Idler {
    policy: IdlePolicy,
    clock: Clock,
    /// Readable when one of the descriptors is.
    told: Option<OwnedFd>,
    /// How long a sleep may be.
    longest: Duration,
    /// Rounds without work since the last one with some.
    empty_rounds: u32,
    /// When the first of them was.
    idle_since: u64,
    /// Whether a descriptor ended the last sleep, and there has been no work since.
    woken_for_nothing: bool,
    /// Whether the thread's timers are exact already.
    exact: bool,
    times: Arc<IdleTimes>,
}

impl Idler {
    /// For a thread that polls queues with these descriptors, one for each queue, or none where it has none. A
    /// queue must keep its descriptor for as long as it is polled.
    ///
    /// # Errors
    /// When the system gives no epoll instance, or a descriptor cannot be polled.
    #[expect(single_use_lifetimes, reason = "an elided lifetime in an argument of this form is not stable")]
    pub fn new<'fd>(
        policy: IdlePolicy,
        clock: Clock,
        fds: impl IntoIterator<Item = Option<BorrowedFd<'fd>>>,
    ) -> io::Result<Self> {
        let mut idler = Self {
            policy,
            clock,
            told: None,
            longest: LONGEST,
            empty_rounds: 0,
            idle_since: 0,
            woken_for_nothing: false,
            exact: false,
            times: Arc::default(),
        };
        if let IdlePolicy::Sleep { budget } = policy {
            let told = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let mut blind = false;
            for fd in fds {
                match fd {
                    Some(fd) => epoll::add(
                        &told,
                        fd,
                        epoll::EventData::new_u64(0),
                        epoll::EventFlags::IN | epoll::EventFlags::ERR,
                    )?,
                    None => blind = true,
                }
            }
            idler.told = Some(told);
            if blind {
                idler.longest = budget.min(LONGEST);
            }
        }
        Ok(idler)
    }

    /// How the thread has spent its time so far; stays readable for other threads.
    #[must_use]
    pub fn times(&self) -> Arc<IdleTimes> {
        Arc::clone(&self.times)
    }

    /// To be called after a round with work in it.
    #[inline]
    pub fn worked(&mut self) {
        self.empty_rounds = 0;
        self.woken_for_nothing = false;
    }

    /// To be called after a round without work: pauses if it is time for that, and says whether it is time to
    /// sleep.
    #[inline]
    #[must_use = "true says that the thread should arm its queues and sleep"]
    pub fn may_sleep(&mut self) -> bool {
        if self.policy == IdlePolicy::Spin {
            return false;
        }
        self.rest()
    }

    fn rest(&mut self) -> bool {
        if self.empty_rounds == 0 {
            self.idle_since = self.clock.cycles();
        }
        self.empty_rounds = self.empty_rounds.saturating_add(1);
        if self.empty_rounds < SPIN_ROUNDS {
            return false;
        }
        core::hint::spin_loop();
        let IdlePolicy::Sleep { budget } = self.policy else { return false };
        let idle = self.clock.cycles().wrapping_sub(self.idle_since);
        budget >= BEFORE_SLEEP && self.clock.to_duration(idle) >= BEFORE_SLEEP
    }

    /// Sleeps until a descriptor tells, or the time is over. To be called when [`may_sleep`](Self::may_sleep) said
    /// so, after arming the queues.
    ///
    /// A descriptor that is readable although there is no work, as that of an interface that has gone down, does
    /// not keep the thread awake: after the first such wake the thread sleeps by the clock alone.
    ///
    /// The first sleep sets the calling thread's timer slack (`PR_SET_TIMERSLACK`) to a microsecond, because the
    /// usual 50 would come on top of the budget.
    pub fn sleep(&mut self) {
        if !self.exact {
            // Where the system refuses, sleeps are a little longer.
            let _ = set_current_timer_slack(NonZeroU64::new(1_000));
            self.exact = true;
        }
        let begun = self.clock.cycles();
        let time = match (self.woken_for_nothing, self.policy) {
            (true, IdlePolicy::Sleep { budget }) => budget.min(LONGEST),
            _ => self.longest,
        };
        // A time that does not fit is none that LONGEST allows.
        let time = Timespec::try_from(time).unwrap_or_default();
        let woken = match &self.told {
            Some(told) if !self.woken_for_nothing => {
                // An interrupted sleep is a short one: the caller looks at its queues and comes again.
                poll(&mut [PollFd::new(told, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0)
            }
            _ => {
                let _ = poll(&mut [], Some(&time));
                false
            }
        };
        self.woken_for_nothing = woken;
        self.times.slept(self.clock.cycles().wrapping_sub(begun));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Instant;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn sleeper(budget: Duration, fds: &[Option<BorrowedFd<'_>>]) -> Idler {
        Idler::new(IdlePolicy::Sleep { budget }, Clock::calibrate(), fds.iter().copied()).unwrap()
    }

    /// Polls in vain until it is time to sleep.
    fn until_sleepy(idler: &mut Idler) {
        let begun = Instant::now();
        while !idler.may_sleep() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it never gets sleepy");
        }
    }

    #[test]
    fn policies_are_read_and_written_alike() {
        for text in ["spin", "pause", "sleep=200us", "sleep=1000us"] {
            assert_eq!(text.parse::<IdlePolicy>().unwrap().to_string(), text);
        }
        let default = IdlePolicy::Sleep { budget: IdlePolicy::DEFAULT_BUDGET };
        assert_eq!("sleep".parse::<IdlePolicy>().unwrap(), default);
        assert_eq!("sleep=1ms".parse::<IdlePolicy>(), "sleep=1000us".parse());
        for text in [
            "",
            "doze",
            "spin=1us",
            "sleep=",
            "sleep=5",
            "sleep=us",
            "sleep=-1us",
            "sleep=2h",
            "sleep=99999999s",
        ] {
            let error = text.parse::<IdlePolicy>().unwrap_err().to_string();
            assert!(error.contains("sleep=200us"), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_sleep_sleeps_and_only_after_idling() {
        let clock = Clock::calibrate();
        for policy in
            [IdlePolicy::Spin, IdlePolicy::Pause, IdlePolicy::Sleep { budget: Duration::from_micros(10) }]
        {
            let mut idler = Idler::new(policy, clock, []).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < 4 * BEFORE_SLEEP {
                assert!(!idler.may_sleep(), "{policy}");
            }
        }
        let mut idler = sleeper(Duration::from_millis(1), &[]);
        let begun = Instant::now();
        until_sleepy(&mut idler);
        assert!(begun.elapsed() >= BEFORE_SLEEP);
        idler.worked();
        assert!(!idler.may_sleep(), "work begins the wait anew");
    }

    #[test]
    fn a_descriptor_ends_a_sleep_and_one_that_lies_does_not_keep_awake() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut idler = sleeper(Duration::from_millis(5), &[Some(event.as_fd())]);
        until_sleepy(&mut idler);
        thread::scope(|scope| {
            scope.spawn(|| rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap());
            let begun = Instant::now();
            while !idler.woken_for_nothing {
                idler.sleep();
                assert!(begun.elapsed() < Duration::from_secs(10), "nothing wakes it");
            }
        });
        // The event is still there, and no work came of it: now the clock alone ends sleeps.
        let begun = Instant::now();
        idler.sleep();
        assert!(begun.elapsed() >= Duration::from_millis(5));
        idler.worked();
        until_sleepy(&mut idler);
        idler.sleep();
        assert!(idler.woken_for_nothing, "after work it listens again");
    }

    #[test]
    fn a_queue_without_a_descriptor_is_looked_at_within_the_budget() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let budget = Duration::from_micros(300);
        assert_eq!(sleeper(budget, &[Some(event.as_fd()), None]).longest, budget);
        assert_eq!(sleeper(budget, &[Some(event.as_fd())]).longest, LONGEST);
        let mut idler = sleeper(budget, &[None]);
        let times = idler.times();
        let begun = Instant::now();
        idler.sleep();
        let slept = begun.elapsed();
        assert!(slept >= budget);
        assert_eq!(times.sleeps(), 1);
        let told = idler.clock.to_duration(times.asleep());
        assert!(told >= budget.mul_f64(0.9) && told <= slept.mul_f64(1.1), "{told:?} of {slept:?}");
    }
}
