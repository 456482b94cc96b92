//! What a port found out about a received packet, and what it is asked to do with a sent one.

use bitflags::bitflags;

bitflags! {
    /// Per-packet offload flags (DPDK's `ol_flags`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Offload: u32 {
        /// The VLAN tag was taken out of the frame and is in `vlan_tci`.
        const RX_VLAN_STRIPPED = 1 << 0;
        /// `rss_hash` is valid.
        const RX_RSS_HASH = 1 << 1;
        /// The IPv4 header checksum was checked and is right.
        const RX_IP_CHECKSUM_GOOD = 1 << 2;
        /// The IPv4 header checksum was checked and is wrong.
        const RX_IP_CHECKSUM_BAD = 1 << 3;
        /// The TCP or UDP checksum was checked and is right.
        const RX_L4_CHECKSUM_GOOD = 1 << 4;
        /// The TCP or UDP checksum was checked and is wrong.
        const RX_L4_CHECKSUM_BAD = 1 << 5;
        /// `timestamp` is valid.
        const TIMESTAMP = 1 << 6;

        /// Insert `vlan_tci` as a tag while sending.
        const TX_VLAN_INSERT = 1 << 16;
        /// Compute the IPv4 header checksum while sending.
        const TX_IP_CHECKSUM = 1 << 17;
        /// Compute the TCP checksum while sending.
        const TX_TCP_CHECKSUM = 1 << 18;
        /// Compute the UDP checksum while sending.
        const TX_UDP_CHECKSUM = 1 << 19;
        /// Cut the packet into TCP segments of `TxLengths::tso_segment` bytes while sending.
        const TX_TCP_SEGMENTATION = 1 << 20;
    }
}

impl Offload {
    /// All that a port can be asked for.
    pub const TX_ALL: Self = Self::TX_VLAN_INSERT
        .union(Self::TX_IP_CHECKSUM)
        .union(Self::TX_TCP_CHECKSUM)
        .union(Self::TX_UDP_CHECKSUM)
        .union(Self::TX_TCP_SEGMENTATION);
}

/// Where the headers of a packet end, for a port that is asked to fill in checksums or to segment.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxLengths {
    /// Bytes of the link header, 14 for plain Ethernet.
    pub l2: u8,
    /// Bytes of the TCP or UDP header.
    pub l4: u8,
    /// Bytes of the IP header with its options or extensions.
    pub l3: u16,
    /// Bytes of TCP payload in each segment, when segmentation is asked.
    pub tso_segment: u16,
}
