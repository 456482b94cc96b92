//! How a pool is to be.

use alloc::string::String;

use crate::PoolError;
use crate::magazine::Block;
use crate::slot::MAGAZINES;

/// How a pool is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    name: String,
    count: usize,
    object_size: usize,
    align: usize,
    cache: usize,
}

impl PoolConfig {
    /// Objects that a thread may keep at hand, unless set.
    pub const DEFAULT_CACHE: usize = 256;
    /// The alignment of objects in bytes, unless set: a cache line, so that no two share one.
    pub const DEFAULT_ALIGN: usize = 64;
    /// The largest cache.
    pub const MAX_CACHE: usize = 8192;
    /// The most objects that a pool can have.
    pub const MAX_COUNT: usize = 1 << 30;
    /// Objects of a magazine where threads have no caches.
    const SHARED_MAGAZINE: usize = 64;

    /// A pool of `count` objects (1 to [`MAX_COUNT`](Self::MAX_COUNT)) of `object_size` bytes (at least 1).
    /// The name is for messages.
    #[must_use]
    pub fn new(name: impl Into<String>, count: usize, object_size: usize) -> Self {
        Self { name: name.into(), count, object_size, align: Self::DEFAULT_ALIGN, cache: Self::DEFAULT_CACHE }
    }

    /// The alignment of objects in bytes, a power of two.
    #[must_use]
    pub fn align(mut self, bytes: usize) -> Self {
        self.align = bytes;
        self
    }

    /// The size of each thread's cache in objects, up to [`MAX_CACHE`](Self::MAX_CACHE): what a thread gets and
    /// puts back again and again may be as many without its going to the depot. To make that so, a cache has two
    /// magazines of this size (rounded up to a multiple of 8, and no larger than a quarter of the pool), and may
    /// come to hold twice as many; DPDK's, half as many again. A cache of 0 means none: every call takes the
    /// pool's lock, and all that is free is in one place.
    ///
    /// Bulks should be no larger than the cache. Objects kept at hand are not lost to others, who
    /// reclaim them when the pool runs dry; but that takes a system call.
    #[must_use]
    pub fn cache(mut self, objects: usize) -> Self {
        self.cache = objects;
        self
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Objects of the pool.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of an object.
    #[must_use]
    pub fn object_size(&self) -> usize {
        self.object_size
    }

    /// The alignment of objects in bytes.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.align
    }

    /// Objects that each thread may keep at hand.
    #[must_use]
    pub fn cache_size(&self) -> usize {
        self.cache
    }

    /// Bytes of memory that the objects need in one piece which is aligned as they are; `usize::MAX` if that
    /// is more than there can be. Memory in several pieces, or with device addresses that do not go on from
    /// page to page, may have to be larger, as an object lies in one piece.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        let before = self.stride().and_then(|stride| stride.checked_mul(self.count.saturating_sub(1)));
        before.and_then(|bytes| bytes.checked_add(self.object_size)).unwrap_or(usize::MAX)
    }

    /// Bytes from one object to the next; none if that is more than there can be.
    pub(super) fn stride(&self) -> Option<usize> {
        self.object_size.checked_next_multiple_of(self.align.max(1))
    }

    /// Objects of a magazine.
    pub(super) fn magazine(&self) -> usize {
        let wanted = if self.cache == 0 { Self::SHARED_MAGAZINE } else { self.cache };
        wanted.min(self.count / 4).max(1).next_multiple_of(8)
    }

    /// Magazines that hold all objects.
    pub(super) fn magazines(&self) -> usize {
        self.count.div_ceil(self.magazine())
    }

    pub(crate) fn check(&self) -> Result<(), PoolError> {
        let figures = [
            ("count", self.count, (1..=Self::MAX_COUNT).contains(&self.count), "1 to 1,073,741,824 objects"),
            (
                "object_size",
                self.object_size,
                self.object_size > 0 && self.memory_len() <= isize::MAX as usize,
                "at least 1 byte, and all objects within the address space",
            ),
            ("align", self.align, self.align.is_power_of_two(), "a power of two"),
            ("cache", self.cache, self.cache <= Self::MAX_CACHE, "0 to 8,192 objects"),
        ];
        match figures.into_iter().find(|(_, _, good, _)| !good) {
            None => Ok(()),
            Some((what, found, _, expected)) => {
                Err(PoolError::Config { name: self.name.clone(), what, found, expected })
            }
        }
    }

    /// The error when the heap has no room for the magazines.
    pub(super) fn no_tables(&self) -> PoolError {
        let magazines = u32::try_from(self.magazines() + MAGAZINES).unwrap_or(u32::MAX);
        PoolError::Tables { name: self.name.clone(), len: Block::bytes(magazines, self.magazine()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_computed_without_waste_behind_the_last_object() {
        assert_eq!(PoolConfig::new("p", 10, 100).memory_len(), 9 * 128 + 100);
        assert_eq!(PoolConfig::new("p", 10, 100).align(1).memory_len(), 1000);
        assert_eq!(PoolConfig::new("p", 1, 1).memory_len(), 1);
        assert_eq!(PoolConfig::new("p", usize::MAX, 1 << 40).memory_len(), usize::MAX);
    }

    #[test]
    fn magazines_are_caches_in_eights_and_no_more_than_a_quarter_of_the_pool() {
        for (cache, magazine) in [(1, 8), (8, 8), (17, 24), (256, 256), (500, 504), (512, 512), (0, 64)] {
            assert_eq!(PoolConfig::new("p", 10_000, 1).cache(cache).magazine(), magazine, "cache {cache}");
        }
        for (count, magazine) in [(1, 8), (63, 16), (1000, 256), (2048, 512)] {
            assert_eq!(PoolConfig::new("p", count, 1).cache(512).magazine(), magazine, "{count} objects");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let bad = |config: PoolConfig| match config.check() {
            Err(PoolError::Config { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(bad(PoolConfig::new("p", 0, 1)), "count");
        assert_eq!(bad(PoolConfig::new("p", (1 << 30) + 1, 1)), "count");
        assert_eq!(bad(PoolConfig::new("p", 1, 0)), "object_size");
        assert_eq!(bad(PoolConfig::new("p", 1, usize::MAX)), "object_size");
        assert_eq!(bad(PoolConfig::new("p", 1 << 20, 1 << 50)), "object_size");
        assert_eq!(bad(PoolConfig::new("p", 1, 1).align(48)), "align");
        assert_eq!(bad(PoolConfig::new("p", 1, 1).align(0)), "align");
        assert_eq!(bad(PoolConfig::new("p", 1, 1).cache(8193)), "cache");
        assert!(PoolConfig::new("p", 1, 1).check().is_ok());
    }
}
