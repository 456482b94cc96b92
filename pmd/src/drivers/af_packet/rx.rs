//! Receiving: frames out of the ring into mbufs.
//!
//! What the kernel says about a frame is checked against its slot before a byte of it is touched. A frame is
//! handed on as it was on the wire: the VLAN tag that the kernel took out is put back, and a checksum that the
//! sender left to hardware is filled in.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::ring::{Description, Filled, Slots};
use super::socket::{Shared, Socket};
use crate::net::transport::finish_partial_checksum;
use crate::packet::{Burst, Mbuf, MbufPool};
use crate::port::{Counters, DropReason, RxDriver};

/// Bytes in an Ethernet header, and the fewest that a frame can have.
const HEADER: usize = 14;
/// Bytes in front of a VLAN tag: the two addresses.
const ADDRESSES: usize = 12;
/// The type of a VLAN tag whose type the kernel does not tell: 802.1Q.
const DEFAULT_TPID: u16 = 0x8100;

/// A receive queue.
#[derive(Debug)]
pub(super) struct Rx {
    receiver: Receiver,
    socket: Arc<Socket>,
}

impl Rx {
    pub(super) fn new(slots: Slots, pool: MbufPool, socket: Arc<Socket>) -> Self {
        let receiver = Receiver::new(slots, pool, Arc::clone(socket.shared()));
        Self { receiver, socket }
    }
}

impl RxDriver for Rx {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        self.receiver.receive(burst, counters);
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

/// The ring's side of a receive queue.
#[derive(Debug)]
struct Receiver {
    slots: Slots,
    /// The slot that the kernel fills next, or has filled.
    cursor: usize,
    pool: MbufPool,
    shared: Arc<Shared>,
}

/// Why a frame is not handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    /// It went out by this interface; it is none that came in.
    Outgoing,
    Dropped(DropReason),
}

impl Receiver {
    const fn new(slots: Slots, pool: MbufPool, shared: Arc<Shared>) -> Self {
        Self { slots, cursor: 0, pool, shared }
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &Counters) {
        let ready = self.slots.ready(self.cursor, burst.room());
        if ready == 0 {
            return;
        }
        let mut filled = burst.len();
        if !self.pool.alloc_bulk(burst, ready) {
            self.alloc_what_there_is(burst, ready);
        }
        for _ in 0..ready {
            let Some(mut slot) = self.slots.filled(self.cursor) else { break };
            let result = fetch(&mut slot, burst.get_mut(filled), &self.pool, &self.shared);
            drop(slot);
            self.cursor = self.slots.after(self.cursor, 1);
            match result {
                Ok(()) => filled += 1,
                Err(Unfit::Outgoing) => {}
                Err(Unfit::Dropped(reason)) => {
                    counters.dropped(reason, 1);
                    self.start_anew(burst, filled);
                }
            }
        }
        while burst.len() > filled {
            burst.pop();
        }
    }

    /// The pool has fewer mbufs than there are frames.
    #[cold]
    fn alloc_what_there_is(&self, burst: &mut Burst, most: usize) {
        for _ in 0..most {
            let Some(packet) = self.pool.alloc() else { break };
            if burst.push(packet).is_err() {
                break;
            }
        }
    }

    /// Takes the mbuf at `at` out of the burst if a frame was begun in it; those behind it are all empty.
    #[cold]
    fn start_anew(&self, burst: &mut Burst, at: usize) {
        if burst.get(at).is_some_and(|packet| !packet.is_empty()) {
            let last = burst.len() - 1;
            burst.swap(at, last);
            burst.pop();
        }
    }
}

/// Puts the frame in `slot` into `packet`, an empty one.
#[inline]
fn fetch(
    slot: &mut Filled<'_>,
    packet: Option<&mut Mbuf>,
    pool: &MbufPool,
    shared: &Shared,
) -> Result<(), Unfit> {
    const MALFORMED: Unfit = Unfit::Dropped(DropReason::RxMalformed);
    let description = slot.description();
    let Description { status, len, kept, offset, .. } = description;
    if description.kind == libc::PACKET_OUTGOING {
        return Err(Unfit::Outgoing);
    }
    if kept < len {
        shared.too_long(len);
        return Err(Unfit::Dropped(DropReason::RxTooLong));
    }
    if kept > len || (kept as usize) < HEADER {
        return Err(MALFORMED);
    }
    let frame = slot.bytes(usize::from(offset), kept as usize).ok_or(MALFORMED)?;
    if status & libc::TP_STATUS_CSUMNOTREADY != 0 && finish_partial_checksum(frame).is_none() {
        shared.count_unfinished_checksum();
    }
    let packet = packet.ok_or(Unfit::Dropped(DropReason::NoMbuf))?;
    let tag = vlan_tag(&description);
    let stored = match &tag {
        None => store(packet, pool, [frame]),
        Some(tag) => {
            let (addresses, rest) = frame.split_at(ADDRESSES);
            store(packet, pool, [addresses, tag, rest])
        }
    };
    stored.ok_or(Unfit::Dropped(DropReason::NoMbuf))
}

/// The VLAN tag that the kernel took out of the frame, as it stood there.
#[inline]
fn vlan_tag(description: &Description) -> Option<[u8; 4]> {
    if description.status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let told = description.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let [a, b] = if told { description.tpid } else { DEFAULT_TPID }.to_be_bytes();
    let [c, d] = description.tci.to_be_bytes();
    Some([a, b, c, d])
}

/// Puts `pieces` into `packet`, one behind the other, chaining more mbufs to it where they do not fit. None
/// when the pool has too few; the packet then has some of the bytes.
#[inline]
fn store<const N: usize>(packet: &mut Mbuf, pool: &MbufPool, pieces: [&[u8]; N]) -> Option<()> {
    let len = pieces.iter().map(|piece| piece.len()).sum();
    let Some(mut room) = packet.append(len) else {
        return pieces.iter().try_for_each(|piece| pool.extend(packet, piece));
    };
    for piece in pieces {
        let (here, rest) = room.split_at_mut_checked(piece.len())?;
        here.copy_from_slice(piece);
        room = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests;
