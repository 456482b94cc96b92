//! What bulk calls fill and drain: `ArrayVec` and `Vec`.

use alloc::vec::Vec;
use core::ptr;

use arrayvec::ArrayVec;

/// A vector that bulk calls add to at the end and take from at the front: [`ArrayVec`] or [`Vec`].
///
/// An `ArrayVec` takes what it has room for; a `Vec` grows, which may allocate.
pub trait Batch<T>: sealed::Batch<T> {}

impl<T, const N: usize> Batch<T> for ArrayVec<T, N> {}
impl<T> Batch<T> for Vec<T> {}

pub(crate) mod sealed {
    /// Access to the values without a step for each.
    pub trait Batch<T> {
        /// Values in it.
        fn count(&self) -> usize;

        /// How many of `n` more it can take; makes room where it can.
        fn room_for(&mut self, n: usize) -> usize;

        /// Where the first value is.
        fn front(&self) -> *const T;

        /// Where the next value would be. Valid for as many as `room_for` said.
        fn spare(&mut self) -> *mut T;

        /// Says that it has `count` values.
        ///
        /// # Safety
        /// The first `count` are written, and it has room for them. Those behind are forgotten.
        unsafe fn set_count(&mut self, count: usize);
    }
}

/// Closes the gap that `n` values moved out at the front have left.
///
/// # Safety
/// The batch has at least `n` values, and the first `n` were moved out.
pub(crate) unsafe fn forget_front<T, B: sealed::Batch<T>>(batch: &mut B, n: usize) {
    let left = batch.count() - n;
    if n == 0 {
        return;
    }
    // SAFETY: there are `left` values behind the first `n`; nothing between the two steps can panic.
    unsafe {
        batch.set_count(0);
        if left > 0 {
            let front = batch.spare();
            ptr::copy(front.add(n), front, left);
            batch.set_count(left);
        }
    }
}

impl<T, const N: usize> sealed::Batch<T> for ArrayVec<T, N> {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn room_for(&mut self, n: usize) -> usize {
        self.remaining_capacity().min(n)
    }

    #[inline]
    fn front(&self) -> *const T {
        self.as_ptr()
    }

    #[inline]
    fn spare(&mut self) -> *mut T {
        let len = self.len();
        // SAFETY: its length is within its array.
        unsafe { self.as_mut_ptr().add(len) }
    }

    #[inline]
    unsafe fn set_count(&mut self, count: usize) {
        // SAFETY: as the caller says.
        unsafe { self.set_len(count) };
    }
}

impl<T> sealed::Batch<T> for Vec<T> {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn room_for(&mut self, n: usize) -> usize {
        self.reserve(n);
        n
    }

    #[inline]
    fn front(&self) -> *const T {
        self.as_ptr()
    }

    #[inline]
    fn spare(&mut self) -> *mut T {
        let len = self.len();
        // SAFETY: its length is within its allocation.
        unsafe { self.as_mut_ptr().add(len) }
    }

    #[inline]
    unsafe fn set_count(&mut self, count: usize) {
        // SAFETY: as the caller says.
        unsafe { self.set_len(count) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::boxed::Box;
    use alloc::vec;

    use super::*;

    #[test]
    fn the_front_goes_and_the_rest_moves_up() {
        let mut batch: ArrayVec<Box<u32>, 4> = [1, 2, 3, 4].map(Box::new).into();
        for expected in [vec![1, 2, 3, 4], vec![3, 4], vec![]] {
            assert_eq!(batch.iter().map(|value| **value).collect::<Vec<_>>(), expected);
            let gone = expected.len().min(2);
            for place in 0..gone {
                // SAFETY: moved out, then forgotten.
                drop(unsafe { sealed::Batch::front(&batch).add(place).read() });
            }
            // SAFETY: the first `gone` were moved out.
            unsafe { forget_front(&mut batch, gone) };
        }
    }

    #[test]
    fn an_array_has_room_for_what_it_has_and_a_vector_for_all() {
        let mut array: ArrayVec<u8, 4> = [1, 2, 3].into_iter().collect();
        assert_eq!(sealed::Batch::room_for(&mut array, 3), 1);
        let mut vector = vec![1, 2, 3];
        assert_eq!(sealed::Batch::room_for(&mut vector, 300), 300);
        assert!(vector.capacity() >= 303);
    }
}
