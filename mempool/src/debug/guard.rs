//! Guards: known bytes around each object, which a write out of its bounds changes.
//!
//! Between two objects there is a gap, of [`LEAST`] bytes or of what the alignment leaves, if that is more.
//! The half next to an object is that one's guard, at most [`MOST`] bytes of it, so that what is found there
//! is told to the one who most likely did it.
//!
//! ```text
//!   | object 0 | behind 0 | front 1 | object 1 | behind 1 | front 2 | object 2 | behind 2 |
//! ```
//!
//! The first object of a piece of memory has no guard in front: what is there may be another's.

/// Bytes of a gap, at least.
const LEAST: usize = 16;
/// Bytes of a guard, at most: to look at them must not take long.
const MOST: usize = 64;

/// How guards lie around objects of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Zones {
    /// Bytes of an object.
    size: usize,
    /// Bytes from one object to the next.
    stride: usize,
    /// Bytes of the guard behind an object.
    behind: usize,
    /// Bytes of the guard in front of an object that follows another.
    #[cfg_attr(not(all(debug_assertions, not(loom))), allow(dead_code, reason = "there are no guards"))]
    front: usize,
}

impl Zones {
    /// Guards for objects of `size` bytes aligned to `align`; none if they would be more than there can be.
    pub(crate) fn new(size: usize, align: usize) -> Option<Self> {
        let stride = size.checked_add(LEAST)?.checked_next_multiple_of(align.max(1))?;
        let gap = stride - size;
        Some(Self { size, stride, behind: gap.div_ceil(2).min(MOST), front: (gap / 2).min(MOST) })
    }

    /// Bytes from one object to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of an object with the guard behind it, which the last one has too.
    pub(crate) fn extent(&self) -> usize {
        self.size + self.behind
    }
}

#[cfg(all(debug_assertions, not(loom)))]
mod imp {
    use core::ptr::NonNull;

    use super::{MOST, Zones};
    use crate::debug::first_difference;

    /// What guards consist of.
    const BYTE: u8 = 0xfd;

    /// A byte of a guard that is not as it was.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Damage {
        /// Bytes from the object's first to this one: below 0, or the object's size and more.
        pub(crate) offset: isize,
        pub(crate) found: u8,
    }

    impl Zones {
        /// Writes the guards of an object.
        ///
        /// # Safety
        /// The object has a guard behind it, and one in front if `fronted`; nobody else uses them.
        pub(crate) unsafe fn write(&self, object: NonNull<u8>, fronted: bool) {
            // SAFETY: as the caller says.
            unsafe {
                object.add(self.size).write_bytes(BYTE, self.behind);
                if fronted {
                    object.sub(self.front).write_bytes(BYTE, self.front);
                }
            }
        }

        /// Looks at the guard behind an object.
        ///
        /// # Safety
        /// The object has it.
        pub(crate) unsafe fn look_behind(&self, object: NonNull<u8>) -> Option<Damage> {
            // SAFETY: the guard is there.
            unsafe { look(object, self.size as isize, self.behind) }
        }

        /// Looks at the guard in front of an object.
        ///
        /// # Safety
        /// The object has it.
        pub(crate) unsafe fn look_in_front(&self, object: NonNull<u8>) -> Option<Damage> {
            // SAFETY: the guard is there.
            unsafe { look(object, -(self.front as isize), self.front) }
        }
    }

    /// # Safety
    /// `len` bytes at `start` bytes from `object` are a guard.
    unsafe fn look(object: NonNull<u8>, start: isize, len: usize) -> Option<Damage> {
        const WHOLE: [u8; MOST] = [BYTE; MOST];
        // SAFETY: as the caller says.
        let (place, found) = unsafe { first_difference(object.as_ptr().offset(start), &WHOLE[..len]) }?;
        Some(Damage { offset: start + place as isize, found })
    }
}

#[cfg(all(debug_assertions, not(loom)))]
pub(crate) use imp::Damage;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_shared_by_the_objects_beside_it() {
        for (size, align) in [(1, 1), (8, 8), (64, 64), (100, 64), (112, 64), (113, 64), (100, 4096), (1, 0)]
        {
            let zones = Zones::new(size, align).unwrap();
            assert!(zones.stride.is_multiple_of(align.max(1)));
            assert!((1..=MOST).contains(&zones.behind) && (1..=MOST).contains(&zones.front), "{zones:?}");
            let gap = zones.stride - size;
            assert!(gap >= LEAST && gap < LEAST + align.max(1), "{zones:?}");
            assert!(zones.behind + zones.front <= gap, "{zones:?}");
            assert!(zones.behind + zones.front == gap || gap > 2 * MOST, "{zones:?}");
        }
        assert_eq!(Zones::new(usize::MAX - 8, 8), None);
        assert_eq!(Zones::new(usize::MAX - 40, 64), None);
    }
}
