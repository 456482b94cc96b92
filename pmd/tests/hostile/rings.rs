//! Rings as a front end without sense writes them: descriptors with anything in them, made available rightly or not.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::peer::{Memory, Peer, code, event, halves, wait_for, words};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
pub(crate) const AVAIL: u16 = 1 << 7;
pub(crate) const USED: u16 = 1 << 15;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const MERGEABLE: u64 = 1 << 15;
pub(crate) const PACKED: u64 = 1 << 34;
pub(crate) const PROTOCOL: u64 = 1 << 30;
/// CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN: the driver sends unfinished packets.
pub(crate) const SENDS_UNFINISHED: u64 = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 13;

/// Where the memory begins for descriptors, and for everything else.
pub(crate) const GUEST: u64 = 0x1_0000_0000;
pub(crate) const USER: u64 = 0x6000_0000_0000;
/// Bytes of it, in two regions that touch.
pub(crate) const LEN: usize = 0x20_0000;
pub(crate) const BORDER: usize = 0x10_0000;
/// Descriptors in each ring: more than a chain may have.
pub(crate) const SIZE: u16 = 512;
/// What is where: rings, tables, buffers for sending and buffers for receiving.
const RING: usize = 0x1_0000;
pub(crate) const TABLES: usize = 0x4_0000;
pub(crate) const BUFFERS: usize = 0x8_0000;
pub(crate) const HEADER: usize = 12;

/// The ring by which the driver receives, and the one by which it sends.
pub(crate) const RX: usize = 0;
pub(crate) const TX: usize = 1;

/// A descriptor, with whatever is to be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Desc {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    /// What follows, instead of the next one.
    pub next: Option<u16>,
}

pub(crate) fn desc(address: u64, len: u32, flags: u16) -> Desc {
    Desc { address, len, flags, next: None }
}

impl Desc {
    pub(crate) fn then(self, next: u16) -> Self {
        Self { next: Some(next), ..self }
    }
    pub(crate) fn split(self) -> [u64; 2] {
        let next = u64::from(self.next.unwrap_or(0));
        [self.address, u64::from(self.len) | u64::from(self.flags) << 32 | next << 48]
    }
    pub(crate) fn packed(self, id: u16) -> [u64; 2] {
        [self.address, u64::from(self.len) | u64::from(id) << 32 | u64::from(self.flags) << 48]
    }
}

/// One ring as its driver has it.
#[derive(Debug, Default)]
struct Ring {
    /// Split: the next descriptor, and the available and used index. Packed: places, and turns in `turn`.
    next: u16,
    available: u16,
    used: u16,
    turn: bool,
    used_turn: bool,
    /// Descriptors of each chain that is out.
    chains: VecDeque<u16>,
}

/// A front end with one pair of rings.
pub(crate) struct Front {
    pub peer: Peer,
    pub memory: Arc<Memory>,
    pub packed: bool,
    pub features: u64,
    pub kick: OwnedFd,
    pub call: OwnedFd,
    rings: [Ring; 2],
}

pub(crate) fn descriptors_of(ring: usize) -> usize {
    ring * RING
}
pub(crate) fn driver_area_of(ring: usize) -> usize {
    ring * RING + 0x4000
}
pub(crate) fn device_area_of(ring: usize) -> usize {
    ring * RING + 0x8000
}

/// The table of the two regions.
pub(crate) fn memory_table() -> Vec<u8> {
    let border = BORDER as u64;
    let rest = LEN as u64 - border;
    let mut table = halves(&[2, 0]);
    table.extend(words(&[GUEST, border, USER, 0]));
    // Elsewhere in the front end's addresses, so that it is nowhere near here either.
    table.extend(words(&[GUEST + border, rest, USER + 4 * border, border]));
    table
}

pub(crate) fn addresses(ring: usize, descriptors: u64, driver: u64, device: u64) -> Vec<u8> {
    let mut bytes = halves(&[ring as u32, 0]);
    bytes.extend(words(&[descriptors, device, driver, 0]));
    bytes
}

impl Front {
    /// Sets everything up as it should be.
    pub(crate) fn open(peer: Peer, packed: bool, features: u64) -> Self {
        let memory = Arc::new(Memory::new(LEN));
        let features = features | VERSION_1 | PROTOCOL | if packed { PACKED } else { 0 };
        let rings = [(); 2].map(|()| Ring { turn: true, used_turn: true, ..Ring::default() });
        let mut front = Self { peer, memory, packed, features, kick: event(), call: event(), rings };
        front.hello();
        for ring in [RX, TX] {
            front.start(ring);
        }
        front
    }

    /// All before the rings.
    pub(crate) fn hello(&mut self) {
        let offered = self.peer.ask(code::GET_FEATURES, &[], &[]).expect("an answer");
        let offered = u64::from_ne_bytes(offered.try_into().unwrap());
        assert_eq!(self.features & !offered, 0, "{offered:#x} is offered, {:#x} wanted", self.features);
        assert!(self.peer.tell(code::SET_OWNER, 1, &[], &[]));
        // MQ, REPLY_ACK, CONFIG, STATUS.
        let protocol = 1 | 1 << 3 | 1 << 9 | 1 << 16;
        assert_eq!(self.peer.done(code::SET_PROTOCOL_FEATURES, &words(&[protocol]), &[]), Some(true));
        assert_eq!(self.peer.done(code::SET_FEATURES, &words(&[self.features]), &[]), Some(true));
        let fds = [self.memory.as_fd(); 2];
        assert_eq!(self.peer.done(code::SET_MEM_TABLE, &memory_table(), &fds), Some(true));
    }

    /// Starts a ring from its beginning.
    pub(crate) fn start(&mut self, ring: usize) {
        self.rings[ring] = Ring { turn: true, used_turn: true, ..Ring::default() };
        self.memory.put(ring * RING, &[0; 0xc000]);
        let index = ring as u32;
        let base = if self.packed { 0x8000_8000 } else { 0 };
        let at = |offset: usize| USER + offset as u64;
        let places =
            addresses(ring, at(descriptors_of(ring)), at(driver_area_of(ring)), at(device_area_of(ring)));
        let peer = &self.peer;
        assert_eq!(peer.done(code::SET_VRING_NUM, &halves(&[index, SIZE.into()]), &[]), Some(true));
        assert_eq!(peer.done(code::SET_VRING_BASE, &halves(&[index, base]), &[]), Some(true));
        assert_eq!(peer.done(code::SET_VRING_ADDR, &places, &[]), Some(true));
        let event = words(&[index.into()]);
        assert_eq!(peer.done(code::SET_VRING_CALL, &event, &[self.call.as_fd()]), Some(true));
        assert_eq!(peer.done(code::SET_VRING_KICK, &event, &[self.kick.as_fd()]), Some(true));
        assert_eq!(peer.done(code::SET_VRING_ENABLE, &halves(&[index, 1]), &[]), Some(true));
    }

    /// Stops a ring: where it would go on.
    pub(crate) fn stop(&self, ring: usize) -> u32 {
        let answer = self.peer.ask(code::GET_VRING_BASE, &halves(&[ring as u32, 0]), &[]).expect("an answer");
        u32::from_ne_bytes(answer[4..8].try_into().unwrap())
    }

    /// Writes descriptor `at` of a ring.
    pub(crate) fn write(&self, ring: usize, at: u16, [address, rest]: [u64; 2]) {
        let offset = descriptors_of(ring) + 16 * usize::from(at);
        self.memory.put_u64(offset, address);
        self.memory.put_u64(offset + 8, rest);
    }

    /// Writes a table of descriptors as they are, and returns the descriptor for it.
    pub(crate) fn table(&self, offset: usize, parts: &[Desc]) -> Desc {
        for (at, part) in parts.iter().enumerate() {
            let [address, rest] = if self.packed { part.packed(0) } else { part.split() };
            self.memory.put_u64(offset + 16 * at, address);
            self.memory.put_u64(offset + 16 * at + 8, rest);
        }
        desc(GUEST + offset as u64, 16 * parts.len() as u32, INDIRECT)
    }

    /// Makes a chain available. Each but the last leads to the next, unless it says what follows.
    pub(crate) fn post(&mut self, ring: usize, chain: &[Desc]) {
        let count = chain.len() as u16;
        let state = &mut self.rings[ring];
        let first = state.next;
        let mut words = Vec::new();
        for (at, part) in (0..).zip(chain) {
            let mut part = *part;
            if at + 1 < count {
                part.flags |= NEXT;
                part.next = part.next.or(Some((first + at + 1) % SIZE));
            }
            words.push((first + at, part));
        }
        state.next = (first + count) % SIZE;
        state.chains.push_back(count);
        if self.packed {
            // From the end to the front: the first makes it available.
            for (place, mut part) in words.into_iter().rev() {
                let turn = state.turn ^ (place >= SIZE);
                part.flags |= if turn { AVAIL } else { USED };
                let offset = descriptors_of(ring) + 16 * usize::from(place % SIZE);
                let [address, rest] = part.packed(first);
                self.memory.put_u64(offset, address);
                self.memory.put_u64(offset + 8, rest);
            }
            state.turn ^= first + count >= SIZE;
        } else {
            for (place, part) in words {
                let offset = descriptors_of(ring) + 16 * usize::from(place % SIZE);
                let [address, rest] = part.split();
                self.memory.put_u64(offset, address);
                self.memory.put_u64(offset + 8, rest);
            }
            let entry = driver_area_of(ring) + 4 + 2 * usize::from(state.available % SIZE);
            self.memory.put_u16(entry, first);
            state.available = state.available.wrapping_add(1);
            self.memory.put_u16(driver_area_of(ring) + 2, state.available);
        }
    }

    /// The descriptor that the next chain begins with.
    pub(crate) fn next_descriptor(&self, ring: usize) -> u16 {
        self.rings[ring].next
    }

    /// The length of the next chain that came back, if one did.
    pub(crate) fn take(&mut self, ring: usize) -> Option<u32> {
        let state = &mut self.rings[ring];
        let len = if self.packed {
            let rest = self.memory.get_u64(descriptors_of(ring) + 16 * usize::from(state.used) + 8);
            let flags = (rest >> 48) as u16;
            let wanted = if state.used_turn { AVAIL | USED } else { 0 };
            if flags & (AVAIL | USED) != wanted {
                return None;
            }
            rest as u32
        } else {
            if self.memory.get_u16(device_area_of(ring) + 2) == state.used {
                return None;
            }
            let entry = device_area_of(ring) + 4 + 8 * usize::from(state.used % SIZE);
            u32::from_ne_bytes(self.memory.get(entry + 4, 4).try_into().unwrap())
        };
        let count = state.chains.pop_front()?;
        if self.packed {
            state.used += count;
            if state.used >= SIZE {
                state.used -= SIZE;
                state.used_turn = !state.used_turn;
            }
        } else {
            state.used = state.used.wrapping_add(1);
        }
        Some(len)
    }

    /// Waits for the next chain to come back.
    pub(crate) fn back(&mut self, ring: usize) -> u32 {
        let mut len = None;
        wait_for("a chain to come back", || {
            len = self.take(ring);
            len.is_some()
        });
        len.unwrap()
    }

    /// Writes a header and a frame into the buffers for sending, and returns where they are.
    pub(crate) fn fill(&self, header: [u8; HEADER], frame: &[u8]) -> (u64, u32) {
        self.memory.put(BUFFERS, &header);
        self.memory.put(BUFFERS + HEADER, frame);
        (GUEST + BUFFERS as u64, (HEADER + frame.len()) as u32)
    }
}

/// The payload of a kick or call.
pub(crate) fn event_payload(ring: usize) -> Vec<u8> {
    words(&[ring as u64])
}
