//! `net_vhost`: a virtio-net device for a virtual machine or for another program to drive, over vhost-user.
//!
//! The driver's memory is mapped here, and packets are copied between it and mbufs. Checksums and large TCP packets pass
//! as the two sides have negotiated. A front end may come, go and come again while the port is started; the link is up
//! while its first pair of rings works.
//!
//! | parameter | |
//! |---|---|
//! | `iface` | the path of the socket |
//! | `queues` | pairs of queues that a front end may have, 1 to 128; 1 unless given |
//! | `client` | 1: connect to the socket, again and again, instead of listening at it; 0 unless given |
//! | `tso` | 0: large TCP packets are neither taken nor given; 1 unless given |

mod rx;
#[cfg(test)]
mod tests;
mod tx;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wirerate_eal::Eal;

use self::rx::DeviceRx;
use self::tx::DeviceTx;
use crate::lane::Lanes;
use crate::net::MacAddress;
use crate::packet::{MbufPool, Offload};
use crate::port::{DevArgs, Device, DeviceInfo, DeviceQueues, DeviceStats, Link, PortConfig, PortError};
use crate::vhost_user::port::{MAX_PAIRS, Place, take_pairs};
use crate::vhost_user::{self, BackEnd, ControlThread, Ended, RingSetup};
use crate::virtqueue::{AnyDeviceRing, Features, Format, RingArea, Ringer, net_offload};

/// What any driver is offered.
const OFFERED: Features = Features::VERSION_1
    .union(Features::ANY_LAYOUT)
    .union(Features::INDIRECT)
    .union(Features::EVENT_INDEX)
    .union(Features::RING_PACKED)
    .union(Features::IN_ORDER)
    .union(Features::MRG_RXBUF)
    .union(Features::STATUS)
    .union(Features::MQ)
    // The control queue is the front end's: QEMU and virtio-user serve it themselves, where the back end knows of it.
    .union(Features::CTRL_VQ)
    .union(Features::CTRL_RX)
    .union(Features::CTRL_MAC_ADDR);

/// What lets large packets pass.
const LARGE: Features = Features::GUEST_TSO4
    .union(Features::GUEST_TSO6)
    .union(Features::GUEST_ECN)
    .union(Features::HOST_TSO4)
    .union(Features::HOST_TSO6)
    .union(Features::HOST_ECN);

#[derive(Debug)]
struct Vhost {
    name: String,
    place: Place,
    pairs: u16,
    tso: bool,
    mac: MacAddress,
    config: Option<PortConfig>,
    state: Arc<State>,
    control: Option<ControlThread>,
}

/// What the control thread, the queues and the port share.
#[derive(Debug, Default)]
struct State {
    lanes: Mutex<VhostLanes>,
    /// `Offload` bits that the driver takes.
    can: Arc<AtomicU32>,
    features: AtomicU64,
    sessions: AtomicU64,
    failures: AtomicU64,
}

/// The lanes of a started port.
type VhostLanes = Lanes<DeviceRx, DeviceTx>;

impl State {
    fn lanes(&self) -> VhostLanes {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_lanes(&self, lanes: VhostLanes) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }
}

/// Opens a `net_vhost` device.
///
/// # Errors
/// [`PortError`] when a parameter is unknown, missing or out of range.
pub fn open(_eal: &Eal, mut args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    let purpose = "the path of the socket by which the front end comes";
    let path = args.take::<PathBuf>("iface", "a path")?.ok_or_else(|| args.missing("iface", purpose))?;
    let pairs = take_pairs(&mut args)?;
    let server = !args.take_flag("client")?;
    let tso = args.take::<u8>("tso", "0 or 1")?.unwrap_or(1) != 0;
    let name = args.finish()?;
    Ok(Box::new(Vhost::new(name, Place::Path { path, server }, pairs, tso)))
}

/// A device whose front end is at the other end of `stream`, for one session.
#[must_use]
pub fn with_stream(name: &str, stream: UnixStream, pairs: u16) -> Box<dyn Device> {
    Box::new(Vhost::new(name.to_owned(), Place::Stream(Some(stream)), pairs.clamp(1, MAX_PAIRS), true))
}

impl Vhost {
    fn new(name: String, place: Place, pairs: u16, tso: bool) -> Self {
        let number = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Self {
            mac: MacAddress::local(number),
            name,
            place,
            pairs,
            tso,
            config: None,
            state: Arc::default(),
            control: None,
        }
    }

    fn offered(&self, config: &PortConfig) -> Features {
        let mut offered = OFFERED
            | net_offload::host_features(config.rx_offloads)
            | net_offload::guest_features(config.tx_offloads);
        if !self.tso {
            offered -= LARGE;
        }
        offered
    }
}

impl Device for Vhost {
    fn info(&self) -> DeviceInfo {
        let mut info = DeviceInfo::new("net_vhost", self.pairs, self.pairs);
        info.rx_offloads = Offload::RX_L4_CHECKSUM_GOOD
            | Offload::RX_LRO
            | Offload::TX_TCP_CHECKSUM
            | Offload::TX_UDP_CHECKSUM
            | Offload::TX_TCP_SEGMENTATION;
        info.tx_offloads = net_offload::to_driver(Features::TO_DRIVER_OFFLOADS);
        info
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let Some(config) = self.config.clone() else {
            let problem = "it was not configured".to_owned();
            return Err(PortError::Configuration { device: self.name.clone(), problem });
        };
        let lanes = VhostLanes::new(&self.name, self.pairs)?;
        let queues = lanes.queues(config.rx_queues, config.tx_queues, &self.state.can);
        let endpoint = self.place.endpoint(&self.name)?;
        self.state.set_lanes(lanes.clone());
        let mut backing = Backing {
            name: self.name.clone(),
            offered: self.offered(&config),
            kicks: Kicks::new(self.pairs),
            lanes,
            pool: config.pool,
            state: Arc::clone(&self.state),
        };
        let control = ControlThread::spawn(&self.name, endpoint, move |stream, wake| {
            backing.serve(stream, wake);
        });
        self.control = Some(control.map_err(|error| PortError::Configuration {
            device: self.name.clone(),
            problem: error.to_string(),
        })?);
        Ok(queues)
    }

    fn stop(&mut self) -> Result<(), PortError> {
        self.control = None;
        self.state.set_lanes(Lanes::default());
        Ok(())
    }

    fn link(&self) -> Link {
        let lanes = self.state.lanes();
        let rx = lanes.rx.first().is_some_and(|lane| lane.is_working());
        let tx = lanes.tx.first().is_some_and(|lane| lane.is_working());
        Link { up: rx && tx, speed: None }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        self.mac = mac;
        Ok(())
    }

    fn set_promiscuous(&mut self, _on: bool) -> Result<(), PortError> {
        // All that the driver sends is received.
        Ok(())
    }

    fn stats(&self) -> DeviceStats {
        let state = &self.state;
        let extended = vec![
            ("vhost_sessions".to_owned(), state.sessions.load(Ordering::Relaxed)),
            ("vhost_session_failures".to_owned(), state.failures.load(Ordering::Relaxed)),
            ("vhost_broken_rings".to_owned(), state.lanes().broken()),
            ("vhost_features".to_owned(), state.features.load(Ordering::Relaxed)),
        ];
        DeviceStats { missed: 0, extended }
    }
}

/// The device as a front end finds it; in the control thread.
#[derive(Debug)]
struct Backing {
    name: String,
    offered: Features,
    lanes: VhostLanes,
    /// Where packets are received into; none when the port only sends.
    pool: Option<MbufPool>,
    kicks: Kicks,
    state: Arc<State>,
}

/// What the lanes' bells listen to at the moment, by ring.
#[derive(Debug)]
struct Kicks(Vec<Option<OwnedFd>>);

impl Kicks {
    fn new(pairs: u16) -> Self {
        Self(std::iter::repeat_with(|| None).take(2 * usize::from(pairs)).collect())
    }
}

impl Backing {
    fn serve(&mut self, stream: UnixStream, wake: &vhost_user::Wake) {
        let state = Arc::clone(&self.state);
        let name = self.name.clone();
        state.sessions.fetch_add(1, Ordering::Relaxed);
        tracing::info!("{name}: a front end has come");
        match BackEnd::new(stream, &mut *self).serve(wake) {
            Ok(Ended::Closed) => tracing::info!("{name}: the front end has gone"),
            Ok(Ended::Stopped) => {}
            Err(error) => {
                state.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{name}: the session with the front end has ended: {error}");
            }
        }
    }

    /// Which lane a ring is for: the driver sends by the odd ones.
    fn pair(index: u16) -> (usize, bool) {
        (usize::from(index / 2), index % 2 == 1)
    }

    fn listen(&mut self, index: u16, kick: Option<OwnedFd>) -> Result<(), String> {
        let (pair, is_rx) = Self::pair(index);
        if let (Some(kick), true, Some(lane)) = (&kick, is_rx, self.lanes.rx.get(pair)) {
            let refused = |error| format!("its kick cannot be waited for: {error}");
            lane.bell().listen_to(kick.as_fd()).map_err(refused)?;
        }
        if let Some(place) = self.kicks.0.get_mut(usize::from(index)) {
            *place = kick;
        }
        Ok(())
    }

    fn forget_kick(&mut self, index: u16) {
        let (pair, is_rx) = Self::pair(index);
        if let Some(kick) = self.kicks.0.get_mut(usize::from(index)).and_then(Option::take)
            && let (true, Some(lane)) = (is_rx, self.lanes.rx.get(pair))
        {
            lane.bell().forget(kick.as_fd());
        }
    }
}

impl vhost_user::Device for Backing {
    fn features(&self) -> u64 {
        self.offered.bits()
    }

    fn rings(&self) -> u16 {
        (self.lanes.rx.len() * 2) as u16
    }

    fn config(&self) -> Vec<u8> {
        // struct virtio_net_config: MAC, status (link up), pairs of queues, MTU.
        let mut config = vec![0; 6];
        config.extend(1u16.to_le_bytes());
        config.extend((self.lanes.rx.len() as u16).to_le_bytes());
        config.extend(1500u16.to_le_bytes());
        config
    }

    fn negotiated(&mut self, features: u64) {
        self.state.features.store(features, Ordering::Relaxed);
        let can = net_offload::to_driver(Features::from_bits_retain(features));
        self.state.can.store(can.bits(), Ordering::Relaxed);
    }

    fn start_ring(&mut self, index: u16, ring: RingSetup) -> Result<(), String> {
        let features = Features::from_bits_retain(ring.features);
        let format = if features.contains(Features::RING_PACKED) { Format::Packed } else { Format::Split };
        let memory = Arc::clone(&ring.memory);
        // SAFETY: the set-up says that the three parts lie in the shared memory, which is mapped for as long as `memory`
        // lives, and are as long as rings of this size are; nobody makes references into shared memory.
        let area = unsafe {
            let (driver, device) = (ring.driver_area, ring.device_area);
            RingArea::new(format, ring.size, ring.descriptors, driver, device, memory)
        };
        let area = area.ok_or_else(|| format!("no ring can have {} descriptors there", ring.size))?;
        let call = ring.call.map(Ringer::from_peer).transpose();
        let call = call.map_err(|error| format!("its call cannot be used: {error}"))?;
        self.listen(index, ring.kick)?;
        let at = AnyDeviceRing::new(area, features, ring.base);
        match Self::pair(index) {
            (pair, true) => {
                let lane = self.lanes.rx.get(pair).ok_or("there is no such queue")?;
                lane.install(DeviceRx::new(at, features, ring.memory, call, self.pool.clone()));
            }
            (pair, false) => {
                let lane = self.lanes.tx.get(pair).ok_or("there is no such queue")?;
                lane.install(DeviceTx::new(at, features, ring.memory, call));
            }
        }
        tracing::debug!("{}: ring {index}: {format:?}, {} descriptors", self.name, ring.size);
        Ok(())
    }

    fn stop_ring(&mut self, index: u16) -> u32 {
        self.forget_kick(index);
        let base = match Self::pair(index) {
            (pair, true) => {
                let ring = self.lanes.rx.get(pair).and_then(|lane| lane.remove());
                ring.map(|mut rx| rx.ring().base())
            }
            (pair, false) => {
                let ring = self.lanes.tx.get(pair).and_then(|lane| lane.remove());
                ring.map(|mut tx| tx.ring().base())
            }
        };
        base.unwrap_or(0)
    }

    fn enable_ring(&mut self, index: u16, on: bool) {
        match Self::pair(index) {
            (pair, true) => self.lanes.rx.get(pair).into_iter().for_each(|lane| lane.enable(on)),
            (pair, false) => self.lanes.tx.get(pair).into_iter().for_each(|lane| lane.enable(on)),
        }
    }

    fn set_call(&mut self, index: u16, call: Option<OwnedFd>) {
        // One that cannot be used is as good as none: the driver then has to poll.
        let call = call.and_then(|call| Ringer::from_peer(call).ok());
        match Self::pair(index) {
            (pair, true) => {
                if let Some(lane) = self.lanes.rx.get(pair) {
                    lane.with(|rx| rx.map(|rx| rx.set_call(call)));
                }
            }
            (pair, false) => {
                if let Some(lane) = self.lanes.tx.get(pair) {
                    lane.with(|tx| tx.map(|tx| tx.set_call(call)));
                }
            }
        }
    }

    fn set_status(&mut self, status: u8) {
        tracing::debug!("{}: device status {status:#x}", self.name);
    }

    fn disconnected(&mut self) {
        self.state.can.store(0, Ordering::Relaxed);
    }
}
