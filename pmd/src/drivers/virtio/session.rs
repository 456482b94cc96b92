//! A session of `net_virtio_user` with its device: set up, watched, and taken down again.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wirerate_mempool::Memory;

use super::pairs::Pairs;
use super::rings::RingMemory;
use super::state::{State, VirtioLanes};
use super::user::Options;
use crate::drivers::reach::{Range, Reach};
use crate::packet::MbufPool;
use crate::vhost_user::codes::ProtocolFeatures;
use crate::vhost_user::{Connection, FrontEnd, MemoryRegion, RingAddresses, VhostUserError, Waited, Wake};
use crate::virtqueue::{Features, Format, Kick, Ringer};

/// How long `stop` waits for the device to let go of all rings.
const FAREWELL: Duration = Duration::from_secs(1);

/// Device status bits (virtio 1.2, 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// How sessions went.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// The first session is set up, or has failed.
    pub(super) tried: AtomicBool,
    pub(super) begun: AtomicU64,
    pub(super) failed: AtomicU64,
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
    pub(super) lanes: VirtioLanes,
    pub(super) state: Arc<State>,
    pub(super) sessions: Arc<Sessions>,
}

impl Session {
    /// Sets everything up with the device at the other end of `stream`, and takes it down when that goes or the wake is
    /// raised.
    pub(super) fn run(&self, stream: UnixStream, wake: &Wake) {
        self.sessions.begun.fetch_add(1, Ordering::Relaxed);
        let ended = self.serve(stream, wake);
        drop(self.state.end(&self.lanes));
        self.sessions.tried.store(true, Ordering::Release);
        match ended {
            Ok(Waited::Woken) | Err(VhostUserError::Stopped { .. }) => {}
            Ok(_) => tracing::info!("{}: the device has gone", self.name),
            Err(error) => {
                self.sessions.failed.fetch_add(1, Ordering::Relaxed);
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
        let makes = Pairs {
            memory: Arc::clone(&self.memory),
            rings: Reach::new([Range::same(&**self.memory.region())]),
            pool: self.pool.clone(),
            packets: Reach::new(self.pool.raw().memories().map(Range::same)),
            features,
            receives: self.receives,
            copied: self.state.copied(),
        };
        for pair in 0..pairs {
            self.start_pair(&mut front, pair, &makes)?;
        }
        front.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        for pair in 0..pairs {
            front.enable_ring(2 * pair, true)?;
            front.enable_ring(2 * pair + 1, true)?;
        }
        self.state.begin(features, &self.lanes);
        self.state.set_up(self.link_is_up(&mut front, features)?);
        self.sessions.tried.store(true, Ordering::Release);
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
                self.state.set_up(self.link_is_up(&mut front, features)?);
            }
        }
    }

    /// Takes over what the device says of itself.
    fn learn(&self, front: &mut FrontEnd, features: Features) -> Result<(), VhostUserError> {
        let Some(config) = front.config()? else { return Ok(()) };
        self.state.learn(features, config.mac, config.mtu.get(), self.options.mac.is_some());
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
        let rings: &dyn Memory = &**self.memory.region();
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

    /// Makes both rings of a pair, and starts them.
    fn start_pair(&self, front: &mut FrontEnd, pair: u16, makes: &Pairs) -> Result<(), VhostUserError> {
        let io = |doing| move |source| VhostUserError::Io { doing, source };
        let lanes = (self.lanes.rx.get(usize::from(pair)), self.lanes.tx.get(usize::from(pair)));
        let (Some(rx_lane), Some(tx_lane)) = lanes else {
            return Err(VhostUserError::Missing { what: "a queue" });
        };
        let missing = || VhostUserError::Missing { what: "memory for a ring" };
        let size = self.options.queue_size;
        for index in [2 * pair, 2 * pair + 1] {
            let ringer = Ringer::new().map_err(io("making a kick"))?;
            let call = Ringer::new().map_err(io("making a call"))?;
            let their_kick = ringer.as_fd().try_clone_to_owned().map_err(io("sharing a kick"))?;
            let kick = Kick::Event(ringer);
            // SAFETY: the lanes are empty: `run` took out what the session before had, and with it went all that used these
            // rings. The device of that session is gone, or has stopped them.
            let addresses = unsafe {
                if index % 2 == 0 {
                    rx_lane.bell().listen_to(call.as_fd()).map_err(io("listening to a call"))?;
                    let made = makes.receive(pair, size, kick).ok_or_else(missing)?;
                    made.queue.kick();
                    rx_lane.install(made.queue);
                    made.addresses
                } else {
                    let made = makes.transmit(pair, size, kick).ok_or_else(missing)?;
                    tx_lane.install(made.queue);
                    made.addresses
                }
            };
            let [descriptors, driver_area, device_area] = addresses;
            let base = match makes.format() {
                Format::Split => 0,
                Format::Packed => crate::vhost_user::backend::PACKED_START,
            };
            let (kick, call) = (their_kick.as_fd(), call.as_fd());
            let ring = RingAddresses { size, descriptors, driver_area, device_area, base, kick, call };
            front.start_ring(index, &ring)?;
            // The call lives as long as the device's copy of it.
        }
        Ok(())
    }
}
