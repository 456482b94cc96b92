//! A session of `net_virtio_user` with its device: set up, watched, and taken down again.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wirerate_mempool::Memory;

use super::reach::{Range, Reach};
use super::rings::RingMemory;
use super::rx::DriverRx;
use super::tx::DriverTx;
use super::user::Options;
use crate::net::MacAddress;
use crate::packet::MbufPool;
use crate::vhost_user::codes::ProtocolFeatures;
use crate::vhost_user::port::Lanes;
use crate::vhost_user::{Connection, FrontEnd, MemoryRegion, RingAddresses, VhostUserError, Waited, Wake};
use crate::virtqueue::{AnyDriverRing, Features, Format, Ringer, net_offload};

/// How long `stop` waits for the device to let go of all rings.
const FAREWELL: Duration = Duration::from_secs(1);

/// Device status bits (virtio 1.2, 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// What the control thread, the queues and the port share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) mac: Mutex<MacAddress>,
    pub(super) mtu: AtomicU32,
    /// `Offload` bits that the device does.
    pub(super) can: Arc<AtomicU32>,
    pub(super) features: AtomicU64,
    /// A session is set up, and the device says that the link is up.
    pub(super) up: AtomicBool,
    /// The first session is set up, or has failed.
    pub(super) tried: AtomicBool,
    pub(super) sessions: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) copied: AtomicU64,
    pub(super) lanes: Mutex<UserLanes>,
}

/// The lanes of a started port.
pub(super) type UserLanes = Lanes<DriverRx, DriverTx>;

impl State {
    pub(super) fn mac(&self) -> MacAddress {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lanes(&self) -> UserLanes {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_lanes(&self, lanes: UserLanes) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }
}

/// What a session needs; in the control thread.
pub(super) struct Session {
    pub(super) name: String,
    pub(super) options: Options,
    pub(super) wanted: Features,
    pub(super) receives: u16,
    pub(super) sends: u16,
    pub(super) pool: MbufPool,
    pub(super) memory: Arc<RingMemory>,
    pub(super) lanes: UserLanes,
    pub(super) state: Arc<State>,
}

impl Session {
    /// Sets everything up with the device at the other end of `stream`, and takes it down when that goes or the wake is
    /// raised.
    pub(super) fn run(&self, stream: UnixStream, wake: &Wake) {
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
