//! Memory for pools and rings: huge pages where there are any, bound to a NUMA node, and shareable.
//!
//! A reservation takes the first of these that the machine can give, and the [report](MemoryReport) says which:
//!
//! 1. hugetlb pages of 1 GiB, for at least 256 MiB; what is left of one serves later reservations;
//! 2. hugetlb pages of 2 MiB (or what the processor has);
//! 3. transparent huge pages, for memory that is not shared;
//! 4. ordinary pages.
//!
//! All of it is populated at once, so that a lack of pages is an error of the reservation and not a signal later.

use std::fmt;

mod error;
mod hugefile;
pub mod hugetlb;
mod ledger;
mod manager;
mod mapping;
mod meminfo;
mod numa;
mod region;
mod report;
mod segment;
pub mod transparent;

pub use error::{Attempt, MemoryError};
pub(crate) use manager::{MemoryConfig, MemoryManager};
pub use region::Region;
pub use report::MemoryReport;

/// What kind of pages a region is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PageKind {
    /// Pages of this many bytes out of the kernel's hugetlb pool.
    Hugetlb(usize),
    /// Ordinary memory that the kernel gave as huge pages of this many bytes, for the most part.
    Transparent(usize),
    /// Ordinary pages of this many bytes.
    Base(usize),
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hugetlb(size) => write!(f, "{} kB hugepages", size / 1024),
            Self::Transparent(_) => f.write_str("transparent huge pages"),
            Self::Base(size) => write!(f, "{} kB pages", size / 1024),
        }
    }
}

/// A wish for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRequest {
    len: usize,
    align: usize,
    numa: Option<u32>,
    shared: bool,
    name: String,
}

impl MemoryRequest {
    /// `len` bytes (1 to `isize::MAX`), aligned to a page, on any node, private and without a name.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { len, align: 1, numa: None, shared: false, name: String::new() }
    }

    /// Aligned to `align` bytes: a power of two, at most 1 GiB. A region is always aligned to a page.
    #[must_use]
    pub fn align(mut self, align: usize) -> Self {
        self.align = align;
        self
    }

    /// On this NUMA node, or on any. Hugetlb pages come from that node or not at all; other pages rather from it.
    #[must_use]
    pub fn numa(mut self, node: Option<u32>) -> Self {
        self.numa = node;
        self
    }

    /// Whether another process is to map it, by [`shared_fd`](wirerate_mempool::Memory::shared_fd). Whoever gets
    /// that descriptor can reach all shared regions in the same 1 GiB pages, and no private one.
    #[must_use]
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// What it is for, as messages show it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

/// A number of bytes for people: `42 MiB`, `1.5 GiB`.
#[derive(Debug, Clone, Copy)]
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        for (unit, size) in UNITS {
            if self.0 >= size {
                return match self.0 % size {
                    0 => write!(f, "{} {unit}", self.0 / size),
                    _ => write!(f, "{:.1} {unit}", self.0 as f64 / size as f64),
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// The command that reserves hugepages for at least this many bytes.
fn reserve_command(bytes: u64) -> String {
    match bytes.div_ceil(1 << 20).next_multiple_of(2) {
        mib if mib % 1024 == 0 => format!("`wirerate hugepages --reserve {}G` as root", mib / 1024),
        mib => format!("`wirerate hugepages --reserve {mib}M` as root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_largest_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (4096, "4 KiB"),
            (42 << 20, "42 MiB"),
            (3 << 29, "1.5 GiB"),
            (1 << 40, "1 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(PageKind::Hugetlb(2 << 20).to_string(), "2048 kB hugepages");
        assert_eq!(reserve_command(1), "`wirerate hugepages --reserve 2M` as root");
        assert_eq!(reserve_command((1 << 30) - 5), "`wirerate hugepages --reserve 1G` as root");
    }
}
