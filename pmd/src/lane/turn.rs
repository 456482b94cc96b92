//! A lock that its owner takes once a burst: two parties, of which one never waits.
//!
//! The lock of `std` is let go of by a swap, to find out who waits for it, and looks whether its thread panics. Here nobody
//! waits but the control thread, which looks again after a while: so letting go is a plain store, and the owner pays
//! for one locked instruction a burst instead of two.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long the control thread sleeps between two looks, once a few were in vain: a burst takes some microseconds.
const PAUSE: Duration = Duration::from_micros(50);
/// Looks before that.
const LOOKS: u32 = 64;

/// A value that one thread at a time has.
pub(super) struct Turn<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a `Taken` only, of which there is one at a time.
unsafe impl<T: Send> Sync for Turn<T> {}

impl<T> Turn<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the value, unless somebody has it.
    #[inline(always)]
    pub(super) fn try_take(&self) -> Option<Taken<'_, T>> {
        let free = self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        // Made only when it is free: one that is dropped lets go of the value, whoever has it.
        free.then(|| Taken { turn: self, _value: PhantomData })
    }

    /// Takes the value, and waits for that.
    pub(super) fn take(&self) -> Taken<'_, T> {
        let mut looks = 0;
        loop {
            if let Some(taken) = self.try_take() {
                return taken;
            }
            looks += 1;
            if looks < LOOKS { thread::yield_now() } else { thread::sleep(PAUSE) }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Turn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_take() {
            Some(value) => f.debug_tuple("Turn").field(&*value).finish(),
            None => f.write_str("Turn(taken)"),
        }
    }
}

/// The value, until it is dropped.
pub(super) struct Taken<'a, T> {
    turn: &'a Turn<T>,
    /// It is as good as a reference to the value, to which threads may have it or share it, too.
    _value: PhantomData<&'a mut T>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: nobody else has a `Taken` of it.
        unsafe { &*self.turn.value.get() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.turn.value.get() }
    }
}

impl<T> Drop for Taken<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.turn.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// What is `Sync`, or is not, as the compiler sees it: of what is, both implementations could be meant.
    trait NotSync<A> {
        const IS_SO: bool = true;
    }
    impl<T: ?Sized> NotSync<()> for T {}
    impl<T: ?Sized + Sync> NotSync<u8> for T {}

    #[test]
    fn a_value_that_threads_may_not_share_is_not_shared_by_who_has_it() {
        fn is_sync<T: Sync>() {}
        is_sync::<Taken<'_, u8>>();
        // It does not compile if it is `Sync`.
        const { assert!(<Taken<'_, std::cell::Cell<u8>> as NotSync<_>>::IS_SO) };
    }

    #[test]
    fn one_at_a_time_has_it_and_a_panic_gives_it_back() {
        let turn = Turn::new(1_u64);
        let taken = turn.try_take().unwrap();
        // Who is refused does not let go of it for the one who has it.
        assert!((0..3).all(|_| turn.try_take().is_none()));
        drop(taken);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _taken = turn.take();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..50_000).for_each(|_| *turn.take() += 1));
            }
        });
        assert_eq!(*turn.take(), 100_001);
    }
}
