//! Sending as the driver of a virtio-net device: packets are lent to the device, and go home when it is done with them.

use core::ptr::NonNull;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use wirerate_mempool::{Memory, RawHandle};

use crate::drivers::reach::Reach;
use crate::lane::Transmit;
use crate::packet::{Burst, MAX_BURST, Mbuf, MbufPool, Offload, Parked};
use crate::port::{Counters, DropReason};
use crate::virtqueue::net_header::{self, NetHeader};
use crate::virtqueue::{
    AnyDriverRing, Broken, Buffer, Direction, DriverRing, Features, Kick, Table, net_offload,
};

/// Bytes of a [`Side`] place: a header, then a table of descriptors.
pub(crate) const SIDE: usize = 1024;
/// The header's part of it.
const SIDE_HEADER: usize = 16;
/// Descriptors in the table.
const SIDE_DESCRIPTORS: usize = (SIDE - SIDE_HEADER) / 16;

/// Memory beside the ring, with a place for each buffer: headers that cannot stand in front of their packet, and tables
/// of indirect descriptors.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    base: NonNull<u8>,
    places: usize,
    /// The device's address of `base`.
    device: u64,
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory belongs to no thread and is kept by `_memory`; one queue alone writes it.
unsafe impl Send for Side {}
// SAFETY: a shared reference gives no access.
unsafe impl Sync for Side {}

impl Side {
    /// The `places * SIDE` bytes at `offset` of `memory`, which the device reaches at `device`. None when they are not
    /// there, or not aligned to 16.
    ///
    /// # Safety
    /// Nobody else uses them while the value lives.
    pub(crate) unsafe fn new<M: Memory + Any>(
        memory: Arc<M>,
        offset: usize,
        places: u16,
        device: u64,
    ) -> Option<Self> {
        let places = usize::from(places);
        let end = offset.checked_add(places.checked_mul(SIDE)?)?;
        if end > memory.len() {
            return None;
        }
        // SAFETY: the offset is in the memory.
        let base = unsafe { memory.base().add(offset) };
        base.as_ptr().addr().is_multiple_of(16).then_some(Self { base, places, device, _memory: memory })
    }

    /// The place of buffer `id`, here and for the device.
    pub(super) fn place(&self, id: u16) -> Option<(NonNull<u8>, u64)> {
        let offset = usize::from(id) * SIDE;
        // SAFETY: below the number of places, so in the memory.
        (usize::from(id) < self.places)
            .then(|| (unsafe { self.base.add(offset) }, self.device.wrapping_add(offset as u64)))
    }
}

/// The transmit side of a virtio-net driver's ring.
#[derive(Debug)]
pub(crate) struct DriverTx {
    ring: AnyDriverRing,
    lent: Lent,
    kick: Kick,
}

/// What the queue needs beside the ring.
#[derive(Debug)]
struct Lent {
    /// Packets that the device has, by their identifiers.
    parked: Box<[Option<Parked>]>,
    /// The pool of those that are simple.
    home: Option<RawHandle>,
    outstanding: usize,
    reach: Reach,
    side: Side,
    /// Where packets are copied to that the device does not reach.
    pool: Option<MbufPool>,
    features: Features,
    /// What the device does with packets that ask for it.
    can: Offload,
    /// Packets that were copied because the device did not reach them; of all queues of the port.
    copied: Arc<AtomicU64>,
}

impl DriverTx {
    /// Sends by `ring`, which is empty, and tells the device by `kick`. Packets that lie outside of what the device reaches
    /// are copied into mbufs of `pool`, and counted in `copied`.
    pub(crate) fn new(
        ring: AnyDriverRing,
        features: Features,
        pool: Option<MbufPool>,
        reach: Reach,
        side: Side,
        kick: Kick,
        copied: Arc<AtomicU64>,
    ) -> Self {
        let size = usize::from(ring.size());
        let lent = Lent {
            parked: std::iter::repeat_with(|| None).take(size).collect(),
            home: None,
            outstanding: 0,
            reach,
            side,
            pool,
            features,
            can: net_offload::to_device(features),
            copied,
        };
        Self { ring, lent, kick }
    }
}

impl Transmit for DriverTx {
    #[inline]
    fn send(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        let (kick, result) = match &mut self.ring {
            AnyDriverRing::Split(ring) => self.lent.send(ring, burst, counters),
            AnyDriverRing::Packed(ring) => self.lent.send(ring, burst, counters),
        };
        if kick {
            self.kick.ring();
        }
        result
    }
}

impl Lent {
    #[inline(always)]
    fn send<R: DriverRing>(
        &mut self,
        ring: &mut R,
        burst: &mut Burst,
        counters: &Counters,
    ) -> (bool, Result<(), Broken>) {
        // What is done goes home in bulk, and only so often that the device's lines stay with the device.
        let result = if ring.free() < (usize::from(ring.size()) / 2).max(burst.len()) {
            self.reap(ring)
        } else {
            Ok(())
        };
        ring.prepare(burst.len());
        let (mut packets, mut bytes) = (0, 0);
        while result.is_ok() && !burst.is_empty() {
            let mut buffers = ArrayVec::<Buffer, MAX_BURST>::new_const();
            let room = ring.free();
            let mut run_bytes = 0;
            for packet in burst.iter().take(room) {
                let Some(buffer) = self.simple(packet) else { break };
                run_bytes += packet.len() as u64;
                buffers.push(buffer);
            }
            if buffers.is_empty() {
                if room == 0 || !self.send_special(ring, burst, counters, &mut packets, &mut bytes) {
                    break;
                }
                continue;
            }
            let count = buffers.len();
            let home = match self.home {
                Some(home) if self.outstanding > 0 => home,
                // Nothing is out, so any pool can be the queue's.
                _ => burst[0].pool_handle(),
            };
            self.home = Some(home);
            let parked = &mut self.parked;
            let mut run = burst.drain_front(count);
            ring.offer_each(&buffers, Direction::ToDevice, |_, id| {
                if let (Some(place), Some(packet)) = (parked.get_mut(usize::from(id)), run.next()) {
                    *place = Some(Parked::new(packet, home));
                }
            });
            drop(run);
            self.outstanding += count;
            packets += count as u64;
            bytes += run_bytes;
        }
        if packets > 0 {
            counters.passed(packets, bytes);
        }
        (ring.publish(), result)
    }

    /// The buffer of a packet that needs one descriptor: one segment, room for a header in front, and nothing to be said in
    /// that header, which is written here.
    #[inline(always)]
    fn simple(&mut self, packet: &Mbuf) -> Option<Buffer> {
        let place = packet.headed(net_header::LEN)?;
        let len = packet.len() + net_header::LEN;
        let address = self.reach.address(place, len)?;
        // SAFETY: `headed` says that so many bytes in front of the data are the packet's own and nobody reads them.
        unsafe {
            // An mbuf that was sent before has a header of zeroes already. To read that costs less than to write it, as the
            // device has the line too.
            let (first, last) = NetHeader::words(place.as_ptr());
            if first != 0 || last != 0 {
                place.cast::<[u8; net_header::LEN]>().write([0; net_header::LEN]);
            }
        }
        Some(Buffer { address, len: len as u32 })
    }

    /// Sends the first packet, which is not simple: several segments, shared, with offloads, or out of reach. False when
    /// there is no room for it.
    #[cold]
    fn send_special<R: DriverRing>(
        &mut self,
        ring: &mut R,
        burst: &mut Burst,
        counters: &Counters,
        packets: &mut u64,
        bytes: &mut u64,
    ) -> bool {
        let Some(first) = burst.first() else { return false };
        let Some(header) =
            net_offload::header_for(first, self.can, self.features.contains(Features::HOST_ECN))
        else {
            counters.dropped(DropReason::BadHeader, 1);
            burst.free_front(1);
            return true;
        };
        let copy = match self.reaches(first) {
            true => None,
            false => match self.pool.as_ref().and_then(|pool| first.copy(pool)) {
                Some(copy) => Some(copy),
                // It waits until the pool has mbufs again; without a pool it never will.
                None if self.pool.is_some() => return false,
                None => {
                    counters.dropped(DropReason::TxRefused, 1);
                    burst.free_front(1);
                    return true;
                }
            },
        };
        let sent = copy.as_ref().unwrap_or(first);
        let len = sent.len() as u64;
        let Some(id) = ring.next_id() else { return false };
        let Some((side, side_address)) = self.side.place(id) else { return false };
        let mut parts = ArrayVec::<Buffer, SIDE_DESCRIPTORS>::new();
        parts.push(Buffer { address: side_address, len: net_header::LEN as u32 });
        let mut too_many = false;
        for (address, len) in sent.segments().flat_map(|segment| pieces(&self.reach, segment)).flatten() {
            too_many |= parts.try_push(Buffer { address, len: len as u32 }).is_err();
        }
        let indirect = self.features.contains(Features::INDIRECT);
        if too_many || (!indirect && parts.len() > usize::from(ring.size())) {
            counters.dropped(DropReason::TxTooLong, 1);
            burst.free_front(1);
            return true;
        }
        if !indirect && ring.free() < parts.len() {
            return false;
        }
        // SAFETY: buffer `id` is free, so its place beside the ring is too; it has room for a header, and for
        // `SIDE_DESCRIPTORS` descriptors behind.
        let table = unsafe {
            side.cast::<[u8; net_header::LEN]>().write(header.to_bytes());
            let place = side.add(SIDE_HEADER);
            indirect.then(|| Table::new(place, side_address.wrapping_add(SIDE_HEADER as u64)))
        };
        let Some(id) = ring.offer_chain(&parts, &[], table) else { return false };
        let own = burst.drain_front(1).next();
        self.copied.fetch_add(u64::from(copy.is_some()), Ordering::Relaxed);
        if let (Some(place), Some(packet)) = (self.parked.get_mut(usize::from(id)), copy.or(own)) {
            let home = *self.home.get_or_insert(packet.pool_handle());
            *place = Some(Parked::new(packet, home));
        }
        self.outstanding += 1;
        *packets += 1;
        *bytes += len;
        true
    }

    /// Whether the device reaches all of a packet.
    fn reaches(&self, packet: &Mbuf) -> bool {
        packet.segments().all(|segment| pieces(&self.reach, segment).all(|piece| piece.is_some()))
    }

    /// Puts home what the device is done with.
    #[inline(always)]
    fn reap<R: DriverRing>(&mut self, ring: &mut R) -> Result<(), Broken> {
        loop {
            let mut done = ArrayVec::<Parked, MAX_BURST>::new_const();
            let parked = &mut self.parked;
            let result = ring.reap(MAX_BURST, |id, _| {
                if let Some(packet) = parked.get_mut(usize::from(id)).and_then(Option::take) {
                    let _ = done.try_push(packet);
                }
            });
            let count = done.len();
            self.outstanding -= count;
            if let Some(home) = self.home {
                // SAFETY: while packets are out the home stays the same, and all were parked with it.
                unsafe { Parked::free(&mut done, home) };
            }
            if result? < MAX_BURST {
                return Ok(());
            }
        }
    }
}

/// The pieces of a segment as the device reaches them, with their lengths; the last is none if it does not reach all.
fn pieces<'a>(reach: &'a Reach, segment: &'a [u8]) -> impl Iterator<Item = Option<(u64, usize)>> + 'a {
    let mut left = segment;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let piece = reach.piece(NonNull::from(left).cast(), left.len());
        // Nothing is left where the device reaches nothing, and a piece is never empty.
        left = piece.and_then(|(_, len)| left.get(len..)).unwrap_or(&[]);
        Some(piece)
    })
}
