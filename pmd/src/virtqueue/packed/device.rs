//! The device's side of a packed ring.

use core::sync::atomic::{Ordering, fence};

use super::distance::Distance;
use super::{Place, passes};
use crate::virtqueue::Format;
use crate::virtqueue::device::{BadChain, Chain, DeviceRing, Head, read_table, rest};
use crate::virtqueue::driver::Broken;
use crate::virtqueue::features::Features;
use crate::virtqueue::layout::{
    A_LINE, DESCRIPTOR, Descriptor, EVENT_DESCRIPTOR, EVENT_DISABLE, EVENT_ENABLE, INDIRECT, NEXT, RingArea,
    WRITE, packed_word, prefetch_write, relaxed, set,
};
use crate::virtqueue::shared_memory::SharedMemory;

/// In [`Head`]'s `slots`: all but the wrap counter.
const SLOTS: u16 = 0x7fff;

/// A packed ring, as the device has it.
#[derive(Debug)]
pub struct PackedDevice {
    area: RingArea,
    in_order: bool,
    /// Where the next chain is given back, and where the first one that is available begins: chains are given back in
    /// order, so the two are the same.
    given: Place,
    /// Up to where the driver was told.
    told: Place,
    distance: Distance,
}

impl PackedDevice {
    /// The ring in `area`, which goes on at `base`: the place and the wrap counter of what is available in the lower half,
    /// of what is used in the upper half. Here both are always the same, and the lower half counts.
    ///
    /// # Panics
    /// When the area is not that of a packed ring.
    #[must_use]
    pub fn new(area: RingArea, features: Features, base: u32) -> Self {
        assert!(area.format == Format::Packed, "the area of a packed ring");
        let mut given = Place::from_word(base as u16);
        if given.at >= area.size {
            given.at = 0;
        }
        let in_order = features.contains(Features::IN_ORDER);
        let mut ring = Self { in_order, given, told: given, distance: Distance::new(), area };
        ring.disarm();
        ring
    }

    /// The descriptor at `place`, if it is available, read once.
    #[inline(always)]
    fn available(&self, place: Place) -> Option<Descriptor> {
        // SAFETY: places are below the size: `new` and `Place::on` see to that.
        let [address, rest] = unsafe { self.area.descriptor(place.at) };
        let rest = rest.load(Ordering::Acquire);
        place
            .is_available(Descriptor::packed(0, rest).flags)
            .then(|| Descriptor::packed(address.load(Ordering::Relaxed), rest))
    }

    /// Any descriptor of the ring, read once.
    fn read(&self, place: Place) -> Descriptor {
        // SAFETY: as above.
        let [address, rest] = unsafe { self.area.descriptor(place.at) };
        let rest = rest.load(Ordering::Acquire);
        Descriptor::packed(address.load(Ordering::Relaxed), rest)
    }

    /// Finds the end of a chain that has more than one descriptor in the ring: how many it has, and its identifier.
    #[cold]
    fn measure(&self, mut place: Place) -> Result<(u16, u16), Broken> {
        let size = self.area.size;
        // The count shares a word with the wrap counter; a chain that fills the largest ring is none that anybody sends.
        for slots in 1..=size.min(SLOTS) {
            let descriptor = self.read(place);
            if descriptor.flags & NEXT == 0 {
                return Ok((slots, descriptor.other));
            }
            place = place.on(1, size);
        }
        Err(Broken::Endless)
    }

    /// Writes the used descriptor of `head` (2.8.6): all but the address, in one word.
    #[inline(always)]
    fn use_descriptor(&self, head: &Head, written: u32) {
        let place = place_of(head);
        let flags = place.used() | if written > 0 { WRITE } else { 0 };
        // SAFETY: `look` made the head's place, below the size.
        let [_, rest] = unsafe { self.area.descriptor(place.at) };
        rest.store(packed_word(written, head.id, flags), Ordering::Release);
    }
}

/// Where a chain begins.
#[inline(always)]
fn place_of(head: &Head) -> Place {
    Place { at: head.at, wrap: head.slots >> 15 == 1 }
}

/// How many descriptors of the ring it has.
#[inline(always)]
fn slots_of(head: &Head) -> u16 {
    head.slots & SLOTS
}

impl DeviceRing for PackedDevice {
    #[inline]
    fn size(&self) -> u16 {
        self.area.size
    }

    #[inline]
    fn is_too_close(&mut self, wanted: usize) -> bool {
        let (area, given) = (&self.area, self.given);
        let is_available = |places| {
            let place = given.on(places, area.size);
            // SAFETY: places are below the size: `Place::on` sees to that.
            let [_, rest] = unsafe { area.descriptor(place.at) };
            place.is_available(Descriptor::packed(0, rest.load(Ordering::Relaxed)).flags)
        };
        let close = self.distance.is_too_short(wanted, area.size, is_available);
        if close {
            rest();
        }
        close
    }

    #[inline]
    fn took(&mut self, count: usize, wanted: usize) {
        self.distance.took(count, wanted);
    }

    #[inline]
    fn look(&mut self, heads: &mut [Head]) -> Result<usize, Broken> {
        let size = self.area.size;
        let mut place = self.given;
        let mut count = 0;
        // In a full turn every descriptor is looked at once.
        let mut left = size;
        for head in heads {
            if left == 0 {
                break;
            }
            // Drivers mostly show a whole burst at once, so behind one line of descriptors that are available there is another,
            // which will be written when they are used.
            if count > 0 && usize::from(place.at).is_multiple_of(A_LINE) {
                let base = self.area.descriptors.as_ptr();
                prefetch_write(base.wrapping_add(usize::from(place.at) * DESCRIPTOR));
            }
            let Some(first) = self.available(place) else {
                if count == 0 {
                    rest();
                }
                break;
            };
            let (slots, id) = if first.flags & NEXT == 0 { (1, first.other) } else { self.measure(place)? };
            if id >= size {
                return Err(Broken::Buffer { id: u32::from(id), size });
            }
            if slots > left {
                return Err(Broken::Endless);
            }
            *head = Head {
                address: first.address,
                len: first.len,
                flags: first.flags,
                id,
                at: place.at,
                slots: slots | u16::from(place.wrap) << 15,
            };
            left -= slots;
            place = place.on(slots, size);
            count += 1;
        }
        Ok(count)
    }

    fn chain(&self, head: &Head, memory: &SharedMemory, chain: &mut Chain) -> Result<(), BadChain> {
        chain.clear();
        if head.flags & INDIRECT != 0 {
            return read_table(Format::Packed, head.address, head.len, memory, chain);
        }
        let mut place = place_of(head);
        chain.push(Descriptor { address: head.address, len: head.len, flags: head.flags, other: head.id });
        for _ in 1..slots_of(head) {
            place = place.on(1, self.area.size);
            let descriptor = self.read(place);
            if descriptor.flags & INDIRECT != 0 {
                return Err(BadChain::Table { address: descriptor.address, len: descriptor.len });
            }
            chain.try_push(descriptor).map_err(|_| BadChain::TooLong)?;
        }
        Ok(())
    }

    #[inline]
    fn give_back(&mut self, heads: &[Head], written: impl Fn(usize) -> u32) {
        let (Some(first), Some(last)) = (heads.first(), heads.last()) else { return };
        // Buffers that the device only read need no length: with in-order use, the last stands for all (2.8.14).
        if self.in_order && (0..heads.len()).all(|at| written(at) == 0) {
            let stands = Head { id: last.id, ..*first };
            self.use_descriptor(&stands, 0);
        } else {
            for (at, head) in heads.iter().enumerate().rev() {
                self.use_descriptor(head, written(at));
            }
        }
        self.given = place_of(last).on(slots_of(last), self.area.size);
    }

    #[inline]
    fn wants_call(&mut self) -> bool {
        if self.given == self.told {
            return false;
        }
        let told = core::mem::replace(&mut self.told, self.given);
        // Either the driver sees what was used, or we see its wish to be told.
        fence(Ordering::SeqCst);
        // SAFETY: the area has two words.
        let (event, flags) =
            unsafe { (relaxed(self.area.driver_word(0)), relaxed(self.area.driver_word(1)) & 3) };
        match flags {
            EVENT_DISABLE => false,
            EVENT_DESCRIPTOR => passes(event, self.given, told, self.area.size),
            _ => true,
        }
    }

    #[inline]
    fn has_available(&self) -> bool {
        self.available(self.given).is_some()
    }

    fn arm(&mut self) -> bool {
        // SAFETY: the area has two words.
        set(unsafe { self.area.device_word(1) }, EVENT_ENABLE);
        // Either the driver sees the wish, or we see what it made available.
        fence(Ordering::SeqCst);
        self.has_available()
    }

    fn disarm(&mut self) {
        // SAFETY: the area has two words.
        set(unsafe { self.area.device_word(1) }, EVENT_DISABLE);
    }

    fn base(&self) -> u32 {
        let word = u32::from(self.given.word());
        word | word << 16
    }
}
