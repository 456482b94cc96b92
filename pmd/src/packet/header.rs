//! How an mbuf lies in memory.
//!
//! ```text
//! object  +0    Header      one cache line: all that the data path reads or writes
//!         +64   Extension   one cache line, cold: attachment, time stamp, dynamic fields
//!         +128  buffer      headroom, data, tailroom
//! ```
//!
//! DPDK's mbuf spends two cache lines on every packet; here the second one is touched only by packets that
//! use what is in it.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU16;
use std::sync::Arc;

use wirerate_mempool::RawHandle;

/// Bytes from the start of an object to its buffer.
pub(super) const BUFFER_OFFSET: usize = size_of::<Header>() + size_of::<Extension>();

/// Bytes of the extension that dynamic fields may use.
pub(super) const DYNAMIC_LEN: usize = 22;

/// `Header::device` of a buffer that no device can reach.
pub(super) const NO_DEVICE_ADDRESS: u64 = u64::MAX;

/// `Header::flags`: the buffer is another mbuf's or somebody else's memory, and the extension says whose.
pub(super) const ATTACHED: u32 = 1 << 31;

/// The hot cache line.
///
/// While an mbuf is at home in its pool these hold, so that taking it out writes only what changes:
/// `buffer`, `device` and `buffer_len` describe its own buffer, `next` is none, `segments` and `references`
/// are 1, `flags` has no [`ATTACHED`].
#[repr(C, align(64))]
pub(super) struct Header {
    /// First byte of the buffer: the own one, or the one that it is attached to.
    pub buffer: NonNull<u8>,
    /// The device address of `buffer`, or [`NO_DEVICE_ADDRESS`].
    pub device: u64,
    /// Where the mbuf goes home to.
    pub pool: RawHandle,
    /// The next segment of the packet.
    pub next: Option<NonNull<Header>>,
    /// Bytes from `buffer` to the first byte of data.
    pub data_offset: u16,
    /// Bytes of data in this segment.
    pub data_len: u16,
    /// Bytes of data in the whole packet; meaningful in the first segment.
    pub packet_len: u32,
    /// The mbuf that owns this buffer, plus the clones that read it.
    pub references: AtomicU16,
    /// Segments in the packet; meaningful in the first segment.
    pub segments: u16,
    /// The port that the packet came in by.
    pub port: u16,
    /// Bytes in `buffer`.
    pub buffer_len: u16,
    /// [`Offload`](super::Offload) bits, and [`ATTACHED`].
    pub flags: u32,
    /// RSS hash; meaningful with `Offload::RX_RSS_HASH`.
    pub hash: u32,
    /// VLAN tag control information; meaningful with a VLAN flag.
    pub vlan_tci: u16,
    /// Header lengths for transmit offloads.
    pub lengths: super::TxLengths,
}

/// The cold cache line.
#[repr(C, align(64))]
pub(super) struct Extension {
    /// Whose buffer this mbuf reads, when it is [`ATTACHED`].
    pub attachment: Attachment,
    /// Nanoseconds since 1970; meaningful with `Offload::TIMESTAMP`.
    pub timestamp: u64,
    /// What `Header::device` is at home.
    pub home_device: u64,
    /// What `Header::buffer_len` is at home.
    pub home_len: u16,
    /// Dynamic fields, at offsets given out by a `DynLayout`.
    pub dynamic: [u8; DYNAMIC_LEN],
}

/// What an attached mbuf holds on to.
pub(super) enum Attachment {
    /// Nothing: the buffer is its own.
    None,
    /// Another mbuf's buffer; one of its `references` is this mbuf's.
    Clone(NonNull<Header>),
    /// Memory from outside any pool.
    External(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

const _: () = assert!(size_of::<Header>() == 64 && size_of::<Extension>() == 64);
