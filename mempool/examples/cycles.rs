//! Cycles per object for a get and a put, in bulks of several sizes, on one thread and on two.
//!
//! `cargo run --release -p wirerate-mempool --example cycles`
//!
//! The loop of DPDK's `mempool_perf_autotest`: get 512 objects in bulks of n, put them back in bulks of n.

#[cfg(target_arch = "x86_64")]
fn main() -> Result<(), wirerate_mempool::PoolError> {
    measured::run()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("this example reads the time stamp counter of x86-64 processors, which this one has not");
}

#[cfg(target_arch = "x86_64")]
mod measured {
    use std::arch::x86_64::_rdtsc;
    use std::mem::MaybeUninit;
    use std::ptr::NonNull;
    use std::sync::Barrier;
    use std::thread;

    use wirerate_mempool::{MmapMemory, PoolConfig, PoolError, RawPool};

    const KEEP: usize = 512;
    /// Without optimisation the figures mean nothing, and need not take minutes.
    const ROUNDS: u64 = if cfg!(debug_assertions) { 100 } else { 20_000 };
    const REPEATS: usize = 9;

    pub(super) fn run() -> Result<(), PoolError> {
        let config = PoolConfig::new("cycles", 16_384, 2048).cache(512);
        let memory = MmapMemory::new(config.memory_len())?;
        let pool = RawPool::new(config, vec![Box::new(memory)])?;
        println!("TSC cycles per object, get and put together, {KEEP} kept; medians of {REPEATS}");
        println!("{:>6} {:>10} {:>12}", "bulk", "1 thread", "2 threads");
        row::<1>(&pool);
        row::<4>(&pool);
        row::<8>(&pool);
        row::<32>(&pool);
        row::<64>(&pool);
        println!("{}", pool.counts());
        Ok(())
    }

    fn row<const N: usize>(pool: &RawPool) {
        println!("{N:>6} {:>10.2} {:>12.2}", median::<N>(pool, 1), median::<N>(pool, 2));
    }

    /// The median over repeats of the slowest thread's cycles.
    fn median<const N: usize>(pool: &RawPool, threads: usize) -> f64 {
        let mut results: Vec<f64> = (0..REPEATS).map(|_| slowest::<N>(pool, threads)).collect();
        results.sort_by(f64::total_cmp);
        results[REPEATS / 2]
    }

    fn slowest<const N: usize>(pool: &RawPool, threads: usize) -> f64 {
        let start = Barrier::new(threads);
        thread::scope(|scope| {
            let start = &start;
            let measured = |cpu: usize| {
                scope.spawn(move || {
                    pin(cpu);
                    churn::<N>(pool, ROUNDS / 20);
                    start.wait();
                    churn::<N>(pool, ROUNDS)
                })
            };
            let running: Vec<_> = (0..threads).map(measured).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
        })
    }

    /// On a cache line of its own, as DPDK's table is: wide copies over the edge of a line take twice as long.
    #[repr(align(64))]
    struct Kept([MaybeUninit<NonNull<u8>>; KEEP]);

    /// Keeps this thread on a processor, where that can be.
    fn pin(cpu: usize) {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }

    #[inline(never)]
    fn churn<const N: usize>(pool: &RawPool, rounds: u64) -> f64 {
        let mut kept = Kept([MaybeUninit::uninit(); KEEP]);
        // SAFETY: every x86-64 processor has the counter.
        let before = unsafe { _rdtsc() };
        for _ in 0..rounds {
            let (bulks, _) = kept.0.as_chunks_mut::<N>();
            for bulk in bulks {
                assert!(pool.get_bulk(bulk).is_ok(), "the pool is large enough for all threads");
            }
            let (bulks, _) = kept.0.as_chunks::<N>();
            for bulk in bulks {
                // SAFETY: all were written by `get_bulk`, are in use, and put once.
                unsafe { pool.put_bulk(&*(std::ptr::from_ref(bulk).cast::<[NonNull<u8>; N]>())) };
            }
        }
        // SAFETY: as above.
        let cycles = unsafe { _rdtsc() } - before;
        cycles as f64 / (rounds as f64 * KEEP as f64)
    }
}
