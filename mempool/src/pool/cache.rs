//! Cache handles: a cache that belongs to a value, and not to a thread.
//!
//! Where threads have caches of their own, a handle saves a call from looking up the thread's; where they have
//! none (no std), it is the way to have one.

use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::core::Core;
use super::handle::RawPool;
use crate::Exhausted;
use crate::slot::{Attempt, Slot};

/// A cache of a pool, for whoever has it: a thread, a queue, a task.
///
/// It does what the pool's own calls do, through a cache of the same size, a little faster: the pool's calls
/// look up the calling thread's cache each time. It is also the way to have a cache without `std`. What is in it
/// when it is dropped, or when it idles, is not lost to others: they reclaim it, as from a thread's cache.
///
/// ```
/// use std::mem::MaybeUninit;
/// use wirerate_mempool::{HeapMemory, PoolConfig, RawPool};
///
/// let config = PoolConfig::new("frames", 1024, 2048);
/// let memory = HeapMemory::new(config.memory_len(), config.alignment())?;
/// let pool = RawPool::new(config, vec![Box::new(memory)])?;
///
/// let mut cache = pool.cache().expect("256 handles at a time");
/// let mut burst = [MaybeUninit::uninit(); 32];
/// cache.get_bulk(&mut burst)?;
/// let burst = burst.map(|object| unsafe { object.assume_init() });
/// // SAFETY: got from this pool just now, and used by nobody.
/// unsafe { cache.put_bulk(&burst) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RawCache {
    slot: NonNull<Slot>,
    index: usize,
    pool: RawPool,
}

// SAFETY: the slot is this handle's alone, and is reached through `&mut self`; with the handle it goes from one
// thread to another.
unsafe impl Send for RawCache {}
// SAFETY: `&RawCache` gives the pool, which is `Sync`, and nothing of the slot.
unsafe impl Sync for RawCache {}

impl RawPool {
    /// A cache for whoever has the handle. None if the pool has 256 handles already or no caches at all
    /// ([`PoolConfig::cache`](crate::PoolConfig::cache) of 0), or the heap has no room for the magazines.
    #[must_use]
    pub fn cache(&self) -> Option<RawCache> {
        let (index, slot) = self.core().take_cache()?;
        Some(RawCache { slot, index, pool: self.clone() })
    }
}

impl RawCache {
    /// As [`RawPool::get_bulk`].
    ///
    /// # Errors
    /// [`Exhausted`] when fewer were free all through the call; nothing was taken.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn get_bulk(&mut self, out: &mut [MaybeUninit<NonNull<u8>>]) -> Result<(), Exhausted> {
        let first = out.as_mut_ptr().cast::<NonNull<u8>>();
        // SAFETY: the slot is this handle's, which keeps the pool; a slice has room for as many as it is long.
        unsafe {
            let attempt = Slot::get(self.slot, first, out.len());
            if attempt != Attempt::Done {
                Core::get_slowly(self.pool.address(), Some(self.slot), attempt.doubt(), first, out.len())?;
            }
            self.pool.core().note_got(first, out.len());
        }
        Ok(())
    }

    /// Gets an object; none if no object is free.
    #[inline]
    #[must_use = "an object that is not put back is lost"]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn get(&mut self) -> Option<NonNull<u8>> {
        let mut object = [MaybeUninit::uninit()];
        self.get_bulk(&mut object).ok()?;
        let [object] = object;
        // SAFETY: `get_bulk` has written it.
        Some(unsafe { object.assume_init() })
    }

    /// As [`RawPool::put_bulk`].
    ///
    /// # Safety
    /// The objects are different ones of this pool's, in use, and nobody uses them any more.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn put_bulk(&mut self, objects: &[NonNull<u8>]) {
        // SAFETY: as the caller says; the slot is this handle's, which keeps the pool.
        unsafe {
            self.pool.core().note_put(objects);
            let (first, n) = (objects.as_ptr(), objects.len());
            let attempt = Slot::put(self.slot, first, n);
            if attempt != Attempt::Done {
                Core::put_slowly(self.pool.address(), Some(self.slot), attempt.doubt(), first, n);
            }
        }
    }

    /// Puts an object back.
    ///
    /// # Safety
    /// The object is one of this pool's, in use, and nobody uses it any more.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn put(&mut self, object: NonNull<u8>) {
        // SAFETY: as the caller says.
        unsafe { self.put_bulk(&[object]) };
    }

    /// The pool that it is a cache of.
    #[must_use]
    pub fn pool(&self) -> &RawPool {
        &self.pool
    }
}

impl Drop for RawCache {
    fn drop(&mut self) {
        self.pool.core().give_cache(self.index);
    }
}

impl fmt::Debug for RawCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawCache").field("index", &self.index).field("pool", &self.pool).finish()
    }
}
