//! Notes of gets and puts, in debug builds: what is done wrong with an object is found when it is got or put,
//! and told by a panic.
//!
//! Before a panic all is set right, as far as it can be: a call that panics has got or put nothing, and what
//! it found is told once.

use super::audit::Outstanding;
use super::core::Core;
use crate::debug::LeakReport;

impl Core {
    /// Sums up what is in use.
    pub(super) fn leaks(&self, listed: &[Outstanding]) -> LeakReport {
        let places = listed.iter().filter_map(|one| one.got_at);
        LeakReport::new(self.config.name(), self.config.count(), listed.len(), places)
    }

    /// Tells whoever asked for it that the last handle is gone and `in_use` objects are not home.
    pub(super) fn tell_leaks(&self, in_use: usize) {
        if let Some(tell) = self.config.leak_hook()
            && in_use > 0
        {
            tell(&LeakReport::new(self.config.name(), self.config.count(), in_use, self.ledger.in_use()));
        }
    }
}

#[cfg(all(debug_assertions, not(loom)))]
mod imp {
    use alloc::format;
    use alloc::string::{String, ToString};
    use core::panic::Location;
    use core::ptr::NonNull;

    use super::Core;
    use crate::AuditError;
    use crate::error::Place;

    impl Core {
        /// Notes that objects were got.
        ///
        /// # Panics
        /// If one was written to since it was put, or around it. None is got then.
        ///
        /// # Safety
        /// `objects` are `n` objects that the caller has just got, and the pool lives during the call.
        #[inline(never)]
        #[track_caller]
        pub(in crate::pool) unsafe fn note_got(&self, objects: *const NonNull<u8>, n: usize) {
            let at = Location::caller();
            // SAFETY: as the caller says.
            let objects = unsafe { core::slice::from_raw_parts(objects, n) };
            // SAFETY: as above.
            if let Some(error) = unsafe { self.spoiled(objects) } {
                // SAFETY: as above; they are given up here.
                unsafe { Self::put(NonNull::from(self), objects.as_ptr(), n) };
                panic!("{error}");
            }
            for object in objects {
                let fresh = self.placement.number(*object).is_some_and(|index| self.ledger.got(index, at));
                debug_assert!(
                    fresh,
                    "pool \"{}\" handed out {object:p}, which was not free",
                    self.config.name()
                );
            }
        }

        /// What is wrong with the first of these objects that is not as it was put; all are mended.
        ///
        /// # Safety
        /// The caller has them, and they are noted as free.
        unsafe fn spoiled(&self, objects: &[NonNull<u8>]) -> Option<AuditError> {
            let mut first = None;
            for object in objects {
                let Some(index) = self.placement.number(*object) else { continue };
                // SAFETY: as the caller says.
                if let Err(error) = unsafe { self.check(index, *object, true) } {
                    // SAFETY: as above.
                    unsafe { self.ledger.mend(index, *object) };
                    first.get_or_insert(error);
                }
            }
            first
        }

        /// Looks at what is around an object, and, if it is free, in it.
        ///
        /// # Safety
        /// It is object `index` of the pool. If it is free, the caller keeps all others from it.
        pub(in crate::pool) unsafe fn check(
            &self,
            index: usize,
            object: NonNull<u8>,
            free: bool,
        ) -> Result<(), AuditError> {
            let pool = self.config.name();
            self.ledger.check_bounds(pool, index, object)?;
            if free {
                // SAFETY: as the caller says.
                unsafe { self.ledger.check_unused(pool, index, object)? };
            }
            Ok(())
        }

        /// Notes that objects are put.
        ///
        /// # Panics
        /// If one is not an object of this pool or is not in use, or if bytes around it were written. None
        /// is put then.
        #[inline(never)]
        #[track_caller]
        pub(in crate::pool) fn note_put(&self, objects: &[NonNull<u8>]) {
            let at = Location::caller();
            for (done, object) in objects.iter().enumerate() {
                if let Err(misuse) = self.note_put_of(*object) {
                    let kept = objects[..done].iter().filter_map(|object| self.placement.number(*object));
                    kept.for_each(|index| self.ledger.keep(index));
                    panic!("{misuse}");
                }
            }
            for object in objects {
                if let Some(index) = self.placement.number(*object) {
                    // SAFETY: it was in use, and the caller puts it: nobody else has it.
                    unsafe { self.ledger.seal(index, *object, at) };
                }
            }
        }

        fn note_put_of(&self, object: NonNull<u8>) -> Result<(), String> {
            let pool = self.config.name();
            let Some(index) = self.placement.number(object) else {
                return Err(format!("foreign put: no object of pool \"{pool}\" begins at {object:p}"));
            };
            // Looked at first, as long as it is in use.
            let bounds = self.ledger.check_bounds(pool, index, object);
            if !self.ledger.put(index) {
                return Err(match self.ledger.got_at(index) {
                    Some(got) => format!(
                        "double put: object {index} of pool \"{pool}\" at {object:p} is free; it was put at {put}, \
                         and got before at {got}",
                        put = Place(self.ledger.put_at(index))
                    ),
                    None => format!("object {index} of pool \"{pool}\" at {object:p} was put and never got"),
                });
            }
            bounds.map_err(|error| {
                self.ledger.keep(index);
                // SAFETY: the caller puts it, and has it as long as it is not put.
                unsafe { self.ledger.mend(index, object) };
                error.to_string()
            })
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
mod imp {
    use core::ptr::NonNull;

    use super::Core;
    use crate::AuditError;

    impl Core {
        /// Nothing.
        ///
        /// # Safety
        /// Always safe; as it is where it does something.
        #[inline(always)]
        pub(in crate::pool) unsafe fn note_got(&self, _objects: *const NonNull<u8>, _n: usize) {}

        /// Nothing.
        #[inline(always)]
        pub(in crate::pool) fn note_put(&self, _objects: &[NonNull<u8>]) {}

        /// Nothing.
        ///
        /// # Safety
        /// As above.
        pub(in crate::pool) unsafe fn check(
            &self,
            _index: usize,
            _object: NonNull<u8>,
            _free: bool,
        ) -> Result<(), AuditError> {
            Ok(())
        }
    }
}
