//! Memory by its physical addresses, where no IOMMU translates: `/proc/self/pagemap` tells them
//! (`Documentation/admin-guide/mm/pagemap.rst`).
//!
//! Pages are locked in memory while they are mapped, and a process that is forked does not get them, lest a write moves
//! them. The kernel may still move pages that are not of hugetlbfs when it compacts memory, unless
//! `vm.compact_unevictable_allowed` is 0.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::mm::{Advice, madvise, mlock, munlock};

use super::memlock;
use super::space::Mapper;
use super::{DmaError, DmaRange};

/// Maps by locking pages and asking where they are.
#[derive(Debug, Default)]
pub(crate) struct Physical {
    locked: usize,
    warned: bool,
}

impl Mapper for Physical {
    fn page(&self) -> usize {
        rustix::param::page_size()
    }

    fn map(&mut self, pages: Range<usize>) -> Result<Box<[DmaRange]>, DmaError> {
        let (address, len) = (pointer(pages.start), pages.len());
        // SAFETY: locking pages changes nothing in them, and pages that are not there are refused.
        unsafe { mlock(address, len) }.map_err(|error| match error {
            Errno::NOMEM | Errno::PERM | Errno::AGAIN => memlock::refused(len, self.locked),
            _ => refused(&pages, &format!("locking them failed: {error}")),
        })?;
        let ranges = keep_from_children(&pages, Advice::LinuxDontFork)
            .map_err(|error| refused(&pages, &format!("keeping them from forked processes failed: {error}")))
            .and_then(|()| physical(&pages, self.page()))
            .inspect_err(|_| unlock(&pages))?;
        self.locked += len;
        Ok(ranges.into())
    }

    fn look_at(&mut self, memory_page: usize) {
        if memory_page <= self.page() && !self.warned {
            self.warned = true;
            tracing::warn!(
                "devices use physical addresses of pages that the kernel may move: reserve hugepages, or set \
                 vm.compact_unevictable_allowed to 0"
            );
        }
    }

    fn unmap(&mut self, ranges: &[DmaRange]) {
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
        let pages = first.base..last.base + last.len;
        self.locked -= pages.len();
        unlock(&pages);
    }
}

fn pointer(address: usize) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address)
}

fn keep_from_children(pages: &Range<usize>, advice: Advice) -> io::Result<()> {
    // SAFETY: the advice says whether a forked process has the pages, and changes nothing in this one.
    match unsafe { madvise(pointer(pages.start), pages.len(), advice) } {
        // A part of a huge page. Those of this crate are mapped shared, so that a fork does not move them.
        Err(Errno::INVAL) => Ok(()),
        other => other.map_err(Into::into),
    }
}

fn unlock(pages: &Range<usize>) {
    // SAFETY: unlocking pages changes nothing in them.
    let unlocked = unsafe { munlock(pointer(pages.start), pages.len()) };
    let unlocked = unlocked.map_err(Into::into).and(keep_from_children(pages, Advice::LinuxDoFork));
    if let Err(error) = unlocked {
        tracing::debug!("unlocking {} bytes at {:#x} failed: {error}", pages.len(), pages.start);
    }
}

fn refused(pages: &Range<usize>, problem: &str) -> DmaError {
    DmaError::Refused {
        problem: format!("mapping {} bytes at {:#x} for devices: {problem}", pages.len(), pages.start),
    }
}

/// Where `pages`, of `page` bytes each, are.
fn physical(pages: &Range<usize>, page: usize) -> Result<Vec<DmaRange>, DmaError> {
    let mut entries = vec![0; pages.len() / page * 8];
    File::open("/proc/self/pagemap")
        .and_then(|pagemap| pagemap.read_exact_at(&mut entries, (pages.start / page * 8) as u64))
        .map_err(|error| refused(pages, &format!("reading /proc/self/pagemap failed: {error}")))?;
    let entries = entries.chunks_exact(8).map(|entry| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(entry);
        u64::from_ne_bytes(bytes)
    });
    merge(pages.start, page, entries).map_err(|problem| refused(pages, problem))
}

/// A page is in memory, and the bits of its number.
const PRESENT: u64 = 1 << 63;
const NUMBER: u64 = (1 << 55) - 1;

/// Ranges of pages that follow each other here and in memory.
fn merge(
    base: usize,
    page: usize,
    entries: impl Iterator<Item = u64>,
) -> Result<Vec<DmaRange>, &'static str> {
    let mut ranges: Vec<DmaRange> = Vec::new();
    for (index, entry) in entries.enumerate() {
        if entry & PRESENT == 0 {
            return Err("a page is not in memory although it was locked");
        }
        let number = entry & NUMBER;
        if number == 0 {
            return Err(
                "the kernel does not tell physical addresses: give the program CAP_SYS_ADMIN, or use vfio-pci \
                        with an IOMMU, which needs none",
            );
        }
        let device = number.checked_mul(page as u64).ok_or("a page has a number that is too large")?;
        match ranges.last_mut() {
            Some(last) if last.device + last.len as u64 == device => last.len += page,
            _ => ranges.push(DmaRange { base: base + index * page, len: page, device }),
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn pages_that_follow_each_other_are_one_range() {
        let numbers = [0x100, 0x101, 0x102, 0x200, 0x1ff, 0x200];
        // Other bits say other things of a page.
        let entries = numbers.map(|number| number | PRESENT | 1 << 61 | 1 << 55);
        let ranges = merge(0x7000_0000, 4096, entries.into_iter()).unwrap();
        let range = |base, len, device| DmaRange { base, len, device };
        assert_eq!(
            ranges,
            [
                range(0x7000_0000, 0x3000, 0x10_0000),
                range(0x7000_3000, 0x1000, 0x20_0000),
                range(0x7000_4000, 0x2000, 0x1f_f000),
            ]
        );
        assert!(merge(0, 4096, std::iter::empty()).unwrap().is_empty());
    }

    #[test]
    fn pages_without_a_number_are_an_error_that_says_why() {
        assert!(merge(0, 4096, [PRESENT].into_iter()).unwrap_err().contains("CAP_SYS_ADMIN"));
        assert!(merge(0, 4096, [0x100].into_iter()).unwrap_err().contains("not in memory"));
        assert!(merge(0, 64 << 10, [PRESENT | NUMBER].into_iter()).unwrap_err().contains("too large"));
    }

    #[test]
    fn pages_that_are_not_there_are_refused() {
        let mut physical = Physical::default();
        assert!(physical.map(0x1000..0x2000).is_err());
        assert_eq!(physical.locked, 0);
    }
}
