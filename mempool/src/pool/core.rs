//! What a pool is made of, and the way of a get and a put.
//!
//! The fast path of both is in `slot`: find the thread's slot, copy. Everything else is here, out of line:
//! first with the own slot and the depot, lock-free; then, if the slot's gate is closed, the thread has no
//! slot, or the depot is dry, under the pool's lock.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use super::config::PoolConfig;
use super::elastic::Elastic;
use super::lifetime::{Life, Pin};
use crate::barrier::Mode;
use crate::debug::Ledger;
use crate::depot::Depot;
use crate::magazine::{Block, Find, Magazine};
use crate::placement::Placement;
use crate::slot::{Attempt, Hold, MAGAZINES, OwnedSlot, Slot, Stored};
use crate::sync::{AtomicBool, AtomicPtr, AtomicUsize, Lock, Ordering};
use crate::thread::{self, MAX_THREADS, NUMBERS};
use crate::{Exhausted, Memory, PoolError};

/// Cache handles that a pool can have at a time.
#[cfg(not(loom))]
pub(super) const MAX_CACHES: usize = 256;
#[cfg(loom)]
pub(super) const MAX_CACHES: usize = 1;

/// The place of a cache handle.
#[derive(Debug)]
struct CacheEntry {
    slot: AtomicPtr<OwnedSlot>,
    taken: AtomicBool,
}

impl Default for CacheEntry {
    fn default() -> Self {
        Self { slot: AtomicPtr::new(core::ptr::null_mut()), taken: AtomicBool::new(false) }
    }
}

/// Ends the life of what is in an object, before the pool's memory is freed.
pub(crate) type DropObject = unsafe fn(NonNull<u8>);

/// A pool. Reached through handles and from objects in use; when it ends, `lifetime` says.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Core {
    /// By thread number; null where a thread has not called yet, and for the numbers that mean no slot. First,
    /// so that the fast path finds it without an offset.
    slots: [AtomicPtr<OwnedSlot>; NUMBERS],
    /// No slot of a thread has a number at or above this.
    used: AtomicUsize,
    /// Slots of cache handles.
    caches: [CacheEntry; MAX_CACHES],
    /// No slot of a cache handle has a number at or above this.
    used_caches: AtomicUsize,
    pub(super) depot: Depot,
    /// For threads without one of their own; under the lock only.
    pub(super) shared: Slot,
    pub(super) lock: Lock,
    pub(super) life: Life,
    pub(super) mode: Mode,
    /// Objects that the pool itself put into the depot.
    pub(super) filled: AtomicUsize,
    /// Magazines 0 to K - 1 begin in the depot, the rest in the shared slot.
    magazines: Block,
    pub(super) base_magazines: u32,
    pub(super) config: PoolConfig,
    pub(super) placement: Placement,
    pub(super) ledger: Ledger,
    pub(super) drop_object: Option<DropObject>,
    /// None if the memory stays as long as the pool.
    pub(super) elastic: Option<Elastic>,
    /// Objects whose memory is there.
    pub(super) present: AtomicUsize,
    pub(super) memory: Vec<Box<dyn Memory>>,
}

impl Find for Core {
    fn find(&self, number: u32) -> NonNull<Magazine> {
        match number.checked_sub(self.base_magazines) {
            None => self.magazines.get(number),
            Some(extra) => {
                let index = extra as usize / MAGAZINES;
                let slot = match index.checked_sub(MAX_THREADS) {
                    None => &self.slots[index],
                    Some(index) => &self.caches[index].slot,
                };
                let slot = slot.load(Ordering::Acquire);
                // SAFETY: magazine numbers from here on are given out when a slot is made, which is never
                // freed before the pool; the number came from a magazine, so its slot is there.
                unsafe { (*slot).magazines.get(extra % MAGAZINES as u32) }
            }
        }
    }
}

impl Core {
    /// A pool with no object in it yet: `fill` puts them in.
    pub(super) fn new(config: PoolConfig, memory: Vec<Box<dyn Memory>>) -> Result<Box<Self>, PoolError> {
        config.check()?;
        let stride = config.stride().unwrap_or(usize::MAX);
        let (placement, ledger) = Ledger::place(&config, &memory)?;
        if placement.count() < config.count() {
            return Err(PoolError::TooSmall {
                name: config.name().into(),
                count: config.count(),
                stride,
                needed: config.least_len().saturating_add(Placement::skew(&memory, config.alignment())),
                found: memory.iter().map(|piece| piece.len()).sum(),
                fit: placement.count(),
            });
        }
        let capacity = config.magazine();
        let full = u32::try_from(config.magazines()).map_err(|_| config.no_tables())?;
        let base_magazines = full + MAGAZINES as u32;
        let magazines = Block::new(base_magazines, capacity, 0).ok_or_else(|| config.no_tables())?;
        let mode = Mode::obtain();
        let ends = core::array::from_fn(|nth| magazines.get(full + nth as u32));
        Ok(Box::new(Self {
            slots: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            used: AtomicUsize::new(0),
            caches: core::array::from_fn(|_| CacheEntry::default()),
            used_caches: AtomicUsize::new(0),
            depot: Depot::new(),
            shared: Slot::new(mode, capacity as u32, ends),
            lock: Lock::new(),
            life: Life::new(),
            mode,
            filled: AtomicUsize::new(0),
            magazines,
            base_magazines,
            ledger,
            config,
            present: AtomicUsize::new(placement.count()),
            placement,
            drop_object: None,
            elastic: None,
            memory,
        }))
    }

    /// Puts every object into the depot, the first ones on top.
    pub(super) fn fill(&self) {
        let capacity = self.config.magazine();
        let objects: Vec<NonNull<u8>> = self.placement.iter().map(|(_, object, ..)| object).collect();
        for (number, objects) in (0..).zip(objects.chunks(capacity)).collect::<Vec<_>>().into_iter().rev() {
            let magazine = self.magazines.get(number);
            // SAFETY: the magazine has room for `capacity`, which a chunk does not exceed; nobody else has it
            // or knows the pool yet.
            unsafe {
                for (place, object) in objects.iter().rev().enumerate() {
                    Magazine::objects(magazine).add(place).write(*object);
                }
                Magazine::written(magazine);
                self.depot.full.push(self, magazine, objects.len() as u32);
            }
            self.filled.fetch_add(objects.len(), Ordering::Relaxed);
        }
    }

    /// This thread's slot in the pool, if it has one.
    ///
    /// # Safety
    /// `core` lives.
    #[inline(always)]
    unsafe fn own_slot(core: NonNull<Self>) -> Option<NonNull<Slot>> {
        // SAFETY: the pool lives, and the table is as long as there are numbers. Only this thread makes its
        // slot, so it sees it.
        let slot = unsafe {
            (&raw const (*core.as_ptr()).slots).cast::<AtomicPtr<OwnedSlot>>().add(thread::current())
        };
        // SAFETY: as above. The slot is the first field of what the pointer points to.
        NonNull::new(unsafe { (*slot).load(Ordering::Relaxed) }).map(NonNull::cast)
    }

    /// Gets `n` objects, or none.
    ///
    /// # Safety
    /// `core` lives and will do so during the call: the caller has a handle or an object in use. `out` has
    /// room for `n`.
    #[inline(always)]
    pub(super) unsafe fn get(core: NonNull<Self>, out: *mut NonNull<u8>, n: usize) -> Result<(), Exhausted> {
        // SAFETY: as the caller says.
        unsafe {
            let own = Self::own_slot(core);
            match own.map_or(Attempt::Not, |slot| Slot::get(slot, out, n)) {
                Attempt::Done => Ok(()),
                attempt => Self::get_slowly(core, own, attempt.doubt(), out, n),
            }
        }
    }

    /// Puts `n` objects.
    ///
    /// # Safety
    /// `core` lives, and will do so during the call by a handle of the caller's; `objects` are `n` different ones
    /// of its own, in use and the caller's, who gives them up.
    #[inline(always)]
    pub(super) unsafe fn put(core: NonNull<Self>, objects: *const NonNull<u8>, n: usize) {
        // SAFETY: as the caller says.
        unsafe {
            let own = Self::own_slot(core);
            match own.map_or(Attempt::Not, |slot| Slot::put(slot, objects, n)) {
                Attempt::Done => {}
                attempt => Self::put_slowly(core, own, attempt.doubt(), objects, n),
            }
        }
    }

    /// Puts `n` objects. The pool may end in this call.
    ///
    /// # Safety
    /// `core` lives; `objects` are `n` different ones of its own, in use and the caller's, who gives them up.
    #[inline(always)]
    pub(super) unsafe fn put_last(core: NonNull<Self>, objects: *const NonNull<u8>, n: usize) {
        // SAFETY: as the caller says; while `n` objects are in use the pool lives.
        unsafe {
            match Self::own_slot(core) {
                Some(slot) if Slot::put_last(slot, objects, n) => {}
                own => Self::put_slowly(core, own, None, objects, n),
            }
        }
    }

    /// As `put_last`, of one object, which stays in a register.
    ///
    /// # Safety
    /// As for `put_last`.
    #[inline(always)]
    pub(super) unsafe fn put_last_one(core: NonNull<Self>, object: NonNull<u8>) {
        // SAFETY: as the caller says.
        unsafe {
            match Self::own_slot(core) {
                Some(slot) if Slot::put_last(slot, &raw const object, 1) => {}
                own => Self::put_one_slowly(core, own, object),
            }
        }
    }

    /// # Safety
    /// As for `put_slowly`. By value, so that the fast path need not have the object in memory.
    #[cold]
    #[inline(never)]
    unsafe fn put_one_slowly(core: NonNull<Self>, own: Option<NonNull<Slot>>, object: NonNull<u8>) {
        // SAFETY: as the caller says.
        unsafe { Self::put_slowly(core, own, None, &raw const object, 1) };
    }

    /// Gets through the slot `own`, or, without one, through the thread's; or finds that the call has taken place.
    ///
    /// # Safety
    /// As for `get`; `own` is a slot of the pool that is the caller's, and `doubt` is of the last call on it.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn get_slowly(
        core: NonNull<Self>,
        own: Option<NonNull<Slot>>,
        doubt: Option<Stored>,
        out: *mut NonNull<u8>,
        n: usize,
    ) -> Result<(), Exhausted> {
        if n == 0 {
            return Ok(());
        }
        // SAFETY: it lives during the call.
        let this = unsafe { core.as_ref() };
        if n > this.config.count() {
            return Err(Exhausted);
        }
        // SAFETY: the slot is this thread's, and lives as the pool does; `out` has room.
        unsafe {
            if doubt.is_none()
                && let Some(slot) = own
                && let Some(own) = Slot::enter(slot)
                && own.get(&this.depot, this, out, n)
            {
                return Ok(());
            }
            let pin = Pin::new(this);
            if let (Some(slot), Some(stored)) = (own, doubt)
                && Slot::counts(slot, stored)
            {
                return Ok(());
            }
            if this.life.is_closing() {
                return Err(Exhausted);
            }
            let own = this.slot_under_lock(&pin, own);
            if own.get(&this.depot, this, out, n) { Ok(()) } else { this.reclaim(&pin, &own, out, n) }
        }
    }

    /// Puts through the slot `own`, or, without one, through the thread's; or finds that the call has taken place.
    ///
    /// # Safety
    /// As for `put_last`; `own` is a slot of the pool that is the caller's, and `doubt` is of the last call on it,
    /// whose caller has a handle.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn put_slowly(
        core: NonNull<Self>,
        own: Option<NonNull<Slot>>,
        doubt: Option<Stored>,
        objects: *const NonNull<u8>,
        n: usize,
    ) {
        if n == 0 {
            return;
        }
        // SAFETY: the pool lives until the objects are counted home, which is the last step.
        unsafe {
            let this = core.as_ref();
            if doubt.is_none()
                && let Some(slot) = own
                && let Some(own) = Slot::enter(slot)
            {
                own.put(&this.depot, this, objects, n);
                this.life.used();
                return;
            }
            let pin = Pin::new(this);
            if let (Some(slot), Some(stored)) = (own, doubt)
                && Slot::counts(slot, stored)
            {
                return;
            }
            if !this.life.is_closing() {
                this.slot_under_lock(&pin, own).put(&this.depot, this, objects, n);
                return;
            }
            drop(pin);
            Self::came_home(core, n);
        }
    }

    /// The slot `own`; without one, this thread's, made now if it may have one; else the shared one.
    fn slot_under_lock(&self, pin: &Pin<'_>, own: Option<NonNull<Slot>>) -> Hold {
        debug_assert!(pin.is_of(self), "the lock of another pool");
        let assign = || if self.config.cache_size() > 0 { thread::assign() } else { None };
        let slot = own.or_else(|| self.make_slot(assign()?)).unwrap_or(NonNull::from(&self.shared));
        // SAFETY: we hold the lock, and the slot is the caller's own or the shared one; it lives as the pool
        // does.
        unsafe { Slot::own(slot) }
    }

    fn make_slot(&self, number: usize) -> Option<NonNull<Slot>> {
        let slot = self.fill_entry(&self.slots[number], number)?;
        self.used.fetch_max(number + 1, Ordering::Release);
        Some(slot)
    }

    /// The slot in this entry, made now if there is none. Under the pool's lock.
    fn fill_entry(&self, entry: &AtomicPtr<OwnedSlot>, number: usize) -> Option<NonNull<Slot>> {
        let mut slot = entry.load(Ordering::Relaxed);
        if slot.is_null() {
            let first = self.base_magazines + (MAGAZINES * number) as u32;
            slot = Box::into_raw(OwnedSlot::new(self.mode, self.config.magazine() as u32, first)?);
            // Release: who reads the pointer sees the slot and its magazines.
            entry.store(slot, Ordering::Release);
        }
        NonNull::new(slot.cast())
    }

    /// A slot for a cache handle, and the number of its entry; none if all are taken, the heap has no room, or
    /// the pool has no caches.
    pub(super) fn take_cache(&self) -> Option<(usize, NonNull<Slot>)> {
        if self.config.cache_size() == 0 {
            return None;
        }
        let _pin = Pin::new(self);
        // Acquire: what the last owner did to the slot is seen.
        let index = self.caches.iter().position(|entry| !entry.taken.load(Ordering::Acquire))?;
        let slot = self.fill_entry(&self.caches[index].slot, MAX_THREADS + index)?;
        self.caches[index].taken.store(true, Ordering::Relaxed);
        self.used_caches.fetch_max(index + 1, Ordering::Release);
        Some((index, slot))
    }

    /// Gives the slot of a cache handle back, with what is in it: the next handle takes it over, and until
    /// then others reclaim what is there.
    pub(super) fn give_cache(&self, index: usize) {
        self.caches[index].taken.store(false, Ordering::Release);
    }

    /// Closes all gates and waits until the owners have left. False if the kernel refused the barrier: owners may
    /// be in their slots without our seeing it.
    #[must_use]
    pub(super) fn keep_out(&self, how: usize, pin: &Pin<'_>) -> bool {
        debug_assert!(pin.is_of(self), "the lock of another pool");
        self.thread_slots().for_each(|owned| owned.slot.close(how));
        let kept_out = self.mode.heavy();
        if kept_out {
            self.thread_slots().for_each(|owned| owned.slot.wait());
        }
        kept_out
    }

    /// The slots of all threads that ever called, and of all cache handles that ever were.
    pub(super) fn thread_slots(&self) -> impl Iterator<Item = &OwnedSlot> {
        let used = self.used.load(Ordering::Acquire);
        let used_caches = self.used_caches.load(Ordering::Acquire);
        let caches = self.caches[..used_caches].iter().map(|entry| &entry.slot);
        let slots = self.slots[..used].iter().chain(caches);
        // SAFETY: a slot lives as long as the pool, and is changed through atomics only.
        slots.filter_map(|slot| unsafe { slot.load(Ordering::Acquire).as_ref() })
    }

    /// Objects in the depot; exact when nobody moves some, and below 0 is 0.
    pub(super) fn in_depot(&self) -> usize {
        let slots = self.thread_slots().map(|owned| owned.slot.sent());
        let sum = slots.fold(self.filled.load(Ordering::Relaxed), usize::wrapping_add);
        let sum = sum.wrapping_add(self.shared.sent());
        if sum > isize::MAX as usize { 0 } else { sum }
    }

    /// Free in the depot or the shared slot, and cached by threads.
    pub(super) fn counts(&self) -> Counts {
        let size = self.present.load(Ordering::Relaxed);
        let free = (self.in_depot() + self.shared.len()).min(size);
        let cached: usize = self.thread_slots().map(|owned| owned.slot.len()).sum();
        let cached = cached.min(size - free);
        Counts { size, free, cached, in_use: size - free - cached }
    }

    /// Every magazine of the pool, by number, and where the numbers end.
    pub(super) fn magazine_numbers(&self) -> usize {
        self.base_magazines as usize + MAGAZINES * (MAX_THREADS + self.used_caches.load(Ordering::Acquire))
    }

    /// Magazines that exist.
    pub(super) fn magazine_count(&self) -> usize {
        self.base_magazines as usize + MAGAZINES * self.thread_slots().count()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(drop_object) = self.drop_object {
            let there = self.placement.iter().filter(|(_, _, piece, _)| !self.is_absent(*piece));
            for (_, object, ..) in there {
                // SAFETY: `drop_object` was given with an `init` that made a value in each object; a pool
                // ends only when all are home, and each is dropped once.
                unsafe { drop_object(object) };
            }
        }
        for slot in self.slots.iter().chain(self.caches.iter().map(|entry| &entry.slot)) {
            let slot = slot.load(Ordering::Relaxed);
            if !slot.is_null() {
                // SAFETY: made by `Box::into_raw` in `fill_entry`, and nobody has the pool any more.
                drop(unsafe { Box::from_raw(slot) });
            }
        }
    }
}

/// How many objects are where. `free + cached + in_use` is always `size`.
///
/// The figures are read one after the other, so they are exact when no other thread is in a call, and an
/// estimate otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Objects of the pool.
    pub size: usize,
    /// Free, and in nobody's cache.
    pub free: usize,
    /// Free, in threads' caches.
    pub cached: usize,
    /// Handed out and not yet put back.
    pub in_use: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, free, cached, in_use } = self;
        write!(f, "{free} free + {cached} cached + {in_use} in use = {size}")
    }
}
