//! What is left to the device while sending, and what it tells of received frames.

use wirerate_nic::{Settings, Wire};
use wirerate_pmd::packet::{Mbuf, Offload};
use wirerate_pmd::{Burst, PortConfig};

use super::lab::{Lab, SOMEBODY};
use super::packets::{Kind, TCP};

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];

impl Lab {
    /// Sends packets out of the first queue, and returns the `count` frames that come of it.
    fn pass(&mut self, packets: impl IntoIterator<Item = Mbuf>, count: usize) -> Vec<Vec<u8>> {
        for packet in packets {
            let mut burst = Burst::new(1);
            burst.push(packet).unwrap();
            super::eventually_mut("the queue stays full", || self.queues.tx[0].tx_burst(&mut burst) == 1);
        }
        let frames = self.arrived(count);
        super::eventually_mut("segments wait", || {
            self.queues.tx[0].flush();
            self.queues.tx[0].waiting() == 0
        });
        frames
    }

    /// The packets that the first queue receives: as many as these frames.
    fn take(&mut self, frames: &[Vec<u8>]) -> Vec<Mbuf> {
        frames.iter().for_each(|frame| self.far.send(frame.clone()));
        let mut packets = Vec::new();
        let mut burst = Burst::new(32);
        super::eventually_mut("frames do not come", || {
            self.queues.rx[0].rx_burst(&mut burst);
            packets.extend(burst.drain());
            packets.len() == frames.len()
        });
        packets
    }
}

/// What packets ask for, and into how many frames of `segment` bytes of payload they are cut.
fn wishes() -> Vec<(Kind, Offload, u16, usize)> {
    let mut all = Vec::new();
    for kind in Kind::all() {
        let sum = if kind.udp { Offload::TX_UDP_CHECKSUM } else { Offload::TX_TCP_CHECKSUM };
        for tag in [None, Some(0x0155)] {
            let kind = Kind { tag, ..kind };
            for flags in [
                sum,
                sum | Offload::TX_IP_CHECKSUM,
                Offload::TX_IP_CHECKSUM,
                Offload::TX_VLAN_INSERT,
                sum | Offload::TX_VLAN_INSERT,
            ] {
                if kind.v6 && flags.contains(Offload::TX_IP_CHECKSUM) {
                    continue;
                }
                all.push((kind, flags, 0, 1));
                all.push((Kind { payload: 1, ..kind }, flags, 0, 1));
            }
            if !kind.udp {
                for (payload, segment) in
                    [(3000, 1000), (30_000, 1448), (1, 1000), (64_000, 1400), (2000, 1999)]
                {
                    let cut = Kind { payload, ..kind };
                    let count = payload.div_ceil(segment.into());
                    all.push((cut, Offload::TX_TCP_SEGMENTATION, segment, count));
                    all.push((cut, Offload::TX_TCP_SEGMENTATION | Offload::TX_VLAN_INSERT, segment, count));
                }
            }
        }
    }
    all
}

#[test]
fn the_device_does_what_software_would_do_byte_for_byte() {
    let all = |config: PortConfig| config.tx_offloads(Offload::TX_ALL).mtu(9000);
    let settings = Settings { is_virtual: true, ..Settings::default() };
    let mut devices = [Lab::with(1, "", all), Lab::of(settings, 1, "", all)];
    let mut software = Lab::with(1, "", |config| config.tx_offloads(Offload::empty()).mtu(9000));
    let left = |lab: &Lab| lab.queues.tx[0].offloads();
    assert_eq!((devices.each_ref().map(left), left(&software)), ([Offload::TX_ALL; 2], Offload::empty()));
    for (kind, flags, segment, count) in wishes() {
        let send = |lab: &mut Lab| {
            let packet = kind.packet(&lab.pool, SOMEBODY, flags, segment);
            lab.pass([packet], count)
        };
        let theirs = send(&mut software);
        for device in &mut devices {
            let ours = send(device);
            device.machine.assert_good();
            for (at, (their, our)) in theirs.iter().zip(&ours).enumerate() {
                assert!(their == our, "{kind:?} {flags:?}, frame {at}:\n{their:x?}\n{our:x?}");
            }
        }
    }
    devices.into_iter().for_each(Lab::end);
    software.end();
}

#[test]
fn a_context_is_written_once_for_packets_alike() {
    let mut lab = Lab::with(1, "", |config| config.tx_offloads(Offload::TX_ALL));
    let packets = |lab: &Lab, count: u16| -> Vec<Mbuf> {
        let packet = |flow| Kind { flow, ..TCP }.packet(&lab.pool, SOMEBODY, Offload::TX_TCP_CHECKSUM, 0);
        (0..count).map(packet).collect()
    };
    let some = packets(&lab, 50);
    let frames = lab.pass(some, 50);
    assert!(
        frames
            .iter()
            .enumerate()
            .all(|(at, frame)| *frame == Kind { flow: at as u16, ..TCP }.frame(SOMEBODY))
    );
    // One descriptor each, and one for the context.
    assert_eq!(lab.machine.read(0x06018), 51);
    // The queue's contexts go with a reset.
    lab.restart();
    let some = packets(&lab, 3);
    lab.pass(some, 3);
    assert_eq!(lab.machine.read(0x06018), 4);
    lab.end();
}

#[test]
fn packets_whose_bytes_others_read_are_copied_and_those_of_other_pools_too() {
    let mut lab = Lab::with(1, "", |config| config.tx_offloads(Offload::TX_ALL));
    let other = wirerate_pmd::MbufPool::on_heap(&wirerate_pmd::MbufPoolConfig::new("other", 64)).unwrap();
    let flags = Offload::TX_TCP_SEGMENTATION;
    let kind = Kind { payload: 3000, ..TCP };
    let packet = kind.packet(&lab.pool, SOMEBODY, flags, 1000);
    let before: Vec<u8> = packet.segments().flatten().copied().collect();
    let shared = packet.clone_shared(&lab.pool).unwrap();
    let foreign = kind.packet(&other, SOMEBODY, flags, 1000);
    let frames = lab.pass([shared, foreign], 6);
    assert!(frames[..3] == frames[3..]);
    assert!(packet.segments().flatten().copied().eq(before), "a reader's bytes were changed");
    drop(packet);
    assert_eq!((other.counts().in_use, lab.count("ixgbe_tx_copied")), (0, 1));
    lab.end();
}

#[test]
fn what_has_not_the_headers_that_it_asks_for_is_dropped_by_name() {
    let mut lab = Lab::with(1, "", |config| config.tx_offloads(Offload::TX_ALL));
    for (lengths_of, flags, segment) in [
        (14, Offload::TX_TCP_SEGMENTATION, 0),
        (40, Offload::TX_TCP_CHECKSUM, 0),
        (127, Offload::TX_UDP_CHECKSUM, 0),
    ] {
        let mut packet = TCP.packet(&lab.pool, SOMEBODY, flags, segment);
        let mut lengths = packet.tx_lengths();
        lengths.l2 = lengths_of;
        packet.set_tx_lengths(lengths);
        lab.pass([packet], 0);
    }
    let drops = lab.port().tx_counters()[0].drops(wirerate_pmd::port::DropReason::BadHeader);
    assert_eq!(drops, 3);
    // IPv6 has no checksum.
    lab.pass([Kind { v6: true, ..TCP }.packet(&lab.pool.clone(), SOMEBODY, Offload::TX_IP_CHECKSUM, 0)], 0);
    assert_eq!(lab.port().tx_counters()[0].drops(wirerate_pmd::port::DropReason::BadHeader), 4);
    lab.pass([TCP.packet(&lab.pool.clone(), SOMEBODY, Offload::TX_TCP_CHECKSUM, 0)], 1);
    lab.end();
}

#[test]
fn checksums_of_received_frames_are_told() {
    let mut lab = Lab::new(1);
    for kind in Kind::all() {
        for tag in [None, Some(5)] {
            let good = Kind { tag, ..kind }.frame(OURS);
            let mut bad = good.clone();
            *bad.last_mut().unwrap() ^= 1;
            let mut worse = good.clone();
            let ip_at = if tag.is_some() { 18 } else { 14 };
            // The time to live, which only IPv4 has a checksum of.
            worse[ip_at + if kind.v6 { 7 } else { 8 }] ^= 1;
            let flags: Vec<Offload> =
                lab.take(&[good.clone(), bad, worse]).iter().map(|packet| packet.offload()).collect();
            let ip = if kind.v6 { Offload::empty() } else { Offload::RX_IP_CHECKSUM_GOOD };
            let wrong = if kind.v6 { Offload::empty() } else { Offload::RX_IP_CHECKSUM_BAD };
            // The device takes UDP without a checksum for wrong, so of UDP that is wrong nothing is told.
            let bad = if kind.udp { Offload::empty() } else { Offload::RX_L4_CHECKSUM_BAD };
            let expected =
                [ip | Offload::RX_L4_CHECKSUM_GOOD, ip | bad, wrong | Offload::RX_L4_CHECKSUM_GOOD];
            assert_eq!(flags, expected, "{kind:?} {tag:?}");
        }
    }
    let none = lab.take(&[super::lab::frame(OURS, 1, 60)]).remove(0);
    assert_eq!((none.offload(), none.rss_hash()), (Offload::empty(), None));
    drop(none);
    lab.end();
}

#[test]
fn tags_are_taken_out_where_that_is_allowed_and_put_in_again() {
    for strips in [false, true] {
        let liberties = if strips { Offload::RX_VLAN_STRIPPED } else { Offload::empty() };
        let mut lab = Lab::with(1, "", |config| config.rx_offloads(liberties).mtu(4000));
        let frames: Vec<_> = [(Some(0x6005), 100), (None, 100), (Some(7), 3500)]
            .map(|(tag, payload)| Kind { tag, payload, ..TCP }.frame(OURS))
            .to_vec();
        let mut packets = lab.take(&frames);
        for (packet, frame) in packets.iter().zip(&frames) {
            let tagged = frame[12..14] == [0x81, 0];
            let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
            if strips && tagged {
                assert!(bytes == [&frame[..12], &frame[16..]].concat());
                assert_eq!(packet.vlan_tci().to_be_bytes(), frame[14..16]);
                assert!(packet.offload().contains(Offload::RX_VLAN_STRIPPED | Offload::TX_VLAN_INSERT));
            } else {
                assert!(bytes == *frame);
                assert!(!packet.offload().intersects(Offload::RX_VLAN_STRIPPED | Offload::TX_VLAN_INSERT));
            }
        }
        assert!(lab.pass(packets.drain(..), 3) == frames);
        lab.end();
    }
}
