//! A reservation: memory that a pool or a ring owns.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use wirerate_mempool::Memory;

use super::ledger::Entry;
use super::mapping::Mapping;
use super::segment::Carved;
use super::{PageKind, meminfo};

/// Zeroed, populated memory, given back on drop. It may outlive the [`Eal`](crate::Eal) that it came from.
#[derive(Debug)]
pub struct Region {
    place: Place,
    len: usize,
    kind: PageKind,
    shared: bool,
    name: String,
    _entry: Entry,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Place {
    /// In a mapping of its own.
    Own(Mapping),
    /// In a part of a gigantic page.
    Carved(Carved),
}

impl Place {
    /// The mapping that it lies in, and where in it.
    fn mapping(&self) -> (&Mapping, usize) {
        match self {
            Self::Own(mapping) => (mapping, 0),
            Self::Carved(carved) => (carved.mapping(), carved.offset()),
        }
    }
}

impl Region {
    pub(super) fn new(
        place: Place,
        len: usize,
        kind: PageKind,
        shared: bool,
        name: String,
        entry: Entry,
    ) -> Self {
        let (mapping, offset) = place.mapping();
        debug_assert!(len <= mapping.len() - offset);
        Self { place, len, kind, shared, name, _entry: entry.obtained(kind) }
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(&self) -> PageKind {
        self.kind
    }

    /// The NUMA node to which its pages are bound; none if they may lie on any.
    #[must_use]
    pub fn numa(&self) -> Option<u32> {
        self.place.mapping().0.node()
    }

    /// What it is for; empty if nobody said.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

// SAFETY: the place is mapped readable and writable, `len` bytes of it belong to this region alone (a mapping of its
// own, or a range that no other region of the segment overlaps), and it moves and is given back only with the region.
unsafe impl Memory for Region {
    fn base(&self) -> NonNull<u8> {
        match &self.place {
            Place::Own(mapping) => mapping.base(),
            Place::Carved(carved) => carved.base(),
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    /// For transparent huge pages that of an ordinary page: the kernel may split them.
    fn page_size(&self) -> usize {
        match self.kind {
            PageKind::Hugetlb(size) | PageKind::Base(size) => size,
            PageKind::Transparent(_) => meminfo::page_size(),
        }
    }

    fn shared_fd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        if !self.shared {
            return None;
        }
        let (mapping, offset) = self.place.mapping();
        Some((mapping.file()?, offset as u64))
    }
}
