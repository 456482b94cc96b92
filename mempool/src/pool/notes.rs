//! Notes of gets and puts, in debug builds: a double or foreign put is found when it happens.

use core::ptr::NonNull;

use super::core::Core;

#[cfg(all(debug_assertions, not(loom)))]
impl Core {
    /// Notes that objects were got.
    ///
    /// # Safety
    /// `objects` are `n` objects.
    #[inline(never)]
    #[track_caller]
    pub(super) unsafe fn note_got(&self, objects: *const NonNull<u8>, n: usize) {
        let at = core::panic::Location::caller();
        // SAFETY: as the caller says.
        for object in unsafe { core::slice::from_raw_parts(objects, n) } {
            let fresh = self.placement.number(*object).is_some_and(|index| self.ledger.got(index, at));
            debug_assert!(fresh, "pool \"{}\" handed out {object:p}, which was not free", self.config.name());
        }
    }

    /// Notes that objects are put.
    ///
    /// # Panics
    /// If one is not an object of this pool or is not in use.
    #[inline(never)]
    #[track_caller]
    pub(super) fn note_put(&self, objects: &[NonNull<u8>]) {
        let pool = self.config.name();
        for object in objects {
            let Some(index) = self.placement.number(*object) else {
                panic!("foreign put: no object of pool \"{pool}\" begins at {object:p}");
            };
            if !self.ledger.put(index) {
                match self.ledger.got_at(index) {
                    Some(at) => panic!(
                        "double put: object {index} of pool \"{pool}\" at {object:p} is free; it was got last at {at}"
                    ),
                    None => panic!("object {index} of pool \"{pool}\" at {object:p} was put and never got"),
                }
            }
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
impl Core {
    /// Nothing.
    ///
    /// # Safety
    /// Always safe; as it is where it does something.
    #[inline(always)]
    pub(super) unsafe fn note_got(&self, _objects: *const NonNull<u8>, _n: usize) {}

    /// Nothing.
    #[inline(always)]
    pub(super) fn note_put(&self, _objects: &[NonNull<u8>]) {}
}
