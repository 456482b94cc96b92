//! What is attacked: a port whose queues a thread polls without end; and a pair of ports beside it that must not notice.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wirerate_eal::Eal;
use wirerate_pmd::drivers::{vhost, virtio::user};
use wirerate_pmd::packet::{MAX_BURST, Offload};
use wirerate_pmd::port::registry::open;
use wirerate_pmd::port::{Device, DropReason, Opened, Queues, Started};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

use crate::peer::{PATIENCE, wait_for};

pub(crate) fn eal() -> Eal {
    Eal::builder().no_huge(true).build().unwrap()
}

pub(crate) fn pool(eal: &Eal, name: &str) -> MbufPool {
    MbufPool::new(eal, &MbufPoolConfig::new(name, 4096).shared(true)).unwrap()
}

/// What the thread that polls and the test tell each other.
#[derive(Default)]
struct Shared {
    end: AtomicBool,
    /// Send without end, of this many kinds of packets.
    flood: AtomicBool,
    received: Mutex<Vec<Vec<u8>>>,
    to_send: Mutex<VecDeque<Vec<u8>>>,
    rounds: AtomicU64,
    /// Frames that wait to be sent.
    waiting: AtomicUsize,
    /// The longest processor time that one call of `rx_burst` or `tx_burst` took, in microseconds.
    longest: AtomicU64,
    /// Frames that were received, beside those that are kept.
    count: AtomicUsize,
}

/// A port with a thread that polls it.
pub(crate) struct Target {
    port: Option<Port<Started>>,
    pub pool: MbufPool,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

/// All liberties: unfinished packets are taken, and have to be finished by whoever sends them on.
fn liberties() -> Offload {
    Offload::TX_TCP_CHECKSUM | Offload::TX_UDP_CHECKSUM | Offload::TX_TCP_SEGMENTATION
}

impl Target {
    /// A `net_vhost` port that listens at a path.
    pub(crate) fn vhost(eal: &Eal) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vhost");
        let port = open(eal, 0, &format!("net_vhost0,iface={}", path.display())).unwrap();
        Self::start(eal, port, folder, path)
    }

    /// A `net_virtio_user` port that listens at a path for its device.
    pub(crate) fn virtio(eal: &Eal, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("virtio");
        let devargs = format!("net_virtio_user0,path={},server=1{options}", path.display());
        let port = open(eal, 0, &devargs).unwrap();
        Self::start(eal, port, folder, path)
    }

    fn start(eal: &Eal, port: Port<Opened>, folder: tempfile::TempDir, path: PathBuf) -> Self {
        let pool = pool(eal, "target");
        let config = PortConfig::new(pool.clone()).rx_offloads(liberties());
        let (port, queues) = port.configure(&config).unwrap().start().unwrap();
        // A port that leaves checksums and segmentation to software.
        let sink = open(eal, 9, "net_pcap9,tx_pcap=/dev/null").unwrap();
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let (shared, pool) = (Arc::clone(&shared), pool.clone());
            let (sink, sinks) = sink.configure(&PortConfig::send_only()).unwrap().start().unwrap();
            move || {
                poll(queues, sinks, &pool, &shared);
                drop(sink);
            }
        });
        Self { port: Some(port), pool, shared, thread: Some(thread), path, _folder: folder }
    }

    /// The port, while it runs.
    pub(crate) fn port(&self) -> &Port<Started> {
        self.port.as_ref().unwrap()
    }

    /// One of its extended statistics. A reason for which nothing was dropped yet is not among them.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let all = self.port().xstats();
        if let Some((_, count)) = all.iter().find(|(one, _)| one == name) {
            return *count;
        }
        let reason = name.split_once("_drop_").map(|(_, reason)| reason);
        assert!(
            reason.is_some_and(|reason| DropReason::ALL.iter().any(|one| one.name() == reason)),
            "{name} is none of {all:?}"
        );
        0
    }

    /// What was received since the last call.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.shared.received.lock().unwrap())
    }

    /// Waits for the next frame.
    pub(crate) fn next(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        wait_for("a frame to be received", || {
            frames = self.received();
            !frames.is_empty()
        });
        assert_eq!(frames.len(), 1);
        frames.remove(0)
    }

    /// How many frames were received in all.
    pub(crate) fn received_in_all(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Has a frame sent.
    pub(crate) fn send(&self, frame: &[u8]) {
        let mut waiting = self.shared.to_send.lock().unwrap();
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        waiting.push_back(frame.to_vec());
    }

    /// Waits until all is sent or dropped.
    pub(crate) fn idle(&self) {
        wait_for("all frames to be sent or dropped", || self.shared.waiting.load(Ordering::SeqCst) == 0);
    }

    /// Sends without end, or no longer.
    pub(crate) fn flood(&self, on: bool) {
        self.shared.flood.store(on, Ordering::Relaxed);
        if !on {
            self.polled();
        }
    }

    /// Waits until every queue was polled anew.
    pub(crate) fn polled(&self) {
        let now = self.shared.rounds.load(Ordering::SeqCst);
        wait_for("the queues to be polled", || self.shared.rounds.load(Ordering::SeqCst) > now + 1);
    }

    /// The longest processor time that a burst took.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.shared.longest.load(Ordering::Relaxed))
    }

    /// Lets an honest driver at the same socket exchange frames with it.
    pub(crate) fn works_with_an_honest_driver(&self, eal: &Eal, packed: bool) {
        let options = format!("net_virtio_user1,path={},packed_vq={}", self.path.display(), u8::from(packed));
        let pool = pool(eal, "honest");
        let port = open(eal, 1, &options).unwrap();
        let (port, mut queues) = port.configure(&PortConfig::new(pool.clone())).unwrap().start().unwrap();
        wait_for("a link with an honest driver", || port.link().up && self.port().link().up);
        self.received();
        let mut burst = Burst::new(MAX_BURST);
        for number in 0..64 {
            let frame = frame(number, 60 + 37 * number);
            burst.push(pool.alloc_from(&frame).unwrap()).unwrap();
            wait_for("a frame to be taken", || {
                let _ = queues.tx[0].tx_burst(&mut burst);
                burst.is_empty()
            });
            assert!(self.next() == frame);
            self.send(&frame);
            wait_for("a frame from the target", || queues.rx[0].rx_burst(&mut burst) > 0);
            let bytes: Vec<u8> = burst[0].segments().flatten().copied().collect();
            assert!(bytes == frame && burst.len() == 1);
            burst.free();
        }
        drop((queues, burst));
        drop(port.stop().unwrap());
        assert_eq!(pool.counts().in_use, 0);
    }

    fn end_thread(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the thread that polls has panicked");
    }

    /// Stops the port, and looks that every mbuf is at home.
    pub(crate) fn end(mut self) {
        self.end_thread();
        drop(self.port.take().unwrap().stop().unwrap());
        assert_eq!(self.pool.counts().in_use, 0, "mbufs did not come home");
        self.pool.audit().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What this thread has had of a processor: others may want it, too.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// Polls both queues until the end; what comes is noted and sent on into nothing, where it is finished by software.
fn poll(mut queues: Queues, mut sinks: Queues, pool: &MbufPool, shared: &Shared) {
    let (mut received, mut sending) = (Burst::new(32), Burst::new(32));
    // How many at the front of what is sent were asked for.
    let (mut number, mut asked) = (0, 0);
    while !shared.end.load(Ordering::Relaxed) {
        let begun = processor_time();
        queues.rx[0].rx_burst(&mut received);
        let mut took = processor_time() - begun;
        if !received.is_empty() {
            let mut frames = shared.received.lock().unwrap();
            for packet in received.iter() {
                shared.count.fetch_add(1, Ordering::Relaxed);
                if frames.len() < 1000 {
                    frames.push(packet.segments().flatten().copied().collect());
                }
            }
            drop(frames);
            while !received.is_empty() {
                let _ = sinks.tx[0].tx_burst(&mut received);
            }
        }
        {
            let mut waiting = shared.to_send.lock().unwrap();
            while sending.room() > 0
                && let Some(frame) = waiting.pop_front()
            {
                sending.push(pool.alloc_from(&frame).unwrap()).unwrap();
                asked += 1;
            }
        }
        let flood = shared.flood.load(Ordering::Relaxed);
        while flood && sending.room() > 0 {
            number += 1;
            let Some(packet) = pool.alloc_from(&frame(number, 60 + number * 7919 % 9000)) else { break };
            sending.push(packet).unwrap();
        }
        let begun = processor_time();
        let before = sending.len();
        let _ = queues.tx[0].tx_burst(&mut sending);
        took = took.max(processor_time() - begun);
        shared.waiting.fetch_sub((before - sending.len()).min(asked), Ordering::SeqCst);
        asked -= (before - sending.len()).min(asked);
        if flood {
            sending.free();
            shared.waiting.fetch_sub(asked, Ordering::SeqCst);
            asked = 0;
        }
        shared.longest.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        shared.rounds.fetch_add(1, Ordering::SeqCst);
        std::thread::yield_now();
    }
}

/// A frame that tells its number and length in every byte.
pub(crate) fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 7 + at * 3 + len) as u8).collect()
}

/// A pair of honest ports that pass frames all the time.
pub(crate) struct Bystander {
    end: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Bystander {
    pub(crate) fn start(eal: &Eal) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        let (driver_pool, device_pool) = (pool(eal, "by driver"), pool(eal, "by device"));
        let device = vhost::with_stream("net_vhost7", there, 1);
        let driver = user::with_stream(eal, "net_virtio_user7", here, user::Options::default()).unwrap();
        let start = |device: Box<dyn Device>, name, pool: &MbufPool| {
            Port::new(device, name, 7).configure(&PortConfig::new(pool.clone())).unwrap().start().unwrap()
        };
        let (device, mut device_queues) = start(device, "net_vhost7", &device_pool);
        let (driver, mut driver_queues) = start(driver, "net_virtio_user7", &driver_pool);
        let end = Arc::<AtomicBool>::default();
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            wait_for("the link of the pair beside", || device.link().up && driver.link().up);
            let mut passed = 0;
            while !told.load(Ordering::Relaxed) {
                round(&mut driver_queues, &mut device_queues, &driver_pool, passed);
                round(&mut device_queues, &mut driver_queues, &device_pool, passed);
                passed += 1;
                // The processors are needed elsewhere, too.
                std::thread::sleep(Duration::from_micros(200));
            }
            assert!(device.link().up && driver.link().up, "the link of the pair beside is down");
            for port in [&device, &driver] {
                for (name, count) in port.xstats() {
                    assert!(!name.contains("_drop_") || count == 0, "beside: {name} {count}");
                }
            }
            drop((device_queues, driver_queues));
            drop((driver.stop().unwrap(), device.stop().unwrap()));
            assert_eq!(driver_pool.counts().in_use + device_pool.counts().in_use, 0);
            passed
        });
        Self { end, thread }
    }

    /// Ends it; every frame that was sent has come.
    pub(crate) fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        let passed = self.thread.join().expect("the pair beside was disturbed");
        assert!(passed > 0);
    }
}

/// A burst from one end to the other, all of which has to come as it was.
fn round(from: &mut Queues, to: &mut Queues, pool: &MbufPool, number: usize) {
    let mut burst = Burst::new(32);
    let frames: Vec<Vec<u8>> =
        (0..32).map(|at| frame(number + at, 60 + (number * 32 + at) * 97 % 3000)).collect();
    for frame in &frames {
        burst.push(pool.alloc_from(frame).unwrap()).unwrap();
    }
    let begun = Instant::now();
    let mut received = Burst::new(32);
    let mut got = 0;
    while got < frames.len() {
        let _ = from.tx[0].tx_burst(&mut burst);
        to.rx[0].rx_burst(&mut received);
        for packet in received.drain() {
            let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
            assert!(bytes == frames[got], "beside: frame {got} of round {number}");
            got += 1;
        }
        assert!(begun.elapsed() < PATIENCE, "beside: {got} frames of round {number} came");
        std::thread::yield_now();
    }
}
