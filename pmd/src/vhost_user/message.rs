//! One message, from bytes and to bytes. Nothing here touches a socket.
//!
//! [`parse`] takes what a front end sent and believes none of it: version, direction, number, size of the payload,
//! number of descriptors and the range of every field that has one are checked here, so that what it returns needs
//! no second look but for what only the state of the session can tell.

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::codes::{
    BackEndCode, Code, MAX_CONFIG, MAX_RING_SIZE, NEED_REPLY, NO_FD, REPLY, RING_MASK, VERSION,
};
use super::error::ProtocolError;
use super::payload::{ConfigHeader, HEADER_LEN, Header, MemoryHeader, Region, VringAddresses, VringState};
use crate::virtqueue::shared_memory::MAX_REGIONS;

/// The longest payload that is read. The longest that is served has 268 bytes; a longer one may belong to a request
/// that is refused, and is read so that it can be answered.
pub const MAX_PAYLOAD: usize = 4096;
/// The most descriptors that come with one message: one for each region.
pub const MAX_FDS: usize = MAX_REGIONS;

/// A request of a front end that this room serves. Descriptors travel beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which virtio features there are.
    GetFeatures,
    /// Which of them are used.
    SetFeatures(u64),
    /// The session begins.
    SetOwner,
    /// The session begins anew.
    ResetOwner,
    /// The memory, one descriptor for each region.
    SetMemTable(ArrayVec<Region, MAX_REGIONS>),
    /// The size of a ring, 1 to 32768.
    SetVringNum {
        /// The ring.
        ring: u32,
        /// Descriptors.
        size: u16,
    },
    /// Where a ring is.
    SetVringAddr(VringAddresses),
    /// Where a ring goes on.
    SetVringBase {
        /// The ring.
        ring: u32,
        /// See `RingSetup::base` of the back end.
        base: u32,
    },
    /// Stop a ring, and tell where it would go on.
    GetVringBase {
        /// The ring.
        ring: u32,
    },
    /// How a ring is kicked: by a descriptor, if there is one.
    SetVringKick {
        /// The ring.
        ring: u32,
        /// Whether a descriptor comes along.
        fd: bool,
    },
    /// How a ring calls.
    SetVringCall {
        /// The ring.
        ring: u32,
        /// Whether a descriptor comes along.
        fd: bool,
    },
    /// How a ring tells of errors.
    SetVringErr {
        /// The ring.
        ring: u32,
        /// Whether a descriptor comes along.
        fd: bool,
    },
    /// Which protocol features there are.
    GetProtocolFeatures,
    /// Which of them are used.
    SetProtocolFeatures(u64),
    /// How many pairs of queues there are.
    GetQueueNum,
    /// Let a ring work, or not.
    SetVringEnable {
        /// The ring.
        ring: u32,
        /// Whether it may.
        on: bool,
    },
    /// Announce a guest by its MAC address.
    SendRarp([u8; 6]),
    /// The MTU, 68 to 65535.
    NetSetMtu(u16),
    /// The socket for requests of the back end, one descriptor.
    SetBackendReqFd,
    /// Read configuration: `size` bytes from `offset`, at most 256 altogether.
    GetConfig {
        /// First byte.
        offset: u32,
        /// Bytes.
        size: u32,
        /// 0, or 1 for migration.
        flags: u32,
    },
    /// Write configuration.
    SetConfig {
        /// First byte.
        offset: u32,
        /// 0, or 1 for migration.
        flags: u32,
        /// What to write.
        bytes: ArrayVec<u8, MAX_CONFIG>,
    },
    /// The device begins anew.
    ResetDevice,
    /// The device status (virtio 1.2, 2.1).
    SetStatus(u8),
    /// Tell the device status.
    GetStatus,
}

/// Reads a request of a front end: `bytes` are header and payload, `fds` is how many descriptors came along.
///
/// # Errors
/// [`ProtocolError`] for whatever the protocol does not allow, and for requests of features that this room never
/// offers; [`ProtocolError::refusable`] tells these apart.
pub fn parse(bytes: &[u8], fds: usize) -> Result<Request, ProtocolError> {
    let (header, payload) = split(bytes)?;
    if header.reply() {
        let Header { request, flags, .. } = header;
        return Err(ProtocolError::Direction { request, flags, expected: "request" });
    }
    let request = header.request;
    let code = Code::of(request).ok_or(ProtocolError::Unknown { request })?;
    let body = Body { code, payload };
    let mut expected_fds = 0;
    let parsed = match code {
        Code::GetFeatures => body.nothing(Request::GetFeatures)?,
        Code::SetFeatures => Request::SetFeatures(body.whole()?),
        Code::SetOwner => body.nothing(Request::SetOwner)?,
        Code::ResetOwner => body.nothing(Request::ResetOwner)?,
        Code::SetMemTable => {
            let regions = body.regions()?;
            expected_fds = regions.len();
            Request::SetMemTable(regions)
        }
        Code::SetVringNum => {
            let VringState { index, num } = body.whole()?;
            let size = u16::try_from(num).ok().filter(|size| (1..=MAX_RING_SIZE).contains(size));
            let size = size.ok_or_else(|| body.value("the size of the ring", num.into(), "1 to 32768"))?;
            Request::SetVringNum { ring: index, size }
        }
        Code::SetVringAddr => {
            let addresses: VringAddresses = body.whole()?;
            if addresses.flags != 0 {
                return Err(body.value("the flags", addresses.flags.into(), "0, since no log was offered"));
            }
            Request::SetVringAddr(addresses)
        }
        Code::SetVringBase => {
            let VringState { index, num } = body.whole()?;
            Request::SetVringBase { ring: index, base: num }
        }
        Code::GetVringBase => Request::GetVringBase { ring: body.whole::<VringState>()?.index },
        Code::SetVringKick | Code::SetVringCall | Code::SetVringErr => {
            let value: u64 = body.whole()?;
            if value & !(RING_MASK | NO_FD) != 0 {
                return Err(body.value("the payload", value, "a ring in bits 0 to 7, and bit 8"));
            }
            let (ring, fd) = ((value & RING_MASK) as u32, value & NO_FD == 0);
            expected_fds = usize::from(fd);
            match code {
                Code::SetVringKick => Request::SetVringKick { ring, fd },
                Code::SetVringCall => Request::SetVringCall { ring, fd },
                _ => Request::SetVringErr { ring, fd },
            }
        }
        Code::GetProtocolFeatures => body.nothing(Request::GetProtocolFeatures)?,
        Code::SetProtocolFeatures => Request::SetProtocolFeatures(body.whole()?),
        Code::GetQueueNum => body.nothing(Request::GetQueueNum)?,
        Code::SetVringEnable => {
            let VringState { index, num } = body.whole()?;
            if num > 1 {
                return Err(body.value("the state of the ring", num.into(), "0 or 1"));
            }
            Request::SetVringEnable { ring: index, on: num == 1 }
        }
        Code::SendRarp => {
            let [mac @ .., _, _] = body.whole::<[u8; 8]>()?;
            Request::SendRarp(mac)
        }
        Code::NetSetMtu => {
            let value: u64 = body.whole()?;
            let mtu = u16::try_from(value).ok().filter(|&mtu| mtu >= 68);
            Request::NetSetMtu(mtu.ok_or_else(|| body.value("the MTU", value, "68 to 65535"))?)
        }
        Code::SetBackendReqFd => {
            expected_fds = 1;
            body.nothing(Request::SetBackendReqFd)?
        }
        Code::GetConfig => {
            let (ConfigHeader { offset, size, flags }, _) = body.config()?;
            Request::GetConfig { offset, size, flags }
        }
        Code::SetConfig => {
            let (ConfigHeader { offset, flags, .. }, bytes) = body.config()?;
            Request::SetConfig { offset, flags, bytes }
        }
        Code::ResetDevice => body.nothing(Request::ResetDevice)?,
        Code::SetStatus => {
            let value: u64 = body.whole()?;
            let status = u8::try_from(value).map_err(|_| body.value("the status", value, "a byte"))?;
            Request::SetStatus(status)
        }
        Code::GetStatus => body.nothing(Request::GetStatus)?,
        Code::SetLogBase
        | Code::SetLogFd
        | Code::IotlbMsg
        | Code::SetVringEndian
        | Code::CreateCryptoSession
        | Code::CloseCryptoSession
        | Code::PostcopyAdvise
        | Code::PostcopyListen
        | Code::PostcopyEnd
        | Code::GetInflightFd
        | Code::SetInflightFd
        | Code::GpuSetSocket
        | Code::VringKick
        | Code::GetMaxMemSlots
        | Code::AddMemReg
        | Code::RemMemReg => return Err(ProtocolError::NotOffered { code }),
    };
    if fds == expected_fds {
        Ok(parsed)
    } else {
        Err(ProtocolError::Fds { request, found: fds, expected: expected_fds })
    }
}

/// Cuts a message into header and payload, and checks version and length.
fn split(bytes: &[u8]) -> Result<(Header, &[u8]), ProtocolError> {
    let (header, payload) =
        Header::read_from_prefix(bytes).map_err(|_| ProtocolError::Header { found: bytes.len() })?;
    let Header { request, flags, size } = header;
    if !header.known_version() {
        return Err(ProtocolError::Version { request, flags });
    }
    payload_len(header)?;
    if payload.len() != size as usize {
        return Err(ProtocolError::Size { request, found: payload.len(), expected: size as usize });
    }
    Ok((header, payload))
}

/// How many bytes of payload a header announces.
///
/// # Errors
/// [`ProtocolError::TooLong`] when they are more than any message has.
pub fn payload_len(header: Header) -> Result<usize, ProtocolError> {
    let Header { request, size, .. } = header;
    let len = size as usize;
    if len > MAX_PAYLOAD {
        Err(ProtocolError::TooLong { request, size, longest: MAX_PAYLOAD })
    } else {
        Ok(len)
    }
}

/// The payload of a request.
#[derive(Clone, Copy)]
struct Body<'a> {
    code: Code,
    payload: &'a [u8],
}

impl Body<'_> {
    fn size(self, expected: usize) -> ProtocolError {
        ProtocolError::Size { request: self.code as u32, found: self.payload.len(), expected }
    }

    fn value(self, what: &'static str, found: u64, expected: &'static str) -> ProtocolError {
        ProtocolError::Value { code: self.code, what, found, expected }
    }

    fn nothing(self, request: Request) -> Result<Request, ProtocolError> {
        if self.payload.is_empty() { Ok(request) } else { Err(self.size(0)) }
    }

    /// The payload as one value, of exactly its size.
    fn whole<T: FromBytes + Immutable + KnownLayout>(self) -> Result<T, ProtocolError> {
        T::read_from_bytes(self.payload).map_err(|_| self.size(size_of::<T>()))
    }

    fn regions(self) -> Result<ArrayVec<Region, MAX_REGIONS>, ProtocolError> {
        let (header, mut rest) =
            MemoryHeader::read_from_prefix(self.payload).map_err(|_| self.size(size_of::<MemoryHeader>()))?;
        let count = header.regions as usize;
        if !(1..=MAX_REGIONS).contains(&count) {
            return Err(self.value("the number of regions", header.regions.into(), "1 to 8"));
        }
        let expected = size_of::<MemoryHeader>() + count * size_of::<Region>();
        if self.payload.len() != expected {
            return Err(self.size(expected));
        }
        let mut regions = ArrayVec::new();
        while let Ok((region, after)) = Region::read_from_prefix(rest) {
            rest = after;
            let ends = |first: u64| first.checked_add(region.size).is_some();
            if region.size == 0 || !ends(region.guest) || !ends(region.user) || !ends(region.offset) {
                return Err(self.value(
                    "the size of a region",
                    region.size,
                    "more than 0, and an end below the last address",
                ));
            }
            // There is room: `expected` regions were counted above.
            if regions.try_push(region).is_err() {
                return Err(self.size(expected));
            }
        }
        Ok(regions)
    }

    fn config(self) -> Result<(ConfigHeader, ArrayVec<u8, MAX_CONFIG>), ProtocolError> {
        let (header, bytes) =
            ConfigHeader::read_from_prefix(self.payload).map_err(|_| self.size(size_of::<ConfigHeader>()))?;
        let ends = header.offset.checked_add(header.size).is_some_and(|end| end as usize <= MAX_CONFIG);
        if header.size == 0 || !ends {
            return Err(self.value(
                "the size of the configuration",
                header.size.into(),
                "1 to 256 with its offset",
            ));
        }
        let expected = size_of::<ConfigHeader>() + header.size as usize;
        let bytes = ArrayVec::try_from(bytes).map_err(|_| self.size(expected))?;
        if bytes.len() == header.size as usize { Ok((header, bytes)) } else { Err(self.size(expected)) }
    }
}

impl Request {
    /// Its number.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::GetFeatures => Code::GetFeatures,
            Self::SetFeatures(_) => Code::SetFeatures,
            Self::SetOwner => Code::SetOwner,
            Self::ResetOwner => Code::ResetOwner,
            Self::SetMemTable(_) => Code::SetMemTable,
            Self::SetVringNum { .. } => Code::SetVringNum,
            Self::SetVringAddr(_) => Code::SetVringAddr,
            Self::SetVringBase { .. } => Code::SetVringBase,
            Self::GetVringBase { .. } => Code::GetVringBase,
            Self::SetVringKick { .. } => Code::SetVringKick,
            Self::SetVringCall { .. } => Code::SetVringCall,
            Self::SetVringErr { .. } => Code::SetVringErr,
            Self::GetProtocolFeatures => Code::GetProtocolFeatures,
            Self::SetProtocolFeatures(_) => Code::SetProtocolFeatures,
            Self::GetQueueNum => Code::GetQueueNum,
            Self::SetVringEnable { .. } => Code::SetVringEnable,
            Self::SendRarp(_) => Code::SendRarp,
            Self::NetSetMtu(_) => Code::NetSetMtu,
            Self::SetBackendReqFd => Code::SetBackendReqFd,
            Self::GetConfig { .. } => Code::GetConfig,
            Self::SetConfig { .. } => Code::SetConfig,
            Self::ResetDevice => Code::ResetDevice,
            Self::SetStatus(_) => Code::SetStatus,
            Self::GetStatus => Code::GetStatus,
        }
    }

    /// The message: header and payload.
    #[must_use]
    pub fn encode(&self, need_reply: bool) -> Vec<u8> {
        let state = |index: u32, num: u32| VringState { index, num }.as_bytes().to_vec();
        let file = |ring: u32, fd: bool| {
            let payload = u64::from(ring) & RING_MASK | if fd { 0 } else { NO_FD };
            payload.to_ne_bytes().to_vec()
        };
        let number = |value: u64| value.to_ne_bytes().to_vec();
        let payload = match self {
            Self::GetFeatures
            | Self::SetOwner
            | Self::ResetOwner
            | Self::GetProtocolFeatures
            | Self::GetQueueNum
            | Self::SetBackendReqFd
            | Self::ResetDevice
            | Self::GetStatus => Vec::new(),
            Self::SetFeatures(features) | Self::SetProtocolFeatures(features) => number(*features),
            Self::SetMemTable(regions) => {
                let header = MemoryHeader { regions: regions.len() as u32, padding: 0 };
                [header.as_bytes(), regions.as_slice().as_bytes()].concat()
            }
            Self::SetVringNum { ring, size } => state(*ring, u32::from(*size)),
            Self::SetVringAddr(addresses) => addresses.as_bytes().to_vec(),
            Self::SetVringBase { ring, base } => state(*ring, *base),
            Self::GetVringBase { ring } => state(*ring, 0),
            Self::SetVringKick { ring, fd }
            | Self::SetVringCall { ring, fd }
            | Self::SetVringErr { ring, fd } => file(*ring, *fd),
            Self::SetVringEnable { ring, on } => state(*ring, u32::from(*on)),
            Self::SendRarp(mac) => [mac.as_slice(), &[0; 2]].concat(),
            Self::NetSetMtu(mtu) => number(u64::from(*mtu)),
            Self::GetConfig { offset, size, flags } => {
                let header = ConfigHeader { offset: *offset, size: *size, flags: *flags };
                let mut payload = header.as_bytes().to_vec();
                payload.resize(payload.len() + (*size as usize).min(MAX_CONFIG), 0);
                payload
            }
            Self::SetConfig { offset, flags, bytes } => {
                let header = ConfigHeader { offset: *offset, size: bytes.len() as u32, flags: *flags };
                [header.as_bytes(), bytes.as_slice()].concat()
            }
            Self::SetStatus(status) => number(u64::from(*status)),
        };
        encode(self.code() as u32, if need_reply { NEED_REPLY } else { 0 }, &payload)
    }
}

/// A message of this version with these flags beside it.
#[must_use]
pub fn encode(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { request, flags: VERSION | flags, size: payload.len() as u32 };
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The reply to a request.
#[must_use]
pub fn encode_reply(request: u32, payload: &[u8]) -> Vec<u8> {
    encode(request, REPLY, payload)
}

/// Reads a reply to a request, which has no descriptors in any request that this room sends; returns its payload.
///
/// # Errors
/// [`ProtocolError`] for whatever the protocol does not allow.
pub fn parse_reply(bytes: &[u8], fds: usize, to: u32) -> Result<&[u8], ProtocolError> {
    let (header, payload) = split(bytes)?;
    let Header { request, flags, .. } = header;
    if !header.reply() {
        return Err(ProtocolError::Direction { request, flags, expected: "reply" });
    }
    if request != to {
        return Err(ProtocolError::Reply { expected: to, found: request });
    }
    if fds != 0 {
        return Err(ProtocolError::Fds { request, found: fds, expected: 0 });
    }
    Ok(payload)
}

/// Reads a request of a back end, as it comes over the second socket. Only [`BackEndCode::ConfigChange`] belongs to
/// a feature that this room uses.
///
/// # Errors
/// [`ProtocolError`] for whatever the protocol does not allow.
pub fn parse_back_end(bytes: &[u8], fds: usize) -> Result<BackEndCode, ProtocolError> {
    let (header, payload) = split(bytes)?;
    let Header { request, flags, .. } = header;
    if header.reply() {
        return Err(ProtocolError::Direction { request, flags, expected: "request" });
    }
    let code = BackEndCode::of(request).ok_or(ProtocolError::Unknown { request })?;
    if code == BackEndCode::ConfigChange {
        if !payload.is_empty() {
            return Err(ProtocolError::Size { request, found: payload.len(), expected: 0 });
        }
        if fds != 0 {
            return Err(ProtocolError::Fds { request, found: fds, expected: 0 });
        }
    }
    Ok(code)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
