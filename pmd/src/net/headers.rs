//! Headers as they stand on the wire, to be read and written in place.
//!
//! Each is a plain struct of bytes and big-endian fields, so `Ethernet::mut_from_prefix(bytes)` (of
//! [`zerocopy`]) views the start of a packet as a header, checked for length and without a copy.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MacAddress;

/// An Ethernet header (IEEE 802.3, clause 3.2).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// The station it is for.
    pub destination: MacAddress,
    /// The station it is from.
    pub source: MacAddress,
    /// What follows; see [`ether_type`].
    pub ether_type: U16,
}

/// Values of [`Ethernet::ether_type`] and [`VlanTag::ether_type`].
pub mod ether_type {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// An outer VLAN tag (IEEE 802.1ad).
    pub const QINQ: u16 = 0x88a8;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
}

/// A VLAN tag after the source address's type field (IEEE 802.1Q, clause 9.6).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN (12).
    pub tci: U16,
    /// What follows.
    pub ether_type: U16,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Arp {
    /// 1 for Ethernet.
    pub hardware: U16,
    /// [`ether_type::IPV4`].
    pub protocol: U16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// 1 to ask, 2 to answer.
    pub operation: U16,
    /// The sender's station.
    pub sender_mac: MacAddress,
    /// The sender's address.
    pub sender_ip: [u8; 4],
    /// The station asked for, or zero.
    pub target_mac: MacAddress,
    /// The address asked about.
    pub target_ip: [u8; 4],
}

/// An IPv4 header without options (RFC 791, section 3.1).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4 bits, 4) and header length in 32-bit words (4 bits, at least 5).
    pub version_ihl: u8,
    /// Service class and congestion bits.
    pub tos: u8,
    /// Bytes in header and payload.
    pub total_len: U16,
    /// Names the fragments of one datagram.
    pub identification: U16,
    /// Flags (3 bits) and offset in 8-byte units (13 bits).
    pub fragment: U16,
    /// Hops left.
    pub ttl: u8,
    /// What follows; see [`ip_protocol`].
    pub protocol: u8,
    /// Over the header.
    pub checksum: U16,
    /// From.
    pub source: [u8; 4],
    /// To.
    pub destination: [u8; 4],
}

/// Values of [`Ipv4::protocol`] and [`Ipv6::next_header`].
pub mod ip_protocol {
    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// An IPv6 routing header (RFC 8200, section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 destination options (RFC 8200, section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

impl Ipv4 {
    /// Bytes in the header with its options; none when version or length cannot be.
    #[must_use]
    pub fn header_len(&self) -> Option<usize> {
        let len = usize::from(self.version_ihl & 0x0f) * 4;
        (self.version_ihl >> 4 == 4 && len >= size_of::<Self>()).then_some(len)
    }
}

/// An IPv6 header (RFC 8200, section 3).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits, 6), traffic class (8) and flow label (20).
    pub version_class_flow: U32,
    /// Bytes behind this header.
    pub payload_len: U16,
    /// What follows; see [`ip_protocol`].
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// From.
    pub source: [u8; 16],
    /// To.
    pub destination: [u8; 16],
}

/// A TCP header without options (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// From.
    pub source: U16,
    /// To.
    pub destination: U16,
    /// The number of the first byte of payload.
    pub sequence: U32,
    /// The number of the byte that is expected next.
    pub acknowledgment: U32,
    /// Header length in 32-bit words (4 bits, at least 5) and reserved bits (4).
    pub data_offset: u8,
    /// See [`tcp_flag`].
    pub flags: u8,
    /// Bytes that may be sent to the sender of this.
    pub window: U16,
    /// Over pseudo header, header and payload.
    pub checksum: U16,
    /// Where urgent data ends.
    pub urgent: U16,
}

/// Bits of [`Tcp::flags`].
pub mod tcp_flag {
    /// The last byte of the stream is in this segment.
    pub const FIN: u8 = 0x01;
    /// The receiver is to hand on what it has.
    pub const PSH: u8 = 0x08;
    /// The sender has reduced its congestion window (RFC 3168).
    pub const CWR: u8 = 0x80;
}

impl Tcp {
    /// Bytes in the header with its options; none when the length cannot be.
    #[must_use]
    pub fn header_len(&self) -> Option<usize> {
        let len = usize::from(self.data_offset >> 4) * 4;
        (len >= size_of::<Self>()).then_some(len)
    }
}

/// A UDP header (RFC 768).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// From.
    pub source: U16,
    /// To.
    pub destination: U16,
    /// Bytes in header and payload.
    pub len: U16,
    /// Over pseudo header, header and payload; 0 when there is none.
    pub checksum: U16,
}

/// An ICMP echo message (RFC 792, page 14).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpEcho {
    /// 8 to ask, 0 to answer.
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Over the whole message.
    pub checksum: U16,
    /// Identifier and sequence number of whoever asks.
    pub identity: U32,
}

const _: () = assert!(size_of::<Ethernet>() == 14 && size_of::<Arp>() == 28 && size_of::<Ipv4>() == 20);
const _: () = assert!(size_of::<Ipv6>() == 40 && size_of::<Tcp>() == 20 && size_of::<Udp>() == 8);
