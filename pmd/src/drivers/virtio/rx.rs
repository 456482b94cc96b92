//! Receiving as the driver of a virtio-net device: buffers are posted, and come back as packets.

use arrayvec::ArrayVec;

use crate::drivers::reach::Reach;
use crate::lane::Receive;
use crate::packet::{Blank, Blanks, Burst, Filler, HEADROOM, MAX_BURST, Mbuf, MbufPool};
use crate::port::{Counters, DropReason};
use crate::virtqueue::layout::prefetch;
use crate::virtqueue::net_header::{self, NetHeader};
use crate::virtqueue::{AnyDriverRing, Broken, Buffer, Direction, DriverRing, Features, Kick, net_offload};

/// As many descriptors are left empty before they are filled again, in rings that have more than twice as many: each time
/// costs a fence.
const REFILL: usize = 32;

/// Bytes of a header, in front of each packet: the driver insists on virtio 1.0.
const HEADER: u32 = net_header::LEN as u32;
/// Where the header lies in a buffer: right before the data, which begins at a cache line. Devices that copy without asking
/// for lines ahead, as DPDK's, take twice as long for data that begin elsewhere.
const HEADER_AT: usize = HEADROOM - net_header::LEN;
/// The longest packet that is taken: as large as TCP segmentation makes them, with link and IPv6 headers.
const LONGEST: usize = 65_535 + 18 + 40;

/// A packet whose last buffers have not come yet.
#[derive(Debug)]
struct Partial {
    packet: Mbuf,
    header: NetHeader,
    /// Buffers that are missing.
    missing: u16,
    /// Whether it is dropped when it is complete.
    spoilt: bool,
}

/// The receive side of a virtio-net driver's ring.
#[derive(Debug)]
pub(crate) struct DriverRx {
    ring: AnyDriverRing,
    posts: Posts,
    mergeable: bool,
    /// Whether headers may say something beside the number of buffers.
    offloads: bool,
    partial: Option<Partial>,
    kick: Kick,
}

/// The buffers that the device has, by their identifiers.
#[derive(Debug)]
struct Posts {
    posted: Box<[Option<Blank>]>,
    spare: Blanks,
    pool: MbufPool,
    reach: Reach,
    /// Buffers that the device does not reach in one piece, because they cross a page where its addresses are physical. They
    /// stay here, or they would come out of the pool again and again.
    aside: Vec<Blank>,
    /// Bytes that the device may write behind the header.
    room: u32,
}

/// A buffer that came back, and the bytes that the device says to have written.
struct Used {
    blank: Blank,
    len: u32,
}

impl DriverRx {
    /// Receives by `ring`, which is empty, into buffers of `pool`, and tells the device of new buffers by `kick`. It has
    /// buffers from the start if it is to be `filled`, and else none at all; [`kick`](Self::kick) tells of those.
    pub(crate) fn new(
        ring: AnyDriverRing,
        features: Features,
        pool: MbufPool,
        reach: Reach,
        kick: Kick,
        filled: bool,
    ) -> Self {
        let size = usize::from(ring.size());
        let room = pool.data_room() as u32;
        let posts = Posts {
            posted: std::iter::repeat_with(|| None).take(size).collect(),
            spare: Blanks::new(),
            pool,
            reach,
            aside: Vec::new(),
            room,
        };
        let mut queue = Self {
            ring,
            posts,
            mergeable: features.contains(Features::MRG_RXBUF),
            offloads: features.intersects(Features::TO_DRIVER_OFFLOADS),
            partial: None,
            kick,
        };
        if filled {
            queue.post(1);
        }
        queue
    }

    /// Tells the device of the buffers, once it may be told.
    pub(crate) fn kick(&self) {
        self.kick.ring();
    }

    /// Posts as many buffers as the ring has room for, if those are `least`; true when the device waits to be told.
    fn post(&mut self, least: usize) -> bool {
        match &mut self.ring {
            AnyDriverRing::Split(ring) => self.posts.refill(ring, least),
            AnyDriverRing::Packed(ring) => self.posts.refill(ring, least),
        }
    }

    /// Posts buffers, and tells the device if it waits for that.
    fn refill(&mut self, least: usize) {
        if self.post(least) {
            self.kick.ring();
        }
    }

    /// Makes packets of used buffers.
    #[inline(always)]
    fn take(&mut self, used: &mut ArrayVec<Used, MAX_BURST>, burst: &mut Burst, counters: &Counters) {
        // All of the buffer, for what in-order use has skipped.
        let whole = self.posts.room + HEADER;
        let mut filler = burst.filler();
        let mut malformed = 0;
        for Used { blank, len } in used.drain(..) {
            let len = if len == u32::MAX { whole } else { len };
            if self.partial.is_some() {
                self.go_on(blank, len, &mut filler, counters);
                continue;
            }
            if !(HEADER..=whole).contains(&len) {
                malformed += 1;
                continue;
            }
            // SAFETY: the header lies in the headroom, which every buffer has.
            let (first, last) = unsafe { NetHeader::words(blank.buffer().as_ptr().add(HEADER_AT)) };
            // SAFETY: the length was compared with what the buffers of the pool have room for.
            let packet = unsafe { blank.filled(HEADROOM as u16, len - HEADER) };
            // A packet as on a wire, in one buffer.
            let plain = (first as u16 == 0 || !self.offloads) && (last >> 16 == 1 || !self.mergeable);
            if !plain {
                self.take_special(packet, NetHeader::from_words((first, last)), &mut filler, counters);
                continue;
            }
            // There is room: no more were taken back than the burst had.
            let _ = filler.push(packet);
        }
        drop(filler);
        counters.dropped(DropReason::RxMalformed, malformed);
    }

    /// Takes a packet that has more buffers, or of which the header says something.
    #[cold]
    fn take_special(
        &mut self,
        packet: Mbuf,
        header: NetHeader,
        filler: &mut Filler<'_>,
        counters: &Counters,
    ) {
        let missing = if self.mergeable { header.buffers.saturating_sub(1) } else { 0 };
        // A packet of more buffers than the ring has never ends; it is dropped, and its buffers are believed.
        let spoilt = header.buffers == 0 && self.mergeable || missing >= self.ring.size();
        if missing > 0 && !spoilt {
            self.partial = Some(Partial { packet, header, missing, spoilt });
            return;
        }
        self.finish(packet, header, spoilt, filler, counters);
    }

    /// Adds a buffer to the packet that is not complete yet.
    #[cold]
    fn go_on(&mut self, blank: Blank, len: u32, filler: &mut Filler<'_>, counters: &Counters) {
        let Some(mut partial) = self.partial.take() else { return };
        // The device writes no header before what goes on; here the buffer begins where a header would be.
        let whole = self.posts.room + HEADER;
        if len > whole || len == 0 || partial.packet.len() + len as usize > LONGEST {
            partial.spoilt = true;
        }
        let segment = blank.filled_within(HEADER_AT, len.min(whole));
        if partial.packet.chain(segment).is_err() {
            partial.spoilt = true;
        }
        partial.missing -= 1;
        if partial.missing > 0 {
            self.partial = Some(partial);
            return;
        }
        let Partial { packet, header, spoilt, .. } = partial;
        self.finish(packet, header, spoilt, filler, counters);
    }

    /// Hands over a complete packet, with what its header says.
    fn finish(
        &self,
        mut packet: Mbuf,
        header: NetHeader,
        spoilt: bool,
        filler: &mut Filler<'_>,
        counters: &Counters,
    ) {
        if spoilt || (self.offloads && !net_offload::note(&mut packet, header)) {
            counters.dropped(DropReason::RxMalformed, 1);
            return;
        }
        if let Err(packet) = filler.push(packet) {
            drop(packet);
        }
    }
}

impl Receive for DriverRx {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let most = burst.room();
        let mut used = ArrayVec::<Used, MAX_BURST>::new_const();
        let result = match &mut self.ring {
            AnyDriverRing::Split(ring) => self.posts.reap(ring, most, &mut used),
            AnyDriverRing::Packed(ring) => self.posts.reap(ring, most, &mut used),
        };
        if used.is_empty() {
            return result;
        }
        self.take(&mut used, burst, counters);
        let most = usize::from(self.ring.size());
        self.refill(REFILL.min(most.div_ceil(2)));
        result
    }

    fn arm(&mut self) -> bool {
        self.ring.arm()
    }

    fn disarm(&mut self) {
        self.ring.disarm();
    }
}

impl Posts {
    /// Puts a spare buffer aside for good.
    #[cold]
    fn put_aside(&mut self, at: usize) {
        self.aside.extend(self.spare.pop_at(at));
    }

    /// Takes back used buffers, and asks the processor for their first lines.
    #[inline(always)]
    fn reap<R: DriverRing>(
        &mut self,
        ring: &mut R,
        most: usize,
        used: &mut ArrayVec<Used, MAX_BURST>,
    ) -> Result<(), Broken> {
        ring.reap(most, |id, len| {
            // The ring has checked that the buffer is outstanding; and in-order use may give more than was asked.
            let Some(blank) = self.posted.get_mut(usize::from(id)).and_then(Option::take) else { return };
            prefetch(blank.buffer().as_ptr().wrapping_add(HEADER_AT));
            blank.prefetch();
            let _ = used.try_push(Used { blank, len });
        })?;
        Ok(())
    }

    /// Posts buffers, if at least `least` fit; true when the device waits to be told.
    #[inline(always)]
    fn refill<R: DriverRing>(&mut self, ring: &mut R, least: usize) -> bool {
        let mut posted = false;
        while ring.free() >= least.max(1) {
            let count = ring.free().min(MAX_BURST);
            ring.prepare(count);
            // When the pool is short of so many, as many as there are.
            let missing = count.saturating_sub(self.spare.len());
            let mut try_for = missing;
            while try_for > 0 && !self.pool.blanks(&mut self.spare, try_for) {
                try_for /= 2;
            }
            let mut buffers = ArrayVec::<Buffer, MAX_BURST>::new_const();
            let len = self.room + HEADER;
            for blank in self.spare.iter().take(count) {
                // SAFETY: the header lies in the headroom, which every buffer has.
                let place = unsafe { blank.buffer().add(HEADER_AT) };
                let Some(address) = self.reach.address(place, len as usize) else { break };
                buffers.push(Buffer { address, len });
            }
            if buffers.len() < self.spare.len().min(count) {
                self.put_aside(buffers.len());
                if buffers.is_empty() {
                    continue;
                }
            }
            if buffers.is_empty() {
                break;
            }
            let (spare, slots) = (&mut self.spare, &mut self.posted);
            let taken = spare.len().min(buffers.len());
            let mut blanks = spare.drain(..taken);
            ring.offer_each(&buffers, Direction::FromDevice, |_, id| {
                if let (Some(slot), Some(blank)) = (slots.get_mut(usize::from(id)), blanks.next()) {
                    *slot = Some(blank);
                }
            });
            posted = true;
        }
        posted && ring.publish()
    }
}
