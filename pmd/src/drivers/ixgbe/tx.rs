//! Sending: packets are lent to the device, and go home when it says that it is done with them (datasheet 7.2).

use core::ptr::NonNull;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use wirerate_eal::mmio::Mmio;
use wirerate_mempool::RawHandle;

use super::descriptor::{Ring, Sent};
use crate::drivers::reach::Reach;
use crate::lane::Transmit;
use crate::net::headers::Ethernet;
use crate::packet::{Burst, MAX_BURST, Mbuf, MbufPool, Parked};
use crate::port::{Counters, DropReason};
use crate::virtqueue::Broken;

/// The device reports each time that it is done with so many descriptors, or a few more: the last one's of a packet.
const REPORT: u16 = 32;
/// Descriptors of a packet at most (7.2.1.1: 40 buffers).
const MOST_PIECES: usize = 40;
/// The fewest descriptors in a ring: when all reports came, there is room for a packet of as many as it can have.
pub(super) const LEAST_SIZE: u16 = 128;
const _: () = assert!(LEAST_SIZE as usize - 1 - (REPORT as usize - 1) >= MOST_PIECES);
/// Bytes of the shortest packet that is sent: a header.
const ETHERNET_LEN: usize = size_of::<Ethernet>();
/// The longest packet that is sent: MAXFRS is below 16 KiB (8.2.3.22.13).
const LONGEST: usize = 15_872;

/// A transmit queue's ring and the packets in it.
#[derive(Debug)]
pub(super) struct IxgbeTx<B> {
    ring: Ring,
    /// Packets that the device has, each with its last descriptor.
    parked: Box<[Option<Parked>]>,
    /// The pool of those that are simple.
    home: Option<RawHandle>,
    /// The next descriptor to be written.
    tail: u16,
    /// The first that the device may not be done with.
    oldest: u16,
    /// Descriptors that can be written. One always stays empty, or a full ring would look like an empty one.
    free: u16,
    /// Descriptors since the last of which a report was asked.
    unreported: u16,
    /// Descriptors of which reports were asked, oldest first.
    reports: VecDeque<u16>,
    reach: Reach,
    /// Where packets are copied to that the device does not reach.
    pool: MbufPool,
    copied: Arc<AtomicU64>,
    registers: Arc<B>,
    /// Its tail register.
    doorbell: usize,
}

impl<B: Mmio> IxgbeTx<B> {
    /// Sends by `ring`, whose tail register is `doorbell`. Packets that the device does not reach are copied into mbufs of `pool`, and
    /// counted in `copied`.
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
            parked: std::iter::repeat_with(|| None).take(usize::from(size)).collect(),
            home: None,
            tail: 0,
            oldest: 0,
            free: size - 1,
            unreported: 0,
            // Never grows: reports are apart from each other.
            reports: VecDeque::with_capacity(usize::from(size)),
            ring,
            reach,
            pool,
            copied,
            registers,
            doorbell,
        }
    }

    /// Writes a descriptor and returns its index.
    #[inline(always)]
    fn write(&mut self, address: u64, len: u16, packet: u32, end: bool) -> u16 {
        let index = self.tail;
        self.unreported += 1;
        let report = end && self.unreported >= REPORT;
        self.ring.send(index, Sent { address, len, packet, end, report });
        if report {
            self.unreported = 0;
            self.reports.push_back(index);
        }
        self.tail = self.ring.after(index);
        self.free -= 1;
        index
    }

    /// Lends a packet to the device, with its last descriptor.
    #[inline(always)]
    fn park(&mut self, index: u16, packet: Mbuf) {
        let home = *self.home.get_or_insert_with(|| packet.pool_handle());
        if let Some(slot) = self.parked.get_mut(usize::from(index)) {
            *slot = Some(Parked::new(packet, home));
        }
    }

    /// The device's address of a packet that needs one descriptor.
    #[inline(always)]
    fn simple(&mut self, packet: &Mbuf) -> Option<u64> {
        let data = packet.data();
        let fits = packet.is_plain() && (ETHERNET_LEN..=LONGEST).contains(&data.len());
        if fits { self.reach.address(NonNull::from(data).cast(), data.len()) } else { None }
    }

    /// Sends the first packet, which is not simple: of several segments, out of reach, or of a length that cannot be. False
    /// when there is no room for it.
    #[cold]
    fn send_special(&mut self, burst: &mut Burst, counters: &Counters, sent: &mut (u64, u64)) -> bool {
        let Some(first) = burst.first() else { return false };
        let wrong = match first.len() {
            0..ETHERNET_LEN => Some(DropReason::TxTooShort),
            ETHERNET_LEN..=LONGEST => None,
            _ => Some(DropReason::TxTooLong),
        };
        if let Some(reason) = wrong {
            counters.dropped(reason, 1);
            burst.free_front(1);
            return true;
        }
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
        if usize::from(self.free) < pieces.len() {
            return false;
        }
        let len = first.len();
        let mut last = self.tail;
        for (at, (address, piece)) in pieces.iter().enumerate() {
            last = self.write(*address, *piece, len as u32, at + 1 == pieces.len());
        }
        self.copied.fetch_add(u64::from(copy.is_some()), Ordering::Relaxed);
        let own = burst.drain_front(1).next();
        if let Some(packet) = copy.or(own) {
            self.park(last, packet);
        }
        *sent = (sent.0 + 1, sent.1 + len as u64);
        true
    }

    /// Puts home what the device is done with.
    #[inline(always)]
    fn reap(&mut self) {
        let mut done = ArrayVec::<Parked, MAX_BURST>::new_const();
        while let Some(&report) = self.reports.front() {
            if !self.ring.is_sent(report) {
                break;
            }
            self.reports.pop_front();
            loop {
                let index = self.oldest;
                if let Some(packet) = self.parked.get_mut(usize::from(index)).and_then(Option::take) {
                    if done.is_full() {
                        self.put_home(&mut done);
                    }
                    done.push(packet);
                }
                self.oldest = self.ring.after(index);
                self.free += 1;
                if index == report {
                    break;
                }
            }
        }
        self.put_home(&mut done);
        if self.free == self.ring.size() - 1 {
            // Nothing is out, so any pool can be the queue's.
            self.home = None;
        }
    }

    #[inline(always)]
    fn put_home(&self, done: &mut ArrayVec<Parked, MAX_BURST>) {
        if let Some(home) = self.home {
            // SAFETY: while packets are out the home stays the same, and all were parked with it.
            unsafe { Parked::free(done, home) };
        }
    }
}

/// What of a packet the device reaches, piece by piece; none if it does not reach all, or there are too many.
fn pieces(reach: &Reach, packet: &Mbuf) -> Option<ArrayVec<(u64, u16), MOST_PIECES>> {
    let mut pieces = ArrayVec::new();
    for mut left in packet.segments() {
        while !left.is_empty() {
            let (address, len) = reach.piece(NonNull::from(left).cast(), left.len())?;
            pieces.try_push((address, u16::try_from(len).ok()?)).ok()?;
            left = left.get(len..)?;
        }
    }
    Some(pieces)
}

impl<B: Mmio> Transmit for IxgbeTx<B> {
    #[inline]
    fn send(&mut self, burst: &mut Burst, counters: &Counters) -> Result<(), Broken> {
        if usize::from(self.free) < usize::from(self.ring.size() / 2).max(burst.len()) {
            self.reap();
        }
        let before = self.tail;
        let mut sent = (0, 0);
        while !burst.is_empty() {
            let mut run = ArrayVec::<u16, MAX_BURST>::new_const();
            let mut bytes = 0;
            for packet in burst.iter().take(self.free.into()) {
                let Some(address) = self.simple(packet) else { break };
                let len = packet.len();
                run.push(self.write(address, len as u16, len as u32, true));
                bytes += len as u64;
            }
            if run.is_empty() {
                if self.free == 0 || !self.send_special(burst, counters, &mut sent) {
                    break;
                }
                continue;
            }
            for (packet, index) in burst.drain_front(run.len()).zip(&run) {
                self.park(*index, packet);
            }
            sent = (sent.0 + run.len() as u64, sent.1 + bytes);
        }
        if self.tail != before {
            self.registers.write32(self.doorbell, self.tail.into());
            counters.passed(sent.0, sent.1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
