//! Frames, made by hand and looked at.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

/// What a frame is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) tag: Option<u16>,
    pub(crate) v6: bool,
    pub(crate) l4: Option<L4>,
    /// Bytes of the payload.
    pub(crate) payload: usize,
    pub(crate) ports: (u16, u16),
}

pub(crate) const TCP4: Kind =
    Kind { tag: None, v6: false, l4: Some(L4::Tcp), payload: 50, ports: (2794, 1766) };

/// A frame of this kind with all checksums right, from 66.9.149.187 to 161.142.100.80, or from 3ffe:2501:200:1fff::7 to
/// 3ffe:2501:200:3::1.
pub(crate) fn frame(kind: Kind) -> Vec<u8> {
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

/// Makes the checksums of the packet at `at` right.
pub(crate) fn mend(frame: &mut [u8], at: usize) {
    let whole = frame.to_vec();
    let ip = if whole[at] >> 4 == 6 { ipv6(&whole, at) } else { ipv4(&whole, at) }.unwrap();
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

fn types(frame: &[u8]) -> u16 {
    Headers::of(frame, 0x8100).packet_type()
}

#[test]
fn headers_are_found_and_their_checksums_are_right_until_a_byte_changes() {
    for tag in [None, Some(0x2005)] {
        for v6 in [false, true] {
            for (l4, bit) in
                [(Some(L4::Tcp), 1 << 4), (Some(L4::Udp), 1 << 5), (Some(L4::Sctp), 1 << 6), (None, 0)]
            {
                for payload in [50, 51] {
                    let mut frame = frame(Kind { tag, v6, l4, payload, ..TCP4 });
                    // Padding belongs to nothing.
                    frame.extend([1, 2, 3]);
                    let headers = Headers::of(&frame, 0x8100);
                    let ip = headers.ip.unwrap();
                    assert_eq!((headers.tag, headers.packet_type()), (tag, if v6 { 4 } else { 1 } | bit));
                    assert!(ip.is_right(&frame));
                    assert_eq!(ip.l4_is_right(&frame), l4.map(|_| true));
                    frame[ip.at + if v6 { 7 } else { 8 }] ^= 1;
                    assert_eq!(ip.is_right(&frame), v6);
                    frame[ip.end - 1] ^= 1;
                    assert_eq!(ip.l4_is_right(&frame), l4.map(|_| false));
                }
            }
        }
    }
}

#[test]
fn options_fragments_and_what_is_too_short_are_told_apart() {
    let plain = frame(TCP4);
    let mut fragment = plain.clone();
    fragment[14 + 6] = 0x20;
    mend(&mut fragment, 14);
    let headers = Headers::of(&fragment, 0x8100);
    assert_eq!((headers.packet_type(), headers.ip.unwrap().l4_is_right(&fragment)), (1, None));
    let mut options = plain.clone();
    options.splice(34..34, [1, 1, 1, 0]);
    (options[14], options[17]) = (0x46, options[17] + 4);
    mend(&mut options, 14);
    assert_eq!(types(&options), 0b1_0011);
    assert_eq!(Headers::of(&options, 0x8100).ip.unwrap().l4_is_right(&options), Some(true));
    for (at, value) in [(14, 0x55), (14, 0x44), (16, 0xff), (17, 19)] {
        let mut wrong = plain.clone();
        wrong[at] = value;
        assert_eq!(types(&wrong), 0, "{at}");
    }
    // A packet whose end is in its header.
    let mut short = plain.clone();
    short[17] = 30;
    assert_eq!(types(&short), 1);
    (0..plain.len()).for_each(|len| _ = Headers::of(&plain[..len], 0x8100));
    // UDP without a checksum.
    let mut none = frame(Kind { l4: Some(L4::Udp), ..TCP4 });
    none[40..42].fill(0);
    assert_eq!(Headers::of(&none, 0x8100).ip.unwrap().l4_is_right(&none), None);
    let mut snap = plain.clone();
    snap.splice(12..12, [0, 90, 0xaa, 0xaa, 3, 0, 0, 0]);
    assert_eq!(types(&snap), 0b1_0001);
}

#[test]
fn headers_between_ipv6_and_what_is_above_are_passed_or_not() {
    let plain = frame(Kind { v6: true, l4: Some(L4::Udp), ..TCP4 });
    let with = |next: u8, header: &[u8]| {
        let mut frame = plain.clone();
        frame.splice(54..54, header.iter().copied());
        frame[20] = next;
        frame[18..20].copy_from_slice(&((plain.len() - 54 + header.len()) as u16).to_be_bytes());
        mend(&mut frame, 14);
        let headers = Headers::of(&frame, 0x8100);
        (headers.packet_type(), headers.ip.unwrap().l4_is_right(&frame))
    };
    let passed = (0b10_1100, Some(true));
    assert_eq!(with(HOP_BY_HOP, &[17, 0, 1, 4, 0, 0, 0, 0]), passed);
    assert_eq!(with(DESTINATION, &[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), passed);
    assert_eq!(with(ROUTING, &[17, 0, 0, 0, 0, 0, 0, 0]), passed);
    let not = (0b1100, None);
    assert_eq!(
        with(ROUTING, &[17, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        not
    );
    assert_eq!(with(FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, 0]), not);
    assert_eq!(with(HOP_BY_HOP, &[17, 200, 1, 4, 0, 0, 0, 0]), not);
}

#[test]
fn cyclic_checks_are_those_of_their_standards() {
    assert_eq!((crc(CRC32, b"123456789"), crc(CRC32C, b"123456789")), (0xcbf4_3926, 0xe306_9283));
}
