//! Wires to tap interfaces, for guests whose interfaces have several queues: QEMU's own wires have one.
//!
//! The taps are in a namespace, and so is a process that carries frames between them and the wires by our AF_PACKET
//! driver: the test program itself, started again with a first argument that no user gives.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use wirerate_eal::Eal;
use wirerate_pmd::port::registry;
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, PortConfig, RxQueue, TxQueue};

use super::wire::{self, Wire};
use crate::namespace::Namespace;
use crate::program::Running;

/// The argument that makes a process carry frames.
const CARRY: &str = "--internal-carry-frames";
/// What it prints when it does.
const READY: &str = "carrying";
/// Names of the taps, and of the wires to them.
pub const TAPS: [&str; 2] = ["tap0", "tap1"];
/// Time for the process to start.
const START: Duration = Duration::from_secs(30);
/// How long to wait when no frame is there.
const PAUSE: Duration = Duration::from_micros(100);
/// Packets in a burst.
const BURST: usize = 32;
/// Mbufs that are enough for the rings of both ports.
const MBUFS: usize = 8192;

/// Two taps, and a wire to each.
#[derive(Debug)]
pub struct Cables {
    /// Where the taps `tap0` and `tap1` are, and where QEMU has to be.
    pub namespace: Namespace,
    /// The test's ends.
    pub wires: [Wire; 2],
    carrier: Running,
}

impl Cables {
    /// Makes them, with their sockets in `folder`, for interfaces of several queues.
    ///
    /// # Errors
    /// When this process may make no namespace or tap.
    pub fn new(folder: &Path) -> Result<Self> {
        let namespace = Namespace::new("taps")?;
        for tap in TAPS {
            namespace.ip(&["tuntap", "add", tap, "mode", "tap", "multi_queue"])?;
            namespace.ip(&["link", "set", tap, "up", "promisc", "on"])?;
        }
        let wires = [Wire::new(folder, TAPS[0])?, Wire::new(folder, TAPS[1])?];
        let mut command = namespace.command(std::env::current_exe().context("finding this program")?);
        command.arg(CARRY).arg(folder);
        let mut carrier = Running::start(command)?;
        carrier.wait_for(READY, START)?;
        Ok(Self { namespace, wires, carrier })
    }

    /// What the process between wires and taps says, to be read by people.
    #[must_use]
    pub fn log(&self) -> String {
        self.carrier.describe()
    }
}

/// Carries frames, if this process was started for that. A program that uses [`Cables`] calls this first.
///
/// # Errors
/// When a frame cannot be carried.
pub fn take_part() -> Result<bool> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != CARRY) {
        return Ok(false);
    }
    carry(Path::new(&arguments.next().context("no folder")?))?;
    Ok(true)
}

/// One wire and its tap.
struct Cable {
    wire: UnixDatagram,
    rx: RxQueue,
    tx: TxQueue,
}

fn carry(folder: &Path) -> Result<()> {
    let devices = [0, 1].map(|port| format!("net_af_packet{port},iface={}", TAPS[port]));
    let (eal, _) = Eal::from_args(["--no-huge", "--no-pci", "--vdev", &devices[0], "--vdev", &devices[1]])?;
    let pool = MbufPool::new(&eal, &MbufPoolConfig::new("frames", MBUFS))?;
    let (mut ports, mut cables) = (Vec::new(), Vec::new());
    for (port, tap) in registry::open_all(&eal)?.into_iter().zip(TAPS) {
        let (port, queues) = port.configure(&PortConfig::new(pool.clone()))?.start()?;
        ports.push(port);
        let (near, far) = wire::ends(folder, tap);
        let wire = UnixDatagram::bind(&far).with_context(|| format!("making {}", far.display()))?;
        wire.connect(&near).with_context(|| format!("connecting to {}", near.display()))?;
        let mut queues = queues.rx.into_iter().zip(queues.tx);
        let (rx, tx) = queues.next().context("a port without queues")?;
        cables.push(Cable { wire, rx, tx });
    }
    println!("{READY}");
    let mut frame = vec![0; wire::LONGEST];
    let mut burst = Burst::new(BURST);
    loop {
        let mut moved = 0;
        for cable in &mut cables {
            moved += cable.fetch(&mut burst)? + cable.deliver(&mut burst, &mut frame, &pool)?;
        }
        if moved == 0 {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Cable {
    /// Carries what the tap has to the wire; how many frames.
    fn fetch(&mut self, burst: &mut Burst) -> Result<usize> {
        let count = self.rx.rx_burst(burst);
        self.wire.set_nonblocking(false)?;
        for packet in burst.drain() {
            ensure!(packet.is_contiguous(), "a frame in several segments");
            self.wire.send(packet.data()).context("the test takes no frames any more")?;
        }
        Ok(count)
    }

    /// Carries what the wire has to the tap; how many frames.
    fn deliver(&mut self, burst: &mut Burst, frame: &mut [u8], pool: &MbufPool) -> Result<usize> {
        self.wire.set_nonblocking(true)?;
        // No further frames: there is nobody to tell that a datagram was not there.
        while burst.room() > 0
            && let Ok(length) = self.wire.recv(frame)
        {
            let packet = pool.alloc_from(&frame[..length]).context("no mbuf for a frame")?;
            if burst.push(packet).is_err() {
                bail!("no room in a burst");
            }
        }
        let count = burst.len();
        while !burst.is_empty() {
            if self.tx.tx_burst(burst) == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        self.tx.flush();
        Ok(count)
    }
}
