//! Transmit queues over a device that takes as many packets as it likes, and does as much as it likes.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use crate::net::gso::segment;
use crate::net::testing::{Spec, assert_home, bytes_of, check_segments, numbered, pool, receive};
use crate::packet::{Burst, MAX_BURST, Mbuf, MbufPool, Offload};
use crate::pipeline::Sink;
use crate::port::{Counters, DropReason, TxDriver, TxQueue};

/// What a device is like, and what it got.
#[derive(Debug, Default)]
struct State {
    can: Offload,
    /// Packets that it takes in the calls to come; as many as it is offered when there are no more figures.
    room: Vec<usize>,
    /// Frames with the flags that they came with.
    sent: Vec<(Vec<u8>, Offload)>,
    /// It takes nothing.
    full: bool,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn queue(&self) -> TxQueue {
        TxQueue::new(Box::new(self.clone()), Arc::new(Counters::new()), 0, 0, Arc::new(()))
    }

    fn sent(&self) -> Vec<(Vec<u8>, Offload)> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        self.sent().into_iter().map(|(frame, _)| frame).collect()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl TxDriver for Fake {
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let mut state = self.0.lock().unwrap();
        assert!(!burst.is_empty(), "a driver is not asked to send nothing");
        let room = if state.full { 0 } else { state.room.pop().unwrap_or(MAX_BURST).min(burst.len()) };
        let bytes = burst[..room].iter().map(|packet| packet.len() as u64).sum();
        for packet in &burst[..room] {
            state.sent.push((bytes_of(packet), packet.offload()));
        }
        if room > 0 {
            counters.passed(room as u64, bytes);
        }
        burst.free_front(room);
    }

    fn offloads(&self) -> Offload {
        self.0.lock().unwrap().can
    }
}

const CHECKSUMS: Offload = Offload::TX_IP_CHECKSUM.union(Offload::TX_TCP_CHECKSUM);

fn stream(number: u32, len: usize) -> Spec {
    Spec { payload: numbered(len), sequence: number << 20, ..Spec::default() }
}

fn packet(pool: &MbufPool, spec: &Spec, flags: Offload, most: u16) -> Mbuf {
    let mut packet = pool.alloc_from(&spec.frame()).unwrap();
    packet.set_offload(flags);
    packet.set_tx_lengths(spec.lengths(most));
    packet
}

fn burst_of(packets: impl IntoIterator<Item = Mbuf>) -> Burst {
    let mut burst = Burst::new(MAX_BURST);
    for packet in packets {
        burst.push(packet).unwrap();
    }
    burst
}

#[test]
fn what_the_device_does_is_left_to_it() {
    let pool = pool(256, 2048);
    let fake = Fake::default();
    let mut queue = fake.queue();
    let spec = stream(1, 3000);
    let asked = CHECKSUMS | Offload::TX_TCP_SEGMENTATION | Offload::TX_VLAN_INSERT;
    fake.change(|state| state.can = Offload::TX_ALL);
    let mut burst = burst_of([packet(&pool, &spec, asked, 1000)]);
    assert_eq!((queue.tx_burst(&mut burst), queue.offloads()), (1, Offload::TX_ALL));
    assert_eq!(fake.sent(), [(spec.frame(), asked)]);

    // It cuts, and nothing more: the tag and the IPv4 checksum are software's, the TCP one belongs to the segments.
    fake.change(|state| state.can = Offload::TX_TCP_SEGMENTATION);
    burst = burst_of([packet(&pool, &spec, asked, 1000)]);
    assert_eq!(queue.tx_burst(&mut burst), 1);
    let [(frame, flags)] = fake.sent().try_into().unwrap();
    assert_eq!(flags, Offload::TX_TCP_SEGMENTATION | Offload::TX_TCP_CHECKSUM);
    assert_eq!((frame.len(), &frame[12..16]), (spec.frame().len() + 4, &[0x81, 0, 0, 0][..]));
    assert_eq!(frame[38..54], spec.frame()[34..50], "the TCP header up to its checksum");
    assert_eq!(frame[54..56], spec.frame()[50..52], "the sum of the pseudo header");

    // Nothing any more, from one burst to the next.
    fake.change(|state| state.can = Offload::empty());
    burst = burst_of([packet(&pool, &spec, asked, 1000)]);
    assert_eq!(queue.tx_burst(&mut burst), 1);
    let sent = fake.sent();
    assert!(sent.iter().all(|(_, flags)| flags.is_empty()));
    let frames: Vec<_> = sent.into_iter().map(|(frame, _)| frame).collect();
    check_segments(&Spec { tags: 1, ..spec }, 1000, &frames);
    drop(queue);
    assert_home(&pool);
}

#[test]
fn segments_that_find_no_room_wait_and_go_first() {
    let pool = pool(256, 2048);
    let fake = Fake::default();
    let mut queue = fake.queue();
    let (large, small) = (stream(1, 5000), stream(2, 100));
    let mut burst = burst_of([
        packet(&pool, &large, Offload::TX_TCP_SEGMENTATION, 1000),
        packet(&pool, &small, CHECKSUMS, 0),
    ]);
    // Two segments of five, then nothing.
    fake.change(|state| (state.room, state.full) = (vec![2], false));
    assert_eq!((queue.tx_burst(&mut burst), queue.waiting(), burst.len()), (1, 3, 1));
    fake.change(|state| state.full = true);
    assert_eq!((queue.tx_burst(&mut burst), queue.waiting(), burst.len()), (0, 3, 1));
    let mut nothing = Burst::default();
    assert_eq!((queue.tx_burst(&mut nothing), queue.waiting()), (0, 3));
    // An idle thread sends what waits.
    fake.change(|state| (state.room, state.full) = (vec![1], false));
    Sink::idle(&mut queue);
    assert_eq!(queue.waiting(), 2);
    assert_eq!((queue.tx_burst(&mut burst), queue.waiting()), (1, 0));
    let frames = fake.frames();
    check_segments(&large, 1000, &frames[..5]);
    assert_eq!(receive(&frames[5]).payload, small.payload);
    assert_eq!((queue.counters().packets(), queue.counters().all_drops().count()), (6, 0));
    drop(queue);
    assert_home(&pool);
}

#[test]
fn a_dropped_queue_sends_or_counts_what_waits() {
    let pool = pool(256, 2048);
    for full in [false, true] {
        let fake = Fake::default();
        let mut queue = fake.queue();
        let counters = Arc::clone(queue.counters());
        fake.change(|state| state.room = vec![2]);
        let large = stream(1, 5000);
        let mut burst = burst_of([packet(&pool, &large, Offload::TX_TCP_SEGMENTATION, 1000)]);
        assert_eq!((queue.tx_burst(&mut burst), queue.waiting()), (1, 3));
        fake.change(|state| state.full = full);
        drop(queue);
        let lost = if full { 3 } else { 0 };
        assert_eq!((counters.packets(), counters.drops(DropReason::TxStopped)), (5 - lost, lost));
        assert_eq!(fake.frames().len() as u64, 5 - lost);
        assert_home(&pool);
    }
}

#[test]
fn what_cannot_be_done_is_dropped_by_name_and_holds_nothing_up() {
    let pool = pool(16, 2048);
    let fake = Fake::default();
    let mut queue = fake.queue();
    let spec = stream(3, 100);
    let large = stream(4, 2000);
    let damaged = |flags| {
        let mut packet = packet(&pool, &spec, flags, 1000);
        packet.data_mut().unwrap()[12] = 0;
        packet
    };
    let mut burst = burst_of([
        damaged(CHECKSUMS),
        packet(&pool, &spec, CHECKSUMS, 0),
        damaged(Offload::TX_TCP_SEGMENTATION),
        packet(&pool, &large, Offload::TX_TCP_SEGMENTATION, 1),
        packet(&pool, &large, Offload::TX_TCP_SEGMENTATION, 0),
        // More segments than there are mbufs.
        packet(&pool, &large, Offload::TX_TCP_SEGMENTATION, 100),
        packet(&pool, &spec, CHECKSUMS, 0),
    ]);
    let offered = burst.len();
    // The IP header of the first is found by the lengths, so its type does no harm; look for it instead.
    burst[0].set_tx_lengths(crate::packet::TxLengths::default());
    assert_eq!(queue.tx_burst(&mut burst), offered);
    let drops: Vec<_> = queue.counters().all_drops().collect();
    assert_eq!(drops, [(DropReason::TxTooLong, 1), (DropReason::TxNoMbuf, 1), (DropReason::BadHeader, 3)]);
    let frames = fake.frames();
    assert_eq!(frames.len(), 2);
    frames.iter().for_each(|frame| assert_eq!(receive(frame).payload, spec.payload));
    drop(queue);
    assert_home(&pool);
}

#[test]
fn shared_packets_are_sent_as_copies() {
    let pool = pool(4, 2048);
    let fake = Fake::default();
    let mut queue = fake.queue();
    let spec = stream(1, 100);
    let original = packet(&pool, &spec, CHECKSUMS, 0);
    let mut burst = burst_of([original.clone_shared(&pool).unwrap()]);
    assert_eq!(queue.tx_burst(&mut burst), 1);
    assert_eq!(receive(&fake.frames()[0]).payload, spec.payload);
    assert_eq!((bytes_of(&original), original.offload()), (spec.frame(), CHECKSUMS));
    // No mbuf is left for a copy.
    let taken = [pool.alloc().unwrap(), pool.alloc().unwrap()];
    burst = burst_of([original.clone_shared(&pool).unwrap()]);
    assert_eq!(queue.tx_burst(&mut burst), 1);
    assert_eq!(queue.counters().all_drops().collect::<Vec<_>>(), [(DropReason::TxNoMbuf, 1)]);
    drop((original, taken, queue));
    assert_home(&pool);
}

/// A packet of the property test below: plain, with checksums to be done, or to be cut.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Checksums,
    Large(usize, u16),
    Damaged,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Plain),
        Just(Kind::Checksums),
        (1..9000_usize, 200..2000_u16).prop_map(|(len, most)| Kind::Large(len, most)),
        Just(Kind::Damaged),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However few packets the device takes at a time, all arrive in their order, once, and right.
    #[test]
    fn nothing_is_lost_or_reordered(
        bursts in prop::collection::vec(prop::collection::vec(kind(), 0..12), 1..5),
        room in prop::collection::vec(0..9_usize, 0..80),
    ) {
        let pool = pool(2048, 2048);
        let fake = Fake::default();
        fake.change(|state| state.room = room);
        let mut queue = fake.queue();
        let mut expected = Vec::new();
        let (mut number, mut damaged) = (0, 0);
        for kinds in bursts {
            let mut burst = Burst::new(12);
            for kind in kinds {
                number += 1;
                let small = stream(number, 60 + number as usize);
                let made = match kind {
                    Kind::Plain => {
                        expected.push(small.frame());
                        packet(&pool, &small, Offload::RX_IP_CHECKSUM_GOOD, 0)
                    }
                    Kind::Checksums => {
                        let done = packet(&pool, &small, CHECKSUMS, 2000);
                        segment(&done, &pool, |done| expected.push(bytes_of(&done))).unwrap();
                        done
                    }
                    Kind::Large(len, most) => {
                        let large = packet(&pool, &stream(number, len), Offload::TX_TCP_SEGMENTATION, most);
                        segment(&large, &pool, |part| expected.push(bytes_of(&part))).unwrap();
                        large
                    }
                    Kind::Damaged => {
                        damaged += 1;
                        packet(&pool, &small, Offload::TX_UDP_CHECKSUM, 0)
                    }
                };
                burst.push(made).unwrap();
            }
            let mut tries = 0;
            while !burst.is_empty() {
                let before = burst.len();
                let taken = queue.tx_burst(&mut burst);
                prop_assert_eq!(taken, before - burst.len());
                tries += 1;
                prop_assert!(tries < 1000);
            }
        }
        while queue.waiting() > 0 {
            queue.flush();
        }
        // Segmentation numbers the IPv4 packets, so a packet that is one segment is as completed as the others.
        prop_assert!(fake.frames() == expected);
        prop_assert_eq!(queue.counters().packets(), expected.len() as u64);
        prop_assert_eq!(queue.counters().drops(DropReason::BadHeader), damaged);
        drop(queue);
        assert_home(&pool);
    }
}
