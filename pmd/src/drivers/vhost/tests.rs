//! What drivers do that the specification would not have them do, and that others put up with.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use super::rx::DeviceRx;
use super::tx::DeviceTx;
use crate::lane::Receive;
use crate::port::{Counters, DropReason};
use crate::virtqueue::layout::{AVAIL, INDIRECT, NEXT, WRITE};
use crate::virtqueue::shared_memory::{SharedMemory, SharedRegion};
use crate::virtqueue::{AnyDeviceRing, Bell, Features, Format, RingArea, Ringer};
use crate::{Burst, MbufPool, MbufPoolConfig};

/// The driver's address of the shared memory, and where in it the rings' areas, a table, a header and data are.
const GUEST: u64 = 0x10_0000;
const TABLE: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const DATA: u64 = 0x5000;

/// Receives what the first descriptor of a packed ring says; and how many were malformed.
fn receive(
    first: (u64, u32, u16),
    table: &[(u64, u32, u16)],
    second: Option<(u64, u32, u16)>,
) -> (Vec<u8>, u64) {
    let region = SharedRegion::anonymous(GUEST, GUEST, 0x1_0000).unwrap();
    let memory = Arc::new(SharedMemory::new(vec![region]).unwrap());
    let at = |offset: u64| memory.guest(GUEST + offset, 0x1000).unwrap();
    // SAFETY: each part has 4 KiB, which is more than 8 descriptors need, and the memory is kept.
    let area =
        unsafe { RingArea::new(Format::Packed, 8, at(0), at(0x1000), at(0x2000), memory.clone()) }.unwrap();
    let word = |len: u32, id: u16, flags: u16| u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
    let write = |part: u64, index: usize, (address, len, flags): (u64, u32, u16)| {
        let words = [address, word(len, 3, flags)];
        // SAFETY: the parts have room for 256 descriptors, and nobody else uses them now.
        unsafe { at(part).cast::<[u64; 2]>().add(index).write(words) };
    };
    for (index, (address, len, flags)) in [Some(first), second].into_iter().flatten().enumerate() {
        write(0, index, (address, len, flags | AVAIL));
    }
    table.iter().enumerate().for_each(|(index, descriptor)| write(TABLE, index, *descriptor));
    for index in 0..200u8 {
        // SAFETY: the page has as many bytes.
        unsafe { at(DATA).add(index.into()).write(index) };
    }
    let features = Features::VERSION_1 | Features::RING_PACKED | Features::INDIRECT;
    let ring = AnyDeviceRing::new(area, features, 0x8000_8000);
    let pool = MbufPool::on_heap(&MbufPoolConfig::new("vhost", 64)).unwrap();
    let mut queue = DeviceRx::new(ring, features, memory, None, Some(pool));
    let (mut burst, counters) = (Burst::new(4), Counters::new());
    queue.receive(&mut burst, &counters).unwrap();
    let bytes =
        burst.drain().flat_map(|packet| packet.segments().flatten().copied().collect::<Vec<_>>()).collect();
    (bytes, counters.drops(DropReason::RxMalformed))
}

/// DPDK's driver never clears the mark that its tables of packed rings are made with: their headers are marked as for the
/// device to write.
#[test]
fn a_header_that_is_marked_writable_in_a_table_is_read() {
    let table = [(GUEST + HEADER, 12, WRITE), (GUEST + DATA, 150, NEXT), (GUEST + DATA + 150, 50, 0)];
    let (bytes, malformed) = receive((GUEST + TABLE, 48, INDIRECT), &table, None);
    assert_eq!((bytes, malformed), ((0..200).collect(), 0));
}

#[test]
fn a_writable_buffer_in_the_ring_is_not_read() {
    for (first, second) in [(NEXT | WRITE, WRITE), (NEXT, WRITE)] {
        let second = (GUEST + DATA, 200, second);
        let (bytes, malformed) = receive((GUEST + HEADER, 12, first), &[], Some(second));
        assert_eq!((bytes.len(), malformed), (0, 1));
    }
}

/// A back end that was killed after it had given buffers back, and before it called, leaves a driver that sleeps: the
/// event that the driver waits for is behind the one that comes.
#[test]
fn a_driver_is_called_once_when_a_device_takes_a_ring_over() {
    let region = SharedRegion::anonymous(0, 0, 0x4000).unwrap();
    let memory = Arc::new(SharedMemory::new(vec![region]).unwrap());
    let at = |offset: u64| memory.guest(offset, 0x1000).unwrap();
    for format in [Format::Split, Format::Packed] {
        // SAFETY: each part has 4 KiB, which is more than 8 descriptors need, and the memory is kept.
        let area =
            unsafe { RingArea::new(format, 8, at(0), at(0x1000), at(0x2000), memory.clone()) }.unwrap();
        let (bell, call) = (Bell::new().unwrap(), Ringer::new().unwrap());
        bell.listen_to(call.as_fd()).unwrap();
        let features = Features::VERSION_1 | Features::EVENT_INDEX;
        let ring = AnyDeviceRing::new(area, features, 0x8000_8000);
        let _queue = DeviceTx::new(ring, features, Arc::clone(&memory), Some(call));
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ready = [PollFd::new(&bell, PollFlags::IN)];
        assert_eq!(poll(&mut ready, Some(&now)).unwrap(), 1, "{format:?}");
    }
}
