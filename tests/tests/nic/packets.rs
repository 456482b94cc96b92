//! Frames with TCP or UDP in them.

use wirerate_pmd::net::headers::ip_protocol;
use wirerate_pmd::net::transport::{self, Transport, parse_lengths_within};
use wirerate_pmd::packet::Offload;
use wirerate_pmd::{Mbuf, MbufPool};

/// A kind of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) tag: Option<u16>,
    pub(crate) payload: usize,
    /// Ports and addresses are made of it.
    pub(crate) flow: u16,
}

pub(crate) const TCP: Kind = Kind { v6: false, udp: false, tag: None, payload: 100, flow: 1 };

impl Kind {
    /// All four protocols.
    pub(crate) fn all() -> [Self; 4] {
        [(false, false), (false, true), (true, false), (true, true)].map(|(v6, udp)| Self { v6, udp, ..TCP })
    }

    /// Bytes in front of the IP header.
    fn ip_at(self) -> usize {
        if self.tag.is_some() { 18 } else { 14 }
    }

    /// A frame to `to` with right checksums.
    pub(crate) fn frame(self, to: [u8; 6]) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1]);
        if let Some(tag) = self.tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        let l4_len = self.payload + if self.udp { 8 } else { 20 };
        let protocol = if self.udp { ip_protocol::UDP } else { ip_protocol::TCP };
        let [high, low] = self.flow.to_be_bytes();
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            for end in [1, 2] {
                frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low, end]);
            }
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + l4_len as u16).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, high, low, 1, 10, high, low, 2]);
        }
        frame.extend((1000 + self.flow).to_be_bytes());
        frame.extend(5001_u16.to_be_bytes());
        if self.udp {
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([0, 0]);
        } else {
            frame.extend([0, 0, 1, 0, 0, 0, 2, 0, 0x50, 0x18, 0x10, 0, 0, 0, 0, 0]);
        }
        frame.extend((0..self.payload).map(|at| (at * 7 + usize::from(self.flow)) as u8));
        if !self.v6 {
            transport::fill_ipv4_checksum(&mut frame, self.ip_at()).unwrap();
        }
        transport::fill_transport_checksum(&mut frame, self.ip_at()).unwrap();
        frame
    }

    /// A packet that asks for what `flags` say, with the sum of the pseudo header in its checksum field if it asks for that.
    pub(crate) fn packet(self, pool: &MbufPool, to: [u8; 6], flags: Offload, segment: u16) -> Mbuf {
        let mut frame = self.frame(to);
        let sums = Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM | Offload::TX_TCP_SEGMENTATION;
        if flags.intersects(sums) {
            let found = Transport::find(&frame, self.ip_at()).unwrap();
            let at = found.checksum_at();
            frame[at..at + 2].copy_from_slice(&(!found.pseudo.finish()).to_be_bytes());
        }
        if flags.contains(Offload::TX_IP_CHECKSUM) && !self.v6 {
            let at = self.ip_at() + 10;
            frame[at..at + 2].fill(0xee);
        }
        let mut lengths = parse_lengths_within(&frame, frame.len()).unwrap().lengths;
        lengths.tso_segment = segment;
        let mut chunks = frame.chunks(1800);
        let mut packet = pool.alloc_from(chunks.next().unwrap()).unwrap();
        chunks.for_each(|chunk| packet.chain(pool.alloc_from(chunk).unwrap()).unwrap());
        packet.set_offload(flags);
        packet.set_tx_lengths(lengths);
        packet.set_vlan_tci(0x6123);
        packet
    }

    /// What its hash is made of: addresses, and ports if these count (datasheet 7.1.2.8.1).
    pub(crate) fn hashed(self, ports: bool) -> Vec<u8> {
        let frame = Self { tag: None, ..self }.frame([0; 6]);
        let (from, to) = match (self.v6, ports) {
            (false, false) => (26, 34),
            (false, true) => (26, 38),
            (true, false) => (22, 54),
            (true, true) => (22, 58),
        };
        frame[from..to].to_vec()
    }
}

/// Toeplitz's hash of `input`.
pub(crate) fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let window = |at: usize| (at..at + 32).fold(0, |word, at| word << 1 | u32::from(bit(key, at)));
    (0..8 * input.len()).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
}
