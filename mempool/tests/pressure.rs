//! Memory pressure: the policy by fakes with times of their own, and triggers in the kernel (Linux).
//!
//! Those that need PSI report themselves ignored, with the reason, where the kernel has none for them; with
//! `WIRERATE_REQUIRE=all` that is a failure.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wirerate_mempool::pressure::{
    Elastic, EventSource, PressureConfig, PressureCounts, PressureError, PressureEvent, PressurePolicy,
    PressureTrigger, PressureWatcher, Stall, TriggerConfig,
};
use wirerate_mempool::{MmapMemory, PoolConfig, PoolError, RawPool};

/// Each test by its name, and whether it needs a trigger in the kernel.
const TRIALS: &[(&str, bool, fn())] = &[
    ("an_event_gives_back_all_above_the_floor", false, an_event_gives_back_all_above_the_floor),
    ("a_pool_gives_memory_back_and_grows_again", false, a_pool_gives_memory_back_and_grows_again),
    ("a_part_of_it_goes_at_each_event", false, a_part_of_it_goes_at_each_event),
    ("it_grows_by_steps_after_calm", false, it_grows_by_steps_after_calm),
    ("an_event_starts_the_calm_anew", false, an_event_starts_the_calm_anew),
    ("what_does_not_grow_is_tried_after_calm", false, what_does_not_grow_is_tried_after_calm),
    ("no_event_no_change", false, no_event_no_change),
    ("bad_policies_are_refused", false, bad_policies_are_refused),
    ("a_watcher_waits_until_growth_is_due", false, a_watcher_waits_until_growth_is_due),
    ("a_watcher_ends_by_stop_and_by_gone", false, a_watcher_ends_by_stop_and_by_gone),
    ("bad_triggers_are_refused", false, bad_triggers_are_refused),
    ("files_that_are_no_pressure_files_are_refused", false, files_that_are_no_pressure_files_are_refused),
    ("a_trigger_waits_in_the_kernel", true, a_trigger_waits_in_the_kernel),
];

fn main() {
    let arguments = Arguments::from_args();
    let missing = PressureTrigger::open(TriggerConfig::default()).err().map(|error| error.to_string());
    let required = std::env::var_os("WIRERATE_REQUIRE").is_some_and(|value| value == "all");
    let trial = |&(name, kernel, test): &(&'static str, bool, fn())| {
        let missing = missing.clone().filter(|_| kernel);
        Trial::ignorable_test(name, move || match missing {
            Some(reason) if required => Err(Failed::from(reason)),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                test();
                Ok(Completion::Completed)
            }
        })
    };
    libtest_mimic::run(&arguments, TRIALS.iter().map(trial).collect()).exit();
}

/// A pool of objects of ten bytes, of which `busy` cannot go.
struct Fake {
    objects: Cell<usize>,
    busy: usize,
    /// Whether there is memory to grow.
    memory: Cell<bool>,
}

fn fake(objects: usize) -> Fake {
    Fake { objects: Cell::new(objects), busy: 0, memory: Cell::new(true) }
}

impl Elastic for Fake {
    fn objects(&self) -> usize {
        self.objects.get()
    }

    fn shrink(&self, keep: usize) -> usize {
        let keep = keep.max(self.busy).min(self.objects.get());
        (self.objects.replace(keep) - keep) * 10
    }

    fn grow(&self, to: usize) -> Result<usize, PoolError> {
        assert!(to > self.objects.get(), "there is nothing to grow");
        Ok(if self.memory.get() { to - self.objects.replace(to) } else { 0 })
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn an_event_gives_back_all_above_the_floor() {
    let now = Instant::now();
    let mut policy = PressurePolicy::new(fake(1000), PressureConfig::new(100, 1000)).unwrap();
    policy.on(PressureEvent::Pressure, now);
    assert_eq!(policy.elastic().objects(), 100);
    policy.on(PressureEvent::Pressure, now);
    assert_eq!(policy.elastic().objects(), 100);
    assert_eq!(policy.counts(), PressureCounts { events: 2, bytes: 9000, ..Default::default() });
    // What is in use stays.
    let busy = Fake { busy: 700, ..fake(1000) };
    let mut policy = PressurePolicy::new(busy, PressureConfig::new(100, 1000)).unwrap();
    policy.on(PressureEvent::Pressure, now);
    assert_eq!((policy.elastic().objects(), policy.counts().bytes), (700, 3000));
}

fn a_part_of_it_goes_at_each_event() {
    let config = PressureConfig::new(100, 1000).percent(50);
    let mut policy = PressurePolicy::new(fake(1000), config).unwrap();
    let sizes: Vec<_> = (0..12)
        .map(|_| {
            policy.on(PressureEvent::Pressure, Instant::now());
            policy.elastic().objects()
        })
        .collect();
    assert_eq!(sizes, [550, 325, 212, 156, 128, 114, 107, 103, 101, 100, 100, 100]);
}

fn it_grows_by_steps_after_calm() {
    let start = Instant::now();
    let mut policy = PressurePolicy::new(fake(1000), PressureConfig::new(100, 1000).step(400)).unwrap();
    policy.on(PressureEvent::Pressure, start);
    assert_eq!(policy.until_due(start), Some(seconds(10)));
    let expected = [(9, 100), (10, 500), (10, 500), (11, 900), (12, 1000), (13, 1000)];
    for (at, objects) in expected {
        policy.on(PressureEvent::Timeout, start + seconds(at));
        assert_eq!(policy.elastic().objects(), objects, "after {at} s");
    }
    assert_eq!(policy.until_due(start), None);
    assert_eq!(policy.counts(), PressureCounts { events: 1, bytes: 9000, grown: 3, not_grown: 0 });
}

fn an_event_starts_the_calm_anew() {
    let start = Instant::now();
    let mut policy = PressurePolicy::new(fake(1000), PressureConfig::new(100, 1000).step(400)).unwrap();
    policy.on(PressureEvent::Pressure, start);
    policy.on(PressureEvent::Pressure, start + seconds(9));
    policy.on(PressureEvent::Timeout, start + seconds(18));
    assert_eq!(policy.elastic().objects(), 100);
    policy.on(PressureEvent::Timeout, start + seconds(19));
    assert_eq!(policy.elastic().objects(), 500);
    policy.on(PressureEvent::Pressure, start + seconds(20));
    assert_eq!(policy.elastic().objects(), 100);
    assert_eq!(policy.until_due(start + seconds(20)), Some(seconds(10)));
}

fn what_does_not_grow_is_tried_after_calm() {
    let start = Instant::now();
    let mut policy = PressurePolicy::new(fake(1000), PressureConfig::new(100, 1000)).unwrap();
    policy.on(PressureEvent::Pressure, start);
    policy.elastic().memory.set(false);
    policy.on(PressureEvent::Timeout, start + seconds(10));
    assert_eq!((policy.counts().grown, policy.counts().not_grown), (0, 1));
    assert_eq!(policy.until_due(start + seconds(10)), Some(seconds(10)));
    policy.elastic().memory.set(true);
    policy.on(PressureEvent::Timeout, start + seconds(20));
    assert_eq!((policy.elastic().objects(), policy.counts().grown), (213, 1));
}

fn no_event_no_change() {
    let start = Instant::now();
    let mut policy = PressurePolicy::new(fake(500), PressureConfig::new(100, 1000)).unwrap();
    policy.on(PressureEvent::Timeout, start + seconds(100));
    policy.on(PressureEvent::Gone, start + seconds(200));
    assert_eq!((policy.elastic().objects(), policy.counts()), (500, PressureCounts::default()));
}

fn bad_policies_are_refused() {
    let says = |config| PressurePolicy::new(fake(1), config).err().unwrap().to_string();
    let good = PressureConfig::new(1, 2);
    assert_eq!(
        says(PressureConfig::new(3, 2)),
        "a pressure policy with floor 3 above bound 2: take a lower floor"
    );
    assert_eq!(says(good.percent(101)), "a pressure policy with 101 percent an event: take 1 to 100");
    assert!(says(good.percent(0)).contains("0 percent"));
    for zero in [good.step(0), good.every(Duration::ZERO), good.calm(Duration::ZERO)] {
        assert!(says(zero).contains("take more than zero"));
    }
}

/// Events that come in this order, with what time each was waited for.
#[derive(Default)]
struct Script {
    events: RefCell<VecDeque<PressureEvent>>,
    waits: RefCell<Vec<Duration>>,
}

impl EventSource for Script {
    fn wait(&self, timeout: Duration) -> Result<PressureEvent, PressureError> {
        self.waits.borrow_mut().push(timeout);
        Ok(self.events.borrow_mut().pop_front().unwrap_or(PressureEvent::Timeout))
    }
}

fn script<const N: usize>(events: [PressureEvent; N]) -> Script {
    Script { events: RefCell::new(events.into()), ..Script::default() }
}

fn a_watcher_waits_until_growth_is_due() {
    let pool = fake(1000);
    let config = PressureConfig::new(100, 1000);
    let mut watcher = PressureWatcher::new(script([PressureEvent::Pressure]), &pool, config).unwrap();
    assert_eq!(watcher.step(seconds(60)).unwrap(), PressureEvent::Pressure);
    assert_eq!(pool.objects(), 100);
    watcher.step(seconds(60)).unwrap();
    watcher.step(seconds(1)).unwrap();
    let waits = watcher.source().waits.borrow().clone();
    assert_eq!(waits[0], seconds(60));
    assert!(waits[1] > seconds(1) && waits[1] <= seconds(10), "{waits:?}");
    assert_eq!(waits[2], seconds(1));
}

fn a_watcher_ends_by_stop_and_by_gone() {
    let pool = fake(1000);
    let config = PressureConfig::new(100, 1000);
    let events = [PressureEvent::Timeout, PressureEvent::Pressure, PressureEvent::Gone];
    let mut watcher = PressureWatcher::new(script(events), &pool, config).unwrap();
    let asked = Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) == 1;
    watcher.run(stop).unwrap();
    assert_eq!((pool.objects(), watcher.source().waits.borrow().len()), (1000, 1));
    let error = watcher.run(|| false).unwrap_err();
    assert!(matches!(error, PressureError::Gone), "{error}");
    assert_eq!((pool.objects(), watcher.policy().counts().events), (100, 1));
}

fn bad_triggers_are_refused() {
    for (threshold, window) in [(0, 1000), (1001, 1000), (100, 499), (100, 10_001)] {
        let config = TriggerConfig {
            threshold: Duration::from_millis(threshold),
            window: Duration::from_millis(window),
            ..TriggerConfig::default()
        };
        let error = PressureTrigger::open(config).unwrap_err().to_string();
        let expected =
            format!("a pressure trigger of {} us in a window of {} us: ", threshold * 1000, window * 1000);
        assert!(error.starts_with(&expected), "{error}");
    }
}

fn files_that_are_no_pressure_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory.pressure");
    let open = || PressureTrigger::open(TriggerConfig { path: path.clone(), ..TriggerConfig::default() });
    let error = open().unwrap_err().to_string();
    assert!(error.starts_with(&format!("opening {path:?}: ")), "{error}");
    assert!(error.contains("version 2 control group"), "{error}");
    // Another file is refused, and left as it is.
    std::fs::write(&path, "mine").unwrap();
    let error = open().unwrap_err().to_string();
    assert_eq!(
        error,
        format!("reading {path:?}: it has no pressure averages; check that this is a pressure file")
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

fn a_trigger_waits_in_the_kernel() {
    for stall in [Stall::Some, Stall::Full] {
        // All of the window: no machine on which this test runs waits for memory so much.
        let config = TriggerConfig { stall, threshold: seconds(2), ..TriggerConfig::default() };
        let trigger = PressureTrigger::open(config).unwrap();
        assert!(trigger.as_fd().as_raw_fd() > 2);
        let start = Instant::now();
        assert_eq!(trigger.wait(Duration::from_millis(100)).unwrap(), PressureEvent::Timeout);
        assert!(start.elapsed() >= Duration::from_millis(100), "it waited");
    }
}

fn a_pool_gives_memory_back_and_grows_again() {
    let config = PoolConfig::new("pressed", 1024, 2048);
    let memory = MmapMemory::chunks(&config, 1 << 16).unwrap();
    let pool = RawPool::elastic(config, memory, |_, _| {}).unwrap();
    let held = pool.get().unwrap();
    let mut policy = PressurePolicy::new(&pool, PressureConfig::new(256, 1024).step(512)).unwrap();
    let start = Instant::now();
    policy.on(PressureEvent::Pressure, start);
    let left = pool.counts().size;
    assert!((256..300).contains(&left), "{left} objects are left");
    policy.on(PressureEvent::Timeout, start + Duration::from_secs(10));
    let grown = pool.counts().size;
    assert!((left + 512..left + 550).contains(&grown), "{grown} objects after a step");
    policy.on(PressureEvent::Timeout, start + Duration::from_secs(20));
    assert_eq!(pool.counts().size, 1024);
    // SAFETY: got above, and put once.
    unsafe { pool.put(held) };
    pool.audit().unwrap();
}
