//! Receiving: buffers are posted, and come back as packets (datasheet 7.1).

use std::sync::Arc;

use wirerate_eal::mmio::Mmio;

use super::descriptor::{Received, Ring, Stripped};
use super::interrupt::QueueInterrupt;
use super::line::Line;
use crate::drivers::reach::Reach;
use crate::lane::Receive;
use crate::packet::{Blank, Blanks, Burst, Filler, HEADROOM, Mbuf, MbufPool};
use crate::port::{Counters, DropReason};
use crate::virtqueue::Broken;
use crate::virtqueue::layout::prefetch;

/// As many descriptors are left empty before they are filled again: each time costs a write to the device.
const REFILL: u16 = 32;
/// Buffers that come out of the pool at a time.
const BULK: u16 = 64;
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
    /// The buffers that the device has, by their descriptors.
    posted: Line<Blank>,
    /// Bytes that the device may write into a buffer.
    room: usize,
    pool: MbufPool,
    /// On their way from the pool into the ring; empty otherwise.
    spare: Blanks,
    reach: Reach,
    /// Buffers that the device does not reach in one piece, because they cross a page where its addresses are physical.
    /// They stay here, or they would come out of the pool again and again.
    aside: Vec<Blank>,
    partial: Option<Partial>,
    stripped: Stripped,
    interrupt: Option<QueueInterrupt>,
    registers: Arc<B>,
    /// Its tail register.
    doorbell: usize,
}

impl<B: Mmio> IxgbeRx<B> {
    /// Receives by `ring`, whose tail register is at `doorbell`, into buffers of `pool`. The ring is filled, and the device not
    /// told yet: see [`ring_doorbell`](Self::ring_doorbell). `strips` says whether the device takes tags out.
    pub(super) fn new(
        ring: Ring,
        doorbell: usize,
        pool: MbufPool,
        reach: Reach,
        strips: bool,
        registers: Arc<B>,
    ) -> Self {
        let mut rx = Self {
            posted: Line::new(ring.size()),
            room: room_of(pool.data_room()) as usize * ROOM_STEP,
            ring,
            pool,
            spare: Blanks::new(),
            reach,
            aside: Vec::new(),
            partial: None,
            stripped: Stripped::new(strips),
            interrupt: None,
            registers,
            doorbell,
        };
        rx.post(1);
        rx
    }

    /// Who sleeps is woken by this interrupt.
    pub(super) fn set_interrupt(&mut self, interrupt: Option<QueueInterrupt>) {
        self.interrupt = interrupt;
    }

    /// Tells the device of the buffers.
    #[inline(always)]
    pub(super) fn ring_doorbell(&self) {
        self.registers.write32(self.doorbell, self.posted.end().into());
    }

    /// Posts as many buffers as there is room for, if those are `least`; true if there were any.
    fn post(&mut self, least: u16) -> bool {
        let before = self.posted.len();
        while self.posted.room() >= least.max(1) {
            // When the pool is short of so many, as many as there are.
            let mut count = usize::from(self.posted.room().min(BULK));
            while count > 0 && !self.pool.blanks(&mut self.spare, count) {
                count /= 2;
            }
            if count == 0 {
                break;
            }
            let mut filler = self.posted.filler();
            for blank in self.spare.drain(..) {
                // SAFETY: the headroom is a part of every buffer.
                let place = unsafe { blank.buffer().add(HEADROOM) };
                let Some(address) = self.reach.address(place, self.room) else {
                    put_aside(&mut self.aside, blank);
                    continue;
                };
                self.ring.post(filler.place(), address);
                // There is room: no more came out of the pool.
                let _ = filler.push(blank);
            }
        }
        self.posted.len() > before
    }
}

#[cold]
fn put_aside(aside: &mut Vec<Blank>, blank: Blank) {
    aside.push(blank);
}

/// Takes a buffer of a packet that has several, or that is not to be used.
#[cold]
#[inline(never)]
fn go_on(
    partial: &mut Option<Partial>,
    (room, stripped): (usize, Stripped),
    blank: Blank,
    received: Received,
    filler: &mut Filler<'_>,
    counters: &Counters,
) {
    let len = received.len();
    // The last buffer may have had nothing but the frame check sequence, which was taken off.
    let is_bad = len > room || (len == 0 && partial.is_none()) || received.is_damaged();
    let segment = blank.filled_within(HEADROOM, len.min(room) as u32);
    let next = match partial.take() {
        None => Partial { packet: segment, spoilt: is_bad },
        Some(Partial { packet, spoilt: true }) => Partial { packet, spoilt: true },
        Some(Partial { mut packet, .. }) => {
            let too_long = packet.len() + len > LONGEST;
            let spoilt = is_bad || too_long || (len > 0 && packet.chain(segment).is_err());
            Partial { packet, spoilt }
        }
    };
    let mut next = next;
    if received.is_end() {
        next.packet.note(received.found(stripped));
    }
    if !received.is_end() {
        *partial = Some(next);
    } else if next.spoilt {
        counters.dropped(DropReason::RxMalformed, 1);
    } else if let Err(packet) = filler.push(next.packet) {
        drop(packet);
    }
}

impl<B: Mmio> Receive for IxgbeRx<B> {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let Self { ring, posted, partial, room, stripped, .. } = self;
        let (most, room, stripped) = (burst.room(), *room, *stripped);
        let mut filler = burst.filler();
        posted.take(
            most,
            |place| ring.received(place),
            |blank, received| {
                let len = received.len();
                let simple = received.is_whole() && partial.is_none() && len.wrapping_sub(1) < room;
                if !simple {
                    go_on(partial, (room, stripped), blank, received, &mut filler, counters);
                    return;
                }
                prefetch(blank.buffer().as_ptr().wrapping_add(HEADROOM));
                // SAFETY: the length was compared with the room, which every buffer has behind its headroom.
                let mut packet = unsafe { blank.filled(HEADROOM as u16, len as u32) };
                packet.note(received.found(stripped));
                // There is room: no more buffers are looked at than the burst had room for packets.
                let _ = filler.push(packet);
            },
        );
        drop(filler);
        // Also without packets: the pool may have been empty before.
        if self.posted.room() >= REFILL && self.post(REFILL) {
            self.ring_doorbell();
        }
        Ok(())
    }

    fn arm(&mut self) -> bool {
        let Some(interrupt) = self.interrupt else { return false };
        interrupt.ask(&self.registers);
        // Without buffers nothing comes, and the pool has to be asked for some.
        self.posted.len() == 0 || self.ring.received(self.posted.first()).is_some()
    }

    fn disarm(&mut self) {
        if let Some(interrupt) = self.interrupt {
            interrupt.forget(&self.registers);
        }
    }
}

#[cfg(test)]
mod tests;
