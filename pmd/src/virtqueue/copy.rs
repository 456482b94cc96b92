//! Copies between shared memory and packets.
//!
//! A call of the system's copy costs as much as the bytes of a small packet do, so those are copied in line, by steps of
//! 64 bytes of which the last may overlap the one before.

use core::ptr;

/// From here on the system's copy is faster.
const LARGE: usize = 512;

/// Bytes that are moved at once, at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Step<const N: usize>([u8; N]);

/// Copies `len` bytes.
///
/// # Safety
/// They are readable at `from`, writable at `to`, and the two do not overlap. One of the two may change meanwhile, as
/// shared memory does; then the bytes are some mixture.
#[inline(always)]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    /// The first and the last `N` bytes of `N` to `2 * N`.
    #[inline(always)]
    unsafe fn ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the caller says that `len` is `N` at least, so both steps are within it.
        unsafe {
            let first = from.cast::<Step<N>>().read();
            let last = from.add(len - N).cast::<Step<N>>().read();
            to.cast::<Step<N>>().write(first);
            to.add(len - N).cast::<Step<N>>().write(last);
        }
    }
    // SAFETY: each step is within `len` bytes of both places, by the comparison before it.
    unsafe {
        if len > LARGE {
            ptr::copy_nonoverlapping(from, to, len);
        } else if len >= 64 {
            let mut at = 0;
            while at + 64 < len {
                to.add(at).cast::<Step<64>>().write(from.add(at).cast::<Step<64>>().read());
                at += 64;
            }
            to.add(len - 64).cast::<Step<64>>().write(from.add(len - 64).cast::<Step<64>>().read());
        } else if len >= 32 {
            ends::<32>(from, to, len);
        } else if len >= 16 {
            ends::<16>(from, to, len);
        } else if len >= 8 {
            ends::<8>(from, to, len);
        } else if len >= 4 {
            ends::<4>(from, to, len);
        } else {
            for at in 0..len {
                to.add(at).write(from.add(at).read());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_and_no_byte_more() {
        let source: Vec<u8> = (0..2000u32).map(|byte| (byte % 251) as u8).collect();
        for len in (0..700).chain([1500, 2000]) {
            let mut target = vec![0xffu8; len + 2];
            // SAFETY: both have `len` bytes there.
            unsafe { copy(source.as_ptr(), target.as_mut_ptr().add(1), len) };
            assert_eq!(target[1..=len], source[..len]);
            assert_eq!((target[0], target[len + 1]), (0xff, 0xff), "{len}");
        }
    }
}
