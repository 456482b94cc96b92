//! What is known of each object: whether it is in use, where it was got and put, and whether what is around
//! it and in it is as it should be.

pub(crate) use imp::Ledger;

#[cfg(all(debug_assertions, not(loom)))]
mod imp {
    use alloc::boxed::Box;
    use core::panic::Location;
    use core::ptr::{self, NonNull};
    use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

    use crate::debug::Zones;
    use crate::debug::guard::Damage;
    use crate::debug::poison::Poison;
    use crate::placement::Placement;
    use crate::{AuditError, Memory, PoolConfig, PoolError};

    /// A place in the sources, or none yet.
    #[derive(Debug, Default)]
    struct Place(AtomicPtr<Location<'static>>);

    impl Place {
        fn set(&self, at: &'static Location<'static>) {
            self.0.store(ptr::from_ref(at).cast_mut(), Ordering::Relaxed);
        }

        fn get(&self) -> Option<&'static Location<'static>> {
            // SAFETY: only null and `&'static` references are ever stored.
            unsafe { self.0.load(Ordering::Relaxed).as_ref() }
        }
    }

    /// One object.
    #[derive(Debug, Default)]
    struct Entry {
        in_use: AtomicBool,
        /// Whether it has a guard in front.
        fronted: bool,
        /// Where it was got last.
        got_at: Place,
        /// Where it was put last.
        put_at: Place,
    }

    /// An entry for each object.
    ///
    /// All but `in_use` is the business of whoever has the object, and handed on with it.
    #[derive(Debug)]
    pub(crate) struct Ledger {
        entries: Box<[Entry]>,
        /// None without guards.
        zones: Option<Zones>,
        /// None if nobody asked for it.
        poison: Option<Poison>,
    }

    impl Ledger {
        /// Places the objects: with guards if they are wanted and there is room for all, else without.
        pub(crate) fn place(
            config: &PoolConfig,
            memory: &[Box<dyn Memory>],
        ) -> Result<(Placement, Self), PoolError> {
            let (count, size, align) = (config.count(), config.object_size(), config.alignment());
            let guarded = config.zones().and_then(|zones| {
                let placement = Placement::new(memory, count, zones.extent(), zones.stride(), align);
                (placement.count() == count).then_some((placement, Some(zones)))
            });
            let (placement, zones) = guarded.unwrap_or_else(|| {
                let stride = config.stride().unwrap_or(usize::MAX);
                (Placement::new(memory, count, size, stride, align), None)
            });
            let mut entries: Box<[Entry]> = (0..placement.count()).map(|_| Entry::default()).collect();
            let mut before = None;
            for (index, object, piece, offset) in placement.iter() {
                let Some(zones) = zones else { break };
                entries[index].fronted = before == Some((piece, offset.wrapping_sub(zones.stride())));
                before = Some((piece, offset));
                // SAFETY: the guard behind is within the memory, as room was asked for it. So is the one in
                // front, if another object of the same piece is one stride ahead. Nobody uses the memory yet.
                unsafe { zones.write(object, entries[index].fronted) };
            }
            let poison = match config.poisoning() {
                None => None,
                Some(_) if placement.count() < count => None,
                Some(true) => Some(Poison::filling(size)),
                Some(false) => Some(Poison::copying(count, size)?),
            };
            Ok((placement, Self { entries, zones, poison }))
        }

        /// Whether there are guards.
        pub(crate) fn is_guarded(&self) -> bool {
            self.zones.is_some()
        }

        /// Notes that an object was got. False if it is in use already.
        pub(crate) fn got(&self, index: usize, at: &'static Location<'static>) -> bool {
            let entry = &self.entries[index];
            entry.got_at.set(at);
            !entry.in_use.swap(true, Ordering::Relaxed)
        }

        /// Notes that an object is to be put. False if it was not in use.
        pub(crate) fn put(&self, index: usize) -> bool {
            self.entries[index].in_use.swap(false, Ordering::Relaxed)
        }

        /// Notes that an object that was to be put is in use still.
        pub(crate) fn keep(&self, index: usize) {
            self.entries[index].in_use.store(true, Ordering::Relaxed);
        }

        /// Notes where an object is put, and what is in it.
        ///
        /// # Safety
        /// It is object `index` of the pool, and the caller's alone.
        pub(crate) unsafe fn seal(&self, index: usize, object: NonNull<u8>, at: &'static Location<'static>) {
            self.entries[index].put_at.set(at);
            if let Some(poison) = &self.poison {
                // SAFETY: as the caller says.
                unsafe { poison.note(index, object) };
            }
        }

        /// Notes anew what is around a free object and in it, so that what was found wrong is told once.
        ///
        /// # Safety
        /// As for `seal`.
        pub(crate) unsafe fn mend(&self, index: usize, object: NonNull<u8>) {
            // SAFETY: the guards belong to the object, which is the caller's.
            unsafe {
                if let Some(zones) = self.zones {
                    zones.write(object, self.entries[index].fronted);
                }
                if let Some(poison) = &self.poison
                    && !self.entries[index].in_use.load(Ordering::Relaxed)
                {
                    poison.note(index, object);
                }
            }
        }

        /// Where it was got last.
        pub(crate) fn got_at(&self, index: usize) -> Option<&'static Location<'static>> {
            self.entries[index].got_at.get()
        }

        /// Where it was put last.
        pub(crate) fn put_at(&self, index: usize) -> Option<&'static Location<'static>> {
            self.entries[index].put_at.get()
        }

        /// Where each object that is in use was got.
        pub(crate) fn in_use(&self) -> impl Iterator<Item = &'static Location<'static>> {
            let in_use = |entry: &&Entry| entry.in_use.load(Ordering::Relaxed);
            self.entries.iter().filter(in_use).filter_map(|entry| entry.got_at.get())
        }

        /// Looks at the guards of object `index`, which begins at `object`.
        pub(crate) fn check_bounds(
            &self,
            pool: &str,
            index: usize,
            object: NonNull<u8>,
        ) -> Result<(), AuditError> {
            let Some(zones) = self.zones else { return Ok(()) };
            // SAFETY: each object has a guard behind, and one in front if it is noted so; then there is an
            // object one stride ahead.
            unsafe {
                if let Some(damage) = zones.look_behind(object) {
                    return Err(self.out_of_bounds(pool, index, object, damage));
                }
                if !self.entries[index].fronted {
                    return Ok(());
                }
                let Some(damage) = zones.look_in_front(object) else { return Ok(()) };
                // Who wrote over the whole gap came from the other side.
                let neighbour = object.sub(zones.stride());
                Err(match zones.look_behind(neighbour) {
                    Some(damage) => self.out_of_bounds(pool, index - 1, neighbour, damage),
                    None => self.out_of_bounds(pool, index, object, damage),
                })
            }
        }

        fn out_of_bounds(&self, pool: &str, index: usize, object: NonNull<u8>, damage: Damage) -> AuditError {
            AuditError::OutOfBounds {
                pool: pool.into(),
                index,
                address: object.as_ptr() as usize,
                offset: damage.offset,
                found: damage.found,
                in_use: self.entries[index].in_use.load(Ordering::Relaxed),
                got_at: self.got_at(index),
            }
        }

        /// Looks whether a free object is as it was put.
        ///
        /// # Safety
        /// It is object `index` of the pool, free, and the caller keeps all others from it.
        pub(crate) unsafe fn check_unused(
            &self,
            pool: &str,
            index: usize,
            object: NonNull<u8>,
        ) -> Result<(), AuditError> {
            let entry = &self.entries[index];
            let (Some(poison), Some(put_at)) = (&self.poison, entry.put_at.get()) else { return Ok(()) };
            // Such an object is free twice, which is told in another place.
            if entry.in_use.load(Ordering::Relaxed) {
                return Ok(());
            }
            // SAFETY: as the caller says; whoever put it has noted what is in it.
            let Some(change) = (unsafe { poison.change(index, object) }) else { return Ok(()) };
            Err(AuditError::UseAfterPut {
                pool: pool.into(),
                index,
                address: object.as_ptr() as usize,
                offset: change.offset,
                found: change.found,
                was: change.was,
                put_at: Some(put_at),
                got_at: self.got_at(index),
            })
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
mod imp {
    use alloc::boxed::Box;
    use core::panic::Location;

    use crate::placement::Placement;
    use crate::{Memory, PoolConfig, PoolError};

    /// Nothing.
    #[derive(Debug)]
    pub(crate) struct Ledger;

    impl Ledger {
        /// Places the objects.
        pub(crate) fn place(
            config: &PoolConfig,
            memory: &[Box<dyn Memory>],
        ) -> Result<(Placement, Self), PoolError> {
            let (count, size, align) = (config.count(), config.object_size(), config.alignment());
            let stride = config.stride().unwrap_or(usize::MAX);
            Ok((Placement::new(memory, count, size, stride, align), Self))
        }

        pub(crate) fn is_guarded(&self) -> bool {
            false
        }

        pub(crate) fn got_at(&self, _index: usize) -> Option<&'static Location<'static>> {
            None
        }

        pub(crate) fn in_use(&self) -> impl Iterator<Item = &'static Location<'static>> {
            core::iter::empty()
        }
    }
}
