//! What the device finds in a frame: its tag, its headers, and whether their checksums are right (datasheet, 7.1.6.2 for
//! what is told of it, 7.1.11 for what is summed up). Of a tunnel it sees the outer header only.

use std::ops::Range;

/// EtherTypes.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// LLC and SNAP between a length and an EtherType.
const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];
/// Headers of IPv6 that L4 is looked for behind (7.1.11): hop-by-hop options, routing, destination options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// More of a fragmented packet follows, and where this one begins (RFC 791).
const FRAGMENTED: u16 = 0x3fff;

/// The protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl L4 {
    fn of(protocol: u8) -> Option<Self> {
        match protocol {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    pub(crate) const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Bytes of the shortest header.
    pub(crate) const fn least(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
            Self::Sctp => 12,
        }
    }

    /// Where the checksum is in it.
    pub(crate) const fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
            Self::Sctp => 8,
        }
    }
}

/// The header of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) v6: bool,
    /// There are options, or further headers.
    pub(crate) more: bool,
    /// Where it begins in the frame.
    pub(crate) at: usize,
    /// Bytes of it, with its options and further headers.
    pub(crate) len: usize,
    /// Where the packet ends in the frame: behind it there is padding.
    pub(crate) end: usize,
    /// What is above, unless it is a fragment, or unknown, or too short.
    pub(crate) l4: Option<L4>,
}

impl Ip {
    /// Where L4 begins in the frame.
    pub(crate) fn l4_at(&self) -> usize {
        self.at + self.len
    }

    /// Where the addresses are: the source's, and the destination's behind it.
    pub(crate) fn addresses(&self) -> Range<usize> {
        if self.v6 { self.at + 8..self.at + 40 } else { self.at + 12..self.at + 20 }
    }

    /// Whether the header's own checksum is right; IPv6 has none.
    pub(crate) fn is_right(&self, frame: &[u8]) -> bool {
        self.v6 || finished(sum(0, &frame[self.at..self.l4_at()])) == 0
    }

    /// The sum of what L4's checksum is over beside L4 itself (RFC 9293, RFC 8200), for `len` bytes of it.
    pub(crate) fn pseudo_header(&self, frame: &[u8], protocol: u8, len: usize) -> u64 {
        sum(u64::from(protocol) + len as u64, &frame[self.addresses()])
    }

    /// What is told of L4's checksum; none if there is nothing to check: of UDP over IPv4 it may be left out (RFC 768).
    pub(crate) fn l4_is_right(&self, frame: &[u8]) -> Option<bool> {
        let (l4, bytes) = (self.l4?, &frame[self.l4_at()..self.end]);
        let at = l4.checksum_at();
        match l4 {
            L4::Sctp => {
                let mut blank = bytes.to_vec();
                blank[at..at + 4].fill(0);
                Some(crc(CRC32C, &blank).to_le_bytes() == bytes[at..at + 4])
            }
            L4::Udp if !self.v6 && bytes[at..at + 2] == [0, 0] => None,
            L4::Tcp | L4::Udp => {
                let start = self.pseudo_header(frame, l4.protocol(), bytes.len());
                Some(finished(sum(start, bytes)) == 0)
            }
        }
    }
}

/// What a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Headers {
    /// The tag of a VLAN.
    pub(crate) tag: Option<u16>,
    /// The EtherType behind the tag; less than 0x600 where a length is there.
    pub(crate) kind: u16,
    pub(crate) ip: Option<Ip>,
}

impl Headers {
    /// Looks at a frame; `vlan` is the EtherType of tags.
    pub(crate) fn of(frame: &[u8], vlan: u16) -> Self {
        let (mut at, mut tag) = (12, None);
        if word(frame, at) == Some(vlan) {
            (at, tag) = (16, word(frame, 14));
        }
        let Some(mut kind) = word(frame, at) else { return Self { tag, kind: 0, ip: None } };
        let told = kind;
        at += 2;
        if kind < 0x600 && frame.get(at..at + 6) == Some(&SNAP) {
            kind = word(frame, at + 6).unwrap_or(0);
            at += 8;
        }
        let ip = if matches!(kind, IPV4 | IPV6) { ip(frame, at) } else { None };
        Self { tag, kind: told, ip: ip.filter(|ip| ip.v6 == (kind == IPV6)) }
    }

    /// The packet's type as descriptors have it (7.1.6.2): a bit for each header.
    pub(crate) fn packet_type(&self) -> u16 {
        let Some(ip) = &self.ip else { return 0 };
        let network = if ip.v6 { 1 << 2 } else { 1 << 0 };
        let l4 = match ip.l4 {
            Some(L4::Tcp) => 1 << 4,
            Some(L4::Udp) => 1 << 5,
            Some(L4::Sctp) => 1 << 6,
            None => 0,
        };
        network | if ip.more { network << 1 } else { 0 } | l4
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The header of IP at a place; none if it is none.
pub(crate) fn ip(frame: &[u8], at: usize) -> Option<Ip> {
    if frame.get(at)? >> 4 == 6 { ipv6(frame, at) } else { ipv4(frame, at) }
}

fn ipv4(frame: &[u8], at: usize) -> Option<Ip> {
    let first = *frame.get(at)?;
    let (len, total) = (usize::from(first & 0xf) * 4, usize::from(word(frame, at + 2)?));
    let end = at + total;
    if first >> 4 != 4 || len < 20 || total < len || end > frame.len() {
        return None;
    }
    let fragment = word(frame, at + 6)? & FRAGMENTED != 0;
    let l4 = if fragment { None } else { l4(*frame.get(at + 9)?, end - at - len) };
    Some(Ip { v6: false, more: len > 20, at, len, end, l4 })
}

fn ipv6(frame: &[u8], at: usize) -> Option<Ip> {
    let end = at + 40 + usize::from(word(frame, at + 4)?);
    if end > frame.len() {
        return None;
    }
    let (mut next, mut len) = (*frame.get(at + 6)?, 40);
    loop {
        let header = frame.get(at + len..end).filter(|header| header.len() >= 8);
        let Some(&[then, units, ..]) = header else { break };
        match next {
            HOP_BY_HOP | DESTINATION => {}
            // One with addresses changes the destination, which L4's checksum is over.
            ROUTING if units == 0 => {}
            _ => break,
        }
        (next, len) = (then, len + 8 + 8 * usize::from(units));
    }
    let l4 = end.checked_sub(at + len).and_then(|left| l4(next, left));
    Some(Ip { v6: true, more: len > 40 || matches!(next, ROUTING | FRAGMENT), at, len, end, l4 })
}

fn l4(protocol: u8, left: usize) -> Option<L4> {
    L4::of(protocol).filter(|l4| left >= l4.least())
}

/// Adds bytes to a sum of the internet's checksum (RFC 1071).
pub(crate) fn sum(start: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    })
}

/// The checksum that makes a sum right.
pub(crate) fn finished(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Polynomials, their highest power last: of the frame's check sequence (IEEE 802.3, 3.2.9), of SCTP (RFC 9260, A).
pub(crate) const CRC32: u32 = 0xedb8_8320;
pub(crate) const CRC32C: u32 = 0x82f6_3b78;

/// A cyclic redundancy check.
pub(crate) fn crc(polynomial: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { polynomial } else { 0 })
    })
}

#[cfg(test)]
mod tests;
