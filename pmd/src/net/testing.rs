//! Frames for tests, and a plain reader that checks them by the letter of the RFCs, sharing no code with what is
//! tested.

use crate::packet::{Mbuf, MbufPool, MbufPoolConfig, TxLengths};

/// What a frame is to be.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub v6: bool,
    pub tcp: bool,
    /// VLAN tags.
    pub tags: usize,
    /// 32-bit words of IPv4 options, or IPv6 extension headers of 8 bytes.
    pub extra: usize,
    /// 32-bit words of TCP options.
    pub options: usize,
    pub flags: u8,
    pub sequence: u32,
    pub identification: u16,
    pub payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            v6: false,
            tcp: true,
            tags: 0,
            extra: 0,
            options: 3,
            flags: 0x10,
            sequence: 0xffff_fff0,
            identification: 0xfffe,
            payload: numbered(100),
        }
    }
}

pub(crate) fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

impl Spec {
    pub(crate) fn lengths(&self, tso_segment: u16) -> TxLengths {
        let l3 = if self.v6 { 40 + 8 * self.extra } else { 20 + 4 * self.extra } as u16;
        let l4 = if self.tcp { 20 + 4 * self.options } else { 8 } as u8;
        TxLengths { l2: 14 + 4 * self.tags as u8, l3, l4, tso_segment }
    }

    /// The frame, with the sum of the pseudo header in the checksum field and rubbish in that of IPv4.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let lengths = self.lengths(0);
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for tag in 0..self.tags {
            frame.extend(if tag + 1 < self.tags { [0x88, 0xa8] } else { [0x81, 0] });
            frame.extend([0x20, tag as u8 + 5]);
        }
        let transport = usize::from(lengths.l4) + self.payload.len();
        let protocol = if self.tcp { 6 } else { 17 };
        let total = usize::from(lengths.l3) + transport;
        let mut pseudo = Vec::new();
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((total - 40) as u16).to_be_bytes());
            frame.extend([if self.extra > 0 { 0 } else { protocol }, 64]);
            let addresses: Vec<u8> = (1..33).collect();
            frame.extend(&addresses);
            for header in 1..=self.extra {
                frame.extend([if header < self.extra { 60 } else { protocol }, 0, 1, 4, 0, 0, 0, 0]);
            }
            pseudo.extend(addresses);
        } else {
            frame.extend([8, 0, 0x45 + self.extra as u8, 0]);
            frame.extend((total as u16).to_be_bytes());
            frame.extend(self.identification.to_be_bytes());
            frame.extend([0x40, 0, 64, protocol, 0xde, 0xad]);
            frame.extend([192, 0, 2, 1, 198, 51, 100, 7]);
            frame.extend(vec![1; 4 * self.extra]);
            pseudo.extend([192, 0, 2, 1, 198, 51, 100, 7]);
        }
        pseudo.extend([0, protocol]);
        pseudo.extend((transport as u16).to_be_bytes());
        frame.extend([0x9c, 0x40, 0, 80]);
        let partial = plain_sum(&pseudo).to_be_bytes();
        if self.tcp {
            frame.extend(self.sequence.to_be_bytes());
            frame.extend([1, 2, 3, 4, (5 + self.options as u8) << 4, self.flags, 2, 0]);
            frame.extend(partial);
            frame.extend([0, 0]);
            frame.extend(vec![1; 4 * self.options]);
        } else {
            frame.extend((transport as u16).to_be_bytes());
            frame.extend(partial);
        }
        frame.extend(&self.payload);
        frame
    }
}

/// The one's complement sum, word by word, as RFC 1071 states it.
pub(crate) fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a receiver sees in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub tags: usize,
    pub identification: Option<u16>,
    pub sequence: u32,
    pub flags: u8,
    pub payload: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a frame as a receiver does that checks everything, lengths to the byte.
#[track_caller]
pub(crate) fn receive(frame: &[u8]) -> Received {
    let (mut at, mut tags) = (12, 0);
    while matches!(word(frame, at), 0x8100 | 0x88a8) {
        at += 4;
        tags += 1;
    }
    let ip = &frame[at + 2..];
    let (protocol, mut transport, addresses, identification) = match word(frame, at) {
        0x0800 => {
            let header = usize::from(ip[0] & 15) * 4;
            assert_eq!(plain_sum(&ip[..header]), 0xffff, "IPv4 header checksum");
            assert_eq!(usize::from(word(ip, 2)), ip.len(), "IPv4 length");
            (ip[9], &ip[header..], &ip[12..20], Some(word(ip, 4)))
        }
        0x86dd => {
            assert_eq!(usize::from(word(ip, 4)), ip.len() - 40, "IPv6 length");
            (ip[6], &ip[40..], &ip[8..40], None)
        }
        other => panic!("type {other:#x}"),
    };
    let mut protocol = protocol;
    while identification.is_none() && matches!(protocol, 0 | 43 | 60) {
        protocol = transport[0];
        transport = &transport[usize::from(transport[1]) * 8 + 8..];
    }
    let mut covered = addresses.to_vec();
    covered.extend([0, protocol]);
    covered.extend((transport.len() as u16).to_be_bytes());
    covered.extend(transport);
    assert_eq!(plain_sum(&covered), 0xffff, "checksum of protocol {protocol}");
    if protocol == 17 {
        assert_eq!(usize::from(word(transport, 4)), transport.len(), "UDP length");
        assert_ne!(word(transport, 6), 0, "no UDP checksum");
        return Received { tags, identification, sequence: 0, flags: 0, payload: transport[8..].to_vec() };
    }
    assert_eq!(protocol, 6);
    let sequence = u32::from(word(transport, 4)) << 16 | u32::from(word(transport, 6));
    let payload = transport[usize::from(transport[12] >> 4) * 4..].to_vec();
    Received { tags, identification, sequence, flags: transport[13], payload }
}

/// Segments as they came have to be `spec`'s stream, cut every `most` bytes.
#[track_caller]
pub(crate) fn check_segments(spec: &Spec, most: usize, frames: &[Vec<u8>]) {
    assert_eq!(frames.len(), spec.payload.len().div_ceil(most).max(1));
    let mut whole = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let received = receive(frame);
        let (first, last) = (index == 0, index + 1 == frames.len());
        assert_eq!(received.tags, spec.tags);
        assert_eq!(received.sequence, spec.sequence.wrapping_add(whole.len() as u32), "segment {index}");
        if !spec.v6 {
            assert_eq!(received.identification, Some(spec.identification.wrapping_add(index as u16)));
        }
        let kept = if first { 0xff } else { 0x7f } & if last { 0xff } else { 0xf6 };
        assert_eq!(received.flags, spec.flags & kept, "segment {index} of {}", frames.len());
        assert!(last || received.payload.len() == most);
        whole.extend(received.payload);
    }
    assert!(whole == spec.payload, "the payload is another one");
}

pub(crate) fn pool(count: usize, data_room: usize) -> MbufPool {
    MbufPool::on_heap(&MbufPoolConfig::new("offload", count).data_room(data_room).cache(32)).unwrap()
}

/// Everything is home, once each.
#[track_caller]
pub(crate) fn assert_home(pool: &MbufPool) {
    let counts = pool.counts();
    assert_eq!(counts.in_use, 0, "{counts:?}");
    assert_eq!(counts.free + counts.cached, counts.size, "{counts:?}");
    pool.audit().unwrap();
}

/// The bytes as a chain of pieces of these lengths, over and over.
pub(crate) fn chained(pool: &MbufPool, bytes: &[u8], pieces: &[usize]) -> Mbuf {
    let mut rest = bytes;
    let mut packet: Option<Mbuf> = None;
    for len in pieces.iter().cycle() {
        let (here, after) = rest.split_at(rest.len().min(*len));
        let piece = pool.alloc_from(here).unwrap();
        match &mut packet {
            None => packet = Some(piece),
            Some(packet) => packet.chain(piece).unwrap(),
        }
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    packet.unwrap()
}

pub(crate) fn bytes_of(packet: &Mbuf) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}
