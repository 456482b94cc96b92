//! What debug builds know of each object and find out: puts that are wrong, writes out of an object's bounds,
//! writes to a free object, and where what is in use was got.
//!
//! `ledger` has an entry for each object; `guard` has the bytes around objects, `poison` what is in free ones,
//! and `leaks` a report of what is in use. Release builds (and loom's models) know nothing of it, but for the
//! report, and pay nothing: memory is laid out as if it were not there.

mod guard;
mod leaks;
mod ledger;
#[cfg(all(debug_assertions, not(loom)))]
mod poison;

pub use leaks::{LeakPlace, LeakReport};

pub(crate) use guard::Zones;
pub(crate) use ledger::Ledger;

/// Whether this build looks after its objects.
pub(crate) const ACTIVE: bool = cfg!(all(debug_assertions, not(loom)));

/// The first of the bytes at `start` that is not as expected: its place, and what it is.
///
/// # Safety
/// The bytes are valid for reads, and nobody who keeps the pool's rules writes to them meanwhile.
#[cfg(all(debug_assertions, not(loom)))]
#[inline(never)]
unsafe fn first_difference(start: *const u8, expected: &[u8]) -> Option<(usize, u8)> {
    // The black box keeps the compiler from knowing what the owner wrote there: the padding of a value is
    // whatever the memory holds.
    // SAFETY: valid, as the caller says.
    let found = unsafe { core::slice::from_raw_parts(core::hint::black_box(start), expected.len()) };
    // A comparison of slices is one `memcmp`, which is fast also where nothing is optimised.
    if found == expected {
        return None;
    }
    let place = found.iter().zip(expected).position(|(found, expected)| found != expected)?;
    Some((place, found[place]))
}
