//! Atomics and the lock: those of the machine, or loom's when a model is checked.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub(crate) use alloc::sync::Arc;
#[cfg(loom)]
pub(crate) use loom::sync::Arc;

/// Stores, and lets nothing that comes later in this thread happen before that is seen. Only this thread writes
/// to `to`.
#[inline]
pub(crate) fn store_and_fence(to: &AtomicU32, value: u32) {
    // An exchange is a full barrier on this architecture, and takes half the time of the instruction that is
    // nothing else (Intel SDM volume 3A, section 9.2.5; AMD APM volume 2, section 7.1).
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    {
        to.swap(value, Ordering::SeqCst);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    {
        to.store(value, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// Lets another thread go on, in a loop that waits for it: `round` counts the loop's turns from 0.
#[inline]
pub(crate) fn relax(round: u32) {
    #[cfg(loom)]
    {
        let _ = round;
        loom::thread::yield_now();
    }
    #[cfg(not(loom))]
    {
        #[cfg(feature = "std")]
        if round >= 64 {
            std::thread::yield_now();
            return;
        }
        let _ = round;
        core::hint::spin_loop();
    }
}

/// Tells loom of an access to memory that it does not see, so that it finds races on it. Nothing otherwise.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
}

impl Tracker {
    #[inline(always)]
    pub(crate) fn reads(&self) {
        #[cfg(loom)]
        self.cell.with(|_| ());
    }

    #[inline(always)]
    pub(crate) fn writes(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }
}

pub(crate) use lock::{Guard, Lock};

#[cfg(loom)]
mod lock {
    pub(crate) type Guard<'a> = loom::sync::MutexGuard<'a, ()>;

    #[derive(Debug)]
    pub(crate) struct Lock(loom::sync::Mutex<()>);

    impl Lock {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Mutex::new(()))
        }

        pub(crate) fn lock(&self) -> Guard<'_> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

#[cfg(all(feature = "std", not(loom)))]
mod lock {
    pub(crate) type Guard<'a> = std::sync::MutexGuard<'a, ()>;

    /// A lock that guards no value of its own: it says who may use the slots of others.
    #[derive(Debug)]
    pub(crate) struct Lock(std::sync::Mutex<()>);

    impl Lock {
        pub(crate) const fn new() -> Self {
            Self(std::sync::Mutex::new(()))
        }

        /// Poison means nothing here: no code of the user runs under the lock, and what it guards is in order
        /// between any two steps.
        pub(crate) fn lock(&self) -> Guard<'_> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

#[cfg(all(not(feature = "std"), not(loom)))]
mod lock {
    use super::{AtomicBool, Ordering, relax};

    /// A spin lock, for where there is no operating system to wait in.
    #[derive(Debug)]
    pub(crate) struct Lock(AtomicBool);

    #[derive(Debug)]
    pub(crate) struct Guard<'a>(&'a AtomicBool);

    impl Lock {
        pub(crate) const fn new() -> Self {
            Self(AtomicBool::new(false))
        }

        pub(crate) fn lock(&self) -> Guard<'_> {
            let mut round = 0;
            while self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
                relax(round);
                round = round.saturating_add(1);
            }
            Guard(&self.0)
        }
    }

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.store(false, Ordering::Release);
        }
    }
}
