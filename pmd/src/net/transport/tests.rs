//! Checksums of frames that tcpdump calls correct, and of frames that hold anything.

use proptest::prelude::*;

use super::*;

/// Frames whose checksums `tcpdump -vv` finds correct, and where their IP header is.
const TCP_OVER_IPV4: (&str, usize) = (
    "02000000000202000000000108004500003b1234400040063c4dc0000201c63364079c400050010203040a0b0c0d501802000b2f\
     0000474554202f20485454502f312e300d0a0d0a21",
    14,
);
/// With an IP option, an odd payload and padding that is not zero.
const UDP_OVER_IPV4: (&str, usize) = (
    "020000000002020000000001080046000023123440004011a755c0000201c6336407940400009c4114e9000b8f0c6f6464eeeeee\
     eeeeeeeeeeeeeeee",
    14,
);
const TCP_OVER_IPV6_IN_A_VLAN: (&str, usize) = (
    "0200000000020200000000018100002a86dd600000000017064020010db800000000000000000000000120010db8000000010000\
     0000000000079c400050010203040a0b0c0d50180200d73d0000616263",
    18,
);
/// With hop-by-hop and destination options.
const UDP_OVER_IPV6: (&str, usize) = (
    "02000000000202000000000186dd600000000020004020010db800000000000000000000000120010db800000001000000000000\
     00073c0001040000000011000104000000009c4114e900105186646174616772616d",
    14,
);

const ALL: [(&str, usize); 4] = [TCP_OVER_IPV4, UDP_OVER_IPV4, TCP_OVER_IPV6_IN_A_VLAN, UDP_OVER_IPV6];

fn bytes((hex, _): (&str, usize)) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The field as a sender leaves it to hardware: the pseudo header's sum.
fn left_to_hardware(frame: &[u8]) -> Vec<u8> {
    let mut partial = frame.to_vec();
    let transport = Transport::find(frame, ip_header_at(frame).unwrap()).unwrap();
    transport.write(&mut partial, !transport.pseudo.finish()).unwrap();
    partial
}

#[test]
fn the_ip_header_is_found_behind_tags() {
    for case in ALL {
        assert_eq!(ip_header_at(&bytes(case)), Some(case.1));
    }
    let mut arp = bytes(TCP_OVER_IPV4);
    arp[12..14].copy_from_slice(&ether_type::ARP.to_be_bytes());
    assert_eq!(ip_header_at(&arp), None);
    // Tags without end.
    let tags: Vec<u8> = [0x81, 0x00].into_iter().cycle().take(64).collect();
    assert_eq!(ip_header_at(&tags), None);
}

#[test]
fn known_frames_get_the_checksums_they_had() {
    for case in ALL {
        let right = bytes(case);
        let mut frame = right.clone();
        let field = Transport::find(&frame, case.1).unwrap().checksum_at();
        frame[field..field + 2].copy_from_slice(&[0xde, 0xad]);
        fill_transport_checksum(&mut frame, case.1).unwrap();
        assert_eq!(frame, right);
    }
}

#[test]
fn known_ipv4_headers_get_the_checksums_they_had() {
    for case in [TCP_OVER_IPV4, UDP_OVER_IPV4] {
        let right = bytes(case);
        let mut frame = right.clone();
        frame[case.1 + 10..case.1 + 12].copy_from_slice(&[0xde, 0xad]);
        fill_ipv4_checksum(&mut frame, case.1).unwrap();
        assert_eq!(frame, right);
    }
    let mut ipv6 = bytes(UDP_OVER_IPV6);
    assert_eq!(fill_ipv4_checksum(&mut ipv6, 14), None);
    assert_eq!(ipv6, bytes(UDP_OVER_IPV6));
}

#[test]
fn what_was_left_to_hardware_is_finished() {
    for case in ALL {
        let right = bytes(case);
        let mut frame = left_to_hardware(&right);
        assert_ne!(frame, right);
        finish_partial_checksum(&mut frame).unwrap();
        assert_eq!(frame, right);
    }
}

#[test]
fn a_complete_checksum_and_an_unused_one_stay_as_they_are() {
    for case in ALL {
        let mut complete = bytes(case);
        assert_eq!(finish_partial_checksum(&mut complete), None);
        assert_eq!(complete, bytes(case));
    }
    let mut unused = bytes(UDP_OVER_IPV4);
    let field = Transport::find(&unused, 14).unwrap().checksum_at();
    unused[field..field + 2].fill(0);
    let before = unused.clone();
    assert_eq!(finish_partial_checksum(&mut unused), None);
    assert_eq!(unused, before);
}

#[test]
fn a_udp_checksum_of_zero_is_written_in_its_other_form() {
    let mut frame = bytes(UDP_OVER_IPV6);
    let transport = Transport::find(&frame, 14).unwrap();
    // Adding the checksum itself to the payload makes the sum all ones, whose complement is 0.
    let sum = transport.read(&frame).unwrap();
    let payload = transport.start + 8;
    let word = u16::from_be_bytes([frame[payload], frame[payload + 1]]);
    let (sum, carry) = word.overflowing_add(sum);
    frame[payload..payload + 2].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    fill_transport_checksum(&mut frame, 14).unwrap();
    assert_eq!(transport.read(&frame), Some(0xffff));
}

#[test]
fn fragments_and_source_routes_are_left_alone() {
    let frame = bytes(TCP_OVER_IPV4);
    for (high, low) in [(0x20, 0), (0, 1), (0x1f, 0xff)] {
        let mut fragment = frame.clone();
        fragment[20..22].copy_from_slice(&[high, low]);
        assert_eq!(Transport::find(&fragment, 14), None);
    }
    let mut routed = bytes(UDP_OVER_IPV6);
    routed[20] = ip_protocol::ROUTING;
    routed[14 + 40 + 3] = 0;
    assert!(Transport::find(&routed, 14).is_some(), "no stop is left");
    routed[14 + 40 + 3] = 1;
    assert_eq!(Transport::find(&routed, 14), None);
}

#[test]
fn every_cut_of_a_frame_is_refused_or_right() {
    for case in ALL {
        let frame = bytes(case);
        let end = Transport::find(&frame, case.1).unwrap().end;
        for len in 0..frame.len() {
            assert_eq!(Transport::find(&frame[..len], case.1).is_some(), len >= end, "{len} bytes");
        }
    }
}

proptest! {
    /// Whatever bytes of a known frame are changed, nothing is written outside the two bytes of the field.
    #[test]
    fn a_damaged_frame_changes_in_its_checksum_only(
        which in 0..ALL.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in 0..8_usize,
    ) {
        let mut frame = left_to_hardware(&bytes(ALL[which]));
        frame.truncate(frame.len() - cut);
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let before = frame.clone();
        let done = finish_partial_checksum(&mut frame).is_some();
        let field = ip_header_at(&before).and_then(|at| Transport::find(&before, at)).map(|found| found.checksum_at());
        for (at, (old, new)) in before.iter().zip(&frame).enumerate() {
            if old != new {
                prop_assert!(done && field.is_some_and(|field| at == field || at == field + 1));
            }
        }
    }

    /// A checksum that was filled in makes the sum over pseudo header and segment come out as zero, which is
    /// how a receiver checks it.
    #[test]
    fn what_is_filled_in_satisfies_a_receiver(frame in prop::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>(), tcp in any::<bool>()) {
        let mut frame = frame;
        if frame.len() > 60 {
            let rest = frame.len() - 14;
            if v6 {
                frame[14] = 0x60;
                frame[18..20].copy_from_slice(&((rest - 40) as u16).to_be_bytes());
                frame[20] = if tcp { ip_protocol::TCP } else { ip_protocol::UDP };
            } else {
                frame[14] = 0x45;
                frame[16..18].copy_from_slice(&(rest as u16).to_be_bytes());
                frame[20..22].fill(0);
                frame[23] = if tcp { ip_protocol::TCP } else { ip_protocol::UDP };
            }
            if !tcp {
                let header = if v6 { 40 } else { 20 };
                let len = 14 + header + 4;
                frame[len..len + 2].copy_from_slice(&((rest - header) as u16).to_be_bytes());
            }
            prop_assert!(Transport::find(&frame, 14).is_some() || frame.len() < 74);
        }
        if fill_transport_checksum(&mut frame, 14).is_some() {
            let transport = Transport::find(&frame, 14).unwrap();
            prop_assert_eq!(transport.pseudo.bytes(&frame[transport.start..transport.end]).finish(), 0);
        } else {
            prop_assert!(Transport::find(&frame, 14).is_none());
        }
    }
}
