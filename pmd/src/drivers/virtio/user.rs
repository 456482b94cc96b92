//! `net_virtio_user`: the driver of a virtio-net device that another process has, over vhost-user.
//!
//! Rings and packets lie in memory that the device maps, so packets are not copied on this side; the pool that packets
//! come from is to be [shared](crate::MbufPoolConfig::shared). The device's process may end and come again while the port
//! is started; the link is up while it is there.
//!
//! A device reaches all of the memory that is shared with it, mbuf headers too: it has to be trusted with that, as a
//! network card without an IOMMU is. What it writes into rings is checked.
//!
//! | parameter | |
//! |---|---|
//! | `path` | the path of the socket |
//! | `server` | 1: listen at it, instead of connecting to it; 0 unless given |
//! | `queues` | pairs of queues, 1 to 128; 1 unless given |
//! | `queue_size` | descriptors in each ring, 2 to 32768; a power of two unless `packed_vq`; 256 unless given |
//! | `mac` | the station address; the device's, or one of our own, unless given |
//! | `mrg_rxbuf` | 0: a received packet lies in one buffer; 1 unless given |
//! | `in_order` | 0: the device may use buffers in any order; 1 unless given |
//! | `packed_vq` | 1: packed rings; 0 unless given |
//! | `cq` | 1: a control queue; its commands are carried out on this side; 0 unless given |
//! | `speed` | the link's speed in Mb/s, as shown |

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_mempool::Memory;

use super::reach::{Range, Reach};
use super::rings::RingMemory;
use super::rx::DriverRx;
use super::tx::DriverTx;
use crate::net::MacAddress;
use crate::packet::{Burst, MbufPool, Offload};
use crate::port::{
    Counters, DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, DropReason, Held, Link, PortConfig,
    PortError, RxDriver, TxDriver,
};
use crate::vhost_user::codes::ProtocolFeatures;
use crate::vhost_user::lane::Lane;
use crate::vhost_user::{
    Connection, ControlThread, Endpoint, FrontEnd, MemoryRegion, RingAddresses, VhostUserError, Waited, Wake,
};
use crate::virtqueue::{AnyDriverRing, Features, Format, Ringer, net_offload};

const MAX_PAIRS: u16 = 128;
/// Descriptors in a ring unless given, as in DPDK.
pub const DEFAULT_QUEUE_SIZE: u16 = 256;
/// How long `start` waits for the device, so that the link is up when it returns if the device is there.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long `stop` waits for the device to let go of all rings.
const FAREWELL: Duration = Duration::from_secs(1);

/// The least data room of mbufs: a header and a short frame.
const LEAST_ROOM: usize = 12 + 64;

/// Device status bits (virtio 1.2, 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// How a port is to be, by its devargs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Pairs of queues.
    pub queues: u16,
    /// Descriptors in each ring.
    pub queue_size: u16,
    /// The station address, if it was given.
    pub mac: Option<MacAddress>,
    /// Whether a received packet may lie in several buffers.
    pub mergeable: bool,
    /// Whether buffers are used in order.
    pub in_order: bool,
    /// Whether rings are packed.
    pub packed: bool,
    /// Whether there is a control queue.
    pub control_queue: bool,
    /// Megabits a second, as shown.
    pub speed: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: DEFAULT_QUEUE_SIZE,
            mac: None,
            mergeable: true,
            in_order: true,
            packed: false,
            control_queue: false,
            speed: None,
        }
    }
}

impl Options {
    fn wanted(&self, config: &PortConfig) -> Features {
        let mut wanted = Features::VERSION_1
            | Features::ANY_LAYOUT
            | Features::INDIRECT
            | Features::MAC
            | Features::STATUS
            | Features::MTU
            | Features::MQ
            | Features::CTRL_VQ
            | net_offload::host_features(config.tx_offloads)
            | net_offload::guest_features(config.rx_offloads);
        wanted.set(Features::MRG_RXBUF, self.mergeable);
        wanted.set(Features::IN_ORDER, self.in_order);
        wanted.set(Features::RING_PACKED, self.packed);
        if !self.mergeable {
            // A large packet does not fit one buffer.
            wanted -= Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::GUEST_ECN;
        }
        wanted
    }
}

/// How the port finds its device.
#[derive(Debug)]
enum Place {
    Path {
        path: PathBuf,
        server: bool,
    },
    /// One stream, for one session.
    Stream(Option<UnixStream>),
}

#[derive(Debug)]
struct VirtioUser {
    name: String,
    place: Place,
    options: Options,
    memory: Arc<RingMemory>,
    config: Option<PortConfig>,
    state: Arc<State>,
    control: Option<ControlThread>,
}

/// What the control thread, the queues and the port share.
#[derive(Debug)]
struct State {
    mac: Mutex<MacAddress>,
    mtu: AtomicU32,
    /// `Offload` bits that the device does.
    can: AtomicU32,
    features: AtomicU64,
    /// A session is set up, and the device says that the link is up.
    up: AtomicBool,
    /// The first session is set up, or has failed.
    tried: AtomicBool,
    sessions: AtomicU64,
    failures: AtomicU64,
    copied: AtomicU64,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default, Clone)]
struct Lanes {
    rx: Vec<Arc<Lane<DriverRx>>>,
    tx: Vec<Arc<Lane<DriverTx>>>,
}

impl State {
    fn mac(&self) -> MacAddress {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> Lanes {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Opens a `net_virtio_user` device.
///
/// # Errors
/// [`PortError`] when a parameter is unknown, missing or out of range, or there is no memory for the rings.
pub fn open(eal: &Eal, mut args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    const QUEUES: &str = "pairs of queues, 1 to 128";
    const SIZE: &str = "descriptors, 2 to 32768";
    let purpose = "the path of the socket by which the device is found";
    let path = args.take::<PathBuf>("path", "a path")?.ok_or_else(|| args.missing("path", purpose))?;
    let server = args.take_flag("server")?;
    let mut flag =
        |key, usual| Ok::<bool, PortError>(args.take::<u8>(key, "0 or 1")?.map_or(usual, |on| on != 0));
    let mut options = Options {
        mergeable: flag("mrg_rxbuf", true)?,
        in_order: flag("in_order", true)?,
        packed: flag("packed_vq", false)?,
        control_queue: flag("cq", false)?,
        ..Options::default()
    };
    options.mac = args.take("mac", "a station address, for instance 02:00:00:00:00:01")?;
    options.speed = args.take("speed", "megabits a second")?;
    options.queues = args.take("queues", QUEUES)?.unwrap_or(options.queues);
    if !(1..=MAX_PAIRS).contains(&options.queues) {
        return Err(args.bad("queues", &options.queues.to_string(), &format!("expected {QUEUES}")));
    }
    options.queue_size = args.take("queue_size", SIZE)?.unwrap_or(options.queue_size);
    let format = if options.packed { Format::Packed } else { Format::Split };
    if options.queue_size < 2 || !format.takes(options.queue_size) {
        let problem = match format {
            Format::Packed => format!("expected {SIZE}"),
            Format::Split => format!("expected {SIZE}, a power of two (packed_vq=1 takes others)"),
        };
        return Err(args.bad("queue_size", &options.queue_size.to_string(), &problem));
    }
    let name = args.finish()?;
    VirtioUser::boxed(eal, name, Place::Path { path, server }, options)
}

/// The driver of a device at the other end of `stream`, for one session.
///
/// # Errors
/// [`PortError`] when there is no memory for the rings.
pub fn with_stream(
    eal: &Eal,
    name: &str,
    stream: UnixStream,
    options: Options,
) -> Result<Box<dyn Device>, PortError> {
    VirtioUser::boxed(eal, name.to_owned(), Place::Stream(Some(stream)), options)
}

impl VirtioUser {
    fn boxed(eal: &Eal, name: String, place: Place, options: Options) -> Result<Box<dyn Device>, PortError> {
        let configuration = |problem: String| PortError::Configuration { device: name.clone(), problem };
        let memory = RingMemory::reserve(eal, &name, options.queues * 2, options.queue_size)
            .map_err(|error| configuration(error.to_string()))?;
        let number = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let state = State {
            mac: Mutex::new(options.mac.unwrap_or(MacAddress::local(number))),
            mtu: AtomicU32::new(1500),
            can: AtomicU32::new(0),
            features: AtomicU64::new(0),
            up: AtomicBool::new(false),
            tried: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            lanes: Mutex::default(),
        };
        let (memory, state) = (Arc::new(memory), Arc::new(state));
        Ok(Box::new(Self { name, place, options, memory, config: None, state, control: None }))
    }

    fn configuration(&self, problem: impl Into<String>) -> PortError {
        PortError::Configuration { device: self.name.clone(), problem: problem.into() }
    }
}

impl Device for VirtioUser {
    fn info(&self) -> DeviceInfo {
        let mut info = DeviceInfo::new("net_virtio_user", self.options.queues, self.options.queues);
        let size = usize::from(self.options.queue_size);
        info.rx_held = Held::Mbufs(size);
        info.tx_held = Held::Mbufs(size);
        info.shared_pool = true;
        info.rx_offloads = Offload::RX_L4_CHECKSUM_GOOD
            | Offload::RX_LRO
            | Offload::TX_TCP_CHECKSUM
            | Offload::TX_UDP_CHECKSUM
            | Offload::TX_TCP_SEGMENTATION;
        info.tx_offloads = net_offload::to_device(Features::TO_DEVICE_OFFLOADS);
        info
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        let Some(pool) = &config.pool else {
            return Err(self.configuration(
                "it shares the memory of its packets with the device, and the configuration has no pool: give it one also \
                 when it only sends",
            ));
        };
        if pool.raw().memories().any(|memory| memory.shared_fd().is_none()) {
            return Err(self.configuration(format!(
                "the device cannot map the memory of pool \"{}\": make the pool with MbufPoolConfig::shared(true)",
                pool.name()
            )));
        }
        if pool.data_room() < LEAST_ROOM {
            return Err(self.configuration(format!(
                "the mbufs of pool \"{}\" have room for {} bytes, and {LEAST_ROOM} are needed for a frame",
                pool.name(),
                pool.data_room()
            )));
        }
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let config = self.config.clone().ok_or_else(|| self.configuration("it was not configured"))?;
        let pool = config.pool.clone().ok_or_else(|| self.configuration("it has no pool"))?;
        let mut lanes = Lanes::default();
        let lane_error = |source| PortError::system(&self.name, "making the descriptors of a queue", source);
        for index in 0..config.rx_queues.max(config.tx_queues) {
            lanes.rx.push(Lane::new(format!("{} rx {index}", self.name)).map_err(lane_error)?);
            lanes.tx.push(Lane::new(format!("{} tx {index}", self.name)).map_err(lane_error)?);
        }
        let mut queues = DeviceQueues { rx: Vec::new(), tx: Vec::new() };
        for lane in lanes.rx.iter().take(config.rx_queues.into()) {
            queues.rx.push(Box::new(UserRx { lane: Arc::clone(lane) }));
        }
        for lane in lanes.tx.iter().take(config.tx_queues.into()) {
            queues.tx.push(Box::new(UserTx { lane: Arc::clone(lane), state: Arc::clone(&self.state) }));
        }
        *self.state.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes.clone();
        let endpoint = match &mut self.place {
            Place::Path { path, server: true } => Endpoint::Server(path.clone()),
            Place::Path { path, server: false } => Endpoint::Client(path.clone()),
            Place::Stream(stream) => match stream.take() {
                Some(stream) => Endpoint::Stream(stream),
                None => return Err(self.configuration("its stream was used by the session before")),
            },
        };
        let session = Session {
            name: self.name.clone(),
            options: self.options.clone(),
            wanted: self.options.wanted(&config),
            receives: config.rx_queues,
            sends: config.tx_queues,
            pool,
            memory: Arc::clone(&self.memory),
            lanes,
            state: Arc::clone(&self.state),
        };
        self.state.tried.store(false, Ordering::Relaxed);
        let control = ControlThread::spawn(&self.name, endpoint, move |stream, wake| {
            session.run(stream, wake);
        });
        self.control = Some(control.map_err(|error| self.configuration(error.to_string()))?);
        if !matches!(self.place, Place::Path { server: true, .. }) {
            // A device that is there is set up in a moment.
            let begun = Instant::now();
            let there = |state: &State| state.tried.load(Ordering::Acquire);
            while !there(&self.state) && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(queues)
    }

    fn stop(&mut self) -> Result<(), PortError> {
        self.control = None;
        *self.state.lanes.lock().unwrap_or_else(PoisonError::into_inner) = Lanes::default();
        Ok(())
    }

    fn link(&self) -> Link {
        let lanes = self.state.lanes();
        let rx = lanes.rx.iter().all(|lane| lane.broken() == 0 || lane.is_working());
        let tx = lanes.tx.iter().all(|lane| lane.broken() == 0 || lane.is_working());
        Link { up: self.state.up.load(Ordering::Relaxed) && rx && tx, speed: self.options.speed }
    }

    fn mac(&self) -> MacAddress {
        self.state.mac()
    }

    fn mtu(&self) -> usize {
        self.state.mtu.load(Ordering::Relaxed) as usize
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        if !self.options.control_queue {
            return Err(PortError::Unsupported { what: "a change of the MAC address without cq=1" });
        }
        *self.state.mac.lock().unwrap_or_else(PoisonError::into_inner) = mac;
        Ok(())
    }

    fn set_promiscuous(&mut self, _on: bool) -> Result<(), PortError> {
        if !self.options.control_queue {
            return Err(PortError::Unsupported { what: "promiscuous mode without cq=1" });
        }
        // A vhost-user device sends all that it has; there is nothing that it could be asked to leave out.
        Ok(())
    }

    fn stats(&self) -> DeviceStats {
        let state = &self.state;
        let lanes = state.lanes();
        let broken: u64 = lanes.rx.iter().map(|lane| lane.broken()).sum::<u64>()
            + lanes.tx.iter().map(|lane| lane.broken()).sum::<u64>();
        let copied: u64 = lanes.tx.iter().map(|lane| lane.with(|tx| tx.map_or(0, |tx| tx.copied()))).sum();
        let extended = vec![
            ("virtio_sessions".to_owned(), state.sessions.load(Ordering::Relaxed)),
            ("virtio_session_failures".to_owned(), state.failures.load(Ordering::Relaxed)),
            ("virtio_broken_rings".to_owned(), broken),
            ("virtio_features".to_owned(), state.features.load(Ordering::Relaxed)),
            ("virtio_tx_copied".to_owned(), copied + state.copied.load(Ordering::Relaxed)),
        ];
        DeviceStats { missed: 0, extended }
    }
}

/// What a session needs; in the control thread.
struct Session {
    name: String,
    options: Options,
    wanted: Features,
    receives: u16,
    sends: u16,
    pool: MbufPool,
    memory: Arc<RingMemory>,
    lanes: Lanes,
    state: Arc<State>,
}

impl Session {
    /// Sets everything up with the device at the other end of `stream`, and takes it down when that goes or the wake is
    /// raised.
    fn run(&self, stream: UnixStream, wake: &Wake) {
        self.state.sessions.fetch_add(1, Ordering::Relaxed);
        let ended = self.serve(stream, wake);
        self.state.up.store(false, Ordering::Relaxed);
        self.state.can.store(0, Ordering::Relaxed);
        for lane in &self.lanes.rx {
            drop(lane.remove());
        }
        for lane in &self.lanes.tx {
            if let Some(tx) = lane.remove() {
                self.state.copied.fetch_add(tx.copied(), Ordering::Relaxed);
            }
        }
        self.state.tried.store(true, Ordering::Release);
        match ended {
            Ok(Waited::Woken) | Err(VhostUserError::Stopped { .. }) => {}
            Ok(_) => tracing::info!("{}: the device has gone", self.name),
            Err(error) => {
                self.state.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{}: the session with the device has ended: {error}", self.name);
            }
        }
    }

    fn serve(&self, stream: UnixStream, wake: &Wake) -> Result<Waited, VhostUserError> {
        let wanted = self.wanted;
        // A device that does not answer does not keep the port from stopping.
        let connection = Connection::new(stream).with_wake(wake);
        let mut front = FrontEnd::negotiate(connection, wanted.bits(), ProtocolFeatures::all())?;
        let features = Features::from_bits_retain(front.device_features());
        for (feature, asked, what) in [
            (Features::VERSION_1, true, "virtio 1.0"),
            (Features::RING_PACKED, self.options.packed, "packed rings (packed_vq=1)"),
        ] {
            if asked && !features.contains(feature) {
                return Err(VhostUserError::Missing { what });
            }
        }
        let pairs = self.receives.max(self.sends);
        if front.queue_pairs() < pairs {
            return Err(VhostUserError::Missing { what: "as many pairs of queues as the port has" });
        }
        front.set_status(ACKNOWLEDGE | DRIVER)?;
        self.learn(&mut front, features)?;
        front.set_features(features.bits())?;
        front.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
        self.share_memory(&mut front)?;
        for pair in 0..pairs {
            self.start_pair(&mut front, pair, features)?;
        }
        front.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        for pair in 0..pairs {
            front.enable_ring(2 * pair, true)?;
            front.enable_ring(2 * pair + 1, true)?;
        }
        self.state.features.store(features.bits(), Ordering::Relaxed);
        self.state.can.store(net_offload::to_device(features).bits(), Ordering::Relaxed);
        self.lanes.rx.iter().for_each(|lane| lane.enable(true));
        self.lanes.tx.iter().for_each(|lane| lane.enable(true));
        self.state.up.store(self.link_is_up(&mut front, features)?, Ordering::Relaxed);
        self.state.tried.store(true, Ordering::Release);
        tracing::info!("{}: the device is there, features {:#x}", self.name, features.bits());

        let watch =
            front.watch().map_err(|source| VhostUserError::Io { doing: "watching the device", source })?;
        loop {
            match watch.wait(wake, None) {
                Ok(Waited::Woken) => {
                    // The device lets go of rings and buffers, one ring after the other, before they are used anew.
                    let deadline = Instant::now() + FAREWELL;
                    for ring in 0..2 * pairs {
                        front.part(deadline.saturating_duration_since(Instant::now()));
                        front.stop_ring(ring)?;
                    }
                    return Ok(Waited::Woken);
                }
                Ok(_) => {}
                Err(source) => return Err(VhostUserError::Io { doing: "waiting for the device", source }),
            }
            let events = front.events()?;
            if events.closed {
                return Ok(Waited::TimedOut);
            }
            if events.config_changed {
                self.state.up.store(self.link_is_up(&mut front, features)?, Ordering::Relaxed);
            }
        }
    }

    /// Takes over what the device says of itself.
    fn learn(&self, front: &mut FrontEnd, features: Features) -> Result<(), VhostUserError> {
        let Some(config) = front.config()? else { return Ok(()) };
        // The address of a group is nobody's.
        let is_one = config.mac != [0; 6] && config.mac[0] & 1 == 0;
        if features.contains(Features::MAC) && self.options.mac.is_none() && is_one {
            *self.state.mac.lock().unwrap_or_else(PoisonError::into_inner) = MacAddress(config.mac);
        }
        if features.contains(Features::MTU) && config.mtu.get() >= 68 {
            self.state.mtu.store(config.mtu.get().into(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn link_is_up(&self, front: &mut FrontEnd, features: Features) -> Result<bool, VhostUserError> {
        if !features.contains(Features::STATUS) {
            return Ok(true);
        }
        Ok(front.config()?.is_none_or(|config| config.status.get() & 1 == 1))
    }

    /// Shares the rings and the pool.
    fn share_memory(&self, front: &mut FrontEnd) -> Result<(), VhostUserError> {
        let rings: &dyn Memory = self.memory.region();
        let memories = std::iter::once(rings).chain(self.pool.raw().memories());
        let regions: Option<Vec<MemoryRegion<'_>>> = memories
            .map(|memory| {
                let (fd, offset) = memory.shared_fd()?;
                let user_address = memory.base().as_ptr().addr() as u64;
                Some(MemoryRegion { fd, offset, len: memory.len() as u64, user_address })
            })
            .collect();
        front.set_memory(&regions.ok_or(VhostUserError::Missing { what: "memory that can be shared" })?)
    }

    /// What the device reaches.
    fn reach(&self) -> Reach {
        Reach::new(self.pool.raw().memories().map(Range::same))
    }

    /// Makes both rings of a pair, and starts them.
    fn start_pair(&self, front: &mut FrontEnd, pair: u16, features: Features) -> Result<(), VhostUserError> {
        let io = |doing| move |source| VhostUserError::Io { doing, source };
        let format = if features.contains(Features::RING_PACKED) { Format::Packed } else { Format::Split };
        let (rx_lane, tx_lane) =
            match (self.lanes.rx.get(usize::from(pair)), self.lanes.tx.get(usize::from(pair))) {
                (Some(rx), Some(tx)) => (rx, tx),
                _ => return Err(VhostUserError::Missing { what: "a queue" }),
            };
        let missing = || VhostUserError::Missing { what: "memory for a ring" };
        // SAFETY: the lanes are empty: `run` took out what the session before had, and with it went all that used these
        // rings. The device of that session is gone, or has stopped them.
        let (rx_area, tx_area, side) = unsafe {
            let rx = self.memory.ring(2 * pair, format).ok_or_else(missing)?;
            let tx = self.memory.ring(2 * pair + 1, format).ok_or_else(missing)?;
            (rx, tx, self.memory.side(2 * pair + 1).ok_or_else(missing)?)
        };
        for (index, area) in [(2 * pair, rx_area), (2 * pair + 1, tx_area)] {
            let kick = Ringer::new().map_err(io("making a kick"))?;
            let call = Ringer::new().map_err(io("making a call"))?;
            let [descriptors, driver_area, device_area] =
                area.parts().map(|part| part.as_ptr().addr() as u64);
            let is_rx = index % 2 == 0;
            let size = area.size();
            let ring = AnyDriverRing::new(area, features);
            let addresses = |kick: BorrowedFd<'_>, front: &mut FrontEnd| {
                let base = match format {
                    Format::Split => 0,
                    Format::Packed => crate::vhost_user::backend::PACKED_START,
                };
                let call = call.as_fd();
                let addresses =
                    RingAddresses { size, descriptors, driver_area, device_area, base, kick, call };
                front.start_ring(index, &addresses)
            };
            let their_kick = kick.as_fd().try_clone_to_owned().map_err(io("sharing a kick"))?;
            if is_rx {
                rx_lane.bell().listen_to(call.as_fd()).map_err(io("listening to a call"))?;
                let pool = self.pool.clone();
                // A port that only sends posts no buffers.
                let posts = pair < self.receives;
                rx_lane.install(DriverRx::new(ring, features, pool, self.reach(), kick, posts));
            } else {
                let pool = Some(self.pool.clone());
                tx_lane.install(DriverTx::new(ring, features, pool, self.reach(), side.clone(), kick));
            }
            addresses(their_kick.as_fd(), front)?;
            // The call lives as long as the device's copy of it.
        }
        Ok(())
    }
}

/// A receive queue.
#[derive(Debug)]
struct UserRx {
    lane: Arc<Lane<DriverRx>>,
}

impl RxDriver for UserRx {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        self.lane.work(|rx| ((), rx.receive(burst, counters)));
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lane.wait_fd())
    }

    fn arm_wait(&mut self) -> bool {
        self.lane.with(|rx| rx.is_some_and(DriverRx::arm))
    }

    fn disarm_wait(&mut self) {
        self.lane.with(|rx| rx.into_iter().for_each(DriverRx::disarm));
        self.lane.bell().quiet();
    }
}

/// A transmit queue.
#[derive(Debug)]
struct UserTx {
    lane: Arc<Lane<DriverTx>>,
    state: Arc<State>,
}

impl TxDriver for UserTx {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let sent = self.lane.work(|tx| ((), tx.send(burst, counters)));
        if sent.is_none() && !self.lane.is_working() {
            counters.dropped(DropReason::TxLinkDown, burst.len() as u64);
            burst.free();
        }
    }

    fn offloads(&self) -> Offload {
        Offload::from_bits_truncate(self.state.can.load(Ordering::Relaxed))
    }
}
