//! A started `net_vhost` port whose driver is the input: what it has in its memory, and when the port sends and receives.
#![no_main]

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use wirerate_fuzz::Input;
use wirerate_pmd::drivers::vhost;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::vhost_user::codes::ProtocolFeatures;
use wirerate_pmd::vhost_user::{FrontEnd, MemoryRegion, RingAddresses};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

const LEN: u64 = 0x2_0000;
/// Guest and user addresses: small, so that the fuzzer finds them.
const BASE: u64 = 0;
const SIZE: u16 = 16;

/// A port, its driver, and the driver's memory, for one kind of rings. Set up once: a session costs threads and sockets.
struct Bench {
    _port: Port<Started>,
    queues: Queues,
    pool: MbufPool,
    front: FrontEnd,
    memory: std::os::fd::OwnedFd,
    packed: bool,
}

impl Bench {
    fn new(packed: bool, mergeable: bool) -> Self {
        let pool = MbufPool::on_heap(&MbufPoolConfig::new("fuzz", 512)).expect("a pool");
        let (here, there) = UnixStream::pair().expect("sockets");
        let all = Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM | Offload::TX_TCP_SEGMENTATION;
        let config = PortConfig::new(pool.clone()).rx_offloads(all);
        let port = Port::new(vhost::with_stream("net_vhost0", there, 1), "net_vhost0", 0);
        let (port, queues) = port.configure(&config).expect("a port").start().expect("a port");
        let mut wanted: u64 = 1 << 32 | 1 << 28 | 1 << 29 | 1 | 1 << 11 | 1 << 12 | 1 << 1 | 1 << 7 | 1 << 8;
        wanted |= if packed { 1 << 34 } else { 0 } | if mergeable { 1 << 15 } else { 0 };
        let mut front = FrontEnd::negotiate(here, wanted, ProtocolFeatures::all()).expect("a session");
        front.set_features(wanted).expect("a session");
        let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&memory, LEN).expect("a file");
        let region = MemoryRegion { fd: memory.as_fd(), offset: 0, len: LEN, user_address: BASE };
        front.set_memory(&[region]).expect("memory");
        Self { _port: port, queues, pool, front, memory, packed }
    }

    /// Empty rings, whatever was before.
    fn restart(&mut self) {
        rustix::io::pwrite(&self.memory, &[0; 0x4000], 0).expect("a file");
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an event");
        for ring in [0u16, 1] {
            let first = BASE + 0x1000 * u64::from(ring);
            let addresses = RingAddresses {
                size: SIZE,
                descriptors: first,
                driver_area: first + 0x400,
                device_area: first + 0x800,
                base: if self.packed { 0x8000_8000 } else { 0 },
                kick: event.as_fd(),
                call: event.as_fd(),
            };
            self.front.start_ring(ring, &addresses).expect("a ring");
            self.front.enable_ring(ring, true).expect("a ring");
        }
    }

    fn run(&mut self, mut input: Input<'_>) {
        self.restart();
        let mut burst = Burst::new(32);
        while !input.is_empty() {
            match input.byte() % 4 {
                0 => {
                    self.queues.rx[0].rx_burst(&mut burst);
                    for packet in burst.iter() {
                        assert!(!packet.is_empty() && packet.len() < 66_000);
                    }
                    burst.free();
                }
                1 => {
                    let lens: [u8; 4] = input.take();
                    for len in lens {
                        let packet =
                            self.pool.alloc_from(&vec![len; 14 + usize::from(len) * 23]).expect("an mbuf");
                        let _ = burst.push(packet);
                    }
                    let begun = Instant::now();
                    let _ = self.queues.tx[0].tx_burst(&mut burst);
                    assert!(begun.elapsed() < Duration::from_secs(5));
                    burst.free();
                }
                2 => {
                    // An index: of what is available.
                    let ring = u64::from(input.byte() & 1);
                    let words: [u8; 4] = input.take();
                    rustix::io::pwrite(&self.memory, &words, 0x1000 * ring + 0x402).expect("a file");
                }
                _ => {
                    let place = u64::from(input.word());
                    let bytes: [u8; 16] = input.take();
                    let at = if place & 0x8000 == 0 { (place & 0x11f) * 16 } else { place * 2 };
                    rustix::io::pwrite(&self.memory, &bytes, at % (LEN - 16)).expect("a file");
                }
            }
        }
        for ring in [0, 1] {
            self.front.stop_ring(ring).expect("a base");
        }
        assert_eq!(self.pool.counts().in_use, 0, "mbufs did not come home");
    }
}

thread_local! {
    static BENCHES: RefCell<[Option<Bench>; 4]> = const { RefCell::new([const { None }; 4]) };
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let kind = usize::from(input.byte()) % 4;
    BENCHES.with_borrow_mut(|benches| {
        benches[kind].get_or_insert_with(|| Bench::new(kind & 1 != 0, kind & 2 != 0)).run(input);
    });
});
