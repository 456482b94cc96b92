//! Pools of byte buffers, whose length is chosen at run time.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::marker::PhantomData;

use super::{Pool, heap_for};
use crate::{Memory, PoolConfig, PoolError, RawPool};

impl Pool<[u8]> {
    /// A pool of `count` buffers of `len` bytes each, in memory from the global allocator. They are zero at
    /// first, and keep what is in them from one use to the next.
    ///
    /// ```
    /// use wirerate_mempool::{Pool, Pooled};
    ///
    /// let pool = Pool::buffers("frames", 64, 1500)?;
    /// let mut frame: Pooled<[u8]> = pool.get().expect("64 are free");
    /// frame[..2].copy_from_slice(&[8, 0]);
    /// assert_eq!(frame.len(), 1500);
    /// # Ok::<(), wirerate_mempool::PoolError>(())
    /// ```
    ///
    /// # Errors
    /// [`PoolError::Config`] when a figure is out of range, [`PoolError::Memory`] when there is no such
    /// memory, [`PoolError::Tables`] when the heap has no room for the magazines.
    pub fn buffers(name: impl Into<String>, count: usize, len: usize) -> Result<Self, PoolError> {
        let config = PoolConfig::new(name, count, len);
        let memory = heap_for(&config)?;
        // Not `RawPool::new`, whose objects need not keep what is in them.
        Ok(Self::of(RawPool::with_init(config, memory, |_, _| {})?))
    }

    /// A pool of buffers in `memory`, which is overwritten by zeros where the buffers are; the
    /// configuration's object size is their length.
    ///
    /// # Errors
    /// [`PoolError::Config`] when a figure is out of range, [`PoolError::TooSmall`] when the memory does not
    /// hold the buffers, [`PoolError::Tables`] when the heap has no room for the magazines.
    pub fn buffers_in(config: PoolConfig, memory: Vec<Box<dyn Memory>>) -> Result<Self, PoolError> {
        let len = config.object_size();
        // What is there need not be initialised, as a `u8` must be, and may be somebody's secret.
        let raw = RawPool::with_init(config, memory, |object, _| {
            // SAFETY: the object has `len` bytes, and nobody else has it yet.
            unsafe { object.write_bytes(0, len) };
        })?;
        Ok(Self::of(raw))
    }

    /// The objects of `raw` are initialised.
    fn of(raw: RawPool) -> Self {
        let extent = raw.object_size();
        Self { raw, extent, values: PhantomData }
    }

    /// Bytes of each buffer.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        self.extent
    }
}
