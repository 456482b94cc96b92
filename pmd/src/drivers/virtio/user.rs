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

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use wirerate_eal::Eal;

use super::pairs::check_room;
use super::rings::RingMemory;
use super::session::{Session, Sessions};
use super::state::{self, State, VirtioLanes};
use crate::lane::Lanes;
use crate::net::MacAddress;
use crate::packet::Offload;
use crate::port::{
    DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, Held, Link, PortConfig, PortError,
};
use crate::vhost_user::ControlThread;
use crate::vhost_user::port::{Place, take_pairs};
use crate::virtqueue::{Features, Format, net_offload};

/// Descriptors in a ring unless given, as in DPDK.
pub const DEFAULT_QUEUE_SIZE: u16 = 256;
/// How long `start` waits for the device, so that the link is up when it returns if the device is there.
const PATIENCE: Duration = Duration::from_secs(1);

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

#[derive(Debug)]
struct VirtioUser {
    name: String,
    place: Place,
    options: Options,
    memory: Arc<RingMemory>,
    config: Option<PortConfig>,
    state: Arc<State>,
    sessions: Arc<Sessions>,
    control: Option<ControlThread>,
}

/// Opens a `net_virtio_user` device.
///
/// # Errors
/// [`PortError`] when a parameter is unknown, missing or out of range, or there is no memory for the rings.
pub fn open(eal: &Eal, mut args: DevArgs) -> Result<Box<dyn Device>, PortError> {
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
    options.queues = take_pairs(&mut args)?;
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
        let memory = RingMemory::reserve(eal, &name, options.queues * 2, options.queue_size, true)
            .map_err(|error| configuration(error.to_string()))?;
        let number = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let state = State::new(options.mac.unwrap_or(MacAddress::local(number)));
        let (memory, state) = (Arc::new(memory), Arc::new(state));
        let sessions = Arc::default();
        Ok(Box::new(Self { name, place, options, memory, config: None, state, sessions, control: None }))
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
        check_room(&self.name, pool)?;
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let config = self.config.clone().ok_or_else(|| self.configuration("it was not configured"))?;
        let pool = config.pool.clone().ok_or_else(|| self.configuration("it has no pool"))?;
        let lanes = VirtioLanes::new(&self.name, config.rx_queues.max(config.tx_queues))?;
        let queues = lanes.queues(config.rx_queues, config.tx_queues, self.state.can());
        let endpoint = self.place.endpoint(&self.name)?;
        self.state.set_lanes(lanes.clone());
        let mut wanted = state::wanted(&config, self.options.mergeable, self.options.in_order);
        wanted.set(Features::RING_PACKED, self.options.packed);
        let session = Session {
            name: self.name.clone(),
            options: self.options.clone(),
            wanted,
            receives: config.rx_queues,
            sends: config.tx_queues,
            pool,
            memory: Arc::clone(&self.memory),
            lanes,
            state: Arc::clone(&self.state),
            sessions: Arc::clone(&self.sessions),
        };
        self.sessions.tried.store(false, Ordering::Relaxed);
        let control = ControlThread::spawn(&self.name, endpoint, move |stream, wake| {
            session.run(stream, wake);
        });
        self.control = Some(control.map_err(|error| self.configuration(error.to_string()))?);
        if !matches!(self.place, Place::Path { server: true, .. }) {
            // A device that is there is set up in a moment.
            let begun = Instant::now();
            while !self.sessions.tried.load(Ordering::Acquire) && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(queues)
    }

    fn stop(&mut self) -> Result<(), PortError> {
        self.control = None;
        self.state.set_lanes(Lanes::default());
        Ok(())
    }

    fn link(&self) -> Link {
        self.state.link(self.options.speed)
    }

    fn mac(&self) -> MacAddress {
        self.state.mac()
    }

    fn mtu(&self) -> usize {
        self.state.mtu()
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        if !self.options.control_queue {
            return Err(PortError::Unsupported { what: "a change of the MAC address without cq=1" });
        }
        self.state.set_mac(mac);
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
        let mut extended = vec![
            ("virtio_sessions".to_owned(), self.sessions.begun.load(Ordering::Relaxed)),
            ("virtio_session_failures".to_owned(), self.sessions.failed.load(Ordering::Relaxed)),
        ];
        extended.extend(self.state.counts());
        DeviceStats { missed: 0, extended }
    }
}
