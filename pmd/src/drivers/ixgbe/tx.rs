//! Sending: packets are lent to the device, and go home when it says that it is done with them (datasheet 7.2).

use core::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use wirerate_eal::mmio::Mmio;
use wirerate_mempool::RawHandle;

use super::descriptor::{Ring, Sent};
use super::line::Line;
use super::offload::{Asked, Contexts};
use crate::drivers::reach::Reach;
use crate::lane::Transmit;
use crate::net::complete::OffloadError;
use crate::net::headers::Ethernet;
use crate::packet::{Burst, Mbuf, MbufPool, Parked};
use crate::port::{Counters, DropReason};
use crate::virtqueue::Broken;

/// The device reports each time that it is done with so many descriptors, or a few more: the last one's of a packet.
const REPORT: u16 = 32;
/// Descriptors of a packet at most (7.2.1.1: 40 buffers).
const MOST_PIECES: usize = 40;
/// The fewest descriptors in a ring: when all reports came, there is room for a packet of as many as it can have, and a
/// context.
pub(super) const LEAST_SIZE: u16 = 128;
const _: () = assert!(LEAST_SIZE as usize - 1 - (REPORT as usize - 1) > MOST_PIECES);
/// Bytes of the shortest packet that is sent: a header.
const ETHERNET_LEN: usize = size_of::<Ethernet>();
/// The longest packet that is sent: MAXFRS is below 16 KiB (8.2.3.22.13).
const LONGEST: usize = 15_872;

/// A transmit queue's ring and the packets in it.
#[derive(Debug)]
pub(super) struct IxgbeTx<B> {
    ring: Ring,
    /// Packets that the device has, each at its last descriptor.
    parked: Line<Parked>,
    /// The pool of those that are simple.
    home: Option<RawHandle>,
    /// Descriptors since the last of which a report was asked.
    unreported: u16,
    /// Descriptors of which reports were asked, oldest first.
    reports: Line<u16>,
    /// What the device was told to do with packets that ask for something.
    contexts: Contexts,
    reach: Reach,
    /// Where packets are copied to that the device does not reach.
    pool: MbufPool,
    copied: Arc<AtomicU64>,
    registers: Arc<B>,
    /// Its tail register.
    doorbell: usize,
}

impl<B: Mmio> IxgbeTx<B> {
    /// Sends by `ring`, whose tail register is at `doorbell`. Packets that the device does not reach are copied into mbufs of
    /// `pool`, and counted in `copied`.
    pub(super) fn new(
        ring: Ring,
        doorbell: usize,
        pool: MbufPool,
        reach: Reach,
        copied: Arc<AtomicU64>,
        registers: Arc<B>,
    ) -> Self {
        let size = ring.size();
        Self {
            parked: Line::new(size),
            home: None,
            unreported: 0,
            // Reports are apart from each other.
            reports: Line::new(size / REPORT + 2),
            contexts: Contexts::default(),
            ring,
            reach,
            pool,
            copied,
            registers,
            doorbell,
        }
    }

    /// Sends packets off the front that need one descriptor, until there is one that does not, or no room; how many, and
    /// their bytes.
    #[inline(always)]
    fn send_simple(&mut self, burst: &mut Burst) -> (usize, u64) {
        let Some(first) = burst.first() else { return (0, 0) };
        let home = *self.home.get_or_insert_with(|| first.pool_handle());
        let Self { ring, parked, reports, reach, .. } = self;
        let mut filler = parked.filler();
        let (mut unreported, mut bytes) = (self.unreported, 0);
        let sent = burst.give(|packet| {
            let data = packet.data();
            let len = data.len();
            let fits = filler.room() > 0 && packet.is_plain() && (ETHERNET_LEN..=LONGEST).contains(&len);
            let address = if fits { reach.address(NonNull::from(data).cast(), len) } else { None };
            let Some(address) = address else { return Err(packet) };
            let packet = Parked::new(packet, home);
            unreported += 1;
            let report = unreported >= REPORT;
            let place = filler.place();
            let (len16, packet_len) = (len as u16, len as u32);
            ring.send(place, Sent { address, len: len16, packet: packet_len, end: true, report, asked: 0 });
            if report {
                unreported = 0;
                remember(reports, place);
            }
            bytes += len as u64;
            // There is room, as was asked.
            let _ = filler.push(packet);
            Ok(())
        });
        drop(filler);
        self.unreported = unreported;
        (sent, bytes)
    }

    /// Sends the first packet, which is not simple: it asks for something, has several segments, is out of reach, or of a
    /// length that cannot be. False when there is no room for it.
    #[inline(never)]
    fn send_special(&mut self, burst: &mut Burst, counters: &Counters, sent: &mut (u64, u64)) -> bool {
        let Some(first) = burst.first_mut() else { return false };
        let mut prepare = || {
            let asked = Asked::of(first).map_err(OffloadError::drop_reason)?;
            let (len, longest) = (first.len(), asked.map_or(0, |asked| asked.segment));
            match if longest > 0 { longest.min(len) } else { len } {
                _ if len < ETHERNET_LEN => return Err(DropReason::TxTooShort),
                0..=LONGEST => {}
                _ => return Err(DropReason::TxTooLong),
            }
            asked.map_or(Ok(()), |asked| asked.make_ready(first)).map_err(OffloadError::drop_reason)?;
            Ok(asked)
        };
        let asked = match prepare() {
            Ok(asked) => asked,
            Err(reason) => {
                counters.dropped(reason, 1);
                burst.free_front(1);
                return true;
            }
        };
        let (mut own, mut copy) = (pieces(&self.reach, first), None);
        if own.is_none() {
            // It waits until the pool has mbufs again.
            let Some(packet) = first.copy(&self.pool) else { return false };
            own = pieces(&self.reach, &packet);
            copy = Some(packet);
        }
        let Some(pieces) = own else {
            // Not even a copy: the pool's mbufs are too short, or none is reached.
            counters.dropped(DropReason::TxRefused, 1);
            burst.free_front(1);
            return true;
        };
        let (context, is_new) = asked.map_or((0, false), |asked| self.contexts.find(&asked));
        if usize::from(self.parked.room()) < pieces.len() + usize::from(is_new) {
            return false;
        }
        // From here on it is not offered again.
        self.copied.fetch_add(u64::from(copy.is_some()), Ordering::Relaxed);
        let own = burst.drain_front(1).next();
        let Some(mut packet) = copy.or(own) else { return false };
        if asked.is_some_and(|asked| !asked.finish(&mut packet)) {
            counters.dropped(DropReason::BadHeader, 1);
            return true;
        }
        let len = packet.len();
        let home = *self.home.get_or_insert_with(|| packet.pool_handle());
        let mut packet = Some(Parked::new(packet, home));
        let mut filler = self.parked.filler();
        let (mut bits, mut counted) = (0, len);
        if let Some(asked) = asked {
            if is_new {
                self.ring.context(filler.place(), asked.numbered(context));
                let _ = filler.push(Parked::nothing());
                self.unreported += 1;
            }
            self.contexts.used(context, &asked);
            (bits, counted) = (asked.bits(context), len - asked.headers);
        }
        for (at, (address, piece)) in pieces.iter().enumerate() {
            let end = at + 1 == pieces.len();
            self.unreported += 1;
            let report = end && self.unreported >= REPORT;
            let place = filler.place();
            let packet_len = counted as u32;
            let sent = Sent { address: *address, len: *piece, packet: packet_len, end, report, asked: bits };
            self.ring.send(place, sent);
            if report {
                self.unreported = 0;
                remember(&mut self.reports, place);
            }
            let lent = if end { packet.take() } else { None };
            // There is room, as was asked.
            let _ = filler.push(lent.unwrap_or(Parked::nothing()));
        }
        *sent = (sent.0 + 1, sent.1 + len as u64);
        true
    }

    /// Puts home what the device is done with.
    #[inline(always)]
    fn reap(&mut self) {
        let mut done = None;
        while let Some(report) = self.reports.oldest().copied().filter(|report| self.ring.is_sent(*report)) {
            self.reports.take(1, |_| Some(()), |_, ()| ());
            done = Some(report);
        }
        let (Some(count), Some(home)) = (done.and_then(|report| self.parked.up_to(report)), self.home) else {
            return;
        };
        self.parked.take_pieces(count, |run| {
            // SAFETY: while packets are out the home stays the same, and all were parked with it; the line has given them up.
            unsafe { Parked::free_run(run, home) };
        });
    }
}

/// Notes a descriptor of which a report was asked.
#[inline(always)]
fn remember(reports: &mut Line<u16>, place: u16) {
    // There is room: reports are apart from each other.
    let _ = reports.filler().push(place);
}

/// What of a packet the device reaches, piece by piece; none if it does not reach all, or there are too many.
fn pieces(reach: &Reach, packet: &Mbuf) -> Option<ArrayVec<(u64, u16), MOST_PIECES>> {
    let mut pieces = ArrayVec::new();
    for mut left in packet.segments() {
        while !left.is_empty() {
            let (address, len) = reach.piece(NonNull::from(left).cast(), left.len())?;
            let len = len.min(LONGEST);
            pieces.try_push((address, len as u16)).ok()?;
            left = left.get(len..)?;
        }
    }
    Some(pieces)
}

impl<B: Mmio> Transmit for IxgbeTx<B> {
    #[inline]
    fn send(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        if usize::from(self.parked.room()) < usize::from(self.ring.size() / 2).max(burst.len()) {
            self.reap();
        }
        if self.parked.len() == 0 {
            // Nothing is out, so any pool can be the queue's.
            self.home = None;
        }
        let before = self.parked.end();
        let mut sent = (0, 0);
        while !burst.is_empty() {
            let (packets, bytes) = self.send_simple(burst);
            sent = (sent.0 + packets as u64, sent.1 + bytes);
            if burst.is_empty() || self.parked.room() == 0 || !self.send_special(burst, counters, &mut sent) {
                break;
            }
        }
        if self.parked.end() != before {
            self.registers.write32(self.doorbell, self.parked.end().into());
            counters.passed(sent.0, sent.1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
