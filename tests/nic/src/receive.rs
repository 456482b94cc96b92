//! Frames from the wire into memory (datasheet, 7.1): the packet buffer, queues, and what descriptors tell of a frame.

use std::collections::VecDeque;

use super::filters::Passed;
use super::interrupts::{Bits, RX_MISS};
use super::model::Model;
use super::packet::{CRC32, Headers, L4, crc};
use super::rings::{
    DESCRIPTOR, HLREG0_STRIP, RX, RX_ENABLE, Ring, SECURITY_HALT, SRRCTL_ADVANCED, SRRCTL_TYPE,
};
use super::rss::Hash;
use super::statistics::FCS;
use super::trouble::Write;

/// FCTRL.SBP (8.2.3.7.1).
const STORE_BAD: u32 = 1 << 1;
/// SRRCTL.Drop_En (8.2.3.8.7), RXDCTL.VME (8.2.3.8.6).
const DROP: u32 = 1 << 28;
const STRIP_VLAN: u32 = 1 << 30;
/// HLREG0.JUMBOEN and HLREG0.LPBK (8.2.3.22.8).
const JUMBO: u32 = 1 << 2;
const LOOPBACK: u32 = 1 << 15;
/// RXCSUM (8.2.3.7.5): fragments' checksums are told, and whether hashes are in their place.
const FRAGMENT_CHECKSUM: u32 = 1 << 12;
const HASH_TOLD: u32 = 1 << 13;

/// Bytes of the shortest frame, and of the longest without jumbo frames, both with the checksum.
const SHORTEST: usize = 64;
const LONGEST: usize = 1518;
/// Bytes of a tag with its EtherType, which no limit counts (8.2.3.22.13), and where it is.
const TAG: usize = 4;
const TAG_AT: usize = 12;

/// Status of a descriptor (7.1.6.2): done, the frame's last, tagged, checksums of UDP, of L4 and of IP looked at, passed by
/// a hash. A legacy descriptor has the same in 8 bits (7.1.5).
const DONE: u8 = 1 << 0;
const END: u8 = 1 << 1;
const TAGGED: u8 = 1 << 3;
const UDP_SUM: u8 = 1 << 4;
const L4_SUM: u8 = 1 << 5;
const IP_SUM: u8 = 1 << 6;
const BY_HASH: u8 = 1 << 7;
/// Errors, the upper ones of 12 bits in an advanced descriptor, and those of 8 in a legacy one: of the frame (RXE),
/// of L4's checksum, of IP's.
const DAMAGED: u8 = 1 << 5;
const L4_ERROR: u8 = 1 << 6;
const IP_ERROR: u8 = 1 << 7;

/// A frame in the packet buffer, and what was found in it.
#[derive(Debug)]
struct Arrived {
    bytes: Vec<u8>,
    headers: Headers,
    passed: Passed,
    hash: Hash,
    /// Its check sequence is right.
    whole: bool,
}

/// Frames on their way in.
#[derive(Debug, Default)]
pub(crate) struct Receive {
    /// The packet buffer.
    buffer: VecDeque<Arrived>,
    bytes: usize,
    running: Vec<u32>,
}

impl Receive {
    pub(crate) fn set_running(&mut self, queue: u32, on: bool) {
        self.running.retain(|running| *running != queue);
        if on {
            self.running.push(queue);
        }
    }

    /// Drops what is in the packet buffer.
    pub(crate) fn empty(&mut self) {
        self.buffer.clear();
        self.bytes = 0;
    }
}

/// What a frame's last descriptor tells.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    hash: Hash,
    packet_type: u16,
    status: u8,
    errors: u8,
    tag: u16,
}

impl Told {
    /// An advanced descriptor as it is written back (7.1.6.2).
    fn advanced(self, len: u16) -> [u8; DESCRIPTOR] {
        let low =
            u64::from(self.hash.kind) | u64::from(self.packet_type) << 4 | u64::from(self.hash.value) << 32;
        let high = u64::from(self.status)
            | u64::from(self.errors) << 24
            | u64::from(len) << 32
            | u64::from(self.tag) << 48;
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }

    /// The upper half of a legacy one (7.1.5).
    fn legacy(self, len: u16) -> [u8; DESCRIPTOR / 2] {
        let high = u64::from(len)
            | u64::from(self.status) << 32
            | u64::from(self.errors) << 40
            | u64::from(self.tag) << 48;
        high.to_le_bytes()
    }
}

impl Model {
    /// Takes what is on the wire into the packet buffer, or counts why not.
    pub(crate) fn take_arrivals(&mut self) -> bool {
        let mut some = false;
        while let Some(frame) = self.wire.as_mut().and_then(|wire| wire.receive()) {
            some = true;
            if self.is_looped() {
                self.trouble.lose();
            } else {
                self.hear(frame);
            }
        }
        some
    }

    /// What the MAC sends comes back to it, and does not go out; nor does anything come in (8.2.3.22.8).
    pub(crate) fn is_looped(&self) -> bool {
        self.value("HLREG0") & LOOPBACK != 0
    }

    /// A frame is there, for a receiver that is enabled.
    pub(crate) fn hear(&mut self, frame: Vec<u8>) {
        if self.link.up && self.value("RXCTRL") & RX_ENABLE != 0 && !self.trouble.is_stuck() {
            self.arrive(frame);
        } else {
            self.trouble.lose();
        }
    }

    fn arrive(&mut self, mut frame: Vec<u8>) {
        let whole = self.wear(&mut frame);
        let headers = Headers::of(&frame, self.vlan_type());
        let len = frame.len() + FCS;
        let jumbo = self.value("HLREG0") & JUMBO != 0;
        let most = if jumbo { (self.value("MAXFRS") >> 16) as usize } else { LONGEST };
        let longest = most + if headers.tag.is_some() { TAG } else { 0 };
        if len < SHORTEST || len > longest {
            // With a wrong check sequence they are fragments and jabber (8.2.3.23).
            let short = if whole { "RUC" } else { "RFC" };
            let long = if whole { "ROC" } else { "RJC" };
            self.count(if len < SHORTEST { short } else { long }, 0, 1);
            return;
        }
        if !whole {
            self.count("CRCERRS", 0, 1);
            if self.value("FCTRL") & STORE_BAD == 0 {
                self.count_arrival(&frame, false);
                return;
            }
        } else if self.takes_control(&frame) {
            return;
        }
        let passed = self.filter(&frame, &headers);
        self.count_arrival(&frame, passed.is_some());
        let Some(passed) = passed else { return };
        let room = self.value("RXPBSIZE") as usize;
        if self.receive.bytes + len > room {
            self.count("MPC", 0, 1);
            self.raise(Bits::of(RX_MISS));
            return;
        }
        let hash = self.hash(&frame, &headers);
        let mut bytes = frame;
        if self.value("HLREG0") & HLREG0_STRIP == 0 {
            bytes.extend(crc(CRC32, &bytes).to_le_bytes());
        }
        self.receive.bytes += bytes.len();
        self.receive.buffer.push_back(Arrived { bytes, headers, passed, hash, whole });
        self.look_at_buffer();
    }

    /// Bytes in the packet buffer.
    pub(crate) fn buffered(&self) -> usize {
        self.receive.bytes
    }

    /// Puts the packet buffer's first frame into a queue, if there is room; whether something was done.
    pub(crate) fn receive_one(&mut self) -> bool {
        let halted = self.value("SECRXCTRL") & SECURITY_HALT != 0 || self.trouble.is_stuck();
        if self.value("RXCTRL") & RX_ENABLE == 0 || halted {
            return false;
        }
        let Some(first) = self.receive.buffer.front() else { return false };
        let queue = self.queue_for(&first.headers, first.hash);
        let strips = first.headers.tag.is_some() && self.value_of("RXDCTL", queue) & STRIP_VLAN != 0;
        let len = first.bytes.len() - if strips { TAG } else { 0 };
        let srrctl = self.value_of("SRRCTL", queue);
        let size = (srrctl as usize & 0x1f) * 1024;
        let (ring, runs) = (self.ring(&RX, queue), self.receive.running.contains(&queue));
        let has_room = runs && size > 0 && ring.filled() as usize * size >= len;
        if !has_room && (srrctl & DROP == 0 || !runs) {
            return false;
        }
        let Some(mut first) = self.receive.buffer.pop_front() else { return false };
        self.receive.bytes -= first.bytes.len();
        self.look_at_buffer();
        let told = self.told(&first, strips);
        if strips {
            first.bytes.drain(TAG_AT..TAG_AT + TAG);
        }
        if !has_room {
            self.count_queue_drop(queue);
        } else if self.deliver(queue, ring, &first.bytes, size, told).is_some() {
            self.count_queue(queue, first.bytes.len(), false);
        } else {
            // Memory was not reached: what comes after is unknown, so the queue does nothing any more.
            self.receive.set_running(queue, false);
        }
        true
    }

    /// What is told of a frame whose tag is stripped or not.
    fn told(&mut self, frame: &Arrived, strips: bool) -> Told {
        let Arrived { bytes, headers, passed, hash, whole } = frame;
        let hash = if self.value("RXCSUM") & HASH_TOLD == 0 { Hash::default() } else { *hash };
        let mut told =
            Told { hash, packet_type: self.packet_type(headers), status: DONE | END, ..Told::default() };
        if let Some(tag) = headers.tag {
            told.status |= TAGGED;
            told.tag = if strips { tag } else { 0 };
        }
        if *passed == Passed::ByHash {
            told.status |= BY_HASH;
        }
        if !whole {
            told.errors |= DAMAGED;
        }
        let Some(ip) = &headers.ip else { return told };
        if !ip.v6 {
            told.status |= IP_SUM;
            told.errors |= if ip.is_right(bytes) { 0 } else { IP_ERROR };
        }
        match ip.l4_is_right(bytes) {
            Some(is_right) => {
                told.status |= L4_SUM | if ip.l4 == Some(L4::Udp) { UDP_SUM } else { 0 };
                told.errors |= if is_right { 0 } else { L4_ERROR };
            }
            // The hardware calls some UDP frames without a checksum wrong, as Linux's and DPDK's drivers know.
            None if ip.l4 == Some(L4::Udp) && self.random.below(2) == 0 => {
                told.status |= L4_SUM | UDP_SUM;
                told.errors |= L4_ERROR;
            }
            None => {}
        }
        told
    }

    fn deliver(&mut self, queue: u32, mut ring: Ring, frame: &[u8], size: usize, told: Told) -> Option<()> {
        let is_advanced = self.value_of("SRRCTL", queue) & SRRCTL_TYPE == SRRCTL_ADVANCED;
        let mut chunks = frame.chunks(size).peekable();
        while let Some(chunk) = chunks.next() {
            let at = ring.at(ring.head);
            let mut descriptor = [0; DESCRIPTOR];
            self.trouble.fetch();
            self.dma_read(("RDBAL", queue), at, &mut descriptor)?;
            // The other half is for a buffer for headers, and not looked at without one: Linux leaves in it, DD among it, what
            // was written back the last time, and looks for a length.
            let (address, _) = halves(&descriptor);
            self.dma_write(("RDT", queue), address, chunk)?;
            let told = if chunks.peek().is_none() { told } else { self.not_told() };
            let len = chunk.len() as u16;
            let bytes = if is_advanced {
                told.advanced(len)
            } else {
                let mut done = descriptor;
                done[DESCRIPTOR / 2..].copy_from_slice(&told.legacy(len));
                done
            };
            self.put_back(false, queue, &[Write { register: "RDBAL", address: at, bytes, len: DESCRIPTOR }])?;
            ring.head = ring.after(ring.head);
            self.set_value_of("RDH", queue, ring.head);
        }
        Some(())
    }

    /// What a descriptor that is not a frame's last has: only that it is done, and its length, mean something (7.1.5).
    fn not_told(&mut self) -> Told {
        let noise = self.random.bits().to_le_bytes();
        let value = u32::from_le_bytes([noise[0], noise[1], noise[2], noise[3]]);
        let hash = Hash { kind: noise[4] & 0xf, value };
        let tag = u16::from_le_bytes([noise[5], noise[6]]);
        Told { hash, packet_type: u16::from(noise[7] & 0x7f), status: DONE, errors: 0, tag }
    }

    /// Whether RXCSUM can be so (8.2.3.7.5).
    pub(crate) fn rxcsum_is_wrong(&self, value: u32) -> Option<&'static str> {
        if value & (FRAGMENT_CHECKSUM | HASH_TOLD) == FRAGMENT_CHECKSUM {
            return Some("IPPCSE without PCSD asks for checksums of fragments, which the model has not");
        }
        (value != self.value("RXCSUM") && self.value("RXCTRL") & RX_ENABLE != 0)
            .then_some("it is only to be written while RXCTRL.RXEN is clear")
    }
}

/// The two quad words of a descriptor.
pub(crate) fn halves(descriptor: &[u8; DESCRIPTOR]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*descriptor);
    (whole as u64, (whole >> 64) as u64)
}
