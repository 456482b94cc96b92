//! Receiving as the device: what the driver sends is copied out of its memory into packets.

use core::ptr::NonNull;
use std::sync::Arc;

use crate::lane::Receive;
use crate::packet::{Blank, Blanks, Burst, HEADROOM, MAX_BURST, MbufPool};
use crate::port::{Counters, DropReason};
use crate::virtqueue::copy::copy;
use crate::virtqueue::layout::{INDIRECT, WRITE, prefetch};
use crate::virtqueue::net_header::{self, NetHeader};
use crate::virtqueue::{
    AnyDeviceRing, Broken, Chain, DeviceRing, Features, Head, Ringer, SharedMemory, net_offload,
};

/// The longest packet that is taken: as large as TCP segmentation makes them, with link and IPv6 headers.
const LONGEST: usize = 65_535 + 18 + 40;

/// The device's end of a ring by which the driver sends.
#[derive(Debug)]
pub(crate) struct DeviceRx {
    ring: AnyDeviceRing,
    copier: Copier,
    call: Option<Ringer>,
    /// Where packets are put; without one none are taken.
    pool: Option<MbufPool>,
}

/// What the queue needs beside the ring.
#[derive(Debug)]
struct Copier {
    memory: Arc<SharedMemory>,
    /// Whether headers may say something.
    offloads: bool,
    header_len: usize,
    heads: Box<[Head; MAX_BURST]>,
    places: Box<[Option<NonNull<u8>>; MAX_BURST]>,
    blanks: Blanks,
    chain: Box<Chain>,
}

// SAFETY: the places point into `memory`, which belongs to no thread, and are only used within a call.
unsafe impl Send for Copier {}

impl DeviceRx {
    /// Receives into `pool` by `ring` out of `memory`, and tells the driver by `call` if it wants to be told.
    pub(crate) fn new(
        ring: AnyDeviceRing,
        features: Features,
        memory: Arc<SharedMemory>,
        call: Option<Ringer>,
        pool: Option<MbufPool>,
    ) -> Self {
        let copier = Copier {
            memory,
            offloads: features.intersects(Features::TO_DEVICE_OFFLOADS),
            header_len: net_header::len_with(features),
            heads: Box::new([Head::default(); MAX_BURST]),
            places: Box::new([None; MAX_BURST]),
            blanks: Blanks::new(),
            chain: Box::new(Chain::new()),
        };
        let mut queue = Self { ring, copier, call: None, pool };
        queue.set_call(call);
        queue
    }

    /// The ring.
    pub(crate) fn ring(&mut self) -> &mut AnyDeviceRing {
        &mut self.ring
    }

    /// Changes what the driver is told by, and tells it once.
    pub(crate) fn set_call(&mut self, call: Option<Ringer>) {
        // Whoever had the ring before may have ended between giving buffers back and calling.
        call.iter().for_each(Ringer::ring);
        self.call = call;
    }
}

impl Receive for DeviceRx {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let (call, result) = match &mut self.ring {
            AnyDeviceRing::Split(ring) => self.copier.receive(ring, burst, pool, counters),
            AnyDeviceRing::Packed(ring) => self.copier.receive(ring, burst, pool, counters),
        };
        if let (true, Some(call)) = (call, &self.call) {
            call.ring();
        }
        result
    }

    fn arm(&mut self) -> bool {
        self.ring.arm()
    }

    fn disarm(&mut self) {
        self.ring.disarm();
    }
}

impl Copier {
    #[inline(always)]
    fn receive<R: DeviceRing>(
        &mut self,
        ring: &mut R,
        burst: &mut Burst,
        pool: &MbufPool,
        counters: &Counters,
    ) -> (bool, Result<(), Broken>) {
        let room = burst.room();
        if ring.is_too_close(room) {
            return (false, Ok(()));
        }
        let count = match ring.look(&mut self.heads[..room]) {
            Ok(0) => return (false, Ok(())),
            Ok(count) => count,
            Err(broken) => return (false, Err(broken)),
        };
        ring.took(count, room);
        // The first lines of all packets are on their way before the first is copied.
        let header_len = self.header_len;
        for (head, place) in self.heads[..count].iter().zip(self.places.iter_mut()) {
            *place = None;
            if head.is_single() && !head.is_writable() {
                *place = self.memory.guest(head.address, u64::from(head.len));
                if let Some(place) = place {
                    prefetch(place.as_ptr());
                    prefetch(place.as_ptr().wrapping_add((head.len as usize).clamp(1, 128) - 1));
                }
            }
        }
        // When the pool is short, the rest stays where it is.
        let mut missing = count.saturating_sub(self.blanks.len());
        while missing > 0 && !pool.blanks(&mut self.blanks, missing) {
            missing /= 2;
        }
        let count = count.min(self.blanks.len());
        let room_in_mbuf = pool.data_room();
        let mut filler = burst.filler();
        let mut malformed = 0;
        let mut done = 0;
        while done < count {
            let head = self.heads[done];
            let len = (head.len as usize).wrapping_sub(header_len);
            match self.places[done] {
                // Not one of no bytes behind the header, which `gather` refuses.
                Some(place) if len.wrapping_sub(1) < room_in_mbuf => {
                    let header = if self.offloads {
                        // SAFETY: the buffer has `header_len` bytes: `len` did not wrap around.
                        unsafe { read_header(place, header_len) }
                    } else {
                        NetHeader::default()
                    };
                    let Some(blank) = self.blanks.pop() else { break };
                    // SAFETY: `len` bytes follow the header in the driver's memory, and the mbuf has room for as many
                    // behind its headroom; the two are different mappings or parts of them.
                    let mut packet = unsafe {
                        copy(place.as_ptr().add(header_len), data_of(&blank), len);
                        blank.filled(HEADROOM as u16, len as u32)
                    };
                    if header.is_plain() || net_offload::note(&mut packet, header) {
                        // There is room: no more were looked at than it had.
                        let _ = filler.push(packet);
                    } else {
                        malformed += 1;
                    }
                }
                _ => match self.gather(ring, &head, pool) {
                    Gathered::Packet(packet) => {
                        let _ = filler.push(packet);
                    }
                    Gathered::Malformed => malformed += 1,
                    Gathered::NoMbuf => break,
                },
            }
            done += 1;
        }
        drop(filler);
        counters.dropped(DropReason::RxMalformed, malformed);
        if done == 0 {
            return (false, Ok(()));
        }
        ring.give_back(&self.heads[..done], |_| 0);
        (ring.wants_call(), Ok(()))
    }

    /// Copies a packet that lies in several buffers, or is too long for one mbuf.
    #[cold]
    fn gather<R: DeviceRing>(&mut self, ring: &R, head: &Head, pool: &MbufPool) -> Gathered {
        if ring.chain(head, &self.memory, &mut self.chain).is_err() {
            return Gathered::Malformed;
        }
        let mut header = [0u8; net_header::LEN];
        let (mut skipped, mut total) = (0, 0);
        let mut packet = None;
        for part in self.chain.iter() {
            // In tables of packed rings, DPDK's driver (22.11, and since) marks its headers as writable.
            if part.flags & WRITE != 0 && head.flags & INDIRECT == 0 {
                return Gathered::Malformed;
            }
            let (mut address, mut left) = (part.address, part.len as usize);
            while left > 0 {
                // A buffer may go on in the next region.
                let Some((place, run)) = self.memory.guest_run(address) else { return Gathered::Malformed };
                let run = left.min(usize::try_from(run).unwrap_or(usize::MAX));
                let mut from = place.as_ptr();
                let mut rest = run;
                if skipped < self.header_len {
                    let piece = rest.min(self.header_len - skipped);
                    // SAFETY: `piece` bytes are readable at `from`, and the header has as many from `skipped` on.
                    unsafe {
                        copy(from, header.as_mut_ptr().add(skipped), piece);
                        from = from.add(piece);
                    }
                    skipped += piece;
                    rest -= piece;
                }
                total += rest;
                if total > LONGEST {
                    return Gathered::Malformed;
                }
                while rest > 0 {
                    let packet = match &mut packet {
                        Some(packet) => packet,
                        None => {
                            let Some(fresh) = fresh(pool, &mut self.blanks) else { return Gathered::NoMbuf };
                            packet.insert(fresh)
                        }
                    };
                    if packet.tailroom() == 0 {
                        let Some(segment) = fresh(pool, &mut self.blanks) else { return Gathered::NoMbuf };
                        if packet.chain(segment).is_err() {
                            return Gathered::Malformed;
                        }
                    }
                    let piece = rest.min(packet.tailroom());
                    let Some(room) = packet.append(piece) else { return Gathered::Malformed };
                    // SAFETY: `piece` bytes are readable at `from`, and `room` is as long.
                    unsafe {
                        copy(from, room.as_mut_ptr(), piece);
                        from = from.add(piece);
                    }
                    rest -= piece;
                }
                left -= run;
                address = address.wrapping_add(run as u64);
            }
        }
        let Some(mut packet) = packet.filter(|_| skipped == self.header_len) else {
            return Gathered::Malformed;
        };
        if self.offloads && !net_offload::note(&mut packet, NetHeader::from_bytes(header)) {
            return Gathered::Malformed;
        }
        Gathered::Packet(packet)
    }
}

/// An empty packet of the pool. When that has no more, perhaps the blanks here are why: then one of them.
fn fresh(pool: &MbufPool, blanks: &mut Blanks) -> Option<crate::Mbuf> {
    pool.alloc().or_else(|| blanks.pop().map(|blank| blank.filled_within(HEADROOM, 0)))
}

/// What became of a chain.
enum Gathered {
    Packet(crate::Mbuf),
    Malformed,
    /// It stays in the ring until there are mbufs.
    NoMbuf,
}

/// Where an mbuf's data will begin.
#[inline(always)]
fn data_of(blank: &Blank) -> *mut u8 {
    blank.buffer().as_ptr().wrapping_add(HEADROOM)
}

/// Reads a header out of shared memory.
///
/// # Safety
/// `header_len` bytes are readable at `place`; it is 10 or 12.
#[inline(always)]
unsafe fn read_header(place: NonNull<u8>, header_len: usize) -> NetHeader {
    // SAFETY: as the caller says; the bytes may change meanwhile, and any of their values will do.
    unsafe {
        if header_len == net_header::LEN {
            NetHeader::from_words(NetHeader::words(place.as_ptr()))
        } else {
            let mut bytes = [0u8; net_header::LEN];
            copy(place.as_ptr(), bytes.as_mut_ptr(), net_header::LEGACY_LEN);
            NetHeader::from_bytes(bytes)
        }
    }
}
