//! The pools that take part: Wirerate's, a queue of addresses, the C library's heap, and pools of other
//! crates.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use crossbeam_queue::ArrayQueue;
use wirerate_mempool::{Memory, MmapMemory, Pool, PoolConfig, Pooled, RawCache, RawPool};

use super::churn::{Churn, Untyped, churn};
use super::pair::{Circle, getter, putter};
use super::threads::{Done, Job, Start, Timer, dry, together};
use super::{CACHE, COUNT, CROWD, Contestant, OBJECT, Place, Work, with_bulk};

/// All pools of this process, Wirerate's first.
///
/// # Errors
/// When the kernel refuses memory.
pub fn pools(place: &Place) -> Result<Vec<Box<dyn Contestant>>> {
    let raw = || -> Result<RawPool> {
        let config = PoolConfig::new("contest", COUNT, OBJECT).cache(CACHE);
        let memory = MmapMemory::new(config.memory_len())?;
        Ok(RawPool::new(config, vec![Box::new(memory)])?)
    };
    let typed = Pool::<Buffer>::config("typed contest", COUNT).cache(CACHE);
    let memory = MmapMemory::new(typed.memory_len())?;
    let typed = Pool::new(typed, vec![Box::new(memory) as Box<dyn Memory>], Buffer::default)?;
    let mut pools: Vec<Box<dyn Contestant>> = vec![
        Box::new(Shared { name: "wirerate", pool: Raw(raw()?), place: place.clone() }),
        Box::new(Shared { name: "wirerate cache", pool: Handled(raw()?), place: place.clone() }),
        Box::new(Owned { name: "wirerate typed", pool: Typed(typed), place: place.clone() }),
        Box::new(Shared { name: "ArrayQueue", pool: Queue::new()?, place: place.clone() }),
        Box::new(Shared { name: "malloc", pool: Malloc, place: place.clone() }),
        Box::new(Shared {
            name: "sharded-slab",
            pool: Sharded(sharded_slab::Pool::new()),
            place: place.clone(),
        }),
        Box::new(Shared {
            name: "object-pool",
            pool: Stack(object_pool::Pool::new(0, Box::<Buffer>::default)),
            place: place.clone(),
        }),
    ];
    for threads in CROWD {
        let name = format!("wirerate, {threads} threads");
        pools.push(Box::new(Crowd { name, threads, pool: Raw(raw()?), place: place.clone() }));
    }
    Ok(pools)
}

/// Whose `malloc` it is, and its version.
#[must_use]
pub fn heap() -> String {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it returns text that is never freed.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        format!("glibc {}", version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    "malloc of another C library than glibc".to_owned()
}

/// A pool that does all works of pinned threads.
struct Shared<P> {
    name: &'static str,
    pool: P,
    place: Place,
}

impl<P: Untyped> Contestant for Shared<P> {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&mut self, work: Work, bulk: usize, ms: u32) -> Result<Option<f64>> {
        match work {
            Work::Churn { keep, threads } => {
                churn_by(&self.pool, &self.place, keep, threads, bulk, ms).map(Some)
            }
            Work::Pair => with_bulk!(bulk, N => pair_by::<P, N>(&self.pool, &self.place, ms)).map(Some),
            _ => Ok(None),
        }
    }
}

/// A pool whose objects are values that go home by themselves: it has no addresses to hand over in a circle.
struct Owned<P> {
    name: &'static str,
    pool: P,
    place: Place,
}

impl<P: Churn> Contestant for Owned<P> {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&mut self, work: Work, bulk: usize, ms: u32) -> Result<Option<f64>> {
        match work {
            Work::Churn { keep, threads } => {
                churn_by(&self.pool, &self.place, keep, threads, bulk, ms).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Threads that the scheduler puts where it likes. The cycles are those of a CPU for each object: with more
/// threads than CPUs, what threads wait for CPUs is nobody's cost.
struct Crowd {
    name: String,
    threads: usize,
    pool: Raw,
    place: Place,
}

impl Contestant for Crowd {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, work: Work, bulk: usize, ms: u32) -> Result<Option<f64>> {
        if work != Work::Crowd {
            return Ok(None);
        }
        let timer = Timer::new(self.place.clock, ms);
        let pool = &self.pool;
        let rate = with_bulk!(bulk, N => {
            let work = move |start: &Start| -> Done { churn::<_, N>(pool, 512, start, timer) };
            let job = |_| -> Job<'_> { (None, Box::new(work)) };
            together((0..self.threads).map(job).collect())
        })?;
        Ok(Some(self.threads.min(self.place.cpus.len()) as f64 / rate))
    }
}

fn churn_by<P: Churn>(
    pool: &P,
    place: &Place,
    keep: usize,
    threads: usize,
    bulk: usize,
    ms: u32,
) -> Result<f64> {
    let timer = Timer::new(place.clock, ms);
    let rate = with_bulk!(bulk, N => {
        let job = |&cpu: &u32| -> Job<'_> {
            (Some(cpu), Box::new(move |start: &Start| churn::<P, N>(pool, keep, start, timer)))
        };
        together(place.cpus.iter().take(threads).map(job).collect())
    })?;
    Ok(threads as f64 / rate)
}

fn pair_by<P: Untyped, const N: usize>(pool: &P, place: &Place, ms: u32) -> Result<f64> {
    let &[first, second] = &place.cpus[..] else { anyhow::bail!("a pair needs two CPUs") };
    let timer = Timer::new(place.clock, ms);
    let circle = Box::new(Circle::new());
    let gets = |start: &Start| -> Done { getter::<P, N>(pool, &circle, start, timer) };
    let puts = |start: &Start| -> Done { putter::<P, N>(pool, &circle, start) };
    Ok(1.0 / together(vec![(Some(first), Box::new(gets)), (Some(second), Box::new(puts))])?)
}

/// An object, where a pool wants a type.
#[derive(Clone)]
struct Buffer(#[allow(dead_code, reason = "only its size matters")] [u8; OBJECT]);

impl Default for Buffer {
    fn default() -> Self {
        Self([0; OBJECT])
    }
}

impl sharded_slab::Clear for Buffer {
    // As with the other pools, an object keeps what was in it.
    fn clear(&mut self) {}
}

/// An object's address, which may go to another thread.
#[repr(transparent)]
struct Address(NonNull<u8>);

// SAFETY: it is an address; whoever has it has the object to himself.
unsafe impl Send for Address {}

/// `RawPool`'s own calls, which look up the thread's cache each time.
struct Raw(RawPool);

impl Untyped for Raw {
    type Object = Address;
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    unsafe fn get<const N: usize>(&self, (): &mut (), to: *mut Address) {
        // SAFETY: there is room for `N`; an `Address` is a `NonNull`.
        if self.0.get_bulk(unsafe { &mut *to.cast::<[MaybeUninit<NonNull<u8>>; N]>() }).is_err() {
            dry();
        }
    }

    #[inline(always)]
    unsafe fn put<const N: usize>(&self, (): &mut (), from: *mut Address) {
        // SAFETY: as the caller says.
        unsafe { self.0.put_bulk(&*from.cast::<[NonNull<u8>; N]>()) };
    }
}

/// The same by a cache that the thread has at hand, looked up once, as DPDK's loop with an explicit cache
/// does.
struct Handled(RawPool);

impl Untyped for Handled {
    type Object = Address;
    type Own = RawCache;

    fn own(&self) -> RawCache {
        self.0.cache().unwrap_or_else(|| dry())
    }

    #[inline(always)]
    unsafe fn get<const N: usize>(&self, own: &mut RawCache, to: *mut Address) {
        // SAFETY: there is room for `N`; an `Address` is a `NonNull`.
        if own.get_bulk(unsafe { &mut *to.cast::<[MaybeUninit<NonNull<u8>>; N]>() }).is_err() {
            dry();
        }
    }

    #[inline(always)]
    unsafe fn put<const N: usize>(&self, own: &mut RawCache, from: *mut Address) {
        // SAFETY: as the caller says.
        unsafe { own.put_bulk(&*from.cast::<[NonNull<u8>; N]>()) };
    }
}

/// The typed pool: got in bulks, dropped one by one.
struct Typed(Pool<Buffer>);

impl Churn for Typed {
    type Kept = Vec<Pooled<Buffer>>;

    fn kept(&self, keep: usize) -> Self::Kept {
        Vec::with_capacity(keep)
    }

    #[inline(always)]
    fn turn<const N: usize>(&self, kept: &mut Self::Kept, keep: usize) {
        let mut at = 0;
        while at < keep {
            if self.0.get_bulk(kept, N).is_err() {
                dry();
            }
            at += N;
        }
        black_box(&mut *kept).clear();
    }
}

/// A bounded queue of addresses, one at a time, as people make a pool of it.
struct Queue {
    free: ArrayQueue<Address>,
    /// Where the objects are.
    _memory: MmapMemory,
}

impl Queue {
    fn new() -> Result<Self> {
        let memory = MmapMemory::new(COUNT * OBJECT)?;
        let free = ArrayQueue::new(COUNT);
        for number in 0..COUNT {
            // SAFETY: within the memory, which has room for `COUNT` objects.
            let object = Address(unsafe { memory.base().add(number * OBJECT) });
            free.push(object).ok().context("a queue of as many has room")?;
        }
        Ok(Self { free, _memory: memory })
    }
}

impl Untyped for Queue {
    type Object = Address;
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    unsafe fn get<const N: usize>(&self, (): &mut (), to: *mut Address) {
        for place in 0..N {
            let Some(object) = self.free.pop() else { dry() };
            // SAFETY: there is room for `N`.
            unsafe { to.add(place).write(object) };
        }
    }

    #[inline(always)]
    unsafe fn put<const N: usize>(&self, (): &mut (), from: *mut Address) {
        for place in 0..N {
            // SAFETY: there are `N`, given up here.
            if self.free.push(unsafe { from.add(place).read() }).is_err() {
                dry();
            }
        }
    }
}

/// The C library's heap.
struct Malloc;

impl Untyped for Malloc {
    type Object = Address;
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    unsafe fn get<const N: usize>(&self, (): &mut (), to: *mut Address) {
        for place in 0..N {
            // SAFETY: any size may be asked for.
            let Some(object) = NonNull::new(unsafe { libc::malloc(OBJECT) }) else { dry() };
            // SAFETY: there is room for `N`.
            unsafe { to.add(place).write(Address(object.cast())) };
        }
    }

    #[inline(always)]
    unsafe fn put<const N: usize>(&self, (): &mut (), from: *mut Address) {
        for place in 0..N {
            // SAFETY: there are `N`, from `malloc`, given up here.
            unsafe { libc::free(from.add(place).read().0.as_ptr().cast()) };
        }
    }
}

/// sharded-slab's pool: lock-free, by keys, a shard for each thread.
struct Sharded(sharded_slab::Pool<Buffer>);

impl Untyped for Sharded {
    type Object = usize;
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    unsafe fn get<const N: usize>(&self, (): &mut (), to: *mut usize) {
        for place in 0..N {
            let Some(object) = self.0.create() else { dry() };
            // SAFETY: there is room for `N`.
            unsafe { to.add(place).write(object.key()) };
        }
    }

    #[inline(always)]
    unsafe fn put<const N: usize>(&self, (): &mut (), from: *mut usize) {
        for place in 0..N {
            // SAFETY: there are `N`.
            if !self.0.clear(unsafe { from.add(place).read() }) {
                dry();
            }
        }
    }
}

/// object-pool's pool: a stack under a lock, which grows as it is used.
struct Stack(object_pool::Pool<Box<Buffer>>);

impl Untyped for Stack {
    type Object = Box<Buffer>;
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    unsafe fn get<const N: usize>(&self, (): &mut (), to: *mut Box<Buffer>) {
        for place in 0..N {
            let (_, object) = self.0.pull(Box::<Buffer>::default).detach();
            // SAFETY: there is room for `N`.
            unsafe { to.add(place).write(object) };
        }
    }

    #[inline(always)]
    unsafe fn put<const N: usize>(&self, (): &mut (), from: *mut Box<Buffer>) {
        for place in 0..N {
            // SAFETY: there are `N`, given up here.
            self.0.attach(unsafe { from.add(place).read() });
        }
    }
}
