//! Receiving as the driver of a virtio-net device: buffers are posted, and come back as packets.

use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::reach::Reach;
use crate::packet::{Blank, Blanks, Burst, HEADROOM, MAX_BURST, Mbuf, MbufPool};
use crate::port::{Counters, DropReason};
use crate::virtqueue::layout::prefetch;
use crate::virtqueue::net_header::{self, NetHeader};
use crate::virtqueue::{AnyDriverRing, Broken, Buffer, Direction, DriverRing, Features, Ringer, net_offload};

/// As many descriptors are left empty before they are filled again, in rings that have more than twice as many: each time
/// costs a fence.
const REFILL: usize = 32;

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
    header_len: usize,
    partial: Option<Partial>,
    kick: Ringer,
}

/// The buffers that the device has, by their identifiers.
#[derive(Debug)]
struct Posts {
    posted: Box<[Option<Blank>]>,
    spare: Blanks,
    pool: MbufPool,
    reach: Reach,
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
    /// buffers from the start if it is to be `filled`, and else none at all.
    pub(crate) fn new(
        ring: AnyDriverRing,
        features: Features,
        pool: MbufPool,
        reach: Reach,
        kick: Ringer,
        filled: bool,
    ) -> Self {
        let size = usize::from(ring.size());
        let room = pool.data_room() as u32;
        let posts = Posts {
            posted: std::iter::repeat_with(|| None).take(size).collect(),
            spare: Blanks::new(),
            pool,
            reach,
            room,
        };
        let mut queue = Self {
            ring,
            posts,
            mergeable: features.contains(Features::MRG_RXBUF),
            offloads: features.intersects(Features::TO_DRIVER_OFFLOADS),
            header_len: net_header::len_with(features),
            partial: None,
            kick,
        };
        if filled {
            queue.refill(1);
        }
        queue
    }

    /// Posts as many buffers as the ring has room for.
    pub(crate) fn refill(&mut self, least: usize) {
        let header_len = self.header_len;
        let kick = match &mut self.ring {
            AnyDriverRing::Split(ring) => self.posts.refill(ring, header_len, least),
            AnyDriverRing::Packed(ring) => self.posts.refill(ring, header_len, least),
        };
        if kick {
            self.kick.ring();
        }
    }

    /// Adds received packets to `burst`.
    #[inline]
    pub(crate) fn receive(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let most = burst.room();
        let mut used = ArrayVec::<Used, MAX_BURST>::new_const();
        let result = match &mut self.ring {
            AnyDriverRing::Split(ring) => self.posts.reap(ring, most, &mut used, self.header_len),
            AnyDriverRing::Packed(ring) => self.posts.reap(ring, most, &mut used, self.header_len),
        };
        if used.is_empty() {
            return result;
        }
        self.take(&mut used, burst, counters);
        let most = usize::from(self.ring.size());
        self.refill(REFILL.min(most.div_ceil(2)));
        result
    }

    /// Makes packets of used buffers.
    #[inline(always)]
    fn take(&mut self, used: &mut ArrayVec<Used, MAX_BURST>, burst: &mut Burst, counters: &Counters) {
        let header_len = self.header_len as u32;
        let mut malformed = 0;
        for Used { blank, len } in used.drain(..) {
            // All of the buffer, for what in-order use has skipped.
            let whole = self.posts.room + header_len;
            let len = if len == u32::MAX { whole } else { len };
            if self.partial.is_some() {
                self.go_on(blank, len, burst, counters);
                continue;
            }
            if len < header_len || len > whole {
                malformed += 1;
                continue;
            }
            let header = if self.mergeable || self.offloads {
                read_header(&blank, self.header_len)
            } else {
                NetHeader { buffers: 1, ..NetHeader::default() }
            };
            let packet = blank.filled(len - header_len);
            let single = !self.mergeable || header.buffers == 1;
            if single && (header.is_plain() || !self.offloads) {
                // There is room: no more were taken back than it had.
                if let Err(packet) = burst.push(packet) {
                    drop(packet);
                }
                continue;
            }
            self.take_special(packet, header, burst, counters);
        }
        counters.dropped(DropReason::RxMalformed, malformed);
    }

    /// Takes a packet that has more buffers, or of which the header says something.
    #[cold]
    fn take_special(&mut self, packet: Mbuf, header: NetHeader, burst: &mut Burst, counters: &Counters) {
        let missing = if self.mergeable { header.buffers.saturating_sub(1) } else { 0 };
        // A packet of more buffers than the ring has never ends; it is dropped, and its buffers are believed.
        let spoilt = header.buffers == 0 && self.mergeable || missing >= self.ring.size();
        if missing > 0 && !spoilt {
            self.partial = Some(Partial { packet, header, missing, spoilt });
            return;
        }
        self.finish(packet, header, spoilt, burst, counters);
    }

    /// Adds a buffer to the packet that is not complete yet.
    #[cold]
    fn go_on(&mut self, blank: Blank, len: u32, burst: &mut Burst, counters: &Counters) {
        let Some(mut partial) = self.partial.take() else { return };
        // The device writes no header before what goes on; here the buffer begins where a header would be.
        let header_len = self.header_len as u32;
        let whole = self.posts.room + header_len;
        if len > whole || len == 0 || partial.packet.len() + len as usize > LONGEST {
            partial.spoilt = true;
        }
        let segment = blank.filled_from(HEADROOM - self.header_len, len.min(whole));
        if partial.packet.chain(segment).is_err() {
            partial.spoilt = true;
        }
        partial.missing -= 1;
        if partial.missing > 0 {
            self.partial = Some(partial);
            return;
        }
        let Partial { packet, header, spoilt, .. } = partial;
        self.finish(packet, header, spoilt, burst, counters);
    }

    /// Hands over a complete packet, with what its header says.
    fn finish(
        &self,
        mut packet: Mbuf,
        header: NetHeader,
        spoilt: bool,
        burst: &mut Burst,
        counters: &Counters,
    ) {
        if spoilt || (self.offloads && !net_offload::note(&mut packet, header)) {
            counters.dropped(DropReason::RxMalformed, 1);
            return;
        }
        if let Err(packet) = burst.push(packet) {
            drop(packet);
        }
    }

    /// Asks for notifications, and says whether packets wait already.
    pub(crate) fn arm(&mut self) -> bool {
        self.ring.arm()
    }

    /// Takes that back.
    pub(crate) fn disarm(&mut self) {
        self.ring.disarm();
    }
}

impl Posts {
    /// Takes back used buffers, and asks the processor for their first lines.
    #[inline(always)]
    fn reap<R: DriverRing>(
        &mut self,
        ring: &mut R,
        most: usize,
        used: &mut ArrayVec<Used, MAX_BURST>,
        header_len: usize,
    ) -> Result<(), Broken> {
        ring.reap(most, |id, len| {
            // The ring has checked that the buffer is outstanding; and in-order use may give more than was asked.
            let Some(blank) = self.posted.get_mut(usize::from(id)).and_then(Option::take) else { return };
            let header = blank.buffer().as_ptr().wrapping_add(HEADROOM - header_len);
            prefetch(header);
            prefetch(header.wrapping_add(64));
            blank.prefetch();
            let _ = used.try_push(Used { blank, len });
        })?;
        Ok(())
    }

    /// Posts buffers, if at least `least` fit; true when the device waits to be told.
    #[inline(always)]
    fn refill<R: DriverRing>(&mut self, ring: &mut R, header_len: usize, least: usize) -> bool {
        let mut posted = false;
        while ring.free() >= least.max(1) {
            let count = ring.free().min(MAX_BURST);
            // When the pool is short of so many, as many as there are.
            let missing = count.saturating_sub(self.spare.len());
            let mut try_for = missing;
            while try_for > 0 && !self.pool.blanks(&mut self.spare, try_for) {
                try_for /= 2;
            }
            let mut buffers = ArrayVec::<Buffer, MAX_BURST>::new_const();
            let len = self.room + header_len as u32;
            for blank in self.spare.iter().take(count) {
                // SAFETY: the header fits in front of the data: the headroom is longer.
                let place = unsafe { blank.buffer().add(HEADROOM - header_len) };
                let Some(address) = self.reach.address(place, len as usize) else { break };
                buffers.push(Buffer { address, len });
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

/// The header in front of a buffer's data.
#[inline(always)]
fn read_header(blank: &Blank, header_len: usize) -> NetHeader {
    let mut bytes = [0u8; net_header::LEN];
    // SAFETY: the headroom is longer than a header, and while the blank lives nobody here writes its buffer.
    unsafe {
        let place: NonNull<u8> = blank.buffer().add(HEADROOM - header_len);
        if header_len == net_header::LEN {
            bytes = place.cast().read();
        } else {
            place.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), net_header::LEGACY_LEN);
        }
    }
    NetHeader::from_bytes(bytes)
}
