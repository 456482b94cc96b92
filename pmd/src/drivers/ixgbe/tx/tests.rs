#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::super::registers::tdt;
use super::super::testing::{Hand, Written, pool, reach};
use super::*;
use crate::packet::MAX_BURST;

const END: u64 = 1 << 24;
const REPORT_BIT: u64 = 1 << 27;
const DONE: u64 = 1 << 32;
/// What the device's addresses are ahead of ours.
const AWAY: u64 = 0x1000_0000_0000;

struct Lab {
    hand: Hand,
    tx: IxgbeTx<Written>,
    registers: Arc<Written>,
    pool: MbufPool,
    counters: Counters,
}

impl Lab {
    fn new(size: u16, mbufs: usize) -> Self {
        let (hand, ring) = Hand::with_ring(size);
        let (pool, registers) = (pool(mbufs), Arc::new(Written::default()));
        let reach = reach(&pool, AWAY);
        let tx = IxgbeTx::new(ring, tdt(2), pool.clone(), reach, Arc::default(), Arc::clone(&registers));
        Self { hand, tx, registers, pool, counters: Counters::new() }
    }

    /// Sends frames of 60 bytes, and returns how many the queue took.
    fn send(&mut self, count: usize) -> usize {
        let mut burst = Burst::new(MAX_BURST);
        (0..count).for_each(|_| burst.push(self.pool.alloc_from(&[7; 60]).unwrap()).unwrap());
        self.tx.send(&mut burst, &self.counters).unwrap();
        count - burst.len()
    }

    fn tail(&self) -> (usize, u32) {
        *self.registers.log.lock().unwrap().last().unwrap()
    }
}

#[test]
fn reports_are_asked_of_every_32nd_descriptor_and_bring_all_home_before_it() {
    let mut lab = Lab::new(128, 1024);
    assert_eq!(lab.send(100), 100);
    assert_eq!(lab.tail(), (0x06018 + 0x80, 100));
    let reports: Vec<u16> = (0..128).filter(|index| lab.hand.words(*index)[1] & REPORT_BIT != 0).collect();
    assert_eq!(reports, [31, 63, 95]);
    // One descriptor stays empty.
    assert_eq!((lab.send(40), lab.pool.counts().in_use), (27, 127));
    // Reports come in order; what is said of others, and out of turn, brings nothing.
    lab.hand.write_back(63, DONE);
    lab.hand.write_back(5, DONE);
    assert_eq!((lab.send(1), lab.pool.counts().in_use), (0, 127));
    lab.hand.write_back(31, DONE);
    assert_eq!((lab.send(64), lab.pool.counts().in_use), (64, 127));
    assert_eq!(lab.tail().1, 127 + 64 - 128);
    let log = lab.registers.log.lock().unwrap().len();
    assert_eq!(
        (lab.send(1), lab.registers.log.lock().unwrap().len()),
        (0, log),
        "no doorbell without packets"
    );
    assert_eq!(lab.counters.packets(), 191);
    let Lab { tx, pool, .. } = lab;
    drop(tx);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
}

#[test]
fn a_ring_goes_round_for_ever() {
    let mut lab = Lab::new(136, 2048);
    let mut sent = 0;
    for round in 0..500_usize {
        let took = lab.send(1 + round * 7 % 90);
        sent += took;
        for index in 0..136 {
            if lab.hand.words(index)[1] & REPORT_BIT != 0 {
                lab.hand.write_back(index, DONE);
            }
        }
        assert!(took > 0, "round {round}");
        assert_eq!(lab.tail().1 as usize, sent % 136);
    }
    assert!(lab.pool.counts().in_use <= 127 + 9);
}

#[test]
fn a_packet_of_several_segments_is_one_chain_with_one_end() {
    let mut lab = Lab::new(128, 256);
    // So that the report falls into the chain: it is asked of its end.
    assert_eq!(lab.send(30), 30);
    let mut packet = lab.pool.alloc_from(&[1; 100]).unwrap();
    for len in [200, 0, 300] {
        packet.chain(lab.pool.alloc_from(&vec![2; len]).unwrap()).unwrap();
    }
    let mut burst = Burst::new(4);
    burst.push(packet).unwrap();
    lab.tx.send(&mut burst, &lab.counters).unwrap();
    assert!(burst.is_empty());
    let words: Vec<u64> = (30..33).map(|index| lab.hand.words(index)[1]).collect();
    assert_eq!(words.iter().map(|word| word & 0xffff).collect::<Vec<_>>(), [100, 200, 300]);
    assert_eq!(words.iter().map(|word| word >> 46).collect::<Vec<_>>(), [600; 3], "PAYLEN");
    assert_eq!(
        words.iter().map(|word| word & (END | REPORT_BIT)).collect::<Vec<_>>(),
        [0, 0, END | REPORT_BIT]
    );
    assert_eq!((lab.counters.packets(), lab.counters.bytes()), (31, 30 * 60 + 600));
    lab.hand.write_back(32, DONE);
    assert_eq!(lab.send(100), 100);
    assert_eq!(lab.pool.counts().in_use, 100);
}

#[test]
fn what_cannot_be_sent_is_dropped_by_name_and_holds_nobody_up() {
    let mut lab = Lab::new(128, 256);
    let mut burst = Burst::new(8);
    burst.push(lab.pool.alloc_from(&[0; 13]).unwrap()).unwrap();
    burst.push(lab.pool.alloc_from(&[0; 60]).unwrap()).unwrap();
    // Over 15,872 bytes; and of 41 pieces, which is copied into one.
    for (pieces, len) in [(8, 2000), (41, 20)] {
        let mut packet = lab.pool.alloc_from(&vec![0; len]).unwrap();
        for _ in 1..pieces {
            packet.chain(lab.pool.alloc_from(&vec![3; len]).unwrap()).unwrap();
        }
        burst.push(packet).unwrap();
    }
    lab.tx.send(&mut burst, &lab.counters).unwrap();
    assert!(burst.is_empty());
    assert_eq!(lab.counters.drops(DropReason::TxTooShort), 1);
    assert_eq!(lab.counters.drops(DropReason::TxTooLong), 1);
    assert_eq!((lab.counters.packets(), lab.counters.bytes(), lab.tail().1), (2, 60 + 820, 2));
    assert_eq!((lab.tx.copied.load(Ordering::Relaxed), lab.pool.counts().in_use), (1, 2));
}

#[test]
fn packets_of_other_pools_are_copied_to_where_the_device_reaches_them() {
    let mut lab = Lab::new(128, 3);
    let other = pool(64);
    let mut burst = Burst::new(8);
    (0..5).for_each(|_| burst.push(other.alloc_from(&[9; 80]).unwrap()).unwrap());
    lab.tx.send(&mut burst, &lab.counters).unwrap();
    // The others wait for mbufs to copy them to.
    assert_eq!((burst.len(), other.counts().in_use, lab.pool.counts().in_use), (2, 2, 3));
    let [address, _] = lab.hand.words(0);
    let memory = lab.pool.raw().memories().next().unwrap();
    let start = memory.base().as_ptr().addr() as u64 + AWAY;
    assert!((start..start + memory.len() as u64).contains(&address), "{address:#x}");
    let Lab { tx, pool, .. } = lab;
    drop((tx, burst));
    assert_eq!((pool.counts().in_use, other.counts().in_use), (0, 0));
}
