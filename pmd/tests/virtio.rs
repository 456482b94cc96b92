//! `net_virtio_user` and `net_vhost` against each other, in one process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::drivers::{vhost, virtio::user};
use wirerate_pmd::packet::MAX_BURST;
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

fn eal() -> Eal {
    Eal::builder().no_huge(true).build().unwrap()
}

fn pool(eal: &Eal, name: &str, shared: bool) -> MbufPool {
    MbufPool::new(eal, &MbufPoolConfig::new(name, 4096).shared(shared)).unwrap()
}

struct Side {
    port: Port<Started>,
    queues: Queues,
}

impl Side {
    fn send(&mut self, queue: usize, packets: &mut Burst) {
        let begun = Instant::now();
        while !packets.is_empty() {
            let _ = self.queues.tx[queue].tx_burst(packets);
            assert!(begun.elapsed() < Duration::from_secs(10), "the peer takes nothing");
            if !packets.is_empty() {
                return;
            }
        }
    }
}

/// A pair of ports, wired to each other and up.
fn pair(eal: &Eal, options: user::Options, driver_pool: &MbufPool, device_pool: &MbufPool) -> (Side, Side) {
    let (here, there) = UnixStream::pair().unwrap();
    let queues = options.queues;
    let device = vhost::with_stream("net_vhost0", there, queues);
    let driver = user::with_stream(eal, "net_virtio_user0", here, options).unwrap();
    let start = |device, name, pool: &MbufPool| {
        let config = PortConfig::new(pool.clone()).rx_queues(queues).tx_queues(queues);
        let (port, queues) = Port::new(device, name, 0).configure(&config).unwrap().start().unwrap();
        Side { port, queues }
    };
    let device = start(device, "net_vhost0", device_pool);
    let driver = start(driver, "net_virtio_user0", driver_pool);
    let begun = Instant::now();
    while !(driver.port.link().up && device.port.link().up) {
        assert!(begun.elapsed() < Duration::from_secs(10), "no link");
        std::thread::sleep(Duration::from_millis(1));
    }
    (driver, device)
}

/// A frame that tells its number and length in every byte.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 7 + at * 3 + len) as u8).collect()
}

/// Sends frames of `lens` from one side to the other, and looks that they come as they were.
fn exchange(from: &mut Side, to: &mut Side, queue: usize, pool: &MbufPool, lens: &[usize]) {
    let mut waiting = Burst::new(MAX_BURST);
    let mut received = Burst::new(32);
    let (mut sent, mut got) = (0, 0);
    let begun = Instant::now();
    while got < lens.len() {
        while waiting.len() < 32 && sent < lens.len() {
            waiting.push(pool.alloc_from(&frame(sent, lens[sent])).unwrap()).unwrap();
            sent += 1;
        }
        from.send(queue, &mut waiting);
        to.queues.rx[queue].rx_burst(&mut received);
        for packet in received.drain() {
            let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
            assert!(
                bytes == frame(got, lens[got]),
                "frame {got} of {} bytes came as {}",
                lens[got],
                bytes.len()
            );
            got += 1;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{got} of {} came", lens.len());
    }
}

/// Each combination of what the two sides can agree on.
fn variants() -> Vec<user::Options> {
    let mut all = Vec::new();
    for packed in [false, true] {
        for mergeable in [false, true] {
            for in_order in [false, true] {
                for queue_size in if packed { vec![64, 100, 256, 1000] } else { vec![64, 256, 1024] } {
                    let mut options = user::Options::default();
                    options.packed = packed;
                    options.mergeable = mergeable;
                    options.in_order = in_order;
                    options.queue_size = queue_size;
                    options.queues = 2;
                    all.push(options);
                }
            }
        }
    }
    all
}

#[test]
fn frames_of_all_lengths_pass_both_ways() {
    let eal = eal();
    let (driver_pool, device_pool) = (pool(&eal, "driver", true), pool(&eal, "device", false));
    for options in variants() {
        let most = if options.mergeable { 9000 } else { 2048 };
        let lens: Vec<usize> = (0..600).map(|at| 60 + at * 7919 % (most - 59)).collect();
        let (mut driver, mut device) = pair(&eal, options.clone(), &driver_pool, &device_pool);
        for queue in 0..usize::from(options.queues) {
            exchange(&mut driver, &mut device, queue, &driver_pool, &lens);
            exchange(&mut device, &mut driver, queue, &device_pool, &lens);
        }
        for side in [&driver, &device] {
            for (name, count) in side.port.xstats() {
                assert!(!name.contains("_drop_") || count == 0, "{options:?}: {name} {count}");
            }
            assert_eq!(side.port.stats().opackets, 1200, "{options:?}");
            assert_eq!(side.port.stats().ipackets, 1200, "{options:?}");
        }
        drop((driver, device));
        for pool in [&driver_pool, &device_pool] {
            assert_eq!(pool.counts().in_use, 0, "{options:?}: {}", pool.name());
        }
    }
}

#[test]
fn packets_that_the_device_does_not_reach_are_copied() {
    let eal = eal();
    let (driver_pool, device_pool) = (pool(&eal, "driver", true), pool(&eal, "device", false));
    let elsewhere = pool(&eal, "elsewhere", false);
    let (mut driver, mut device) = pair(&eal, user::Options::default(), &driver_pool, &device_pool);
    exchange(&mut driver, &mut device, 0, &elsewhere, &[64, 1500, 5000, 60]);
    let copied = driver.port.xstats().into_iter().find(|(name, _)| name == "virtio_tx_copied");
    assert_eq!(copied.map(|(_, count)| count), Some(4));
}

#[test]
fn a_clone_is_sent_and_its_original_stays_as_it_was() {
    let eal = eal();
    let (driver_pool, device_pool) = (pool(&eal, "driver", true), pool(&eal, "device", false));
    let (mut driver, mut device) = pair(&eal, user::Options::default(), &driver_pool, &device_pool);
    let original = driver_pool.alloc_from(&frame(1, 300)).unwrap();
    let mut burst = Burst::new(4);
    burst.push(original.clone_shared(&driver_pool).unwrap()).unwrap();
    driver.send(0, &mut burst);
    let mut received = Burst::new(4);
    let begun = Instant::now();
    while device.queues.rx[0].rx_burst(&mut received) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert_eq!((received[0].data(), original.data()), (&frame(1, 300)[..], &frame(1, 300)[..]));
}
