//! How a pool is to be.

use alloc::string::String;

use crate::PoolError;
use crate::debug::{self, LeakReport, Zones};
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
    guards: bool,
    poison: Poison,
    on_leak: Option<Tell>,
}

/// What is called with a report of leaks.
#[derive(Debug, Clone, Copy)]
struct Tell(fn(&LeakReport));

impl PartialEq for Tell {
    /// Two functions may have one address, or one function two; for configurations that is good enough.
    fn eq(&self, other: &Self) -> bool {
        core::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Tell {}

/// Whether it is noted what is in free objects, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poison {
    Off,
    /// Objects keep what is in them.
    Copy,
    /// They need not.
    Fill,
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
        Self {
            name: name.into(),
            count,
            object_size,
            align: Self::DEFAULT_ALIGN,
            cache: Self::DEFAULT_CACHE,
            guards: true,
            poison: Poison::Off,
            on_leak: None,
        }
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

    /// Whether debug builds keep guards around the objects, which they do unless this says otherwise. Release
    /// builds have none, and lay out memory as if this were not there.
    ///
    /// Guards are known bytes, at least 8 behind each object and as many in front of each but the first one.
    /// A get, a put and an [`audit`](crate::RawPool::audit) look at them: what was written there was written
    /// out of bounds, and is told with the object and the place where it was got, by a panic or an error.
    ///
    /// They need memory, 16 bytes an object and what the alignment makes of that, and
    /// [`memory_len`](Self::memory_len) counts it. Where the memory brought has no room for them (it was
    /// sized in another way, or the pages that a device sees leave no space between objects), the pool does
    /// without; [`RawPool::is_guarded`](crate::RawPool::is_guarded) tells. So a program that brings just what
    /// its objects need runs in debug builds as it does in others. Turn guards off where objects must lie as
    /// close as they do in release builds.
    #[must_use]
    pub fn guards(mut self, on: bool) -> Self {
        self.guards = on;
        self
    }

    /// Whether debug builds find writes to free objects, which they do not unless this asks for it. Release
    /// builds never do.
    ///
    /// A put notes what is in the object, and the next get (or an [`audit`](crate::RawPool::audit)) compares: if
    /// a byte has changed, someone wrote to it after it was put, and a panic (or an error) names the byte and
    /// the place of the put.
    /// - A pool of [`RawPool::new`](crate::RawPool::new) fills objects with `0xdd` at each put, so what was in
    ///   them is lost. A use of such an object shows too, by what is read.
    /// - Objects made by [`RawPool::with_init`](crate::RawPool::with_init), and the values of a
    ///   [`Pool`](crate::Pool), keep what is in them, so a copy is kept beside, in as much memory again. If
    ///   your objects keep something between uses, make the pool with an `init`, if only an empty one.
    ///
    /// Both write or read the whole object at each put and each get: about as long as a copy of it takes.
    /// That is why it has to be asked for. Values with padding between their fields have bytes which valgrind
    /// holds for uninitialised when they are compared.
    #[must_use]
    pub fn poison(mut self, on: bool) -> Self {
        self.poison = if on { Poison::Copy } else { Poison::Off };
        self
    }

    /// What is called when the last handle of the pool goes and objects are in use: with a report of them,
    /// by the thread that drops the handle. In debug builds the report tells where they were got.
    ///
    /// Objects may outlive the handles, so it is not an error by itself, and nothing is told unless asked for.
    /// A panic in `tell` leaves the memory of the pool allocated.
    ///
    /// ```
    /// use wirerate_mempool::PoolConfig;
    ///
    /// let config = PoolConfig::new("buffers", 1024, 2048).on_leak(|report| eprintln!("{report}"));
    /// ```
    #[must_use]
    pub fn on_leak(mut self, tell: fn(&LeakReport)) -> Self {
        self.on_leak = Some(Tell(tell));
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
    ///
    /// In debug builds room for [`guards`](Self::guards) is counted, unless they are off.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        let guarded = self.zones().map(|zones| self.span(Some(zones.stride()), zones.extent()));
        guarded.unwrap_or_else(|| self.least_len())
    }

    /// As `memory_len`, without guards.
    pub(super) fn least_len(&self) -> usize {
        self.span(self.stride(), self.object_size)
    }

    /// Bytes from the first object to the end of the last, which has `last` bytes.
    fn span(&self, stride: Option<usize>, last: usize) -> usize {
        let before = stride.and_then(|stride| stride.checked_mul(self.count.saturating_sub(1)));
        before.and_then(|bytes| bytes.checked_add(last)).unwrap_or(usize::MAX)
    }

    /// Bytes from one object to the next, without guards; none if that is more than there can be.
    pub(crate) fn stride(&self) -> Option<usize> {
        self.object_size.checked_next_multiple_of(self.align.max(1))
    }

    /// How guards are to lie; none without them.
    pub(crate) fn zones(&self) -> Option<Zones> {
        (debug::ACTIVE && self.guards).then(|| Zones::new(self.object_size, self.align))?
    }

    /// For a pool whose objects need not keep what is in them while they are free.
    pub(super) fn forgetful(mut self) -> Self {
        if self.poison == Poison::Copy {
            self.poison = Poison::Fill;
        }
        self
    }

    /// Whether it is noted what is in free objects, and if so whether they are filled.
    #[cfg(all(debug_assertions, not(loom)))]
    pub(crate) fn poisoning(&self) -> Option<bool> {
        (self.poison != Poison::Off).then_some(self.poison == Poison::Fill)
    }

    /// What is told of leaks.
    pub(super) fn leak_hook(&self) -> Option<fn(&LeakReport)> {
        self.on_leak.map(|tell| tell.0)
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
                self.object_size > 0 && self.least_len() <= isize::MAX as usize,
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
        let bare = |count, size| PoolConfig::new("p", count, size).guards(false);
        assert_eq!(bare(10, 100).memory_len(), 9 * 128 + 100);
        assert_eq!(bare(10, 100).align(1).memory_len(), 1000);
        assert_eq!(bare(1, 1).memory_len(), 1);
        assert_eq!(bare(usize::MAX, 1 << 40).memory_len(), usize::MAX);
    }

    #[test]
    fn guards_need_memory_in_debug_builds_only() {
        let len = |size, align| PoolConfig::new("p", 10, size).align(align).memory_len();
        if debug::ACTIVE {
            // The gap of 28 bytes is there already, and half of it is needed behind the last one.
            assert_eq!(len(100, 64), 9 * 128 + 100 + 14);
            assert_eq!(len(128, 64), 9 * 192 + 128 + 32);
            assert_eq!(len(100, 1), 9 * 116 + 100 + 8);
        } else {
            assert_eq!(len(100, 64), 9 * 128 + 100);
            assert_eq!(len(128, 64), 10 * 128);
            assert_eq!(len(100, 1), 1000);
        }
        assert_eq!(PoolConfig::new("p", usize::MAX, 1 << 40).memory_len(), usize::MAX);
        assert_eq!(PoolConfig::new("p", 1, usize::MAX).memory_len(), usize::MAX);
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
