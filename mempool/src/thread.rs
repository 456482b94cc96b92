//! Small dense numbers for threads, so that a pool finds a thread's slot by an array index.
//!
//! A thread gets the lowest free number on its first call and gives it back when it ends; the next thread
//! that takes the number takes over the slots that go with it, in every pool, with the objects in them. The
//! registry's lock orders the two: what the first thread did to its slots happened before what the second
//! does.
//!
//! The number is in a thread-local without destructor, which is one load; a second one has the destructor
//! that gives the number back. Calls after that, from destructors of other thread-locals, find `NONE` and use
//! the pool's shared slot.

pub(crate) use imp::{assign, current};

/// Threads that can have slots of their own at one time; more share one slot in each pool.
#[cfg(not(loom))]
pub(crate) const MAX_THREADS: usize = 1024;
#[cfg(loom)]
pub(crate) const MAX_THREADS: usize = 2;

/// Numbers that `current` can return, with the two below. A table of this length needs no check.
pub(crate) const NUMBERS: usize = MAX_THREADS + 2;
/// No number has been assigned yet.
#[cfg(any(feature = "std", loom))]
const UNASSIGNED: usize = MAX_THREADS;
/// There is none to be had: too many threads, or the thread is about to end.
const NONE: usize = MAX_THREADS + 1;

#[cfg(all(feature = "std", not(loom)))]
mod imp {
    use std::cell::Cell;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::sync::{Mutex, PoisonError};

    use super::{MAX_THREADS, NONE, UNASSIGNED};

    struct Registry {
        returned: BinaryHeap<Reverse<usize>>,
        next: usize,
    }

    static REGISTRY: Mutex<Registry> = Mutex::new(Registry { returned: BinaryHeap::new(), next: 0 });

    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(UNASSIGNED) };
        static GIVE_BACK: GiveBack = const { GiveBack(Cell::new(NONE)) };
    }

    struct GiveBack(Cell<usize>);

    impl Drop for GiveBack {
        fn drop(&mut self) {
            NUMBER.set(NONE);
            let number = self.0.get();
            if number < MAX_THREADS {
                REGISTRY.lock().unwrap_or_else(PoisonError::into_inner).returned.push(Reverse(number));
            }
        }
    }

    /// This thread's number; or, if it has none, one of those between `MAX_THREADS` and `NUMBERS`.
    #[inline(always)]
    pub(crate) fn current() -> usize {
        NUMBER.get()
    }

    /// This thread's number, assigned now if it has none; none if there is none to be had.
    pub(crate) fn assign() -> Option<usize> {
        let number = NUMBER.get();
        if number != UNASSIGNED {
            return (number < MAX_THREADS).then_some(number);
        }
        let number = GIVE_BACK
            .try_with(|guard| {
                let number = take();
                guard.0.set(number);
                number
            })
            .unwrap_or(NONE);
        NUMBER.set(number);
        (number < MAX_THREADS).then_some(number)
    }

    fn take() -> usize {
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Reverse(number)) = registry.returned.pop() {
            return number;
        }
        if registry.next == MAX_THREADS {
            return NONE;
        }
        registry.next += 1;
        registry.next - 1
    }
}

#[cfg(all(not(feature = "std"), not(loom)))]
mod imp {
    #[inline(always)]
    pub(crate) fn current() -> usize {
        super::NONE
    }

    pub(crate) fn assign() -> Option<usize> {
        None
    }
}

/// In a model each thread says which number it has: a registry would outlive the model's executions.
#[cfg(loom)]
mod imp {
    use std::cell::Cell;

    use super::{MAX_THREADS, NONE, UNASSIGNED};

    loom::thread_local! {
        static NUMBER: Cell<usize> = Cell::new(UNASSIGNED);
    }

    pub(crate) fn current() -> usize {
        NUMBER.with(Cell::get)
    }

    pub(crate) fn assign() -> Option<usize> {
        let number = current();
        (number < MAX_THREADS).then_some(number)
    }

    /// From now on this thread has number `number`, or none.
    pub(crate) fn assume(number: Option<usize>) {
        NUMBER.with(|cell| cell.set(number.unwrap_or(NONE)));
    }
}

#[cfg(loom)]
pub(crate) use imp::assume;
