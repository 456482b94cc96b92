//! Frames from the wire into memory (datasheet, 7.1): filters of addresses, the packet buffer, and descriptors.

use std::collections::VecDeque;

use super::interrupts::{Bits, RX_MISS};
use super::model::Model;
use super::rings::{
    DESCRIPTOR, HLREG0_STRIP, RX, RX_ENABLE, Ring, SECURITY_HALT, SRRCTL_ADVANCED, SRRCTL_TYPE,
};
use super::statistics::FCS;

/// FCTRL (8.2.3.7.1).
const ALL_MULTICAST: u32 = 1 << 8;
const ALL_UNICAST: u32 = 1 << 9;
const BROADCAST: u32 = 1 << 10;
/// MCSTCTRL.MFE (8.2.3.7.3), RAH.AV (8.2.3.7.9).
const MULTICAST_FILTER: u32 = 1 << 2;
const ADDRESS_VALID: u32 = 1 << 31;
/// SRRCTL.Drop_En (8.2.3.8.7).
const DROP: u32 = 1 << 28;
/// HLREG0.JUMBOEN (8.2.3.22.8).
const JUMBO: u32 = 1 << 2;

/// Bytes of the shortest frame, and of the longest without jumbo frames, both with the checksum.
const SHORTEST: usize = 64;
const LONGEST: usize = 1518;

/// Status of a descriptor (7.1.6.2): done, and the frame's last.
const DONE: u8 = 1 << 0;
const END: u8 = 1 << 1;

/// Frames on their way in.
#[derive(Debug, Default)]
pub(crate) struct Receive {
    /// The packet buffer.
    buffer: VecDeque<Vec<u8>>,
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
}

impl Model {
    /// Takes what is on the wire into the packet buffer, or counts why not.
    pub(crate) fn take_arrivals(&mut self) -> bool {
        let mut some = false;
        while let Some(frame) = self.wire.as_mut().and_then(|wire| wire.receive()) {
            some = true;
            if self.link.up && self.value("RXCTRL") & RX_ENABLE != 0 {
                self.arrive(frame);
            }
        }
        some
    }

    fn arrive(&mut self, mut frame: Vec<u8>) {
        let len = frame.len() + FCS;
        let longest =
            if self.value("HLREG0") & JUMBO != 0 { (self.value("MAXFRS") >> 16) as usize } else { LONGEST };
        if len < SHORTEST || len > longest {
            self.count(if len < SHORTEST { "RUC" } else { "ROC" }, 0, 1);
            return;
        }
        let accepted = self.accepts(&frame);
        self.count_arrival(&frame, accepted);
        if !accepted {
            return;
        }
        let room = self.value("RXPBSIZE") as usize;
        if self.receive.bytes + len > room {
            self.count("MPC", 0, 1);
            self.raise(Bits::of(RX_MISS));
            return;
        }
        if self.value("HLREG0") & HLREG0_STRIP == 0 {
            frame.extend(checksum(&frame).to_le_bytes());
        }
        self.receive.bytes += frame.len();
        self.receive.buffer.push_back(frame);
    }

    /// Whether a frame's destination is one of this port's (7.1.1.1).
    fn accepts(&self, frame: &[u8]) -> bool {
        let &[a, b, c, d, e, f, ..] = frame else { return false };
        let fctrl = self.value("FCTRL");
        if [a, b, c, d, e, f] == [0xff; 6] {
            return fctrl & BROADCAST != 0;
        }
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = ADDRESS_VALID | u32::from(u16::from_le_bytes([e, f]));
        let is_exact =
            (0..128).any(|index| self.value_of("RAH", index) == high && self.value_of("RAL", index) == low);
        if is_exact {
            return true;
        }
        if a & 1 == 0 {
            return fctrl & ALL_UNICAST != 0;
        }
        let control = self.value("MCSTCTRL");
        // Which 12 bits of the address are looked up is what MO says.
        let shift = 4 - (control & 3) - u32::from(control & 3 == 3);
        let bits = u32::from(u16::from_le_bytes([e, f])) >> shift & 0xfff;
        let is_listed = self.value_of("MTA", bits >> 5) >> (bits & 0x1f) & 1 == 1;
        fctrl & ALL_MULTICAST != 0 || control & MULTICAST_FILTER != 0 && is_listed
    }

    /// Puts the packet buffer's first frame into a queue, if there is room; whether something was done.
    pub(crate) fn receive_one(&mut self) -> bool {
        if self.value("RXCTRL") & RX_ENABLE == 0 || self.value("SECRXCTRL") & SECURITY_HALT != 0 {
            return false;
        }
        // All go to queue 0: the model does not spread them.
        let queue = 0;
        let Some(len) = self.receive.buffer.front().map(Vec::len) else { return false };
        let srrctl = self.value_of("SRRCTL", queue);
        let size = (srrctl as usize & 0x1f) * 1024;
        let (ring, runs) = (self.ring(&RX, queue), self.receive.running.contains(&queue));
        let has_room = runs && size > 0 && ring.filled() as usize * size >= len;
        if !has_room && (srrctl & DROP == 0 || !runs) {
            return false;
        }
        let Some(frame) = self.receive.buffer.pop_front() else { return false };
        self.receive.bytes -= frame.len();
        if !has_room {
            self.count_queue_drop(queue);
        } else if self.deliver(queue, ring, &frame, size).is_some() {
            self.count_queue(queue, frame.len(), false);
            self.raise_queue(queue, false);
        } else {
            // Memory was not reached: what comes after is unknown, so the queue does nothing any more.
            self.receive.set_running(queue, false);
        }
        true
    }

    fn deliver(&mut self, queue: u32, mut ring: Ring, frame: &[u8], size: usize) -> Option<()> {
        let is_advanced = self.value_of("SRRCTL", queue) & SRRCTL_TYPE == SRRCTL_ADVANCED;
        let mut chunks = frame.chunks(size).peekable();
        while let Some(chunk) = chunks.next() {
            let at = ring.at(ring.head);
            let mut descriptor = [0; DESCRIPTOR];
            self.dma_read(("RDBAL", queue), at, &mut descriptor)?;
            let (address, header) = halves(&descriptor);
            if is_advanced && header & u64::from(DONE) != 0 {
                self.queue_fault(
                    ("RDT", queue),
                    at,
                    "a descriptor is handed over whose DD bit is set (7.1.6.1)",
                );
            }
            self.dma_write(("RDT", queue), address, chunk)?;
            let status = DONE | if chunks.peek().is_none() { END } else { 0 };
            let len = (chunk.len() as u16).to_le_bytes();
            let done = if is_advanced {
                // No hash, no type of packet, no errors: the model does not look into frames.
                [0, 0, 0, 0, 0, 0, 0, 0, status, 0, 0, 0, len[0], len[1], 0, 0]
            } else {
                let mut done = descriptor;
                done[8..].copy_from_slice(&[len[0], len[1], 0, 0, status, 0, 0, 0]);
                done
            };
            self.dma_write(("RDBAL", queue), at, &done)?;
            ring.head = ring.after(ring.head);
            self.set_value_of("RDH", queue, ring.head);
        }
        Some(())
    }
}

/// The two quad words of a descriptor.
pub(crate) fn halves(descriptor: &[u8; DESCRIPTOR]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*descriptor);
    (whole as u64, (whole >> 64) as u64)
}

/// The frame's check sequence (IEEE 802.3, 3.2.9).
pub(crate) fn checksum(frame: &[u8]) -> u32 {
    !frame.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
