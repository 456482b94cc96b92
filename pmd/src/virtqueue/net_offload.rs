//! What a header says of a packet, as the packet's own flags, and back (virtio 1.2, 5.1.6.2 and 5.1.6.4).

use zerocopy::FromBytes;

use super::features::Features;
use super::net_header::{DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CHECKSUM, NetHeader};
use crate::net::complete::complete_partial;
use crate::net::headers::{Tcp, ip_protocol, tcp_flag};
use crate::net::transport::parse_lengths;
use crate::packet::{Mbuf, Offload};

/// Bytes from the start of a TCP header to its checksum.
const TCP_CHECKSUM: u16 = 16;
/// Bytes from the start of a UDP header to its checksum.
const UDP_CHECKSUM: u16 = 6;

/// Notes what `header` says of a received packet. False when it cannot be so; the packet is to be dropped then.
#[must_use]
pub(crate) fn note(packet: &mut Mbuf, header: NetHeader) -> bool {
    let mut flags = Offload::empty();
    let kind = header.gso_type & !GSO_ECN;
    if header.flags & NEEDS_CHECKSUM != 0 {
        let (start, offset) = (header.checksum_start, header.checksum_offset);
        let found = parse_lengths(packet).filter(|headers| headers.transport_at() == usize::from(start));
        let asked = found.and_then(|headers| match (headers.protocol, offset) {
            (ip_protocol::TCP, TCP_CHECKSUM) => Some((Offload::TX_TCP_CHECKSUM, headers.lengths)),
            (ip_protocol::UDP, UDP_CHECKSUM) => Some((Offload::TX_UDP_CHECKSUM, headers.lengths)),
            _ => None,
        });
        match asked {
            Some((flag, lengths)) => {
                flags |= flag;
                packet.set_tx_lengths(lengths);
            }
            // Something that nobody here knows, and that cannot be cut.
            None if kind == GSO_NONE => {
                return complete_partial(packet, usize::from(start), usize::from(offset)).is_ok();
            }
            None => return false,
        }
    } else if header.flags & DATA_VALID != 0 {
        flags |= Offload::RX_L4_CHECKSUM_GOOD;
    }
    if kind != GSO_NONE {
        // A large packet always leaves its checksum to be completed.
        let known = matches!(kind, GSO_TCPV4 | GSO_TCPV6) && flags.contains(Offload::TX_TCP_CHECKSUM);
        if !known || header.gso_size == 0 {
            return false;
        }
        let mut lengths = packet.tx_lengths();
        lengths.tso_segment = header.gso_size;
        packet.set_tx_lengths(lengths);
        flags |= Offload::TX_TCP_SEGMENTATION | Offload::RX_LRO;
    }
    packet.set_offload(flags);
    true
}

/// What a queue that sends to a device with these features can leave to it.
#[must_use]
pub(crate) fn to_device(features: Features) -> Offload {
    let tso = Features::HOST_TSO4.union(Features::HOST_TSO6);
    offloads(features.contains(Features::CSUM), features.contains(tso))
}

/// What a queue that sends to a driver with these features can leave to it.
#[must_use]
pub(crate) fn to_driver(features: Features) -> Offload {
    let tso = Features::GUEST_TSO4.union(Features::GUEST_TSO6);
    offloads(features.contains(Features::GUEST_CSUM), features.contains(tso))
}

fn offloads(checksums: bool, segmentation: bool) -> Offload {
    match (checksums, segmentation) {
        (false, _) => Offload::empty(),
        (true, false) => Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM,
        (true, true) => Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM | Offload::TX_TCP_SEGMENTATION,
    }
}

/// The features by which a driver lets a device take these liberties with packets that it receives.
#[must_use]
pub(crate) fn guest_features(liberties: Offload) -> Features {
    let mut features = Features::empty();
    if liberties.contains(Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM) {
        features |= Features::GUEST_CSUM;
        if liberties.contains(Offload::TX_TCP_SEGMENTATION) {
            features |= Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::GUEST_ECN;
        }
    }
    features
}

/// The features by which a device lets a driver take these liberties with packets that it sends.
#[must_use]
pub(crate) fn host_features(liberties: Offload) -> Features {
    let mut features = Features::empty();
    if liberties.contains(Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM) {
        features |= Features::CSUM;
        if liberties.contains(Offload::TX_TCP_SEGMENTATION) {
            features |= Features::HOST_TSO4 | Features::HOST_TSO6 | Features::HOST_ECN;
        }
    }
    features
}

/// The header of a packet for a peer that does `can`, and takes marks of congestion if `marks`. None when the packet asks
/// for something else, or has not the headers that it would need.
#[must_use]
pub(crate) fn header_for(packet: &Mbuf, can: Offload, marks: bool) -> Option<NetHeader> {
    let asked = packet.offload() & Offload::TX_ALL;
    if asked.is_empty() {
        return Some(NetHeader::default());
    }
    if !can.contains(asked) {
        return None;
    }
    let mut lengths = packet.tx_lengths();
    if lengths.l2 == 0 || lengths.l3 == 0 {
        let segment = lengths.tso_segment;
        lengths = parse_lengths(packet)?.lengths;
        lengths.tso_segment = segment;
    }
    let start = u16::from(lengths.l2).checked_add(lengths.l3)?;
    let udp = asked.contains(Offload::TX_UDP_CHECKSUM);
    let offset = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    if usize::from(start) + usize::from(offset) + 2 > packet.len() {
        return None;
    }
    let mut header = NetHeader {
        flags: NEEDS_CHECKSUM,
        checksum_start: start,
        checksum_offset: offset,
        ..NetHeader::default()
    };
    if asked.contains(Offload::TX_TCP_SEGMENTATION) {
        if udp || lengths.tso_segment == 0 {
            return None;
        }
        let mut scratch = [0; size_of::<Tcp>()];
        let tcp = packet.read(usize::from(start), size_of::<Tcp>(), &mut scratch)?;
        let reduced = Tcp::ref_from_prefix(tcp).ok()?.0.flags & tcp_flag::CWR != 0;
        let mut version = [0; 1];
        header.gso_type = match packet.read(usize::from(lengths.l2), 1, &mut version)?.first()? >> 4 {
            4 => GSO_TCPV4,
            6 => GSO_TCPV6,
            _ => return None,
        };
        if reduced && marks {
            header.gso_type |= GSO_ECN;
        }
        header.gso_size = lengths.tso_segment;
        header.header_len = start + u16::from(lengths.l4);
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::net::testing::{Spec, numbered, pool};

    const ALL: Offload =
        Offload::TX_TCP_CHECKSUM.union(Offload::TX_UDP_CHECKSUM).union(Offload::TX_TCP_SEGMENTATION);

    #[test]
    fn what_is_noted_is_said_again() {
        let pool = pool(64, 2048);
        for (v6, large) in [(false, false), (false, true), (true, false), (true, true)] {
            let spec = Spec { payload: numbered(4000), v6, ..Spec::default() };
            let start = usize::from(spec.lengths(0).l2) as u16 + spec.lengths(0).l3;
            let header = NetHeader {
                flags: NEEDS_CHECKSUM,
                gso_type: if !large {
                    GSO_NONE
                } else if v6 {
                    GSO_TCPV6
                } else {
                    GSO_TCPV4
                },
                header_len: if large { start + u16::from(spec.lengths(0).l4) } else { 0 },
                gso_size: if large { 1000 } else { 0 },
                checksum_start: start,
                checksum_offset: TCP_CHECKSUM,
                buffers: 0,
            };
            let mut packet = pool.alloc_from(&spec.frame()).unwrap();
            assert!(note(&mut packet, header));
            assert_eq!(packet.offload().contains(Offload::TX_TCP_SEGMENTATION), large);
            assert_eq!(header_for(&packet, ALL, false), Some(header));
            assert_eq!(header_for(&packet, Offload::empty(), false), None);
        }
    }

    #[test]
    fn headers_that_cannot_be_are_refused() {
        let pool = pool(64, 2048);
        let spec = Spec { payload: numbered(4000), ..Spec::default() };
        let good = NetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: GSO_TCPV4,
            header_len: 54,
            gso_size: 1000,
            checksum_start: 34,
            checksum_offset: TCP_CHECKSUM,
            buffers: 0,
        };
        let try_with = |header| note(&mut pool.alloc_from(&spec.frame()).unwrap(), header);
        assert!(try_with(good));
        for bad in [
            NetHeader { flags: 0, ..good },
            NetHeader { gso_size: 0, ..good },
            NetHeader { gso_type: 3, ..good },
            NetHeader { gso_type: 0x7f, ..good },
            NetHeader { checksum_start: 35, ..good },
            NetHeader { checksum_offset: UDP_CHECKSUM, ..good },
            NetHeader { gso_type: GSO_NONE, checksum_start: u16::MAX, ..good },
            NetHeader { gso_type: GSO_NONE, checksum_start: 4065, checksum_offset: 0, ..good },
        ] {
            assert!(!try_with(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_checksum_is_completed_at_once_and_a_good_one_is_noted() {
        let pool = pool(64, 2048);
        let spec = Spec { payload: numbered(100), ..Spec::default() };
        let mut packet = pool.alloc_from(&spec.frame()).unwrap();
        // A checksum that software computes, at a place that no protocol has.
        let header = NetHeader {
            flags: NEEDS_CHECKSUM,
            checksum_start: 36,
            checksum_offset: 20,
            ..NetHeader::default()
        };
        assert!(note(&mut packet, header));
        assert!(packet.offload().is_empty());
        assert_ne!(packet.data(), spec.frame());

        let mut packet = pool.alloc_from(&spec.frame()).unwrap();
        assert!(note(&mut packet, NetHeader { flags: DATA_VALID, ..NetHeader::default() }));
        assert_eq!(packet.offload(), Offload::RX_L4_CHECKSUM_GOOD);
    }
}
