//! Two ports that a cable joins: frames of all lengths go both ways, and each has to come as it was sent, in its turn.
//!
//! `cargo run --release --example cabled` has both sides of vhost-user in this process for that. On a card whose two ports are
//! cabled to each other, or on two cards, it is told which: `-- -a 0000:81:00.0 -a 0000:81:00.1`.
//! It ends with an error when a frame is lost, altered or late, or a buffer does not come home.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::port::{RxQueue, Started, TxQueue, registry};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

/// Frames each way.
const FRAMES: u32 = 10_000;
/// Frames that are on their way at most: no ring of a port overflows.
const WINDOW: u32 = 64;
/// Time for the link to come up, and for a frame to arrive.
const PATIENCE: Duration = Duration::from_secs(15);

/// Frame `number` on its way from one port to the other: its bytes follow from these.
fn frame(number: u32, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let len = 60 + (number as usize * 97) % 1455;
    let mut frame: Vec<u8> = (0..len).map(|byte| (number as usize * 31 + byte * 7) as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    // A type for local experiments (IEEE 802).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// One way of the cable.
struct Way {
    tx: TxQueue,
    rx: RxQueue,
    from: [u8; 6],
    to: [u8; 6],
    sent: u32,
    came: u32,
    burst: Burst,
}

impl Way {
    /// Sends what may be on its way, and compares what has come; whether something has.
    fn go(&mut self, pool: &MbufPool) -> Result<bool, Box<dyn Error>> {
        while self.sent < FRAMES && self.sent - self.came < WINDOW && self.burst.room() > 0 {
            let Some(packet) = pool.alloc_from(&frame(self.sent, self.from, self.to)) else { break };
            let _ = self.burst.push(packet);
            self.sent += 1;
        }
        // What it does not take stays in the burst.
        let _ = self.tx.tx_burst(&mut self.burst);
        let mut received = Burst::new(32);
        self.rx.rx_burst(&mut received);
        for packet in received.iter() {
            let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
            // What the system sends by itself on other kinds of ports is not ours.
            if bytes.get(12..14) != Some(&[0x88, 0xb5]) {
                continue;
            }
            if bytes != frame(self.came, self.from, self.to) {
                let start = &bytes[..bytes.len().min(20)];
                let (number, len) = (self.came, bytes.len());
                return Err(format!("frame {number} came as {len} other bytes: {start:02x?}").into());
            }
            self.came += 1;
        }
        Ok(!received.is_empty())
    }
}

/// Asks until it is so, or it has not become so in time.
fn wait_until(what: &str, mut ask: impl FnMut() -> bool) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    while !ask() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{what} in {} s", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn exchange(ways: &mut [Way], pool: &MbufPool) -> Result<(), Box<dyn Error>> {
    let mut last = Instant::now();
    while ways.iter().any(|way| way.came < FRAMES) {
        for way in &mut *ways {
            if way.go(pool)? {
                last = Instant::now();
            }
        }
        if last.elapsed() > PATIENCE {
            let counts: Vec<_> = ways.iter().map(|way| (way.sent, way.came)).collect();
            return Err(format!("nothing comes any more; sent and came: {counts:?}").into());
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.is_empty() {
        let socket = std::env::temp_dir().join(format!("cabled-{}", std::process::id()));
        for device in ["net_vhost0,iface=", "net_virtio_user0,path="] {
            let mut device = OsString::from(device);
            device.push(&socket);
            arguments.extend(["--vdev".into(), device]);
        }
    }
    let (eal, _) = Eal::from_args(arguments)?;
    let pool = MbufPool::new(&eal, &MbufPoolConfig::new("packets", 8192).shared(true))?;
    let mut started: Vec<Port<Started>> = Vec::new();
    let mut queues = Vec::new();
    for port in registry::open_all(&eal)? {
        let (port, own) = port.configure(&PortConfig::new(pool.clone()))?.start()?;
        started.push(port);
        queues.extend(own.rx.into_iter().zip(own.tx));
    }
    let (2, [one, other], Ok([(rx0, tx0), (rx1, tx1)])) = (
        started.len(),
        [0, 1].map(|index| started.get(index).map_or([0; 6], |port| port.mac().0)),
        <[_; 2]>::try_from(queues),
    ) else {
        return Err(
            "give two ports that are cabled to each other, for instance -a 0000:81:00.0 -a 0000:81:00.1"
                .into(),
        );
    };
    wait_until("a link is not up", || started.iter().all(|port| port.link().up))?;
    let way = |tx, rx, from, to| Way { tx, rx, from, to, sent: 0, came: 0, burst: Burst::new(32) };
    let mut ways = [way(tx0, rx1, one, other), way(tx1, rx0, other, one)];
    let result = exchange(&mut ways, &pool);
    drop(ways);
    for port in started {
        let stats = port.stats();
        println!(
            "{}: {} packets received, {} sent, {} missed",
            port.name(),
            stats.ipackets,
            stats.opackets,
            stats.imissed
        );
        drop(port.stop()?);
    }
    result?;
    match pool.counts().in_use {
        0 => println!("{FRAMES} frames each way, all as they were sent; all buffers are home"),
        left => return Err(format!("{left} buffers are not home").into()),
    }
    Ok(())
}
