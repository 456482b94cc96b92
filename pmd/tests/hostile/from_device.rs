//! A device that does what it should not, at the other end of a `net_virtio_user` port.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::port::registry::open;
use wirerate_pmd::{Burst, PortConfig};

use crate::peer::{Memory, Peer, REPLY, code, halves, wait_for, words};
use crate::rings::{AVAIL, HEADER, MERGEABLE, PACKED, PROTOCOL, RX, TX, USED, VERSION_1, WRITE};
use crate::target::{Bystander, Target, eal, frame, pool};

const IN_ORDER: u64 = 1 << 35;
/// GUEST_CSUM, GUEST_TSO4, GUEST_TSO6.
const RECEIVES_UNFINISHED: u64 = 1 << 1 | 1 << 7 | 1 << 8;
/// Descriptors in the driver's rings.
const SIZE: u16 = 256;
const BROKEN: &str = "virtio_broken_rings";
const MALFORMED: &str = "rx_q0_drop_rx_malformed";

/// A device that has been set up.
struct Device {
    peer: Peer,
    packed: bool,
    regions: Vec<(u64, Memory)>,
    /// Descriptors, driver area, device area of both rings.
    rings: [[u64; 3]; 2],
    /// Where the next buffer is used; the turn for packed rings.
    used: [u16; 2],
    turn: [bool; 2],
    events: Vec<OwnedFd>,
}

/// What the device answers, in place of what it should.
type Lie<'a> = &'a dyn Fn(u32) -> Option<Vec<u8>>;

/// struct virtio_net_config: MAC, status, pairs of queues, MTU.
fn config() -> Vec<u8> {
    let mut bytes = halves(&[0, 12, 0]);
    bytes.extend([2, 0, 0, 0, 0, 9, 1, 0, 1, 0, 0xdc, 5]);
    bytes
}

fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = halves(&[request, REPLY, payload.len() as u32]);
    bytes.extend(payload);
    bytes
}

impl Device {
    /// Lets the driver at `path` set it up; none when the driver leaves before the end.
    fn open(peer: Peer, features: u64, lie: Lie<'_>) -> Option<Self> {
        let packed = features & PACKED != 0;
        let mut device = Self {
            peer,
            packed,
            regions: Vec::new(),
            rings: [[0; 3]; 2],
            used: [0; 2],
            turn: [true; 2],
            events: Vec::new(),
        };
        loop {
            let ([request, flags, _], payload, mut fds) = device.peer.hear()?;
            let word = |at: usize| u64::from_ne_bytes(payload[at..at + 8].try_into().unwrap());
            let half = |at: usize| u32::from_ne_bytes(payload[at..at + 4].try_into().unwrap());
            let answer = match request {
                code::GET_FEATURES => Some(words(&[features | VERSION_1 | PROTOCOL])),
                code::GET_PROTOCOL_FEATURES => Some(words(&[1 | 1 << 3 | 1 << 9 | 1 << 16])),
                code::GET_QUEUE_NUM => Some(words(&[1])),
                code::GET_CONFIG => Some(config()),
                code::SET_MEM_TABLE => {
                    for (index, fd) in fds.drain(..).enumerate() {
                        let at = 8 + 32 * index;
                        let memory = Memory::of_peer(fd, word(at + 24), word(at + 8) as usize);
                        device.regions.push((word(at), memory));
                    }
                    None
                }
                code::SET_VRING_ADDR => {
                    device.rings[half(0) as usize] = [word(8), word(24), word(16)];
                    None
                }
                _ => None,
            };
            device.events.extend(fds);
            let answer = answer.or((flags & 1 << 3 != 0).then(|| words(&[0])));
            if let Some(answer) = answer {
                let bytes = lie(request).unwrap_or_else(|| reply(request, &answer));
                device.peer.send(&bytes, &[]);
            }
            if request == code::SET_VRING_ENABLE && half(0) == 1 {
                return Some(device);
            }
        }
    }

    /// The memory at an address of the driver, and where in it that is.
    fn at(&self, address: u64) -> (&Memory, usize) {
        let (guest, memory) = self
            .regions
            .iter()
            .find(|(guest, memory)| address.wrapping_sub(*guest) < memory.len as u64)
            .unwrap();
        (memory, (address - guest) as usize)
    }

    fn put_u16(&self, address: u64, value: u16) {
        let (memory, at) = self.at(address);
        memory.put_u16(at, value);
    }

    fn get_u16(&self, address: u64) -> u16 {
        let (memory, at) = self.at(address);
        memory.get_u16(at)
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        let (memory, at) = self.at(address);
        memory.put(at, bytes);
    }

    fn get_u64(&self, address: u64) -> u64 {
        let (memory, at) = self.at(address);
        memory.get_u64(at)
    }

    /// The identifier and the address of the buffer that is `ahead` of the next to be used, if it is available. Buffers are of
    /// one descriptor each, and used in order.
    fn available(&self, ring: usize, ahead: u16) -> Option<(u16, u64)> {
        let [descriptors, driver, _] = self.rings[ring];
        if self.packed {
            let place = (self.used[ring] + ahead) % SIZE;
            let turn = self.turn[ring] ^ (self.used[ring] + ahead >= SIZE);
            let rest = self.get_u64(descriptors + 16 * u64::from(place) + 8);
            let flags = (rest >> 48) as u16 & (AVAIL | USED);
            let there = flags == if turn { AVAIL } else { USED };
            return there.then(|| ((rest >> 32) as u16, self.get_u64(descriptors + 16 * u64::from(place))));
        }
        let next = self.used[ring].wrapping_add(ahead);
        if self.get_u16(driver + 2).wrapping_sub(next) as i16 <= 0 {
            return None;
        }
        let id = self.get_u16(driver + 4 + 2 * u64::from(next % SIZE));
        Some((id, self.get_u64(descriptors + 16 * u64::from(id))))
    }

    /// Waits for the next buffer.
    fn next(&self, ring: usize, ahead: u16) -> (u16, u64) {
        let mut found = None;
        wait_for("a buffer", || {
            found = self.available(ring, ahead);
            found.is_some()
        });
        found.unwrap()
    }

    /// Writes the next used entry, and shows it.
    fn give(&mut self, ring: usize, id: u32, len: u32) {
        let [descriptors, _, device] = self.rings[ring];
        let here = self.used[ring];
        if self.packed {
            let flags = if self.turn[ring] { AVAIL | USED } else { 0 } | WRITE;
            let word = u64::from(len) | u64::from(id as u16) << 32 | u64::from(flags) << 48;
            let (memory, at) = self.at(descriptors + 16 * u64::from(here) + 8);
            memory.put_u64(at, word);
            self.used[ring] += 1;
            if self.used[ring] == SIZE {
                self.used[ring] = 0;
                self.turn[ring] = !self.turn[ring];
            }
            return;
        }
        self.put(device + 4 + 8 * u64::from(here % SIZE), &halves(&[id, len]));
        self.used[ring] = here.wrapping_add(1);
        self.put_u16(device + 2, self.used[ring]);
    }

    /// Has the driver receive bytes, header and all, said to be of `len`.
    fn send(&mut self, bytes: &[u8], len: u32) {
        let (id, address) = self.next(RX, 0);
        self.put(address, bytes);
        self.give(RX, id.into(), len);
    }
}

/// A header and a frame.
fn message(buffers: u16, frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    bytes.extend(buffers.to_le_bytes());
    bytes.extend(frame);
    bytes
}

/// A frame passes each way.
fn passes(device: &mut Device, target: &Target) {
    let bytes = frame(2, 100);
    device.send(&message(1, &bytes), 112);
    assert!(target.next() == bytes);
    target.send(&bytes);
    let (id, address) = device.next(TX, 0);
    let (memory, at) = device.at(address);
    assert!(memory.get(at + HEADER, 100) == bytes);
    device.give(TX, id.into(), 0);
}

fn session(target: &Target, features: u64) -> Device {
    let mut device = Device::open(Peer::connect(&target.path), features, &|_| None).expect("a driver");
    wait_for("the link", || target.port().link().up);
    target.received();
    passes(&mut device, target);
    device
}

/// An honest device at the same socket exchanges frames with the port.
fn works_with_an_honest_device(eal: &Eal, target: &Target) {
    let pool = pool(eal, "honest");
    let port = open(eal, 1, &format!("net_vhost1,iface={},client=1", target.path.display())).unwrap();
    let (port, mut queues) = port.configure(&PortConfig::new(pool.clone())).unwrap().start().unwrap();
    wait_for("a link with an honest device", || port.link().up && target.port().link().up);
    target.received();
    let mut burst = Burst::new(32);
    for number in 0..64 {
        let frame = frame(number, 60 + 37 * number);
        burst.push(pool.alloc_from(&frame).unwrap()).unwrap();
        wait_for("a frame to be taken", || {
            let _ = queues.tx[0].tx_burst(&mut burst);
            burst.is_empty()
        });
        assert!(target.next() == frame);
        target.send(&frame);
        wait_for("a frame from the target", || queues.rx[0].rx_burst(&mut burst) > 0);
        let bytes: Vec<u8> = burst[0].segments().flatten().copied().collect();
        assert!(bytes == frame && burst.len() == 1);
        burst.free();
    }
    drop((queues, burst));
    drop(port.stop().unwrap());
    assert_eq!(pool.counts().in_use, 0);
}

/// Runs `attack` against a driver's port with split and packed rings, with buffers in order and in any.
fn against_a_driver(attack: impl Fn(&Target, u64)) {
    let eal = eal();
    let bystander = Bystander::start(&eal);
    for packed in [0, PACKED] {
        let target = Target::virtio(&eal, &format!(",queue_size={SIZE},packed_vq={}", u8::from(packed != 0)));
        for order in [0, IN_ORDER] {
            attack(&target, packed | order | MERGEABLE | RECEIVES_UNFINISHED);
        }
        wait_for("the end of the last session", || !target.port().link().up);
        works_with_an_honest_device(&eal, &target);
        target.end();
    }
    bystander.end();
}

#[test]
fn used_buffers_that_were_not_lent_break_the_ring() {
    against_a_driver(|target, features| {
        let mut broken = target.count(BROKEN);
        let packed = features & PACKED != 0;
        for ring in [RX, TX] {
            for attack in 0..6 {
                // What differs in order is what an identifier stands for.
                if features & IN_ORDER != 0 && attack > 1 {
                    continue;
                }
                let mut device = session(target, features);
                if ring == TX {
                    // Something has to be out, and the ring half full, before the driver looks for what came back.
                    for number in 0..160 {
                        target.send(&frame(number, 60));
                    }
                    wait_for("the frames", || device.available(TX, 120).is_some());
                }
                let (id, _) = device.next(ring, 0);
                let beyond = u32::from(SIZE);
                match attack {
                    // A buffer twice. In order, the first stands for itself.
                    0 => {
                        device.give(ring, id.into(), 60);
                        device.give(ring, id.into(), 60);
                    }
                    1 => device.give(ring, beyond, 60),
                    2 => device.give(ring, 0xffff, 60),
                    3 if !packed => device.give(ring, 0x1_0000 | u32::from(id), 60),
                    3 => device.give(ring, beyond + 1, 60),
                    4 if !packed => {
                        device.put_u16(device.rings[ring][2] + 2, device.used[ring].wrapping_add(SIZE + 1));
                    }
                    4 => device.give(ring, 0x8000 | u32::from(id), 60),
                    _ if !packed => {
                        device.put_u16(device.rings[ring][2] + 2, device.used[ring].wrapping_sub(2));
                    }
                    _ => device.give(ring, 0x7fff, 60),
                }
                if ring == TX {
                    (0..100).for_each(|number| target.send(&frame(number, 60)));
                }
                broken += 1;
                let what = format!("ring {ring} with {features:#x} to be found broken by attack {attack}");
                wait_for(&what, || target.count(BROKEN) == broken);
                assert!(!target.port().link().up, "attack {attack}");
                target.idle();
                target.received();
            }
        }
    });
}

#[test]
fn lengths_and_headers_that_cannot_be_are_dropped() {
    against_a_driver(|target, features| {
        let mut device = session(target, features);
        let bytes = frame(1, 100);
        let whole = 2048 + HEADER as u32;
        let mut bad = |what: &str, bytes: &[u8], len: u32| {
            let before = target.count(MALFORMED);
            device.send(bytes, len);
            wait_for(what, || target.count(MALFORMED) == before + 1);
            assert!(target.received().is_empty(), "{what}");
            passes(&mut device, target);
        };
        for len in [0, 1, 10, 11, whole + 1, 4096, 0x1_0000, 0x7fff_ffff, u32::MAX - 1] {
            bad("a length", &message(1, &bytes), len);
        }
        bad("no buffers", &message(0, &bytes), 112);
        bad("as many buffers as there are", &message(SIZE + 1, &bytes), 112);
        bad("more buffers than there are", &message(u16::MAX, &bytes), 112);
        for (flags, kind, [size, start, offset]) in [
            (1, 0, [0u16, 60_000, 16]),
            (1, 0, [0, 34, 60_000]),
            (1, 0, [0, 0xffff, 0xffff]),
            (0, 1, [100, 34, 16]),
            (1, 1, [100, 34, 16]),
            (1, 3, [0, 34, 16]),
            (1, 0x7f, [100, 34, 16]),
        ] {
            let mut wild = message(1, &bytes);
            (wild[0], wild[1]) = (flags, kind);
            wild[4..6].copy_from_slice(&size.to_le_bytes());
            wild[6..8].copy_from_slice(&start.to_le_bytes());
            wild[8..10].copy_from_slice(&offset.to_le_bytes());
            bad("a header", &wild, 112);
        }
        // A packet in several buffers, of which a later one is wrong: the packet is lost as a whole, and no other.
        for later in [0, whole + 1, 0x1_0000] {
            let before = target.count(MALFORMED);
            device.send(&message(3, &bytes), 112);
            device.send(&bytes, 100);
            device.send(&bytes, later);
            wait_for("the packet to be dropped", || target.count(MALFORMED) == before + 1);
            assert!(target.received().is_empty());
            passes(&mut device, target);
        }
        device.send(&message(3, &bytes), 112);
        device.send(&bytes, 100);
        device.send(&bytes, 100);
        assert!(target.next() == [&bytes[..], &bytes[..], &bytes[..]].concat());
        // More than any packet has.
        let before = target.count(MALFORMED);
        device.send(&message(100, &[7; 2048]), whole);
        for _ in 1..100 {
            device.send(&[7; 2060], whole);
        }
        wait_for("the packet to be dropped", || target.count(MALFORMED) == before + 1);
        passes(&mut device, target);
        // One that never ends; its buffers come home with the end of the session.
        device.send(&message(200, &bytes), 112);
        device.send(&bytes, 100);
        target.polled();
        assert!(target.received().is_empty());
    });
}

#[test]
fn batches_in_order_that_lie_and_devices_that_go_leave_nothing() {
    against_a_driver(|target, features| {
        for turn in 0..4u16 {
            let mut device = session(target, features);
            for number in 0..200 {
                target.send(&frame(number, 1000));
            }
            wait_for("the frames", || device.available(TX, 150).is_some());
            // One entry for many: all before it are said to be done, and most of them were never touched.
            let (last, _) = device.next(RX, 100 + turn);
            device.give(RX, last.into(), 112);
            let (last, _) = device.next(TX, 100 + turn);
            device.give(TX, last.into(), 112);
            if features & PACKED == 0 {
                // The index says so many were used; the entries in between say nothing new.
                let [_, _, area] = device.rings[RX];
                device.put_u16(area + 2, 100);
            }
            (0..100).for_each(|number| target.send(&frame(number, 60)));
            target.flood(turn % 2 == 0);
            target.polled();
            drop(device);
            wait_for("the end of the session", || !target.port().link().up);
            target.flood(false);
            target.received();
        }
    });
}

#[test]
fn answers_that_cannot_be_end_the_session() {
    against_a_driver(|target, features| {
        // Whoever answers wrongly has nothing to say of an order.
        if features & IN_ORDER != 0 {
            return;
        }
        for request in [code::GET_FEATURES, code::GET_CONFIG, code::SET_MEM_TABLE] {
            let lies: [Vec<u8>; 7] = [
                reply(request + 1, &words(&[0])),
                [halves(&[request, 1, 8]), words(&[0])].concat(),
                [halves(&[request, 4 | 2, 8]), words(&[0])].concat(),
                reply(request, &[]),
                reply(request, &[0; 5]),
                halves(&[request, REPLY, u32::MAX]),
                reply(request, &[0xff; 4096]),
            ];
            for (number, lie) in lies.iter().enumerate() {
                // A configuration that is not told is none.
                if request == code::GET_CONFIG && [3, 4].contains(&number) {
                    continue;
                }
                let failures = target.count("virtio_session_failures");
                let answer = |asked: u32| (asked == request).then(|| lie.clone());
                let device = Device::open(Peer::connect(&target.path), features, &answer);
                assert!(device.is_none(), "lie {number} to {request} was believed");
                wait_for("the failure", || target.count("virtio_session_failures") == failures + 1);
                assert!(!target.port().link().up);
            }
        }
        drop(session(target, features));
    });
}

#[test]
fn a_configuration_of_nonsense_is_not_believed() {
    against_a_driver(|target, features| {
        let honest = target.port().mac();
        for wild in [[0xff; 12], [0; 12], [1; 12]] {
            let mut config = halves(&[0, 12, 0]);
            config.extend(wild);
            let answer = |asked: u32| (asked == code::GET_CONFIG).then(|| reply(asked, &config));
            // MAC and MTU.
            let features = features | 1 << 5 | 1 << 3;
            let device = Device::open(Peer::connect(&target.path), features, &answer);
            if let Some(mut device) = device {
                wait_for("the link", || target.port().link().up);
                target.received();
                passes(&mut device, target);
            }
            assert_eq!(target.port().mac().0[0] & 1, 0, "a group's address is nobody's");
            assert!(target.port().mac() == honest && (68..=65_535).contains(&target.port().mtu()));
        }
    });
}

#[test]
fn a_device_that_answers_slowly_or_not_at_all_does_not_keep_the_port_from_stopping() {
    let eal = eal();
    let bystander = Bystander::start(&eal);
    for silent_from in [code::GET_FEATURES, code::SET_MEM_TABLE, code::GET_VRING_BASE] {
        let target = Target::virtio(&eal, "");
        let peer = Peer::connect(&target.path);
        let stream = peer.0.try_clone().unwrap();
        let told = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let reached = std::sync::Arc::clone(&told);
        let device = std::thread::spawn(move || {
            let hold = |asked: u32| {
                if asked != silent_from {
                    return None;
                }
                reached.store(true, std::sync::atomic::Ordering::SeqCst);
                // Nothing is answered, until the driver has gone.
                Some(Vec::new())
            };
            let device = Device::open(peer, MERGEABLE, &hold);
            reached.store(true, std::sync::atomic::Ordering::SeqCst);
            if let Some(device) = device {
                device.peer.gone();
            }
        });
        wait_for("the request", || told.load(std::sync::atomic::Ordering::SeqCst));
        let begun = Instant::now();
        target.end();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "it took {took:?} to stop without an answer to {silent_from}");
        drop(stream);
        device.join().unwrap();
    }
    bystander.end();
}
