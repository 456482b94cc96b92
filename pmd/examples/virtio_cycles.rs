//! What a packet costs each side of a virtio link: cycles in the driver and in the device, sending and receiving.
//!
//! Both sides are in this process and on one thread, which takes turns: so nothing waits for another processor's cache,
//! and what is timed is the work of one side alone. `cargo run --release -p wirerate-pmd --example virtio_cycles`

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::drivers::{vhost, virtio::user};
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

const ROUNDS: usize = 20000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let eal = Eal::builder().build()?;
    let clock = *eal.clock();
    println!("cycles a packet of 64 bytes, median of {ROUNDS} bursts");
    println!(
        "{:<24} {:>6} {:>9} {:>9} {:>9} {:>9}",
        "ring", "burst", "drv send", "dev recv", "dev send", "drv recv"
    );
    for packed in [false, true] {
        for in_order in [false, true] {
            for mergeable in [false, true] {
                for size in [1, 32] {
                    let mut options = user::Options::default();
                    (options.packed, options.in_order, options.mergeable) = (packed, in_order, mergeable);
                    let costs = measure(&eal, options, size, || clock.cycles())?;
                    let name = format!(
                        "{}{}{}",
                        if packed { "packed" } else { "split" },
                        if in_order { " in-order" } else { "" },
                        if mergeable { " mergeable" } else { "" }
                    );
                    let [a, b, c, d] = costs.map(|cost| format!("{cost:.1}"));
                    println!("{name:<24} {size:>6} {a:>9} {b:>9} {c:>9} {d:>9}");
                }
            }
        }
    }
    Ok(())
}

struct Side {
    port: Port<Started>,
    queues: Queues,
}

fn start(
    device: Box<dyn wirerate_pmd::port::Device>,
    pool: &MbufPool,
) -> Result<Side, Box<dyn std::error::Error>> {
    let (port, queues) = Port::new(device, "port", 0).configure(&PortConfig::new(pool.clone()))?.start()?;
    Ok(Side { port, queues })
}

fn measure(
    eal: &Eal,
    options: user::Options,
    size: usize,
    now: impl Fn() -> u64,
) -> Result<[f64; 4], Box<dyn std::error::Error>> {
    let driver_pool = MbufPool::new(eal, &MbufPoolConfig::new("driver", 2048).shared(true))?;
    let device_pool = MbufPool::new(eal, &MbufPoolConfig::new("device", 2048))?;
    let (here, there) = UnixStream::pair()?;
    let mut device = start(vhost::with_stream("device", there, 1), &device_pool)?;
    let mut driver = start(user::with_stream(eal, "driver", here, options)?, &driver_pool)?;
    let begun = Instant::now();
    while !(driver.port.link().up && device.port.link().up) {
        if begun.elapsed() > Duration::from_secs(5) {
            return Err("no link".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut costs = [const { Vec::new() }; 4];
    let mut burst = Burst::new(size);
    for _ in 0..ROUNDS {
        driver_pool.alloc_bulk(&mut burst, size);
        for packet in burst.iter_mut() {
            packet.append_slice(&[7; 64]);
        }
        let mut timed = |which: usize, work: &mut dyn FnMut(&mut Burst)| {
            let begun = now();
            work(&mut burst);
            costs[which].push((now() - begun) as f64 / size as f64);
            burst.len()
        };
        let sent = timed(0, &mut |burst| {
            let _ = driver.queues.tx[0].tx_burst(burst);
        });
        assert_eq!(sent, 0);
        let got = timed(1, &mut |burst| {
            let _ = device.queues.rx[0].rx_burst(burst);
        });
        assert_eq!(got, size);
        let sent = timed(2, &mut |burst| {
            let _ = device.queues.tx[0].tx_burst(burst);
        });
        assert_eq!(sent, 0);
        let got = timed(3, &mut |burst| {
            let _ = driver.queues.rx[0].rx_burst(burst);
        });
        assert_eq!(got, size);
        burst.free();
    }
    Ok(costs.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    }))
}
