//! Packed rings (virtio 1.2, 2.8): one ring of descriptors that both sides write.
//!
//! Four descriptors share a cache line, and the line travels for each time that the other side looks at it between two
//! writes. So a burst is written from its end to its front: what the other side waits for, the flags of the first
//! descriptor, comes last, when all else is there.

mod device;
mod distance;
mod driver;

pub use device::PackedDevice;
pub use driver::PackedDriver;

use super::layout::{AVAIL, USED};

/// A place in a packed ring, and the wrap counter of the turn (2.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    at: u16,
    wrap: bool,
}

impl Place {
    /// The place `count` further on in a ring of `size`; `count` is at most the size.
    #[inline(always)]
    fn on(self, count: u16, size: u16) -> Self {
        let at = u32::from(self.at) + u32::from(count);
        if at >= u32::from(size) {
            Self { at: (at - u32::from(size)) as u16, wrap: !self.wrap }
        } else {
            Self { at: at as u16, wrap: self.wrap }
        }
    }

    /// The flags of a descriptor that is made available in this turn.
    #[inline(always)]
    const fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// The flags of a descriptor that is used in this turn.
    #[inline(always)]
    const fn used(self) -> u16 {
        if self.wrap { AVAIL | USED } else { 0 }
    }

    /// Whether a descriptor with these flags, at this place, is available.
    #[inline(always)]
    const fn is_available(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == self.available()
    }

    /// Whether a descriptor with these flags, at this place, is used.
    #[inline(always)]
    const fn is_used(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == self.used()
    }

    /// As the event suppression areas and vhost-user's bases have it: the place, and the wrap counter in bit 15.
    #[inline(always)]
    fn word(self) -> u16 {
        self.at | u16::from(self.wrap) << 15
    }

    fn from_word(word: u16) -> Self {
        Self { at: word & 0x7fff, wrap: word >> 15 == 1 }
    }
}

/// Whether going from `old` to `new` in a ring of `size` passes what an event suppression area asks for
/// (2.8.10; the place there may be ahead of a wrap that `new` has behind it).
#[inline(always)]
fn passes(event: u16, new: Place, old: Place, size: u16) -> bool {
    let event = Place::from_word(event);
    // Counted in the turn of `new`.
    let back = |place: Place| i32::from(place.at) - if place.wrap == new.wrap { 0 } else { i32::from(size) };
    let (event, new, old) = (back(event), i32::from(new.at), back(old));
    super::layout::passes(event as u16, new as u16, old as u16)
}
