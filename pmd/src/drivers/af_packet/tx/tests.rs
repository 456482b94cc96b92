//! Sending into a ring that a fake kernel drains by the rules of the real one (`tpacket_snd`).

use std::sync::{Arc, Mutex};

use super::super::ring::fake::{self, FakeKernel};
use super::*;
use crate::packet::{MbufPool, MbufPoolConfig, TxLengths};

const SLOTS: usize = 8;

/// How the fake kernel is minded.
#[derive(Debug, Default)]
struct Mood {
    /// Frames that it takes before it says that it has no room; none: as many as there are.
    room: Option<usize>,
    /// What it answers instead of sending, once each.
    errors: Vec<Errno>,
    /// What it answers every time.
    always: Option<Errno>,
    link_down: bool,
    true_mtu: usize,
    /// The MTU as the driver has last been told it.
    mtu: usize,
    /// Frames that were taken stay on their way.
    slow: bool,
    head: usize,
    sent: Vec<Vec<u8>>,
    calls: usize,
}

#[derive(Debug, Clone)]
struct Fake {
    ring: FakeKernel,
    mood: Arc<Mutex<Mood>>,
}

impl Kernel for Fake {
    fn send(&self) -> Result<(), Errno> {
        let mut mood = self.mood.lock().unwrap();
        mood.calls += 1;
        if !mood.errors.is_empty() {
            return Err(mood.errors.remove(0));
        }
        if let Some(error) = mood.always {
            return Err(error);
        }
        loop {
            let head = mood.head;
            if self.ring.status(head) != libc::TP_STATUS_SEND_REQUEST {
                return Ok(());
            }
            if mood.room == Some(0) {
                return Err(Errno::NOBUFS);
            }
            mood.room = mood.room.map(|room| room - 1);
            let frame = self.ring.frame(head);
            let tag = if frame[12..14] == TPID { TAG } else { 0 };
            if frame.len() > mood.true_mtu + HEADER + tag {
                self.ring.set_status(head, libc::TP_STATUS_WRONG_FORMAT);
                return Err(Errno::MSGSIZE);
            }
            mood.sent.push(frame);
            let slow = mood.slow;
            self.ring
                .set_status(head, if slow { libc::TP_STATUS_SENDING } else { libc::TP_STATUS_AVAILABLE });
            mood.head = (head + 1) % self.ring.slots();
        }
    }

    fn link_is_up(&self) -> bool {
        !self.mood.lock().unwrap().link_down
    }

    fn mtu(&self) -> usize {
        self.mood.lock().unwrap().mtu
    }

    fn look_up_mtu(&self) -> usize {
        let mut mood = self.mood.lock().unwrap();
        mood.mtu = mood.true_mtu;
        mood.true_mtu
    }

    fn wait(&self, _most: Duration) {
        self.mood.lock().unwrap().room = None;
    }
}

struct Bench {
    tx: Tx<Fake>,
    kernel: Fake,
    pool: MbufPool,
    counters: Counters,
    burst: Burst,
}

fn bench() -> Bench {
    let (slots, ring) = fake::ring(SLOTS as u32, 2048);
    let mood = Mood { true_mtu: 1500, mtu: 1500, ..Mood::default() };
    let kernel = Fake { ring, mood: Arc::new(Mutex::new(mood)) };
    let pool = MbufPool::on_heap(&MbufPoolConfig::new("tx", 64).data_room(512).cache(0)).unwrap();
    let tx = Tx::new(slots, kernel.clone());
    Bench { tx, kernel, pool, counters: Counters::new(), burst: Burst::default() }
}

impl Bench {
    fn mood<T>(&self, with: impl FnOnce(&mut Mood) -> T) -> T {
        with(&mut self.kernel.mood.lock().unwrap())
    }

    fn offer(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.burst.push(self.pool.alloc_from(frame).unwrap()).unwrap();
        }
    }

    fn send(&mut self) {
        self.tx.tx_burst(&mut self.burst, &self.counters);
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.mood(|mood| core::mem::take(&mut mood.sent))
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        self.counters.all_drops().collect()
    }
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 5 + number) as u8).collect()
}

fn frames(numbers: core::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|number| frame(number, 60 + number * 37)).collect()
}

#[test]
fn frames_leave_as_they_are_and_are_counted_with_one_call_a_burst() {
    let mut bench = bench();
    for round in 0..5 {
        let offered = frames(round..round + 6);
        bench.offer(&offered);
        bench.send();
        assert!(bench.burst.is_empty());
        assert_eq!(bench.sent(), offered);
    }
    let bytes: usize = (0..5).flat_map(|round| frames(round..round + 6)).map(|frame| frame.len()).sum();
    assert_eq!((bench.counters.packets(), bench.counters.bytes()), (30, bytes as u64));
    assert_eq!(bench.mood(|mood| mood.calls), 5);
    assert_eq!((bench.drops(), bench.pool.counts().in_use), (vec![], 0));
}

#[test]
fn packets_of_several_segments_leave_as_one_frame() {
    let mut bench = bench();
    let long = frame(1, 1500);
    bench.offer(core::slice::from_ref(&long));
    assert!(bench.burst[0].segment_count() > 2);
    bench.send();
    assert_eq!(bench.sent(), [long]);
}

#[test]
fn a_burst_larger_than_the_ring_goes_through_when_the_kernel_is_quick() {
    let mut bench = bench();
    let offered: Vec<_> = (0..30).map(|number| frame(number, 64)).collect();
    bench.offer(&offered);
    bench.send();
    assert_eq!((bench.sent(), bench.burst.len()), (offered, 0));
}

#[test]
fn what_the_ring_has_no_slot_for_stays_in_the_burst() {
    let mut bench = bench();
    bench.mood(|mood| mood.slow = true);
    let offered: Vec<_> = (0..11).map(|number| frame(number, 64)).collect();
    bench.offer(&offered);
    bench.send();
    assert_eq!((bench.burst.len(), bench.counters.packets()), (3, 8));
    bench.send();
    assert_eq!((bench.burst.len(), bench.counters.packets()), (3, 8));
    // Three of those on their way have left.
    (0..3).for_each(|index| bench.kernel.ring.set_status(index, libc::TP_STATUS_AVAILABLE));
    bench.send();
    assert_eq!((bench.burst.len(), bench.counters.packets()), (0, 11));
    assert_eq!((bench.sent(), bench.drops()), (offered, vec![]));
}

#[test]
fn what_the_kernel_has_no_room_for_is_sent_with_the_next_burst_in_order() {
    let mut bench = bench();
    bench.mood(|mood| mood.room = Some(2));
    let offered = frames(0..5);
    bench.offer(&offered);
    bench.send();
    assert_eq!((bench.burst.len(), bench.counters.packets()), (0, 2));
    bench.mood(|mood| mood.room = None);
    bench.offer(&frames(5..6));
    bench.send();
    assert_eq!((bench.counters.packets(), bench.drops()), (6, vec![]));
    assert_eq!(bench.sent(), frames(0..6));
}

#[test]
fn a_full_ring_kicks_the_kernel_without_new_packets() {
    let mut bench = bench();
    bench.mood(|mood| mood.room = Some(0));
    bench.offer(&frames(0..SLOTS + 2));
    bench.send();
    assert_eq!((bench.burst.len(), bench.counters.packets()), (2, 0));
    bench.mood(|mood| mood.room = None);
    bench.send();
    assert_eq!((bench.burst.len(), bench.counters.packets()), (0, SLOTS as u64 + 2));
    assert_eq!(bench.sent(), frames(0..SLOTS + 2));
}

#[test]
fn lengths_that_no_interface_takes_are_dropped_by_name() {
    let mut bench = bench();
    let mut tagged = frame(0, 1518);
    tagged[12..14].copy_from_slice(&TPID);
    let mut tagged_long = frame(0, 1519);
    tagged_long[12..14].copy_from_slice(&TPID);
    bench.offer(&[frame(0, 13), frame(0, 14), frame(0, 1514), frame(0, 1515), tagged.clone(), tagged_long]);
    bench.send();
    assert_eq!(bench.sent(), [frame(0, 14), frame(0, 1514), tagged]);
    assert_eq!(bench.drops(), [(DropReason::TxTooLong, 2), (DropReason::TxTooShort, 1)]);
    assert_eq!(bench.counters.packets(), 3);
}

#[test]
fn a_slot_limits_the_length_too() {
    let mut bench = bench();
    bench.mood(|mood| (mood.true_mtu, mood.mtu) = (9000, 9000));
    bench.offer(&[frame(0, 2048 - TX_OVERHEAD), frame(0, 2048 - TX_OVERHEAD + 1)]);
    bench.send();
    assert_eq!(bench.sent(), [frame(0, 2048 - TX_OVERHEAD)]);
    assert_eq!(bench.drops(), [(DropReason::TxTooLong, 1)]);
}

#[test]
fn a_frame_that_the_kernel_refuses_is_counted_and_does_not_hold_up_the_others() {
    let mut bench = bench();
    // Somebody made the MTU smaller, and nobody told.
    bench.mood(|mood| mood.true_mtu = 300);
    bench.offer(&[frame(0, 64), frame(1, 1000), frame(2, 65), frame(3, 900), frame(4, 314), frame(5, 66)]);
    bench.send();
    assert_eq!(bench.sent(), [frame(0, 64), frame(2, 65), frame(4, 314), frame(5, 66)]);
    assert_eq!(bench.drops(), [(DropReason::TxTooLong, 1), (DropReason::TxRefused, 1)]);
    // From now on it is known.
    bench.offer(&[frame(6, 1000), frame(7, 64)]);
    bench.send();
    assert_eq!(bench.sent(), [frame(7, 64)]);
    assert_eq!(bench.drops(), [(DropReason::TxTooLong, 2), (DropReason::TxRefused, 1)]);
    assert_eq!(bench.counters.packets(), 5);
}

#[test]
fn refused_frames_at_every_place_of_a_full_ring() {
    for bad in 0..1_usize << SLOTS {
        let mut bench = bench();
        bench.mood(|mood| mood.true_mtu = 100);
        let offered: Vec<_> =
            (0..SLOTS).map(|n| frame(n, if bad & 1 << n == 0 { 64 } else { 200 })).collect();
        bench.offer(&offered);
        bench.send();
        let good: Vec<_> = offered.into_iter().filter(|frame| frame.len() == 64).collect();
        assert_eq!((bench.counters.packets(), bench.sent()), (good.len() as u64, good), "{bad:b}");
        let dropped: u64 = bench.drops().into_iter().map(|(_, count)| count).sum();
        assert_eq!(dropped, u64::from(bad.count_ones()), "{bad:b}");
    }
}

#[test]
fn a_link_that_is_down_drops_all_by_name_and_comes_back() {
    for error in [Errno::NETDOWN, Errno::NXIO, Errno::NODEV] {
        let mut bench = bench();
        bench.mood(|mood| mood.always = Some(error));
        bench.offer(&frames(0..SLOTS + 3));
        bench.send();
        assert_eq!(bench.drops(), [(DropReason::TxLinkDown, SLOTS as u64 + 3)]);
        assert_eq!((bench.burst.len(), bench.pool.counts().in_use), (0, 0));
        bench.mood(|mood| mood.always = None);
        bench.offer(&frames(20..22));
        bench.send();
        assert_eq!((bench.sent(), bench.counters.packets()), (frames(20..22), 2), "nothing old is sent");
    }
}

#[test]
fn a_link_that_was_down_before_loses_nothing() {
    let mut bench = bench();
    bench.mood(|mood| mood.errors = vec![Errno::NETDOWN]);
    bench.offer(&frames(0..3));
    bench.send();
    assert_eq!((bench.sent(), bench.drops()), (frames(0..3), vec![]));
}

#[test]
fn no_room_and_no_carrier_is_a_link_that_is_down() {
    let mut bench = bench();
    bench.mood(|mood| (mood.room, mood.link_down) = (Some(1), true));
    bench.offer(&frames(0..3));
    bench.send();
    assert_eq!((bench.counters.packets(), bench.drops()), (1, vec![(DropReason::TxLinkDown, 2)]));
}

#[test]
fn interruptions_are_gone_through_and_unknown_errors_drop_by_name() {
    let mut bench = bench();
    bench.mood(|mood| mood.errors = vec![Errno::INTR; 3]);
    bench.offer(&frames(0..2));
    bench.send();
    assert_eq!((bench.counters.packets(), bench.drops()), (2, vec![]));
    bench.mood(|mood| mood.always = Some(Errno::INTR));
    bench.offer(&frames(2..3));
    bench.send();
    bench.mood(|mood| mood.always = Some(Errno::PERM));
    bench.offer(&frames(3..4));
    bench.send();
    assert_eq!(bench.drops(), [(DropReason::TxRefused, 2)]);
}

#[test]
fn a_queue_that_is_dropped_sends_what_is_left_if_it_can() {
    let mut bench = bench();
    bench.mood(|mood| mood.room = Some(1));
    bench.offer(&frames(0..4));
    bench.send();
    let Bench { tx, kernel, .. } = bench;
    drop(tx);
    assert_eq!(kernel.mood.lock().unwrap().sent, frames(0..4));
}

/// A UDP datagram over IPv4 with checksums that tcpdump finds correct, and where they are.
const DATAGRAM: &[u8] = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0F\0\0#\x124@\0@\x11\xa7U\xc0\0\x02\x01\xc63d\x07\x94\x04\0\0\x9cA\x14\xe9\0\x0b\x8f\x0codd";
const IP_CHECKSUM: usize = 14 + 10;
const UDP_CHECKSUM: usize = 14 + 24 + 6;

#[test]
fn checksums_and_tags_are_made_when_they_are_asked_for() {
    let mut bench = bench();
    let mut blank = DATAGRAM.to_vec();
    blank[IP_CHECKSUM..IP_CHECKSUM + 2].fill(0xaa);
    blank[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0xbb);
    let both = Offload::TX_IP_CHECKSUM | Offload::TX_UDP_CHECKSUM;
    let mut expected = Vec::new();
    for (flags, l2) in [
        (Offload::empty(), 0),
        (both, 0),
        (both, 14),
        (Offload::TX_UDP_CHECKSUM, 0),
        (both | Offload::TX_VLAN_INSERT, 14),
        (Offload::TX_VLAN_INSERT, 0),
    ] {
        let mut packet = bench.pool.alloc_from(&blank).unwrap();
        packet.set_offload(flags);
        packet.set_vlan_tci(0x2005);
        packet.set_tx_lengths(TxLengths { l2, ..TxLengths::default() });
        bench.burst.push(packet).unwrap();
        let mut frame = blank.clone();
        for (flag, at) in [(Offload::TX_IP_CHECKSUM, IP_CHECKSUM), (Offload::TX_UDP_CHECKSUM, UDP_CHECKSUM)] {
            if flags.contains(flag) {
                frame[at..at + 2].copy_from_slice(&DATAGRAM[at..at + 2]);
            }
        }
        if flags.contains(Offload::TX_VLAN_INSERT) {
            frame.splice(12..12, [0x81, 0x00, 0x20, 0x05]);
        }
        expected.push(frame);
    }
    bench.send();
    assert_eq!(bench.sent(), expected);
}

#[test]
fn checksums_asked_of_what_has_none_drop_by_name() {
    let mut bench = bench();
    bench.offer(&[frame(0, 64), frame(1, 64)]);
    bench.burst[0].set_offload(Offload::TX_TCP_CHECKSUM);
    bench.send();
    assert_eq!((bench.sent(), bench.drops()), (vec![frame(1, 64)], vec![(DropReason::BadHeader, 1)]));
}
