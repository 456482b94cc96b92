//! A pool of 64 MiB that gives memory back while two threads go on using it, and takes it again.
//!
//! `cargo run --release -p wirerate-mempool --example elastic`
//!
//! With an argument, the `memory.stat` file of a memory cgroup, memory is read there, and not from `/proc`.

use std::error::Error;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use wirerate_mempool::{MmapMemory, PoolConfig, RawPool};

const OBJECTS: usize = 32_768;
const CHUNK: usize = 1 << 20;
/// Objects that are kept through a shrink.
const FLOOR: usize = 4096;
const BURST: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let stat = env::args().nth(1);
    let config = PoolConfig::new("elastic", OBJECTS, 2048).cache(256);
    let memory = MmapMemory::chunks(&config, CHUNK)?;
    println!("{OBJECTS} objects of 2048 bytes in {} chunks", memory.len());
    let pool = RawPool::elastic(config, memory, |_, _| {})?;
    touch_all(&pool)?;
    println!("all used: {} MiB resident", resident(stat.as_deref())?);

    let traffic = Traffic {
        pool: &pool,
        stop: AtomicBool::new(false),
        bursts: AtomicU64::new(0),
        longest: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| traffic.run());
        }
        let result = shrink_and_grow(&traffic, stat.as_deref());
        traffic.stop.store(true, Ordering::Relaxed);
        result
    })?;

    touch_all(&pool)?;
    println!("all used: {} MiB resident", resident(stat.as_deref())?);
    let held = pool.get().ok_or("the pool is dry")?;
    let shrunk = pool.shrink(0);
    println!("one object held: {} chunks went; {} MiB resident", shrunk.chunks, resident(stat.as_deref())?);
    println!("left: {}", pool.counts());
    // SAFETY: got above, and put once.
    unsafe { pool.put(held) };
    Ok(pool.audit()?)
}

fn shrink_and_grow(traffic: &Traffic<'_>, stat: Option<&str>) -> Result<(), Box<dyn Error>> {
    let pool = traffic.pool;
    traffic.wait_for_bursts(1000);
    traffic.longest.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    let shrunk = pool.shrink(FLOOR);
    println!(
        "two threads at work: {} chunks, {} objects, {} MiB went in {} us; {} MiB resident",
        shrunk.chunks,
        shrunk.objects,
        shrunk.bytes >> 20,
        begun.elapsed().as_micros(),
        resident(stat)?
    );
    println!("bursts since: {}", traffic.wait_for_bursts(1000));
    println!("the longest took {} us", traffic.longest.load(Ordering::Relaxed) / 1000);
    let begun = Instant::now();
    let came = pool.grow(OBJECTS)?;
    println!("grown: {came} objects came in {} us", begun.elapsed().as_micros());
    println!("bursts since: {}", traffic.wait_for_bursts(1000));
    Ok(())
}

/// Threads that get bursts, write to them and put them.
struct Traffic<'a> {
    pool: &'a RawPool,
    stop: AtomicBool,
    bursts: AtomicU64,
    /// The longest that a burst took, in nanoseconds, from the get to the end of the put.
    longest: AtomicU64,
}

impl Traffic<'_> {
    fn run(&self) {
        let mut burst = [MaybeUninit::uninit(); BURST];
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            if self.pool.get_bulk(&mut burst).is_err() {
                thread::yield_now();
                continue;
            }
            // SAFETY: `get_bulk` has written all.
            let objects = burst.map(|object| unsafe { object.assume_init() });
            for object in objects {
                // SAFETY: it is ours, and has 2048 bytes.
                unsafe { object.write_bytes(1, 64) };
            }
            // SAFETY: got above, and put once.
            unsafe { self.pool.put_bulk(&objects) };
            self.longest.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            self.bursts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until so many more have gone, 10 seconds at most; says how many have.
    fn wait_for_bursts(&self, more: u64) -> u64 {
        let before = self.bursts.load(Ordering::Relaxed);
        let begun = Instant::now();
        loop {
            let since = self.bursts.load(Ordering::Relaxed) - before;
            if since >= more || begun.elapsed() > Duration::from_secs(10) {
                return since;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn touch_all(pool: &RawPool) -> Result<(), Box<dyn Error>> {
    let mut all = vec![MaybeUninit::uninit(); OBJECTS];
    pool.get_bulk(&mut all)?;
    // SAFETY: `get_bulk` has written all.
    let all: Vec<_> = all.into_iter().map(|object| unsafe { object.assume_init() }).collect();
    for object in &all {
        // SAFETY: it is ours, and has 2048 bytes.
        unsafe { object.write_bytes(1, 2048) };
    }
    // SAFETY: got above, and put once.
    unsafe { pool.put_bulk(&all) };
    Ok(())
}

/// MiB of anonymous memory that this process, or its cgroup, has.
fn resident(stat: Option<&str>) -> Result<u64, Box<dyn Error>> {
    // Version 1 of cgroups says `rss`, version 2 `anon`, in bytes; `/proc` in kB.
    let (path, keys, unit) = match stat {
        Some(path) => (path, ["rss ", "anon "], 1),
        None => ("/proc/self/status", ["RssAnon:", "RssAnon:"], 1024),
    };
    let text = fs::read_to_string(path)?;
    let figure = text.lines().find_map(|line| {
        let rest = keys.iter().find_map(|key| line.strip_prefix(key))?;
        rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    let figure = figure.ok_or_else(|| format!("no {keys:?} in {path}"))?;
    Ok((figure * unit) >> 20)
}
