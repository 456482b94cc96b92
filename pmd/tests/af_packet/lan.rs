//! A veth pair in a namespace of one test, ports on its ends, and frames to send over it.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_pmd::port::{DropReason, Opened, PortError, PortStats, Started, registry};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig, RxQueue, TxQueue};

/// The ends of the pair.
pub(crate) const NEAR: &str = "wrnear";
pub(crate) const FAR: &str = "wrfar";

/// The sender of all frames that the tests make; the kernel's own stack uses the interfaces' addresses.
const SOURCE: [u8; 6] = [0x02, 0x77, 0x69, 0x72, 0x65, 0x72];

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Gives this thread a network namespace of its own, which ends with the thread and what it has opened.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: a system call without pointers; it concerns this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes this thread's privileges away. The C library would do so to all threads of the process.
pub(crate) fn become_nobody() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: a system call without pointers; it concerns this thread alone.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs a test on a thread with a namespace of its own. A panic of the test is this thread's too.
pub(crate) fn in_own_namespace(test: fn()) {
    let thread = thread::spawn(move || {
        unshare_network().unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these arguments in this thread's namespace.
pub(crate) fn try_ip(arguments: &str) -> io::Result<()> {
    run_ip(arguments).map(|_| ())
}

/// The same, for what has to succeed; returns what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    run_ip(arguments).unwrap()
}

fn run_ip(arguments: &str) -> io::Result<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("`ip {arguments}`: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Frame `number`, `len` bytes long, of a type that nothing answers.
pub(crate) fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x99];
    frame.extend(SOURCE);
    frame.extend([0x88, 0xb5]);
    frame.extend(
        (0..)
            .map(|at: usize| (at.wrapping_mul(31) ^ number.wrapping_mul(197) ^ (number >> 8)) as u8)
            .take(len - 14),
    );
    frame
}

/// `count` frames of 14 to 1514 bytes, other ones for each `seed`.
pub(crate) fn mixed_frames(seed: usize, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| frame(number + seed * 10_000, 14 + (number * 389 + seed * 7) % 1501)).collect()
}

/// Frame `number` of UDP flow `flow`.
pub(crate) fn udp_frame(number: usize, flow: u16) -> Vec<u8> {
    let mut frame = frame(number, 14);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend((10_000 + flow).to_be_bytes());
    frame.extend([0x10, 0x92, 0, 20, 0, 0]);
    frame.extend((number as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame
}

/// The flow of a frame of [`udp_frame`].
pub(crate) fn flow_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]]) - 10_000
}

/// Whether a test made this frame.
pub(crate) fn is_ours(frame: &[u8]) -> bool {
    frame.get(6..12) == Some(&SOURCE)
}

/// A veth pair in this thread's namespace, and a pool.
pub(crate) struct Lan {
    eal: Eal,
    pool: MbufPool,
}

impl Lan {
    pub(crate) fn new() -> Self {
        ip(&format!("link add {NEAR} type veth peer name {FAR}"));
        for end in [NEAR, FAR] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        let eal = Eal::builder().no_huge(true).in_memory(true).build().unwrap();
        // Threads keep no mbufs back, so that what is not free is in use.
        let config = MbufPoolConfig::new("lan", 4096).cache(0);
        Self { pool: MbufPool::on_heap(&config).unwrap(), eal }
    }

    pub(crate) fn config(&self) -> PortConfig {
        PortConfig::new(self.pool.clone())
    }

    pub(crate) fn open(&self, devargs: &str) -> Result<Port<Opened>, PortError> {
        registry::open(&self.eal, 0, devargs)
    }

    /// A running port on `interface` with further `parameters`.
    pub(crate) fn port(&self, interface: &str, parameters: &str, config: &PortConfig) -> Side {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let port = self.open(&format!("net_af_packet{number},iface={interface}{parameters}")).unwrap();
        let (port, queues) = port.configure(config).unwrap().start().unwrap();
        Side { port, rx: queues.rx, tx: queues.tx, pool: self.pool.clone() }
    }

    pub(crate) fn two_ports(&self, near: &str, far: &str) -> (Side, Side) {
        (self.port(NEAR, near, &self.config()), self.port(FAR, far, &self.config()))
    }

    /// Stops the ports, and finds every mbuf at home.
    pub(crate) fn assert_home(&self, sides: Vec<Side>) {
        for side in sides {
            let Side { port, rx, tx, .. } = side;
            drop((rx, tx));
            port.stop().unwrap();
        }
        assert_eq!(self.pool.counts().in_use, 0);
        self.pool.audit().unwrap();
    }
}

/// A running port, with its queues.
pub(crate) struct Side {
    pub(crate) port: Port<Started>,
    pub(crate) rx: Vec<RxQueue>,
    pub(crate) tx: Vec<TxQueue>,
    pool: MbufPool,
}

impl Side {
    pub(crate) fn stats(&self) -> PortStats {
        self.port.stats()
    }

    pub(crate) fn mtu(&self) -> usize {
        self.port.mtu()
    }

    pub(crate) fn dropped_rx(&self) -> Vec<(DropReason, u64)> {
        self.rx.iter().flat_map(|queue| queue.counters().all_drops().collect::<Vec<_>>()).collect()
    }

    pub(crate) fn dropped_tx(&self) -> Vec<(DropReason, u64)> {
        self.tx.iter().flat_map(|queue| queue.counters().all_drops().collect::<Vec<_>>()).collect()
    }

    /// Sends all frames by the first queue.
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) {
        self.send_by(0, frames);
    }

    pub(crate) fn send_by(&mut self, queue: usize, frames: &[Vec<u8>]) {
        let deadline = Instant::now() + DEADLINE;
        for some in frames.chunks(32) {
            let mut burst = Burst::default();
            for frame in some {
                burst.push(self.pool.alloc_from(frame).unwrap()).unwrap();
            }
            while !burst.is_empty() {
                assert!(Instant::now() < deadline, "{} frames are not taken", burst.len());
                let _ = self.tx[queue].tx_burst(&mut burst);
            }
        }
    }

    /// Sends all frames, a burst at a time, while `other` receives; returns what that got until there is nothing
    /// more to come.
    pub(crate) fn send_to(&mut self, other: &mut Self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut received = Vec::new();
        for some in frames.chunks(32) {
            self.send(some);
            other.poll_into(&mut received);
        }
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(100) && received.len() <= frames.len() {
            if other.poll_into(&mut received) > 0 {
                quiet = Instant::now();
            }
        }
        received.retain(|frame| is_ours(frame));
        received
    }

    /// Waits for `count` frames of the tests' making.
    pub(crate) fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let received = self.receive_while(DEADLINE, count, is_ours);
        assert_eq!(received.len(), count, "frames received in {DEADLINE:?}");
        received
    }

    /// Receives until there are `count` frames for which `wanted` is true, or `most` time has passed.
    pub(crate) fn receive_while(
        &mut self,
        most: Duration,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Vec<Vec<u8>> {
        let start = Instant::now();
        let mut received = Vec::new();
        while received.len() < count && start.elapsed() < most {
            self.poll_into(&mut received);
            received.retain(|frame| wanted(frame));
        }
        received
    }

    /// Looks at every queue once; returns how many frames came.
    pub(crate) fn poll(&mut self) -> usize {
        self.poll_into(&mut Vec::new())
    }

    fn poll_into(&mut self, received: &mut Vec<Vec<u8>>) -> usize {
        let before = received.len();
        let mut burst = Burst::default();
        for queue in &mut self.rx {
            queue.rx_burst(&mut burst);
            received.extend(burst.drain().map(|packet| packet.segments().collect::<Vec<_>>().concat()));
        }
        received.len() - before
    }

    pub(crate) fn await_link(&self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.port.link().up {
            assert!(Instant::now() < deadline, "the link does not come up");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the port, does something, and starts it again.
    pub(crate) fn restart(self, meanwhile: impl FnOnce()) -> Self {
        let Self { port, rx, tx, pool } = self;
        drop((rx, tx));
        let port = port.stop().unwrap();
        meanwhile();
        let (port, queues) = port.start().unwrap();
        Self { port, rx: queues.rx, tx: queues.tx, pool }
    }
}
