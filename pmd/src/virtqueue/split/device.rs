//! The device's side of a split ring.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use super::{ENTRIES, FLAGS, INDEX};
use crate::virtqueue::Format;
use crate::virtqueue::device::{BadChain, Chain, DeviceRing, Head, read_table, rest};
use crate::virtqueue::driver::Broken;
use crate::virtqueue::features::Features;
use crate::virtqueue::layout::{
    A_LINE, DESCRIPTOR, Descriptor, INDIRECT, NEXT, NO_NOTIFICATION, RingArea, acquire, passes, prefetch,
    relaxed, release, set,
};
use crate::virtqueue::shared_memory::SharedMemory;

/// A split ring, as the device has it.
#[derive(Debug)]
pub struct SplitDevice {
    area: RingArea,
    mask: u16,
    event_index: bool,
    /// What was given back, counted without end; what comes next is available from here on.
    given: u16,
    /// The driver's index when it was last read.
    available: u16,
    /// Up to where the driver was told.
    told: u16,
}

impl SplitDevice {
    /// The ring in `area`, which goes on at index `base`, or where its used index says.
    ///
    /// The two are the same but where a device comes anew to a ring that is in use, and nobody asked the one before where it
    /// stopped: DPDK's `virtio_user` says 0 then. What was given back is in the ring itself.
    ///
    /// # Panics
    /// When the area is not that of a split ring.
    #[must_use]
    pub fn new(area: RingArea, features: Features, base: u32) -> Self {
        assert!(area.format == Format::Split, "the area of a split ring");
        // SAFETY: the used ring begins with flags and index.
        let used = relaxed(unsafe { area.device_word(INDEX) });
        if u32::from(used) != base {
            tracing::debug!("a split ring goes on at its used index {used} instead of {base}");
        }
        let base = used;
        let mut ring = Self {
            mask: area.size - 1,
            event_index: features.contains(Features::EVENT_INDEX),
            given: base,
            available: base,
            told: base,
            area,
        };
        ring.disarm();
        ring
    }

    #[inline(always)]
    fn available_index(&self) -> u16 {
        // SAFETY: the available ring begins with flags and index.
        acquire(unsafe { self.area.driver_word(INDEX) })
    }

    /// Descriptor `index`, which is below the size, read once.
    #[inline(always)]
    fn read(&self, index: u16) -> Descriptor {
        // SAFETY: all callers check the index.
        let [address, rest] = unsafe { self.area.descriptor(index) };
        Descriptor::split(address.load(Ordering::Relaxed), rest.load(Ordering::Relaxed))
    }
}

impl DeviceRing for SplitDevice {
    #[inline]
    fn size(&self) -> u16 {
        self.area.size
    }

    #[inline]
    fn look(&mut self, heads: &mut [Head]) -> Result<usize, Broken> {
        let size = self.area.size;
        let mut ahead = self.available.wrapping_sub(self.given);
        if usize::from(ahead) < heads.len() {
            self.available = self.available_index();
            ahead = self.available.wrapping_sub(self.given);
            if ahead == 0 {
                rest();
                return Ok(0);
            }
            if ahead > size {
                self.available = self.given;
                return Err(Broken::Index { ahead, size });
            }
        }
        let mut count = 0;
        for head in heads.iter_mut().take(usize::from(ahead)) {
            let place = usize::from(self.given.wrapping_add(count as u16) & self.mask);
            // SAFETY: `place` is below the size.
            let id = relaxed(unsafe { self.area.driver_word(ENTRIES + place) });
            if id >= size {
                return Err(Broken::Buffer { id: u32::from(id), size });
            }
            let first = self.read(id);
            *head = Head {
                address: first.address,
                len: first.len,
                flags: first.flags,
                id,
                at: first.other,
                slots: 0,
            };
            count += 1;
        }
        // What is known to come next can be on its way already.
        let next = self.given.wrapping_add(count as u16);
        let more = usize::from(ahead) - count;
        for at in (0..more.min(count)).step_by(A_LINE) {
            let place = usize::from(next.wrapping_add(at as u16) & self.mask);
            // SAFETY: `place` is below the size.
            let id = relaxed(unsafe { self.area.driver_word(ENTRIES + place) });
            prefetch(self.area.descriptors.as_ptr().wrapping_add(usize::from(id) * DESCRIPTOR));
        }
        Ok(count)
    }

    fn chain(&self, head: &Head, memory: &SharedMemory, chain: &mut Chain) -> Result<(), BadChain> {
        chain.clear();
        if head.flags & INDIRECT != 0 {
            return read_table(Format::Split, head.address, head.len, memory, chain);
        }
        let size = self.area.size;
        chain.push(Descriptor { address: head.address, len: head.len, flags: head.flags, other: head.at });
        let (mut flags, mut next) = (head.flags, head.at);
        while flags & NEXT != 0 {
            if next >= size {
                return Err(BadChain::Outside { next, size: usize::from(size) });
            }
            let descriptor = self.read(next);
            if descriptor.flags & INDIRECT != 0 {
                // A chain may end in a table (2.7.5.3.2 forbids drivers to mix them, and old ones did).
                read_table(Format::Split, descriptor.address, descriptor.len, memory, chain)?;
                return Ok(());
            }
            chain.try_push(descriptor).map_err(|_| BadChain::TooLong)?;
            (flags, next) = (descriptor.flags, descriptor.other);
        }
        Ok(())
    }

    #[inline]
    fn give_back(&mut self, heads: &[Head], written: impl Fn(usize) -> u32) {
        for (at, head) in heads.iter().enumerate() {
            let place = usize::from(self.given.wrapping_add(at as u16) & self.mask);
            // SAFETY: entries of two aligned 32-bit words begin at byte 4 of the part, and `place` is below the size.
            let [id, len] = unsafe { self.area.device.add(4 + 8 * place).cast::<[AtomicU32; 2]>().as_ref() };
            let (new_id, new_len) = (u32::from(head.id).to_le(), written(at).to_le());
            // What says the same already stays in both sides' caches.
            if id.load(Ordering::Relaxed) != new_id {
                id.store(new_id, Ordering::Relaxed);
            }
            if len.load(Ordering::Relaxed) != new_len {
                len.store(new_len, Ordering::Relaxed);
            }
        }
        self.given = self.given.wrapping_add(heads.len() as u16);
        // SAFETY: the used ring begins with flags and index.
        release(unsafe { self.area.device_word(INDEX) }, self.given);
    }

    #[inline]
    fn wants_call(&mut self) -> bool {
        if self.given == self.told {
            return false;
        }
        let told = core::mem::replace(&mut self.told, self.given);
        // Either the driver sees the new index, or we see its wish to be told.
        fence(Ordering::SeqCst);
        if self.event_index {
            // SAFETY: the available ring ends with the event index.
            let event = relaxed(unsafe { self.area.driver_word(ENTRIES + usize::from(self.area.size)) });
            passes(event, self.given, told)
        } else {
            // SAFETY: the available ring begins with its flags.
            relaxed(unsafe { self.area.driver_word(FLAGS) }) & NO_NOTIFICATION == 0
        }
    }

    #[inline]
    fn has_available(&self) -> bool {
        self.available_index() != self.given
    }

    fn arm(&mut self) -> bool {
        // SAFETY: the used ring begins with flags and ends with the event index.
        unsafe {
            set(self.area.device_word(ENTRIES + 4 * usize::from(self.area.size)), self.given);
            set(self.area.device_word(FLAGS), 0);
        }
        // Either the driver sees the wish, or we see what it made available.
        fence(Ordering::SeqCst);
        self.has_available()
    }

    fn disarm(&mut self) {
        // SAFETY: as in `arm`.
        unsafe {
            if self.event_index {
                set(
                    self.area.device_word(ENTRIES + 4 * usize::from(self.area.size)),
                    self.given.wrapping_sub(1),
                );
            } else {
                set(self.area.device_word(FLAGS), NO_NOTIFICATION);
            }
        }
    }

    fn base(&self) -> u32 {
        u32::from(self.given)
    }
}
