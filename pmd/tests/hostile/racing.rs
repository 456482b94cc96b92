//! Drivers that change what they have made available while the port looks at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::from_driver::{RECEIVE, against_a_port, session};
use crate::peer::{Memory, wait_for};
use crate::rings::*;

/// Pseudo-random numbers (xorshift), so that each run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// An address that is good, at an edge, or anywhere.
fn address(random: &mut Random) -> u64 {
    let value = random.next();
    match value % 8 {
        0 => GUEST + (value >> 8) % LEN as u64,
        1 => GUEST + LEN as u64 - (value >> 8) % 64,
        2 => GUEST + BORDER as u64 - (value >> 8) % 64,
        3 => value,
        4 => u64::MAX - (value >> 8) % 64,
        5 => GUEST + TABLES as u64 + 16 * ((value >> 8) % 64),
        _ => GUEST + BUFFERS as u64 + (value >> 8) % 4096,
    }
}

/// Changes one word of one descriptor.
fn flip(memory: &Memory, packed: bool, random: &mut Random) {
    let value = random.next();
    let place = match value % 3 {
        0 => descriptors_of(RX) + 16 * (value as usize >> 8) % (16 * usize::from(SIZE)),
        1 => descriptors_of(TX) + 16 * (value as usize >> 8) % (16 * usize::from(SIZE)),
        _ => TABLES + 16 * ((value as usize >> 8) % 64),
    } & !15;
    if value & 1 << 40 == 0 {
        memory.put_u64(place, address(random));
        return;
    }
    let len = [0, 1, 11, 12, 60, 1514, 4096, u32::MAX][(value >> 41) as usize % 8];
    let mut flags = (value >> 44) as u16 & (NEXT | WRITE | INDIRECT) & (value >> 47) as u16;
    let other = (value >> 50) as u16 % (SIZE + 2);
    let word = if packed {
        flags |= if value & 1 << 62 == 0 { AVAIL } else { USED };
        desc(0, len, flags).packed(other)[1]
    } else {
        desc(0, len, flags).then(other).split()[1]
    };
    memory.put_u64(place + 8, word);
}

#[test]
fn descriptors_that_change_between_look_and_use() {
    against_a_port(|_, target, packed| {
        let begun = Instant::now();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let before = target.received_in_all();
        while begun.elapsed() < Duration::from_millis(1200) {
            let mut front = session(target, packed, MERGEABLE | SENDS_UNFINISHED);
            let end = Arc::<AtomicBool>::default();
            let (memory, told) = (Arc::clone(&front.memory), Arc::clone(&end));
            let mut seeded = Random(random.next());
            let flipper = std::thread::spawn(move || {
                let mut random = Random(seeded.next());
                while !told.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        flip(&memory, packed, &mut random);
                    }
                }
            });
            target.flood(true);
            let mut index = 1u16;
            let session = Instant::now();
            while session.elapsed() < Duration::from_millis(200) && target.port().link().up {
                let at = GUEST + BUFFERS as u64;
                if packed {
                    for ring in [RX, TX] {
                        front.post(ring, &[desc(at, 1514, WRITE * (ring == RX) as u16)]);
                        let _ = front.take(ring);
                    }
                } else {
                    // As far ahead as may be of what came back; heads are anything that the ring has.
                    for ring in [RX, TX] {
                        let used = front.memory.get_u16(device_area_of(ring) + 2);
                        index = index.wrapping_add(1);
                        let entry = driver_area_of(ring) + 4 + 2 * usize::from(index % SIZE);
                        front.memory.put_u16(entry, random.next() as u16 % SIZE);
                        front.memory.put_u16(driver_area_of(ring) + 2, used.wrapping_add(SIZE / 2));
                    }
                }
            }
            end.store(true, Ordering::Relaxed);
            flipper.join().unwrap();
            target.flood(false);
            drop(front);
            wait_for("the end of the session", || !target.port().link().up);
        }
        assert!(target.received_in_all() > before);
    });
}

#[test]
fn cve_2020_14378_buffers_that_are_bad_and_filled_up_without_end_do_not_keep_a_queue() {
    against_a_port(|_, target, packed| {
        for bad in [desc(GUEST + RECEIVE as u64, 2048, 0), desc(0, 2048, WRITE), desc(GUEST, 0, WRITE)] {
            let front = session(target, packed, MERGEABLE);
            for place in 0..SIZE {
                let word = if packed { bad.packed(place) } else { bad.split() };
                front.write(RX, place, word);
            }
            let end = Arc::<AtomicBool>::default();
            let (memory, told) = (Arc::clone(&front.memory), Arc::clone(&end));
            // What comes back is available again at once.
            let filler = std::thread::spawn(move || {
                let mut place = 1u16;
                let mut turn = true;
                while !told.load(Ordering::Relaxed) {
                    if packed {
                        let flags = bad.flags | if turn { AVAIL } else { USED };
                        let word = desc(bad.address, bad.len, flags).packed(place)[1];
                        let offset = descriptors_of(RX) + 16 * usize::from(place);
                        let used = if turn { 0 } else { AVAIL | USED };
                        // Whatever is there, but what we made available ourselves.
                        let there = (memory.get_u64(offset + 8) >> 48) as u16 & (AVAIL | USED);
                        if there == used || there == 0 {
                            memory.put_u64(offset, bad.address);
                            memory.put_u64(offset + 8, word);
                            place += 1;
                            if place == SIZE {
                                (place, turn) = (0, !turn);
                            }
                        }
                    } else {
                        let used = memory.get_u16(device_area_of(RX) + 2);
                        memory.put_u16(driver_area_of(RX) + 2, used.wrapping_add(SIZE));
                    }
                }
            });
            target.flood(true);
            for _ in 0..20 {
                target.polled();
            }
            target.flood(false);
            end.store(true, Ordering::Relaxed);
            filler.join().unwrap();
            drop(front);
            wait_for("the end of the session", || !target.port().link().up);
        }
        assert!(target.count("tx_q0_drop_tx_refused") > 0);
    });
}
