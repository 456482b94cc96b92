//! Receiving: buffers are posted, and come back as packets (datasheet 7.1).

use std::sync::Arc;

use arrayvec::ArrayVec;
use wirerate_eal::mmio::Mmio;

use super::descriptor::{Received, Ring};
use crate::drivers::reach::Reach;
use crate::lane::Receive;
use crate::packet::{Blank, Blanks, Burst, Filler, HEADROOM, MAX_BURST, Mbuf, MbufPool};
use crate::port::{Counters, DropReason};
use crate::virtqueue::Broken;
use crate::virtqueue::layout::prefetch;

/// As many descriptors are left empty before they are filled again: each time costs a write to the device.
const REFILL: u16 = 32;
/// Buffers are as long as SRRCTL can say: whole KiB, up to 16 (8.2.3.8.7).
pub(super) const ROOM_STEP: usize = 1024;
const MOST_ROOM: usize = 16;
/// The longest packet that is taken: MAXFRS is below 16 KiB (8.2.3.22.13), and tags come on top.
const LONGEST: usize = 16 * 1024;

/// The KiB of a buffer of `data_room` bytes that the device may write; 0 if it is too short for any.
pub(super) fn room_of(data_room: usize) -> u32 {
    (data_room / ROOM_STEP).min(MOST_ROOM) as u32
}

/// A packet whose last buffers have not come yet.
#[derive(Debug)]
struct Partial {
    packet: Mbuf,
    /// Whether it is dropped when it is complete.
    spoilt: bool,
}

/// A receive queue's ring and the buffers in it.
#[derive(Debug)]
pub(super) struct IxgbeRx<B> {
    ring: Ring,
    /// The buffers that the device has, by their descriptors: those from `next` to before `tail`.
    posted: Box<[Option<Blank>]>,
    /// The next descriptor that the device will be done with.
    next: u16,
    /// The next that gets a buffer. One always stays empty, or a full ring would look like an empty one.
    tail: u16,
    /// Descriptors without a buffer, the one that stays empty not counted.
    empty: u16,
    /// Bytes that the device may write into a buffer.
    room: usize,
    pool: MbufPool,
    spare: Blanks,
    reach: Reach,
    /// Buffers that the device does not reach in one piece, because they cross a page where its addresses are physical.
    /// They stay here, or they would come out of the pool again and again.
    aside: Vec<Blank>,
    partial: Option<Partial>,
    registers: Arc<B>,
    /// Its tail register.
    doorbell: usize,
}

/// A buffer that came back.
struct Used {
    blank: Blank,
    received: Received,
}

impl<B: Mmio> IxgbeRx<B> {
    /// Receives by `ring`, whose tail register is `doorbell`, into buffers of `pool`. The ring is filled, and the device not told yet:
    /// see [`ring_doorbell`](Self::ring_doorbell).
    pub(super) fn new(ring: Ring, doorbell: usize, pool: MbufPool, reach: Reach, registers: Arc<B>) -> Self {
        let size = ring.size();
        let mut rx = Self {
            posted: std::iter::repeat_with(|| None).take(usize::from(size)).collect(),
            next: 0,
            tail: 0,
            empty: size - 1,
            room: room_of(pool.data_room()) as usize * ROOM_STEP,
            ring,
            pool,
            spare: Blanks::new(),
            reach,
            aside: Vec::new(),
            partial: None,
            registers,
            doorbell,
        };
        rx.post(1);
        rx
    }

    /// Tells the device of the buffers.
    pub(super) fn ring_doorbell(&self) {
        self.registers.write32(self.doorbell, self.tail.into());
    }

    /// Posts as many buffers as there is room for, if those are `least`; true if there were any.
    fn post(&mut self, least: u16) -> bool {
        let before = self.empty;
        while self.empty >= least.max(1) {
            let count = usize::from(self.empty).min(MAX_BURST);
            // When the pool is short of so many, as many as there are.
            let mut try_for = count.saturating_sub(self.spare.len());
            while try_for > 0 && !self.pool.blanks(&mut self.spare, try_for) {
                try_for /= 2;
            }
            let (mut posted, mut unreached) = (0, false);
            for blank in self.spare.iter().take(count) {
                // SAFETY: the headroom is a part of every buffer.
                let place = unsafe { blank.buffer().add(HEADROOM) };
                let Some(address) = self.reach.address(place, self.room) else {
                    unreached = true;
                    break;
                };
                self.ring.post(self.tail, address);
                self.tail = self.ring.after(self.tail);
                posted += 1;
            }
            let mut at = self.before_tail(posted);
            for blank in self.spare.drain(..usize::from(posted)) {
                if let Some(slot) = self.posted.get_mut(usize::from(at)) {
                    *slot = Some(blank);
                }
                at = self.ring.after(at);
            }
            self.empty -= posted;
            if unreached {
                self.put_aside();
            } else if posted == 0 {
                break;
            }
        }
        self.empty < before
    }

    /// The index `count` before the tail.
    fn before_tail(&self, count: u16) -> u16 {
        let tail = self.tail;
        if tail >= count { tail - count } else { self.ring.size() - (count - tail) }
    }

    /// Puts the first spare buffer aside for good.
    #[cold]
    fn put_aside(&mut self) {
        self.aside.extend(self.spare.pop_at(0));
    }

    /// Takes back buffers that the device is done with, and asks the processor for their first lines.
    #[inline(always)]
    fn reap(&mut self, most: usize, used: &mut ArrayVec<Used, MAX_BURST>) {
        while used.len() < most.min(MAX_BURST) {
            // A descriptor without a buffer was not given to the device, whatever it has written there.
            let Some(slot) = self.posted.get_mut(usize::from(self.next)).filter(|slot| slot.is_some()) else {
                break;
            };
            let Some(received) = self.ring.received(self.next) else { break };
            let Some(blank) = slot.take() else { break };
            prefetch(blank.buffer().as_ptr().wrapping_add(HEADROOM));
            blank.prefetch();
            used.push(Used { blank, received });
            self.next = self.ring.after(self.next);
            self.empty += 1;
        }
    }

    /// Makes packets of buffers that came back.
    #[inline(always)]
    fn take(&mut self, used: &mut ArrayVec<Used, MAX_BURST>, burst: &mut Burst, counters: &Counters) {
        let mut filler = burst.filler();
        let mut malformed = 0;
        for Used { blank, received } in used.drain(..) {
            let len = received.len();
            let whole = received.is_end() && self.partial.is_none();
            if !whole {
                self.go_on(blank, received, &mut filler, counters);
                continue;
            }
            if len > self.room || len == 0 || received.is_damaged() {
                malformed += 1;
                continue;
            }
            // SAFETY: the length was compared with the room, which every buffer has behind its headroom.
            let packet = unsafe { blank.filled(HEADROOM as u16, len as u32) };
            // There is room: no more were taken back than the burst had.
            let _ = filler.push(packet);
        }
        drop(filler);
        counters.dropped(DropReason::RxMalformed, malformed);
    }

    /// Takes a buffer of a packet that has several.
    #[cold]
    fn go_on(&mut self, blank: Blank, received: Received, filler: &mut Filler<'_>, counters: &Counters) {
        let len = received.len();
        // The last buffer may have had nothing but the frame check sequence, which was taken off.
        let is_bad = len > self.room || (len == 0 && self.partial.is_none()) || received.is_damaged();
        let segment = blank.filled_within(HEADROOM, len.min(self.room) as u32);
        let partial = match self.partial.take() {
            None => Partial { packet: segment, spoilt: is_bad },
            Some(Partial { packet, spoilt: true }) => Partial { packet, spoilt: true },
            Some(Partial { mut packet, .. }) => {
                let too_long = packet.len() + len > LONGEST;
                let spoilt = is_bad || too_long || (len > 0 && packet.chain(segment).is_err());
                Partial { packet, spoilt }
            }
        };
        if !received.is_end() {
            self.partial = Some(partial);
            return;
        }
        if partial.spoilt {
            counters.dropped(DropReason::RxMalformed, 1);
            return;
        }
        if let Err(packet) = filler.push(partial.packet) {
            drop(packet);
        }
    }
}

impl<B: Mmio> Receive for IxgbeRx<B> {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let mut used = ArrayVec::<Used, MAX_BURST>::new_const();
        self.reap(burst.room(), &mut used);
        if !used.is_empty() {
            self.take(&mut used, burst, counters);
        }
        // Also without packets: the pool may have been empty before.
        if self.empty >= REFILL && self.post(REFILL) {
            self.ring_doorbell();
        }
        Ok(())
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn disarm(&mut self) {}
}

#[cfg(test)]
mod tests;
