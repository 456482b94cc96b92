//! The driver's side of a packed ring.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Place, passes};
use crate::packet::MAX_BURST;
use crate::virtqueue::Format;
use crate::virtqueue::driver::{Broken, Buffer, Direction, DriverRing, Numbers, Table, parts};
use crate::virtqueue::features::Features;
use crate::virtqueue::layout::{
    A_LINE, DESCRIPTOR, Descriptor, EVENT_DESCRIPTOR, EVENT_DISABLE, EVENT_ENABLE, INDIRECT, NEXT, RingArea,
    packed_word, prefetch_write, relaxed, set,
};

/// A packed ring, as the driver has it.
#[derive(Debug)]
pub struct PackedDriver {
    area: RingArea,
    in_order: bool,
    numbers: Numbers,
    /// For each identifier the descriptors of its chain in the ring, 0 when it is not outstanding. The device cannot
    /// write here.
    slots: Box<[u16]>,
    /// Descriptors that are free.
    free: usize,
    /// Where the next buffer is made available.
    next: Place,
    /// Up to where the device was told.
    shown: Place,
    /// Where the next used buffer is expected.
    seen: Place,
    /// The last buffer of a batch that was taken back in part, and its length.
    batch: Option<(u16, u32)>,
}

impl PackedDriver {
    /// An empty ring; its memory is made so.
    ///
    /// # Panics
    /// When the area is not that of a packed ring.
    #[must_use]
    pub fn new(area: RingArea, features: Features) -> Self {
        assert!(area.format == Format::Packed, "the area of a packed ring");
        let size = area.size;
        for index in 0..size {
            // SAFETY: below the size.
            let [address, rest] = unsafe { area.descriptor(index) };
            address.store(0, Ordering::Relaxed);
            rest.store(0, Ordering::Relaxed);
        }
        for word in 0..2 {
            // SAFETY: both areas have two words.
            unsafe {
                set(area.driver_word(word), 0);
                set(area.device_word(word), 0);
            }
        }
        let start = Place { at: 0, wrap: true };
        let mut ring = Self {
            in_order: features.contains(Features::IN_ORDER),
            numbers: Numbers::new(size),
            slots: vec![0; usize::from(size)].into(),
            free: usize::from(size),
            next: start,
            shown: start,
            seen: start,
            batch: None,
            area,
        };
        ring.disarm();
        fence(Ordering::Release);
        ring
    }

    /// The second word of the descriptor at `seen`, if it was used.
    #[inline(always)]
    fn used(&self) -> Option<Descriptor> {
        // SAFETY: places are below the size.
        let [_, rest] = unsafe { self.area.descriptor(self.seen.at) };
        let descriptor = Descriptor::packed(0, rest.load(Ordering::Acquire));
        self.seen.is_used(descriptor.flags).then_some(descriptor)
    }

    /// Frees the chain of `id`; false when it is not outstanding.
    #[inline(always)]
    fn free_chain(&mut self, id: u16) -> bool {
        let Some(slots) = self.slots.get_mut(usize::from(id)) else { return false };
        let slots = core::mem::replace(slots, 0);
        if slots == 0 {
            return false;
        }
        self.free += usize::from(slots);
        self.seen = self.seen.on(slots, self.area.size);
        self.numbers.give_back(id);
        true
    }

    /// Takes back what the device has used in order, where one descriptor may stand for a batch: it is at the batch's first
    /// place, and names the last buffer in it.
    fn reap_batches(&mut self, most: usize, mut used: impl FnMut(u16, u32)) -> Result<usize, Broken> {
        let size = self.area.size;
        let mut taken = 0;
        while taken < most && self.free < usize::from(size) {
            let (last, len) = match self.batch {
                Some(batch) => batch,
                None => {
                    let Some(descriptor) = self.used() else { break };
                    let outstanding =
                        self.slots.get(usize::from(descriptor.other)).is_some_and(|slots| *slots > 0);
                    if !outstanding {
                        return Err(Broken::Buffer { id: u32::from(descriptor.other), size });
                    }
                    (descriptor.other, descriptor.len)
                }
            };
            let id = self.numbers.oldest(size, 0);
            if !self.free_chain(id) {
                return Err(Broken::Buffer { id: u32::from(id), size });
            }
            // Those before the last were used to their end.
            self.batch = (id != last).then_some((last, len));
            used(id, if id == last { len } else { u32::MAX });
            taken += 1;
        }
        Ok(taken)
    }
}

impl DriverRing for PackedDriver {
    #[inline]
    fn size(&self) -> u16 {
        self.area.size
    }

    #[inline]
    fn free(&self) -> usize {
        self.free
    }

    #[inline]
    fn prepare(&self, count: usize) {
        let base = self.area.descriptors.as_ptr();
        for at in (0..count.min(self.free)).step_by(A_LINE) {
            let place = self.next.on(at as u16, self.area.size);
            prefetch_write(base.wrapping_add(usize::from(place.at) * DESCRIPTOR));
        }
    }

    #[inline]
    fn offer_each(
        &mut self,
        buffers: &[Buffer],
        direction: Direction,
        mut placed: impl FnMut(usize, u16),
    ) -> usize {
        // Every outstanding buffer has a descriptor and an identifier at least, so there are as many free identifiers.
        let mut ids = [0u16; MAX_BURST];
        let count = buffers.len().min(self.free).min(ids.len());
        let size = self.area.size;
        let first = self.next;
        for (at, slot) in ids.iter_mut().take(count).enumerate() {
            *slot = self.numbers.take();
            self.slots[usize::from(*slot)] = 1;
            placed(at, *slot);
        }
        for at in (0..count).rev() {
            let place = first.on(at as u16, size);
            // SAFETY: places are below the size.
            let [address, rest] = unsafe { self.area.descriptor(place.at) };
            address.store(buffers[at].address.to_le(), Ordering::Relaxed);
            let flags = direction.flags() | place.available();
            rest.store(packed_word(buffers[at].len, ids[at], flags), Ordering::Release);
        }
        self.next = first.on(count as u16, size);
        self.free -= count;
        count
    }

    #[inline]
    fn next_id(&self) -> Option<u16> {
        if self.free == 0 { None } else { self.numbers.first() }
    }

    fn offer_chain(&mut self, read: &[Buffer], written: &[Buffer], table: Option<Table>) -> Option<u16> {
        let size = self.area.size;
        let first = self.next;
        let count = read.len() + written.len();
        let parts = parts(read, written);
        if let (Some(table), true) = (table, count > 1) {
            if self.free == 0 {
                return None;
            }
            let id = self.numbers.take();
            self.slots[usize::from(id)] = 1;
            for (at, (part, flags)) in parts.enumerate() {
                // SAFETY: whoever made the table says that it has room for all parts.
                let [address, word] = unsafe { table.place.cast::<[AtomicU64; 2]>().add(at).as_ref() };
                address.store(part.address.to_le(), Ordering::Relaxed);
                word.store(packed_word(part.len, 0, flags), Ordering::Relaxed);
            }
            // SAFETY: places are below the size.
            let [address, rest] = unsafe { self.area.descriptor(first.at) };
            address.store(table.address.to_le(), Ordering::Relaxed);
            let flags = INDIRECT | first.available();
            rest.store(packed_word((count * 16) as u32, id, flags), Ordering::Release);
            self.next = first.on(1, size);
            self.free -= 1;
            return Some(id);
        }
        if self.free < count || count == 0 {
            return None;
        }
        let id = self.numbers.take();
        self.slots[usize::from(id)] = count as u16;
        for (at, (part, flags)) in (0..count).rev().zip(parts.rev()) {
            let place = first.on(at as u16, size);
            let more = if at + 1 == count { 0 } else { NEXT };
            // SAFETY: places are below the size.
            let [address, rest] = unsafe { self.area.descriptor(place.at) };
            address.store(part.address.to_le(), Ordering::Relaxed);
            rest.store(packed_word(part.len, id, flags | more | place.available()), Ordering::Release);
        }
        self.next = first.on(count as u16, size);
        self.free -= count;
        Some(id)
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.next == self.shown {
            return false;
        }
        let shown = core::mem::replace(&mut self.shown, self.next);
        // Either the device sees what is available, or we see its wish to be told.
        fence(Ordering::SeqCst);
        // SAFETY: the area has two words.
        let (event, flags) =
            unsafe { (relaxed(self.area.device_word(0)), relaxed(self.area.device_word(1)) & 3) };
        match flags {
            EVENT_DISABLE => false,
            EVENT_DESCRIPTOR => passes(event, self.next, shown, self.area.size),
            _ => true,
        }
    }

    #[inline]
    fn reap(&mut self, most: usize, mut used: impl FnMut(u16, u32)) -> Result<usize, Broken> {
        let size = self.area.size;
        let mut taken = 0;
        while taken < most && self.free < usize::from(size) {
            if self.in_order && self.batch.is_some() {
                return Ok(taken + self.reap_batches(most - taken, used)?);
            }
            let Some(descriptor) = self.used() else { break };
            if self.in_order && self.numbers.oldest(size, 0) != descriptor.other {
                return Ok(taken + self.reap_batches(most - taken, used)?);
            }
            if !self.free_chain(descriptor.other) {
                return Err(Broken::Buffer { id: u32::from(descriptor.other), size });
            }
            used(descriptor.other, descriptor.len);
            taken += 1;
        }
        Ok(taken)
    }

    #[inline]
    fn has_used(&self) -> bool {
        self.free < usize::from(self.area.size) && (self.batch.is_some() || self.used().is_some())
    }

    fn arm(&mut self) -> bool {
        // SAFETY: the area has two words.
        set(unsafe { self.area.driver_word(1) }, EVENT_ENABLE);
        // Either the device sees the wish, or we see what it used.
        fence(Ordering::SeqCst);
        self.has_used()
    }

    fn disarm(&mut self) {
        // SAFETY: the area has two words.
        set(unsafe { self.area.driver_word(1) }, EVENT_DISABLE);
    }
}
