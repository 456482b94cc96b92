//! Packets that are cut, put together again by a receiver that checks everything.

use proptest::prelude::*;

use super::*;
use crate::net::testing::{Spec, assert_home, bytes_of, chained, check_segments, numbered, pool};

/// FIN, PSH, ACK and CWR.
const ALL_FLAGS: u8 = 0x99;

fn cut(packet: &Mbuf, pool: &MbufPool) -> Result<Vec<Mbuf>, OffloadError> {
    let mut segments = Vec::new();
    let count = segment(packet, pool, |segment| segments.push(segment))?;
    assert_eq!(count, segments.len());
    Ok(segments)
}

fn frames(segments: &[Mbuf]) -> Vec<Vec<u8>> {
    segments.iter().map(bytes_of).collect()
}

#[test]
fn a_stream_is_cut_and_reads_as_before() {
    let pool = pool(1024, 2048);
    for v6 in [false, true] {
        for (tags, extra, options) in [(0, 0, 0), (1, 0, 3), (2, 2, 10)] {
            for len in [0, 1, 1447, 1448, 1449, 2 * 1448, 9000, 64_000] {
                let payload = numbered(len);
                let spec = Spec { v6, tags, extra, options, payload, flags: ALL_FLAGS, ..Spec::default() };
                let mut packet = pool.alloc_from(&spec.frame()).unwrap();
                packet.set_tx_lengths(spec.lengths(1448));
                let segments = cut(&packet, &pool).unwrap();
                check_segments(&spec, 1448, &frames(&segments));
                assert_eq!(bytes_of(&packet), spec.frame(), "the packet itself stays");
            }
        }
    }
    assert_home(&pool);
}

#[test]
fn segments_have_what_is_known_of_the_packet() {
    let pool = pool(16, 2048);
    let spec = Spec { payload: numbered(2500), ..Spec::default() };
    let mut packet = pool.alloc_from(&spec.frame()).unwrap();
    packet.set_port(7);
    packet.set_timestamp(123);
    packet.set_vlan_tci(9);
    packet.set_tx_lengths(spec.lengths(1000));
    packet.set_offload(packet.offload() | DONE | Offload::TX_VLAN_INSERT | Offload::RX_L4_CHECKSUM_GOOD);
    // It may be shared: it is only read.
    let clone = packet.clone_shared(&pool).unwrap();
    for segment in cut(&clone, &pool).unwrap() {
        assert_eq!((segment.port(), segment.timestamp(), segment.vlan_tci()), (7, Some(123), 9));
        assert_eq!(segment.tx_lengths(), spec.lengths(0));
        let kept = Offload::TIMESTAMP | Offload::TX_VLAN_INSERT | Offload::RX_L4_CHECKSUM_GOOD;
        assert_eq!(segment.offload(), kept);
    }
    drop((packet, clone));
    assert_home(&pool);
}

#[test]
fn small_mbufs_make_chains_of_segments() {
    let (large, small) = (pool(4, 16_384), pool(512, 64));
    let spec = Spec { payload: numbered(9000), ..Spec::default() };
    let mut packet = large.alloc_from(&spec.frame()).unwrap();
    packet.set_tx_lengths(spec.lengths(1448));
    let segments = cut(&packet, &small).unwrap();
    assert!(segments.iter().all(|segment| segment.segment_count() > 1));
    check_segments(&spec, 1448, &frames(&segments));
    drop(segments);
    let mut own = Vec::new();
    // Its own pool has three left.
    assert_eq!(segment_alike(&packet, |segment| own.push(segment)), Err(OffloadError::NoMbuf));
    packet.set_tx_lengths(spec.lengths(3000));
    assert_eq!(segment_alike(&packet, |segment| own.push(segment)), Ok(3));
    check_segments(&spec, 3000, &frames(&own));
    drop((own, packet));
    assert_home(&large);
    assert_home(&small);
}

#[test]
fn there_are_all_segments_or_none() {
    let source = pool(40, 2048);
    let spec = Spec { payload: numbered(14_480), ..Spec::default() };
    let mut packet = source.alloc_from(&spec.frame()).unwrap();
    packet.set_tx_lengths(spec.lengths(1448));
    // Ten segments of one mbuf each, or of 25 each.
    for (room, needed) in [(2048, 10), (64, 10 * 24)] {
        for count in [1, needed / 2, needed - 1, needed] {
            let pool = pool(count, room);
            let result = cut(&packet, &pool);
            assert_eq!(result.is_ok(), count == needed, "{count} of {needed}");
            if let Err(error) = &result {
                assert_eq!(*error, OffloadError::NoMbuf);
                assert_home(&pool);
            }
            drop(result);
            assert_home(&pool);
        }
    }
    drop(packet);
    assert_home(&source);
}

#[test]
fn a_pool_without_handles_gives_no_segments_and_loses_none() {
    let pool = pool(40, 2048);
    let spec = Spec { payload: numbered(5000), ..Spec::default() };
    let mut packet = pool.alloc_from(&spec.frame()).unwrap();
    packet.set_tx_lengths(spec.lengths(1448));
    drop(pool);
    assert_eq!(segment_alike(&packet, |_| panic!("a segment")), Err(OffloadError::NoMbuf));
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let pool = pool(1100, 2048);
    let spec = Spec { payload: numbered(5000), ..Spec::default() };
    let good = spec.lengths(1000);
    let refused = |spec: &Spec, lengths: TxLengths, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = spec.frame();
        change(&mut frame);
        let mut packet = pool.alloc_from(&frame).unwrap();
        packet.set_tx_lengths(lengths);
        cut(&packet, &pool).map(|segments| segments.len())
    };
    let bad = Err(OffloadError::BadHeader);
    assert_eq!(refused(&spec, good, &|_| {}), Ok(5));
    assert_eq!(refused(&spec, TxLengths { tso_segment: 1000, ..TxLengths::default() }, &|_| {}), Ok(5));
    for lengths in [
        TxLengths { tso_segment: 0, ..good },
        TxLengths { l2: 18, ..good },
        TxLengths { l3: 24, ..good },
        TxLengths { l4: 20, ..good },
    ] {
        assert_eq!(refused(&spec, lengths, &|_| {}), bad, "{lengths:?}");
    }
    let udp = Spec { tcp: false, ..spec.clone() };
    assert_eq!(refused(&udp, udp.lengths(1000), &|_| {}), bad);
    assert_eq!(refused(&spec, good, &|frame| frame[13] = 6), bad, "no IP");
    assert_eq!(refused(&spec, good, &|frame| frame[20] = 0x20), bad, "a fragment");
    assert_eq!(refused(&spec, good, &|frame| frame[46] = 0x40), bad, "a short TCP header");
    assert_eq!(refused(&spec, good, &|frame| frame.truncate(5000)), bad, "less than the IP header says");
    assert_eq!(refused(&spec, good, &|frame| frame.truncate(40)), bad, "half a header");
    assert_eq!(refused(&spec, TxLengths { tso_segment: 9, ..good }, &|_| {}), {
        Err(OffloadError::TooManySegments { segments: 556 })
    });
    assert_eq!(refused(&spec, TxLengths { tso_segment: 10, ..good }, &|_| {}), Ok(500));
    assert_home(&pool);
}

#[test]
fn an_ip_length_of_zero_is_that_of_the_packet_and_padding_is_no_payload() {
    let pool = pool(64, 2048);
    for v6 in [false, true] {
        let spec = Spec { v6, payload: numbered(5000), ..Spec::default() };
        let mut frame = spec.frame();
        frame[if v6 { 18..20 } else { 16..18 }].fill(0);
        let mut packet = pool.alloc_from(&frame).unwrap();
        packet.set_tx_lengths(spec.lengths(1448));
        check_segments(&spec, 1448, &frames(&cut(&packet, &pool).unwrap()));
        let mut padded = pool.alloc_from(&[spec.frame(), vec![0xee; 99]].concat()).unwrap();
        padded.set_tx_lengths(spec.lengths(1448));
        check_segments(&spec, 1448, &frames(&cut(&padded, &pool).unwrap()));
    }
    assert_home(&pool);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_packet_cut_anywhere_reads_as_before(
        v6 in any::<bool>(),
        tags in 0..3_usize,
        extra in 0..4_usize,
        options in 0..=10_usize,
        flags in any::<u8>(),
        sequence in any::<u32>(),
        identification in any::<u16>(),
        payload in prop::collection::vec(any::<u8>(), 0..12_000),
        most in 32..3000_u16,
        pieces in prop::collection::vec(1..900_usize, 1..5),
        room in 40..2500_usize,
    ) {
        let spec = Spec { v6, tcp: true, tags, extra, options, flags, sequence, identification, payload };
        let (from, to) = (pool(4096, 1024), pool(4096, room));
        prop_assume!(pieces.iter().sum::<usize>() > 20);
        let mut packet = chained(&from, &spec.frame(), &pieces);
        packet.set_tx_lengths(spec.lengths(most));
        match cut(&packet, &to) {
            Ok(segments) => check_segments(&spec, usize::from(most), &frames(&segments)),
            // Small mbufs and many segments.
            Err(error) => prop_assert_eq!(error, OffloadError::NoMbuf),
        }
        drop(packet);
        assert_home(&from);
        assert_home(&to);
    }

    /// Whatever is in the headers and lengths: all segments or none, and nothing is lost.
    #[test]
    fn damaged_packets_are_cut_or_refused(
        v6 in any::<bool>(),
        damage in prop::collection::vec((0..100_usize, any::<u8>()), 0..5),
        len in 1..3000_usize,
        lengths in any::<(u8, u8, u16)>(),
        which in 0..16_u8,
        most in any::<u16>(),
    ) {
        let spec = Spec { v6, payload: numbered(2900), extra: 1, ..Spec::default() };
        let pool = pool(600, 512);
        let mut frame = spec.frame();
        frame.truncate(len);
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let mut packet = pool.alloc_from(&frame).unwrap();
        let good = spec.lengths(0);
        packet.set_tx_lengths(TxLengths {
            l2: if which & 1 != 0 { lengths.0 } else { good.l2 },
            l4: if which & 2 != 0 { lengths.1 } else { good.l4 },
            l3: if which & 4 != 0 { lengths.2 } else { good.l3 },
            tso_segment: if which & 8 != 0 { most } else { 500 },
        });
        let _ = cut(&packet, &pool);
        drop(packet);
        assert_home(&pool);
    }
}
