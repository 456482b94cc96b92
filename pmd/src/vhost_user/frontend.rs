//! The front end: asks a back end to work on rings in memory of this process.
//!
//! What the back end answers is checked as any other input. A back end that knows `REPLY_ACK` is asked to answer
//! every request, so that a failure is known where it happened. After any error but
//! [`VhostUserError::Failed`] the socket is shut, since nobody can tell which answer would come next.

use core::fmt;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::codes::{BackEndCode, Code, F_PROTOCOL_FEATURES, ProtocolFeatures};
use super::connection::Connection;
use super::error::{ProtocolError, VhostUserError};
use super::message::{Request, encode_reply, parse_back_end, parse_reply};
use super::payload::{ConfigHeader, HEADER_LEN, Region, VringAddresses, VringState};
use super::wake::{Waited, Wake, wait};
use crate::virtqueue::shared_memory::MAX_REGIONS;

/// The protocol features that a network front end has a use for.
pub const WANTED: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::NET_MTU)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::STATUS);

/// How long a back end may take within a request of its own.
const CHANNEL_LIMIT: Duration = Duration::from_millis(500);

/// The most pairs of queues: requests name 256 rings.
const MAX_PAIRS: u16 = 128;

/// The fields of `struct virtio_net_config` that this room reads (virtio 1.2, 5.1.4). Which of them mean anything,
/// the features tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NetConfig {
    /// The MAC address (`VIRTIO_NET_F_MAC`).
    pub mac: [u8; 6],
    /// Bit 0: the link is up (`VIRTIO_NET_F_STATUS`).
    pub status: U16,
    /// Pairs of queues (`VIRTIO_NET_F_MQ`).
    pub queue_pairs: U16,
    /// The MTU (`VIRTIO_NET_F_MTU`).
    pub mtu: U16,
}

/// Memory that the back end may use.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRegion<'fd> {
    /// The file that it is mapped from.
    pub fd: BorrowedFd<'fd>,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Its address in this process, which is its guest address too: what stands in descriptors.
    pub user_address: u64,
}

/// A ring, for the back end to work on.
#[derive(Debug, Clone, Copy)]
pub struct RingAddresses<'fd> {
    /// Descriptors, 1 to 32768.
    pub size: u16,
    /// The address of the descriptors.
    pub descriptors: u64,
    /// The address of the available ring, or the driver event suppression of a packed ring.
    pub driver_area: u64,
    /// The address of the used ring, or the device event suppression of a packed ring.
    pub device_area: u64,
    /// Where the ring begins; see [`RingSetup::base`](super::backend::RingSetup::base).
    pub base: u32,
    /// What this side writes to when descriptors are available.
    pub kick: BorrowedFd<'fd>,
    /// What the back end writes to when descriptors are used.
    pub call: BorrowedFd<'fd>,
}

/// What happened without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events {
    /// The back end says that its configuration changed: [`FrontEnd::config`] tells how.
    pub config_changed: bool,
    /// The back end has closed the socket.
    pub closed: bool,
}

/// A session with a back end.
pub struct FrontEnd {
    connection: Connection,
    /// This side of the second socket.
    channel: Option<Connection>,
    offered: u64,
    wanted: u64,
    protocol: ProtocolFeatures,
    queue_pairs: u16,
    config_changed: bool,
}

impl fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontEnd")
            .field("connection", &self.connection)
            .field("offered", &format_args!("{:#x}", self.offered))
            .field("protocol", &self.protocol)
            .field("queue_pairs", &self.queue_pairs)
            .finish_non_exhaustive()
    }
}

impl FrontEnd {
    /// Begins a session: learns what the back end has, and agrees on those protocol features that are wanted.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end breaks the protocol, refuses, has no queues, or does not answer within
    /// the connection's time limit.
    pub fn negotiate(
        connection: impl Into<Connection>,
        wanted_features: u64,
        wanted_protocol: ProtocolFeatures,
    ) -> Result<Self, VhostUserError> {
        let mut front = Self {
            connection: connection.into(),
            channel: None,
            offered: 0,
            wanted: wanted_features,
            protocol: ProtocolFeatures::empty(),
            queue_pairs: 1,
            config_changed: false,
        };
        front.ask(&Request::SetOwner, &[])?;
        front.offered = front.ask_number(&Request::GetFeatures)?;
        if front.offered & F_PROTOCOL_FEATURES != 0 {
            let there =
                ProtocolFeatures::from_bits_truncate(front.ask_number(&Request::GetProtocolFeatures)?);
            let agreed = there & wanted_protocol & WANTED;
            front.ask(&Request::SetProtocolFeatures(agreed.bits()), &[])?;
            front.protocol = agreed;
        }
        if front.protocol.contains(ProtocolFeatures::MQ) {
            let pairs = front.ask_number(&Request::GetQueueNum)?.min(MAX_PAIRS.into());
            front.queue_pairs = pairs as u16;
            if pairs == 0 {
                return Err(VhostUserError::Missing { what: "queues" });
            }
        }
        if front.protocol.contains(ProtocolFeatures::BACKEND_REQ) {
            let (here, there) = UnixStream::pair()
                .map_err(|source| VhostUserError::Io { doing: "making a second socket", source })?;
            front.ask(&Request::SetBackendReqFd, &[there.as_fd()])?;
            front.channel = Some(Connection::new(here).with_time_limit(CHANNEL_LIMIT));
        }
        Ok(front)
    }

    /// The virtio features that both the back end and the caller of [`negotiate`](Self::negotiate) have.
    #[must_use]
    pub fn device_features(&self) -> u64 {
        self.offered & self.wanted & !F_PROTOCOL_FEATURES
    }

    /// The protocol features agreed on.
    #[must_use]
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol
    }

    /// How many pairs of queues the back end has, 1 to 128.
    #[must_use]
    pub fn queue_pairs(&self) -> u16 {
        self.queue_pairs
    }

    /// The configuration of the device, if the back end tells it.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not answer as it should.
    pub fn config(&mut self) -> Result<Option<NetConfig>, VhostUserError> {
        if !self.protocol.contains(ProtocolFeatures::CONFIG) {
            return Ok(None);
        }
        let size = size_of::<NetConfig>() as u32;
        let payload = self.ask(&Request::GetConfig { offset: 0, size, flags: 0 }, &[])?;
        let header_len = size_of::<ConfigHeader>();
        let expected = header_len + size as usize;
        // A failure is told by no bytes, with or without the size that was asked for.
        if payload.len() <= header_len {
            return Ok(None);
        }
        let config = payload.get(header_len..).and_then(|bytes| NetConfig::read_from_bytes(bytes).ok());
        match (ConfigHeader::read_from_prefix(&payload), config) {
            (Ok((ConfigHeader { size: found, .. }, _)), Some(config)) if found == size => Ok(Some(config)),
            _ => self.broken(ProtocolError::Size {
                request: Code::GetConfig as u32,
                found: payload.len(),
                expected,
            }),
        }
    }

    /// Tells which virtio features are used, before any ring starts.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not take them.
    pub fn set_features(&mut self, features: u64) -> Result<(), VhostUserError> {
        let features = features & !F_PROTOCOL_FEATURES | self.offered & F_PROTOCOL_FEATURES;
        self.ask(&Request::SetFeatures(features), &[]).map(drop)
    }

    /// Shares memory: all that rings and buffers lie in, instead of what was shared before. 1 to 8 regions.
    ///
    /// # Errors
    /// [`VhostUserError`] when there are too many, or the back end does not take them.
    pub fn set_memory(&mut self, regions: &[MemoryRegion<'_>]) -> Result<(), VhostUserError> {
        let mut table = ArrayVec::<Region, MAX_REGIONS>::new();
        let mut fds = ArrayVec::<BorrowedFd<'_>, MAX_REGIONS>::new();
        for &MemoryRegion { fd, offset, len, user_address } in regions {
            let region = Region { guest: user_address, size: len, user: user_address, offset };
            if table.try_push(region).is_err() || fds.try_push(fd).is_err() {
                return Err(VhostUserError::Refused {
                    code: Code::SetMemTable,
                    reason: format!("{} memory regions; a back end takes 8", regions.len()),
                });
            }
        }
        self.ask(&Request::SetMemTable(table), &fds).map(drop)
    }

    /// Starts a ring, disabled if the back end has protocol features (most have) and enabled otherwise.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not take it.
    pub fn start_ring(&mut self, index: u16, ring: &RingAddresses<'_>) -> Result<(), VhostUserError> {
        let number = u32::from(index);
        // The order of QEMU and DPDK: DPDK makes the ring at the first request, and starts it at the last.
        self.ask(&Request::SetVringCall { ring: number, fd: true }, &[ring.call])?;
        self.ask(&Request::SetVringNum { ring: number, size: ring.size }, &[])?;
        self.ask(&Request::SetVringBase { ring: number, base: ring.base }, &[])?;
        let addresses = VringAddresses {
            index: number,
            flags: 0,
            descriptors: ring.descriptors,
            device_area: ring.device_area,
            driver_area: ring.driver_area,
            log: 0,
        };
        self.ask(&Request::SetVringAddr(addresses), &[])?;
        self.ask(&Request::SetVringKick { ring: number, fd: true }, &[ring.kick]).map(drop)
    }

    /// Lets a ring work, or not. Does nothing where the back end has no protocol features: its rings work from the
    /// start.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not do it.
    pub fn enable_ring(&mut self, index: u16, on: bool) -> Result<(), VhostUserError> {
        if self.offered & F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.ask(&Request::SetVringEnable { ring: index.into(), on }, &[]).map(drop)
    }

    /// Stops a ring, and returns where it would go on. Once it has returned, the back end does not touch the ring.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not answer as it should.
    pub fn stop_ring(&mut self, index: u16) -> Result<u32, VhostUserError> {
        let code = Code::GetVringBase;
        let payload = self.ask(&Request::GetVringBase { ring: index.into() }, &[])?;
        let Ok(VringState { index: found, num }) = VringState::read_from_bytes(&payload) else {
            let expected = size_of::<VringState>();
            return self.broken(ProtocolError::Size { request: code as u32, found: payload.len(), expected });
        };
        if found != u32::from(index) {
            let what = "the ring of the answer";
            return self.broken(ProtocolError::Value {
                code,
                what,
                found: found.into(),
                expected: "the one asked for",
            });
        }
        Ok(num)
    }

    /// For what is still to be asked after the connection's wake was raised: answers are waited for all the same, each for
    /// `limit` at most.
    pub fn part(&mut self, limit: Duration) {
        self.connection.forget_wake(limit);
    }

    /// Tells the device status (virtio 1.2, 2.1), if the back end wants to know.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not take it.
    pub fn set_status(&mut self, status: u8) -> Result<(), VhostUserError> {
        if !self.protocol.contains(ProtocolFeatures::STATUS) {
            return Ok(());
        }
        self.ask(&Request::SetStatus(status), &[]).map(drop)
    }

    /// Tells the MTU, if the back end wants to know.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end does not take it.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), VhostUserError> {
        if !self.protocol.contains(ProtocolFeatures::NET_MTU) {
            return Ok(());
        }
        self.ask(&Request::NetSetMtu(mtu), &[]).map(drop)
    }

    /// What happened since the last call. Does not wait.
    ///
    /// # Errors
    /// [`VhostUserError`] when the back end says something that it was not asked for.
    pub fn events(&mut self) -> Result<Events, VhostUserError> {
        self.serve_channel_if_ready();
        let mut peeked = [0; HEADER_LEN];
        let closed = match rustix::net::recv(
            &self.connection,
            peeked.as_mut_slice(),
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        ) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => true,
            Ok((_, found)) => return self.broken(ProtocolError::Header { found }),
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(errno) => return Err(VhostUserError::io("looking for the back end")(errno)),
        };
        Ok(Events { config_changed: core::mem::take(&mut self.config_changed), closed })
    }

    /// What another thread may wait by for [`events`](Self::events) to have something.
    ///
    /// # Errors
    /// When the system gives no descriptors.
    pub fn watch(&self) -> std::io::Result<Watch> {
        let mut fds = vec![self.connection.as_fd().try_clone_to_owned()?];
        if let Some(channel) = &self.channel {
            fds.push(channel.as_fd().try_clone_to_owned()?);
        }
        Ok(Watch { fds })
    }

    #[cfg(test)]
    pub(super) fn connection_for_tests(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Sends a request and waits for what it is answered with: the payload of its reply, or nothing.
    fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>, VhostUserError> {
        let code = request.code();
        let acknowledged = self.protocol.contains(ProtocolFeatures::REPLY_ACK) && !code.has_reply();
        let result = self.exchange(request, fds, acknowledged).and_then(|payload| {
            if !acknowledged {
                return Ok(payload);
            }
            match number(code, &payload)? {
                0 => Ok(Vec::new()),
                answer => Err(VhostUserError::Failed { code, answer }),
            }
        });
        if !matches!(result, Ok(_) | Err(VhostUserError::Failed { .. })) {
            self.shut();
        }
        result
    }

    fn ask_number(&mut self, request: &Request) -> Result<u64, VhostUserError> {
        let payload = self.ask(request, &[])?;
        number(request.code(), &payload).inspect_err(|_| self.shut())
    }

    fn exchange(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        acknowledged: bool,
    ) -> Result<Vec<u8>, VhostUserError> {
        let code = request.code();
        self.connection.send(&request.encode(acknowledged), fds)?;
        if !acknowledged && !code.has_reply() {
            return Ok(Vec::new());
        }
        self.await_reply()?;
        let reply = self.connection.recv()?.ok_or(VhostUserError::Closed { doing: "a request" })?;
        Ok(parse_reply(&reply.bytes, reply.fds.len(), code as u32)?.to_vec())
    }

    /// Waits for a reply to begin. A back end that first has a request of its own, and waits for the answer, gets it.
    fn await_reply(&mut self) -> Result<(), VhostUserError> {
        let limit = self.connection.time_limit();
        let deadline = Instant::now() + limit;
        loop {
            let socket = self.connection.as_fd();
            let fds = [socket, self.channel.as_ref().map_or(socket, AsFd::as_fd)];
            let wake = self.connection.wake().map(AsFd::as_fd);
            match wait(&fds, PollFlags::IN, wake, Some(deadline)) {
                Ok(Waited::Ready(0)) => return Ok(()),
                Ok(Waited::Ready(_)) if Instant::now() < deadline => self.serve_channel(),
                Ok(Waited::Ready(_) | Waited::TimedOut) => {
                    return Err(VhostUserError::Stalled { doing: "an answer", limit });
                }
                Ok(Waited::Woken) => return Err(VhostUserError::Stopped { doing: "waiting for an answer" }),
                Err(errno) => return Err(VhostUserError::io("waiting for an answer")(errno)),
            }
        }
    }

    fn serve_channel_if_ready(&mut self) {
        // As many as a back end would send at once, and no more: one that never ends is not waited for.
        for _ in 0..16 {
            let Some(channel) = &self.channel else { return };
            if !matches!(
                wait(&[channel.as_fd()], PollFlags::IN, None, Some(Instant::now())),
                Ok(Waited::Ready(_))
            ) {
                return;
            }
            self.serve_channel();
        }
    }

    /// Serves one request of the back end. When that is nothing it may ask for, the channel is closed and the
    /// session goes on without.
    fn serve_channel(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        let served = (|| {
            let Some(message) = channel.recv()? else { return Ok(false) };
            let header = message.header();
            let code = parse_back_end(&message.bytes, message.fds.len())?;
            let known = code == BackEndCode::ConfigChange;
            self.config_changed |= known;
            if header.need_reply() {
                channel.send(&encode_reply(header.request, u64::from(!known).as_bytes()), &[])?;
            }
            Ok::<_, VhostUserError>(true)
        })();
        match served {
            Ok(true) => {}
            Ok(false) => self.channel = None,
            Err(error) => {
                tracing::warn!(%error, "closed the channel for requests of the back end");
                self.channel = None;
            }
        }
    }

    fn broken<T>(&self, error: ProtocolError) -> Result<T, VhostUserError> {
        self.shut();
        Err(error.into())
    }

    fn shut(&self) {
        // It may be shut already.
        let _ = self.connection.stream().shutdown(Shutdown::Both);
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        // A watch may still hold the socket, and the back end should know at once.
        self.shut();
    }
}

fn number(code: Code, payload: &[u8]) -> Result<u64, VhostUserError> {
    u64::read_from_bytes(payload).map_err(|_| {
        ProtocolError::Size { request: code as u32, found: payload.len(), expected: size_of::<u64>() }.into()
    })
}

/// Waits for a back end to say something, without holding its [`FrontEnd`].
#[derive(Debug)]
pub struct Watch {
    fds: Vec<OwnedFd>,
}

impl Watch {
    /// Waits until [`FrontEnd::events`] should be called, the wake is raised, or the time is over. While another
    /// thread makes a request this may return early, with nothing to be seen.
    ///
    /// # Errors
    /// When the system does not wait.
    pub fn wait(&self, wake: &Wake, limit: Option<Duration>) -> std::io::Result<Waited> {
        let fds: ArrayVec<BorrowedFd<'_>, 2> = self.fds.iter().take(2).map(AsFd::as_fd).collect();
        let deadline = limit.map(|limit| Instant::now() + limit);
        Ok(wait(&fds, PollFlags::IN, Some(wake.as_fd()), deadline)?)
    }
}
