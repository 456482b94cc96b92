//! Where the descriptor rings lie: one region, which the device reaches, for all of them.

use core::ptr::NonNull;
use std::sync::Arc;

use wirerate_eal::memory::Region;
use wirerate_eal::{Eal, MemoryError, MemoryRequest};
use wirerate_mempool::Memory;

use super::descriptor::{DESCRIPTOR, Ring};
use crate::drivers::reach::Reach;

/// Rings do not share pages.
const ALIGN: usize = 4096;

/// Memory for rings of up to one size.
#[derive(Debug)]
pub(super) struct RingMemory {
    region: Arc<Region>,
    each: usize,
}

impl RingMemory {
    /// Reserves memory for `rings` rings of up to `largest` descriptors.
    pub(super) fn reserve(eal: &Eal, name: &str, rings: u16, largest: u16) -> Result<Self, MemoryError> {
        let each = (usize::from(largest) * DESCRIPTOR).next_multiple_of(ALIGN);
        let request =
            MemoryRequest::new(each * usize::from(rings)).align(ALIGN).name(format!("{name} rings"));
        Ok(Self { region: Arc::new(eal.reserve(request)?), each })
    }

    /// The region.
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Ring `index` of `size` descriptors, and the device's address of it. None when there is no room for it, or the device
    /// does not `reach` it in one piece.
    ///
    /// # Safety
    /// What was given out for this index before is not used any more, here or by the device.
    pub(super) unsafe fn ring(&self, index: u16, size: u16, reach: &Reach) -> Option<(Ring, u64)> {
        let (start, len) = (usize::from(index) * self.each, usize::from(size) * DESCRIPTOR);
        if len > self.each || start + len > self.region.len() {
            return None;
        }
        // SAFETY: the start is in the region.
        let base: NonNull<u8> = unsafe { self.region.base().add(start) };
        let device = reach.clone().address(base, len)?;
        // SAFETY: the length is there behind the start, which is aligned to pages; the region is kept; that nobody else
        // uses it, the caller says.
        Some((unsafe { Ring::new(base, size, Arc::clone(&self.region) as _) }, device))
    }
}
