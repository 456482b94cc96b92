//! The back end: serves one front end, and tells a [`Device`] what its rings are to do.
//!
//! A ring starts when its features, memory, size, addresses and kick are known, whichever comes last, and stops when
//! the front end asks for its base, when memory or addresses change (it then starts again where it stopped), on a
//! reset, and when the session ends for whatever reason. While a ring is started its memory stays mapped.
//!
//! What a front end asks for may be refused: one that wants an answer gets a failure, and for any other the session
//! ends. One that breaks the protocol is not answered; its session ends. The process lives on in either case.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use zerocopy::IntoBytes;

use super::codes::{Code, F_PROTOCOL_FEATURES, MAX_CONFIG, ProtocolFeatures};
use super::connection::{Connection, Received};
use super::error::VhostUserError;
use super::message::{Request, encode_reply, parse};
use super::payload::{ConfigHeader, Region, VringState};
use super::wake::{Waited, Wake};
use crate::virtqueue::shared_memory::{MAX_REGIONS, RegionPlace, SharedMemory, SharedRegion};

mod channel;
mod device;
mod ring;

pub use channel::BackChannel;
pub use device::Device;
use ring::{Kick, Ring};
pub use ring::{PACKED_START, RingSetup};

/// The protocol features that a back end offers.
pub const OFFERED: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::NET_MTU)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::RESET_DEVICE)
    .union(ProtocolFeatures::STATUS);

/// The most rings that requests can name.
const MAX_RINGS: u16 = 256;

/// The most bytes that a front end may share: more than the largest guests have. Nothing but addresses is taken for them, but
/// those are 128 TiB for the whole process.
const MAX_SHARED: u64 = 16 << 40;

/// How a session ended, when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The front end closed the socket.
    Closed,
    /// The wake was raised.
    Stopped,
}

/// What a request is answered with.
enum Answer {
    /// Nothing, or zero if an answer was asked for.
    Done,
    /// A number.
    Number(u64),
    /// Another payload.
    Payload(Vec<u8>),
}

/// One session with a front end.
#[derive(Debug)]
pub struct BackEnd<D: Device> {
    connection: Connection,
    device: D,
    channel: BackChannel,
    /// As the front end set them, with the bit for protocol features.
    features: Option<u64>,
    protocol: ProtocolFeatures,
    status: u8,
    memory: Option<Arc<SharedMemory>>,
    rings: Vec<Ring>,
    over: bool,
}

impl<D: Device> BackEnd<D> {
    /// A session over this connection, for this device.
    #[must_use]
    pub fn new(connection: impl Into<Connection>, device: D) -> Self {
        let mut rings = Vec::new();
        rings.resize_with(device.rings().min(MAX_RINGS).into(), Ring::default);
        Self {
            connection: connection.into(),
            device,
            channel: BackChannel::default(),
            features: None,
            protocol: ProtocolFeatures::empty(),
            status: 0,
            memory: None,
            rings,
            over: false,
        }
    }

    /// What the device may tell the front end by, while the session lasts.
    #[must_use]
    pub fn channel(&self) -> BackChannel {
        self.channel.clone()
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Serves the front end until it closes the socket or the wake is raised. Afterwards, and after any error, all
    /// rings are stopped, all its descriptors are closed, its memory is unmapped unless the device keeps it, and the
    /// device was told.
    ///
    /// # Errors
    /// [`VhostUserError`] when the front end broke the protocol, asked for what cannot be without asking for an
    /// answer, or stalled within a message; or when the system failed.
    pub fn serve(&mut self, wake: &Wake) -> Result<Ended, VhostUserError> {
        self.connection.set_wake(wake);
        let result = loop {
            match self.connection.wait() {
                Ok(Waited::Woken) => break Ok(Ended::Stopped),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
            match self.connection.recv() {
                Ok(None) => break Ok(Ended::Closed),
                Err(VhostUserError::Stopped { .. }) => break Ok(Ended::Stopped),
                Err(error) => break Err(error),
                Ok(Some(message)) => {
                    if let Err(error) = self.message(message) {
                        break Err(error);
                    }
                }
            }
        };
        self.end();
        result
    }

    /// Serves one message.
    fn message(&mut self, message: Received) -> Result<(), VhostUserError> {
        let header = message.header();
        let asked = |protocol: ProtocolFeatures| {
            let plain = !Code::of(header.request).is_some_and(Code::has_reply);
            header.need_reply() && protocol.contains(ProtocolFeatures::REPLY_ACK) && plain
        };
        let served = match parse(&message.bytes, message.fds.len()) {
            Ok(request) => {
                tracing::trace!(?request, fds = message.fds.len(), "vhost-user request");
                let code = request.code();
                self.request(request, message.fds).map_err(|reason| VhostUserError::Refused { code, reason })
            }
            Err(error) if error.refusable() => {
                // Before it is answered: whoever has an answer may count on it.
                drop(message.fds);
                Err(error.into())
            }
            Err(error) => return Err(error.into()),
        };
        let payload = match served {
            Ok(Answer::Done) if !asked(self.protocol) => return Ok(()),
            Ok(Answer::Done) => 0_u64.as_bytes().to_vec(),
            Ok(Answer::Number(number)) => number.as_bytes().to_vec(),
            Ok(Answer::Payload(payload)) => payload,
            Err(error) if !asked(self.protocol) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "told the front end so");
                1_u64.as_bytes().to_vec()
            }
        };
        match self.connection.send(&encode_reply(header.request, &payload), &[]) {
            // The front end has gone, which the next wait will tell.
            Err(VhostUserError::Closed { .. }) => Ok(()),
            other => other,
        }
    }

    /// Does what a request asks for. Descriptors that it does not keep are closed here.
    fn request(&mut self, request: Request, mut fds: Vec<OwnedFd>) -> Result<Answer, String> {
        match request {
            Request::GetFeatures => return Ok(Answer::Number(self.device.features() | F_PROTOCOL_FEATURES)),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetOwner => {}
            Request::ResetOwner => {
                self.reset();
                self.memory = None;
                self.protocol = ProtocolFeatures::empty();
                self.channel.close();
                self.rings.iter_mut().for_each(|ring| ring.stopped_at = None);
            }
            Request::SetMemTable(regions) => self.set_memory(&regions, fds)?,
            Request::SetVringNum { ring, size } => {
                let index = self.index(ring)?;
                self.change(index, "size", |ring| ring.size == Some(size), |ring| ring.size = Some(size))?;
            }
            Request::SetVringAddr(addresses) => {
                let index = self.index(addresses.index)?;
                if self.rings[index].addresses != Some(addresses) {
                    self.restart(index, |ring| ring.addresses = Some(addresses))?;
                }
            }
            Request::SetVringBase { ring, base } => {
                let index = self.index(ring)?;
                self.change(index, "base", |_| false, |ring| ring.base = Some(base))?;
            }
            Request::GetVringBase { ring } => {
                let index = self.index(ring)?;
                self.stop(index);
                let beginning = Ring::beginning(self.virtio_features());
                let at = &mut self.rings[index];
                at.kick = Kick::Missing;
                let num = at.stopped_at.or(at.base).unwrap_or(beginning);
                return Ok(Answer::Payload(VringState { index: ring, num }.as_bytes().to_vec()));
            }
            Request::SetVringKick { ring, .. } => {
                let index = self.index(ring)?;
                let kick = event(&mut fds)?.map_or(Kick::Polled, Kick::By);
                self.restart(index, |ring| ring.kick = kick)?;
            }
            Request::SetVringCall { ring, .. } => {
                let index = self.index(ring)?;
                let call = event(&mut fds)?;
                if self.rings[index].started {
                    let given = call.as_ref().map(OwnedFd::try_clone).transpose();
                    let given = given.map_err(|error| format!("cannot keep a descriptor: {error}"))?;
                    self.device.set_call(index as u16, given);
                }
                self.rings[index].call = call;
            }
            Request::SetVringErr { ring, .. } => {
                let index = self.index(ring)?;
                self.rings[index].error = event(&mut fds)?;
            }
            Request::GetProtocolFeatures => return Ok(Answer::Number(OFFERED.bits())),
            Request::SetProtocolFeatures(bits) => {
                let features = ProtocolFeatures::from_bits_retain(bits);
                if !OFFERED.contains(features) {
                    return Err(format!(
                        "the protocol features {bits:#x}; only {:#x} were offered",
                        OFFERED.bits()
                    ));
                }
                self.protocol = features;
            }
            Request::GetQueueNum => return Ok(Answer::Number(self.rings.len() as u64 / 2)),
            Request::SetVringEnable { ring, on } => {
                let index = self.index(ring)?;
                let ring = &mut self.rings[index];
                // QEMU enables rings before it sets features.
                let changed = ring.enabled != on;
                ring.enabled = on;
                if ring.started && changed {
                    self.device.enable_ring(index as u16, on);
                }
            }
            Request::SendRarp(mac) => self.device.announce(mac),
            Request::NetSetMtu(mtu) => {
                self.needs(ProtocolFeatures::NET_MTU)?;
                self.device.set_mtu(mtu)?;
            }
            Request::SetBackendReqFd => {
                self.needs(ProtocolFeatures::BACKEND_REQ)?;
                self.channel.set(fds.pop().ok_or("no descriptor came along")?)?;
            }
            Request::GetConfig { offset, size, .. } => {
                self.needs(ProtocolFeatures::CONFIG)?;
                return Ok(Answer::Payload(self.config(offset, size)));
            }
            Request::SetConfig { .. } => {
                self.needs(ProtocolFeatures::CONFIG)?;
                return Err("no field of the configuration can be written".into());
            }
            Request::ResetDevice => {
                self.needs(ProtocolFeatures::RESET_DEVICE)?;
                self.reset();
            }
            Request::SetStatus(status) => {
                self.needs(ProtocolFeatures::STATUS)?;
                if status == 0 {
                    self.reset();
                } else {
                    self.status = status;
                    self.device.set_status(status);
                }
            }
            Request::GetStatus => {
                self.needs(ProtocolFeatures::STATUS)?;
                return Ok(Answer::Number(self.status.into()));
            }
        }
        Ok(Answer::Done)
    }

    fn needs(&self, feature: ProtocolFeatures) -> Result<(), String> {
        if self.protocol.contains(feature) {
            Ok(())
        } else {
            Err("it belongs to a protocol feature that was not negotiated".into())
        }
    }

    /// The place of a ring in `rings`: never cut to fewer bits before it is compared.
    fn index(&self, ring: u32) -> Result<usize, String> {
        let there = self.rings.len();
        usize::try_from(ring)
            .ok()
            .filter(|&index| index < there)
            .ok_or_else(|| format!("ring {ring}; there are {there}"))
    }

    /// The features without the bit that only the protocol knows.
    fn virtio_features(&self) -> u64 {
        self.features.unwrap_or(0) & !F_PROTOCOL_FEATURES
    }

    fn set_features(&mut self, features: u64) -> Result<(), String> {
        let offered = self.device.features() | F_PROTOCOL_FEATURES;
        if features & !offered != 0 {
            return Err(format!("the features {features:#x}; only {offered:#x} were offered"));
        }
        if self.features == Some(features) {
            return Ok(());
        }
        if self.rings.iter().any(|ring| ring.started) {
            return Err("features do not change while rings run".into());
        }
        self.features = Some(features);
        self.device.negotiated(self.virtio_features());
        self.start_all();
        Ok(())
    }

    fn set_memory(
        &mut self,
        regions: &ArrayVec<Region, MAX_REGIONS>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let all = regions.iter().try_fold(0u64, |all, region| all.checked_add(region.size));
        if all.is_none_or(|all| all > MAX_SHARED) {
            return Err(format!("memory regions of more than {MAX_SHARED:#x} bytes in all"));
        }
        let mapped = regions.iter().zip(fds).map(|(region, fd)| {
            let place = RegionPlace {
                guest: region.guest,
                user: region.user,
                len: region.size,
                offset: region.offset,
            };
            SharedRegion::map(fd, place)
        });
        let memory = mapped
            .collect::<Result<Vec<_>, _>>()
            .and_then(SharedMemory::new)
            .map_err(|error| error.to_string())?;
        if !memory.regions().iter().all(SharedRegion::sealed) {
            tracing::debug!(
                "vhost-user: the front end can take its memory away, which would end this process"
            );
        }
        for index in 0..self.rings.len() {
            self.stop(index);
        }
        self.memory = Some(Arc::new(memory));
        self.start_all();
        Ok(())
    }

    fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.device.config();
        config.resize(MAX_CONFIG, 0);
        let wanted =
            (offset as usize).checked_add(size as usize).and_then(|end| config.get(offset as usize..end));
        // No bytes say that it cannot be told.
        let bytes = wanted.unwrap_or_default();
        let header = ConfigHeader { offset, size: bytes.len() as u32, flags: 0 };
        [header.as_bytes(), bytes].concat()
    }

    /// Changes what may only change while a ring is stopped.
    fn change(
        &mut self,
        index: usize,
        what: &str,
        same: impl Fn(&Ring) -> bool,
        change: impl FnOnce(&mut Ring),
    ) -> Result<(), String> {
        let ring = &mut self.rings[index];
        if !ring.started {
            change(ring);
            return self.start(index);
        }
        if same(ring) { Ok(()) } else { Err(format!("the {what} of a ring does not change while it runs")) }
    }

    /// Changes what may change at any time, and lets the ring go on with it where it stopped.
    fn restart(&mut self, index: usize, change: impl FnOnce(&mut Ring)) -> Result<(), String> {
        self.stop(index);
        change(&mut self.rings[index]);
        self.start(index)
    }

    /// Starts a ring if all is known that it needs.
    fn start(&mut self, index: usize) -> Result<(), String> {
        let (Some(features), Some(memory)) = (self.features, &self.memory) else { return Ok(()) };
        let ring = &mut self.rings[index];
        let setup = ring.setup(features & !F_PROTOCOL_FEATURES, memory);
        let Some(setup) = setup.map_err(|reason| format!("ring {index}: {reason}"))? else { return Ok(()) };
        ring.base = Some(setup.base);
        self.device.start_ring(index as u16, setup)?;
        ring.started = true;
        ring.enabled |= features & F_PROTOCOL_FEATURES == 0;
        self.device.enable_ring(index as u16, ring.enabled);
        Ok(())
    }

    fn start_all(&mut self) {
        for index in 0..self.rings.len() {
            if let Err(reason) = self.start(index) {
                tracing::error!(ring = index, reason, "vhost-user: a ring stays stopped");
            }
        }
    }

    fn stop(&mut self, index: usize) {
        let ring = &mut self.rings[index];
        if ring.started {
            ring.started = false;
            let base = self.device.stop_ring(index as u16);
            ring.base = Some(base);
            ring.stopped_at = Some(base);
        }
    }

    /// The device as it was at first. Memory, protocol features and the second socket belong to the session.
    fn reset(&mut self) {
        for index in 0..self.rings.len() {
            self.stop(index);
            let stopped_at = self.rings[index].stopped_at;
            self.rings[index] = Ring { stopped_at, ..Ring::default() };
        }
        self.features = None;
        self.status = 0;
        self.device.set_status(0);
    }

    fn end(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        for index in 0..self.rings.len() {
            self.stop(index);
        }
        self.rings.clear();
        self.memory = None;
        self.channel.close();
        let _ = self.connection.stream().shutdown(std::net::Shutdown::Both);
        self.device.disconnected();
    }
}

/// The descriptor of a kick, call or error request, if one came along: an eventfd, and made not to block. Anything
/// else could keep whoever writes to it for as long as its owner likes (a file of a file system in user space), or
/// would be changed by it.
fn event(fds: &mut Vec<OwnedFd>) -> Result<Option<OwnedFd>, String> {
    let Some(fd) = fds.pop() else { return Ok(None) };
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if let Ok(link) = link
        && link.as_os_str() != "anon_inode:[eventfd]"
    {
        return Err(format!("the descriptor is {}; expected an eventfd", link.display()));
    }
    fcntl_getfl(&fd)
        .and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .map_err(|error| format!("the descriptor cannot be made not to block: {error}"))?;
    Ok(Some(fd))
}

impl<D: Device> Drop for BackEnd<D> {
    fn drop(&mut self) {
        self.end();
    }
}
