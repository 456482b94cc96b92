//! Both sides of both kinds of rings against each other, and against one that does not keep to the rules.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use proptest::prelude::*;

use super::device::MAX_CHAIN;
use super::layout::{INDIRECT, NEXT, WRITE, packed_word, split_word};
use super::shared_memory::{SharedMemory, SharedRegion};
use super::*;

/// The driver's address of the shared memory.
const GUEST: u64 = 0x10_0000;
/// Where in it buffers are; rings are before, tables behind.
const BUFFERS: u64 = 0x8_0000;
const TABLES: u64 = 0xc_0000;
const LEN: usize = 0x10_0000;

/// Memory with a ring in it.
struct Lab {
    memory: Arc<SharedMemory>,
    area: RingArea,
}

impl Lab {
    fn new(format: Format, size: u16) -> Self {
        let memory =
            Arc::new(SharedMemory::new(vec![SharedRegion::anonymous(GUEST, GUEST, LEN).unwrap()]).unwrap());
        let at = |offset| memory.guest(GUEST + offset, 0x1_0000).unwrap();
        // SAFETY: each part has 64 KiB or more, which is more than 2048 descriptors need, and the memory is kept.
        let area = unsafe { RingArea::new(format, size, at(0), at(0x2_0000), at(0x4_0000), memory.clone()) };
        Self { area: area.unwrap(), memory }
    }

    fn driver(&self, features: Features) -> AnyDriverRing {
        AnyDriverRing::new(self.area.clone(), features)
    }

    fn device(&self, features: Features) -> AnyDeviceRing {
        let base = match self.area.format() {
            Format::Split => 0,
            Format::Packed => 0x8000_8000,
        };
        AnyDeviceRing::new(self.area.clone(), features, base)
    }

    fn table(&self, id: u16) -> Table {
        let address = GUEST + TABLES + u64::from(id) * 128;
        // SAFETY: 8 descriptors for each of 2048 identifiers are free behind the buffers.
        unsafe { Table::new(self.memory.guest(address, 128).unwrap(), address) }
    }

    /// Word `index` of descriptor `at`.
    fn poke(&self, at: u16, address: u64, rest: u64) {
        // SAFETY: tests name descriptors that the ring has.
        let words = unsafe { self.area.descriptor(at) };
        words[0].store(address, Ordering::Relaxed);
        words[1].store(rest, Ordering::Relaxed);
    }

    fn available(&self, word: usize) -> &AtomicU16 {
        // SAFETY: tests name words that the part has.
        unsafe { self.area.driver_word(word) }
    }

    fn used(&self, word: usize) -> &AtomicU16 {
        // SAFETY: tests name words that the part has.
        unsafe { self.area.device_word(word) }
    }
}

macro_rules! driver {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyDriverRing::Split($ring) => $call,
            AnyDriverRing::Packed($ring) => $call,
        }
    };
}
macro_rules! device {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyDeviceRing::Split($ring) => $call,
            AnyDeviceRing::Packed($ring) => $call,
        }
    };
}

/// What a side does next.
#[derive(Debug, Clone)]
enum Step {
    /// The driver offers so many buffers by themselves.
    Each(usize),
    /// It offers a chain of so many parts, of which the device reads so many, by a table or not.
    Chain(usize, usize, bool),
    /// The device uses up to so many, in this many calls.
    Use(usize, usize),
    /// The driver takes back up to so many.
    Reap(usize),
    /// The device goes away and comes back where it was.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..40usize).prop_map(Step::Each),
        2 => (1..8usize, 0..8usize, any::<bool>()).prop_map(|(parts, read, table)| Step::Chain(parts, read.min(parts), table)),
        4 => (1..40usize, 1..3usize).prop_map(|(most, calls)| Step::Use(most, calls)),
        4 => (1..40usize).prop_map(Step::Reap),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

/// A ring driven by `steps`, against two lists that say what must come.
fn run(format: Format, size: u16, features: Features, direction: Direction, steps: &[Step]) {
    let lab = Lab::new(format, size);
    let (mut driver, mut device) = (lab.driver(features), lab.device(features));
    // Identifiers and parts that the device has not used, and how many of those it reads; identifiers and lengths that the driver has not taken back.
    let mut offered: VecDeque<(u16, Vec<Buffer>, usize)> = VecDeque::new();
    let mut used: VecDeque<(u16, u32)> = VecDeque::new();
    let mut serial = 0u64;
    let mut buffer = || {
        serial += 1;
        Buffer { address: GUEST + BUFFERS + serial % 0x3_0000, len: 1 + (serial % 1500) as u32 }
    };
    for step in steps {
        match *step {
            Step::Each(count) => {
                let read = usize::from(direction == Direction::ToDevice);
                let buffers: Vec<_> = (0..count).map(|_| buffer()).collect();
                let placed = driver!(&mut driver, ring => {
                    let free = ring.free();
                    let placed = ring.offer_each(&buffers, direction, |at, id| offered.push_back((id, vec![buffers[at]], read)));
                    assert_eq!(placed, count.min(free));
                    let _ = ring.publish();
                    placed
                });
                assert!(placed <= count);
            }
            Step::Chain(parts, read, by_table) => {
                let parts: Vec<_> = (0..parts).map(|_| buffer()).collect();
                driver!(&mut driver, ring => {
                    let by_table = by_table && features.contains(Features::INDIRECT);
                    let table = ring.next_id().filter(|_| by_table).map(|id| lab.table(id));
                    let expected = ring.next_id();
                    let needs = if table.is_some() { 1 } else { parts.len() };
                    let free = ring.free();
                    let id = ring.offer_chain(&parts[..read], &parts[read..], table);
                    assert_eq!(id.is_some(), free >= needs);
                    if let Some(id) = id {
                        assert_eq!(Some(id), expected);
                        offered.push_back((id, parts, read));
                    }
                    let _ = ring.publish();
                });
            }
            Step::Use(most, calls) => {
                for _ in 0..calls {
                    let mut heads = [Head::default(); 64];
                    device!(&mut device, ring => {
                        let found = ring.look(&mut heads[..most]).unwrap();
                        assert_eq!(found, most.min(offered.len()));
                        let mut chain = Chain::new();
                        for head in &heads[..found] {
                            let (id, parts, read) = offered.pop_front().unwrap();
                            assert_eq!(head.id, id);
                            ring.chain(head, &lab.memory, &mut chain).unwrap();
                            let seen: Vec<_> =
                                chain.iter().map(|part| Buffer { address: part.address, len: part.len }).collect();
                            assert_eq!(seen, parts);
                            let written: Vec<_> = chain.iter().map(|part| part.flags & WRITE != 0).collect();
                            assert!(written.iter().enumerate().all(|(at, written)| *written == (at >= read)));
                        }
                        let lens = |at: usize| match direction {
                            Direction::ToDevice => 0,
                            Direction::FromDevice => 12 + at as u32,
                        };
                        ring.give_back(&heads[..found], lens);
                        let _ = ring.wants_call();
                        used.extend(heads[..found].iter().enumerate().map(|(at, head)| (head.id, lens(at))));
                    });
                }
            }
            Step::Reap(most) => driver!(&mut driver, ring => {
                let waiting = used.len();
                assert_eq!(ring.has_used(), waiting > 0);
                let taken = ring
                    .reap(most, |id, len| {
                        let (expected, written) = used.pop_front().unwrap();
                        assert_eq!(id, expected);
                        if direction == Direction::FromDevice {
                            assert_eq!(len, written);
                        }
                    })
                    .unwrap();
                assert_eq!(taken, most.min(waiting));
            }),
            Step::Restart => device = AnyDeviceRing::new(lab.area.clone(), features, device.base()),
        }
    }
}

fn cases() -> impl Strategy<Value = (Format, u16, Features)> {
    let size = prop_oneof![
        prop::sample::select(vec![1, 2, 16, 64, 256, 1024]).prop_map(|size| (Format::Split, size)),
        prop::sample::select(vec![1, 2, 7, 64, 100, 256, 1000]).prop_map(|size| (Format::Packed, size)),
    ];
    let features =
        prop::sample::subsequence(vec![Features::IN_ORDER, Features::EVENT_INDEX, Features::INDIRECT], 0..=3);
    (size, features).prop_map(|((format, size), features)| (format, size, features.into_iter().collect()))
}

proptest! {
    #[test]
    fn what_a_driver_offers_comes_back_in_order(
        (format, size, features) in cases(),
        from_device in any::<bool>(),
        steps in steps(),
    ) {
        let direction = if from_device { Direction::FromDevice } else { Direction::ToDevice };
        run(format, size, features, direction, &steps);
    }
}

#[test]
fn sleepers_are_told_once_and_those_who_poll_are_not() {
    for format in [Format::Split, Format::Packed] {
        for features in [Features::empty(), Features::EVENT_INDEX] {
            let lab = Lab::new(format, 8);
            let (mut driver, mut device) = (lab.driver(features), lab.device(features));
            let buffer = Buffer { address: GUEST + BUFFERS, len: 64 };
            let offer = |driver: &mut AnyDriverRing| {
                driver!(driver, ring => {
                    assert_eq!(ring.offer_each(&[buffer], Direction::ToDevice, |_, _| {}), 1);
                    ring.publish()
                })
            };
            let use_all = |device: &mut AnyDeviceRing| {
                let mut heads = [Head::default(); 8];
                device!(device, ring => {
                    let found = ring.look(&mut heads).unwrap();
                    ring.give_back(&heads[..found], |_| 0);
                    ring.wants_call()
                })
            };
            let reap = |driver: &mut AnyDriverRing| driver!(driver, ring => ring.reap(8, |_, _| {}).unwrap());

            assert!(!offer(&mut driver), "{format:?}: the device polls");
            assert!(device.arm(), "{format:?}: something waits already");
            device.disarm();
            assert!(!use_all(&mut device), "{format:?}: the driver polls");
            assert!(!device.arm());
            assert!(offer(&mut driver), "{format:?}: the device sleeps");
            device.disarm();
            assert!(driver.arm(), "{format:?}: something is used already");
            driver.disarm();
            assert_eq!(reap(&mut driver), 1);
            assert!(!driver.arm());
            assert!(use_all(&mut device), "{format:?}: the driver sleeps");
            driver.disarm();
            assert_eq!(reap(&mut driver), 1);
            assert!(!offer(&mut driver) && !use_all(&mut device));
        }
    }
}

#[test]
fn a_split_driver_that_jumps_or_names_what_is_not_there_is_found_out() {
    let lab = Lab::new(Format::Split, 4);
    let mut device = lab.device(Features::empty());
    let mut look = || device!(&mut device, ring => ring.look(&mut [Head::default(); 4]));
    lab.available(1).store(5, Ordering::Relaxed);
    assert_eq!(look(), Err(Broken::Index { ahead: 5, size: 4 }));
    lab.available(1).store(u16::MAX, Ordering::Relaxed);
    assert_eq!(look(), Err(Broken::Index { ahead: u16::MAX, size: 4 }));
    lab.available(1).store(1, Ordering::Relaxed);
    lab.available(2).store(4, Ordering::Relaxed);
    assert_eq!(look(), Err(Broken::Buffer { id: 4, size: 4 }));
    lab.available(2).store(3, Ordering::Relaxed);
    assert_eq!(look(), Ok(1));
}

#[test]
fn chains_without_end_and_tables_that_are_none_are_found_out() {
    let lab = Lab::new(Format::Split, 4);
    let device = lab.device(Features::empty());
    let chain_of = |flags: u16, next: u16, address: u64, len: u32| {
        let head = Head { address, len, flags, id: 0, at: next, slots: 0 };
        device!(&device, ring => ring.chain(&head, &lab.memory, &mut Chain::new()))
    };
    // 1 -> 2 -> 1 ...
    lab.poke(1, GUEST, split_word(1, NEXT, 2));
    lab.poke(2, GUEST, split_word(1, NEXT, 1));
    assert_eq!(chain_of(NEXT, 1, GUEST, 1), Err(BadChain::TooLong));
    lab.poke(2, GUEST, split_word(1, NEXT, 4));
    assert_eq!(chain_of(NEXT, 1, GUEST, 1), Err(BadChain::Outside { next: 4, size: 4 }));
    // Tables: of no length, of half a descriptor, outside, across the end, at an odd address, one in another.
    for (address, len) in [
        (GUEST + BUFFERS, 0),
        (GUEST + BUFFERS, 24),
        (GUEST - 16, 16),
        (GUEST + LEN as u64 - 16, 32),
        (GUEST + BUFFERS + 4, 16),
        (u64::MAX - 8, 16),
        (GUEST, u32::MAX - 15),
    ] {
        assert_eq!(chain_of(INDIRECT, 0, address, len), Err(BadChain::Table { address, len }));
    }
    lab.poke(3, GUEST, split_word(16, INDIRECT, 0));
    assert!(matches!(chain_of(INDIRECT, 0, GUEST + 3 * 16, 16), Err(BadChain::Table { .. })));
    // A table whose descriptors go round, and one that leaves it.
    lab.poke(0, GUEST, split_word(1, NEXT, 0));
    assert_eq!(chain_of(INDIRECT, 0, GUEST, 16), Err(BadChain::TooLong));
    lab.poke(0, GUEST, split_word(1, NEXT, 1));
    assert_eq!(chain_of(INDIRECT, 0, GUEST, 16), Err(BadChain::Outside { next: 1, size: 1 }));
}

#[test]
fn a_packed_driver_that_names_what_is_not_there_is_found_out() {
    let lab = Lab::new(Format::Packed, 4);
    let mut device = lab.device(Features::empty());
    let mut look = || device!(&mut device, ring => ring.look(&mut [Head::default(); 4]));
    assert_eq!(look(), Ok(0));
    lab.poke(0, GUEST, packed_word(1, 4, layout::AVAIL));
    assert_eq!(look(), Err(Broken::Buffer { id: 4, size: 4 }));
    for at in 0..4 {
        lab.poke(at, GUEST, packed_word(1, 0, layout::AVAIL | NEXT));
    }
    assert_eq!(look(), Err(Broken::Endless));
    // A long table is cut at what a chain may have.
    let big = Lab::new(Format::Packed, 512);
    let device = big.device(Features::empty());
    let head = Head { address: GUEST, len: 16 * 300, flags: INDIRECT, ..Head::default() };
    let chain = device!(&device, ring => ring.chain(&head, &big.memory, &mut Chain::new()));
    assert_eq!(chain, Err(BadChain::TooLong));
    const { assert!(MAX_CHAIN < 300) };
}

#[test]
fn a_device_that_gives_back_what_it_has_not_is_found_out() {
    for in_order in [Features::empty(), Features::IN_ORDER] {
        let lab = Lab::new(Format::Split, 4);
        let mut driver = lab.driver(in_order);
        let AnyDriverRing::Split(ring) = &mut driver else { panic!("a split ring") };
        let buffer = Buffer { address: GUEST, len: 1 };
        assert_eq!(ring.offer_each(&[buffer; 2], Direction::ToDevice, |_, _| {}), 2);
        let _ = ring.publish();
        lab.used(1).store(3, Ordering::Relaxed);
        assert_eq!(ring.reap(8, |_, _| {}), Err(Broken::Index { ahead: 3, size: 4 }));
        lab.used(1).store(1, Ordering::Relaxed);
        for id in [3u16, 4, u16::MAX] {
            lab.used(2).store(id, Ordering::Relaxed);
            assert_eq!(ring.reap(8, |_, _| {}), Err(Broken::Buffer { id: u32::from(id), size: 4 }));
        }
        // Beyond 16 bits.
        lab.used(2).store(0, Ordering::Relaxed);
        lab.used(3).store(1, Ordering::Relaxed);
        assert_eq!(ring.reap(8, |_, _| {}), Err(Broken::Buffer { id: 0x1_0000, size: 4 }));
        lab.used(3).store(0, Ordering::Relaxed);
        assert_eq!(ring.reap(8, |_, _| {}), Ok(1));
        // Twice the same.
        lab.used(1).store(2, Ordering::Relaxed);
        lab.used(6).store(0, Ordering::Relaxed);
        assert_eq!(ring.reap(8, |_, _| {}), Err(Broken::Buffer { id: 0, size: 4 }));

        let lab = Lab::new(Format::Packed, 4);
        let mut driver = lab.driver(in_order);
        let AnyDriverRing::Packed(ring) = &mut driver else { panic!("a packed ring") };
        assert_eq!(ring.offer_each(&[buffer; 2], Direction::ToDevice, |_, _| {}), 2);
        for id in [2, 3, 4, u16::MAX] {
            lab.poke(0, GUEST, packed_word(0, id, layout::AVAIL | layout::USED));
            assert_eq!(ring.reap(8, |_, _| {}), Err(Broken::Buffer { id: u32::from(id), size: 4 }));
        }
        lab.poke(0, GUEST, packed_word(0, 0, layout::AVAIL | layout::USED));
        assert_eq!(ring.reap(8, |_, _| {}), Ok(1));
        // Nothing beyond what was offered is looked at.
        for at in 0..4 {
            lab.poke(at, GUEST, packed_word(0, 1, layout::AVAIL | layout::USED));
        }
        assert_eq!(ring.reap(8, |_, _| {}), Ok(1));
        assert_eq!(ring.reap(8, |_, _| {}), Ok(0));
    }
}

/// As after a device that died, whose front end says that the ring begins.
#[test]
fn a_device_goes_on_where_a_split_ring_says_that_it_was() {
    let lab = Lab::new(Format::Split, 4);
    let mut driver = lab.driver(Features::empty());
    let AnyDriverRing::Split(driver) = &mut driver else { panic!("a split ring") };
    let buffer = Buffer { address: GUEST, len: 1 };
    let mut heads = [Head::default(); 4];
    for turn in 0..5 {
        assert_eq!(driver.offer_each(&[buffer; 3], Direction::ToDevice, |_, _| {}), 3);
        let _ = driver.publish();
        let AnyDeviceRing::Split(mut device) = lab.device(Features::empty()) else { panic!("a split ring") };
        assert_eq!(device.look(&mut heads), Ok(3), "turn {turn}");
        device.give_back(&heads[..3], |_| 0);
        assert_eq!(device.base(), 3 * (turn + 1));
        assert_eq!(driver.reap(8, |_, _| {}), Ok(3));
    }
}

#[test]
fn a_device_lets_a_driver_ahead_that_it_has_caught_in_a_packed_ring() {
    for (format, kept) in [(Format::Packed, true), (Format::Split, false)] {
        let lab = Lab::new(format, 256);
        let (mut driver, mut device) = (lab.driver(Features::empty()), lab.device(Features::empty()));
        // So many more are available; how many the device takes, or none when it waits for more.
        let mut burst = |more: usize| {
            let buffers = vec![Buffer { address: GUEST + BUFFERS, len: 64 }; more];
            driver!(&mut driver, ring => {
                while ring.reap(32, |_, _| ()).unwrap() > 0 {}
                assert_eq!(ring.offer_each(&buffers, Direction::ToDevice, |_, _| ()), more);
                let _ = ring.publish();
            });
            device!(&mut device, ring => {
                if ring.is_too_close(32) {
                    return None;
                }
                let mut heads = [Head::default(); 32];
                let count = ring.look(&mut heads).unwrap();
                ring.took(count, 32);
                ring.give_back(&heads[..count], |_| 0);
                Some(count)
            })
        };
        assert_eq!([burst(32), burst(32), burst(5)], [Some(32), Some(32), Some(5)]);
        // It was caught: two lines more than a burst are 40 descriptors.
        let expected = if kept { [None, Some(32), None] } else { [Some(32), Some(8), Some(0)] };
        assert_eq!([burst(32), burst(8), burst(0)], expected, "{format:?}");
    }
}
