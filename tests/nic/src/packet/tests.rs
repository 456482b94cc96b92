//! Frames that are looked at.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::super::traffic::{Kind, TCP4, frame, mend};
use super::*;

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
