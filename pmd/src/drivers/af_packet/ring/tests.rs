//! Measures, and who owns a slot when.

use super::*;

#[test]
fn overheads_are_the_kernels() {
    assert_eq!((RX_OVERHEAD, TX_OVERHEAD), (66, 32));
    assert_eq!(TX_OVERHEAD, libc::TPACKET2_HDRLEN - size_of::<sockaddr_ll>());
}

#[test]
fn slots_do_not_straddle_blocks_and_stay_in_the_ring() {
    let ring = Geometry { block_size: 4096, blocks: 3, slot_size: 1552 };
    assert_eq!((ring.slots_per_block(), ring.slots(), ring.len()), (2, 6, 12_288));
    let offsets: Vec<_> = (0..6).map(|index| ring.offset(index)).collect();
    assert_eq!(offsets, [0, 1552, 4096, 5648, 8192, 9744]);
}

#[test]
fn a_mapping_too_small_for_its_rings_is_refused() {
    let ring = Geometry { block_size: 4096, blocks: 2, slot_size: 2048 };
    assert!(fake::mapping(8192).split(&[ring]).is_some());
    assert!(fake::mapping(8192).split(&[ring, ring]).is_none());
}

#[test]
fn bytes_outside_a_slot_or_in_its_header_cannot_be_had() {
    let (mut slots, kernel) = fake::ring(4, 256);
    kernel.deliver(0, &[0; 60]);
    let mut slot = slots.filled(0).unwrap();
    assert!(slot.bytes(32, 224).is_some());
    for (offset, len) in [(32, 225), (31, 1), (0, 4), (256, 1), (usize::MAX, 2), (64, usize::MAX)] {
        assert!(slot.bytes(offset, len).is_none(), "{len} bytes at {offset}");
    }
}

#[test]
fn a_filled_slot_goes_back_when_it_is_dropped() {
    let (mut slots, kernel) = fake::ring(4, 256);
    assert!(slots.filled(0).is_none());
    for index in [0, 1, 3] {
        kernel.deliver(index, &[7; 60]);
    }
    assert_eq!((slots.ready(0, 32), slots.ready(0, 1), slots.ready(3, 32)), (2, 1, 3));
    drop(slots.filled(0));
    assert!(slots.filled(0).is_none());
    assert_eq!(kernel.status(0), libc::TP_STATUS_KERNEL);
    kernel.deliver(0, &[7; 60]);
    kernel.deliver(2, &[7; 60]);
    assert_eq!(slots.ready(1, 32), 4, "no slot is counted twice");
}

#[test]
fn transmit_slots_are_whose_their_status_says() {
    let (mut slots, kernel) = fake::ring(4, 256);
    let mut slot = slots.vacant(0).unwrap();
    assert!(slot.room(225).is_none());
    slot.room(60).unwrap().fill(9);
    slot.queue(60);
    assert_eq!(slots.state(0), TxState::Queued);
    assert!(slots.vacant(0).is_none());
    assert!(slots.advance(0, 2) && slots.state(0) == TxState::Vacant && slots.state(2) == TxState::Queued);
    assert_eq!(kernel.frame(2), [9; 60]);
    for (status, state) in [
        (libc::TP_STATUS_SENDING, TxState::Sending),
        (libc::TP_STATUS_WRONG_FORMAT, TxState::Refused),
        (libc::TP_STATUS_AVAILABLE | libc::TP_STATUS_TS_SOFTWARE, TxState::Vacant),
    ] {
        kernel.set_status(1, status);
        assert_eq!(slots.state(1), state);
    }
    kernel.set_status(1, libc::TP_STATUS_SENDING);
    assert!(!slots.advance(2, 1), "what is being sent is not written to");
    slots.withdraw(1);
    assert_eq!(slots.state(1), TxState::Sending, "nor taken back");
}
