//! Checksums and tags that software fills in: whole and chained packets, shared ones, and ones that hold anything.

use proptest::prelude::*;

use super::*;
use crate::net::testing::{Spec, assert_home, bytes_of, chained, numbered, plain_sum, pool, receive};
use crate::net::transport::parse_lengths;
use crate::packet::{MbufPool, TxLengths};

fn flags(spec: &Spec) -> Offload {
    let transport = if spec.tcp { Offload::TX_TCP_CHECKSUM } else { Offload::TX_UDP_CHECKSUM };
    if spec.v6 { transport } else { transport | Offload::TX_IP_CHECKSUM }
}

fn packet(pool: &MbufPool, spec: &Spec, pieces: &[usize]) -> Mbuf {
    let mut packet = chained(pool, &spec.frame(), pieces);
    packet.set_offload(flags(spec) | Offload::RX_RSS_HASH);
    packet.set_tx_lengths(spec.lengths(0));
    packet
}

fn kinds() -> impl Iterator<Item = Spec> {
    (0..32).map(|bits| Spec {
        v6: bits & 1 != 0,
        tcp: bits & 2 != 0,
        tags: (bits >> 2 & 1) * 2,
        extra: (bits >> 3 & 1) * 2,
        payload: numbered(if bits & 16 != 0 { 1460 } else { 333 }),
        ..Spec::default()
    })
}

#[test]
fn every_kind_of_packet_is_completed_however_it_is_chained() {
    let pool = pool(4096, 2048);
    for spec in kinds() {
        for pieces in [&[4096][..], &[1], &[3, 5], &[53, 1, 7], &[14, 20, 999]] {
            for told in [spec.lengths(0), TxLengths::default()] {
                let mut packet = packet(&pool, &spec, pieces);
                packet.set_tx_lengths(told);
                complete_checksums(&mut packet).unwrap();
                assert_eq!(packet.offload(), Offload::RX_RSS_HASH);
                assert_eq!(receive(&bytes_of(&packet)).payload, spec.payload, "{spec:?} {pieces:?}");
            }
        }
    }
    assert_home(&pool);
}

#[test]
fn only_what_is_asked_for_is_done() {
    let pool = pool(4, 2048);
    let spec = Spec::default();
    let mut done = packet(&pool, &spec, &[4096]);
    complete_some_checksums(&mut done, Offload::TX_IP_CHECKSUM | Offload::TX_UDP_CHECKSUM).unwrap();
    assert_eq!(done.offload(), Offload::TX_TCP_CHECKSUM | Offload::RX_RSS_HASH);
    let (before, after) = (spec.frame(), bytes_of(&done));
    assert_ne!(before[24..26], after[24..26]);
    assert_eq!((&before[..24], &before[26..]), (&after[..24], &after[26..]));

    // What is to be cut keeps the sum that its segments' checksums are made from.
    let mut large = packet(&pool, &spec, &[4096]);
    large.set_offload(flags(&spec) | Offload::TX_TCP_SEGMENTATION);
    complete_checksums(&mut large).unwrap();
    assert_eq!(large.offload(), Offload::TX_TCP_CHECKSUM | Offload::TX_TCP_SEGMENTATION);
    assert_eq!(bytes_of(&large), after);
}

#[test]
fn padding_behind_the_datagram_is_not_summed() {
    let pool = pool(2, 2048);
    let spec = Spec { payload: numbered(3), options: 0, ..Spec::default() };
    let mut padded = packet(&pool, &spec, &[4096]);
    assert!(padded.append_slice(&[0xee; 9]));
    complete_checksums(&mut padded).unwrap();
    assert_eq!(receive(&bytes_of(&padded)[..57]).payload, spec.payload);
}

#[test]
fn lengths_and_flags_that_are_not_the_headers_are_refused() {
    let pool = pool(2, 2048);
    let spec = Spec::default();
    let good = spec.lengths(0);
    for (asked, lengths) in [
        (flags(&spec), TxLengths { l2: 15, ..good }),
        (flags(&spec), TxLengths { l2: 255, ..good }),
        (flags(&spec), TxLengths { l3: 24, ..good }),
        (flags(&spec), TxLengths { l3: u16::MAX, ..good }),
        (flags(&spec), TxLengths { l4: 255, ..good }),
        (Offload::TX_UDP_CHECKSUM, good),
        (Offload::TX_UDP_CHECKSUM | Offload::TX_TCP_CHECKSUM, good),
    ] {
        let mut packet = packet(&pool, &spec, &[4096]);
        packet.set_offload(asked);
        packet.set_tx_lengths(lengths);
        assert_eq!(complete_checksums(&mut packet), Err(OffloadError::BadHeader), "{asked:?} {lengths:?}");
        assert_eq!((bytes_of(&packet), packet.offload()), (spec.frame(), asked));
    }
    assert_home(&pool);
}

#[test]
fn shared_bytes_are_not_written() {
    let pool = pool(128, 2048);
    let spec = Spec::default();
    // The checksum fields are in the first, the second, or one in each segment.
    for pieces in [&[4096][..], &[20], &[14, 20, 500], &[30, 500]] {
        let mut original = packet(&pool, &spec, pieces);
        let clone = original.clone_shared(&pool).unwrap();
        for packet in [&mut original, &mut clone.clone_shared(&pool).unwrap()] {
            assert_eq!(complete_checksums(packet), Err(OffloadError::Shared));
            assert_eq!(
                (bytes_of(packet), packet.offload() - Offload::RX_RSS_HASH),
                (spec.frame(), flags(&spec))
            );
            assert_eq!(complete_partial(packet, 34, 16), Err(OffloadError::Shared));
        }
        drop(clone);
        complete_checksums(&mut original).unwrap();
        receive(&bytes_of(&original));
    }
    // One segment of its own and one shared: nothing is written to either.
    let mut half = pool.alloc_from(&spec.frame()[..34]).unwrap();
    let rest = pool.alloc_from(&spec.frame()[34..]).unwrap();
    half.chain(rest.clone_shared(&pool).unwrap()).unwrap();
    half.set_offload(flags(&spec));
    assert_eq!(complete_checksums(&mut half), Err(OffloadError::Shared));
    assert_eq!(bytes_of(&half), spec.frame());
    own(&mut half).unwrap();
    complete_checksums(&mut half).unwrap();
    receive(&bytes_of(&half));
    drop((half, rest));
    assert_home(&pool);
}

#[test]
fn a_half_done_checksum_of_any_kind_is_completed() {
    let pool = pool(4096, 2048);
    for spec in kinds().filter(|spec| spec.v6) {
        let lengths = spec.lengths(0);
        let start = usize::from(lengths.l2) + usize::from(lengths.l3);
        for pieces in [&[4096][..], &[1], &[7, 2]] {
            let mut packet = chained(&pool, &spec.frame(), pieces);
            complete_partial(&mut packet, start, if spec.tcp { 16 } else { 6 }).unwrap();
            assert_eq!(receive(&bytes_of(&packet)).payload, spec.payload);
        }
    }
    let mut packet = pool.alloc_from(&numbered(50)).unwrap();
    for (start, offset) in
        [(49, 0), (0, 49), (50, 0), (usize::MAX, 1), (usize::MAX, usize::MAX), (20, 1 << 63)]
    {
        assert_eq!(complete_partial(&mut packet, start, offset), Err(OffloadError::BadHeader));
    }
    assert_eq!(bytes_of(&packet), numbered(50));
    complete_partial(&mut packet, 48, 0).unwrap();
    let mut zeros = pool.alloc_from(&[0; 40]).unwrap();
    complete_partial(&mut zeros, 10, 10).unwrap();
    assert_eq!(bytes_of(&zeros)[20..22], [0xff, 0xff]);
    drop((packet, zeros));
    assert_home(&pool);
}

#[test]
fn a_received_packet_is_flagged_where_that_is_allowed_and_completed_elsewhere() {
    let pool = pool(1024, 2048);
    for spec in kinds() {
        let (lengths, offset) = (spec.lengths(0), if spec.tcp { 16 } else { 6 });
        let start = usize::from(lengths.l2) + usize::from(lengths.l3);
        let flag = flags(&spec) - Offload::TX_IP_CHECKSUM;
        for (allowed, offset) in [
            (Offload::RX_LIBERTIES, offset),
            (flag, offset),
            (Offload::RX_LIBERTIES - flag, offset),
            (Offload::empty(), offset),
            // No checksum of these headers, but in the packet.
            (Offload::RX_LIBERTIES, 40),
        ] {
            let mut packet = chained(&pool, &spec.frame(), &[70]);
            packet.set_offload(Offload::RX_RSS_HASH);
            receive_partial(&mut packet, start, offset, allowed).unwrap();
            let flagged = allowed.contains(flag) && offset != 40;
            let expected = if flagged { (flag, lengths) } else { (Offload::empty(), TxLengths::default()) };
            assert_eq!(packet.offload(), Offload::RX_RSS_HASH | expected.0);
            if flagged {
                assert_eq!((packet.tx_lengths(), bytes_of(&packet)), (lengths, spec.frame()));
                packet.set_offload(flags(&spec));
                complete_checksums(&mut packet).unwrap();
            }
            if offset != 40 {
                let mut frame = bytes_of(&packet);
                crate::net::transport::fill_ipv4_checksum(&mut frame, usize::from(lengths.l2));
                assert_eq!(receive(&frame).payload, spec.payload);
            }
        }
        let mut packet = chained(&pool, &spec.frame(), &[70]);
        let outside = spec.frame().len() - 1;
        assert_eq!(receive_partial(&mut packet, outside, 0, Offload::all()), Err(OffloadError::BadHeader));
    }
    assert_home(&pool);
}

#[test]
fn tags_are_put_in() {
    let pool = pool(64, 512);
    let spec = Spec { payload: numbered(50), ..Spec::default() };
    let shared = packet(&pool, &spec, &[4096]);
    let keeper = shared.clone_shared(&pool).unwrap();
    let mut full = pool.alloc().unwrap();
    assert!(full.append_slice(&spec.frame()));
    full.prepend(full.headroom()).unwrap().fill(0);
    for mut tagged in [packet(&pool, &spec, &[4096]), packet(&pool, &spec, &[5, 60]), shared] {
        tagged.set_offload(flags(&spec) | Offload::TX_VLAN_INSERT);
        tagged.set_tx_lengths(spec.lengths(0));
        tagged.set_vlan_tci(0x2005);
        insert_vlan_tag(&mut tagged).unwrap();
        assert_eq!((tagged.offload(), tagged.tx_lengths().l2), (flags(&spec), 18));
        complete_checksums(&mut tagged).unwrap();
        let bytes = bytes_of(&tagged);
        assert_eq!((&bytes[..12], &bytes[12..16]), (&spec.frame()[..12], &[0x81, 0, 0x20, 5][..]));
        assert_eq!((receive(&bytes).tags, receive(&bytes).payload), (1, spec.payload.clone()));
    }
    // Without headroom it becomes a copy.
    full.set_offload(Offload::TX_VLAN_INSERT);
    let before = bytes_of(&full);
    insert_vlan_tag(&mut full).unwrap();
    assert_eq!((&bytes_of(&full)[..12], &bytes_of(&full)[16..]), (&before[..12], &before[12..]));
    assert_eq!(bytes_of(&keeper), spec.frame());
    let mut short = pool.alloc_from(&[0; 13]).unwrap();
    short.set_offload(Offload::TX_VLAN_INSERT);
    assert_eq!(insert_vlan_tag(&mut short), Err(OffloadError::BadHeader));
    drop((keeper, full, short));
    assert_home(&pool);
}

#[test]
fn header_lengths_are_found() {
    let pool = pool(4096, 2048);
    for spec in kinds() {
        for pieces in [&[4096][..], &[1], &[33]] {
            let packet = chained(&pool, &spec.frame(), pieces);
            let headers = parse_lengths(&packet).unwrap();
            assert_eq!(headers.lengths, spec.lengths(0));
            assert_eq!(headers.protocol, if spec.tcp { 6 } else { 17 });
            assert_eq!(headers.checksum_flag(), flags(&spec) - Offload::TX_IP_CHECKSUM);
            assert_eq!(headers.len(), spec.frame().len() - spec.payload.len());
            let field = headers.transport_at() + headers.checksum_offset();
            let mut done = bytes_of(&packet);
            done[field..field + 2].fill(0);
            let sum = plain_sum(&done[headers.transport_at()..]);
            assert_eq!(
                plain_sum(&[sum.to_be_bytes(), spec.frame()[field..field + 2].try_into().unwrap()].concat()),
                {
                    let mut packet = packet;
                    complete_partial(&mut packet, headers.transport_at(), headers.checksum_offset()).unwrap();
                    !u16::from_be_bytes(bytes_of(&packet)[field..field + 2].try_into().unwrap())
                }
            );
        }
    }
    // Longer than an IP header can say: the packet's own length counts.
    let mut frame = Spec::default().frame();
    frame[16..18].fill(0);
    assert_eq!(parse_lengths(&pool.alloc_from(&frame).unwrap()).unwrap().lengths, Spec::default().lengths(0));
    // A header that is longer than the packet.
    frame[46] = 0xf0;
    frame.truncate(90);
    assert_eq!(parse_lengths(&pool.alloc_from(&frame).unwrap()), None);
}

proptest! {
    /// Whatever is damaged, nothing but the checksum fields changes, and nothing at all on an error.
    #[test]
    fn damaged_packets_change_in_their_checksums_only(
        which in 0..32_usize,
        damage in prop::collection::vec((0..90_usize, any::<u8>()), 0..6),
        cut in 0..400_usize,
        pieces in prop::collection::vec(1..80_usize, 1..4),
        lengths in prop::option::of(any::<(u8, u8, u16)>()),
        partial in any::<(u8, u8)>(),
    ) {
        let pool = pool(2048, 128);
        let spec = kinds().nth(which).unwrap();
        let mut frame = spec.frame();
        frame.truncate(frame.len().saturating_sub(cut).max(1));
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let mut packet = chained(&pool, &frame, &pieces);
        packet.set_offload(flags(&spec));
        packet.set_tx_lengths(spec.lengths(0));
        if let Some((l2, l4, l3)) = lengths {
            packet.set_tx_lengths(TxLengths { l2, l3, l4, tso_segment: 0 });
        }
        let _ = parse_lengths(&packet);
        let done = complete_checksums(&mut packet);
        let after = bytes_of(&packet);
        let changed = (0..frame.len()).filter(|at| frame[*at] != after[*at]).count();
        prop_assert_eq!(after.len(), frame.len());
        let most = if done.is_ok() { 4 } else { 0 };
        prop_assert!(changed <= most, "{changed} bytes");
        if complete_partial(&mut packet, usize::from(partial.0), usize::from(partial.1)).is_ok() {
            let at = usize::from(partial.0) + usize::from(partial.1);
            let last = bytes_of(&packet);
            prop_assert!(last[..at] == after[..at] && last[at + 2..] == after[at + 2..]);
        }
        drop(packet);
        assert_home(&pool);
    }
}
