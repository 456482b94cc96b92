//! Frames through rings, by a small driver that keeps the rules, and what is found when it does not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod pausing;
mod receiving;
mod sending;
mod troubled;

use std::sync::Arc;

use wirerate_eal::dma::{DmaMapping, map_owned};
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{PciAddress, PciFunction};
use wirerate_mempool::HeapMemory;

use super::{CableEnd, Card, Dma, Function, ModelBar, Settings, Wire, cable};

const RDBAL: usize = 0x1000;
const RDLEN: usize = 0x1008;
const RDH: usize = 0x1010;
const RDT: usize = 0x1018;
const RXDCTL: usize = 0x1028;
const SRRCTL: usize = 0x2100;
const TDBAL: usize = 0x6000;
const TDLEN: usize = 0x6008;
const TDH: usize = 0x6010;
const TDT: usize = 0x6018;
const TXDCTL: usize = 0x6028;
const ENABLE: u32 = 1 << 25;
const DATA: u32 = 3 << 20 | 1 << 29 | 1 << 25;
const EOP: u32 = 1 << 24;
const RS: u32 = 1 << 27;

/// Where things are in the memory that is mapped.
const RX_RING: u64 = 0;
const TX_RING: u64 = 0x1000;
const RX_BUFFERS: u64 = 0x1_0000;
const TX_BUFFERS: u64 = 0x3_0000;

struct Port {
    card: Arc<Card>,
    function: Function,
    bar: Arc<ModelBar>,
    mapping: DmaMapping,
}

impl Port {
    /// A card whose registers are as after a reset, with its link up, and the other end of its cable.
    fn new(seed: u64) -> (Self, CableEnd) {
        let card = Card::new(PciAddress::new(0, 3, 0, 0).unwrap(), Settings { seed, ..Settings::default() });
        let (end, other) = cable();
        card.model().set_wire(Box::new(end));
        let function = card.function();
        function.set_bus_master(true).unwrap();
        let bar = function.bar(0).unwrap();
        let mapping = map_owned(&card.memory().clone(), HeapMemory::new(1 << 20, 4096).unwrap()).unwrap();
        (0..10).for_each(|_| _ = card.model().step());
        assert!(card.model().link_is_up());
        (Self { card, function, bar, mapping }, other)
    }

    /// One with both rings of eight descriptors set up, and seven buffers of `size` KB.
    fn running(seed: u64, srrctl: u32) -> (Self, CableEnd) {
        let (port, other) = Self::new(seed);
        port.set_up_rx(srrctl);
        port.open_rx();
        port.set_up_tx();
        port.check();
        (port, other)
    }

    fn w(&self, register: usize, value: u32) {
        self.bar.write32(register, value);
    }

    fn r(&self, register: usize) -> u32 {
        self.bar.read32(register)
    }

    fn poll(&self, register: usize, bits: u32) {
        assert!((0..5).any(|_| self.r(register) & bits == bits), "{register:#x}");
    }

    fn device(&self, at: u64) -> u64 {
        self.mapping.ranges()[0].device + at
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.card.memory().write(self.device(at), bytes).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.card.memory().read(self.device(at), &mut bytes).unwrap();
        bytes
    }

    fn set_up_ring(&self, base: usize, ring: u64) {
        let address = self.device(ring);
        self.w(base, address as u32);
        self.w(base + 4, (address >> 32) as u32);
        self.w(base + 8, 8 * 16);
    }

    fn set_up_rx(&self, srrctl: u32) {
        self.set_up_ring(RDBAL, RX_RING);
        self.w(SRRCTL, srrctl);
        self.w(RXDCTL, ENABLE);
        self.poll(RXDCTL, ENABLE);
        (0..7).for_each(|at| self.fill(at));
        self.w(RDT, 7);
    }

    /// Hands a receive descriptor over, without telling.
    fn fill(&self, at: u64) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&self.device(RX_BUFFERS + at * 0x4000).to_le_bytes());
        self.put(RX_RING + at * 16, &descriptor);
    }

    fn open_rx(&self) {
        self.w(0x5080, 0x700);
        self.w(0x2f00, 0x0010_000a);
        self.w(0x8d00, 2);
        self.poll(0x8d04, 1);
        self.w(0x3000, 1);
        self.w(0x8d00, 0);
    }

    fn set_up_tx(&self) {
        let control = self.r(0x4a80);
        self.w(0x4a80, control | 1);
        self.set_up_ring(TDBAL, TX_RING);
        self.w(TXDCTL, ENABLE);
        self.poll(TXDCTL, ENABLE);
    }

    fn describe(&self, at: u64, address: u64, command: u32, last: u32) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&command.to_le_bytes());
        descriptor[12..].copy_from_slice(&last.to_le_bytes());
        self.put(TX_RING + at * 16, &descriptor);
    }

    /// Sends a frame in parts, from descriptor `at` on.
    fn send(&self, at: u64, parts: &[&[u8]]) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut place = at;
        for (index, part) in parts.iter().enumerate() {
            let buffer = TX_BUFFERS + place * 0x4000;
            self.put(buffer, part);
            let end = if index + 1 == parts.len() { EOP | RS } else { 0 };
            self.describe(place, self.device(buffer), DATA | end | part.len() as u32, (total as u32) << 14);
            place = (place + 1) % 8;
        }
        self.w(TDT, place as u32);
    }

    fn work(&self) {
        (0..100).for_each(|_| _ = self.card.model().step());
    }

    fn told(&self) -> Vec<String> {
        self.card.model().faults().list().iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn check(&self) {
        assert!(self.told().is_empty(), "{:?}", self.told());
    }

    /// The one fault that there is.
    #[track_caller]
    fn only(&self, register: &str, words: &str) {
        let told = self.told();
        assert!(
            told.len() == 1 && told[0].starts_with(register) && told[0].contains(words),
            "expected {register} {words:?}, found {told:?}"
        );
    }
}

const ADVANCED: u32 = 1 << 25 | 2;

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| if at < 6 { 2 } else { (at as u8).wrapping_mul(31) ^ seed }).collect()
}

#[test]
fn two_ports_exchange_frames() {
    for seed in 0..30 {
        let ((one, _), (other, _)) = (Port::running(seed, ADVANCED), Port::running(seed + 100, ADVANCED));
        let (left, right) = cable();
        one.card.model().set_wire(Box::new(left));
        other.card.model().set_wire(Box::new(right));
        let events = other.function.enable_msix(2).unwrap();
        other.w(0x898, 1 << 4);
        other.w(0x900, 0x0000_0081);
        other.w(0x810, 2);
        other.w(0x880, 2);
        for round in 0..20u64 {
            let frame = frame(60 + 70 * round as usize, round as u8);
            let at = round % 8;
            one.send(at, &[&frame]);
            for _ in 0..40 {
                one.card.model().step();
                other.card.model().step();
            }
            assert_eq!(one.get(TX_RING + at * 16 + 12, 1), [1]);
            assert_eq!(one.r(TDH), (at as u32 + 1) % 8);
            let done = other.get(RX_RING + at * 16, 16);
            let len = frame.len() as u16;
            assert_eq!((done[8], u16::from_le_bytes([done[12], done[13]])), (0b11, len), "seed {seed}");
            assert_eq!(other.get(RX_BUFFERS + at * 0x4000, frame.len()), frame);
            assert_eq!(other.r(RDH), (at as u32 + 1) % 8);
            let mut count = [0; 8];
            rustix::io::read(&events[1], &mut count).unwrap();
            assert_eq!(u64::from_le_bytes(count), 1);
            // The one that was the driver's until now.
            other.fill((at + 7) % 8);
            other.w(RDT, at as u32);
        }
        assert_eq!((one.r(0x4080), other.r(0x4074), other.r(0x1030)), (20, 20, 20));
        assert_eq!((one.r(0x4090), other.r(0x4088)), (20 * 64 + 70 * 190, 20 * 64 + 70 * 190));
        one.check();
        other.check();
    }
}

#[test]
fn frames_are_gathered_and_scattered() {
    for seed in 0..20 {
        let (port, mut far) = Port::running(seed, 1 << 25 | 1);
        let long = frame(1514, 3);
        for at in 0..6 {
            port.send(at, &[&frame(60, at as u8)]);
            port.work();
            assert_eq!(far.receive().unwrap(), frame(60, at as u8));
        }
        // Round the ring's end.
        port.put(TX_RING, &[0; 16]);
        port.send(6, &[&long[..14], &long[14..600], &long[600..]]);
        port.work();
        assert_eq!(far.receive().unwrap(), long);
        let done = |at: u64| port.get(TX_RING + at * 16 + 12, 1)[0] & 1;
        assert_eq!((done(6), done(7), done(0), port.r(TDH)), (0, 0, 1, 1));
        far.send(long.clone());
        port.work();
        let status = |at: u64| (port.get(RX_RING + at * 16 + 8, 1)[0], port.get(RX_RING + at * 16 + 12, 2));
        assert_eq!(status(0), (0b01, vec![0, 4]));
        assert_eq!(status(1), (0b11, (1514u16 - 1024).to_le_bytes().to_vec()));
        assert_eq!(port.get(RX_BUFFERS + 0x4000, 490), long[1024..]);
        port.check();
    }
}

#[test]
fn legacy_descriptors_and_the_head_in_memory() {
    let (port, mut far) = Port::new(1);
    port.set_up_rx(2);
    port.open_rx();
    let place = port.device(0x2000);
    port.w(0x6038, place as u32 | 1);
    port.w(0x603c, (place >> 32) as u32);
    port.set_up_tx();
    port.put(TX_BUFFERS, &frame(20, 1));
    port.describe(0, port.device(TX_BUFFERS), EOP | RS | 1 << 25 | 20, 0);
    port.w(TDT, 1);
    port.work();
    let mut padded = frame(20, 1);
    padded.resize(60, 0);
    assert_eq!(far.receive().unwrap(), padded);
    assert_eq!((port.get(0x2000, 4), port.get(TX_RING + 12, 1)), (vec![1, 0, 0, 0], vec![0]));
    far.send(frame(100, 2));
    port.work();
    let done = port.get(RX_RING, 16);
    assert_eq!(done[..8], port.device(RX_BUFFERS).to_le_bytes());
    assert_eq!(done[8..], [100, 0, 0, 0, 0b11, 0, 0, 0]);
    port.check();
}

#[test]
fn what_has_no_room_is_dropped_or_waits() {
    for drop in [0, 1 << 28] {
        let (port, mut far) = Port::running(5, ADVANCED | drop);
        port.w(0x3c00, 1 << 10);
        (0..30).for_each(|at| far.send(frame(100, at)));
        port.work();
        port.fill(7);
        port.w(RDT, 0);
        port.work();
        let (dropped, missed) = (port.r(0x1430), port.r(0x3fa0));
        if drop == 0 {
            assert_eq!((dropped, port.r(0x1030)), (0, 8));
            assert!(missed > 10);
        } else {
            assert!(dropped > 0);
            assert_eq!(port.r(0x1030), 7, "the eighth came after all had gone");
        }
        port.check();
    }
}

#[test]
fn only_frames_for_the_port_are_taken() {
    let (port, mut far) = Port::running(2, ADVANCED);
    port.w(0x5080, 0);
    let mut arrives = |to: [u8; 6]| {
        let mut frame = frame(60, 1);
        frame[..6].copy_from_slice(&to);
        far.send(frame);
        port.work();
        port.r(0x1030) == 1
    };
    assert!(arrives([0x90, 0xe2, 0xba, 0x12, 0x34, 0x56]));
    assert!(!arrives([0x90, 0xe2, 0xba, 0x12, 0x34, 0x57]));
    assert!(!arrives([0xff; 6]) && !arrives([1, 0, 0x5e, 0, 0, 0xfb]));
    // 12 bits of the address, from bit 36: 0xfb0.
    port.w(0x5200 + 4 * (0xfb0 >> 5), 1 << (0xfb0 & 0x1f));
    assert!(!arrives([1, 0, 0x5e, 0, 0, 0xfb]));
    port.w(0x5090, 4);
    assert!(arrives([1, 0, 0x5e, 0, 0, 0xfb]) && !arrives([1, 0, 0x5e, 0, 0, 0xfc]));
    for (bits, to) in [(0x100, [1, 0, 0x5e, 0, 0, 0xfc]), (0x200, [4; 6]), (0x400, [0xff; 6])] {
        port.w(0x5080, bits);
        assert!(arrives(to), "{bits:#x}");
    }
    port.check();
}

#[test]
fn frames_of_a_wrong_length_are_counted() {
    let (port, mut far) = Port::running(2, 1 << 25 | 16);
    for len in [59, 1515, 1514] {
        far.send(frame(len, 1));
    }
    port.work();
    assert_eq!((port.r(0x40a4), port.r(0x40ac), port.r(0x4074)), (1, 1, 1));
    port.w(0x4268, 9018 << 16);
    let hlreg0 = port.r(0x4240);
    port.w(0x4240, hlreg0 | 4);
    far.send(frame(9014, 1));
    far.send(frame(9015, 1));
    port.work();
    assert_eq!((port.r(0x40ac), port.r(0x4074)), (1, 1));
    port.check();
}

#[test]
fn the_checksum_stays_when_it_is_not_stripped() {
    let (port, mut far) = Port::new(1);
    port.w(0x4240, port.r(0x4240) & !2);
    port.set_up_rx(ADVANCED);
    port.w(0x8d00, 2);
    port.w(0x5080, 0x700);
    port.w(0x3000, 1);
    port.w(0x8d00, 0);
    let mut bytes = [0; 60];
    bytes[..9].copy_from_slice(b"123456789");
    far.send(bytes.to_vec());
    port.work();
    assert_eq!(port.get(RX_BUFFERS + 60, 4), super::packet::crc(super::packet::CRC32, &bytes).to_le_bytes());
    port.check();
}

#[test]
fn what_is_looped_back_stays_inside() {
    let (port, mut far) = Port::running(9, ADVANCED);
    let hlreg0 = port.r(0x4240);
    port.w(0x4240, hlreg0 | 1 << 15);
    far.send(frame(60, 1));
    let mut own = frame(64, 2);
    own[..6].copy_from_slice(&[0xff; 6]);
    port.send(0, &[&own]);
    port.work();
    assert_eq!(port.get(RX_BUFFERS, 64), own);
    assert_eq!((far.receive(), port.r(RDH)), (None, 1));
    port.w(0x4240, hlreg0);
    port.send(1, &[&own]);
    port.work();
    assert_eq!((far.receive(), port.r(RDH)), (Some(own), 1));
    port.check();
}

/// The register and words of the fault, and what makes it.
type Broken = (&'static str, &'static str, fn(&Port));

#[test]
fn steps_out_of_order_are_faults() {
    let broken: [Broken; 15] = [
        ("TXDCTL[0]", "DMATXCTL.TE", |port| {
            port.set_up_ring(TDBAL, TX_RING);
            port.w(TXDCTL, ENABLE);
        }),
        ("RXDCTL[0]", "no length", |port| port.w(RXDCTL, ENABLE)),
        ("RDLEN[0]", "reserved bits 0x10", |port| port.w(RDLEN, 8 * 16 + 16)),
        ("TDBAL[0]", "reserved bits 0x40", |port| port.w(TDBAL, 0x40)),
        ("RDT[0]", "before the queue is enabled", |port| port.w(RDT, 1)),
        ("TDT[0]", "before the queue is enabled", |port| port.w(TDT, 1)),
        ("RDT[0]", "past the ring's end", |port| {
            port.set_up_rx(ADVANCED);
            port.w(RDT, 8);
        }),
        ("RDT[0]", "overtakes the head", |port| {
            port.set_up_rx(ADVANCED);
            port.w(RDT, 0);
        }),
        ("RDH[0]", "while the queue is enabled", |port| {
            port.set_up_rx(ADVANCED);
            // Where it is already it may stay.
            port.w(RDH, 0);
            port.w(RDH, 1);
        }),
        ("TDLEN[0]", "while the queue is enabled", |port| {
            port.set_up_tx();
            port.w(TDLEN, 256);
        }),
        ("SRRCTL[0]", "while the queue is enabled", |port| {
            port.set_up_rx(ADVANCED);
            // Drop_En may change, and the size may not.
            port.w(SRRCTL, ADVANCED | 1 << 28);
            port.w(SRRCTL, ADVANCED | 1 << 28 | 1);
        }),
        ("RXCTRL", "RX_DIS", |port| port.w(0x3000, 1)),
        ("RXCTRL", "CRCStrip", |port| {
            port.w(0x8d00, 2);
            port.w(0x3000, 1);
        }),
        ("MTQC", "ARBDIS", |port| port.w(0x8120, 4)),
        ("RXDCTL[0]", "BSIZEPACKET", |port| {
            port.set_up_ring(RDBAL, RX_RING);
            port.w(SRRCTL, 1 << 25);
            port.w(RXDCTL, ENABLE);
        }),
    ];
    for (register, words, wrong) in broken {
        let (port, _far) = Port::new(3);
        wrong(&port);
        port.only(register, words);
    }
    // Some seeds show the new value at once.
    let early = (0..20).filter(|seed| {
        let (port, _far) = Port::new(*seed);
        port.set_up_ring(RDBAL, RX_RING);
        port.w(SRRCTL, ADVANCED);
        port.w(RXDCTL, ENABLE);
        port.w(RDT, 1);
        !port.told().is_empty()
    });
    assert!((5..20).contains(&early.count()));
}

#[test]
fn descriptors_that_are_wrong_stop_their_queue() {
    let good = DATA | EOP | RS | 60;
    let cases: [(&str, u32, u32); 8] = [
        ("DTYP", good & !(3 << 20), 60 << 14),
        ("no data", good & !60, 0),
        ("PAYLEN", good, 61 << 14),
        ("IFCS", good & !(1 << 25), 60 << 14),
        ("RS is set before", good & !EOP, 60 << 14),
        ("not set up", good | 1 << 31, 60 << 14),
        ("not set up", good, 60 << 14 | 1 << 8),
        ("context", good & !(1 << 20), 0),
    ];
    for (words, command, last) in cases {
        let (port, mut far) = Port::running(1, ADVANCED);
        port.describe(0, port.device(TX_BUFFERS), command, last);
        port.describe(1, port.device(TX_BUFFERS), good, 60 << 14);
        port.w(TDT, 2);
        port.work();
        port.only("TDT[0]", words);
        assert!(far.receive().is_none(), "{words}");
    }
}

#[test]
fn memory_that_is_not_mapped_is_not_reached() {
    let good = DATA | EOP | RS | 60;
    let (port, mut far) = Port::running(1, ADVANCED);
    port.describe(0, port.mapping.ranges()[0].base as u64, good, 60 << 14);
    port.w(TDT, 1);
    port.work();
    port.only("TDT[0]", "not mapped");
    assert!(far.receive().is_none());

    let (port, mut far) = Port::running(1, ADVANCED);
    port.put(RX_RING, &[0; 16]);
    far.send(frame(60, 1));
    far.send(frame(60, 2));
    port.work();
    port.only("RDT[0] 0x0", "not mapped");
    assert_eq!(port.r(RDH), 0);

    let (port, mut far) = Port::running(1, ADVANCED);
    port.function.set_bus_master(false).unwrap();
    far.send(frame(60, 1));
    port.work();
    port.only("RDBAL[0]", "no bus master");
}
