//! What memory was obtained, and what would give better.

use std::fmt;

use super::hugetlb::HugetlbPool;
use super::transparent::TransparentMode;
use super::{Bytes, PageKind, reserve_command};

/// The memory of an environment at one moment. Its text is one line:
///
/// ```text
/// memory: 42 MiB in 4 kB pages (2048 kB hugepages: 0 of 0 free; run `wirerate hugepages --reserve 42M` as root for
/// fewer TLB misses)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReport {
    pub(super) obtained: Vec<(PageKind, u64)>,
    pub(super) pools: Vec<HugetlbPool>,
    pub(super) transparent: TransparentMode,
    pub(super) no_huge: bool,
}

impl MemoryReport {
    /// Bytes in regions now, by kind of page.
    #[must_use]
    pub fn obtained(&self) -> &[(PageKind, u64)] {
        &self.obtained
    }

    /// Bytes in regions now.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.obtained.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The kernel's pools of hugetlb pages, the largest pages first.
    #[must_use]
    pub fn pools(&self) -> &[HugetlbPool] {
        &self.pools
    }

    /// Bytes that are not in hugetlb pages, though they could be.
    fn missed(&self) -> u64 {
        let is_hugetlb = |kind: &PageKind| matches!(kind, PageKind::Hugetlb(_));
        self.obtained.iter().filter(|(kind, _)| !is_hugetlb(kind)).map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory: ")?;
        if self.obtained.is_empty() {
            return f.write_str("nothing reserved");
        }
        for (index, (kind, bytes)) in self.obtained.iter().enumerate() {
            write!(f, "{}{} in {kind}", if index == 0 { "" } else { ", " }, Bytes(*bytes))?;
        }
        let missed = self.missed();
        if missed == 0 {
            return Ok(());
        }
        if self.no_huge {
            return f.write_str(" (--no-huge: hugepages were not tried)");
        }
        // Gigantic pages are rare and no default; they are told of only where somebody set them up.
        let worth_telling = |pool: &&HugetlbPool| pool.page_size < 1 << 30 || pool.total > 0;
        f.write_str(" (")?;
        for pool in self.pools.iter().filter(worth_telling) {
            let (free, total) = pool.counts(None);
            write!(f, "{}: {free} of {total} free; ", PageKind::Hugetlb(pool.page_size))?;
        }
        match (self.pools.is_empty(), self.transparent) {
            (false, _) => write!(f, "run {} for fewer TLB misses)", reserve_command(missed)),
            (true, TransparentMode::Never) => f.write_str("this kernel has no huge pages)"),
            (true, _) => f.write_str("this kernel has no hugetlb pages)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(obtained: &[(PageKind, u64)], pages: u64) -> MemoryReport {
        let pool = |page_size, total| HugetlbPool {
            page_size,
            total,
            free: 0,
            reserved: 0,
            surplus: 0,
            nodes: Vec::new(),
        };
        MemoryReport {
            obtained: obtained.to_vec(),
            pools: vec![pool(1 << 30, 0), pool(2 << 20, pages)],
            transparent: TransparentMode::Advised,
            no_huge: false,
        }
    }

    #[test]
    fn what_is_missing_is_told_with_the_command_that_mends_it() {
        let base = (PageKind::Base(4096), 42 << 20);
        assert_eq!(
            report(&[base], 0).to_string(),
            "memory: 42 MiB in 4 kB pages (2048 kB hugepages: 0 of 0 free; run `wirerate hugepages --reserve 42M` as \
             root for fewer TLB misses)"
        );
        let mixed =
            report(&[(PageKind::Hugetlb(2 << 20), 1 << 30), (PageKind::Transparent(2 << 20), 1 << 30)], 512);
        assert_eq!(
            mixed.to_string(),
            "memory: 1 GiB in 2048 kB hugepages, 1 GiB in transparent huge pages (2048 kB hugepages: 0 of 512 free; \
             run `wirerate hugepages --reserve 1G` as root for fewer TLB misses)"
        );
        assert_eq!(mixed.total(), 2 << 30);
    }

    #[test]
    fn nothing_is_missing_when_all_is_huge_or_nobody_wants_it() {
        let huge = report(&[(PageKind::Hugetlb(2 << 20), 2 << 20)], 1);
        assert_eq!(huge.to_string(), "memory: 2 MiB in 2048 kB hugepages");
        let unwanted = MemoryReport { no_huge: true, ..report(&[(PageKind::Base(4096), 4096)], 0) };
        assert_eq!(unwanted.to_string(), "memory: 4 KiB in 4 kB pages (--no-huge: hugepages were not tried)");
        assert_eq!(report(&[], 0).to_string(), "memory: nothing reserved");
        let none = MemoryReport { pools: Vec::new(), ..report(&[(PageKind::Base(4096), 4096)], 0) };
        assert!(none.to_string().ends_with("(this kernel has no hugetlb pages)"));
    }
}
