//! Pools of values.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

use crate::{
    AuditError, Batch, Counts, Exhausted, HeapMemory, LeakReport, Memory, OnDevice, Outstanding, PoolConfig,
    PoolError, RawPool, Shrunk,
};

#[cfg(feature = "bytes")]
mod buf;
mod buffers;
mod pooled;

#[cfg(feature = "bytes")]
pub use buf::PooledBuf;
pub use pooled::Pooled;

/// What a pool can have as its values: any type with a size that may go to other threads, and `[u8]`, whose
/// length is chosen with the pool.
pub trait Poolable: Send + sealed::Shape {}

impl<T: Send> Poolable for T {}
impl Poolable for [u8] {}

pub(crate) mod sealed {
    use core::ptr::NonNull;

    /// What the address of an object lacks to be a value's.
    pub trait Shape {
        /// Nothing for types with a size, so that they pay nothing.
        type Extent: Copy + Send + Sync;

        /// The value in an object.
        fn at(object: NonNull<u8>, extent: Self::Extent) -> NonNull<Self>;

        /// Bytes of a value. Does not look at it.
        fn bytes(value: NonNull<Self>) -> usize;
    }

    impl<T> Shape for T {
        type Extent = ();

        #[inline(always)]
        fn at(object: NonNull<u8>, (): ()) -> NonNull<Self> {
            object.cast()
        }

        #[inline(always)]
        fn bytes(_value: NonNull<Self>) -> usize {
            size_of::<T>()
        }
    }

    impl Shape for [u8] {
        type Extent = usize;

        #[inline(always)]
        fn at(object: NonNull<u8>, len: usize) -> NonNull<Self> {
            NonNull::slice_from_raw_parts(object, len)
        }

        #[inline(always)]
        fn bytes(value: NonNull<Self>) -> usize {
            value.len()
        }
    }
}

/// A pool of values of type `T`; a clone is another handle to the same pool.
///
/// The values are made once, with the pool, keep their state from one use to the next (so a buffer's capacity
/// is not lost), and are dropped with it. For buffers of a length chosen at run time, see
/// [`buffers`](Pool::buffers).
pub struct Pool<T: Poolable + ?Sized> {
    raw: RawPool,
    extent: T::Extent,
    values: PhantomData<T>,
}

impl<T: Send> Pool<T> {
    /// How a pool of `count` values is to be. The size and alignment are those of `T`, or more where the
    /// configuration asks for more.
    #[must_use]
    pub fn config(name: impl Into<String>, count: usize) -> PoolConfig {
        let align = align_of::<T>().max(PoolConfig::DEFAULT_ALIGN);
        PoolConfig::new(name, count, size_of::<T>().max(1)).align(align)
    }

    /// A pool in `memory`; `init` makes each of the values.
    ///
    /// # Errors
    /// [`PoolError::Config`] when a figure is out of range, also a size or alignment smaller than `T`'s;
    /// [`PoolError::TooSmall`] when the memory does not hold the values; [`PoolError::Tables`] when the heap
    /// has no room for the magazines.
    pub fn new(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        mut init: impl FnMut() -> T,
    ) -> Result<Self, PoolError> {
        Self::check(&config)?;
        // SAFETY: `init` makes a `T` in every object, which `drop_value` drops; `T` is `Send`, so any thread
        // may. The object's size and alignment are enough, as was just checked.
        let raw = unsafe {
            RawPool::with_hooks(
                config,
                memory,
                |object, _| object.cast::<T>().write(init()),
                |object| object.cast::<T>().drop_in_place(),
            )
        }?;
        Ok(Self { raw, extent: (), values: PhantomData })
    }

    /// As `new`, of values whose memory can go and come back: see [`RawPool::elastic`]. Values are dropped before
    /// their memory goes, and made by `init` when it comes.
    ///
    /// # Errors
    /// As for `new`.
    pub fn elastic(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        init: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<Self, PoolError> {
        Self::check(&config)?;
        // SAFETY: as in `new`.
        let raw = unsafe {
            RawPool::elastic_with_hooks(
                config,
                memory,
                move |object, _| object.cast::<T>().write(init()),
                |object| object.cast::<T>().drop_in_place(),
            )
        }?;
        Ok(Self { raw, extent: (), values: PhantomData })
    }

    /// Whether the values fit into the objects.
    fn check(config: &PoolConfig) -> Result<(), PoolError> {
        let enough = [
            ("object_size", config.object_size(), size_of::<T>(), "at least the size of the pool's type"),
            ("align", config.alignment(), align_of::<T>(), "at least the alignment of the pool's type"),
        ];
        match enough.into_iter().find(|(_, found, least, _)| found < least) {
            None => Ok(()),
            Some((what, found, _, expected)) => {
                Err(PoolError::Config { name: config.name().into(), what, found, expected })
            }
        }
    }

    /// A pool of `count` values in memory from the global allocator.
    ///
    /// # Errors
    /// As for `new`, and [`PoolError::Memory`] when there is no such memory.
    pub fn on_heap(count: usize, init: impl FnMut() -> T) -> Result<Self, PoolError> {
        let config = Self::config(core::any::type_name::<T>(), count);
        let memory = heap_for(&config)?;
        Self::new(config, memory, init)
    }
}

/// Memory from the global allocator, zeroed, as much as the configuration needs.
fn heap_for(config: &PoolConfig) -> Result<Vec<Box<dyn Memory>>, PoolError> {
    // Let the pool say what is wrong with the figures, and not the allocator.
    Ok(match config.check() {
        Ok(()) => vec![Box::new(HeapMemory::new(config.memory_len(), config.alignment())?)],
        Err(_) => Vec::new(),
    })
}

impl<T: Poolable + ?Sized> Pool<T> {
    /// Gets a value; none if none is free.
    #[inline]
    #[must_use]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn get(&self) -> Option<Pooled<T>> {
        self.raw.get().map(|object| self.pooled(object))
    }

    /// Adds `n` values to `out`: all of them or, if fewer are free, none.
    ///
    /// # Errors
    /// [`Exhausted`] when fewer were free all through the call, or `out` has no room for `n`; nothing was
    /// taken.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn get_bulk<B: Batch<Pooled<T>>>(&self, out: &mut B, n: usize) -> Result<(), Exhausted> {
        if out.room_for(n) < n {
            return Err(Exhausted);
        }
        const {
            assert!(size_of::<Pooled<T>>() >= 2 * size_of::<NonNull<u8>>());
            assert!(align_of::<Pooled<T>>() == align_of::<NonNull<u8>>());
        }
        let spare = out.spare();
        let objects = spare.cast::<MaybeUninit<NonNull<u8>>>();
        // SAFETY: there is room for `n` values, each at least as large as two objects' addresses and aligned
        // like them.
        self.raw.get_bulk(unsafe { core::slice::from_raw_parts_mut(objects, n) })?;
        for place in (0..n).rev() {
            // SAFETY: `get_bulk` has written `n` addresses. They are spread to where the values go, from the
            // last one on: value `place` begins where address 2 * `place` or a later one is, so those that
            // it covers are used already (or just read).
            unsafe { spare.add(place).write(self.pooled((*objects.add(place)).assume_init())) };
        }
        let count = out.count() + n;
        // SAFETY: `n` more were written.
        unsafe { out.set_count(count) };
        Ok(())
    }

    /// Puts all of `values` back, in bulk: the same as to drop each, and faster. Those of other pools go home too.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn put_bulk<B: Batch<Pooled<T>>>(&self, values: &mut B) {
        const BLOCK: usize = 64;
        let (count, front) = (values.count(), values.front());
        // SAFETY: none are left, so none need to be written. What was there is moved out below.
        unsafe { values.set_count(0) };
        let own = self.raw.handle();
        let mut done = 0;
        while done < count {
            let mut block = [MaybeUninit::<NonNull<u8>>::uninit(); BLOCK];
            let mut len = 0;
            let end = count.min(done + BLOCK);
            for at in done..end {
                // SAFETY: it was there, and is moved out once.
                let value = unsafe { front.add(at).read() };
                if value.pool == own {
                    block[len].write(ManuallyDrop::new(value).value.cast());
                    len += 1;
                }
            }
            // SAFETY: the first `len` are written; they are this pool's, in use, and nobody has them any more.
            unsafe { self.raw.put_bulk(core::slice::from_raw_parts(block.as_ptr().cast(), len)) };
            done = end;
        }
    }

    #[inline]
    fn pooled(&self, object: NonNull<u8>) -> Pooled<T> {
        Pooled { value: T::at(object, self.extent), pool: self.raw.handle() }
    }

    /// The address by which a device reaches the first byte of a buffer of this pool, by what the pool's
    /// memory says ([`Memory::device_address`]); the rest follows it. None if no device can, or the buffer
    /// is another pool's.
    #[must_use]
    pub fn device_address(&self, buffer: &OnDevice<T>) -> Option<u64> {
        self.raw.device_address(buffer.object())
    }

    /// As [`RawPool::shrink`].
    pub fn shrink(&self, keep: usize) -> Shrunk {
        self.raw.shrink(keep)
    }

    /// As [`RawPool::grow`].
    ///
    /// # Errors
    /// [`PoolError::Memory`] when a chunk's memory cannot be had; those before it are there.
    pub fn grow(&self, to: usize) -> Result<usize, PoolError> {
        self.raw.grow(to)
    }

    /// How many values are where; exact while no other thread is in a call.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.raw.counts()
    }

    /// As [`RawPool::audit`].
    ///
    /// # Errors
    /// [`AuditError`] with the first thing found wrong.
    pub fn audit(&self) -> Result<(), AuditError> {
        self.raw.audit()
    }

    /// As [`RawPool::outstanding`].
    ///
    /// # Errors
    /// [`AuditError`] when the pool is not in order.
    pub fn outstanding(&self) -> Result<Vec<Outstanding>, AuditError> {
        self.raw.outstanding()
    }

    /// As [`RawPool::leaks`].
    ///
    /// # Errors
    /// [`AuditError`] when the pool is not in order.
    pub fn leaks(&self) -> Result<LeakReport, AuditError> {
        self.raw.leaks()
    }

    /// The pool's name: that of the type, unless it was given one.
    #[must_use]
    pub fn name(&self) -> &str {
        self.raw.name()
    }
}

impl<T: Poolable + ?Sized> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), extent: self.extent, values: PhantomData }
    }
}

impl<T: Poolable + ?Sized> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("counts", &self.counts()).finish()
    }
}

// SAFETY: a handle gives out values, which are `Send`, by moving them; it has no reference to one.
unsafe impl<T: Poolable + ?Sized> Send for Pool<T> {}
// SAFETY: as above.
unsafe impl<T: Poolable + ?Sized> Sync for Pool<T> {}
