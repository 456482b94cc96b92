//! A report of what is in use, by where it was got.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::panic::Location;

/// Objects in use that were got at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakPlace {
    /// How many.
    pub count: usize,
    /// Where each of them was got.
    pub got_at: &'static Location<'static>,
}

/// The objects of a pool that are in use, by where they were got.
///
/// Displayed, it is a line for the pool and one for each place, the one with the most objects first:
///
/// ```text
/// pool "buffers": 15 of 100 objects are in use
///     12 got at src/main.rs:10:5
///      3 got at src/main.rs:42:9
/// ```
///
/// ```
/// use wirerate_mempool::Pool;
///
/// let pool = Pool::on_heap(100, || 0u32)?;
/// let held: Vec<_> = (0..12).map(|_| pool.get()).collect();
/// let report = pool.leaks()?;
/// assert_eq!((report.in_use, report.size), (12, 100));
/// println!("{report}");
/// # drop(held);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakReport {
    /// The pool's name.
    pub pool: String,
    /// Objects of the pool.
    pub size: usize,
    /// Objects in use.
    pub in_use: usize,
    /// Where they were got, the place with the most first. Debug builds know; for others it is empty.
    pub places: Vec<LeakPlace>,
}

impl LeakReport {
    /// A report of `in_use` objects, which were got at these places.
    pub(crate) fn new(
        pool: &str,
        size: usize,
        in_use: usize,
        got_at: impl Iterator<Item = &'static Location<'static>>,
    ) -> Self {
        let mut counts: BTreeMap<&'static Location<'static>, usize> = BTreeMap::new();
        for place in got_at {
            *counts.entry(place).or_default() += 1;
        }
        let mut places: Vec<_> =
            counts.into_iter().map(|(got_at, count)| LeakPlace { count, got_at }).collect();
        // Stable, so that places with as many objects are in the order of the sources.
        places.sort_by_key(|place| core::cmp::Reverse(place.count));
        Self { pool: pool.into(), size, in_use, places }
    }

    /// Whether all objects are home.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_use == 0
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, size, in_use, places } = self;
        let are = if *in_use == 1 { "is" } else { "are" };
        write!(f, "pool \"{pool}\": {in_use} of {size} objects {are} in use")?;
        if places.is_empty() && *in_use > 0 {
            f.write_str("; debug builds tell where each was got")?;
        }
        for LeakPlace { count, got_at } in places {
            write!(f, "\n{count:>6} got at {got_at}")?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn places_are_counted_and_the_most_come_first() {
        let (few, many) = (here(), here());
        let report = LeakReport::new("p", 100, 15, [few, many].into_iter().cycle().take(6).chain([many; 9]));
        assert_eq!(
            report.to_string(),
            format!("pool \"p\": 15 of 100 objects are in use\n    12 got at {many}\n     3 got at {few}")
        );
        assert!(!report.is_empty());
    }

    #[test]
    fn without_places_the_count_is_told() {
        let text = |in_use| LeakReport::new("p", 9, in_use, core::iter::empty()).to_string();
        assert_eq!(text(0), "pool \"p\": 0 of 9 objects are in use");
        assert_eq!(text(1), "pool \"p\": 1 of 9 objects is in use; debug builds tell where each was got");
    }
}
