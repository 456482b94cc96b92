//! Making the queues of a virtio-net device's pairs of rings: the same whatever carries the rings to the device.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::rings::RingMemory;
use super::rx::DriverRx;
use super::tx::DriverTx;
use crate::drivers::reach::Reach;
use crate::packet::MbufPool;
use crate::port::PortError;
use crate::virtqueue::{AnyDriverRing, Features, Format, Kick};

/// The least data room of mbufs: a header and a short frame.
const LEAST_ROOM: usize = 12 + 64;

/// Looks that packets of `pool` have room for a frame.
///
/// # Errors
/// [`PortError::Configuration`] of `device`.
pub(super) fn check_room(device: &str, pool: &MbufPool) -> Result<(), PortError> {
    let room = pool.data_room();
    if room >= LEAST_ROOM {
        return Ok(());
    }
    let problem = format!(
        "the mbufs of pool \"{}\" have room for {room} bytes, and {LEAST_ROOM} are needed for a frame",
        pool.name()
    );
    Err(PortError::Configuration { device: device.to_owned(), problem })
}

/// What the queues of a device are made of.
#[derive(Debug)]
pub(super) struct Pairs {
    /// Where rings lie.
    pub(super) memory: Arc<RingMemory>,
    /// Where the device finds them.
    pub(super) rings: Reach,
    /// Where received packets, and copies of those that are sent, are put.
    pub(super) pool: MbufPool,
    /// What of packets the device reaches.
    pub(super) packets: Reach,
    /// What was agreed on.
    pub(super) features: Features,
    /// Pairs that receive: others have no buffers.
    pub(super) receives: u16,
    /// Counts packets that have to be copied.
    pub(super) copied: Arc<AtomicU64>,
}

/// A queue over a new ring, and what the device is to know of that.
#[derive(Debug)]
pub(super) struct Made<Q> {
    pub(super) queue: Q,
    pub(super) size: u16,
    /// Descriptors, the driver's area, the device's area, in the device's addresses.
    pub(super) addresses: [u64; 3],
}

impl Pairs {
    /// The kind of ring that was agreed on.
    pub(super) fn format(&self) -> Format {
        if self.features.contains(Features::RING_PACKED) { Format::Packed } else { Format::Split }
    }

    /// An empty ring in the memory of ring `index`. None when the memory has no room for it, or the device does not reach
    /// each part of it in one piece.
    ///
    /// # Safety
    /// What was made for this index before is not used any more, here or by the device.
    pub(super) unsafe fn ring(&self, index: u16, size: u16) -> Option<Made<AnyDriverRing>> {
        // SAFETY: as the caller says.
        let area = unsafe { self.memory.ring(index, self.format(), size) }?;
        let lengths = self.format().lengths(size);
        let mut reach = self.rings.clone();
        let [descriptors, driver, device] = area.parts();
        let addresses = [
            reach.address(descriptors, lengths.descriptors)?,
            reach.address(driver, lengths.driver)?,
            reach.address(device, lengths.device)?,
        ];
        Some(Made { queue: AnyDriverRing::new(area, self.features), size, addresses })
    }

    /// The receive side of a pair, with ring 2 `pair`. None as for [`ring`](Self::ring).
    ///
    /// # Safety
    /// As for [`ring`](Self::ring).
    pub(super) unsafe fn receive(&self, pair: u16, size: u16, kick: Kick) -> Option<Made<DriverRx>> {
        // SAFETY: as the caller says.
        let Made { queue: ring, size, addresses } = unsafe { self.ring(2 * pair, size) }?;
        let posts = pair < self.receives;
        let queue = DriverRx::new(ring, self.features, self.pool.clone(), self.packets.clone(), kick, posts);
        Some(Made { queue, size, addresses })
    }

    /// The transmit side of a pair, with ring 2 `pair` + 1. None as for [`ring`](Self::ring).
    ///
    /// # Safety
    /// As for [`ring`](Self::ring).
    pub(super) unsafe fn transmit(&self, pair: u16, size: u16, kick: Kick) -> Option<Made<DriverTx>> {
        let index = 2 * pair + 1;
        // SAFETY: as the caller says.
        let (made, side) = unsafe { (self.ring(index, size)?, self.memory.side(index, size, &self.rings)?) };
        let Made { queue: ring, size, addresses } = made;
        let pool = Some(self.pool.clone());
        let queue = DriverTx::new(
            ring,
            self.features,
            pool,
            self.packets.clone(),
            side,
            kick,
            Arc::clone(&self.copied),
        );
        Some(Made { queue, size, addresses })
    }
}
