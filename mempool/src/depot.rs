//! The depot: two stacks of magazines, full and empty, shared by all threads without a lock.
//!
//! Each is a Treiber stack whose head is one 64-bit word, the number of the top magazine and a tag that every
//! change counts up. A pop reads the top's `next` before it is sure that the top is still the top; the tag
//! makes its compare-and-swap fail if anything happened in between, also if the same magazine is on top
//! again. To be fooled, a thread would have to sleep between the two instructions for an exact multiple of
//! 2^32 changes.
//!
//! Magazines are never freed while the pool lives, so a `next` read too late is a wrong number and not a wild
//! read.

use core::ptr::NonNull;

use crate::magazine::{Find, Magazine};
use crate::sync::{AtomicU64, Ordering};

/// No magazine.
const NONE: u32 = u32::MAX;

fn pack(tag: u32, number: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(number)
}

fn unpack(head: u64) -> (u32, u32) {
    ((head >> 32) as u32, head as u32)
}

/// A stack of magazines. The two that make a depot must not share a cache line, nor the pair of lines that
/// some processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Stack {
    head: AtomicU64,
}

impl Stack {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU64::new(pack(0, NONE)) }
    }

    /// Puts a magazine with `len` objects on top.
    ///
    /// # Safety
    /// The magazine is one of `table`'s, the caller's own, and no more the caller's afterwards.
    pub(crate) unsafe fn push(&self, table: &impl Find, magazine: NonNull<Magazine>, len: u32) {
        debug_assert!({
            // SAFETY: magazines live as long as the pool, and the number never changes.
            let number = unsafe { (*magazine.as_ptr()).number };
            table.find(number) == magazine
        });
        // SAFETY: it is the caller's own, so it lives; only atomics and the number, which never changes, are
        // touched.
        let magazine = unsafe { magazine.as_ref() };
        magazine.len.store(len, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (tag, top) = unpack(head);
            magazine.next.store(top, Ordering::Relaxed);
            let new = pack(tag.wrapping_add(1), magazine.number);
            // Release: whoever pops it sees its length, its `next` and its objects.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => head = found,
            }
        }
    }

    /// Takes the top magazine and says how many objects it has. None if there was none at one moment during
    /// the call.
    pub(crate) fn pop(&self, table: &impl Find) -> Option<(NonNull<Magazine>, u32)> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (tag, top) = unpack(head);
            if top == NONE {
                // A load may return what the head was some time ago; a swap reads what it is. Emptiness is
                // what the argument that a put never fails builds on (see `slot`), and to find it is rare.
                match self.head.compare_exchange(head, head, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return None,
                    Err(found) => {
                        head = found;
                        continue;
                    }
                }
            }
            let magazine = table.find(top);
            // SAFETY: magazines live as long as the pool, and `next` is atomic: another thread may own it by
            // now.
            let next = unsafe { (*magazine.as_ptr()).next.load(Ordering::Relaxed) };
            let new = pack(tag.wrapping_add(1), next);
            match self.head.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    // SAFETY: as above; and it is this thread's own now.
                    let len = unsafe { (*magazine.as_ptr()).len.load(Ordering::Relaxed) };
                    return Some((magazine, len));
                }
                Err(found) => head = found,
            }
        }
    }

    /// The head, if the stack is empty. If it is the same later, nothing was pushed or popped in between.
    pub(crate) fn empty_version(&self) -> Option<u64> {
        let head = self.head.load(Ordering::Acquire);
        (unpack(head).1 == NONE).then_some(head)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.empty_version().is_some()
    }

    /// Visits each magazine with its length.
    ///
    /// # Safety
    /// Nobody pushes or pops during the call.
    pub(crate) unsafe fn visit(&self, table: &impl Find, mut visit: impl FnMut(NonNull<Magazine>, u32)) {
        let mut number = unpack(self.head.load(Ordering::Acquire)).1;
        while number != NONE {
            let magazine = table.find(number);
            // SAFETY: magazines live as long as the pool; both fields are atomic.
            let (next, len) = unsafe {
                let magazine = &*magazine.as_ptr();
                (magazine.next.load(Ordering::Relaxed), magazine.len.load(Ordering::Relaxed))
            };
            visit(magazine, len);
            number = next;
        }
    }
}

/// The two stacks.
#[derive(Debug)]
pub(crate) struct Depot {
    /// Magazines with all the objects that they can hold. The last one filled when the pool was made may have
    /// fewer.
    pub(crate) full: Stack,
    /// Magazines with none.
    pub(crate) empty: Stack,
}

impl Depot {
    pub(crate) fn new() -> Self {
        Self { full: Stack::new(), empty: Stack::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::magazine::Block;

    impl Find for Block {
        fn find(&self, number: u32) -> NonNull<Magazine> {
            self.get(number)
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn a_stack_is_last_in_first_out() {
        let block = Block::new(4, 8, 0).unwrap();
        let stack = Stack::new();
        assert!(stack.pop(&block).is_none());
        for (index, len) in [(0, 8), (1, 3), (2, 0)] {
            // SAFETY: the magazine is the block's and nobody else's.
            unsafe { stack.push(&block, block.get(index), len) };
        }
        assert_eq!(stack.pop(&block), Some((block.get(2), 0)));
        assert_eq!(stack.pop(&block), Some((block.get(1), 3)));
        assert_eq!(stack.pop(&block), Some((block.get(0), 8)));
        assert!(stack.is_empty());
    }

    #[cfg(not(loom))]
    #[test]
    fn every_change_makes_a_new_version() {
        let block = Block::new(1, 8, 0).unwrap();
        let stack = Stack::new();
        let empty = stack.empty_version();
        assert!(empty.is_some());
        // SAFETY: the magazine is the block's and nobody else's.
        unsafe { stack.push(&block, block.get(0), 8) };
        assert_eq!(stack.empty_version(), None);
        stack.pop(&block).unwrap();
        assert!(stack.is_empty());
        assert_ne!(stack.empty_version(), empty);
    }

    /// Two threads pop and push again, so that a magazine comes and goes under a pop that has read its `next`
    /// (ABA). Each magazine is owned by one thread at a time (its tracker would tell), and none is lost.
    #[cfg(loom)]
    #[test]
    fn loom_depot_magazines_have_one_owner_and_none_is_lost() {
        use loom::sync::Arc;

        loom::model(|| {
            let shared = Arc::new((Block::new(2, 1, 0).unwrap(), Stack::new()));
            for number in 0..2 {
                // SAFETY: the magazine is the block's and nobody else's.
                unsafe { shared.1.push(&shared.0, shared.0.get(number), 1) };
            }
            let turn = |shared: &(Block, Stack)| {
                let (block, stack) = shared;
                let mine = [stack.pop(block), stack.pop(block)];
                for (magazine, len) in mine.into_iter().flatten() {
                    assert_eq!(len, 1);
                    // SAFETY: the magazine was popped, so it is this thread's own until it is pushed.
                    unsafe {
                        Magazine::written(magazine);
                        stack.push(block, magazine, len);
                    }
                }
            };
            let other = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || turn(&shared))
            };
            turn(&shared);
            other.join().unwrap();
            let (block, stack) = &*shared;
            let mut found = [stack.pop(block), stack.pop(block)].map(|popped| popped.unwrap().0);
            found.sort();
            assert_eq!(found, [block.get(0), block.get(1)]);
            assert!(stack.pop(block).is_none());
        });
    }
}
