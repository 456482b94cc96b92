//! Whatever a driver writes and the wire brings, the model neither panics nor goes on for ever: each access and each step
//! ends, and what is wrong is a fault.

use super::super::registers::TABLE;
use super::super::traffic::{Flows, TCP4, frame as packet};
use super::super::{Random, Troubles};
use super::*;

const SEEDS: u64 = 300;

/// A value for a register: what is there with some bits changed, a few bits, an address, or anything.
fn value(random: &mut Random, was: u32, address: u32) -> u32 {
    match random.below(6) {
        0 => was ^ 1 << random.below(32),
        1 => was | 1 << random.below(32) | 1 << random.below(32),
        2 => address,
        3 => random.below(300) as u32,
        4 => 0,
        _ => random.bits() as u32,
    }
}

/// Where a packet that is right lies now and then.
const PACKET: u64 = 0x8000;

/// A descriptor: a plain one, one that asks for something, a context that is right or not, or anything.
fn descriptor(random: &mut Random, address: u64) -> [u8; 16] {
    let len = random.below(3000) as u64;
    let whole = u64::from(DATA | EOP | RS);
    let payload = if random.below(4) == 0 { len } else { 50 };
    let (low, high) = match random.below(8) {
        0 => (random.bits(), random.bits()),
        1 => (random.bits() & 0xffff_ffff, 2 << 20 | 1 << 29 | random.bits() & 0xffff_ff10_0000_1e00),
        2 => (14 << 9 | 20, 2 << 20 | 1 << 29 | 0b0110 << 9 | 20 << 40 | (random.below(40) as u64) << 48),
        3 => (address + PACKET, 1 << 25 | 1 << 24 | random.bits() & 0xffff_ff00_4cff_0000 | len),
        // Segments, checksums, a tag.
        4 => (
            address + PACKET,
            whole | u64::from(TSE) | 3 << 40 | random.bits() & 1 << 30 | 104 | payload << 46,
        ),
        5 => (address + PACKET, whole | random.bits() & 0x390_4000_0000 | 104 | 104 << 46),
        6 => (
            address + random.below(0x1_0000) as u64,
            u64::from(DATA) | random.bits() & 9 << 24 | len | len << 46,
        ),
        _ => (address + random.below(0x1_0000) as u64, whole | len.max(20) | len.max(20) << 46),
    };
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

const TSE: u32 = 1 << 31;

/// Sets both directions up, as far as nothing has been spoilt.
fn set_up(port: &Port, random: &mut Random) {
    let queue = random.below(4);
    let (rx, tx) = (0x40 * queue, 0x40 * queue);
    let sizes = [1, 2, 4, 16, 1 << 25 | 1, 1 << 25 | 2, 1 << 28 | 1 << 25 | 1];
    port.w(RXDCTL + rx, 0);
    port.w(TXDCTL + tx, 0);
    port.set_up_ring(RDBAL + rx, 0x100 * queue as u64);
    port.w(RDH + rx, 0);
    port.w(RDT + rx, 0);
    port.w(0x1014 + rx, sizes[random.below(sizes.len())]);
    port.w(RXDCTL + rx, ENABLE | (random.bits() as u32 & 1 << 30));
    port.w(0x4a80, 0x8100_0001);
    port.set_up_ring(TDBAL + tx, 0x1000 + 0x100 * queue as u64);
    port.w(TDH + tx, 0);
    port.w(TDT + tx, 0);
    port.w(TXDCTL + tx, ENABLE | (random.below(4) << 16) as u32);
    (0..5).for_each(|_| _ = (port.r(RXDCTL + rx), port.r(TXDCTL + tx)));
    port.open_rx_quietly();
}

impl Port {
    fn open_rx_quietly(&self) {
        for (register, value) in
            [(0x5080, 0x702), (0x2f00, 0x0010_000a), (0x8d00, 2), (0x3000, 1), (0x8d00, 0), (0x8800, 0)]
        {
            self.w(register, value);
        }
    }
}

#[test]
fn nothing_that_a_driver_does_stops_the_model() {
    let (mut received, mut sent, mut faults) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let (port, mut far) = Port::new(seed);
        let mut flows = Flows::new(seed, 9);
        let device = port.device(0);
        for _ in 0..300 {
            match random.below(12) {
                0 => set_up(&port, &mut random),
                1 if seed % 2 == 0 => {
                    let register = &TABLE[random.below(TABLE.len())];
                    let place = random.below(register.count as usize) as u32;
                    let offset = (register.offset + place * register.stride) as usize;
                    // A link that is down, or a device that was reset, ends what there is to see.
                    if !matches!(
                        register.name,
                        "AUTOC" | "AUTOC2" | "ESDP" | "CTRL" | "SECTXCTRL" | "SECRXCTRL"
                    ) {
                        let value = value(&mut random, port.r(offset), device as u32);
                        port.w(offset, value);
                    }
                }
                2 => _ = port.r(random.below(0x2_0000)),
                3..=5 => {
                    let ring = 0x100 * random.below(4) as u64 + if random.below(2) == 0 { 0 } else { 0x1000 };
                    let fill = if ring < 0x1000 {
                        u128::from(device + 0x8000 + random.below(0x4000) as u64).to_le_bytes()
                    } else {
                        descriptor(&mut random, device)
                    };
                    port.put(ring + 16 * random.below(8) as u64, &fill);
                }
                6 => {
                    let queue = random.below(4);
                    let base = if random.below(2) == 0 { RDT } else { TDT };
                    port.w(base + 0x40 * queue, random.below(9) as u32);
                }
                7 => {
                    let mut bytes = vec![0; random.below(500)];
                    random.fill(&mut bytes);
                    port.put(PACKET, &packet(TCP4));
                    port.put(0x2000 + random.below(0x8000) as u64, &bytes);
                }
                8 => {
                    let mut frame = flows.next().unwrap();
                    (0..random.below(3)).for_each(|_| {
                        let at = random.below(frame.len());
                        frame[at] = random.bits() as u8;
                    });
                    frame.truncate(random.below(4 * frame.len()));
                    far.send(frame);
                }
                9 => {
                    let mut noise = vec![0; random.below(2000)];
                    random.fill(&mut noise);
                    far.send(noise);
                }
                10 if random.below(10) == 0 => port.card.model().set_troubles(Troubles {
                    late: random.below(10) as u32,
                    withheld: random.below(300) as u16,
                    flaps: random.below(10) as u16,
                    damaged: random.below(300) as u16,
                    spoilt: random.below(300) as u16,
                    spurious: random.below(300) as u16,
                    ..Troubles::default()
                }),
                _ => (0..10).for_each(|_| _ = port.card.model().step()),
            }
        }
        received += port.r(0x4074);
        sent += port.r(0x4080);
        faults += port.told().len();
    }
    // It was not all refused.
    assert!(received > 500 && sent > 150 && faults > 1000, "{received} {sent} {faults}");
}
