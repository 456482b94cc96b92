//! Handles: what a user has of a pool.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

use super::audit::Outstanding;
use super::config::PoolConfig;
use super::core::{Core, Counts, DropObject};
use crate::{AuditError, Exhausted, LeakReport, Memory, PoolError};

/// A pool of untyped objects of one size; a clone is another handle to the same pool.
///
/// The pool, with its memory, stays until the last handle is dropped *and* the last object is put back, so an
/// object may outlive all handles.
///
/// Any thread may call, and has a cache of its own from its first call on. A signal handler must not use a
/// pool that the thread it interrupts may be using.
pub struct RawPool(NonNull<Core>);

// SAFETY: all that handles do to the pool is ordered by atomics and the lock, from any thread. What
// `drop_object` drops is `Send` by the contract of `with_hooks`, and memory is `Send` and `Sync`.
unsafe impl Send for RawPool {}
// SAFETY: as above; all methods take `&self`.
unsafe impl Sync for RawPool {}

/// What an object is told when it is made.
#[derive(Debug, Clone, Copy)]
pub struct ObjectInfo {
    /// Number of the object, from 0.
    pub index: usize,
    /// The address by which a device reaches its first byte, if one can. The rest of the object follows it.
    pub device_address: Option<u64>,
    /// The pool that is being made. To be kept in the object; not to be used before the pool is made.
    pub handle: RawHandle,
}

impl RawPool {
    /// A pool whose objects are in `memory`, as they are there.
    ///
    /// # Errors
    /// [`PoolError::Config`] when a figure is out of range, [`PoolError::TooSmall`] when the memory does not
    /// hold the objects, [`PoolError::Tables`] when the heap has no room for the magazines.
    pub fn new(config: PoolConfig, memory: Vec<Box<dyn Memory>>) -> Result<Self, PoolError> {
        Self::with_init(config.forgetful(), memory, |_, _| {})
    }

    /// As `new`; `init` is called for every object once, before anyone gets it. Objects keep what is in them
    /// while they are free.
    ///
    /// # Errors
    /// As for `new`.
    pub fn with_init(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        init: impl FnMut(NonNull<u8>, ObjectInfo),
    ) -> Result<Self, PoolError> {
        Ok(Self::make(Core::new(config, memory)?, init, None))
    }

    /// As `with_init`; `drop_object` is called for every object before the memory is freed, by whichever
    /// thread ends the pool; or, if `init` panics, for those it was called with before.
    ///
    /// # Errors
    /// As for `new`.
    ///
    /// # Safety
    /// `drop_object` may be called with every object that `init` was called with, once, by any thread.
    pub(crate) unsafe fn with_hooks(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        init: impl FnMut(NonNull<u8>, ObjectInfo),
        drop_object: DropObject,
    ) -> Result<Self, PoolError> {
        Ok(Self::make(Core::new(config, memory)?, init, Some(drop_object)))
    }

    pub(super) fn make(
        core: Box<Core>,
        mut init: impl FnMut(NonNull<u8>, ObjectInfo),
        drop_object: Option<DropObject>,
    ) -> Self {
        /// Frees the pool if `init` panics, and drops what it made.
        struct Unmade {
            core: NonNull<Core>,
            made: usize,
            drop_object: Option<DropObject>,
        }
        impl Drop for Unmade {
            fn drop(&mut self) {
                // SAFETY: made by `Box::into_raw`; nobody has a handle that may be used yet.
                let core = unsafe { Box::from_raw(self.core.as_ptr()) };
                if let Some(drop_object) = self.drop_object {
                    for (_, object, ..) in core.placement.iter().take(self.made) {
                        // SAFETY: `init` has made these; the pool does not know of `drop_object` yet, and
                        // drops none.
                        unsafe { drop_object(object) };
                    }
                }
            }
        }
        // SAFETY: a box is never null. `Core::end` makes it a box again, or `Unmade` does.
        let core = unsafe { NonNull::new_unchecked(Box::into_raw(core)) };
        let mut unmade = Unmade { core, made: 0, drop_object };
        {
            // SAFETY: it lives, and nothing else uses it yet.
            let this = unsafe { core.as_ref() };
            for (index, object, piece, offset) in this.placement.iter() {
                let device_address = this.memory[piece].device_address(offset);
                init(object, ObjectInfo { index, device_address, handle: RawHandle(core) });
                unmade.made += 1;
            }
            this.fill();
        }
        // SAFETY: as above. From now on the pool drops what is in the objects.
        unsafe { (*core.as_ptr()).drop_object = drop_object };
        Self(ManuallyDrop::new(unmade).core)
    }

    #[inline(always)]
    pub(super) fn address(&self) -> NonNull<Core> {
        self.0
    }

    #[inline(always)]
    pub(super) fn core(&self) -> &Core {
        // SAFETY: a pool with a handle lives, and is shared by atomics and the lock.
        unsafe { self.0.as_ref() }
    }

    /// Gets an object; none if no object is free.
    #[inline]
    #[must_use = "an object that is not put back is lost"]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn get(&self) -> Option<NonNull<u8>> {
        let mut object = [MaybeUninit::uninit()];
        self.get_bulk(&mut object).ok()?;
        let [object] = object;
        // SAFETY: `get_bulk` has written it.
        Some(unsafe { object.assume_init() })
    }

    /// Fills `out` with objects: all of it, or, if fewer are free, none. A burst of constant length is
    /// fastest.
    ///
    /// The objects are the caller's until they are put back.
    ///
    /// # Errors
    /// [`Exhausted`] when fewer were free all through the call; nothing was taken.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn get_bulk(&self, out: &mut [MaybeUninit<NonNull<u8>>]) -> Result<(), Exhausted> {
        // SAFETY: the handle keeps the pool.
        unsafe { self.handle().get_bulk(out) }
    }

    /// Puts an object back.
    ///
    /// # Safety
    /// The object is one of this pool's, in use, and nobody uses it any more.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn put(&self, object: NonNull<u8>) {
        // SAFETY: as the caller says.
        unsafe { self.put_bulk(&[object]) };
    }

    /// Puts objects back.
    ///
    /// # Safety
    /// The objects are different ones of this pool's, in use, and nobody uses them any more.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn put_bulk(&self, objects: &[NonNull<u8>]) {
        // SAFETY: as the caller says; the handle keeps the pool.
        unsafe {
            self.core().note_put(objects);
            Core::put(self.0, objects.as_ptr(), objects.len());
        }
    }

    /// The pool without counting it: for objects that have to know where they belong.
    #[inline]
    #[must_use]
    pub fn handle(&self) -> RawHandle {
        RawHandle(self.0)
    }

    /// How many objects are where; exact while no other thread is in a call.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core().counts()
    }

    /// Checks that every magazine is in one place, and that what is free are the pool's own objects, each
    /// once; in debug builds also the [guards](PoolConfig::guards) of all objects and, with
    /// [poison](PoolConfig::poison), what is in the free ones. Other threads' calls wait meanwhile.
    ///
    /// # Errors
    /// [`AuditError`] with the first thing found wrong.
    pub fn audit(&self) -> Result<(), AuditError> {
        self.core().audit()
    }

    /// The objects in use, and in debug builds where each was got. Other threads' calls wait meanwhile.
    ///
    /// # Errors
    /// [`AuditError`] when the pool is not in order.
    pub fn outstanding(&self) -> Result<Vec<Outstanding>, AuditError> {
        self.core().outstanding()
    }

    /// The objects in use, counted by the place where they were got: to be printed when there should be none.
    /// Other threads' calls wait meanwhile.
    ///
    /// # Errors
    /// [`AuditError`] when the pool is not in order.
    pub fn leaks(&self) -> Result<LeakReport, AuditError> {
        Ok(self.core().leaks(&self.outstanding()?))
    }

    /// Whether there are [guards](PoolConfig::guards) around the objects. Never in release builds.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.core().ledger.is_guarded()
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config().name()
    }

    /// Bytes of an object.
    #[must_use]
    pub fn object_size(&self) -> usize {
        self.config().object_size()
    }

    /// How it was made.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.core().config
    }

    /// The pieces of memory that its objects are in, for mapping them for a device or sharing them.
    pub fn memories(&self) -> impl Iterator<Item = &dyn Memory> {
        self.core().memory.iter().map(|piece| &**piece)
    }

    /// The number of an object of this pool; none if no object begins at this address.
    #[must_use]
    pub fn index_of(&self, object: NonNull<u8>) -> Option<usize> {
        self.core().placement.number(object)
    }
}

impl Clone for RawPool {
    fn clone(&self) -> Self {
        self.core().life.add_handle();
        Self(self.0)
    }
}

impl Drop for RawPool {
    fn drop(&mut self) {
        // SAFETY: this handle is given up here, once.
        unsafe { Core::drop_handle(self.0) };
    }
}

impl fmt::Debug for RawPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawPool").field("config", self.config()).field("counts", &self.counts()).finish()
    }
}

/// A pool without counting it: 8 bytes that an object can keep, to put itself back.
///
/// All that it does is `unsafe`, because it does not keep the pool: the caller must, by a [`RawPool`] or by
/// an object in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawHandle(NonNull<Core>);

// SAFETY: it is an address; what is done through it is as safe from any thread as through a `RawPool`.
unsafe impl Send for RawHandle {}
// SAFETY: as above.
unsafe impl Sync for RawHandle {}

impl RawHandle {
    pub(super) fn of(core: NonNull<Core>) -> Self {
        Self(core)
    }

    /// Fills `out` with objects: all of it, or, if fewer are free, none. When the last [`RawPool`] is gone,
    /// none is free any more.
    ///
    /// # Errors
    /// [`Exhausted`] when fewer were free all through the call; nothing was taken.
    ///
    /// # Safety
    /// During the call someone has a [`RawPool`] of this pool, or the caller has an object of it in use.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn get_bulk(self, out: &mut [MaybeUninit<NonNull<u8>>]) -> Result<(), Exhausted> {
        // SAFETY: the pool lives, as the caller says; a slice has room for as many as it is long.
        unsafe {
            let first = out.as_mut_ptr().cast::<NonNull<u8>>();
            Core::get(self.0, first, out.len())?;
            self.0.as_ref().note_got(first, out.len());
        }
        Ok(())
    }

    /// Puts an object back. It may end the pool.
    ///
    /// # Safety
    /// The object is one of this pool's, in use, and nobody uses it any more.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn put(self, object: NonNull<u8>) {
        // SAFETY: as the caller says; the object in use keeps the pool.
        unsafe {
            self.0.as_ref().note_put(&[object]);
            Core::put_last_one(self.0, object);
        }
    }

    /// Puts objects back. It may end the pool.
    ///
    /// # Safety
    /// The objects are different ones of this pool's, in use, and nobody uses them any more.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn put_bulk(self, objects: &[NonNull<u8>]) {
        // SAFETY: as the caller says; the objects in use keep the pool.
        unsafe {
            self.0.as_ref().note_put(objects);
            Core::put_last(self.0, objects.as_ptr(), objects.len());
        }
    }
}

impl fmt::Debug for RawHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawHandle").field(&self.0).finish()
    }
}
