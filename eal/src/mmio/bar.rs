//! A real device's registers, mapped into this process.

use std::fs::File;
use std::io;
use std::sync::atomic::{self, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::Mmio;

/// The registers behind one base address register of a real function.
///
/// While one lives, the function is not given back to the system altogether, even if its
/// [`Function`](crate::pci::Function) was dropped.
#[derive(Debug)]
pub struct Bar {
    map: MmapRaw,
}

impl Bar {
    /// Maps `len` bytes of `file`, from `offset`.
    pub(crate) fn map(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().offset(offset).len(len).map_raw(file)? })
    }

    /// Where a `T` is at `offset`; none if not all of it is inside, or it is not aligned.
    #[inline]
    fn place<T>(&self, offset: usize) -> Option<*mut T> {
        let inside = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.map.len());
        (inside && offset.is_multiple_of(size_of::<T>()))
            .then(|| self.map.as_mut_ptr().wrapping_add(offset).cast())
    }

    #[inline]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let place = self.place::<T>(offset)?;
        // SAFETY: `place` is inside of the mapping, which is readable and lives as long as `self`. A mapping begins at a
        // page, so it is aligned as its offset is. Registers change by themselves, so no reference is made to them.
        let value = unsafe { place.read_volatile() };
        order();
        Some(value)
    }

    #[inline]
    fn write<T: Copy>(&self, offset: usize, value: T) {
        let Some(place) = self.place::<T>(offset) else { return };
        order();
        // SAFETY: as in `read`; the mapping is writable as well.
        unsafe { place.write_volatile(value) }
    }
}

/// Keeps what comes before it in the program before what comes after it. x86 keeps loads and stores in such an order by
/// itself that only the compiler has to be held; elsewhere the processor has to be told.
#[inline]
fn order() {
    if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
        atomic::compiler_fence(Ordering::SeqCst);
    } else {
        atomic::fence(Ordering::SeqCst);
    }
}

impl Mmio for Bar {
    fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset).unwrap_or(u8::MAX)
    }

    #[inline]
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset).map_or(u16::MAX, u16::from_le)
    }

    #[inline]
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset).map_or(u32::MAX, u32::from_le)
    }

    #[inline]
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }

    #[inline]
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, value.to_le());
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value.to_le());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file plays the registers, of which the first `skipped` bytes are not mapped.
    fn bar(skipped: u64, len: usize) -> (File, Bar) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(skipped + 4096).unwrap();
        let bar = Bar::map(&file, skipped, len).unwrap();
        (file, bar)
    }

    #[test]
    fn registers_are_little_endian_and_where_they_should_be() {
        let (file, bar) = bar(4096, 64);
        assert_eq!(bar.len(), 64);
        bar.write32(4, 0x1122_3344);
        bar.write16(10, 0x5566);
        bar.write8(63, 0x77);
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(bytes[4..8], [0x44, 0x33, 0x22, 0x11]);
        assert_eq!((bytes[10], bytes[11], bytes[63]), (0x66, 0x55, 0x77));
        assert_eq!((bar.read8(5), bar.read16(6), bar.read32(8)), (0x33, 0x1122, 0x5566_0000));
    }

    #[test]
    fn what_is_outside_or_across_reads_as_ones_and_takes_nothing() {
        let (file, bar) = bar(0, 62);
        for offset in [60, 62, 64, 4096, usize::MAX - 3, usize::MAX, 1, 2, 3] {
            bar.write32(offset, 0);
            assert_eq!(bar.read32(offset), u32::MAX, "{offset:#x}");
        }
        for offset in [62, 61, 1, usize::MAX] {
            bar.write16(offset, 0x1234);
            assert_eq!(bar.read16(offset), u16::MAX, "{offset:#x}");
        }
        bar.write8(62, 1);
        assert_eq!(bar.read8(62), u8::MAX);
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
