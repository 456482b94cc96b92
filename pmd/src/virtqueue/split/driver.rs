//! The driver's side of a split ring.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::{ENTRIES, FLAGS, INDEX};
use crate::virtqueue::driver::{Broken, Buffer, Direction, DriverRing, Numbers, Table, parts};
use crate::virtqueue::features::Features;
use crate::virtqueue::layout::{
    A_LINE, DESCRIPTOR, INDIRECT, NEXT, NO_NOTIFICATION, RingArea, acquire, passes, prefetch_write, relaxed,
    release, set, split_word,
};

/// In [`SplitDriver::links`]: from here on it is no number of a descriptor.
const FIRST_MARK: u16 = u16::MAX - 1;
/// In [`SplitDriver::links`]: the buffer is not outstanding.
const FREE: u16 = u16::MAX;
/// In [`SplitDriver::links`]: the chain ends here.
const END: u16 = u16::MAX - 1;

/// A split ring, as the driver has it.
#[derive(Debug)]
pub struct SplitDriver {
    area: RingArea,
    mask: u16,
    event_index: bool,
    in_order: bool,
    numbers: Numbers,
    /// For each descriptor the next one of its chain, [`END`], or [`FREE`]. The device cannot write here.
    links: Box<[u16]>,
    /// What was made available, counted without end.
    available: u16,
    /// Up to where the device has been shown.
    shown: u16,
    /// What was taken back, counted without end.
    seen: u16,
    /// The last buffer of a batch that was taken back in part, and its length.
    batch: Option<(u16, u32)>,
}

impl SplitDriver {
    /// An empty ring; its memory is made so.
    ///
    /// # Panics
    /// When the area is not that of a split ring.
    #[must_use]
    pub fn new(area: RingArea, features: Features) -> Self {
        assert!(area.format == crate::virtqueue::Format::Split, "the area of a split ring");
        let size = area.size;
        for index in 0..size {
            // SAFETY: below the size.
            let [address, rest] = unsafe { area.descriptor(index) };
            address.store(0, Ordering::Relaxed);
            rest.store(0, Ordering::Relaxed);
        }
        for word in 0..ENTRIES + usize::from(size) + 1 {
            // SAFETY: flags, index, the entries, and the event index are that many words.
            set(unsafe { area.driver_word(word) }, 0);
        }
        for word in 0..ENTRIES + 4 * usize::from(size) + 1 {
            // SAFETY: flags, index, entries of four words, and the event index are that many words.
            set(unsafe { area.device_word(word) }, 0);
        }
        let mut ring = Self {
            mask: size - 1,
            event_index: features.contains(Features::EVENT_INDEX),
            in_order: features.contains(Features::IN_ORDER),
            numbers: Numbers::new(size),
            links: vec![FREE; usize::from(size)].into(),
            available: 0,
            shown: 0,
            seen: 0,
            batch: None,
            area,
        };
        ring.disarm();
        fence(Ordering::Release);
        ring
    }

    /// Writes the entry of the available ring for head `id`, if it says something else.
    #[inline(always)]
    fn announce(&mut self, id: u16) {
        let place = usize::from(self.available & self.mask);
        // SAFETY: `place` is below the size.
        let entry = unsafe { self.area.driver_word(ENTRIES + place) };
        if relaxed(entry) != id {
            set(entry, id);
        }
        self.available = self.available.wrapping_add(1);
    }

    /// The used index.
    #[inline(always)]
    fn used_index(&self) -> u16 {
        // SAFETY: the used ring begins with flags and index.
        acquire(unsafe { self.area.device_word(INDEX) })
    }

    /// The entry of the used ring for the `seen`th buffer: identifier and length.
    #[inline(always)]
    fn used_entry(&self, seen: u16) -> (u32, u32) {
        let place = usize::from(seen & self.mask);
        // SAFETY: entries of 8 bytes begin at byte 4 of a part that is aligned to 4: so each half is an aligned 32-bit
        // word inside the part. The address is not a multiple of 8, so the two are read by themselves.
        unsafe {
            let entry = self.area.device.add(4 + 8 * place).cast::<[core::sync::atomic::AtomicU32; 2]>();
            let [id, len] = entry.as_ref();
            (u32::from_le(id.load(Ordering::Relaxed)), u32::from_le(len.load(Ordering::Relaxed)))
        }
    }

    /// Frees the descriptors of the chain that begins at `id`; false when none does.
    #[inline(always)]
    fn free_chain(&mut self, id: u16) -> bool {
        let Some(link) = self.links.get_mut(usize::from(id)) else { return false };
        match core::mem::replace(link, FREE) {
            FREE => return false,
            END => self.numbers.give_back(id),
            next => {
                self.numbers.give_back(id);
                self.free_rest(next);
            }
        }
        true
    }

    #[cold]
    fn free_rest(&mut self, mut next: u16) {
        while let Some(link) = self.links.get_mut(usize::from(next)).filter(|link| **link != FREE) {
            let after = core::mem::replace(link, FREE);
            self.numbers.give_back(next);
            next = after;
        }
    }

    /// Takes back what the device has used in order, where one entry may stand for a batch: the one at the first place of
    /// the batch, which names the last buffer in it (2.7.9).
    #[cold]
    fn reap_batches(&mut self, most: usize, mut used: impl FnMut(u16, u32)) -> Result<usize, Broken> {
        let size = self.area.size;
        let mut waiting = self.waiting()?;
        let mut taken = 0;
        while waiting > 0 && taken < most {
            let (last, len) = match self.batch {
                Some(batch) => batch,
                None => {
                    let (id, len) = self.used_entry(self.seen);
                    if u32::from(self.numbers.oldest(size, 0)) != id && !self.is_ahead(id, waiting) {
                        return Err(Broken::Buffer { id, size });
                    }
                    (id as u16, len)
                }
            };
            let head = self.numbers.oldest(size, 0);
            if !self.free_chain(head) {
                return Err(Broken::Buffer { id: u32::from(head), size });
            }
            // Those before the last were used to their end.
            self.batch = (head != last).then_some((last, len));
            used(head, if head == last { len } else { u32::MAX });
            self.seen = self.seen.wrapping_add(1);
            waiting -= 1;
            taken += 1;
        }
        Ok(taken)
    }

    /// Whether `id` is the head of one of the first `waiting` chains that are outstanding.
    #[cold]
    fn is_ahead(&self, id: u32, waiting: u16) -> bool {
        let mut at = 0;
        for _ in 0..waiting {
            let head = self.numbers.oldest(self.area.size, at);
            if u32::from(head) == id {
                return true;
            }
            // The numbers of a chain were taken one after the other.
            let mut part = head;
            while let Some(&next) = self.links.get(usize::from(part)).filter(|next| **next < FIRST_MARK) {
                (part, at) = (next, at + 1);
            }
            at += 1;
        }
        false
    }

    /// How many the device has used and nobody has taken back.
    #[inline(always)]
    fn waiting(&self) -> Result<u16, Broken> {
        let ahead = self.used_index().wrapping_sub(self.seen);
        // What was not shown cannot be used.
        if ahead > self.shown.wrapping_sub(self.seen) {
            return Err(Broken::Index { ahead, size: self.area.size });
        }
        Ok(ahead)
    }
}

impl DriverRing for SplitDriver {
    #[inline]
    fn size(&self) -> u16 {
        self.area.size
    }

    #[inline]
    fn free(&self) -> usize {
        self.numbers.len()
    }

    #[inline]
    fn prepare(&self, count: usize) {
        let base = self.area.descriptors.as_ptr();
        // While numbers come round in order, each line's first descriptor stands for all in it.
        for at in (0..count.min(self.numbers.len())).step_by(A_LINE) {
            prefetch_write(base.wrapping_add(usize::from(self.numbers.peek(at)) * DESCRIPTOR));
        }
    }

    #[inline]
    fn offer_each(
        &mut self,
        buffers: &[Buffer],
        direction: Direction,
        mut placed: impl FnMut(usize, u16),
    ) -> usize {
        let count = buffers.len().min(self.numbers.len());
        let rest = split_word(0, direction.flags(), 0);
        for (at, buffer) in buffers.iter().take(count).enumerate() {
            let id = self.numbers.take();
            self.links[usize::from(id)] = END;
            // SAFETY: `Numbers` gives out numbers below the size.
            let [address, word] = unsafe { self.area.descriptor(id) };
            address.store(buffer.address.to_le(), Ordering::Relaxed);
            word.store(rest | u64::from(buffer.len).to_le(), Ordering::Relaxed);
            self.announce(id);
            placed(at, id);
        }
        count
    }

    #[inline]
    fn next_id(&self) -> Option<u16> {
        self.numbers.first()
    }

    fn offer_chain(&mut self, read: &[Buffer], written: &[Buffer], table: Option<Table>) -> Option<u16> {
        let count = read.len() + written.len();
        let last = count.checked_sub(1)?;
        let parts = parts(read, written);
        if let (Some(table), true) = (table, count > 1) {
            let head = (self.numbers.len() > 0).then(|| self.numbers.take())?;
            self.links[usize::from(head)] = END;
            for (at, (part, flags)) in parts.enumerate() {
                let more = if at == last { 0 } else { NEXT };
                // SAFETY: whoever made the table says that it has room for all parts.
                let [address, word] = unsafe { table.place.cast::<[AtomicU64; 2]>().add(at).as_ref() };
                address.store(part.address.to_le(), Ordering::Relaxed);
                word.store(split_word(part.len, flags | more, at as u16 + 1), Ordering::Relaxed);
            }
            // SAFETY: a number from `Numbers`.
            let [address, word] = unsafe { self.area.descriptor(head) };
            address.store(table.address.to_le(), Ordering::Relaxed);
            word.store(split_word((count * 16) as u32, INDIRECT, 0), Ordering::Relaxed);
            self.announce(head);
            return Some(head);
        }
        if self.numbers.len() < count {
            return None;
        }
        let head = self.numbers.take();
        let mut id = head;
        for (at, (part, flags)) in parts.enumerate() {
            let (link, more, next) = match at == last {
                true => (END, 0, 0),
                false => {
                    let next = self.numbers.take();
                    (next, NEXT, next)
                }
            };
            self.links[usize::from(id)] = link;
            // SAFETY: a number from `Numbers`.
            let [address, word] = unsafe { self.area.descriptor(id) };
            address.store(part.address.to_le(), Ordering::Relaxed);
            word.store(split_word(part.len, flags | more, next), Ordering::Relaxed);
            id = next;
        }
        self.announce(head);
        Some(head)
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.available == self.shown {
            return false;
        }
        // SAFETY: the available ring begins with flags and index.
        release(unsafe { self.area.driver_word(INDEX) }, self.available);
        let shown = core::mem::replace(&mut self.shown, self.available);
        // The device may go to sleep between its last look at the index and its wish to be told: either it sees the
        // new index, or we see the wish.
        fence(Ordering::SeqCst);
        if self.event_index {
            // SAFETY: the used ring ends with the event index.
            let event = relaxed(unsafe { self.area.device_word(ENTRIES + 4 * usize::from(self.area.size)) });
            passes(event, self.available, shown)
        } else {
            // SAFETY: the used ring begins with its flags.
            relaxed(unsafe { self.area.device_word(FLAGS) }) & NO_NOTIFICATION == 0
        }
    }

    #[inline]
    fn reap(&mut self, most: usize, mut used: impl FnMut(u16, u32)) -> Result<usize, Broken> {
        let size = self.area.size;
        let waiting = usize::from(self.waiting()?).min(most);
        for taken in 0..waiting {
            let (id, len) = self.used_entry(self.seen);
            if self.in_order && (u32::from(self.numbers.oldest(size, 0)) != id || self.batch.is_some()) {
                // One entry for several buffers.
                return Ok(taken + self.reap_batches(most - taken, used)?);
            }
            let known = u16::try_from(id).is_ok_and(|id| self.free_chain(id));
            if !known {
                return Err(Broken::Buffer { id, size });
            }
            self.seen = self.seen.wrapping_add(1);
            used(id as u16, len);
        }
        Ok(waiting)
    }

    #[inline]
    fn has_used(&self) -> bool {
        self.used_index() != self.seen
    }

    fn arm(&mut self) -> bool {
        // SAFETY: the available ring begins with flags and ends with the event index.
        unsafe {
            set(self.area.driver_word(ENTRIES + usize::from(self.area.size)), self.seen);
            set(self.area.driver_word(FLAGS), 0);
        }
        // Either the device sees the wish, or we see what it used.
        fence(Ordering::SeqCst);
        self.has_used()
    }

    fn disarm(&mut self) {
        // SAFETY: as in `arm`.
        unsafe {
            // With the event index the flag means nothing, and an event that is behind is passed once in 65536.
            if self.event_index {
                set(self.area.driver_word(ENTRIES + usize::from(self.area.size)), self.seen.wrapping_sub(1));
            } else {
                set(self.area.driver_word(FLAGS), NO_NOTIFICATION);
            }
        }
    }
}
