//! A driver whose receive buffers are not what they should be, and one whose rings are none.

use std::time::Duration;

use crate::from_driver::{RECEIVE, against_a_port, nowhere, passes, session};
use crate::peer::{code, halves, wait_for};
use crate::rings::*;
use crate::target::{Target, frame};

const REFUSED: &str = "tx_q0_drop_tx_refused";
const TOO_LONG: &str = "tx_q0_drop_tx_too_long";
const BROKEN: &str = "vhost_broken_rings";

/// A frame that is sent into these chains is lost and counted, the chains come back empty, and the next frames pass.
fn lost(front: &mut Front, target: &Target, what: &str, chains: &[&[Desc]]) {
    let before = target.count(REFUSED);
    chains.iter().for_each(|chain| front.post(RX, chain));
    target.send(&frame(1, 100));
    for chain in chains {
        assert_eq!(front.back(RX), 0, "{what}: {chain:x?}");
    }
    target.polled();
    assert_eq!(target.count(REFUSED), before + 1, "{what}: {chains:x?}");
    passes(front, target);
}

#[test]
fn cve_2018_1059_nothing_is_written_outside_of_the_memory() {
    against_a_port(|_, target, packed| {
        for features in [0, MERGEABLE] {
            let mut front = session(target, packed, features);
            let at = GUEST + RECEIVE as u64;
            for (address, len) in nowhere() {
                if len != u32::MAX {
                    lost(&mut front, target, "a buffer", &[&[desc(address, len, WRITE)]]);
                    lost(
                        &mut front,
                        target,
                        "its second part",
                        &[&[desc(at, 12, WRITE), desc(address, len, WRITE)]],
                    );
                    let table = front.table(TABLES, &[desc(address, len, WRITE)]);
                    lost(&mut front, target, "a buffer in a table", &[&[table]]);
                }
                lost(&mut front, target, "a table", &[&[desc(address, 16 * (len / 16), INDIRECT)]]);
            }
            lost(&mut front, target, "a buffer to be read", &[&[desc(at, 2048, 0)]]);
            lost(&mut front, target, "a part to be read", &[&[desc(at, 12, WRITE), desc(at, 2048, 0)]]);
            lost(&mut front, target, "a buffer of nothing", &[&[desc(at, 0, WRITE)]]);
            lost(&mut front, target, "parts of nothing", &[&[desc(at, 0, WRITE); 100]]);
            lost(&mut front, target, "a long chain", &[&[desc(at, 1, WRITE); 300]]);
            if features == MERGEABLE {
                let good = desc(at, 50, WRITE);
                lost(&mut front, target, "one of two", &[&[good], &[desc(0, 100, WRITE)]]);
                lost(&mut front, target, "the last of three", &[&[good], &[good], &[desc(at, 100, 0)]]);
            }
            if !packed {
                let first = front.next_descriptor(RX);
                lost(&mut front, target, "a loop", &[&[desc(at, 1, WRITE | NEXT).then(first)]]);
                lost(&mut front, target, "a loop of nothing", &[&[desc(at, 0, WRITE | NEXT).then(first)]]);
                lost(&mut front, target, "out of the ring", &[&[desc(at, 1, WRITE | NEXT).then(SIZE)]]);
            }
        }
    });
}

#[test]
fn odd_buffers_that_can_be_written_are() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, MERGEABLE);
        let at = GUEST + RECEIVE as u64;
        let bytes = frame(4, 1000);
        let mut write = |what: &str, place: usize, chains: &[&[Desc]]| {
            front.memory.put(place, &[0xee; 1100]);
            chains.iter().for_each(|chain| front.post(RX, chain));
            target.send(&bytes);
            let lens: Vec<u32> = chains.iter().map(|_| front.back(RX)).collect();
            assert_eq!(lens.iter().sum::<u32>(), 1012, "{what}: {lens:?}");
            let written = front.memory.get(place, 1012);
            assert_eq!(usize::from(written[10]), chains.len(), "{what}");
            assert!(written[HEADER..] == bytes, "{what}");
            assert!(front.memory.get(place + 1012, 88) == [0xee; 88], "{what}: bytes behind it were written");
        };
        write("4 GiB from here", RECEIVE, &[&[desc(at, u32::MAX, WRITE)]]);
        let pieces =
            [desc(at, 5, WRITE), desc(at + 5, 0, WRITE), desc(at + 5, 7, WRITE), desc(at + 12, 2000, WRITE)];
        write("a header in pieces", RECEIVE, &[&pieces]);
        let border = GUEST + BORDER as u64;
        for before in [1u64, 11, 12, 13, 500] {
            let whole = [desc(border - before, 1012, WRITE)];
            write("across regions", BORDER - before as usize, &[&whole]);
        }
        let thirds: Vec<Vec<Desc>> = (0..3).map(|third| vec![desc(at + third * 340, 340, WRITE)]).collect();
        write("three buffers", RECEIVE, &thirds.iter().map(Vec::as_slice).collect::<Vec<_>>());
        passes(&mut front, target);
    });
}

#[test]
fn frames_that_fit_no_buffer_are_counted_and_the_next_pass() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let at = GUEST + RECEIVE as u64;
        let before = target.count(TOO_LONG);
        front.post(RX, &[desc(at, 80, WRITE)]);
        target.send(&frame(1, 100));
        wait_for("the drop", || target.count(TOO_LONG) == before + 1);
        // What fits has the buffer that the other left.
        target.send(&frame(2, 68));
        assert_eq!(front.back(RX), 80);
        passes(&mut front, target);
        drop(front);

        let mut front = session(target, packed, MERGEABLE);
        // The port takes no more buffers for a packet than it has any use for.
        for _ in 0..200 {
            front.post(RX, &[desc(at, 1, WRITE)]);
        }
        target.send(&frame(1, 300));
        wait_for("the drop", || target.count(TOO_LONG) == before + 2);
        target.send(&frame(1, 60));
        let written: u32 = (0..72).map(|_| front.back(RX)).sum();
        assert_eq!(written, 72);
        drop(front);
        // The ring is full of chains that are too small in all: nothing more can come, so nothing is waited for.
        let mut front = session(target, packed, MERGEABLE);
        for _ in 0..SIZE / 8 {
            front.post(RX, &[desc(at, 2, WRITE); 8]);
        }
        target.send(&frame(1, 3000));
        wait_for("the drop", || target.count(TOO_LONG) == before + 3);
        assert!(target.port().link().up);
    });
}

#[test]
fn rings_whose_indices_and_identifiers_cannot_be_rest_until_they_are_set_up_anew() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let mut broken = target.count(BROKEN);
        for ring in [TX, RX] {
            for attack in 0..4u16 {
                let here = front.next_descriptor(ring);
                let at = GUEST + RECEIVE as u64;
                match (packed, attack) {
                    (false, 0) => front.memory.put_u16(driver_area_of(ring) + 2, here + SIZE + 1),
                    (false, 1) => front.memory.put_u16(driver_area_of(ring) + 2, here.wrapping_sub(1)),
                    (false, 2) => front.memory.put_u16(driver_area_of(ring) + 2, here + 0x8000),
                    (false, _) => {
                        let entry = driver_area_of(ring) + 4 + 2 * usize::from(here % SIZE);
                        front.memory.put_u16(entry, SIZE);
                        front.memory.put_u16(driver_area_of(ring) + 2, here + 1);
                    }
                    (true, 0..=2) => {
                        let id = [SIZE, 0x8000, u16::MAX][usize::from(attack)];
                        front.write(ring, here, desc(at, 200, AVAIL | WRITE).packed(id));
                    }
                    (true, _) => {
                        // The one that the port looks at comes last, or it would see the chain before it is whole.
                        for ahead in (0..SIZE).rev() {
                            let place = (here + ahead) % SIZE;
                            front.write(ring, place, desc(at, 1, AVAIL | WRITE | NEXT).packed(0));
                        }
                    }
                }
                // A ring to send by is only looked at when there is something to send.
                target.send(&frame(1, 60));
                broken += 1;
                wait_for(&format!("ring {ring} to be found broken by attack {attack}"), || {
                    target.count(BROKEN) == broken
                });
                assert!(!target.port().link().up);
                let other = TX - ring;
                let base = front.stop(ring);
                assert!(if packed { (base & 0x7fff) < SIZE.into() } else { base <= 0xffff }, "{base:#x}");
                front.start(ring);
                wait_for("the link", || target.port().link().up);
                front.stop(other);
                front.start(other);
                wait_for("what waits to be sent or dropped", || {
                    front.post(RX, &[desc(at, 2048, WRITE)]);
                    target.polled();
                    front.take(RX).is_none()
                });
                front.stop(RX);
                front.start(RX);
                target.received();
                passes(&mut front, target);
            }
        }
        // Nothing is available in a packed ring whose turn is wrong, and the ring waits.
        if packed {
            let here = front.next_descriptor(TX);
            for flags in [USED, AVAIL | USED, 0] {
                front.write(TX, here, desc(GUEST + BUFFERS as u64, 200, flags).packed(here));
                target.polled();
                assert!(target.received().is_empty());
            }
            assert_eq!(target.count(BROKEN), broken);
            passes(&mut front, target);
        }
    });
}

#[test]
fn identifiers_that_come_twice_and_chains_of_all_descriptors_are_the_drivers_own_loss() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let bytes = frame(1, 100);
        let (at, len) = front.fill([0; HEADER], &bytes);
        if packed {
            let here = front.next_descriptor(TX);
            for place in [here + 1, here] {
                front.write(TX, place, desc(at, len, AVAIL).packed(5));
            }
        } else {
            let entry = driver_area_of(TX) + 4;
            let here = front.next_descriptor(TX);
            front.write(TX, 5, desc(at, len, 0).split());
            for place in [here, here + 1] {
                front.memory.put_u16(entry + 2 * usize::from(place), 5);
            }
            front.memory.put_u16(driver_area_of(TX) + 2, here + 2);
        }
        wait_for("both", || {
            target.received_in_all() > 0 && {
                target.polled();
                true
            }
        });
        assert!(target.received().iter().all(|frame| *frame == bytes));
        front.stop(TX);
        front.start(TX);
        let whole = [desc(at, 1, 0); SIZE as usize];
        front.post(TX, &whole);
        front.back(TX);
        passes(&mut front, target);
    });
}

#[test]
fn rings_over_each_other_and_over_buffers_harm_their_driver_alone() {
    against_a_port(|_, target, packed| {
        let ring = USER + descriptors_of(RX) as u64;
        for (descriptors, driver, device) in
            [(ring, ring, ring), (ring, ring + 16, ring + 4), (ring, ring + 0x1000, ring + 0x1000)]
        {
            let front = session(target, packed, MERGEABLE);
            for index in [RX, TX] {
                front.stop(index);
                let places = addresses(index, descriptors, driver, device);
                let peer = &front.peer;
                assert_eq!(peer.done(code::SET_VRING_ADDR, &places, &[]), Some(true));
                // Where it stopped, it may not go on: that was another ring.
                let base = if packed { 0x8000_8000 } else { 0 };
                assert_eq!(peer.done(code::SET_VRING_BASE, &halves(&[index as u32, base]), &[]), Some(true));
            }
            // All is read and written as descriptors, indices and packets at once.
            for at in 0..0x3000 / 8 {
                let value = if packed { 0x0080_0001_0000_0040 } else { 0x0001_0002_0003_0040 };
                front.memory.put_u64(descriptors_of(RX) + 8 * at, if at % 2 == 0 { GUEST } else { value });
            }
            for index in [RX, TX] {
                let kick = event_payload(index);
                let fds = [std::os::fd::AsFd::as_fd(&front.kick)];
                assert_eq!(front.peer.done(code::SET_VRING_KICK, &kick, &fds), Some(true));
                assert_eq!(
                    front.peer.done(code::SET_VRING_ENABLE, &halves(&[index as u32, 1]), &[]),
                    Some(true)
                );
            }
            target.flood(true);
            std::thread::sleep(Duration::from_millis(30));
            target.polled();
            target.flood(false);
            target.received();
            drop(front.peer);
            wait_for("the end of the session", || !target.port().link().up);
        }
        // Buffers that are the ring: of a packet that is sent from there, and of one that is received there.
        let mut front = session(target, packed, 0);
        front.post(TX, &[desc(GUEST + descriptors_of(TX) as u64, 2000, 0)]);
        assert_eq!(target.next().len(), 2000 - HEADER);
        front.back(TX);
        front.post(RX, &[desc(GUEST + descriptors_of(RX) as u64, 0x4000, WRITE)]);
        target.flood(true);
        std::thread::sleep(Duration::from_millis(20));
        target.flood(false);
        front.stop(RX);
        front.start(RX);
        target.polled();
        passes(&mut front, target);
    });
}
