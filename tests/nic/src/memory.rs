//! Memory that the device reaches: what was mapped for it, by addresses that are not this process's own, so that one
//! which was not translated reaches nothing.

#![allow(unsafe_code, reason = "a device reads and writes memory that others own, by address")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::ptr::with_exposed_provenance;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Not all of it is mapped in one piece.
    #[error("the device reaches for memory that is not mapped for it")]
    NotMapped,
    /// The command register does not let it be a bus master (PCI 3.0, 6.2.2).
    #[error("the device reaches for memory while it is no bus master")]
    NotMaster,
}

/// What is mapped. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Mapped(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By the first device address.
    ranges: BTreeMap<u64, DmaRange>,
    /// Pieces that there ever were.
    pieces: u64,
    master: bool,
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
}

impl Table {
    /// The address in this process of `len` bytes at a device address.
    fn place(&self, address: u64, len: usize) -> Result<usize, Unreachable> {
        if !self.master {
            return Err(Unreachable::NotMaster);
        }
        let (_, range) = self.ranges.range(..=address).next_back().ok_or(Unreachable::NotMapped)?;
        let at = usize::try_from(address - range.device).map_err(|_| Unreachable::NotMapped)?;
        let fits = at.checked_add(len).is_some_and(|end| end <= range.len);
        if fits { Ok(range.base + at) } else { Err(Unreachable::NotMapped) }
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
        let place = table.place(address, bytes.len())?;
        for (at, size) in pieces(place, bytes.len()) {
            let bytes = &mut bytes[at..at + size];
            // SAFETY: `place` found these bytes within a range that is mapped: who mapped it keeps the memory valid until the
            // range is taken out of the table, which needs the lock that is held here. The pointers were exposed by `map`. Whoever
            // else has the memory may change it meanwhile, as with a real device, so it is read atomically, in pieces that are
            // aligned to their size.
            unsafe {
                match size {
                    8 => {
                        bytes.copy_from_slice(&at_place::<AtomicU64>(place + at).load(Acquire).to_ne_bytes());
                    }
                    4 => {
                        bytes.copy_from_slice(&at_place::<AtomicU32>(place + at).load(Acquire).to_ne_bytes());
                    }
                    _ => bytes[0] = at_place::<AtomicU8>(place + at).load(Acquire),
                }
            }
        }
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        let table = self.lock();
        let place = table.place(address, bytes.len())?;
        for (at, size) in pieces(place, bytes.len()) {
            // A value of this many bytes, in the order of this process.
            let mut value = [0; 8];
            value[..size].copy_from_slice(&bytes[at..at + size]);
            let [a, b, c, d, ..] = value;
            // SAFETY: as for reading; that the device may write it is what `DmaSpace::map` asks of who maps memory.
            unsafe {
                match size {
                    8 => at_place::<AtomicU64>(place + at).store(u64::from_ne_bytes(value), Release),
                    4 => at_place::<AtomicU32>(place + at).store(u32::from_ne_bytes([a, b, c, d]), Release),
                    _ => at_place::<AtomicU8>(place + at).store(a, Release),
                }
            }
        }
        Ok(())
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
        table.ranges.insert(device, range);
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
}
