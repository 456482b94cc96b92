//! A driver that sends what it should not: chains, tables, addresses, lengths and headers that cannot be.

use std::os::unix::net::UnixStream;

use wirerate_eal::Eal;
use wirerate_pmd::drivers::vhost;
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

use crate::peer::{Peer, wait_for};
use crate::rings::*;
use crate::target::{Bystander, Target, eal, frame};

/// The first address behind the memory.
const END: u64 = GUEST + LEN as u64;
/// Where the port's frames are received.
pub(crate) const RECEIVE: usize = 0xc_0000;
pub(crate) const MALFORMED: &str = "rx_q0_drop_rx_malformed";

/// A session of a driver that seems honest at first.
pub(crate) fn session(target: &Target, packed: bool, features: u64) -> Front {
    let mut front = Front::open(Peer::connect(&target.path), packed, features);
    wait_for("the link", || target.port().link().up);
    target.received();
    passes(&mut front, target);
    front
}

/// A frame passes each way.
pub(crate) fn passes(front: &mut Front, target: &Target) {
    let bytes = frame(3, 100);
    let (address, len) = front.fill([0; HEADER], &bytes);
    front.post(TX, &[desc(address, len, 0)]);
    assert!(target.next() == bytes);
    front.back(TX);
    front.post(RX, &[desc(GUEST + RECEIVE as u64, 2048, WRITE)]);
    target.send(&bytes);
    assert_eq!(front.back(RX), 112);
    assert!(front.memory.get(RECEIVE + HEADER, 100) == bytes);
}

/// Runs `attack` against a port by split and by packed rings, beside a pair of honest ports.
pub(crate) fn against_a_port(attack: impl Fn(&Eal, &Target, bool)) {
    let eal = eal();
    let bystander = Bystander::start(&eal);
    let target = Target::vhost(&eal);
    for packed in [false, true] {
        attack(&eal, &target, packed);
    }
    wait_for("the end of the last session", || !target.port().link().up);
    target.works_with_an_honest_driver(&eal, false);
    target.works_with_an_honest_driver(&eal, true);
    bystander.end();
    target.end();
}

/// What is sent by this chain is dropped and counted, the chain comes back, and the next frames pass.
fn dropped(front: &mut Front, target: &Target, what: &str, chain: &[Desc]) {
    let before = target.count(MALFORMED);
    front.post(TX, chain);
    front.back(TX);
    target.polled();
    assert_eq!(target.count(MALFORMED), before + 1, "{what}: {chain:x?}");
    assert!(target.received().is_empty(), "{what}: {chain:x?}");
    passes(front, target);
}

/// It comes as `bytes`.
fn comes(front: &mut Front, target: &Target, what: &str, chain: &[Desc], bytes: &[u8]) {
    front.post(TX, chain);
    let came = target.next();
    assert!(came == bytes, "{what}: {} bytes came of {}", came.len(), bytes.len());
    front.back(TX);
}

/// Buffers that lie nowhere, as a whole or in part.
pub(crate) fn nowhere() -> [(u64, u32); 6] {
    [(0, 112), (GUEST - 1, 112), (END, 112), (END - 50, 112), (u64::MAX - 49, 112), (GUEST, u32::MAX)]
}

#[test]
fn cve_2018_1059_what_lies_outside_of_the_memory_is_not_read() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let at = GUEST + BUFFERS as u64;
        for (address, len) in nowhere() {
            dropped(&mut front, target, "a buffer", &[desc(address, len, 0)]);
            dropped(&mut front, target, "its second part", &[desc(at, 12, 0), desc(address, len, 0)]);
            let table = front.table(TABLES, &[desc(address, len, 0)]);
            dropped(&mut front, target, "a buffer in a table", &[table]);
            dropped(&mut front, target, "a table", &[desc(address, 16 * (len / 16), INDIRECT)]);
        }
        // The regions touch here, but lie anywhere in this process: legal, and read piece by piece.
        let bytes = frame(9, 3000);
        let border = GUEST + BORDER as u64;
        for before in [1, 11, 12, 13, 1500] {
            front.memory.put(BORDER - before, &[0; HEADER]);
            front.memory.put(BORDER - before + HEADER, &bytes);
            let whole = [desc(border - before as u64, 3012, 0)];
            comes(&mut front, target, "a buffer across regions", &whole, &bytes);
        }
        let table = front.table(BORDER - 16, &[desc(at, 112, NEXT).then(1), desc(at, 100, 0)]);
        dropped(&mut front, target, "a table across regions", &[table]);
    });
}

#[test]
fn cve_2022_2132_headers_may_be_spread_but_not_be_short() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let bytes = frame(5, 200);
        let (at, len) = front.fill([0; HEADER], &bytes);
        for piece in 1..=13 {
            let mut chain: Vec<Desc> = Vec::new();
            let mut from = 0;
            while from < 14 {
                chain.push(desc(at + from, piece, 0));
                from += u64::from(piece);
            }
            chain.push(desc(at + from, len - from as u32, 0));
            comes(&mut front, target, "a header in pieces", &chain, &bytes);
            let parts: Vec<Desc> = (1..)
                .zip(&chain)
                .map(|(next, part)| {
                    desc(part.address, part.len, if next < chain.len() { NEXT } else { 0 }).then(next as u16)
                })
                .collect();
            let table = front.table(TABLES, &parts);
            comes(&mut front, target, "a header in pieces of a table", &[table], &bytes);
        }
        let empty = desc(at, 0, 0);
        let holes = [empty, desc(at, 5, 0), empty, empty, desc(at + 5, len - 5, 0), empty];
        comes(&mut front, target, "empty parts", &holes, &bytes);
        for short in [0, 1, 9, 10, 11, 12] {
            dropped(&mut front, target, "no more than a header", &[desc(at, short, 0)]);
            dropped(
                &mut front,
                target,
                "parts of no more",
                &[desc(at, short / 2, 0), desc(at, short - short / 2, 0)],
            );
        }
        dropped(&mut front, target, "nothing", &[empty; 200]);
    });
}

#[test]
fn buffers_for_the_other_direction_and_packets_without_end_are_dropped() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let at = GUEST + BUFFERS as u64;
        dropped(&mut front, target, "a writable buffer", &[desc(at, 112, WRITE)]);
        dropped(&mut front, target, "a writable part", &[desc(at, 112, 0), desc(at, 100, WRITE)]);
        dropped(&mut front, target, "a writable header", &[desc(at, 12, WRITE), desc(at, 100, 0)]);
        dropped(&mut front, target, "80 KiB", &[desc(at, 4096, 0); 20]);
        dropped(&mut front, target, "1 MiB at once", &[desc(GUEST, 0x10_0000, 0)]);
        let bytes = front.memory.get(BUFFERS, 65_536).split_off(HEADER);
        comes(&mut front, target, "64 KiB", &[desc(at, 0x8000, 0), desc(at + 0x8000, 0x8000, 0)], &bytes);
    });
}

#[test]
fn cve_2020_14378_chains_and_tables_without_end_cost_little() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let at = GUEST + BUFFERS as u64;
        dropped(&mut front, target, "a long chain", &[desc(at, 1, 0); 300]);
        let long = front.table(TABLES, &[desc(at, 1, NEXT); 300]);
        let parts: Vec<Desc> =
            (1..=300).map(|next| desc(at, 1, if next < 300 { NEXT } else { 0 }).then(next)).collect();
        assert_eq!(front.table(TABLES, &parts), long);
        dropped(&mut front, target, "a long table", &[long]);
        for (what, offset, len) in [
            ("an empty table", 0, 0),
            ("a table and a half", 0, 24),
            ("half a table", 0, 8),
            ("a table at an odd address", 4, 16),
            ("a table of 4 GiB", 0, 0xffff_fff0),
            ("a table that is longer than memory", 0, LEN as u32),
        ] {
            let table = desc(GUEST + TABLES as u64 + offset, len, INDIRECT);
            dropped(&mut front, target, what, &[table]);
        }
        let inner = front.table(TABLES + 0x1000, &[desc(at, 112, 0)]);
        let nested = front.table(TABLES, &[desc(at, 12, NEXT).then(1), inner]);
        dropped(&mut front, target, "a table in a table", &[nested]);
        if packed {
            dropped(&mut front, target, "a table in a chain", &[desc(at, 12, 0), inner]);
        } else {
            let bytes = front.memory.get(BUFFERS, 112);
            comes(&mut front, target, "a chain that ends in a table", &[desc(at, 12, 0), inner], &bytes);
            for length in 1..4 {
                // The last leads back to the first.
                let first = front.next_descriptor(TX);
                let mut chain = vec![desc(at, 1, 0); length];
                chain[length - 1] = desc(at, 1, NEXT).then(first);
                dropped(&mut front, target, "a loop", &chain);
            }
            let first = front.next_descriptor(TX);
            dropped(&mut front, target, "a loop of nothing", &[desc(at, 0, NEXT).then(first)]);
            for next in [SIZE, SIZE + 1, 0x7fff, u16::MAX] {
                dropped(&mut front, target, "out of the ring", &[desc(at, 1, NEXT).then(next)]);
                let table = front.table(TABLES, &[desc(at, 1, NEXT).then(next)]);
                dropped(&mut front, target, "out of the table", &[table]);
            }
            let table = front.table(TABLES, &[desc(at, 1, NEXT).then(1), desc(at, 1, NEXT).then(0)]);
            dropped(&mut front, target, "a loop in a table", &[table]);
        }
        let unoptimised = 20;
        let most = std::time::Duration::from_millis(5 * unoptimised);
        assert!(target.longest() < most, "a burst took {:?}", target.longest());
    });
}

#[test]
fn cve_2020_10725_bad_buffers_among_good_ones_of_one_burst() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let bytes = frame(1, 100);
        let (at, len) = front.fill([0; HEADER], &bytes);
        let before = target.count(MALFORMED);
        // The port finds them at once or one by one, as it comes.
        for number in 0..400 {
            match number % 8 {
                3 => front.post(TX, &[desc(END - 10, len, 0)]),
                5 => front.post(TX, &[desc(at, len, WRITE)]),
                6 => front.post(TX, &[desc(at, 12, 0), desc(u64::MAX - 3, 100, 0)]),
                _ => front.post(TX, &[desc(at, len, 0)]),
            }
        }
        for _ in 0..400 {
            front.back(TX);
        }
        target.polled();
        assert_eq!(target.count(MALFORMED), before + 150);
        let came = target.received();
        assert!(came.len() == 250 && came.iter().all(|frame| *frame == bytes));
        passes(&mut front, target);
    });
}

/// A TCP packet over IPv4, of `payload` bytes.
fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend([0x08, 0x00, 0x45, 0x00]);
    bytes.extend(((40 + payload) as u16).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    bytes.extend(std::iter::repeat_n(7, payload));
    bytes
}

/// A header by its fields: flags, kind, header length, segment, start, offset, buffers.
fn header(flags: u8, kind: u8, fields: [u16; 5]) -> [u8; HEADER] {
    let mut bytes = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, field) in fields.into_iter().enumerate() {
        bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

#[test]
fn cve_2024_11614_checksums_and_segments_outside_of_the_packet() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, SENDS_UNFINISHED);
        let large = tcp(8000);
        for (what, bad, frame) in [
            ("a start behind the end", header(1, 0, [0, 0, 60_000, 16, 0]), tcp(10)),
            ("an offset behind the end", header(1, 0, [0, 0, 34, 60_000, 0]), tcp(10)),
            ("a sum that overflows", header(1, 0, [0, 0, 0xffff, 0xffff, 0]), tcp(10)),
            ("half a field at the end", header(1, 0, [0, 0, 63, 0, 0]), tcp(10)),
            ("a frame of a byte", header(1, 0, [0, 0, 34, 16, 0]), vec![1]),
            ("no IP", header(1, 1, [54, 1000, 34, 16, 0]), vec![7; 5000]),
            ("an unknown kind", header(1, 3, [54, 1000, 34, 16, 0]), large.clone()),
            ("a wild kind", header(1, 0x7f, [54, 1000, 34, 16, 0]), large.clone()),
            ("segments without a checksum", header(0, 1, [54, 1000, 0, 0, 0]), large.clone()),
            ("segments of nothing", header(1, 1, [54, 0, 34, 16, 0]), large.clone()),
            ("segments of UDP", header(1, 1, [54, 1000, 34, 6, 0]), large.clone()),
            ("a start within the header", header(1, 1, [54, 1000, 33, 16, 0]), large.clone()),
        ] {
            let (at, len) = front.fill(bad, &frame);
            dropped(&mut front, target, what, &[desc(at, len, 0)]);
            let (at, len) = front.fill(bad, &frame);
            dropped(&mut front, target, what, &[desc(at, 7, 0), desc(at + 7, len - 7, 0)]);
        }
        // What can be done is done, however odd; the port's packets are finished by software behind it.
        for odd in [
            header(1, 1, [0, 1, 34, 16, 0]),
            header(1, 1, [0xffff, 1000, 34, 16, 0]),
            header(1, 0x81, [54, 0xffff, 34, 16, 0xffff]),
            header(3, 1, [54, 1400, 34, 16, 0]),
        ] {
            let (at, len) = front.fill(odd, &large);
            front.post(TX, &[desc(at, len, 0)]);
            assert!(target.next() == large, "{odd:?}");
            front.back(TX);
        }
        // Lengths inside of the packet that are not its own.
        for (at, value) in
            [(14, 0x4f), (14, 0x40), (14, 0x65), (16, 0xff), (23, 17), (46, 0xf0), (46, 0), (12, 0x81)]
        {
            for flags in [0, 1, 2] {
                let mut frame = tcp(3000);
                frame[at] = value;
                let (address, len) =
                    front.fill(header(flags, u8::from(flags == 1), [54, 100, 34, 16, 0]), &frame);
                front.post(TX, &[desc(address, len, 0)]);
                front.back(TX);
            }
        }
        target.polled();
        target.received();
        passes(&mut front, target);
    });
}

#[test]
fn a_pool_that_is_as_small_as_a_burst_is_enough_for_chains() {
    let eal = eal();
    for packed in [false, true] {
        let pool = MbufPool::new(&eal, &MbufPoolConfig::new("small", 32).cache(0)).unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let port = Port::new(vhost::with_stream("net_vhost0", there, 1), "net_vhost0", 0);
        let (port, mut queues) = port.configure(&PortConfig::new(pool.clone())).unwrap().start().unwrap();
        let mut front = Front::open(Peer::over(here), packed, 0);
        let (at, len) = front.fill([0; HEADER], &frame(1, 100));
        for _ in 0..64 {
            front.post(TX, &[desc(at, 12, 0), desc(at + 12, len - 12, 0)]);
        }
        let mut burst = Burst::new(32);
        let mut got = 0;
        wait_for("all frames", || {
            got += queues.rx[0].rx_burst(&mut burst);
            burst.free();
            got == 64
        });
        drop(queues);
        drop(port.stop().unwrap());
        assert_eq!(pool.counts().in_use, 0);
    }
}
