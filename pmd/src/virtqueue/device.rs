//! What a ring offers to the side that uses buffers: the device.

use arrayvec::ArrayVec;
use thiserror::Error;

use super::driver::Broken;
use super::features::Features;
use super::layout::{Descriptor, Format, RingArea};
use super::packed::PackedDevice;
use super::shared_memory::SharedMemory;
use super::split::SplitDevice;

/// The most descriptors that a chain may have here, in the ring or in a table. Linux's virtio-net sends up to 19, DPDK's
/// up to 256 in theory and 8 in practice; a packet of 64 KiB in buffers of 2 KiB has 33.
pub const MAX_CHAIN: usize = 256;

/// A chain that the driver has made available, by its first descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Where the first buffer is, in the driver's addresses.
    pub address: u64,
    /// Bytes in it.
    pub len: u32,
    /// The first descriptor's flags.
    pub flags: u16,
    /// The identifier by which it is given back.
    pub id: u16,
    /// Split: the second descriptor's index. Packed: where in the ring the chain begins.
    pub(super) at: u16,
    /// Packed: descriptors of the chain in the ring, the wrap counter in bit 15.
    pub(super) slots: u16,
}

impl Head {
    /// Whether the first descriptor is the whole chain.
    #[inline(always)]
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.flags & (super::layout::NEXT | super::layout::INDIRECT) == 0
    }

    /// Whether the device is to write the first buffer.
    #[inline(always)]
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.flags & super::layout::WRITE != 0
    }
}

/// A chain that cannot be: it is given back unused.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadChain {
    /// More descriptors than [`MAX_CHAIN`], or a loop.
    #[error("a chain has more than {MAX_CHAIN} descriptors")]
    TooLong,
    /// A descriptor outside its table.
    #[error("a chain goes on at descriptor {next} of {size}")]
    Outside {
        /// The descriptor.
        next: u16,
        /// How many there are.
        size: usize,
    },
    /// A table that is no table, or lies outside the shared memory.
    #[error("a table of {len} bytes at {address:#x} cannot be one")]
    Table {
        /// Where it is, in the driver's addresses.
        address: u64,
        /// Its length.
        len: u32,
    },
    /// A buffer outside the shared memory.
    #[error("a buffer of {len} bytes at {address:#x} is not in the shared memory")]
    Address {
        /// Where it is, in the driver's addresses.
        address: u64,
        /// Its length.
        len: u32,
    },
    /// A buffer for the other direction.
    #[error("a buffer for the other direction")]
    Direction,
}

/// The descriptors of one chain.
pub type Chain = ArrayVec<Descriptor, MAX_CHAIN>;

/// The device's side of a ring, split or packed.
///
/// Chains are looked at, worked on, and given back in the order in which they were made available.
pub trait DeviceRing {
    /// Descriptors in the ring.
    fn size(&self) -> u16;

    /// Looks at the next chains that are available, as many as `heads` has room for, and returns how many there are. They
    /// stay available until they are given back.
    ///
    /// # Errors
    /// [`Broken`] when the driver's indices cannot be.
    fn look(&mut self, heads: &mut [Head]) -> Result<usize, Broken>;

    /// Whether the driver is so close ahead, about to write the same cache lines, that a burst of `wanted` chains is better
    /// taken a moment later. It never is for more than two microseconds at a stretch.
    fn is_too_close(&mut self, _wanted: usize) -> bool {
        false
    }

    /// Tells [`Self::is_too_close`] that `count` chains are taken, of `wanted` that there was room for.
    fn took(&mut self, _count: usize, _wanted: usize) {}

    /// Reads all descriptors of a chain that was looked at.
    ///
    /// # Errors
    /// [`BadChain`] when it is malformed. It must be given back all the same.
    fn chain(&self, head: &Head, memory: &SharedMemory, chain: &mut Chain) -> Result<(), BadChain>;

    /// Gives back the first chains that were looked at and not given back yet: `heads`, each with the bytes that were
    /// written into it, and shows the driver.
    fn give_back(&mut self, heads: &[Head], written: impl Fn(usize) -> u32);

    /// Whether the driver waits to be told of what was given back since the last call.
    fn wants_call(&mut self) -> bool;

    /// Whether chains are available.
    fn has_available(&self) -> bool;

    /// Asks to be notified, and says whether chains are available already.
    fn arm(&mut self) -> bool;

    /// Asks not to be notified.
    fn disarm(&mut self);

    /// Where the ring stands, as vhost-user's GET_VRING_BASE tells it.
    fn base(&self) -> u32;
}

/// A device's ring of either kind.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum AnyDeviceRing {
    Split(SplitDevice),
    Packed(PackedDevice),
}

/// Calls a method of whichever ring it is.
macro_rules! each {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyDeviceRing::Split($ring) => $call,
            AnyDeviceRing::Packed($ring) => $call,
        }
    };
}

impl AnyDeviceRing {
    /// The ring in `area`, which goes on at `base`.
    #[must_use]
    pub fn new(area: RingArea, features: Features, base: u32) -> Self {
        match area.format() {
            Format::Split => Self::Split(SplitDevice::new(area, features, base)),
            Format::Packed => Self::Packed(PackedDevice::new(area, features, base)),
        }
    }

    /// See [`DeviceRing::base`].
    #[must_use]
    pub fn base(&self) -> u32 {
        each!(self, ring => ring.base())
    }

    /// See [`DeviceRing::arm`].
    pub fn arm(&mut self) -> bool {
        each!(self, ring => ring.arm())
    }

    /// See [`DeviceRing::disarm`].
    pub fn disarm(&mut self) {
        each!(self, ring => ring.disarm());
    }
}

/// Waits a moment, less than 100 ns, after a look at a ring that has nothing: each look takes a line from a driver who may be
/// about to write it.
#[inline]
pub(super) fn rest() {
    core::hint::spin_loop();
}

/// Reads a table of indirect descriptors (2.7.5.3, 2.8.8). A split table is chained, a packed one is in order.
pub(super) fn read_table(
    format: Format,
    address: u64,
    len: u32,
    memory: &SharedMemory,
    chain: &mut Chain,
) -> Result<(), BadChain> {
    use super::layout::{DESCRIPTOR, INDIRECT, NEXT};
    let bad = BadChain::Table { address, len };
    let count = len as usize / DESCRIPTOR;
    if !(len as usize).is_multiple_of(DESCRIPTOR) || count == 0 {
        return Err(bad);
    }
    let table = memory.guest(address, u64::from(len)).ok_or(bad)?;
    if !table.as_ptr().addr().is_multiple_of(8) {
        return Err(bad);
    }
    let read = |index: usize| {
        // SAFETY: the table has `count` descriptors of two words, is in shared memory, which lives as long as `memory`, and
        // is aligned to 8. The driver may write it at the same time, so it is read atomically, once.
        let [address, rest] =
            unsafe { table.cast::<[core::sync::atomic::AtomicU64; 2]>().add(index).as_ref() }
                .each_ref()
                .map(|word| word.load(core::sync::atomic::Ordering::Relaxed));
        match format {
            Format::Split => Descriptor::split(address, rest),
            Format::Packed => Descriptor::packed(address, rest),
        }
    };
    let mut index = 0;
    loop {
        let descriptor = read(index);
        if descriptor.flags & INDIRECT != 0 {
            return Err(bad);
        }
        chain.try_push(descriptor).map_err(|_| BadChain::TooLong)?;
        index = match format {
            Format::Split if descriptor.flags & NEXT == 0 => return Ok(()),
            Format::Split => usize::from(descriptor.other),
            Format::Packed if index + 1 == count => return Ok(()),
            Format::Packed => index + 1,
        };
        if index >= count {
            return Err(BadChain::Outside { next: index as u16, size: count });
        }
    }
}
