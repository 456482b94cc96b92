//! A pool of buffers shared by plain threads: some fill buffers and send them on, others check them and let
//! them go home. At the end the pool's balance shows that all are home.
//!
//! `cargo run --release -p wirerate-mempool --example threads`
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use arrayvec::ArrayVec;
use wirerate_mempool::ring::{Consumer, Multi, Producer, ring};
use wirerate_mempool::{Pool, PoolSize, Pooled};

const PAIRS: usize = 2;
const BURST: usize = 32;
const RING: usize = 256;
const BUFFERS: u64 = 200_000;

type Buffer = Pooled<[u8; 1500]>;

fn main() -> Result<(), Box<dyn Error>> {
    let size = PoolSize::new().rings(1, RING).caches(2 * PAIRS, 256).bursts(2 * PAIRS, BURST);
    println!("buffers: {size}");
    let pool = Pool::on_heap(size.objects(), || [0; 1500])?;
    let (producer, consumer) = ring::<Buffer, Multi, Multi>(RING);
    let checked = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..PAIRS {
            let (pool, producer) = (pool.clone(), producer.clone());
            scope.spawn(move || fill(&pool, producer, seed as u8));
            let (consumer, checked) = (consumer.clone(), &checked);
            scope.spawn(move || check(consumer, checked));
        }
        drop(producer);
    });
    let checked = checked.into_inner();
    println!("checked: {checked} buffers");
    println!("pool:    {}", pool.counts());
    pool.audit()?;
    if checked != BUFFERS * PAIRS as u64 || pool.counts().in_use != 0 {
        return Err("some buffers were lost on the way".into());
    }
    Ok(())
}

/// Gets buffers in bursts, fills them, and sends them on.
fn fill(pool: &Pool<[u8; 1500]>, mut producer: Producer<Buffer, Multi, Multi>, seed: u8) {
    let mut burst = ArrayVec::<Buffer, BURST>::new();
    let mut left = BUFFERS;
    while left > 0 || !burst.is_empty() {
        if burst.is_empty() && pool.get_bulk(&mut burst, BURST.min(left as usize)).is_ok() {
            left -= burst.len() as u64;
            for buffer in &mut burst {
                buffer.fill(seed);
            }
        }
        if producer.enqueue_burst(&mut burst) == 0 {
            thread::yield_now();
        }
    }
}

/// Takes buffers, looks whether each has the same byte all over, and drops them, which puts them back.
fn check(mut consumer: Consumer<Buffer, Multi, Multi>, checked: &AtomicU64) {
    let mut burst = ArrayVec::<Buffer, BURST>::new();
    loop {
        // Looked at first: what comes before the end is then taken below.
        let closed = consumer.is_closed();
        if consumer.dequeue_burst(&mut burst, BURST) == 0 {
            if closed {
                return;
            }
            thread::yield_now();
        }
        let good = burst.drain(..).filter(|buffer| buffer.iter().all(|byte| *byte == buffer[0])).count();
        checked.fetch_add(good as u64, Ordering::Relaxed);
    }
}
