//! Pools that give memory back and take it again, a piece of memory (a chunk) at a time.
//!
//! A chunk can go when all its objects are home. To find out which those are, and to take their objects out of
//! the magazines, all other threads are kept out of the pool, as for an audit: that takes a few nanoseconds for
//! each free object. The memory itself is given back after they were let in again.
//!
//! Addresses never change: a chunk that has gone keeps its place, so the tables of objects stay as they were
//! made. To grow is to make the chunk's memory usable, to make its objects anew, and to put them, as if they came
//! home.
//!
//! What `slot` says about puts that never fail holds with fewer objects too, if no more than one magazine in the
//! depot's full stack is not full; so when objects are taken out of magazines there, what is left is packed anew.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::core::{Core, DropObject};
use super::handle::{ObjectInfo, RawHandle, RawPool};
use super::lifetime::Pin;
use crate::magazine::Magazine;
use crate::slot::{CLOSED, Slot};
use crate::sync::{AtomicBool, Lock, Ordering};
use crate::{Memory, PoolConfig, PoolError};

/// Makes what is in an object, when its chunk comes.
pub(super) type Init = Box<dyn Fn(NonNull<u8>, ObjectInfo) + Send + Sync>;

/// What an elastic pool has more than others.
pub(super) struct Elastic {
    init: Init,
    /// Held from the beginning of a shrink or grow to its end.
    turn: Lock,
    /// By piece of memory. Written under `turn` and the pool's lock.
    absent: Box<[AtomicBool]>,
}

impl fmt::Debug for Elastic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elastic").field("absent", &self.absent).finish_non_exhaustive()
    }
}

/// What a [`shrink`](RawPool::shrink) gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shrunk {
    /// Chunks.
    pub chunks: usize,
    /// Objects in them.
    pub objects: usize,
    /// Bytes of memory.
    pub bytes: usize,
}

impl RawPool {
    /// A pool that can give memory back: each piece of `memory` is a chunk, and those that say
    /// [`Memory::is_releasable`] may go by [`shrink`](Self::shrink) and come back by [`grow`](Self::grow). It
    /// begins with all of them.
    ///
    /// `init` is called for every object when its chunk comes, and again each time that it comes back: what was
    /// in the object is gone with the memory. Make chunks as large as what the system takes back at once, a huge
    /// page if there are any; one object in use keeps its whole chunk. [`MmapMemory::chunks`] makes pieces of
    /// the right number and size.
    ///
    /// [`MmapMemory::chunks`]: crate::MmapMemory::chunks
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn elastic(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        init: impl Fn(NonNull<u8>, ObjectInfo) + Send + Sync + 'static,
    ) -> Result<Self, PoolError> {
        Self::make_elastic(config, memory, Box::new(init), None)
    }

    /// As `elastic`; `drop_object` is called for every object before its memory goes.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    ///
    /// # Safety
    /// `drop_object` may be called with every object that `init` was called with, once, by any thread.
    pub(crate) unsafe fn elastic_with_hooks(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        init: impl Fn(NonNull<u8>, ObjectInfo) + Send + Sync + 'static,
        drop_object: DropObject,
    ) -> Result<Self, PoolError> {
        Self::make_elastic(config, memory, Box::new(init), Some(drop_object))
    }

    fn make_elastic(
        config: PoolConfig,
        memory: Vec<Box<dyn Memory>>,
        init: Init,
        drop_object: Option<DropObject>,
    ) -> Result<Self, PoolError> {
        let mut core = Core::new(config, memory)?;
        let absent = core.memory.iter().map(|_| AtomicBool::new(false)).collect();
        let elastic = core.elastic.insert(Elastic { init, turn: Lock::new(), absent });
        let init = NonNull::from(&*elastic.init);
        // SAFETY: the closure is boxed, so it stays where it is, and lives as long as the pool, which lives
        // during this call.
        Ok(Self::make(core, |object, info| unsafe { init.as_ref()(object, info) }, drop_object))
    }

    /// Gives back the memory of chunks whose objects are all home, as many as leave at least `keep` objects.
    ///
    /// A chunk with one object in use stays, and all others can go. Threads that use the pool meanwhile go on;
    /// they are kept out of it for some nanoseconds for each free object, and not while the memory is given
    /// back. Gives back nothing if the pool is not [`elastic`](Self::elastic), or the kernel refuses
    /// membarrier(2).
    pub fn shrink(&self, keep: usize) -> Shrunk {
        self.core().shrink(keep)
    }

    /// Takes chunks that had gone until there are at least `to` objects, or all chunks are there. Returns how
    /// many objects came.
    ///
    /// # Errors
    /// [`PoolError::Memory`] when a chunk's memory cannot be had; those before it are there.
    pub fn grow(&self, to: usize) -> Result<usize, PoolError> {
        // SAFETY: the handle keeps the pool.
        unsafe { Core::grow(self.address(), to) }
    }
}

impl Core {
    /// Whether this piece of memory has gone.
    pub(super) fn is_absent(&self, piece: usize) -> bool {
        self.elastic.as_ref().is_some_and(|elastic| elastic.absent[piece].load(Ordering::Relaxed))
    }

    fn shrink(&self, keep: usize) -> Shrunk {
        let Some(elastic) = &self.elastic else { return Shrunk::default() };
        let _turn = elastic.turn.lock();
        let mut whole = vec![0; self.memory.len()];
        self.placement.iter().for_each(|(_, _, piece, _)| whole[piece] += 1);
        let mut loose = Vec::with_capacity(self.config.count());
        let mut emptied = Vec::with_capacity(self.magazine_count());

        let pin = Pin::new(self);
        let goes = if self.keep_out(CLOSED, &pin) {
            let goes = self.choose(&whole, keep);
            if goes.contains(&true) {
                // SAFETY: all others are kept out, and we hold the lock.
                unsafe { self.take_out(&goes, &mut loose, &mut emptied) };
            }
            goes
        } else {
            Vec::new()
        };
        let mut shrunk = Shrunk::default();
        for piece in (0..goes.len()).filter(|piece| goes[*piece]) {
            elastic.absent[piece].store(true, Ordering::Relaxed);
            shrunk.chunks += 1;
            shrunk.objects += whole[piece];
            shrunk.bytes += self.memory[piece].len();
        }
        self.present.fetch_sub(shrunk.objects, Ordering::Relaxed);
        self.thread_slots().for_each(|owned| owned.slot.open());
        drop(pin);

        for (_, object, piece, _) in self.placement.iter() {
            if goes.get(piece) == Some(&true)
                && let Some(drop_object) = self.drop_object
            {
                // SAFETY: `init` made what is in it; nobody can get it, as it is in no magazine.
                unsafe { drop_object(object) };
            }
        }
        for piece in (0..goes.len()).filter(|piece| goes[*piece]) {
            // SAFETY: its objects are in no magazine and nobody's, so nobody touches it until `grow` has
            // restored it.
            unsafe { self.memory[piece].release() };
        }
        shrunk
    }

    /// The chunks that can go, the last ones first. All others are kept out.
    fn choose(&self, whole: &[usize], keep: usize) -> Vec<bool> {
        let mut home = vec![0; whole.len()];
        let mut piece_of = self.placement.pieces();
        self.visit_free(|object| {
            if let Some(piece) = piece_of(object) {
                home[piece] += 1;
            }
        });
        let mut left = self.present.load(Ordering::Relaxed);
        let mut goes = vec![false; whole.len()];
        for piece in (0..whole.len()).rev() {
            let all_home = whole[piece] > 0 && home[piece] == whole[piece] && !self.is_absent(piece);
            if all_home && self.memory[piece].is_releasable() && left.saturating_sub(whole[piece]) >= keep {
                goes[piece] = true;
                left -= whole[piece];
            }
        }
        goes
    }

    /// Takes the objects of these chunks out of all magazines.
    ///
    /// `loose` and `emptied` have room for all objects and all magazines: nothing is allocated while the others
    /// wait.
    ///
    /// # Safety
    /// All others are kept out, and the caller holds the lock.
    unsafe fn take_out(
        &self,
        goes: &[bool],
        loose: &mut Vec<NonNull<u8>>,
        emptied: &mut Vec<NonNull<Magazine>>,
    ) {
        let mut piece_of = self.placement.pieces();
        let mut stays = |object: NonNull<u8>| piece_of(object).is_some_and(|piece| !goes[piece]);
        let slots = self.thread_slots().map(|owned| &owned.slot).map(NonNull::from);
        for slot in slots {
            // SAFETY: its gate is closed, the owner has left, and we hold the lock.
            unsafe { Slot::of_another(slot) }.retain(&mut stays);
        }
        // SAFETY: we hold the lock, under which alone the shared slot is used.
        unsafe { Slot::own(NonNull::from(&self.shared)) }.retain(&mut stays);

        let capacity = self.config.magazine();
        let (mut before, mut after) = (0, 0);
        while let Some((magazine, len)) = self.depot.full.pop(self) {
            before += len as usize;
            // SAFETY: it was popped, so it is ours; its first `len` places are written.
            let objects = unsafe { core::slice::from_raw_parts(Magazine::objects(magazine), len as usize) };
            let kept = loose.len();
            loose.extend(objects.iter().copied().filter(|object| stays(*object)));
            after += loose.len() - kept;
            emptied.push(magazine);
        }
        // What was popped last lay deepest: pushed first, it does so again.
        let mut rest = loose.rchunks(capacity);
        for magazine in emptied.drain(..).rev() {
            let objects = rest.next().unwrap_or_default();
            let stack = if objects.is_empty() { &self.depot.empty } else { &self.depot.full };
            // SAFETY: the magazine is ours, has room for `capacity`, and is pushed once.
            unsafe {
                Magazine::written(magazine);
                Magazine::objects(magazine).copy_from_nonoverlapping(objects.as_ptr(), objects.len());
                stack.push(self, magazine, objects.len() as u32);
            }
        }
        self.filled.fetch_sub(before - after, Ordering::Relaxed);
    }

    /// # Safety
    /// `core` lives, and the caller has a handle.
    unsafe fn grow(core: NonNull<Self>, to: usize) -> Result<usize, PoolError> {
        /// Sets right what a panic of `init` leaves: the chunk goes again, with what was made in it.
        struct Unmade<'a> {
            core: &'a Core,
            piece: usize,
            made: Vec<NonNull<u8>>,
        }
        impl Drop for Unmade<'_> {
            fn drop(&mut self) {
                if let Some(drop_object) = self.core.drop_object {
                    // SAFETY: `init` made what is in them, and nobody else has them.
                    self.made.iter().for_each(|object| unsafe { drop_object(*object) });
                }
                // SAFETY: nobody else knows the objects of a chunk that has gone.
                unsafe { self.core.memory[self.piece].release() };
            }
        }
        // SAFETY: as the caller says.
        let this = unsafe { core.as_ref() };
        let Some(elastic) = &this.elastic else { return Ok(0) };
        let _turn = elastic.turn.lock();
        let mut came = 0;
        for piece in 0..this.memory.len() {
            if this.present.load(Ordering::Relaxed) >= to {
                break;
            }
            if !elastic.absent[piece].load(Ordering::Relaxed) {
                continue;
            }
            let memory = &this.memory[piece];
            memory.restore()?;
            let mut unmade = Unmade { core: this, piece, made: Vec::new() };
            for (index, object, _, offset) in this.placement.iter().filter(|(_, _, of, _)| *of == piece) {
                let device_address = memory.device_address(offset);
                (elastic.init)(object, ObjectInfo { index, device_address, handle: RawHandle::of(core) });
                // SAFETY: it is object `index`, and nobody else knows it.
                unsafe { this.ledger.renew(index, object) };
                unmade.made.push(object);
            }
            let objects = core::mem::take(&mut ManuallyDrop::new(unmade).made);
            let _pin = Pin::new(this);
            // SAFETY: we hold the lock, and the pool is not closing, as the caller has a handle; the objects are
            // the pool's, and nobody has them.
            unsafe {
                let shared = Slot::own(NonNull::from(&this.shared));
                shared.put(&this.depot, this, objects.as_ptr(), objects.len());
            }
            elastic.absent[piece].store(false, Ordering::Relaxed);
            this.present.fetch_add(objects.len(), Ordering::Relaxed);
            came += objects.len();
        }
        Ok(came)
    }

    /// Visits every free object. All others are kept out, and the caller holds the lock.
    fn visit_free(&self, mut visit: impl FnMut(NonNull<u8>)) {
        let mut magazine = |magazine: NonNull<Magazine>, len: u32| {
            // SAFETY: the first `len` places of a magazine are written, and nobody changes them meanwhile.
            let objects = unsafe { core::slice::from_raw_parts(Magazine::objects(magazine), len as usize) };
            objects.iter().copied().for_each(&mut visit);
        };
        for slot in self.thread_slots().map(|owned| &owned.slot).chain([&self.shared]) {
            // SAFETY: as the caller says; it is only looked at.
            unsafe { Slot::of_another(NonNull::from(slot)) }.visit(&mut magazine);
        }
        // SAFETY: as the caller says.
        unsafe { self.depot.full.visit(self, &mut magazine) };
    }
}
