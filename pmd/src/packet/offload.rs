//! What a port found out about a received packet, and what it is asked to do with a sent one.

use bitflags::bitflags;

bitflags! {
    /// Per-packet offload flags (DPDK's `ol_flags`).
    ///
    /// # Packets that are not finished
    ///
    /// A packet whose TCP or UDP checksum is not filled in yet carries [`TX_TCP_CHECKSUM`](Offload::TX_TCP_CHECKSUM) or
    /// [`TX_UDP_CHECKSUM`](Offload::TX_UDP_CHECKSUM) and its [`TxLengths`], whether an application made it or a port
    /// received it from a sender that left the checksum to hardware (virtio's `NEEDS_CSUM`). Whoever sends it later
    /// completes it: the device if its queue can, else the [`TxQueue`](crate::TxQueue) in software. In the same way a
    /// TCP packet that is longer than the wire takes carries
    /// [`TX_TCP_SEGMENTATION`](Offload::TX_TCP_SEGMENTATION), and is cut by whoever sends it. A port receives such
    /// packets only if the application allows it
    /// ([`PortConfig::rx_offloads`](crate::PortConfig::rx_offloads)).
    ///
    /// **What is in the checksum field meanwhile** is what virtio and Linux put there (virtio 1.2, 5.1.6.2): the sum of
    /// the pseudo header, folded to 16 bits and not complemented, *with* the length of the TCP or UDP part of this
    /// packet, also when it is to be segmented. A device takes it from there. DPDK does the same, but for packets to
    /// be segmented its `rte_eth_tx_prepare` leaves the length out; a driver whose device wants that takes it off
    /// again. Software looks at the IP header instead and overwrites the field, whatever was in it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Offload: u32 {
        /// The VLAN tag was taken out of the frame and is in `vlan_tci`. Such a packet carries
        /// [`TX_VLAN_INSERT`](Offload::TX_VLAN_INSERT), too, so that whoever sends it puts the tag in again; an application
        /// that wants it to go without takes that flag away.
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
        /// The packet may be longer than the wire's largest frame: its port put it together from several TCP
        /// segments, or it never was on a wire. `TxLengths::tso_segment` has the payload of each segment.
        const RX_LRO = 1 << 7;

        /// Insert `vlan_tci` as a tag while sending.
        const TX_VLAN_INSERT = 1 << 16;
        /// Compute the IPv4 header checksum while sending.
        const TX_IP_CHECKSUM = 1 << 17;
        /// Compute the TCP checksum while sending: the field holds the sum of the pseudo header.
        const TX_TCP_CHECKSUM = 1 << 18;
        /// Compute the UDP checksum while sending: the field holds the sum of the pseudo header.
        const TX_UDP_CHECKSUM = 1 << 19;
        /// Cut the packet into TCP segments of `TxLengths::tso_segment` bytes while sending. That includes the
        /// checksums of each segment, asked for or not.
        const TX_TCP_SEGMENTATION = 1 << 20;
    }
}

impl Offload {
    /// The checksums that a port can be asked for.
    pub const TX_CHECKSUMS: Self =
        Self::TX_IP_CHECKSUM.union(Self::TX_TCP_CHECKSUM).union(Self::TX_UDP_CHECKSUM);

    /// All that a port can be asked to do with a packet while sending.
    pub const TX_ALL: Self = Self::TX_CHECKSUMS.union(Self::TX_VLAN_INSERT).union(Self::TX_TCP_SEGMENTATION);

    /// The liberties that a port can be allowed with received packets
    /// ([`PortConfig::rx_offloads`](crate::PortConfig::rx_offloads)): to take the VLAN tag out, to leave the TCP or
    /// UDP checksum to be filled in, and to hand over TCP packets that are still to be cut.
    pub const RX_LIBERTIES: Self = Self::RX_VLAN_STRIPPED
        .union(Self::TX_TCP_CHECKSUM)
        .union(Self::TX_UDP_CHECKSUM)
        .union(Self::TX_TCP_SEGMENTATION);
}

/// Where the headers of a packet end, for a port that is asked to fill in checksums or to segment.
///
/// `l2`, `l3` and `l4` follow each other: the IP header begins `l2` bytes into the packet, the TCP or UDP header
/// `l2 + l3`, the payload `l2 + l3 + l4`. [`parse_lengths`](crate::net::transport::parse_lengths) finds them.
/// Software also takes 0 for "look for it"; devices do not.
///
/// They mean something only together with a `TX_*` flag, and are set with it: a fresh packet has those of the
/// packet that its mbuf was before.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxLengths {
    /// Bytes of the link header with its tags, 14 for plain Ethernet.
    pub l2: u8,
    /// Bytes of the TCP header with its options, or of the UDP header.
    pub l4: u8,
    /// Bytes of the IP header with its options or extensions.
    pub l3: u16,
    /// Bytes of TCP payload in each segment but the last, at least 1, when segmentation is asked.
    pub tso_segment: u16,
}
