//! The parts of messages as they stand on the socket (vhost-user specification, "Message Specification"). Both ends
//! are on one machine: all numbers are in its byte order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::codes::{NEED_REPLY, REPLY, VERSION, VERSION_MASK};

/// What every message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// The number of the request.
    pub request: u32,
    /// Version and flags.
    pub flags: u32,
    /// Bytes of the payload.
    pub size: u32,
}

/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = size_of::<Header>();

impl Header {
    /// Whether the message has the version that this room speaks.
    #[must_use]
    pub fn known_version(self) -> bool {
        self.flags & VERSION_MASK == VERSION
    }

    /// Whether it is a reply.
    #[must_use]
    pub fn reply(self) -> bool {
        self.flags & REPLY != 0
    }

    /// Whether its sender asks for an answer.
    #[must_use]
    pub fn need_reply(self) -> bool {
        self.flags & NEED_REPLY != 0
    }
}

/// "A vring state description": a ring and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringState {
    /// The ring.
    pub index: u32,
    /// A size, a base, or 0 and 1.
    pub num: u32,
}

/// "A vring address description", all addresses being user addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringAddresses {
    /// The ring.
    pub index: u32,
    /// Bit 0: log what is written to the used ring.
    pub flags: u32,
    /// The descriptors.
    pub descriptors: u64,
    /// The used ring, or the device event suppression of a packed ring.
    pub device_area: u64,
    /// The available ring, or the driver event suppression of a packed ring.
    pub driver_area: u64,
    /// The guest address under which the used ring is logged.
    pub log: u64,
}

/// What "Memory regions description" begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryHeader {
    /// How many regions follow.
    pub regions: u32,
    /// Nothing.
    pub padding: u32,
}

/// A region of a table of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Region {
    /// Where it begins for the guest.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Where it begins for the front end.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// What "Virtio device config space" begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConfigHeader {
    /// The first byte of the configuration that is meant.
    pub offset: u32,
    /// How many bytes follow.
    pub size: u32,
    /// 0: writable fields; 1: live migration.
    pub flags: u32,
}
