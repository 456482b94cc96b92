//! The memory that the other side shares with this process, and what its addresses mean here.
//!
//! A back end of vhost-user gets the memory of its front end as a table of regions, each a file that both map.
//! A region is known by two addresses: the guest address, which stands in descriptors, and the user address (the
//! front end's virtual address), which tells where the rings are. [`SharedMemory`] translates both.
//!
//! The table never changes: new memory is a new table, and the old one stays mapped while anybody holds its `Arc`.
//!
//! # What the other side can still do
//! Whatever lies in shared memory may change at any time, so it is read once, by volatile or atomic accesses, and
//! checked after it was read.
//!
//! A file is checked to be long enough before it is mapped. The protocol does not keep its owner from making it
//! shorter later: a later access to a page that is gone ends this process by SIGBUS. Only a file with the seal
//! `F_SEAL_SHRINK` (memfd_create(2)) is safe from that: QEMU's `memory-backend-memfd` has it, and its memory from
//! files and DPDK's have not. In the same way, a file
//! of a file system in user space may keep an access waiting. This is a known weakness of vhost-user, the same in
//! every back end; [`SharedRegion::sealed`] tells whether a region has it.

use core::any::Any;
use core::fmt;
use core::ptr::NonNull;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::mm::{Advice, madvise};
use rustix::param::page_size;
use thiserror::Error;

/// As many regions as a table may have (vhost-user specification, "Memory regions description").
pub const MAX_REGIONS: usize = 8;

/// The largest page that a file is believed to have; what claims more is mapped by small pages.
const MAX_PAGE: u64 = 16 << 30;

/// Why memory cannot be shared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SharedMemoryError {
    /// A table without regions, or with too many.
    #[error("a table of {found} memory regions; expected 1 to {MAX_REGIONS}")]
    Regions {
        /// How many there are.
        found: usize,
    },
    /// A region of no length, or one whose end is beyond the last address.
    #[error(
        "memory region at guest address {guest:#x}, user address {user:#x}: \
         its length {len:#x} is zero, or beyond the last address"
    )]
    Range {
        /// Where it begins for the guest.
        guest: u64,
        /// Where it begins for the front end.
        user: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Two regions that share addresses.
    #[error("memory regions overlap in their {space} addresses, {first:#x} and {second:#x}")]
    Overlap {
        /// `guest` or `user`.
        space: &'static str,
        /// Where one begins.
        first: u64,
        /// Where the other begins.
        second: u64,
    },
    /// A descriptor that is no plain file, or not as long as it is said to be.
    #[error("memory region of {len:#x} bytes at offset {offset:#x} of a file: {problem}")]
    File {
        /// Bytes of the region.
        len: u64,
        /// Where in the file it begins.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The system does not map it.
    #[error("could not map {len:#x} bytes of shared memory: {source}")]
    Map {
        /// Bytes of the region.
        len: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// Where a region is, and in which part of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionPlace {
    /// The guest address of its first byte.
    pub guest: u64,
    /// The user address of its first byte.
    pub user: u64,
    /// Bytes.
    pub len: u64,
    /// Where in the file it begins, in bytes. Need not be a multiple of anything.
    pub offset: u64,
}

/// Memory without a gap, shared with another process.
pub struct SharedRegion {
    guest: u64,
    user: u64,
    len: u64,
    host: NonNull<u8>,
    sealed: bool,
    /// What keeps the memory, until it is dropped: a mapping, or what the maker gave.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: a region hands out addresses and lengths, and never reads or writes the memory. Its owner is required
// to be `Send`.
unsafe impl Send for SharedRegion {}
// SAFETY: as above; nothing changes behind a shared reference.
unsafe impl Sync for SharedRegion {}

impl SharedRegion {
    /// Maps a part of a file of another process, shared and writable. The descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`SharedMemoryError`] when the place wraps around, when the descriptor is no plain file or ends before the
    /// region does, or when the system does not map it.
    pub fn map(fd: OwnedFd, place: RegionPlace) -> Result<Self, SharedMemoryError> {
        let RegionPlace { guest, user, len, offset } = place;
        check_range(guest, user, len)?;
        let file_error = |problem: String| SharedMemoryError::File { len, offset, problem };
        let map_error = |source| SharedMemoryError::Map { len, source };
        let end =
            offset.checked_add(len).ok_or_else(|| file_error("it ends beyond the last offset".into()))?;

        let file = File::from(fd);
        let about = file.metadata().map_err(map_error)?;
        if !about.is_file() {
            return Err(file_error("expected a plain file (memfd, hugetlbfs, tmpfs)".into()));
        }
        if about.len() < end {
            return Err(file_error(format!(
                "the file has {:#x} bytes, and an access beyond them is fatal",
                about.len()
            )));
        }
        // A file of huge pages is mapped and unmapped by whole pages, and tells their size as its block size.
        let page = Some(about.blksize())
            .filter(|size| size.is_power_of_two() && (page_size() as u64..=MAX_PAGE).contains(size))
            .unwrap_or(page_size() as u64);
        let first = offset & !(page - 1);
        let whole = (end - first)
            .checked_next_multiple_of(page)
            .and_then(|whole| usize::try_from(whole).ok())
            .filter(|&whole| isize::try_from(whole).is_ok())
            .ok_or_else(|| file_error("it is longer than an address space".into()))?;
        let mapping = MmapOptions::new().offset(first).len(whole).map_raw(&file).map_err(map_error)?;
        let sealed = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        // SAFETY: the mapping is `whole` bytes, and the advice changes nothing but what a core dump holds.
        // That a kernel does not know it is no matter.
        let _ = unsafe { madvise(mapping.as_mut_ptr().cast(), whole, Advice::LinuxDontDump) };
        let skip =
            usize::try_from(offset - first).map_err(|_| file_error("its offset is out of reach".into()))?;
        // In bounds: `skip + len` is `end - first`, which is at most `whole`.
        let host = NonNull::new(mapping.as_mut_ptr().wrapping_add(skip))
            .ok_or_else(|| map_error(io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Self { guest, user, len, host, sealed, _owner: Box::new(mapping) })
    }

    /// Memory of this process, zeroed and by whole pages, as if another process had shared it: for tests, and
    /// for both ends of a ring in one process.
    ///
    /// # Errors
    /// [`SharedMemoryError`] when the place wraps around, or when the system gives no memory.
    pub fn anonymous(guest: u64, user: u64, len: usize) -> Result<Self, SharedMemoryError> {
        check_range(guest, user, len as u64)?;
        let map_error = |source| SharedMemoryError::Map { len: len as u64, source };
        let mapping = MmapRaw::from(MmapOptions::new().len(len).map_anon().map_err(map_error)?);
        let host = NonNull::new(mapping.as_mut_ptr())
            .ok_or_else(|| map_error(io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Self { guest, user, len: len as u64, host, sealed: true, _owner: Box::new(mapping) })
    }

    /// Memory that something else keeps, until the region is dropped.
    ///
    /// # Errors
    /// [`SharedMemoryError::Range`] when a range is empty or wraps around.
    ///
    /// # Safety
    /// `len` bytes from `host` stay valid for reads and writes, by any thread, until `owner` is dropped; and while
    /// the region is there, nobody holds a reference into them.
    pub unsafe fn from_raw(
        guest: u64,
        user: u64,
        host: NonNull<u8>,
        len: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Self, SharedMemoryError> {
        check_range(guest, user, len as u64)?;
        check_range(host.addr().get() as u64, user, len as u64)?;
        Ok(Self { guest, user, len: len as u64, host, sealed: true, _owner: owner })
    }

    /// The guest address of the first byte.
    #[inline]
    #[must_use]
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// The user address of the first byte.
    #[inline]
    #[must_use]
    pub fn user(&self) -> u64 {
        self.user
    }

    /// Bytes.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The first byte, here. Valid for reads and writes of [`len`](Self::len) bytes while the region is there.
    #[inline]
    #[must_use]
    pub fn host(&self) -> NonNull<u8> {
        self.host
    }

    /// Whether its owner cannot take the memory away by shortening the file; see the [module](self).
    #[must_use]
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// Where `len` bytes from a guest address are, if all of them lie in this region.
    #[inline]
    #[must_use]
    pub fn translate(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        self.at(address.wrapping_sub(self.guest), len)
    }

    /// Where `len` bytes from an offset are. An offset from an address below the region has wrapped around, and
    /// is beyond every region, since none reaches past the last address.
    #[inline]
    fn at(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        if offset < self.len && len <= self.len - offset {
            // SAFETY: `offset` is less than the length of the region, all of which is one mapping.
            Some(unsafe { self.host.add(offset as usize) })
        } else {
            None
        }
    }
}

impl fmt::Debug for SharedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRegion")
            .field("guest", &format_args!("{:#x}", self.guest))
            .field("user", &format_args!("{:#x}", self.user))
            .field("len", &format_args!("{:#x}", self.len))
            .field("host", &self.host)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

/// The memory that another process shares: 1 to [`MAX_REGIONS`] regions that do not overlap.
#[derive(Debug)]
pub struct SharedMemory {
    regions: Box<[SharedRegion]>,
}

impl SharedMemory {
    /// A table of these regions.
    ///
    /// # Errors
    /// [`SharedMemoryError`] when there are none or more than [`MAX_REGIONS`], or when two overlap in their guest
    /// or in their user addresses.
    pub fn new(regions: Vec<SharedRegion>) -> Result<Self, SharedMemoryError> {
        if regions.is_empty() || regions.len() > MAX_REGIONS {
            return Err(SharedMemoryError::Regions { found: regions.len() });
        }
        for (index, one) in regions.iter().enumerate() {
            for other in regions.iter().skip(index + 1) {
                let overlap = |space, first: u64, second: u64| {
                    // No sum here can overflow: each region was checked when it was made.
                    let apart = first + (one.len - 1) < second || second + (other.len - 1) < first;
                    if apart { Ok(()) } else { Err(SharedMemoryError::Overlap { space, first, second }) }
                };
                overlap("guest", one.guest, other.guest)?;
                overlap("user", one.user, other.user)?;
            }
        }
        Ok(Self { regions: regions.into_boxed_slice() })
    }

    /// Where `len` bytes from a guest address are, if all of them lie in one region.
    #[inline]
    #[must_use]
    pub fn guest(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| region.translate(address, len))
    }

    /// Where `len` bytes from a user address are, if all of them lie in one region.
    #[inline]
    #[must_use]
    pub fn user(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| region.at(address.wrapping_sub(region.user), len))
    }

    /// Where a guest address is, and how many bytes follow it without a gap: to the end of its region. What is
    /// longer goes on at the next guest address, which may lie in another region.
    #[inline]
    #[must_use]
    pub fn guest_run(&self, address: u64) -> Option<(NonNull<u8>, u64)> {
        let region = self.find(address)?;
        let offset = address - region.guest;
        Some((region.at(offset, 1)?, region.len - offset))
    }

    /// The region that a guest address lies in.
    #[inline]
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&SharedRegion> {
        self.regions.iter().find(|region| address.wrapping_sub(region.guest) < region.len)
    }

    /// All regions.
    #[must_use]
    pub fn regions(&self) -> &[SharedRegion] {
        &self.regions
    }
}

/// A region has a length, and neither address wraps around before its end. The last address itself is not used,
/// so that an end can always be written down.
fn check_range(guest: u64, user: u64, len: u64) -> Result<(), SharedMemoryError> {
    if len == 0 || guest.checked_add(len).is_none() || user.checked_add(len).is_none() {
        return Err(SharedMemoryError::Range { guest, user, len });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    fn file(len: u64) -> OwnedFd {
        let fd = memfd_create("wirerate-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    fn anonymous(guest: u64, user: u64, len: usize) -> SharedRegion {
        SharedRegion::anonymous(guest, user, len).unwrap()
    }

    #[test]
    fn a_file_is_mapped_where_it_is_said_to_begin() {
        let fd = file(3 * 4096);
        let place = RegionPlace { guest: 0x10_0000, user: 0x7000_0000, len: 4096, offset: 0x1800 };
        let region = SharedRegion::map(fd.try_clone().unwrap(), place).unwrap();
        assert!(!region.sealed());
        let memory = SharedMemory::new(vec![region]).unwrap();
        let at = memory.guest(0x10_0010, 8).unwrap();
        assert_eq!(Some(at), memory.user(0x7000_0010, 8));
        // SAFETY: eight bytes inside the region, which nobody else touches.
        unsafe { at.cast::<u64>().write_unaligned(0x1122_3344_5566_7788) };
        let mut bytes = [0; 8];
        rustix::io::pread(&fd, &mut bytes, 0x1810).unwrap();
        assert_eq!(bytes, 0x1122_3344_5566_7788_u64.to_ne_bytes());

        fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        assert!(SharedRegion::map(fd, place).unwrap().sealed());
    }

    #[test]
    fn a_file_that_ends_early_is_refused() {
        let place = RegionPlace { guest: 0, user: 0, len: 4096, offset: 4096 };
        let refused = SharedRegion::map(file(8191), place).unwrap_err();
        assert!(matches!(refused, SharedMemoryError::File { .. }), "{refused}");
        assert!(refused.to_string().contains("0x1fff"), "{refused}");
        SharedRegion::map(file(8192), place).unwrap();
        let (pipe, _write) = io::pipe().unwrap();
        assert!(SharedRegion::map(pipe.into(), place).unwrap_err().to_string().contains("plain file"));
    }

    #[test]
    fn cve_2020_10722_offset_and_size_that_overflow_are_refused() {
        for (len, offset) in [(4096, u64::MAX - 4095), (u64::MAX - 4096, 4097), (u64::MAX, 1), (0, 0)] {
            let place = RegionPlace { guest: 0, user: 0, len, offset };
            assert!(SharedRegion::map(file(4096), place).is_err(), "{place:?}");
        }
        for (guest, user) in [(u64::MAX - 100, 0), (0, u64::MAX - 100)] {
            let place = RegionPlace { guest, user, len: 4096, offset: 0 };
            let refused = SharedRegion::map(file(4096), place).unwrap_err();
            assert!(matches!(refused, SharedMemoryError::Range { .. }), "{refused}");
        }
    }

    #[test]
    fn cve_2018_1059_all_of_a_range_must_lie_in_its_region() {
        // Two regions that touch in guest addresses, and lie anywhere here.
        let memory =
            SharedMemory::new(vec![anonymous(0x1000, 0x9000, 0x1000), anonymous(0x2000, 0x20_0000, 0x1000)])
                .unwrap();
        let first = memory.regions()[0].host();
        assert_eq!(memory.guest(0x1000, 0x1000), Some(first));
        assert_eq!(memory.guest(0x1001, 0xfff).map(|at| at.addr().get()), Some(first.addr().get() + 1));
        assert_eq!(memory.guest(0x1001, 0x1000), None);
        assert_eq!(memory.guest(0x1fff, 2), None);
        assert_eq!(memory.guest(0x1fff, u64::MAX), None);
        assert_eq!(memory.guest(0xfff, 2), None);
        assert_eq!(memory.guest(0x3000, 0), None);
        assert_eq!(memory.guest(u64::MAX, 1), None);
        assert_eq!(memory.user(0x9fff, 1).map(|at| at.addr().get()), Some(first.addr().get() + 0xfff));
        assert_eq!(memory.user(0x9fff, 2), None);
        assert_eq!(memory.user(0x1000, 1), None);
        // A caller crosses the border piece by piece.
        let (at, run) = memory.guest_run(0x1ff0).unwrap();
        assert_eq!((at.addr().get() - first.addr().get(), run), (0xff0, 0x10));
        assert_eq!(memory.guest_run(0x2000), Some((memory.regions()[1].host(), 0x1000)));
        assert_eq!(memory.guest_run(0x3000), None);
        assert_eq!(memory.find(0x2fff).map(SharedRegion::guest), Some(0x2000));
        assert!(memory.find(0xfff).is_none());
    }

    #[test]
    fn regions_that_overlap_and_tables_that_are_too_long_are_refused() {
        let overlapping = SharedMemory::new(vec![anonymous(0, 0, 8192), anonymous(8191, 0x10_0000, 4096)]);
        assert!(matches!(overlapping, Err(SharedMemoryError::Overlap { space: "guest", .. })));
        let overlapping = SharedMemory::new(vec![anonymous(0x10_0000, 4096, 4096), anonymous(0, 0, 8192)]);
        assert!(matches!(overlapping, Err(SharedMemoryError::Overlap { space: "user", .. })));
        let table = |regions: u64| {
            SharedMemory::new((0..regions).map(|n| anonymous(n * 4096, n * 4096, 4096)).collect())
        };
        assert!(matches!(table(0), Err(SharedMemoryError::Regions { found: 0 })));
        assert!(table(8).is_ok());
        assert!(matches!(table(9), Err(SharedMemoryError::Regions { found: 9 })));
    }

    #[test]
    fn an_owner_goes_with_its_region() {
        struct Owner(Arc<AtomicBool>, Box<[u64; 8]>);
        impl Drop for Owner {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let gone = Arc::new(AtomicBool::new(false));
        let mut owner = Box::new(Owner(Arc::clone(&gone), Box::new([0; 8])));
        let host = NonNull::from_mut(owner.1.as_mut()).cast::<u8>();
        // SAFETY: 64 bytes that live as long as their owner, and that nobody reads.
        let region = unsafe { SharedRegion::from_raw(0, 0, host, 64, owner) }.unwrap();
        let memory = SharedMemory::new(vec![region]).unwrap();
        assert!(!gone.load(Ordering::Relaxed));
        drop(memory);
        assert!(gone.load(Ordering::Relaxed));
    }
}
