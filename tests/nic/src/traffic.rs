//! Frames of IP with checksums that are right, one by one or without end, for tests and for a [`Station`](super::Station).

use super::packet::{CRC32C, crc, finished, ip, sum};
use super::random::Random;

pub use super::packet::L4;

/// What a frame is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The tag of a VLAN.
    pub tag: Option<u16>,
    /// IPv6, or IPv4.
    pub v6: bool,
    /// What is above; none for a protocol that no device knows.
    pub l4: Option<L4>,
    /// Bytes of the payload.
    pub payload: usize,
    /// The source's, and the destination's.
    pub ports: (u16, u16),
}

/// One of TCP over IPv4 with a payload of 50 bytes.
pub const TCP4: Kind = Kind { tag: None, v6: false, l4: Some(L4::Tcp), payload: 50, ports: (2794, 1766) };

/// A frame of this kind with all checksums right, from 66.9.149.187 to 161.142.100.80, or from 3ffe:2501:200:1fff::7 to
/// 3ffe:2501:200:3::1.
#[must_use]
pub fn frame(kind: Kind) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    if let Some(tag) = kind.tag {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    let mut l4 = Vec::from(kind.ports.0.to_be_bytes());
    l4.extend(kind.ports.1.to_be_bytes());
    l4.resize(kind.l4.map_or(4, L4::least), 0);
    match kind.l4 {
        Some(L4::Tcp) => {
            l4[4..8].copy_from_slice(&0x0102_0304_u32.to_be_bytes());
            (l4[12], l4[13]) = (0x50, 0x18);
        }
        Some(L4::Udp) => l4[4..6].copy_from_slice(&(8 + kind.payload as u16).to_be_bytes()),
        _ => {}
    }
    l4.extend((0..kind.payload).map(|at| (at * 7) as u8));
    let protocol = kind.l4.map_or(89, L4::protocol);
    let len = (l4.len() as u16).to_be_bytes();
    let at = frame.len() + 2;
    if kind.v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], protocol, 64]);
        frame.extend([0x3f, 0xfe, 0x25, 1, 2, 0, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7]);
        frame.extend([0x3f, 0xfe, 0x25, 1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
    } else {
        let total = (20 + l4.len() as u16).to_be_bytes();
        frame.extend([8, 0, 0x45, 0, total[0], total[1], 0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
        frame.extend([66, 9, 149, 187, 161, 142, 100, 80]);
    }
    frame.extend(l4);
    mend(&mut frame, at);
    frame
}

/// Makes the checksums of the packet of IP at `at` right, as far as it is one.
pub fn mend(frame: &mut [u8], at: usize) {
    let whole = frame.to_vec();
    let Some(ip) = ip(&whole, at) else { return };
    if !ip.v6 {
        frame[at + 10..at + 12].fill(0);
        let sum = finished(sum(0, &frame[at..at + ip.len]));
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let Some(l4) = ip.l4 else { return };
    let place = ip.l4_at() + l4.checksum_at();
    if l4 == L4::Sctp {
        frame[place..place + 4].fill(0);
        let crc = crc(CRC32C, &frame[ip.l4_at()..ip.end]);
        frame[place..place + 4].copy_from_slice(&crc.to_le_bytes());
    } else {
        frame[place..place + 2].fill(0);
        let bytes = &frame[ip.l4_at()..ip.end];
        let sum = finished(sum(ip.pseudo_header(frame, l4.protocol(), bytes.len()), bytes));
        frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Frames of several flows without end: TCP and UDP over IPv4 and IPv6, of 60 to 1514 bytes, in an order that a seed says.
/// Each says which one it is.
#[derive(Debug)]
pub struct Flows {
    random: Random,
    /// The next of each flow.
    next: Vec<u32>,
}

/// Bytes that say which flow it is, and the number in it.
const STAMP: usize = 8;
/// Bytes of the longest headers: IPv6 and TCP.
const HEADERS: usize = 74;
/// Bytes of the longest frame.
const LONGEST: usize = 1514;

impl Flows {
    /// Of `flows` flows, at least one.
    #[must_use]
    pub fn new(seed: u64, flows: u16) -> Self {
        Self { random: Random::new(seed), next: vec![0; usize::from(flows.max(1))] }
    }

    /// The flow and the number in it that a frame says; none if it is not one of these.
    #[must_use]
    pub fn stamp_of(frame: &[u8]) -> Option<(u32, u32)> {
        let packet = ip(frame, 14)?;
        // TCP says itself how long its header is.
        let header = if packet.l4? == L4::Tcp { 20 } else { packet.l4?.least() };
        let stamp = frame.get(packet.l4_at() + header..)?.first_chunk::<STAMP>()?;
        let [a, b, c, d, e, f, g, h] = *stamp;
        Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
    }
}

impl Iterator for Flows {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let flow = self.random.below(self.next.len());
        let l4 = if flow % 4 < 2 { L4::Udp } else { L4::Tcp };
        let payload = 18 + self.random.below(LONGEST - HEADERS - 17);
        let ports = (1000_u16.wrapping_add(flow as u16), 80);
        let mut frame = frame(Kind { tag: None, v6: flow % 2 == 1, l4: Some(l4), payload, ports });
        let at = frame.len() - payload;
        frame[at..at + 4].copy_from_slice(&(flow as u32).to_be_bytes());
        frame[at + 4..at + STAMP].copy_from_slice(&self.next[flow].to_be_bytes());
        mend(&mut frame, 14);
        self.next[flow] = self.next[flow].wrapping_add(1);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::packet::Headers;
    use super::*;

    #[test]
    fn frames_of_flows_are_right_and_say_which_they_are() {
        let mut next = [0; 7];
        let mut kinds = std::collections::BTreeSet::new();
        for frame in Flows::new(3, 7).take(500) {
            let headers = Headers::of(&frame, 0x8100);
            let packet = headers.ip.unwrap();
            assert!(packet.is_right(&frame) && packet.l4_is_right(&frame) == Some(true));
            assert!((60..=LONGEST).contains(&frame.len()));
            let (flow, number) = Flows::stamp_of(&frame).unwrap();
            assert_eq!(number, next[flow as usize]);
            next[flow as usize] += 1;
            kinds.insert(headers.packet_type());
        }
        assert!(next.iter().all(|count| *count > 20) && kinds.len() == 4);
        assert_eq!(Flows::stamp_of(&[0; 60]), None);
        assert_eq!(Flows::stamp_of(&[]), None);
        assert!(Flows::new(3, 7).take(50).eq(Flows::new(3, 7).take(50)));
    }
}
