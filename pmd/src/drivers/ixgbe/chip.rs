//! The devices that are driven, and how they differ: Intel's 82599, and its followers X540 and X550, which have a copper PHY
//! inside and one register for the semaphore against the firmware (X540 datasheet 333369, 10.5.4; Linux's ixgbe_x540.c).

use std::time::Duration;

use super::link::Media;
use super::registers::{CTRL_LRST, CTRL_RST};

/// The vendor, and the devices: those with a cage for SFP+ modules, those for backplanes or CX4, and those with a copper PHY
/// (DPDK's and Linux's lists).
pub(super) const VENDOR: u16 = 0x8086;
const SFP: [u16; 6] = [0x10fb, 0x1507, 0x1529, 0x154a, 0x154d, 0x1557];
const BACKPLANE: [u16; 6] = [0x10f7, 0x10f8, 0x10f9, 0x1514, 0x1517, 0x152a];
const X540: [u16; 2] = [0x1528, 0x1560];
const X550: [u16; 2] = [0x1563, 0x15d1];

/// A family of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    I82599,
    X540,
    X550,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chip {
    pub(super) family: Family,
    pub(super) media: Media,
}

/// What the devices are known by: vendor and device.
pub(super) const IDS: [(u16, u16); 16] = {
    let mut ids = [(VENDOR, 0); 16];
    let groups: [&[u16]; 4] = [&SFP, &BACKPLANE, &X540, &X550];
    let (mut group, mut to) = (0, 0);
    while group < groups.len() {
        let mut at = 0;
        while at < groups[group].len() {
            ids[to].1 = groups[group][at];
            (at, to) = (at + 1, to + 1);
        }
        group += 1;
    }
    assert!(to == ids.len());
    ids
};

impl Chip {
    /// By vendor and device; none of those.
    pub(super) fn of(vendor: u16, device: u16) -> Option<Self> {
        let (family, media) = match device {
            _ if vendor != VENDOR => return None,
            _ if SFP.contains(&device) => (Family::I82599, Media::Sfp),
            _ if BACKPLANE.contains(&device) => (Family::I82599, Media::Backplane),
            _ if X540.contains(&device) => (Family::X540, Media::Copper),
            _ if X550.contains(&device) => (Family::X550, Media::Copper),
            _ => return None,
        };
        Some(Self { family, media })
    }
}

impl Family {
    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::I82599 => "82599",
            Self::X540 => "X540",
            Self::X550 => "X550",
        }
    }

    /// Bytes of the receive packet buffer.
    pub(super) const fn packet_buffer(self) -> u32 {
        match self {
            Self::I82599 => 512 << 10,
            Self::X540 | Self::X550 => 384 << 10,
        }
    }

    /// The bits of CTRL that reset all; the link of those with a PHY is the firmware's.
    pub(super) const fn reset_bits(self) -> u32 {
        match self {
            Self::I82599 => CTRL_RST | CTRL_LRST,
            Self::X540 | Self::X550 => CTRL_RST,
        }
    }

    /// How long the device is not to be touched after a reset (82599: 4.2.1.6.2 asks for 10 ms).
    pub(super) const fn settle(self) -> Duration {
        match self {
            Self::I82599 => Duration::from_millis(10),
            Self::X540 | Self::X550 => Duration::from_millis(100),
        }
    }

    /// Whether software and firmware keep from each other by a bit of SW_FW_SYNC, and not of SWSM.
    pub(super) const fn has_one_semaphore(self) -> bool {
        !matches!(self, Self::I82599)
    }

    /// Entries of the table that spreads frames over queues.
    pub(super) const fn spread_entries(self) -> u16 {
        match self {
            Self::I82599 | Self::X540 => 128,
            Self::X550 => 512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_numbers() {
        let of = |device| Chip::of(0x8086, device);
        let chip = |family, media| Some(Chip { family, media });
        assert_eq!(of(0x10fb), chip(Family::I82599, Media::Sfp));
        assert_eq!(of(0x10f8), chip(Family::I82599, Media::Backplane));
        assert_eq!(of(0x1528), chip(Family::X540, Media::Copper));
        assert_eq!(of(0x1563), chip(Family::X550, Media::Copper));
        // X550 on other boards, 82598, a virtual function, another vendor.
        assert_eq!(([0x15ab, 0x10c6, 0x10ed].map(of), Chip::of(0x8087, 0x10fb)), ([None; 3], None));
        assert!(IDS.iter().all(|(vendor, device)| Chip::of(*vendor, *device).is_some()));
    }
}
