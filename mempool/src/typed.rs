//! Pools of values.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::{
    AuditError, Batch, Counts, Exhausted, HeapMemory, LeakReport, Memory, Outstanding, PoolConfig, PoolError,
    RawHandle, RawPool,
};

/// A pool of values of type `T`; a clone is another handle to the same pool.
///
/// The values are made once, with the pool, keep their state from one use to the next (so a buffer's capacity
/// is not lost), and are dropped with it.
pub struct Pool<T: Send> {
    raw: RawPool,
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
        let enough = [
            ("object_size", config.object_size(), size_of::<T>(), "at least the size of the pool's type"),
            ("align", config.alignment(), align_of::<T>(), "at least the alignment of the pool's type"),
        ];
        for (what, found, least, expected) in enough {
            if found < least {
                return Err(PoolError::Config { name: config.name().into(), what, found, expected });
            }
        }
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
        Ok(Self { raw, values: PhantomData })
    }

    /// A pool of `count` values in memory from the global allocator.
    ///
    /// # Errors
    /// As for `new`, and [`PoolError::Memory`] when there is no such memory.
    pub fn on_heap(count: usize, init: impl FnMut() -> T) -> Result<Self, PoolError> {
        let config = Self::config(core::any::type_name::<T>(), count);
        // Let the pool say what is wrong with the figures, and not the allocator.
        let memory: Vec<Box<dyn Memory>> = match config.check() {
            Ok(()) => vec![Box::new(HeapMemory::new(config.memory_len(), config.alignment())?)],
            Err(_) => Vec::new(),
        };
        Self::new(config, memory, init)
    }

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
        const { assert!(size_of::<Pooled<T>>() == 2 * size_of::<NonNull<u8>>()) };
        let spare = out.spare();
        let objects = spare.cast::<MaybeUninit<NonNull<u8>>>();
        // SAFETY: there is room for `n` values, each as large as two objects' addresses and aligned like
        // them.
        self.raw.get_bulk(unsafe { core::slice::from_raw_parts_mut(objects, n) })?;
        for place in (0..n).rev() {
            // SAFETY: `get_bulk` has written `n` addresses. They are spread to where the values go, from the
            // last one on, so that value `place` covers the addresses 2 * `place` and the one behind, both
            // used already (or just read).
            unsafe { spare.add(place).write(self.pooled((*objects.add(place)).assume_init())) };
        }
        let count = out.count() + n;
        // SAFETY: `n` more were written.
        unsafe { out.set_count(count) };
        Ok(())
    }

    #[inline]
    fn pooled(&self, object: NonNull<u8>) -> Pooled<T> {
        Pooled { value: object.cast(), pool: self.raw.handle() }
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

impl<T: Send> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), values: PhantomData }
    }
}

impl<T: Send> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("counts", &self.counts()).finish()
    }
}

// SAFETY: a handle gives out values, which are `Send`, by moving them; it has no reference to one.
unsafe impl<T: Send> Send for Pool<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Pool<T> {}

/// A value of a pool, which goes back on drop, and may outlive the pool's handles.
#[must_use = "it goes back at once"]
pub struct Pooled<T: Send> {
    value: NonNull<T>,
    pool: RawHandle,
}

// SAFETY: it owns its value as a box does; to put it back is safe from any thread.
unsafe impl<T: Send> Send for Pooled<T> {}
// SAFETY: a shared reference gives a shared reference to the value and nothing else.
unsafe impl<T: Send + Sync> Sync for Pooled<T> {}

impl<T: Send> Deref for Pooled<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value was made with the pool, which lives while this object is in use, and is this
        // one's own.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Send> DerefMut for Pooled<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.value.as_mut() }
    }
}

impl<T: Send> Drop for Pooled<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the object was got from this pool, and nobody uses it after this.
        unsafe { self.pool.put(self.value.cast()) };
    }
}

impl<T: Send + fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
