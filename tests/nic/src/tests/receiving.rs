//! What descriptors tell of frames that came in, and which queue they come into.

use super::super::packet::L4;
use super::super::traffic::{Kind, TCP4, frame as packet};
use super::*;

const MRQC: usize = 0x5818;
const RXCSUM: usize = 0x5000;
const VME: u32 = 1 << 30;

/// What an advanced descriptor says.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    hash: (u8, u32),
    packet_type: u16,
    /// Status and errors, of the 32 bits that both have.
    status: u32,
    len: u16,
    tag: u16,
}

impl Port {
    /// One with `queues` receive queues of eight descriptors, each with its part of the memory, and RSS over all.
    fn spread(seed: u64, queues: u64, mrqc: u32) -> (Self, CableEnd) {
        let (port, far) = Self::new(seed);
        for queue in 0..queues {
            let at = 0x40 * queue as usize;
            port.set_up_ring(RDBAL + at, 0x100 * queue);
            port.w(0x1014 + at, ADVANCED);
            port.w(RXDCTL + at, ENABLE);
            port.poll(RXDCTL + at, ENABLE);
            for index in 0..7 {
                let buffer = port.device(RX_BUFFERS + queue * 0x8000 + index * 0x1000);
                port.put(0x100 * queue + 16 * index, &(u128::from(buffer)).to_le_bytes());
            }
            port.w(RDT + at, 7);
        }
        (0..10).for_each(|at| port.w(0x5c80 + 4 * at, 0x6d5a_56da_u32.rotate_left(3 * at as u32)));
        let most = queues as u32 - 1;
        (0..32).for_each(|at| port.w(0x5c00 + 4 * at, (0x0302_0100 ^ at as u32) & (most * 0x0101_0101)));
        port.w(RXCSUM, 1 << 13);
        port.w(MRQC, mrqc);
        port.open_rx();
        port.check();
        (port, far)
    }

    fn done(&self, queue: u64, index: u64) -> Done {
        let bytes = self.get(0x100 * queue + 16 * index, 16);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        Done {
            hash: (bytes[0] & 0xf, word(4)),
            packet_type: (word(0) >> 4 & 0x1fff) as u16,
            status: word(8),
            len: word(12) as u16,
            tag: (word(12) >> 16) as u16,
        }
    }

    /// The descriptor of the one frame that comes into the first queue.
    fn receives(&self, far: &mut CableEnd, index: u64, frame: &[u8]) -> Done {
        far.send(frame.to_vec());
        self.work();
        self.done(0, index)
    }
}

#[test]
fn flows_are_spread_over_queues_and_stay_in_theirs() {
    let (port, mut far) = Port::spread(3, 4, 1 | 1 << 16 | 1 << 22);
    let mut taken = [0_u64; 4];
    for flow in 0..20_u16 {
        let l4 = Some(if flow % 2 == 0 { L4::Tcp } else { L4::Udp });
        let frame = packet(Kind { l4, ports: (flow, 80), ..TCP4 });
        far.send(frame.clone());
        port.work();
        let heads: [u64; 4] = std::array::from_fn(|queue| port.r(RDH + 0x40 * queue).into());
        let queue = (0..4).find(|queue| heads[*queue] != taken[*queue]).unwrap();
        let done = port.done(queue as u64, taken[queue]);
        taken = heads;
        assert_eq!((done.hash.0, done.packet_type), if flow % 2 == 0 { (1, 0x11) } else { (7, 0x21) });
        let entry = done.hash.1 as usize & 0x7f;
        assert_eq!(port.r(0x5c00 + entry / 4 * 4) >> (8 * (entry % 4)) & 0xff, queue as u32);
        assert_eq!((usize::from(done.len), done.status), (frame.len(), 0x63 | (u32::from(flow) & 1) << 4));
        let buffer = RX_BUFFERS + queue as u64 * 0x8000 + (taken[queue] - 1) % 8 * 0x1000;
        assert!(port.get(buffer, frame.len()) == frame);
        // Buffers for those who got one.
        let tail = (taken[queue] + 6) % 8;
        let fresh = port.device(RX_BUFFERS + queue as u64 * 0x8000 + tail * 0x1000);
        port.put(0x100 * queue as u64 + 16 * tail, &u128::from(fresh).to_le_bytes());
        port.w(RDT + 0x40 * queue, ((tail + 1) % 8) as u32);
    }
    // What has no hash comes into the first.
    let before = port.r(RDH);
    assert_eq!(port.receives(&mut far, before.into(), &packet(Kind { l4: None, ..TCP4 })).hash, (0, 0));
    assert_eq!(port.r(RDH), (before + 1) % 8);
    port.check();
}

#[test]
fn a_queue_without_room_holds_the_others_up_unless_it_drops() {
    for drop in [0, 1 << 28] {
        let (port, mut far) = Port::new(2);
        for queue in 0..2_u64 {
            let at = 0x40 * queue as usize;
            port.set_up_ring(RDBAL + at, 0x100 * queue);
            port.w(0x1014 + at, ADVANCED | drop);
            port.w(RXDCTL + at, ENABLE);
            port.poll(RXDCTL + at, ENABLE);
        }
        port.put(0x100, &u128::from(port.device(RX_BUFFERS)).to_le_bytes());
        port.w(RDT + 0x40, 1);
        port.w(0x5c80, 1);
        (0..32).for_each(|at| port.w(0x5c00 + 4 * at, 0x0101_0101));
        port.w(MRQC, 1 | 1 << 16);
        port.w(0x2300, 0x0000_0100);
        port.open_rx();
        // The first is for a queue that has no buffers, the second for one that has.
        far.send(packet(Kind { l4: None, ..TCP4 }));
        far.send(packet(TCP4));
        port.work();
        let counts = (port.r(RDH + 0x40), port.r(0x1430), port.r(0x1030 + 0x40));
        assert_eq!(counts, if drop == 0 { (0, 0, 0) } else { (1, 1, 1) });
        port.check();
    }
}

#[test]
fn tags_are_told_of_and_stripped_where_a_queue_asks() {
    let tagged = packet(Kind { tag: Some(0x6123), ..TCP4 });
    let (port, mut far) = Port::running(1, ADVANCED);
    let done = port.receives(&mut far, 0, &tagged);
    assert_eq!((done.status, done.tag, usize::from(done.len)), (0x6b, 0, tagged.len()));
    assert!(port.get(RX_BUFFERS, tagged.len()) == tagged);
    port.w(RXDCTL, ENABLE | VME);
    let done = port.receives(&mut far, 1, &tagged);
    assert_eq!((done.status, done.tag, usize::from(done.len)), (0x6b, 0x6123, tagged.len() - 4));
    assert!(port.get(RX_BUFFERS + 0x4000, tagged.len() - 4) == packet(TCP4));
    assert_eq!((port.receives(&mut far, 2, &packet(TCP4)).status, port.done(0, 2).tag), (0x63, 0));
    // One that is as long as it may be, and one that is longer.
    let longest = packet(Kind { tag: Some(1), payload: 1460, ..TCP4 });
    assert_eq!((longest.len(), port.receives(&mut far, 3, &longest).len), (1518, 1514));
    far.send(packet(Kind { tag: Some(1), payload: 1461, ..TCP4 }));
    port.work();
    assert_eq!(port.r(0x40ac), 1);
    port.check();
}

#[test]
fn checksums_are_looked_at_and_told_of() {
    let (port, mut far) = Port::running(1, ADVANCED);
    let (ip, l4, udp) = (0x40, 0x20, 0x10);
    let kinds = [
        (TCP4, ip | l4),
        (Kind { l4: Some(L4::Udp), ..TCP4 }, ip | l4 | udp),
        (Kind { l4: Some(L4::Sctp), tag: Some(5), ..TCP4 }, ip | l4 | 8),
        (Kind { l4: None, ..TCP4 }, ip),
        (Kind { v6: true, ..TCP4 }, l4),
        (Kind { v6: true, l4: Some(L4::Udp), ..TCP4 }, l4 | udp),
    ];
    let mut index = 0;
    let mut status = |frame: &[u8]| {
        let done = port.receives(&mut far, index, frame);
        port.fill((index + 7) % 8);
        port.w(RDT, index as u32);
        index = (index + 1) % 8;
        done.status & !3
    };
    for (kind, expected) in kinds {
        let good = packet(kind);
        assert_eq!(status(&good), expected, "{kind:?}");
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 0x40;
        let wrong = if kind.l4.is_some() { 1 << 30 } else { 0 };
        assert_eq!(status(&bad), expected | wrong, "{kind:?}");
        if !kind.v6 {
            let mut bad = good;
            bad[if kind.tag.is_some() { 26 } else { 22 }] ^= 1;
            assert_eq!(status(&bad), expected | 1 << 31, "{kind:?}");
        }
    }
    // No checksum of UDP: none was looked at, or it is said to be wrong, and both happen.
    let mut none = packet(Kind { l4: Some(L4::Udp), ..TCP4 });
    none[40..42].fill(0);
    let found: Vec<_> = (0..30).map(|_| status(&none)).collect();
    assert!(found.contains(&ip) && found.contains(&(ip | l4 | udp | 1 << 30)), "{found:x?}");
    assert!(found.iter().all(|status| [ip, ip | l4 | udp | 1 << 30].contains(status)), "{found:x?}");
    port.check();
}

#[test]
fn legacy_descriptors_tell_the_same_in_eight_bits() {
    let (port, mut far) = Port::new(1);
    port.set_up_rx(2);
    port.w(RXDCTL, ENABLE | VME);
    port.open_rx();
    let mut frame = packet(Kind { tag: Some(0x0123), l4: Some(L4::Udp), ..TCP4 });
    frame[26] ^= 1;
    let last = frame.len() - 1;
    frame[last] ^= 1;
    far.send(frame.clone());
    port.work();
    let len = (frame.len() - 4) as u8;
    assert_eq!(port.get(RX_RING + 8, 8), [len, 0, 0, 0, 0x7b, 0xc0, 0x23, 0x01]);
    port.check();
}

#[test]
fn frames_that_passed_by_their_hash_are_told_apart() {
    let (port, mut far) = Port::running(1, ADVANCED);
    port.w(0x5080, 0);
    let mut frame = packet(TCP4);
    frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0xfb]);
    port.w(0x5200 + 4 * (0xfb0 >> 5), 1 << (0xfb0 & 0x1f));
    port.w(0x5090, 4);
    assert_eq!(port.receives(&mut far, 0, &frame).status, 0xe3);
    port.w(0x5080, 1 << 8);
    assert_eq!(port.receives(&mut far, 1, &frame).status, 0x63);
    port.check();
}

#[test]
fn hashes_are_told_only_where_fragments_checksums_are_not() {
    let (port, mut far) = Port::spread(1, 2, 1 | 1 << 17);
    let frame = packet(TCP4);
    far.send(frame);
    port.work();
    let queue = (0..2).find(|queue| port.r(RDH + 0x40 * queue) == 1).unwrap() as u64;
    assert_eq!(port.done(queue, 0).hash.0, 2);
    port.check();
    port.w(RXCSUM, 0);
    port.only("RXCSUM", "RXEN");
    let (port, mut far) = Port::new(1);
    port.set_up_rx(ADVANCED);
    port.w(MRQC, 1 | 1 << 17);
    port.open_rx();
    assert_eq!(port.receives(&mut far, 0, &packet(TCP4)).hash, (0, 0));
    port.check();
    port.w(MRQC, 0);
    port.only("MRQC", "switched");
    let (port, _far) = Port::new(1);
    port.w(RXCSUM, 1 << 12);
    port.only("RXCSUM", "IPPCSE");
    let (port, _far) = Port::new(1);
    port.set_up_ring(RDBAL, RX_RING);
    port.w(SRRCTL, 2 << 25 | 2);
    port.w(RXDCTL, ENABLE);
    port.only("RXDCTL", "packet split off");
}

#[test]
fn queues_interrupt_by_their_own_vectors() {
    let (port, mut far) = Port::spread(3, 4, 1 | 1 << 22);
    let events = port.function.enable_msix(8).unwrap();
    // Queue n receives by vector n + 1, and the first sends by vector 6.
    port.w(0x898, 1 << 4);
    port.w(0x900, 0x0082_8681);
    port.w(0x904, 0x0084_0083);
    port.w(0x810, 0xff);
    port.w(0x880, 0xff);
    let told = || -> Vec<usize> {
        let told = |event| rustix::io::read(event, &mut [0; 8]).is_ok();
        (0..8).filter(|vector| told(&events[*vector])).collect()
    };
    let mut seen = std::collections::BTreeSet::new();
    for flow in 0..8 {
        let before: Vec<u32> = (0..4).map(|queue| port.r(RDH + 0x40 * queue)).collect();
        far.send(packet(Kind { l4: Some(L4::Udp), ports: (flow, 80), ..TCP4 }));
        port.work();
        let queue = (0..4).find(|queue| port.r(RDH + 0x40 * queue) != before[*queue]);
        let Some(queue) = queue else { break };
        assert_eq!(told(), [queue + 1]);
        seen.insert(queue);
    }
    assert!(seen.len() > 1, "{seen:?}");
    port.set_up_tx();
    port.send(0, &[&frame(60, 1)]);
    port.work();
    assert_eq!(told(), [6]);
    // One that is masked tells when it is not any more.
    port.w(0x888, 1 << 6);
    port.send(1, &[&frame(60, 1)]);
    port.work();
    assert!(told().is_empty());
    port.w(0x880, 1 << 6);
    assert_eq!(told(), [6]);
    port.check();
}

#[test]
fn two_tags_are_not_had() {
    let (port, _far) = Port::new(1);
    port.w(0x18, 1 << 26);
    port.only("CTRL_EXT", "two tags");
}
