//! Receiving from a ring that a fake kernel fills, with what a kernel writes and with what none should.

use proptest::prelude::*;

use super::super::interface::Interface;
use super::super::ring::RX_OVERHEAD;
use super::super::ring::fake::{self, FakeKernel};
use super::*;
use crate::packet::MbufPoolConfig;

const SLOTS: usize = 8;
const SLOT_SIZE: u32 = 2048;

struct Bench {
    receiver: Receiver,
    kernel: FakeKernel,
    pool: MbufPool,
    counters: Counters,
    burst: Burst,
}

fn bench(mbufs: usize, data_room: usize) -> Bench {
    let (slots, kernel) = fake::ring(SLOTS as u32, SLOT_SIZE);
    let pool = MbufPool::on_heap(&MbufPoolConfig::new("rx", mbufs).data_room(data_room).cache(0)).unwrap();
    let shared = Arc::new(Shared::new(Interface::new("lo").unwrap(), 1500));
    let receiver = Receiver::new(slots, pool.clone(), shared);
    Bench { receiver, kernel, pool, counters: Counters::new(), burst: Burst::default() }
}

impl Bench {
    fn receive(&mut self) -> Vec<Vec<u8>> {
        self.receiver.receive(&mut self.burst, &self.counters);
        self.burst.drain().map(|packet| packet.segments().collect::<Vec<_>>().concat()).collect()
    }

    /// All slots are the kernel's, and all mbufs are home.
    fn assert_balanced(&self) {
        for index in 0..SLOTS {
            assert_eq!(self.kernel.status(index), libc::TP_STATUS_KERNEL, "slot {index}");
        }
        assert_eq!(self.pool.counts().in_use, 0);
    }
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + number) as u8).collect()
}

#[test]
fn frames_come_out_as_they_went_in_and_in_order_round_and_round() {
    let mut bench = bench(64, 2048);
    let mut at = 0;
    for round in 0..10 {
        let count = 1 + round % SLOTS;
        let sent: Vec<_> = (0..count).map(|number| frame(number, 60 + round * 140 + number)).collect();
        for frame in &sent {
            bench.kernel.deliver(at, frame);
            at = (at + 1) % SLOTS;
        }
        assert_eq!(bench.receive(), sent);
        bench.assert_balanced();
    }
    assert!(bench.receive().is_empty());
    assert_eq!(bench.counters.all_drops().count(), 0);
}

#[test]
fn a_burst_takes_no_more_than_it_has_room_for() {
    let mut bench = bench(64, 2048);
    bench.burst = Burst::new(3);
    for index in 0..SLOTS {
        bench.kernel.deliver(index, &frame(index, 60));
    }
    assert!(bench.burst.push(bench.pool.alloc_from(&[1; 20]).unwrap()).is_ok());
    assert_eq!(bench.receive(), [vec![1; 20], frame(0, 60), frame(1, 60)]);
    assert_eq!(bench.receive(), [frame(2, 60), frame(3, 60), frame(4, 60)]);
    assert_eq!(bench.receive(), [frame(5, 60), frame(6, 60), frame(7, 60)]);
    bench.assert_balanced();
}

#[test]
fn a_tag_that_was_taken_out_is_put_back() {
    let mut bench = bench(64, 2048);
    let plain = frame(0, 64);
    let with = |tpid: u16, tci: u16| {
        let mut tagged = plain.clone();
        tagged.splice(12..12, tpid.to_be_bytes().into_iter().chain(tci.to_be_bytes()));
        tagged
    };
    let told = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
    for (index, (status, tpid)) in
        [(told, 0x88a8), (told, 0x8100), (libc::TP_STATUS_VLAN_VALID, 0), (0, 0x8100)].into_iter().enumerate()
    {
        bench.kernel.deliver_as(index, &plain, |header, _| {
            header.tp_status |= status;
            header.tp_vlan_tci = 0x602a;
            header.tp_vlan_tpid = tpid;
        });
    }
    assert_eq!(bench.receive(), [with(0x88a8, 0x602a), with(0x8100, 0x602a), with(0x8100, 0x602a), plain]);
    bench.assert_balanced();
}

#[test]
fn a_frame_longer_than_an_mbuf_is_chained_tag_and_all() {
    let mut bench = bench(64, 256);
    let long = frame(3, 1500);
    bench.kernel.deliver(0, &long);
    bench.kernel.deliver_as(1, &long, |header, _| {
        header.tp_status |= libc::TP_STATUS_VLAN_VALID;
        header.tp_vlan_tci = 1;
    });
    let mut tagged = long.clone();
    tagged.splice(12..12, [0x81, 0, 0, 1]);
    assert_eq!(bench.receive(), [long, tagged]);
    bench.assert_balanced();
}

#[test]
fn without_mbufs_frames_are_dropped_by_name_and_slots_go_back() {
    let mut bench = bench(3, 2048);
    for index in 0..5 {
        bench.kernel.deliver(index, &frame(index, 60));
    }
    assert_eq!(bench.receive(), [frame(0, 60), frame(1, 60), frame(2, 60)]);
    assert_eq!(bench.counters.drops(DropReason::NoMbuf), 2);
    bench.assert_balanced();
    bench.kernel.deliver(5, &frame(9, 60));
    assert_eq!(bench.receive(), [frame(9, 60)]);
}

#[test]
fn a_chain_that_the_pool_has_too_few_for_is_dropped_and_the_next_frame_is_whole() {
    // Three mbufs for bursts of two frames: the second one's chain of four does not come about.
    let mut bench = bench(3, 128);
    bench.kernel.deliver(0, &frame(0, 60));
    bench.kernel.deliver(1, &frame(1, 500));
    bench.kernel.deliver(2, &frame(2, 60));
    assert_eq!(bench.receive(), [frame(0, 60), frame(2, 60)]);
    assert_eq!(bench.counters.drops(DropReason::NoMbuf), 1);
    bench.assert_balanced();
}

#[test]
fn what_does_not_fit_a_slot_or_is_no_frame_is_dropped_by_name() {
    let mut bench = bench(64, 2048);
    let good = frame(1, 100);
    bench.kernel.deliver(0, &frame(0, 3000));
    bench.kernel.deliver_as(1, &good, |header, _| header.tp_mac = 2040);
    bench.kernel.deliver_as(2, &good, |header, _| header.tp_mac = 0);
    bench.kernel.deliver_as(3, &good, |header, _| header.tp_snaplen = u32::MAX);
    bench.kernel.deliver_as(4, &good, |header, _| (header.tp_snaplen, header.tp_len) = (u32::MAX, u32::MAX));
    bench.kernel.deliver(5, &good[..13]);
    bench.kernel.deliver_as(6, &good, |_, address| address.sll_pkttype = libc::PACKET_OUTGOING);
    bench.kernel.deliver(7, &good);
    assert_eq!(bench.receive(), [good]);
    let drops: Vec<_> = bench.counters.all_drops().collect();
    assert_eq!(drops, [(DropReason::RxTooLong, 1), (DropReason::RxMalformed, 5)]);
    bench.assert_balanced();
}

#[test]
fn the_longest_frame_that_fits_a_slot_comes_through() {
    let mut bench = bench(64, 2048);
    let longest = SLOT_SIZE as usize - RX_OVERHEAD;
    bench.kernel.deliver(0, &frame(0, longest));
    bench.kernel.deliver(1, &frame(0, longest + 1));
    assert_eq!(bench.receive(), [frame(0, longest)]);
    assert_eq!(bench.counters.drops(DropReason::RxTooLong), 1);
}

/// A UDP datagram over IPv4 whose checksum is the pseudo header's sum, and the same with the checksum 0x8f0c,
/// which tcpdump finds correct.
const PARTIAL: &[u8] = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0F\0\0#\x124@\0@\x11\xa7U\xc0\0\x02\x01\xc63d\x07\x94\x04\0\0\x9cA\x14\xe9\0\x0b\xecXodd";
const FIELD: usize = 14 + 24 + 6;

fn finished() -> Vec<u8> {
    let mut finished = PARTIAL.to_vec();
    finished[FIELD..FIELD + 2].copy_from_slice(&[0x8f, 0x0c]);
    finished
}

#[test]
fn a_checksum_left_to_hardware_is_finished_and_one_that_cannot_be_is_counted() {
    let mut bench = bench(64, 2048);
    let unready = |header: &mut libc::tpacket2_hdr, _: &mut libc::sockaddr_ll| {
        header.tp_status |= libc::TP_STATUS_CSUMNOTREADY;
    };
    let mut other = PARTIAL.to_vec();
    other[14 + 9] = 132; // SCTP
    bench.kernel.deliver_as(0, PARTIAL, unready);
    bench.kernel.deliver(1, PARTIAL);
    bench.kernel.deliver_as(2, &other, unready);
    assert_eq!(bench.receive(), [finished(), PARTIAL.to_vec(), other]);
    assert_eq!(bench.receiver.shared.unfinished_checksums(), 1);
    bench.assert_balanced();
}

#[test]
fn a_checksum_is_finished_in_a_chain_too() {
    let mut bench = bench(64, 16);
    bench.kernel.deliver_as(0, PARTIAL, |header, _| header.tp_status |= libc::TP_STATUS_CSUMNOTREADY);
    assert_eq!(bench.receive(), [finished()]);
}

proptest! {
    /// Whatever stands in the headers, each slot ends as a frame or a counted drop, and goes back.
    #[test]
    fn any_header_is_survived(
        headers in prop::collection::vec(
            (any::<u32>(), prop_oneof![0..2100_u32, any::<u32>()], prop_oneof![0..2100_u32, any::<u32>()],
             any::<u16>(), any::<u16>(), any::<u16>(), 0..6_u8, any::<bool>()),
            1..=SLOTS,
        ),
        content in prop::collection::vec(any::<u8>(), 14..200),
    ) {
        let mut bench = bench(16, 512);
        let mut outgoing = 0;
        for (index, &(status, len, kept, mac, tci, tpid, kind, same)) in headers.iter().enumerate() {
            outgoing += u64::from(kind == libc::PACKET_OUTGOING);
            bench.kernel.deliver_as(index, &content, |header, address| {
                header.tp_status = status | libc::TP_STATUS_USER;
                (header.tp_len, header.tp_snaplen) = if same { (kept, kept) } else { (len, kept) };
                header.tp_mac = if same { mac % 2048 } else { mac };
                (header.tp_vlan_tci, header.tp_vlan_tpid) = (tci, tpid);
                address.sll_pkttype = kind;
            });
        }
        let received = bench.receive();
        let dropped: u64 = bench.counters.all_drops().map(|(_, count)| count).sum();
        prop_assert_eq!(received.len() as u64 + dropped + outgoing, headers.len() as u64);
        prop_assert!(received.iter().all(|frame| (14..=2048).contains(&frame.len())));
        bench.assert_balanced();
    }
}
