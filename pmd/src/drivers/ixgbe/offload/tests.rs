#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::net::testing::{Spec, numbered, pool};

#[test]
fn what_is_known_of_checksums_is_told_and_no_more() {
    // Seen: UDP, L4, IP are bits 4 to 6; wrong: L4 and IP are bits 30 and 31.
    let flags = |word: u64| Offload::from_bits_truncate(checksum_flags(word));
    assert_eq!(flags(0xffff_ffff_0000_0003), Offload::empty());
    assert_eq!(flags(1 << 6), Offload::RX_IP_CHECKSUM_GOOD);
    assert_eq!(flags(1 << 6 | 1 << 31), Offload::RX_IP_CHECKSUM_BAD);
    assert_eq!(flags(3 << 5), Offload::RX_IP_CHECKSUM_GOOD | Offload::RX_L4_CHECKSUM_GOOD);
    assert_eq!(flags(1 << 5 | 1 << 30), Offload::RX_L4_CHECKSUM_BAD);
    // UDP without a checksum may be called wrong.
    assert_eq!(flags(3 << 4 | 1 << 30), Offload::empty());
    assert_eq!(flags(3 << 4), Offload::RX_L4_CHECKSUM_GOOD);
    assert_eq!(flags(1 << 30 | 1 << 31), Offload::empty(), "what was not looked at is not wrong");
}

#[test]
fn words_are_as_the_datasheet_draws_them() {
    let pool = pool(64, 2048);
    let ask = |spec: &Spec, flags: Offload, segment| {
        let mut packet = pool.alloc_from(&spec.frame()).unwrap();
        packet.set_offload(flags);
        packet.set_tx_lengths(spec.lengths(segment));
        packet.set_vlan_tci(0x6123);
        Asked::of(&packet)
    };
    let v4 = Spec { payload: numbered(3000), ..Spec::default() };
    let v6 = Spec { v6: true, ..v4.clone() };
    assert_eq!(ask(&v4, Offload::RX_RSS_HASH, 0), Ok(None));
    let tag = ask(&v4, Offload::TX_VLAN_INSERT, 0).unwrap().unwrap();
    assert_eq!(tag.context, [0x6123_1c00, 0x2020_0000]);
    assert_eq!((tag.bits(1), tag.headers), (1 << 30 | 1 << 39 | 1 << 36, 0));
    // Computed by the device: TCP's checksum, with IPv4's and without.
    let sums = ask(&v4, Offload::TX_TCP_CHECKSUM | Offload::TX_IP_CHECKSUM, 0).unwrap().unwrap();
    assert_eq!(sums.context, [14 << 9 | 20, 0x2020_0c00]);
    assert_eq!((sums.bits(0), sums.ip_at, sums.tcp_at), (3 << 40 | 1 << 39, Some(14), None));
    assert_eq!(ask(&v6, Offload::TX_TCP_CHECKSUM | Offload::TX_IP_CHECKSUM, 0), Err(OffloadError::BadHeader));
    let sum = ask(&v6, Offload::TX_TCP_CHECKSUM, 0).unwrap().unwrap();
    assert_eq!((sum.context, sum.bits(0)), ([14 << 9 | 40, 0x2020_0800], 1 << 41 | 1 << 39));
    // Cut.
    let cut = ask(&v4, Offload::TX_TCP_SEGMENTATION | Offload::TX_VLAN_INSERT, 1000).unwrap().unwrap();
    let l4 = u64::from(v4.lengths(1000).l4);
    assert_eq!(cut.context, [0x6123_0000 | 14 << 9 | 20, 0x2020_0c00 | l4 << 40 | 1000 << 48]);
    assert_eq!(cut.bits(1), 3 << 40 | 1 << 39 | 1 << 36 | 3 << 30);
    assert_eq!((cut.headers, cut.segment), (34 + l4 as usize, 1034 + l4 as usize));
    assert_eq!(cut.numbered(1), [cut.context[0], cut.context[1] | 1 << 36]);
}

#[test]
fn headers_that_are_not_there_are_refused() {
    let pool = pool(64, 2048);
    let spec = Spec { payload: numbered(500), ..Spec::default() };
    let good = spec.lengths(100);
    let ask = |flags: Offload, lengths| {
        let mut packet = pool.alloc_from(&spec.frame()).unwrap();
        packet.set_offload(flags);
        packet.set_tx_lengths(lengths);
        Asked::of(&packet)
    };
    let cut = Offload::TX_TCP_SEGMENTATION;
    assert!(ask(cut, good).is_ok_and(|asked| asked.is_some()));
    // Lengths of 0 are looked for.
    assert!(ask(cut, crate::packet::TxLengths { l2: 0, ..good }).is_ok());
    for (flags, lengths) in [
        (cut, crate::packet::TxLengths { tso_segment: 0, ..good }),
        (cut, crate::packet::TxLengths { l4: 8, ..good }),
        (cut, crate::packet::TxLengths { l3: 511, l4: 255, ..good }),
        (cut, crate::packet::TxLengths { l2: 13, ..good }),
        (cut, crate::packet::TxLengths { l2: 128, ..good }),
        (Offload::TX_TCP_CHECKSUM, crate::packet::TxLengths { l3: 512, ..good }),
        (Offload::TX_TCP_CHECKSUM, crate::packet::TxLengths { l3: 19, ..good }),
        (Offload::TX_TCP_CHECKSUM, crate::packet::TxLengths { l2: 21, ..good }),
        (Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM, good),
    ] {
        assert_eq!(ask(flags, lengths), Err(OffloadError::BadHeader), "{lengths:?}");
    }
}

#[test]
fn contexts_are_kept_and_the_older_one_goes() {
    let pool = pool(64, 2048);
    let asked = |tag| {
        let mut packet = pool.alloc_from(&[0; 60]).unwrap();
        packet.set_offload(Offload::TX_VLAN_INSERT);
        packet.set_vlan_tci(tag);
        Asked::of(&packet).unwrap().unwrap()
    };
    let mut contexts = Contexts::default();
    let mut given = Vec::new();
    for tag in [1, 1, 2, 1, 2, 3, 2, 1, 3] {
        let asked = asked(tag);
        let (number, is_new) = contexts.find(&asked);
        contexts.used(number, &asked);
        given.extend(is_new.then_some((tag, number)));
    }
    assert_eq!(given, [(1, 1), (2, 0), (3, 1), (1, 1), (3, 0)]);
}
