#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::super::registers::rdt;
use super::super::testing::{Hand, Written, pool, reach};
use super::*;
use crate::packet::MAX_BURST;

const DONE: u64 = 1;
const END: u64 = 2;
const DAMAGED: u64 = 1 << 29;

struct Lab {
    hand: Hand,
    rx: IxgbeRx<Written>,
    registers: Arc<Written>,
    pool: MbufPool,
    counters: Counters,
}

impl Lab {
    fn new(size: u16, mbufs: usize) -> Self {
        let (hand, ring) = Hand::with_ring(size);
        let (pool, registers) = (pool(mbufs), Arc::new(Written::default()));
        let rx = IxgbeRx::new(ring, rdt(1), pool.clone(), reach(&pool, 0), true, Arc::clone(&registers));
        Self { hand, rx, registers, pool, counters: Counters::new() }
    }

    /// The device writes `len` bytes of `fill`, as many as there is room for, into the buffer of a descriptor.
    fn write(&self, index: u16, fill: u8, len: u16, bits: u64) {
        let [address, _] = self.hand.words(index);
        let place = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: the driver has posted a buffer of so many bytes there.
        unsafe { place.write_bytes(fill, usize::from(len).min(self.rx.room)) };
        self.hand.write_back(index, DONE | bits | u64::from(len) << 32);
    }

    fn receive(&mut self, most: usize) -> Vec<Vec<u8>> {
        let mut burst = Burst::new(most);
        self.rx.receive(&mut burst, &self.counters).unwrap();
        burst.iter().map(|packet| packet.segments().flatten().copied().collect()).collect()
    }

    fn malformed(&self) -> u64 {
        self.counters.drops(DropReason::RxMalformed)
    }
}

#[test]
fn a_ring_is_full_but_for_one_and_is_filled_again_in_bulk() {
    let mut lab = Lab::new(128, 1024);
    lab.rx.ring_doorbell();
    assert_eq!(lab.registers.log.lock().unwrap()[..], [(0x01018 + 0x40, 127)]);
    assert_eq!(lab.pool.counts().in_use, 127);
    assert!((0..127).all(|index| lab.hand.words(index)[0] != 0) && lab.hand.words(127) == [0, 0]);
    for index in 0..40 {
        lab.write(index, index as u8, 60 + index, END);
    }
    assert_eq!(lab.receive(20).len(), 20);
    assert_eq!(lab.registers.log.lock().unwrap().len(), 1, "20 are not worth a write to the device");
    let packets = lab.receive(32);
    assert!(packets.iter().zip(20_u8..40).all(|(packet, at)| *packet == vec![at; 60 + usize::from(at)]));
    assert_eq!(packets.len(), 20);
    assert_eq!(lab.registers.log.lock().unwrap().last(), Some(&(0x01058, 127 + 40 - 128)));
    assert_eq!((lab.pool.counts().in_use, lab.malformed()), (127, 0));
}

#[test]
fn a_ring_goes_round_for_ever_and_the_pool_may_be_empty_meanwhile() {
    let mut lab = Lab::new(128, 160);
    let mut kept = Burst::new(MAX_BURST);
    let mut at = 0;
    for round in 0..300 {
        for _ in 0..50 {
            if lab.rx.posted.up_to(at).is_some() {
                lab.write(at, 1, 64, END);
                at = (at + 1) % 128;
            }
        }
        lab.rx.receive(&mut kept, &lab.counters).unwrap();
        if round % 5 == 4 {
            assert!(!kept.is_empty(), "round {round}");
            kept.free();
        }
    }
    kept.free();
    lab.receive(512);
    assert!(lab.pool.counts().in_use > 127 - usize::from(REFILL));
    let Lab { rx, pool, .. } = lab;
    drop(rx);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn a_packet_of_several_buffers_is_one_chain() {
    let mut lab = Lab::new(128, 512);
    for (index, len) in [(0, 2048), (1, 2048), (2, 100)] {
        lab.write(index, index as u8 + 1, len, if index == 2 { END } else { 0 });
    }
    // It may come in pieces.
    lab.write(3, 9, 2048, 0);
    let whole: Vec<u8> = [vec![1; 2048], vec![2; 2048], vec![3; 100]].concat();
    assert!(lab.receive(32) == [whole]);
    // The last buffer has nothing but the frame check sequence that was taken off.
    lab.write(4, 9, 0, END);
    lab.write(5, 8, 60, END);
    assert!(lab.receive(32) == [vec![9; 2048], vec![8; 60]]);
    assert_eq!(lab.malformed(), 0);
}

#[test]
fn what_a_device_says_is_not_believed() {
    let mut lab = Lab::new(128, 512);
    // Longer than the buffer; nothing; damaged; and each of them as a part of a packet.
    for (index, (len, bits)) in [
        (2049, END),
        (u16::MAX, END),
        (0, END),
        (60, END | DAMAGED),
        (2049, 0),
        (60, END),
        (2048, 0),
        (u16::MAX, END),
        (0, 0),
        (60, END),
        (2048, DAMAGED),
        (60, END),
    ]
    .into_iter()
    .enumerate()
    {
        lab.write(index as u16, 5, len, bits);
    }
    lab.write(12, 6, 61, END);
    assert!(lab.receive(32) == [vec![6; 61]]);
    assert_eq!(lab.malformed(), 8);
    // A packet without end: it holds no more than the longest may have, and is dropped when it ends.
    for index in 13..100 {
        lab.write(index, 7, 2048, 0);
    }
    assert!(lab.receive(512).is_empty());
    assert!(lab.pool.counts().in_use <= 127 + 8, "{}", lab.pool.counts().in_use);
    lab.write(100, 7, 60, END);
    lab.write(101, 8, 60, END);
    assert!(lab.receive(32) == [vec![8; 60]]);
    assert_eq!(lab.malformed(), 9);
    // Descriptors that it was not given are done, it says.
    for index in 0..128 {
        lab.hand.write_back(index, DONE | END | 60 << 32);
    }
    let mut found = 0;
    for _ in 0..4 {
        found += lab.receive(512).len();
    }
    assert!(found <= 2 * 127, "{found}");
    let Lab { rx, pool, .. } = lab;
    drop(rx);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}
