//! What a back end knows of one ring, and when that is enough to start it.

use core::ptr::NonNull;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::vhost_user::payload::VringAddresses;
use crate::virtqueue::shared_memory::SharedMemory;

/// `VIRTIO_F_RING_PACKED` (virtio 1.2, 6).
const F_RING_PACKED: u64 = 1 << 34;

/// The bases at which a packed ring begins: index 0, and both wrap counters 1 (virtio 1.2, 2.8.1).
pub const PACKED_START: u32 = 0x8000_8000;

/// A ring that may start: everything lies in `memory`, is long enough for `size` and is aligned.
#[derive(Debug)]
pub struct RingSetup {
    /// Descriptors, 1 to 32768; a power of two in a split ring.
    pub size: u16,
    /// The descriptors, 16 bytes each, aligned to 16.
    pub descriptors: NonNull<u8>,
    /// A split ring's available ring, 6 bytes and 2 for each descriptor, aligned to 2 (virtio 1.2, 2.7.6). A packed
    /// ring's driver event suppression, 4 bytes, aligned to 4 (2.8.14).
    pub driver_area: NonNull<u8>,
    /// A split ring's used ring, 6 bytes and 8 for each descriptor, aligned to 4 (2.7.8). A packed ring's device
    /// event suppression, 4 bytes, aligned to 4 (2.8.14).
    pub device_area: NonNull<u8>,
    /// Where the ring goes on. Split: the available index, 0 to 65535. Packed: bits 0 to 14 the next available
    /// descriptor, bit 15 its wrap counter, bits 16 to 30 the next used descriptor, bit 31 its wrap counter; both
    /// indices are less than `size`.
    ///
    /// DPDK tells no used half: a packed ring whose used half is zero goes on where its available half says, since
    /// whoever stops without descriptors in work leaves both equal.
    pub base: u32,
    /// The virtio features of the session.
    pub features: u64,
    /// What the addresses are valid with, and what descriptors are translated by.
    pub memory: Arc<SharedMemory>,
    /// What the driver kicks by, an eventfd; nothing when the ring is to be polled.
    pub kick: Option<OwnedFd>,
    /// What the driver is called by, an eventfd; nothing when it polls, or has not said yet.
    ///
    /// Both were made not to block when they came. The front end shares that flag, and could take it away and fill
    /// the counter, so that a write waits: a protocol without that weakness would not share eventfds.
    pub call: Option<OwnedFd>,
}

// SAFETY: the pointers are into `memory`, which is shared by any threads and outlives them; what is there is
// shared with another process in any case.
unsafe impl Send for RingSetup {}

/// How a driver kicks.
#[derive(Debug, Default)]
pub(super) enum Kick {
    /// Nothing was said: the ring does not start.
    #[default]
    Missing,
    /// Not at all: the ring is polled.
    Polled,
    /// By this descriptor.
    By(OwnedFd),
}

/// A ring as its front end has told of it so far.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: Option<u16>,
    pub(super) addresses: Option<VringAddresses>,
    /// Where it starts, unless from the beginning.
    pub(super) base: Option<u32>,
    /// Where it stopped last: a reset forgets `base`, but QEMU asks after one.
    pub(super) stopped_at: Option<u32>,
    pub(super) kick: Kick,
    pub(super) call: Option<OwnedFd>,
    /// Kept because the front end may want to see it open; nothing signals it.
    pub(super) error: Option<OwnedFd>,
    pub(super) enabled: bool,
    pub(super) started: bool,
}

impl Ring {
    /// What a ring of these features starts with unless told.
    pub(super) fn beginning(features: u64) -> u32 {
        if features & F_RING_PACKED == 0 { 0 } else { PACKED_START }
    }

    /// What to start it with; nothing when something is still to come.
    ///
    /// # Errors
    /// What is wrong with what has come.
    pub(super) fn setup(
        &self,
        features: u64,
        memory: &Arc<SharedMemory>,
    ) -> Result<Option<RingSetup>, String> {
        let (Some(size), Some(addresses)) = (self.size, self.addresses) else { return Ok(None) };
        let kick = match &self.kick {
            Kick::Missing => return Ok(None),
            Kick::Polled => None,
            Kick::By(fd) => Some(fd),
        };
        let packed = features & F_RING_PACKED != 0;
        if !packed && !size.is_power_of_two() {
            return Err(format!("the size of a split ring is {size}; expected a power of two"));
        }
        let base = checked_base(self.base.unwrap_or(Self::beginning(features)), size, packed)?;
        let count = u64::from(size);
        let (driver, device) =
            if packed { ((4, 4), (4, 4)) } else { ((6 + 2 * count, 2), (6 + 8 * count, 4)) };
        let find = |what: &str, user: u64, (len, align): (u64, usize)| {
            let at = memory.user(user, len).ok_or_else(|| {
                format!("the {what} at user address {user:#x}, {len} bytes, lies in no memory region")
            })?;
            if at.addr().get().is_multiple_of(align) {
                Ok(at)
            } else {
                Err(format!("the {what} at user address {user:#x} is not aligned to {align} bytes"))
            }
        };
        let clone = |fd: Option<&OwnedFd>| {
            fd.map(OwnedFd::try_clone)
                .transpose()
                .map_err(|error| format!("cannot keep a descriptor: {error}"))
        };
        Ok(Some(RingSetup {
            size,
            descriptors: find("descriptors", addresses.descriptors, (16 * count, 16))?,
            driver_area: find("driver area", addresses.driver_area, driver)?,
            device_area: find("device area", addresses.device_area, device)?,
            base,
            features,
            memory: Arc::clone(memory),
            kick: clone(kick)?,
            call: clone(self.call.as_ref())?,
        }))
    }
}

/// A base within its range; see [`RingSetup::base`].
fn checked_base(base: u32, size: u16, packed: bool) -> Result<u32, String> {
    if !packed {
        return if base <= 0xffff { Ok(base) } else { Err(format!("the base of a split ring is {base:#x}")) };
    }
    let available = base & 0xffff;
    let used = if base >> 16 == 0 { available } else { base >> 16 };
    let within = |half: u32| half & 0x7fff < u32::from(size);
    if within(available) && within(used) {
        Ok(used << 16 | available)
    } else {
        Err(format!("the base of a packed ring of {size} descriptors is {base:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_stay_within_their_rings() {
        assert_eq!(checked_base(0xffff, 256, false), Ok(0xffff));
        assert!(checked_base(0x1_0000, 256, false).is_err());
        assert_eq!(checked_base(PACKED_START, 5, true), Ok(PACKED_START));
        // DPDK's: no used half.
        assert_eq!(checked_base(0x8000, 5, true), Ok(PACKED_START));
        assert_eq!(checked_base(0x8004, 5, true), Ok(0x8004_8004));
        assert_eq!(checked_base(0x8003_0001, 5, true), Ok(0x8003_0001));
        for outside in [0x8005, 0x8005_8000, 0x8000_8005, 0x7fff, u32::MAX] {
            assert!(checked_base(outside, 5, true).is_err(), "{outside:#x}");
        }
    }
}
