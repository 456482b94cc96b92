//! How many objects a pool needs, and why.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

/// How many objects a pool needs so that it never runs dry: the sum of all places that can hold one at a
/// time.
///
/// ```
/// use wirerate_mempool::PoolSize;
///
/// let size = PoolSize::new().rings(2, 1024).caches(2, 256).bursts(4, 32);
/// assert_eq!(size.objects(), 2688);
/// assert_eq!(size.to_string(), "2 rings x 1024 + 2 threads x 256 cached + 4 bursts x 32 = 2688");
/// assert!(size.check(2048).is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSize {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    count: usize,
    each: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rings,
    Caches,
    Bursts,
    Spare,
}

impl PoolSize {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `count` rings of `descriptors` each, which may all hold an object.
    #[must_use]
    pub fn rings(self, count: usize, descriptors: usize) -> Self {
        self.with(count, descriptors, Kind::Rings)
    }

    /// `threads` threads with a cache of `objects` each. The pool reclaims what idles there when it runs dry,
    /// but that takes a system call, which the sum avoids.
    #[must_use]
    pub fn caches(self, threads: usize, objects: usize) -> Self {
        self.with(threads, objects, Kind::Caches)
    }

    /// `count` bursts in flight, of up to `objects` each.
    #[must_use]
    pub fn bursts(self, count: usize, objects: usize) -> Self {
        self.with(count, objects, Kind::Bursts)
    }

    /// `objects` more, for whatever the program keeps.
    #[must_use]
    pub fn spare(self, objects: usize) -> Self {
        self.with(1, objects, Kind::Spare)
    }

    fn with(mut self, count: usize, each: usize, kind: Kind) -> Self {
        if count > 0 && each > 0 {
            self.terms.push(Term { count, each, kind });
        }
        self
    }

    /// The sum; `usize::MAX` if it is more than that.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.terms.iter().fold(0, |sum, term| sum.saturating_add(term.count.saturating_mul(term.each)))
    }

    /// Whether a pool of `count` objects is large enough.
    ///
    /// # Errors
    /// [`TooSmall`], which tells the sum, when it is not.
    pub fn check(&self, count: usize) -> Result<(), TooSmall> {
        let needed = self.objects();
        if count >= needed { Ok(()) } else { Err(TooSmall { found: count, needed, sum: self.to_string() }) }
    }
}

impl fmt::Display for PoolSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Term { count, each, kind }) in self.terms.iter().enumerate() {
            if nth > 0 {
                f.write_str(" + ")?;
            }
            let s = if *count == 1 { "" } else { "s" };
            match kind {
                Kind::Rings => write!(f, "{count} ring{s} x {each}")?,
                Kind::Caches => write!(f, "{count} thread{s} x {each} cached")?,
                Kind::Bursts => write!(f, "{count} burst{s} x {each}")?,
                Kind::Spare => write!(f, "{each} spare")?,
            }
        }
        if self.terms.is_empty() { f.write_str("0") } else { write!(f, " = {}", self.objects()) }
    }
}

/// A pool has fewer objects than its use needs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a pool of {found} objects is too small: {sum}; make it {needed} objects or more")]
pub struct TooSmall {
    /// Objects that the pool has.
    pub found: usize,
    /// Objects that it needs.
    pub needed: usize,
    /// The sum, explained.
    pub sum: String,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_explained() {
        let size = PoolSize::new().rings(1, 512).bursts(0, 32).caches(3, 64).spare(100);
        assert_eq!(size.to_string(), "1 ring x 512 + 3 threads x 64 cached + 100 spare = 804");
        assert_eq!(PoolSize::new().to_string(), "0");
        assert_eq!(PoolSize::new().objects(), 0);
    }

    #[test]
    fn a_pool_that_is_too_small_is_told_the_sum() {
        let size = PoolSize::new().rings(2, 1024).spare(1);
        assert!(size.check(2049).is_ok());
        let error = size.check(2048).unwrap_err();
        assert_eq!((error.found, error.needed), (2048, 2049));
        assert_eq!(
            error.to_string(),
            "a pool of 2048 objects is too small: 2 rings x 1024 + 1 spare = 2049; make it 2049 objects or more"
        );
    }

    #[test]
    fn a_sum_that_cannot_be_saturates() {
        let size = PoolSize::new().rings(usize::MAX, 2).spare(1);
        assert_eq!(size.objects(), usize::MAX);
        assert!(size.check(1 << 30).is_err());
    }
}
