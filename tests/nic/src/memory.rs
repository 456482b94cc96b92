//! Memory that the device reaches: what was mapped for it, by addresses that are not this process's own, so that one
//! which was not translated reaches nothing.

#![allow(unsafe_code, reason = "a device reads and writes memory that others own, by address")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::ptr::with_exposed_provenance;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapOptions, MmapRaw};
use wirerate_eal::dma::{DmaError, DmaMapping, DmaRange, DmaSpace};

/// The way of the device to memory.
pub trait Dma: Send + fmt::Debug {
    /// Reads bytes from a device address.
    ///
    /// # Errors
    /// [`Unreachable`] unless all of them are reached.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreachable>;

    /// Writes bytes to a device address, the last of them last.
    ///
    /// # Errors
    /// [`Unreachable`] unless all of them are reached; nothing is written then.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unreachable>;
}

/// Why memory was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Not all of it is mapped.
    #[error("the device reaches for memory that is not mapped for it")]
    NotMapped,
    /// It is mapped for reading only.
    #[error("the device writes to memory that is mapped for it to read")]
    NotWritable,
    /// The command register does not let it be a bus master (PCI 3.0, 6.2.2).
    #[error("the device reaches for memory while it is no bus master")]
    NotMaster,
}

/// What is mapped. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Mapped(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By the first device address. No two overlap.
    ranges: BTreeMap<u64, Piece>,
    /// Pieces that there ever were.
    pieces: u64,
    master: bool,
}

/// What is mapped in one piece.
#[derive(Debug)]
struct Piece {
    range: DmaRange,
    writable: bool,
    /// What keeps the memory there, where it is a file's.
    file: Option<MmapRaw>,
}

/// Device addresses begin here, above all that this process has, and each piece has some of its own.
const FIRST: u64 = 1 << 56;
const PIECE: u64 = 1 << 40;

impl Mapped {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one step, so a panic of another thread leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the device may reach memory at all.
    pub fn set_master(&self, on: bool) {
        self.lock().master = on;
    }

    /// How many pieces are mapped.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.lock().ranges.len()
    }

    /// Maps `len` bytes of a file from `offset` on, both in bytes, at a device address that whoever shares the file has
    /// chosen.
    ///
    /// Who makes the file shorter later ends this process by SIGBUS when the device reaches for what is gone.
    ///
    /// # Errors
    /// When the range is empty, not all in the file or in the space of addresses, or overlaps another; or when the system
    /// does not map it.
    pub fn map_file(
        &self,
        file: &File,
        offset: u64,
        address: u64,
        len: u64,
        writable: bool,
    ) -> io::Result<()> {
        let refused = |problem: &str| {
            let what = format!("{len:#x} bytes of a file from {offset:#x} on, at {address:#x}: {problem}");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        };
        let last = len.checked_sub(1).and_then(|most| address.checked_add(most));
        let last = last.ok_or_else(|| refused("no range of addresses"))?;
        let is_in_file = offset.checked_add(len).is_some_and(|end| {
            file.metadata().is_ok_and(|metadata| metadata.is_file() && end <= metadata.len())
        });
        if !is_in_file {
            return Err(refused("not all of it is in the file"));
        }
        let size = usize::try_from(len).map_err(|_| refused("too long"))?;
        let mut table = self.lock();
        if table.ranges.range(..=last).next_back().is_some_and(|(_, piece)| piece.last() >= address) {
            return Err(refused("some of it is mapped already"));
        }
        let mut options = MmapOptions::new();
        options.offset(offset).len(size);
        let map = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        let range = DmaRange { base: map.as_mut_ptr().expose_provenance(), len: size, device: address };
        table.ranges.insert(address, Piece { range, writable, file: Some(map) });
        Ok(())
    }

    /// Takes away what was mapped from files within `len` bytes at a device address; the end may be past the highest.
    ///
    /// # Errors
    /// When a piece is only partly within; it stays.
    pub fn unmap_files(&self, address: u64, len: u64) -> io::Result<()> {
        let Some(most) = len.checked_sub(1) else { return Ok(()) };
        let last = address.saturating_add(most);
        let mut cut = None;
        self.lock().ranges.retain(|first, piece| {
            let is_outside = *first > last || piece.last() < address || piece.file.is_none();
            let is_inside = *first >= address && piece.last() <= last;
            if !is_outside && !is_inside {
                cut = Some(*first);
            }
            is_outside || !is_inside
        });
        cut.map_or(Ok(()), |first| {
            let what = format!("the piece mapped at {first:#x} is not all in {len:#x} bytes at {address:#x}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        })
    }
}

impl Piece {
    /// Its last device address.
    fn last(&self) -> u64 {
        self.range.device.saturating_add(self.range.len as u64 - 1)
    }
}

impl Table {
    /// Where `len` bytes at a device address are in this process: the address of the first, and how many of them follow it
    /// before another piece begins.
    fn place(&self, address: u64, len: usize, to_write: bool) -> Result<(usize, usize), Unreachable> {
        if !self.master {
            return Err(Unreachable::NotMaster);
        }
        let (_, piece) = self.ranges.range(..=address).next_back().ok_or(Unreachable::NotMapped)?;
        let at = usize::try_from(address - piece.range.device).map_err(|_| Unreachable::NotMapped)?;
        let there = piece.range.len.checked_sub(at).ok_or(Unreachable::NotMapped)?.min(len);
        if there == 0 && len > 0 {
            return Err(Unreachable::NotMapped);
        }
        if to_write && !piece.writable {
            return Err(Unreachable::NotWritable);
        }
        Ok((piece.range.base + at, there))
    }

    /// Calls `visit` for all of `len` bytes at a device address, with an address in this process, what part of the bytes is
    /// there, and the part's length; or for nothing of it, unless all can be reached.
    fn visit(
        &self,
        address: u64,
        len: usize,
        to_write: bool,
        mut visit: impl FnMut(usize, usize, usize),
    ) -> Result<(), Unreachable> {
        let (place, there) = self.place(address, len, to_write)?;
        if there == len {
            visit(place, 0, len);
            return Ok(());
        }
        // It goes on in others, which touch.
        let mut parts = vec![(place, 0, there)];
        let mut done = there;
        while done < len {
            let next = address.checked_add(done as u64).ok_or(Unreachable::NotMapped)?;
            let (place, there) = self.place(next, len - done, to_write)?;
            parts.push((place, done, there));
            done += there;
        }
        parts.into_iter().for_each(|(place, from, len)| visit(place, from, len));
        Ok(())
    }
}

/// Goes over `len` bytes at `place` in the widest pieces that are aligned, of 8, 4 and 1 bytes: a status word is written
/// at once.
fn pieces(place: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let fits = |size: &usize| (place + start).is_multiple_of(*size) && len - start >= *size;
        let size = [8, 4, 1].into_iter().find(fits)?;
        at += size;
        Some((start, size))
    })
}

impl Dma for Mapped {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Unreachable> {
        let table = self.lock();
        table.visit(address, bytes.len(), false, |place, from, len| {
            for (at, size) in pieces(place, len) {
                let bytes = &mut bytes[from + at..from + at + size];
                let place = place + at;
                // SAFETY: `visit` found these bytes within a range that is mapped: who mapped it keeps the memory valid until the
                // range is taken out of the table, which needs the lock that is held here; a file's is in the table itself. The
                // pointers were exposed when it was mapped. Whoever else has the memory may change it meanwhile, as with a real
                // device, so it is read atomically, in pieces that are aligned to their size.
                unsafe {
                    match size {
                        8 => {
                            bytes.copy_from_slice(&at_place::<AtomicU64>(place).load(Acquire).to_ne_bytes());
                        }
                        4 => {
                            bytes.copy_from_slice(&at_place::<AtomicU32>(place).load(Acquire).to_ne_bytes());
                        }
                        _ => bytes[0] = at_place::<AtomicU8>(place).load(Acquire),
                    }
                }
            }
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        let table = self.lock();
        table.visit(address, bytes.len(), true, |place, from, len| {
            for (at, size) in pieces(place, len) {
                // A value of this many bytes, in the order of this process.
                let mut value = [0; 8];
                value[..size].copy_from_slice(&bytes[from + at..from + at + size]);
                let [a, b, c, d, ..] = value;
                let place = place + at;
                // SAFETY: as for reading; that the device may write it is what `DmaSpace::map` asks of who maps memory, and
                // `visit` has found that a file was mapped to be written.
                unsafe {
                    match size {
                        8 => at_place::<AtomicU64>(place).store(u64::from_ne_bytes(value), Release),
                        4 => at_place::<AtomicU32>(place).store(u32::from_ne_bytes([a, b, c, d]), Release),
                        _ => at_place::<AtomicU8>(place).store(a, Release),
                    }
                }
            }
        })
    }
}

/// What is at an address.
///
/// # Safety
/// A `T` is there, in memory whose address was exposed, for as long as the reference is used.
unsafe fn at_place<'a, T>(address: usize) -> &'a T {
    // SAFETY: the caller says so.
    unsafe { &*with_exposed_provenance::<T>(address) }
}

/// The piece of a mapping, until it is dropped.
struct Way(Mapped, u64);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.lock().ranges.remove(&self.1);
    }
}

impl DmaSpace for Mapped {
    unsafe fn map(
        &self,
        memory: &dyn wirerate_mempool::Memory,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<DmaMapping, DmaError> {
        let mut table = self.lock();
        let len = memory.len();
        if len as u64 >= PIECE {
            return Err(DmaError::Refused {
                problem: format!("{len} bytes do not fit a piece of {PIECE} device addresses"),
            });
        }
        let device = FIRST + table.pieces % (FIRST / PIECE) * PIECE;
        if table.ranges.contains_key(&device) {
            return Err(DmaError::Refused { problem: "all device addresses are in use".into() });
        }
        table.pieces += 1;
        let range = DmaRange { base: memory.base().as_ptr().expose_provenance(), len, device };
        table.ranges.insert(device, Piece { range, writable: true, file: None });
        Ok(DmaMapping::new([range], Box::new(Way(self.clone(), device)), keep))
    }

    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        vec![FIRST..=FIRST * 2 - 1]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use wirerate_eal::dma::map_owned;
    use wirerate_mempool::HeapMemory;

    use super::*;

    #[test]
    fn memory_is_gone_over_in_aligned_pieces() {
        assert_eq!(pieces(0x1003, 21).collect::<Vec<_>>(), [(0, 1), (1, 4), (5, 8), (13, 8)]);
        assert_eq!(pieces(0x100c, 4).collect::<Vec<_>>(), [(0, 4)]);
        assert_eq!(pieces(0x1004, 3).count() + pieces(0x1000, 0).count(), 3);
    }

    #[test]
    fn what_is_mapped_is_reached_and_nothing_else() {
        let mapped = Mapped::default();
        let mapping = map_owned(&mapped, HeapMemory::new(64, 64).unwrap()).unwrap();
        let range = mapping.ranges()[0];
        let mut bytes = [0; 21];
        assert_eq!(mapped.read(range.device, &mut bytes), Err(Unreachable::NotMaster));
        mapped.set_master(true);
        let wrote: Vec<u8> = (1..=21).collect();
        mapped.write(range.device + 3, &wrote).unwrap();
        mapped.read(range.device + 3, &mut bytes).unwrap();
        assert_eq!(bytes[..], wrote);
        mapped.write(range.device + 63, &[9]).unwrap();
        for address in [range.device + 44, range.device - 1, range.base as u64, 0, u64::MAX] {
            assert_eq!(mapped.read(address, &mut bytes), Err(Unreachable::NotMapped), "{address:#x}");
            assert_eq!(mapped.write(address, &wrote), Err(Unreachable::NotMapped), "{address:#x}");
        }
        let other = map_owned(&mapped, HeapMemory::new(64, 64).unwrap()).unwrap();
        assert_ne!(other.ranges()[0].device, range.device);
        assert_eq!(mapped.pieces(), 2);
        drop(mapping);
        assert_eq!(mapped.read(range.device, &mut bytes), Err(Unreachable::NotMapped));
        assert_eq!(mapped.pieces(), 1);
    }

    fn file(len: u64) -> File {
        let file = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        file.into()
    }

    #[test]
    fn a_file_is_reached_by_the_addresses_that_were_chosen() {
        use std::os::unix::fs::FileExt;
        let (mapped, file) = (Mapped::default(), file(0x3000));
        mapped.set_master(true);
        mapped.map_file(&file, 0x1000, 0x7000, 0x1000, true).unwrap();
        mapped.map_file(&file, 0, 0x8000, 0x1000, true).unwrap();
        mapped.map_file(&file, 0x2000, 0x9000, 0x1000, false).unwrap();
        // Across the border of two pieces, which are elsewhere in the file.
        let wrote: Vec<u8> = (1..=20).collect();
        mapped.write(0x7ff6, &wrote).unwrap();
        let mut bytes = [0; 20];
        mapped.read(0x7ff6, &mut bytes).unwrap();
        assert_eq!(bytes[..], wrote);
        file.read_exact_at(&mut bytes[..10], 0x1ff6).unwrap();
        file.read_exact_at(&mut bytes[10..], 0).unwrap();
        assert_eq!(bytes[..], wrote);
        assert_eq!(mapped.write(0x9000, &[1]), Err(Unreachable::NotWritable));
        // Not even the part that can be written is.
        assert_eq!(mapped.write(0x8ff6, &wrote), Err(Unreachable::NotWritable));
        mapped.read(0x8ff6, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 20]);
        assert_eq!(mapped.read(0x9ff6, &mut bytes), Err(Unreachable::NotMapped));

        assert!(mapped.unmap_files(0x7000, 0x1800).is_err(), "it cuts a piece");
        assert_eq!(mapped.read(0x7000, &mut bytes), Err(Unreachable::NotMapped));
        mapped.read(0x8000, &mut bytes).unwrap();
        mapped.unmap_files(0x8800, 0).unwrap();
        mapped.unmap_files(0x8000, u64::MAX).unwrap();
        assert_eq!(mapped.pieces(), 0);
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        let (mapped, file) = (Mapped::default(), file(0x3000));
        mapped.map_file(&file, 0, 0x5000, 0x1000, true).unwrap();
        for (offset, address, len) in [
            (0, 0, 0),
            (0x1000, 0, 0x2001),
            (u64::MAX, 0, 2),
            (0, u64::MAX, 2),
            (0, 0x4fff, 0x1000),
            (0, 0x5fff, 1),
            (0, 0x4000, 0x3000),
        ] {
            assert!(mapped.map_file(&file, offset, address, len, true).is_err(), "{offset} {address} {len}");
        }
        assert!(mapped.map_file(&File::open("/dev/zero").unwrap(), 0, 0, 1, true).is_err());
        let keeper = map_owned(&mapped, HeapMemory::new(64, 64).unwrap()).unwrap();
        mapped.unmap_files(0, u64::MAX).unwrap();
        assert_eq!(mapped.pieces(), 1, "memory of this process is its own");
        drop(keeper);
    }
}
