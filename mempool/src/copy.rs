//! Copies of objects' addresses, and of a ring's values, which are all that a call does besides its bookkeeping.
//!
//! In blocks of fixed size, and so in line where the number is a constant: a call of `memcpy` for a burst takes
//! longer than the copy itself. What bounds a copy is how many stores the processor takes in a cycle, so the
//! widest registers are used. A program is commonly compiled for any x86-64 processor, which has 16 bytes in a
//! register; nearly all there are have 32 (AVX). To call a function that was compiled for those would cost as
//! much as it gains: such a function is not inlined into one that was not. So the wide copy is in assembly,
//! which is, and whether the processor has it is asked when a slot is made.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering, compiler_fence};

/// Whether the processor has 32-byte registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wide(bool);

impl Wide {
    pub(crate) fn detect() -> Self {
        #[cfg(all(feature = "std", target_arch = "x86_64", not(loom)))]
        return Self(std::arch::is_x86_feature_detected!("avx"));
        #[cfg(not(all(feature = "std", target_arch = "x86_64", not(loom))))]
        Self(false)
    }

    /// Whether `copy_alongside` can be had.
    pub(crate) fn serves_alongside(self) -> bool {
        self.0 || cfg!(any(not(target_arch = "x86_64"), loom))
    }
}

/// Copies `n` objects' addresses.
///
/// # Safety
/// `from` has `n`, `to` has room for `n`, and they do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy(from: *const NonNull<u8>, to: *mut NonNull<u8>, n: usize, wide: Wide) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if n >= BLOCK / 2 && wide.0 {
        // SAFETY: as the caller says; the processor has AVX, as was asked. The rest is within the `n`.
        unsafe {
            let done = copy_wide(from, to, n);
            copy_blocks(from, to, done, n);
        }
        return;
    }
    let _ = wide;
    // SAFETY: as the caller says.
    unsafe { copy_blocks(from, to, 0, n) };
}

/// Copies `n` objects' addresses to or from a magazine that another thread may be looking at: it may read what
/// is overwritten here, or overwrite what is read, and both throw away what came of that. So these are no plain
/// accesses, which the language would not let others make at the same time.
///
/// # Safety
/// `from` has `n`, `to` has room for `n`, and they do not overlap; `Wide::serves_alongside` is true.
#[inline(always)]
pub(crate) unsafe fn copy_alongside(from: *const NonNull<u8>, to: *mut NonNull<u8>, n: usize) {
    let mut done = 0;
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if n >= BLOCK / 2 {
        // SAFETY: as the caller says; the processor has AVX, and assembly may access what others do.
        done = unsafe { copy_wide(from, to, n) };
    }
    while done < n {
        // SAFETY: `done` is below `n`.
        unsafe { write_alongside(to.add(done), read_alongside(from.add(done))) };
        done += 1;
    }
}

/// Reads an address that another thread may be overwriting with another.
///
/// # Safety
/// `from` is one that can be read.
#[inline(always)]
unsafe fn read_alongside(from: *const NonNull<u8>) -> NonNull<u8> {
    // SAFETY: as the caller says; an atomic pointer is as large and as aligned as a plain one, and what is there
    // is not null.
    unsafe { NonNull::new_unchecked((*from.cast::<AtomicPtr<u8>>()).load(Ordering::Relaxed)) }
}

/// Writes an address that another thread may be reading.
///
/// # Safety
/// `to` can be written.
#[inline(always)]
pub(crate) unsafe fn write_alongside(to: *mut NonNull<u8>, object: NonNull<u8>) {
    // SAFETY: as in `read_alongside`.
    unsafe { (*to.cast::<AtomicPtr<u8>>()).store(object.as_ptr(), Ordering::Relaxed) };
}

/// Moves `n` values.
///
/// # Safety
/// `from` has `n`, which are moved out; `to` has room for `n`, and they do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy_values<T>(from: *const T, to: *mut T, n: usize) {
    // SAFETY: as the caller says.
    unsafe {
        if size_of::<T>() <= 16 {
            copy_blocks(from, to, 0, n);
        } else {
            to.copy_from_nonoverlapping(from, n);
        }
    }
}

/// Values of a block: of addresses, a cache line.
const BLOCK: usize = 8;

/// Copies from `done` on.
///
/// # Safety
/// As for `copy_values`.
#[inline(always)]
unsafe fn copy_blocks<T>(from: *const T, to: *mut T, mut done: usize, n: usize) {
    // SAFETY: every block, and the rest, is within the `n`.
    unsafe {
        while done + BLOCK <= n {
            // In two halves, lest the compiler takes the loop for a `memcpy`.
            let (from, to) = (from.add(done), to.add(done));
            to.copy_from_nonoverlapping(from, BLOCK / 2);
            to.add(BLOCK / 2).copy_from_nonoverlapping(from.add(BLOCK / 2), BLOCK / 2);
            done += BLOCK;
        }
        if done + BLOCK / 2 <= n {
            to.add(done).copy_from_nonoverlapping(from.add(done), BLOCK / 2);
            done += BLOCK / 2;
        }
        while done < n {
            to.add(done).write(from.add(done).read());
            done += 1;
            // The same for what is left.
            compiler_fence(Ordering::SeqCst);
        }
    }
}

/// As `copy`, 32 bytes at a time, as far as that goes: up to 3 are left. Says how many were copied.
///
/// # Safety
/// As for `copy`, and the processor has AVX.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
unsafe fn copy_wide(from: *const NonNull<u8>, to: *mut NonNull<u8>, n: usize) -> usize {
    use core::arch::asm;
    let mut done = 0;
    while done + 2 * BLOCK <= n {
        // SAFETY: 128 bytes are read and written within the `n`. Only the lower halves of the registers are
        // known to the compiler, as the program is not compiled for AVX; they are declared.
        unsafe {
            asm!(
                "vmovdqu ymm0, [{from}]",
                "vmovdqu ymm1, [{from} + 32]",
                "vmovdqu ymm2, [{from} + 64]",
                "vmovdqu ymm3, [{from} + 96]",
                "vmovdqu [{to}], ymm0",
                "vmovdqu [{to} + 32], ymm1",
                "vmovdqu [{to} + 64], ymm2",
                "vmovdqu [{to} + 96], ymm3",
                from = in(reg) from.add(done),
                to = in(reg) to.add(done),
                out("xmm0") _,
                out("xmm1") _,
                out("xmm2") _,
                out("xmm3") _,
                options(nostack, preserves_flags)
            );
        }
        done += 2 * BLOCK;
    }
    if done + BLOCK <= n {
        // SAFETY: as above, of 64 bytes.
        unsafe {
            asm!(
                "vmovdqu ymm0, [{from}]",
                "vmovdqu ymm1, [{from} + 32]",
                "vmovdqu [{to}], ymm0",
                "vmovdqu [{to} + 32], ymm1",
                from = in(reg) from.add(done),
                to = in(reg) to.add(done),
                out("xmm0") _,
                out("xmm1") _,
                options(nostack, preserves_flags)
            );
        }
        done += BLOCK;
    }
    if done + BLOCK / 2 <= n {
        // SAFETY: as above, of 32 bytes.
        unsafe {
            asm!(
                "vmovdqu ymm0, [{from}]",
                "vmovdqu [{to}], ymm0",
                from = in(reg) from.add(done),
                to = in(reg) to.add(done),
                out("xmm0") _,
                options(nostack, preserves_flags)
            );
        }
        done += BLOCK / 2;
    }
    // SAFETY: clears the upper halves, which the compiler does not know: instructions on 16 bytes that come
    // later would wait for them on some processors.
    #[cfg(not(target_feature = "avx"))]
    unsafe {
        asm!("vzeroupper", options(nomem, nostack, preserves_flags));
    }
    done
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn all_are_copied_and_nothing_else_is_written() {
        let from: Vec<_> = (1..=200_usize).map(|n| NonNull::new(n as *mut u8).unwrap()).collect();
        for wide in [Wide(false), Wide::detect()] {
            for n in 0..=150 {
                let mut to = [NonNull::<u8>::dangling(); 160];
                // SAFETY: both are longer than 5 + `n`.
                unsafe { copy(from.as_ptr().add(3), to.as_mut_ptr().add(5), n, wide) };
                assert_eq!(to[5..5 + n], from[3..3 + n]);
                assert!(to[..5].iter().chain(&to[5 + n..]).all(|place| *place == NonNull::dangling()));
            }
        }
    }
}
