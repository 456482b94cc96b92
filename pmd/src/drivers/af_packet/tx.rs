//! Sending: mbufs into the ring, and the kernel told to look at it, once a burst.
//!
//! A packet counts as sent when the kernel has taken it. What the kernel has no room for at the moment stays in
//! the ring, and it is asked again at the next burst; what it refuses is counted and taken out.

use core::time::Duration;
use std::time::Instant;

use rustix::io::Errno;

use super::ring::{Slots, TX_OVERHEAD, TxState};
use super::socket::Kernel;
use crate::net::transport::{fill_ipv4_checksum, fill_transport_checksum, ip_header_at};
use crate::packet::{Burst, Mbuf, Offload};
use crate::port::{Counters, DropReason, TxDriver};

/// Bytes in an Ethernet header, and the fewest that a frame can have.
const HEADER: usize = 14;
/// Bytes in front of a VLAN tag: the two addresses.
const ADDRESSES: usize = 12;
/// Bytes in a VLAN tag.
const TAG: usize = 4;
/// The type of the tag that is inserted, and of the frames that may be longer by a tag.
const TPID: [u8; 2] = [0x81, 0x00];
/// What is done to a frame in its slot, where it is nobody else's.
pub(super) const OFFLOADS: Offload = Offload::TX_CHECKSUMS.union(Offload::TX_VLAN_INSERT);
/// How long a queue that is dropped waits for the kernel to take what is left.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often an interrupted call is made again.
const INTERRUPTIONS: usize = 16;

/// A transmit queue over its ring.
#[derive(Debug)]
pub(super) struct Tx<K: Kernel> {
    slots: Slots,
    /// Bytes of the frame in each slot.
    lens: Box<[u32]>,
    /// The next slot to fill.
    next: usize,
    /// Frames in the slots before `next` that the kernel has not taken yet.
    pending: usize,
    kernel: K,
}

/// What became of a packet that was to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queued {
    Yes,
    /// There is no slot for it now.
    Full,
    /// It cannot be sent.
    Never(DropReason),
}

/// What asking the kernel to send came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kick {
    /// It took what it could.
    Done,
    /// Nothing can be sent: what was queued is dropped.
    Down,
}

impl<K: Kernel> Tx<K> {
    pub(super) fn new(slots: Slots, kernel: K) -> Self {
        let lens = vec![0; slots.count()].into();
        Self { slots, lens, next: 0, pending: 0, kernel }
    }

    /// The slot of the oldest frame that the kernel has not taken.
    fn first(&self) -> usize {
        self.slots.after(self.next, self.slots.count() - self.pending)
    }

    /// Whether the interface takes a frame of `len` bytes, by the rule of the kernel's `tpacket_snd`: an 802.1Q
    /// tag, and only that, may come on top.
    fn fits(&self, len: usize, tagged: bool, mtu: usize) -> bool {
        let most = mtu + HEADER + if tagged { TAG } else { 0 };
        len <= most.min(self.slots.size() - TX_OVERHEAD)
    }

    /// Puts a packet into the next slot.
    #[inline]
    fn queue(&mut self, packet: &Mbuf, mtu: usize) -> Queued {
        let insert = packet.offload().contains(Offload::TX_VLAN_INSERT);
        let len = packet.len() + if insert { TAG } else { 0 };
        if packet.len() < HEADER {
            return Queued::Never(DropReason::TxTooShort);
        }
        let tagged = insert || packet.read(ADDRESSES, TPID.len(), &mut [0; 2]) == Some(&TPID);
        let (true, Ok(slot_len)) = (self.fits(len, tagged, mtu), u32::try_from(len)) else {
            return Queued::Never(DropReason::TxTooLong);
        };
        let Some(mut slot) = self.slots.vacant(self.next) else { return Queued::Full };
        let Some(room) = slot.room(len) else { return Queued::Never(DropReason::TxTooLong) };
        if copy(packet, room, insert).and_then(|()| offload(packet, room, insert)).is_none() {
            return Queued::Never(DropReason::BadHeader);
        }
        slot.queue(slot_len);
        if let Some(noted) = self.lens.get_mut(self.next) {
            *noted = slot_len;
        }
        self.next = self.slots.after(self.next, 1);
        self.pending += 1;
        Queued::Yes
    }

    /// Counts the frames that the kernel has taken, and returns how many.
    #[inline]
    fn collect(&mut self, counters: Option<&Counters>) -> usize {
        let (mut taken, mut bytes) = (0, 0);
        let mut at = self.first();
        while taken < self.pending && matches!(self.slots.state(at), TxState::Sending | TxState::Vacant) {
            bytes += u64::from(self.lens.get(at).copied().unwrap_or(0));
            at = self.slots.after(at, 1);
            taken += 1;
        }
        self.pending -= taken;
        if let Some(counters) = counters.filter(|_| taken > 0) {
            counters.passed(taken as u64, bytes);
        }
        taken
    }

    /// Asks the kernel to send, as long as it gets on.
    #[inline]
    fn kick(&mut self, counters: &Counters) -> Kick {
        let mut interruptions = 0;
        let mut told_down = false;
        while self.pending > 0 {
            let answer = self.kernel.send();
            let taken = self.collect(Some(counters));
            if self.pending == 0 {
                break;
            }
            if self.slots.state(self.first()) == TxState::Refused {
                self.drop_refused(counters);
                continue;
            }
            match answer {
                _ if taken > 0 => {}
                Err(Errno::INTR) if interruptions < INTERRUPTIONS => interruptions += 1,
                // No room: on the socket, in the device's ring or in the peer's backlog. But this is also what
                // a frame gets that bypasses the queueing discipline of an interface without a carrier.
                Ok(()) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {
                    if self.kernel.link_is_up() {
                        break;
                    }
                    self.give_up(counters, DropReason::TxLinkDown);
                    return Kick::Down;
                }
                // The first such answer may be of the past: a socket tells once that its interface was down.
                Err(Errno::NETDOWN) if !told_down => told_down = true,
                Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV) => {
                    self.give_up(counters, DropReason::TxLinkDown);
                    return Kick::Down;
                }
                Err(_) => {
                    self.give_up(counters, DropReason::TxRefused);
                    break;
                }
            }
        }
        Kick::Done
    }

    /// Takes back all that the kernel has not taken.
    #[cold]
    fn give_up(&mut self, counters: &Counters, reason: DropReason) {
        counters.dropped(reason, self.pending as u64);
        self.next = self.first();
        for step in 0..self.pending {
            self.slots.withdraw(self.slots.after(self.next, step));
        }
        self.pending = 0;
    }

    /// Takes the first pending frame out, which the kernel refuses and will not look past, and moves the others
    /// up. The usual reason is that the MTU has shrunk, so others that are too long now go the same way.
    #[cold]
    fn drop_refused(&mut self, counters: &Counters) {
        let mtu = self.kernel.look_up_mtu();
        let first = self.first();
        self.slots.withdraw(first);
        counters.dropped(DropReason::TxRefused, 1);
        let mut kept = 0;
        for step in 1..self.pending {
            let (from, to) = (self.slots.after(first, step), self.slots.after(first, kept));
            let len = self.lens.get(from).copied().unwrap_or(0);
            // Whether it has a tag was looked at when it was queued; if the longer limit lets a frame pass that
            // has none, the kernel refuses that one too, and it is counted then.
            if self.fits(len as usize, true, mtu) && self.slots.advance(from, to) {
                if let Some(noted) = self.lens.get_mut(to) {
                    *noted = len;
                }
                kept += 1;
            } else {
                self.slots.withdraw(from);
                counters.dropped(DropReason::TxTooLong, 1);
            }
        }
        self.next = self.slots.after(first, kept);
        self.pending = kept;
    }
}

impl<K: Kernel + Send + core::fmt::Debug> TxDriver for Tx<K> {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let mtu = self.kernel.mtu();
        let mut done = 0;
        let mut kick = Kick::Done;
        let mut unseen = true;
        while let Some(packet) = burst.get(done) {
            match self.queue(packet, mtu) {
                Queued::Yes => unseen = true,
                Queued::Never(reason) => counters.dropped(reason, 1),
                Queued::Full => {
                    kick = self.kick(counters);
                    unseen = false;
                    if kick == Kick::Down || self.slots.state(self.next) != TxState::Vacant {
                        break;
                    }
                    continue;
                }
            }
            done += 1;
        }
        if unseen {
            kick = self.kick(counters);
        }
        burst.free_front(done);
        if kick == Kick::Down {
            counters.dropped(DropReason::TxLinkDown, burst.len() as u64);
            burst.free();
        }
    }

    fn offloads(&self) -> Offload {
        OFFLOADS
    }
}

impl<K: Kernel> Drop for Tx<K> {
    /// What the kernel has taken leaves whether the socket is open or not; what it has not taken gets a last,
    /// short chance.
    fn drop(&mut self) {
        let start = Instant::now();
        while self.pending > 0 && start.elapsed() < PATIENCE {
            match self.kernel.send() {
                Ok(()) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {}
                Err(_) => break,
            }
            if self.collect(None) == 0 {
                self.kernel.wait(Duration::from_millis(1));
            }
        }
        if self.pending > 0 {
            tracing::debug!("{} frames were left in a transmit ring", self.pending);
        }
    }
}

/// Copies a packet's segments into `room`, which is as long as the packet, or longer by the tag to insert.
#[inline]
fn copy(packet: &Mbuf, room: &mut [u8], insert: bool) -> Option<()> {
    let mut rest = room.get_mut(if insert { TAG } else { 0 }..)?;
    for segment in packet.segments() {
        let (here, after) = rest.split_at_mut_checked(segment.len())?;
        here.copy_from_slice(segment);
        rest = after;
    }
    if insert {
        room.copy_within(TAG..TAG + ADDRESSES, 0);
        let (tpid, tci) = room.get_mut(ADDRESSES..ADDRESSES + TAG)?.split_at_mut(TPID.len());
        tpid.copy_from_slice(&TPID);
        tci.copy_from_slice(&packet.vlan_tci().to_be_bytes());
    }
    Some(())
}

/// Does to the copied frame what the packet's flags ask for. None when its headers are not what they say.
#[inline]
fn offload(packet: &Mbuf, frame: &mut [u8], inserted: bool) -> Option<()> {
    const IP: Offload = Offload::TX_IP_CHECKSUM;
    const TRANSPORT: Offload = Offload::TX_TCP_CHECKSUM.union(Offload::TX_UDP_CHECKSUM);
    let asked = packet.offload();
    if !asked.intersects(IP.union(TRANSPORT)) {
        return Some(());
    }
    let ip_at = match usize::from(packet.tx_lengths().l2) {
        0 => ip_header_at(frame)?,
        told => told + if inserted { TAG } else { 0 },
    };
    if asked.intersects(IP) {
        fill_ipv4_checksum(frame, ip_at)?;
    }
    if asked.intersects(TRANSPORT) {
        fill_transport_checksum(frame, ip_at)?;
    }
    Some(())
}

#[cfg(test)]
mod tests;
