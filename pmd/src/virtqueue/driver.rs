//! What a ring offers to the side that makes buffers available: the driver.

use thiserror::Error;

use super::features::Features;
use super::layout::{Format, RingArea};
use super::packed::PackedDriver;
use super::split::SplitDriver;

/// A piece of memory as the device reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffer {
    /// Its first byte, in the device's addresses.
    pub address: u64,
    /// Bytes in it.
    pub len: u32,
}

/// Who reads and who writes a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The driver has written it, and the device reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

impl Direction {
    #[inline(always)]
    pub(super) const fn flags(self) -> u16 {
        match self {
            Self::ToDevice => 0,
            Self::FromDevice => super::layout::WRITE,
        }
    }
}

/// Memory for tables of indirect descriptors, one for each buffer that a ring can have.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The table, for [`Table::DESCRIPTORS`] descriptors, aligned to 16.
    pub(super) place: core::ptr::NonNull<u8>,
    /// Its address for the device.
    pub(super) address: u64,
}

impl Table {
    /// Names a table at `place`, which the device reaches at `address`.
    ///
    /// # Safety
    /// `parts` descriptors of 16 bytes are writable there until the chain that uses the table is used, and nobody else
    /// writes them meanwhile.
    #[must_use]
    pub unsafe fn new(place: core::ptr::NonNull<u8>, address: u64) -> Self {
        Self { place, address }
    }
}

/// The other side broke the ring's protocol; nothing in the ring can be believed any more.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// An index ran further ahead than the ring is long.
    #[error("its index is {ahead} ahead in a ring of {size}")]
    Index {
        /// How far it is ahead.
        ahead: u16,
        /// Descriptors in the ring.
        size: u16,
    },
    /// A descriptor or buffer that the ring does not have, or that is not outstanding.
    #[error("it names buffer {id} of a ring of {size}, which is not outstanding")]
    Buffer {
        /// What was named.
        id: u32,
        /// Descriptors in the ring.
        size: u16,
    },
    /// A chain of descriptors that is longer than the ring.
    #[error("a chain of descriptors has no end")]
    Endless,
}

/// The driver's side of a ring, split or packed.
///
/// A buffer, or a chain of them, gets an identifier when it is made available, and has it until it is used.
pub trait DriverRing {
    /// Descriptors in the ring, and so identifiers.
    fn size(&self) -> u16;

    /// Descriptors that are free.
    fn free(&self) -> usize;

    /// Buffers that are outstanding.
    fn outstanding(&self) -> usize {
        usize::from(self.size()) - self.free()
    }

    /// Asks the processor for the descriptors of the next `count` buffers, ahead of their being written.
    fn prepare(&self, count: usize);

    /// Makes as many of `buffers` available as there is room for, each by itself, and returns how many. `placed` is
    /// told the place in `buffers` and the identifier of each.
    fn offer_each(
        &mut self,
        buffers: &[Buffer],
        direction: Direction,
        placed: impl FnMut(usize, u16),
    ) -> usize;

    /// The identifier that the next chain gets; none when all are outstanding.
    fn next_id(&self) -> Option<u16>;

    /// Makes one chain available, of parts that the device reads and then parts that it writes, by `table` where there is
    /// one. None when there is no room or no part, and nothing changes then.
    fn offer_chain(&mut self, read: &[Buffer], written: &[Buffer], table: Option<Table>) -> Option<u16>;

    /// Shows the device what was made available, and says whether it wants to be told.
    #[must_use = "true says that the device waits to be told"]
    fn publish(&mut self) -> bool;

    /// Takes back up to `most` used buffers: `used` is told the identifier of each and how many bytes the device wrote.
    ///
    /// # Errors
    /// [`Broken`] when the device names what is not outstanding. What `used` was told before is right.
    fn reap(&mut self, most: usize, used: impl FnMut(u16, u32)) -> Result<usize, Broken>;

    /// Whether something waits to be taken back.
    fn has_used(&self) -> bool;

    /// Asks to be notified, and says whether something waits already.
    fn arm(&mut self) -> bool;

    /// Asks not to be notified.
    fn disarm(&mut self);
}

/// A driver's ring of either kind.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum AnyDriverRing {
    Split(SplitDriver),
    Packed(PackedDriver),
}

impl AnyDriverRing {
    /// An empty ring in `area`, whose memory becomes zero but for what says that no notifications are wanted.
    #[must_use]
    pub fn new(area: RingArea, features: Features) -> Self {
        match area.format() {
            Format::Split => Self::Split(SplitDriver::new(area, features)),
            Format::Packed => Self::Packed(PackedDriver::new(area, features)),
        }
    }

    /// Descriptors in the ring.
    #[must_use]
    pub fn size(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.size(),
            Self::Packed(ring) => ring.size(),
        }
    }

    /// See [`DriverRing::arm`].
    pub fn arm(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.arm(),
            Self::Packed(ring) => ring.arm(),
        }
    }

    /// See [`DriverRing::disarm`].
    pub fn disarm(&mut self) {
        match self {
            Self::Split(ring) => ring.disarm(),
            Self::Packed(ring) => ring.disarm(),
        }
    }
}

/// The parts of a chain and the flags of each, in order.
pub(super) fn parts<'a>(
    read: &'a [Buffer],
    written: &'a [Buffer],
) -> impl DoubleEndedIterator<Item = (&'a Buffer, u16)> {
    let flagged = |direction: Direction| move |part: &'a Buffer| (part, direction.flags());
    read.iter().map(flagged(Direction::ToDevice)).chain(written.iter().map(flagged(Direction::FromDevice)))
}

/// Numbers that are free, given out in the order in which they came back.
///
/// While a device uses buffers in their order, which most do, numbers come round in order, and what the ring holds for
/// each place need not be written again.
#[derive(Debug)]
pub(super) struct Numbers {
    free: Box<[u16]>,
    mask: usize,
    taken: usize,
    returned: usize,
}

impl Numbers {
    pub(super) fn new(size: u16) -> Self {
        let places = usize::from(size).next_power_of_two();
        let free = (0..places).map(|number| number as u16).collect();
        Self { free, mask: places - 1, taken: 0, returned: usize::from(size) }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.returned.wrapping_sub(self.taken)
    }

    #[inline(always)]
    pub(super) fn first(&self) -> Option<u16> {
        (self.len() > 0).then(|| self.free[self.taken & self.mask])
    }

    /// The number that would be the next but `after`; any if there are not so many.
    #[inline(always)]
    pub(super) fn peek(&self, after: usize) -> u16 {
        self.free[self.taken.wrapping_add(after) & self.mask]
    }

    /// The next free number. To be called when there is one.
    #[inline(always)]
    pub(super) fn take(&mut self) -> u16 {
        debug_assert!(self.len() > 0);
        let number = self.free[self.taken & self.mask];
        self.taken = self.taken.wrapping_add(1);
        number
    }

    /// The number that was taken `after` the oldest one that is out, if they come back in order. To be called when there
    /// is one.
    #[inline(always)]
    pub(super) fn oldest(&self, size: u16, after: usize) -> u16 {
        // A place is written again when a number comes back, so those of the numbers that are out still have them.
        self.free[self.returned.wrapping_sub(usize::from(size)).wrapping_add(after) & self.mask]
    }

    #[inline(always)]
    pub(super) fn give_back(&mut self, number: u16) {
        self.free[self.returned & self.mask] = number;
        self.returned = self.returned.wrapping_add(1);
    }
}
