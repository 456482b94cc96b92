//! Where the rings of a virtio-net driver lie: one region, which the device reaches, for all of them and what they need
//! beside.

use core::ptr::NonNull;
use std::sync::Arc;

use wirerate_eal::memory::Region;
use wirerate_eal::{Eal, MemoryError, MemoryRequest};
use wirerate_mempool::Memory;

use super::tx::{SIDE, Side};
use crate::drivers::reach::Reach;
use crate::virtqueue::{Format, RingArea};

/// Rings begin at multiples of this, so that no two share a page of the translation tables' smallest kind.
const ALIGN: usize = 4096;
/// The parts of a ring do not share cache lines, not even pairs of them.
const PART_ALIGN: usize = 128;

/// Memory for rings of up to one size.
#[derive(Debug)]
pub(crate) struct RingMemory {
    region: Arc<Region>,
    largest: u16,
}

/// The place of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    descriptors: usize,
    driver: usize,
    device: usize,
    side: usize,
    end: usize,
}

impl Place {
    /// Room for a ring of either kind at `start`, and for what transmission needs beside it.
    fn at(start: usize, size: u16) -> Self {
        let (split, packed) = (Format::Split.lengths(size), Format::Packed.lengths(size));
        let descriptors = start;
        let driver = (descriptors + split.descriptors).next_multiple_of(PART_ALIGN);
        let device = (driver + split.driver.max(packed.driver)).next_multiple_of(PART_ALIGN);
        let side = (device + split.device.max(packed.device)).next_multiple_of(PART_ALIGN);
        let end = (side + usize::from(size) * SIDE).next_multiple_of(ALIGN);
        Self { descriptors, driver, device, side, end }
    }
}

impl RingMemory {
    /// Reserves memory for `rings` rings of up to `largest` descriptors; `shared` if another process is to map it.
    pub(crate) fn reserve(
        eal: &Eal,
        name: &str,
        rings: u16,
        largest: u16,
        shared: bool,
    ) -> Result<Self, MemoryError> {
        let len = Place::at(0, largest).end * usize::from(rings);
        let request = MemoryRequest::new(len).align(ALIGN).shared(shared).name(format!("{name} rings"));
        Ok(Self { region: Arc::new(eal.reserve(request)?), largest })
    }

    /// The region.
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The memory of ring `index`, for `size` descriptors. None when there are not so many rings, or no ring of that kind
    /// can have that size here.
    ///
    /// # Safety
    /// What was given out for this index before is not used any more.
    pub(crate) unsafe fn ring(&self, index: u16, format: Format, size: u16) -> Option<RingArea> {
        let place = self.place(index, size)?;
        let at = |offset: usize| -> NonNull<u8> {
            // SAFETY: `place` looked that all of it is in the region.
            unsafe { self.region.base().add(offset) }
        };
        // SAFETY: the parts are as long as a ring of either kind needs, and the region is kept; that nobody else uses
        // them, the caller says.
        unsafe {
            let (driver, device) = (at(place.driver), at(place.device));
            RingArea::new(format, size, at(place.descriptors), driver, device, self.region.clone())
        }
    }

    /// What transmission needs beside ring `index` of `size` descriptors, in one piece as the device `reach`es it.
    ///
    /// # Safety
    /// As for [`ring`](Self::ring).
    pub(crate) unsafe fn side(&self, index: u16, size: u16, reach: &Reach) -> Option<Side> {
        let place = self.place(index, size)?;
        // SAFETY: `place` looked that it is in the region.
        let base = unsafe { self.region.base().add(place.side) };
        let device = reach.clone().address(base, usize::from(size) * SIDE)?;
        // SAFETY: as the caller says.
        unsafe { Side::new(Arc::clone(&self.region), place.side, size, device) }
    }

    fn place(&self, index: u16, size: u16) -> Option<Place> {
        let whole = Place::at(0, self.largest).end;
        let place = Place::at(whole * usize::from(index), size);
        (size <= self.largest && place.end <= self.region.len()).then_some(place)
    }
}
