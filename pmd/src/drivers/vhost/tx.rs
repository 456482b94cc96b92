//! Sending as the device: packets are copied into buffers that the driver has made available.

use core::ptr::NonNull;
use std::sync::Arc;

use crate::lane::Transmit;
use crate::packet::{Burst, MAX_BURST, Mbuf, Offload};
use crate::port::{Counters, DropReason};
use crate::virtqueue::copy::copy;
use crate::virtqueue::layout::{INDIRECT, WRITE, prefetch_write};
use crate::virtqueue::net_header::{self, NetHeader};
use crate::virtqueue::{
    AnyDeviceRing, Broken, Chain, DeviceRing, Features, Head, Ringer, SharedMemory, net_offload,
};

/// The most buffers that one packet may take: those that 64 KiB need in a driver's smallest.
const MOST_BUFFERS: usize = 128;
/// The most descriptors that are looked at for one packet, in all its buffers: several for each.
const MOST_DESCRIPTORS: usize = 4 * MOST_BUFFERS;

/// The device's end of a ring by which the driver receives.
#[derive(Debug)]
pub(crate) struct DeviceTx {
    ring: AnyDeviceRing,
    copier: Copier,
    call: Option<Ringer>,
}

/// What the queue needs beside the ring.
#[derive(Debug)]
struct Copier {
    memory: Arc<SharedMemory>,
    /// What the driver takes unfinished.
    can: Offload,
    /// Whether it takes marks of congestion in large packets.
    marks: bool,
    mergeable: bool,
    header_len: usize,
    heads: Box<[Head; MAX_BURST + MOST_BUFFERS]>,
    places: Box<[Option<NonNull<u8>>; MAX_BURST]>,
    written: Box<[u32; MAX_BURST + MOST_BUFFERS]>,
    chain: Box<Chain>,
}

// SAFETY: the places point into `memory`, which belongs to no thread, and are only used within a call.
unsafe impl Send for Copier {}

impl DeviceTx {
    /// Sends by `ring` into `memory`, and tells the driver by `call` if it wants to be told.
    pub(crate) fn new(
        ring: AnyDeviceRing,
        features: Features,
        memory: Arc<SharedMemory>,
        call: Option<Ringer>,
    ) -> Self {
        let copier = Copier {
            memory,
            can: net_offload::to_driver(features),
            marks: features.contains(Features::GUEST_ECN),
            mergeable: features.contains(Features::MRG_RXBUF),
            header_len: net_header::len_with(features),
            heads: Box::new([Head::default(); MAX_BURST + MOST_BUFFERS]),
            places: Box::new([None; MAX_BURST]),
            written: Box::new([0; MAX_BURST + MOST_BUFFERS]),
            chain: Box::new(Chain::new()),
        };
        let mut queue = Self { ring, copier, call: None };
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

impl Transmit for DeviceTx {
    #[inline]
    fn send(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let (call, result) = match &mut self.ring {
            AnyDeviceRing::Split(ring) => self.copier.send(ring, burst, counters),
            AnyDeviceRing::Packed(ring) => self.copier.send(ring, burst, counters),
        };
        if let (true, Some(call)) = (call, &self.call) {
            call.ring();
        }
        result
    }
}

impl Copier {
    #[inline(always)]
    fn send<R: DeviceRing>(
        &mut self,
        ring: &mut R,
        burst: &mut Burst,
        counters: &Counters,
    ) -> (bool, Result<(), Broken>) {
        let (mut packets, mut bytes) = (0, 0);
        let mut result = Ok(());
        while !burst.is_empty() {
            let found = match ring.look(&mut self.heads[..burst.len()]) {
                Ok(0) => break,
                Ok(found) => found,
                Err(broken) => {
                    result = Err(broken);
                    break;
                }
            };
            // How many from the front are simple, with their buffers' lines on the way.
            let header_len = self.header_len;
            let mut run = 0;
            for ((packet, head), place) in burst.iter().zip(&self.heads[..found]).zip(self.places.iter_mut())
            {
                let len = packet.len() + header_len;
                if !head.is_single() || !head.is_writable() || len > head.len as usize || !packet.is_plain() {
                    break;
                }
                let Some(found) = self.memory.guest(head.address, len as u64) else { break };
                prefetch_write(found.as_ptr());
                prefetch_write(found.as_ptr().wrapping_add(len.clamp(1, 128) - 1));
                *place = Some(found);
                run += 1;
            }
            if run == 0 {
                match self.send_special(ring, burst, counters) {
                    Some(len) => {
                        packets += u64::from(len.is_some());
                        bytes += len.unwrap_or(0);
                        continue;
                    }
                    None => break,
                }
            }
            let header = NetHeader { buffers: 1, ..NetHeader::default() }.to_bytes();
            for (index, packet) in burst.iter().take(run).enumerate() {
                let Some(place) = self.places[index] else { break };
                let data = packet.data();
                // SAFETY: the buffer has room for header and data: `guest` was asked for both.
                unsafe {
                    if header_len == net_header::LEN {
                        place.cast::<[u8; net_header::LEN]>().write(header);
                    } else {
                        copy(header.as_ptr(), place.as_ptr(), header_len);
                    }
                    copy(data.as_ptr(), place.as_ptr().add(header_len), data.len());
                }
                self.written[index] = (data.len() + header_len) as u32;
                bytes += data.len() as u64;
            }
            let written = &self.written;
            ring.give_back(&self.heads[..run], |index| written[index]);
            burst.free_front(run);
            packets += run as u64;
            if found == run && !burst.is_empty() {
                // The ring has no more buffers.
                break;
            }
        }
        if packets > 0 {
            counters.passed(packets, bytes);
        }
        (ring.wants_call(), result)
    }

    /// Sends the first packet, which is not simple, or for which the next buffer is not. None when there are too few buffers
    /// now; the inner value is none when it was dropped.
    #[cold]
    fn send_special<R: DeviceRing>(
        &mut self,
        ring: &mut R,
        burst: &mut Burst,
        counters: &Counters,
    ) -> Option<Option<u64>> {
        let packet = burst.first()?;
        let len = packet.len();
        let Some(mut header) = net_offload::header_for(packet, self.can, self.marks) else {
            counters.dropped(DropReason::BadHeader, 1);
            burst.free_front(1);
            return Some(None);
        };
        let found = ring.look(&mut self.heads[..MOST_BUFFERS]).ok()?;
        // Which buffers take the packet, and what of each.
        let needed = len + self.header_len;
        let (mut room, mut used) = (0usize, 0usize);
        // Descriptors of these buffers, and how many of them are the ring's own.
        let (mut looked, mut taken) = (0usize, 0usize);
        while used < found && room < needed && looked < MOST_DESCRIPTORS && (used == 0 || self.mergeable) {
            let head = self.heads[used];
            let here = self.room_of(ring, &head);
            if here == 0 {
                // The buffer is no good, and goes back empty with those before it. The packet that they were for is lost
                // even if this was the first: a driver that makes bad buffers as fast as they come back would otherwise
                // keep us here for good.
                ring.give_back(&self.heads[..=used], |_| 0);
                counters.dropped(DropReason::TxRefused, 1);
                burst.free_front(1);
                return Some(None);
            }
            room += here;
            used += 1;
            looked += self.chain.len();
            taken += if head.flags & INDIRECT == 0 { self.chain.len() } else { 1 };
        }
        if room < needed {
            let all = MOST_BUFFERS.min(usize::from(ring.size()));
            // More buffers may come, unless the ring has no descriptors for them, or enough were looked at.
            if self.mergeable && found < all && taken < usize::from(ring.size()) && looked < MOST_DESCRIPTORS
            {
                return None;
            }
            counters.dropped(DropReason::TxTooLong, 1);
            burst.free_front(1);
            return Some(None);
        }
        header.buffers = used as u16;
        let header = header.to_bytes();
        let mut source = Source::new(&header[..self.header_len], packet);
        for index in 0..used {
            let head = self.heads[index];
            let mut here = 0u32;
            let mut whole = ring.chain(&head, &self.memory, &mut self.chain).is_ok();
            for part in self.chain.iter() {
                let (mut address, mut left) = (part.address, (part.len as usize).min(source.left()));
                while left > 0 && whole {
                    let Some((place, run)) = self.memory.guest_run(address) else {
                        whole = false;
                        break;
                    };
                    let run = left.min(usize::try_from(run).unwrap_or(usize::MAX));
                    // SAFETY: `run` bytes are writable at `place`.
                    unsafe { source.write(place.as_ptr(), run) };
                    here += run as u32;
                    left -= run;
                    address = address.wrapping_add(run as u64);
                }
            }
            self.written[index] = here;
            if !whole {
                // Part of a buffer is nowhere. All go back empty, and the packet is lost with them.
                ring.give_back(&self.heads[..used], |_| 0);
                counters.dropped(DropReason::TxRefused, 1);
                burst.free_front(1);
                return Some(None);
            }
        }
        let written = &self.written;
        ring.give_back(&self.heads[..used], |index| written[index]);
        burst.free_front(1);
        Some(Some(len as u64))
    }

    /// Bytes that fit into a chain; 0 when it is malformed or not to be written. Leaves its descriptors in `chain`.
    fn room_of<R: DeviceRing>(&mut self, ring: &R, head: &Head) -> usize {
        let well = ring.chain(head, &self.memory, &mut self.chain).is_ok()
            && self.chain.iter().all(|part| part.flags & WRITE != 0);
        if well { self.chain.iter().map(|part| part.len as usize).sum() } else { 0 }
    }
}

/// A header and a packet as one run of bytes, taken piece by piece.
struct Source<'a> {
    header: &'a [u8],
    segments: crate::packet::Segments<'a>,
    here: &'a [u8],
    left: usize,
}

impl<'a> Source<'a> {
    fn new(header: &'a [u8], packet: &'a Mbuf) -> Self {
        let left = header.len() + packet.len();
        Self { header, segments: packet.segments(), here: &[], left }
    }

    /// Bytes that were not taken.
    fn left(&self) -> usize {
        self.left
    }

    /// Takes the next `len` bytes.
    ///
    /// # Safety
    /// They are writable at `to`, and there are as many [left](Self::left).
    unsafe fn write(&mut self, mut to: *mut u8, mut len: usize) {
        while len > 0 {
            if self.here.is_empty() {
                self.here = match core::mem::take(&mut self.header) {
                    [] => match self.segments.next() {
                        Some(segment) => segment,
                        None => return,
                    },
                    header => header,
                };
                continue;
            }
            let (now, rest) = self.here.split_at(len.min(self.here.len()));
            // SAFETY: `now` is at most as long as what is writable at `to`.
            unsafe {
                copy(now.as_ptr(), to, now.len());
                to = to.add(now.len());
            }
            self.here = rest;
            self.left -= now.len();
            len -= now.len();
        }
    }
}
