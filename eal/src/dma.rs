//! Memory as devices see it: what is mapped for a device, and by which addresses it finds that.

use std::any::Any;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use wirerate_mempool::Memory;

pub(crate) mod iommu;
mod iova;
mod memlock;
pub(crate) mod physical;
pub(crate) mod space;

/// Bytes that a device reaches in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaRange {
    /// The first byte's address in this process.
    pub base: usize,
    /// Bytes.
    pub len: usize,
    /// The first byte's address for the device.
    pub device: u64,
}

/// Memory that is mapped for a device until this is dropped. With an IOMMU the device does not reach it after that; where
/// device addresses are physical nothing stops it, so the device is to be made quiet before.
pub struct DmaMapping {
    ranges: Box<[DmaRange]>,
    // Dropped in this order: the device's way to the memory goes first.
    _way: Box<dyn Any + Send + Sync>,
    _memory: Arc<dyn Any + Send + Sync>,
}

impl DmaMapping {
    /// A mapping of `ranges` that is undone when `way` is dropped; `memory` is kept until then.
    #[must_use]
    pub fn new(
        ranges: impl Into<Box<[DmaRange]>>,
        way: Box<dyn Any + Send + Sync>,
        memory: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { ranges: ranges.into(), _way: way, _memory: memory }
    }

    /// What the device reaches, by ascending addresses of this process: one range, or one for each run of pages where
    /// device addresses are physical.
    #[must_use]
    pub fn ranges(&self) -> &[DmaRange] {
        &self.ranges
    }
}

impl fmt::Debug for DmaMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaMapping").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

/// Why memory could not be mapped for devices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaError {
    /// The kernel refused. `problem` says what was tried, what was found and what would mend it.
    #[error("{problem}")]
    Refused {
        /// In one line.
        problem: String,
    },
}

/// A space of device addresses, into which memory is mapped.
pub trait DmaSpace: Send + Sync + fmt::Debug {
    /// Maps all of `memory`. Memory that is mapped already is not mapped anew: both mappings share it.
    ///
    /// # Safety
    /// `memory` stays valid while `keep` lives, and it may be read and written by the device meanwhile: what the device is
    /// told to write is not borrowed by anybody.
    ///
    /// # Errors
    /// [`DmaError`] when it does not fit the device's window or a limit of the system.
    unsafe fn map(
        &self,
        memory: &dyn Memory,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<DmaMapping, DmaError>;

    /// The device addresses that memory can get, each range with its first and last; empty where it has physical ones.
    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        Vec::new()
    }
}

/// Maps memory that is the device's alone from now on, until the mapping is dropped.
///
/// # Errors
/// As [`DmaSpace::map`].
pub fn map_owned(space: &dyn DmaSpace, memory: impl Memory + 'static) -> Result<DmaMapping, DmaError> {
    let memory = Arc::new(memory);
    // SAFETY: `memory` is kept by the mapping and reached by nobody else: it was moved here, and a `Memory` promises that
    // no reference of anybody else points into it.
    unsafe { space.map(&*memory, Arc::clone(&memory) as Arc<dyn Any + Send + Sync>) }
}
