//! What can go wrong, and what would mend it.

use alloc::string::String;
use core::fmt;
use core::panic::Location;

use thiserror::Error;

/// Fewer objects are free than were asked for; the call took none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the pool has fewer free objects than were asked for")]
pub struct Exhausted;

/// Why memory could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The length or the alignment cannot be.
    #[error(
        "{len} bytes aligned to {align} cannot be: the length must be 1 to {max}, the alignment a power of two",
        max = isize::MAX
    )]
    Layout {
        /// Bytes asked for.
        len: usize,
        /// Alignment asked for, in bytes.
        align: usize,
    },
    /// The allocator has no more.
    #[error("the heap has no {len} bytes aligned to {align}: ask for less, or raise the limit (ulimit -v)")]
    Heap {
        /// Bytes asked for.
        len: usize,
        /// Alignment asked for, in bytes.
        align: usize,
    },
    /// The kernel refused the mapping.
    #[cfg(feature = "std")]
    #[error("mmap of {len} bytes failed ({source}): ask for less, or raise the limit (ulimit -v)")]
    Map {
        /// Bytes asked for.
        len: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Why a pool could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A figure of the configuration is out of range.
    #[error("pool \"{name}\": {what} is {found}, expected {expected}")]
    Config {
        /// The pool's name.
        name: String,
        /// Which figure.
        what: &'static str,
        /// What it is.
        found: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// The memory brought is too small for the objects asked for.
    #[error(
        "pool \"{name}\": {count} objects of {stride} bytes need {needed} bytes of memory, and the {found} bytes \
         brought hold {fit}: bring more memory or ask for fewer objects"
    )]
    TooSmall {
        /// The pool's name.
        name: String,
        /// Objects asked for.
        count: usize,
        /// Bytes from one object to the next.
        stride: usize,
        /// Bytes needed in one piece.
        needed: usize,
        /// Bytes brought, all pieces together.
        found: usize,
        /// Objects that fit into them.
        fit: usize,
    },
    /// The heap has no room for the pool's own tables.
    #[error("pool \"{name}\": the heap has no {len} bytes for its magazines: ask for fewer objects")]
    Tables {
        /// The pool's name.
        name: String,
        /// Bytes asked for.
        len: usize,
    },
    /// Memory for the objects could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// What an audit found wrong. Any of these is a bug: in the pool, or in `unsafe` code that put an object
/// which was not its own.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Something is kept as free that is not an object of this pool.
    #[error("pool \"{pool}\" keeps {address:#x} as free, which is no object of its own")]
    Foreign {
        /// The pool's name.
        pool: String,
        /// Its address.
        address: usize,
    },
    /// An object is free more than once: it was put twice.
    #[error("pool \"{pool}\" keeps object {index} ({address:#x}) as free twice: it was put twice")]
    Duplicate {
        /// The pool's name.
        pool: String,
        /// Number of the object.
        index: usize,
        /// Its address.
        address: usize,
    },
    /// A magazine is not where it belongs.
    #[error("pool \"{pool}\": magazine {magazine} is in {found} places, expected one")]
    Magazine {
        /// The pool's name.
        pool: String,
        /// Number of the magazine.
        magazine: usize,
        /// In how many places it was found.
        found: usize,
    },
    /// A magazine says that it holds more than it can.
    #[error("pool \"{pool}\": magazine {magazine} says it holds {found} objects, {capacity} are possible")]
    Length {
        /// The pool's name.
        pool: String,
        /// Number of the magazine.
        magazine: usize,
        /// What it says it holds.
        found: usize,
        /// What it can hold.
        capacity: usize,
    },
    /// The pool's own sum of free objects is not what lies in its magazines.
    #[error("pool \"{pool}\" counts {counted} free objects and holds {found}")]
    Sum {
        /// The pool's name.
        pool: String,
        /// What its counters say.
        counted: usize,
        /// What was found.
        found: usize,
    },
    /// Bytes around an object were written, where debug builds keep guards.
    #[error(
        "out of bounds: byte {offset} of object {index} of pool \"{pool}\" at {address:#x} was written and is \
         {found:#04x} now; the object {is} and was got {when}at {got}",
        is = if *.in_use { "is in use" } else { "is free" },
        when = if *.in_use { "" } else { "last " },
        got = Place(*.got_at)
    )]
    OutOfBounds {
        /// The pool's name.
        pool: String,
        /// Number of the object.
        index: usize,
        /// Its address.
        address: usize,
        /// Bytes from the object's first byte to the one written, the first one found: below 0 if it is in
        /// front of the object, the object's size or more if it is behind.
        offset: isize,
        /// What is there.
        found: u8,
        /// Whether the object is in use.
        in_use: bool,
        /// Where it was got last.
        got_at: Option<&'static Location<'static>>,
    },
    /// A free object was written, where debug builds look for it.
    #[error(
        "use after put: byte {offset} of object {index} of pool \"{pool}\" at {address:#x} is {found:#04x}, and was \
         {was:#04x} when the object was put at {put}; it was got before at {got}",
        put = Place(*.put_at),
        got = Place(*.got_at)
    )]
    UseAfterPut {
        /// The pool's name.
        pool: String,
        /// Number of the object.
        index: usize,
        /// Its address.
        address: usize,
        /// Bytes from the object's first byte to the one written, the first one found.
        offset: usize,
        /// What is there.
        found: u8,
        /// What was there when it was put.
        was: u8,
        /// Where it was put last.
        put_at: Option<&'static Location<'static>>,
        /// Where it was got before that.
        got_at: Option<&'static Location<'static>>,
    },
    /// The other threads could not be kept out of the pool, so nothing was looked at.
    #[error(
        "pool \"{pool}\": the kernel refused membarrier(2), so other threads could not be kept out: \
             allow the system call"
    )]
    NotStopped {
        /// The pool's name.
        pool: String,
    },
}

/// A place in the sources, for a message.
pub(crate) struct Place(pub(crate) Option<&'static Location<'static>>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{at}"),
            None => f.write_str("no known place"),
        }
    }
}
