//! The pool against a simple model: whatever several threads call in whatever order, what is handed out is
//! what the model says is free, and the balance is right at every step.
//!
//! The steps are played one at a time, each by the thread it names, on that thread's own slot: after each one
//! nobody is in a call, so the counts have to be exact. Then the same steps are played by all threads at
//! once, and the end is checked.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use proptest::prelude::*;
use wirerate_mempool::{Exhausted, HeapMemory, PoolConfig, RawPool};

const THREADS: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Get so many at once.
    Get(usize),
    /// Put so many of what the thread has, as far as it has them, at once.
    Put(usize),
    /// Hand so many of what the thread has to the next thread.
    Hand(usize),
    /// Clone the handle, and drop the older one.
    Clone,
    /// End the thread; another takes its place, with what it had.
    Respawn,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        4 => (0..60_usize).prop_map(Step::Get),
        4 => (0..60_usize).prop_map(Step::Put),
        2 => (0..20_usize).prop_map(Step::Hand),
        1 => Just(Step::Clone),
        1 => Just(Step::Respawn),
    ];
    (0..THREADS, step)
}

/// An object as an address, which may go to another thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Object(NonNull<u8>);
// SAFETY: objects may be used and put by any thread.
unsafe impl Send for Object {}

fn pool(count: usize, cache: usize) -> RawPool {
    let config = PoolConfig::new("model", count, 16).align(16).cache(cache);
    let memory = HeapMemory::new(config.memory_len(), 16).unwrap();
    RawPool::new(config, vec![Box::new(memory)]).unwrap()
}

fn get(pool: &RawPool, n: usize) -> Result<Vec<Object>, Exhausted> {
    let mut out = vec![MaybeUninit::uninit(); n];
    pool.get_bulk(&mut out)?;
    // SAFETY: `get_bulk` has written all.
    Ok(out.into_iter().map(|object| Object(unsafe { object.assume_init() })).collect())
}

fn put(pool: &RawPool, objects: &[Object]) {
    let objects: Vec<_> = objects.iter().map(|object| object.0).collect();
    // SAFETY: in use by this test alone, and put once.
    unsafe { pool.put_bulk(&objects) };
}

enum Order {
    Get(usize),
    Put(Vec<Object>),
    Clone,
}

/// A thread that does what it is told.
struct Worker {
    orders: Sender<Order>,
    answers: Receiver<Result<Vec<Object>, Exhausted>>,
    thread: thread::JoinHandle<()>,
}

impl Worker {
    fn new(mut pool: RawPool) -> Self {
        let (orders, told) = channel();
        let (answer, answers) = channel();
        let thread = thread::spawn(move || {
            for order in told {
                let result = match order {
                    Order::Get(n) => get(&pool, n),
                    Order::Put(objects) => {
                        put(&pool, &objects);
                        Ok(Vec::new())
                    }
                    Order::Clone => {
                        pool = pool.clone();
                        Ok(Vec::new())
                    }
                };
                answer.send(result).unwrap();
            }
        });
        Self { orders, answers, thread }
    }

    fn tell(&self, order: Order) -> Result<Vec<Object>, Exhausted> {
        self.orders.send(order).unwrap();
        self.answers.recv().unwrap()
    }

    fn end(self) {
        drop(self.orders);
        self.thread.join().unwrap();
    }
}

/// Plays the steps one at a time.
fn in_turns(count: usize, cache: usize, steps: &[(usize, Step)]) -> Result<(), TestCaseError> {
    let pool = pool(count, cache);
    let mut workers: Vec<_> = (0..THREADS).map(|_| Worker::new(pool.clone())).collect();
    let mut held: Vec<Vec<Object>> = vec![Vec::new(); THREADS];
    let mut in_use: HashSet<Object> = HashSet::new();
    for (who, step) in steps.iter().copied() {
        match step {
            Step::Get(n) => match workers[who].tell(Order::Get(n)) {
                Ok(objects) => {
                    prop_assert_eq!(objects.len(), n);
                    for object in &objects {
                        prop_assert!(in_use.insert(*object), "{:?} was handed out twice", object);
                    }
                    held[who].extend(objects);
                }
                Err(Exhausted) => {
                    prop_assert!(in_use.len() + n > count, "{} of {} free", count - in_use.len(), n);
                }
            },
            Step::Put(n) => {
                let keep = held[who].len().saturating_sub(n);
                let objects = held[who].split_off(keep);
                for object in &objects {
                    in_use.remove(object);
                }
                workers[who].tell(Order::Put(objects)).unwrap();
            }
            Step::Hand(n) => {
                let keep = held[who].len().saturating_sub(n);
                let objects = held[who].split_off(keep);
                held[(who + 1) % THREADS].extend(objects);
            }
            Step::Clone => _ = workers[who].tell(Order::Clone).unwrap(),
            Step::Respawn => {
                std::mem::replace(&mut workers[who], Worker::new(pool.clone())).end();
            }
        }
        let counts = pool.counts();
        prop_assert_eq!(counts.in_use, in_use.len());
        prop_assert_eq!(counts.free + counts.cached + counts.in_use, count);
        prop_assert!(cache > 0 || counts.cached == 0);
    }
    pool.audit().unwrap();
    let listed: HashSet<_> = pool.outstanding().unwrap().iter().map(|one| Object(one.object)).collect();
    prop_assert_eq!(&listed, &in_use);
    for (worker, objects) in workers.into_iter().zip(held) {
        worker.tell(Order::Put(objects)).unwrap();
        worker.end();
    }
    prop_assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    let all = get(&pool, count);
    prop_assert_eq!(all.as_ref().map(Vec::len), Ok(count));
    put(&pool, &all.unwrap());
    Ok(())
}

/// Plays each thread's steps at the same time as the others'. Objects are not handed on.
fn at_once(count: usize, cache: usize, steps: &[(usize, Step)]) -> Result<(), TestCaseError> {
    let pool = pool(count, cache);
    thread::scope(|scope| {
        for who in 0..THREADS {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut pool = pool;
                let mut held: Vec<Object> = Vec::new();
                for (_, step) in steps.iter().filter(|(name, _)| *name == who) {
                    match *step {
                        Step::Get(n) => {
                            for object in get(&pool, n).unwrap_or_default() {
                                // SAFETY: it is this thread's own, and 16 bytes long.
                                unsafe { object.0.cast::<usize>().write(who) };
                                held.push(object);
                            }
                        }
                        Step::Put(n) | Step::Hand(n) => {
                            let back = held.split_off(held.len().saturating_sub(n));
                            for object in &back {
                                // SAFETY: as above.
                                assert_eq!(unsafe { object.0.cast::<usize>().read() }, who);
                            }
                            put(&pool, &back);
                        }
                        Step::Clone | Step::Respawn => pool = pool.clone(),
                    }
                }
                put(&pool, &held);
            });
        }
    });
    prop_assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_steps_do_as_the_model_does(
        count in 1..150_usize,
        cache in prop_oneof![Just(0_usize), 1..64_usize],
        steps in prop::collection::vec(step(), 0..120),
    ) {
        in_turns(count, cache, &steps)?;
        at_once(count, cache, &steps)?;
    }
}
