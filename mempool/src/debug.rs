//! What debug builds know of each object: whether it is in use, and where it was got. Release builds know
//! nothing of it, and pay nothing.

pub(crate) use imp::Ledger;

#[cfg(all(debug_assertions, not(loom)))]
mod imp {
    use alloc::boxed::Box;
    use core::panic::Location;
    use core::ptr;
    use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

    /// One object: in use or not, and where it was got last.
    #[derive(Debug, Default)]
    struct Entry {
        in_use: AtomicBool,
        got_at: AtomicPtr<Location<'static>>,
    }

    impl Entry {
        fn got_at(&self) -> Option<&'static Location<'static>> {
            // SAFETY: only null and `&'static` references are ever stored.
            unsafe { self.got_at.load(Ordering::Relaxed).as_ref() }
        }
    }

    /// An entry for each object.
    #[derive(Debug)]
    pub(crate) struct Ledger(Box<[Entry]>);

    impl Ledger {
        pub(crate) fn new(count: usize) -> Self {
            Self((0..count).map(|_| Entry::default()).collect())
        }

        /// Notes that an object was got. False if it is in use already.
        pub(crate) fn got(&self, index: usize, at: &'static Location<'static>) -> bool {
            let entry = &self.0[index];
            entry.got_at.store(ptr::from_ref(at).cast_mut(), Ordering::Relaxed);
            !entry.in_use.swap(true, Ordering::Relaxed)
        }

        /// Notes that an object was put. False if it was not in use.
        pub(crate) fn put(&self, index: usize) -> bool {
            self.0[index].in_use.swap(false, Ordering::Relaxed)
        }

        /// Where it was got last.
        pub(crate) fn got_at(&self, index: usize) -> Option<&'static Location<'static>> {
            self.0[index].got_at()
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
mod imp {
    use core::panic::Location;

    /// Nothing.
    #[derive(Debug)]
    pub(crate) struct Ledger;

    impl Ledger {
        pub(crate) fn new(_count: usize) -> Self {
            Self
        }

        pub(crate) fn got_at(&self, _index: usize) -> Option<&'static Location<'static>> {
            None
        }
    }
}
