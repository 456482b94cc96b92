//! TCP and UDP checksums of whole frames: found, checked and filled in by software.
//!
//! Two callers need it. A driver whose device cannot do it is asked for it by a packet's offload flags. And a
//! frame that the kernel hands over before it left the machine (from a veth or a tap) may not have its checksum
//! yet: the sender left it to hardware that never came, and its field holds the sum of the pseudo header only.
//!
//! A frame may hold anything: every length in it is checked against the bytes that there are.

use zerocopy::FromBytes;

use super::checksum::{Sum, checksum};
use super::headers::{Ethernet, Ipv4, Ipv6, Tcp, Udp, VlanTag, ether_type, ip_protocol};
use crate::packet::{Mbuf, Offload, TxLengths};

/// Tags in front of the IP header that are looked past: the outer and the inner one of 802.1ad, and two more.
const MOST_TAGS: usize = 4;

/// IPv6 extension headers that are looked past; RFC 8200 (section 4.1) knows seven, each at most once or twice.
const MOST_EXTENSIONS: usize = 8;

/// Bytes at the start of a packet that headers are looked for in, when it is a chain of short segments.
pub(super) const MOST_HEADER_BYTES: usize = 512;

/// A TCP or UDP header in a frame, with what its checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// [`ip_protocol::TCP`] or [`ip_protocol::UDP`].
    pub protocol: u8,
    /// Bytes from the start of the frame to the header.
    pub start: usize,
    /// Bytes from the start of the frame to the end of the payload, without padding that follows it.
    pub end: usize,
    /// The sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
    pub pseudo: Sum,
}

impl Transport {
    /// Bytes from the start of the frame to the checksum.
    #[must_use]
    pub const fn checksum_at(&self) -> usize {
        self.start + if self.protocol == ip_protocol::TCP { 16 } else { 6 }
    }

    /// Finds the TCP or UDP header behind the IP header that starts `ip_at` bytes into `frame`.
    ///
    /// None when there is no such header there, when a length does not fit the frame, or when the datagram is
    /// a fragment or source-routed, whose checksum covers more than this frame tells.
    #[must_use]
    pub fn find(frame: &[u8], ip_at: usize) -> Option<Self> {
        Self::find_within(frame, frame.len(), ip_at)
    }

    /// As [`find`](Self::find), in a frame of `len` bytes of which `headers` are the first: all headers have to
    /// be in those.
    #[must_use]
    pub fn find_within(headers: &[u8], len: usize, ip_at: usize) -> Option<Self> {
        let Datagram { protocol, start, payload, addresses } = Datagram::find(headers, ip_at)?;
        let payload = payload?;
        if start.checked_add(payload)? > len {
            return None;
        }
        let covered = match protocol {
            ip_protocol::TCP if payload >= size_of::<Tcp>() => payload,
            ip_protocol::UDP => {
                let len = usize::from(Udp::ref_from_prefix(headers.get(start..)?).ok()?.0.len.get());
                Some(len).filter(|len| (size_of::<Udp>()..=payload).contains(len))?
            }
            _ => return None,
        };
        // A segment is at most 65,535 bytes long, as both IP headers count it in 16 bits.
        let pseudo = addresses.word(u16::from(protocol)).word(u16::try_from(covered).ok()?);
        Some(Self { protocol, start, end: start + covered, pseudo })
    }

    /// The checksum that belongs into the field, whatever is there now. `frame` is the one that this was found
    /// in.
    fn compute(&self, frame: &[u8]) -> Option<u16> {
        let field = self.checksum_at();
        let sum = self.pseudo.bytes(frame.get(self.start..field)?).bytes(frame.get(field + 2..self.end)?);
        Some(self.as_written(sum.finish()))
    }

    /// 0 in a UDP header says that there is no checksum (RFC 768); its other form stands for it.
    pub(super) const fn as_written(&self, checksum: u16) -> u16 {
        if checksum == 0 && self.protocol == ip_protocol::UDP { 0xffff } else { checksum }
    }

    fn read(&self, frame: &[u8]) -> Option<u16> {
        let field = frame.get(self.checksum_at()..)?;
        field.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn write(&self, frame: &mut [u8], checksum: u16) -> Option<()> {
        let field = frame.get_mut(self.checksum_at()..)?;
        *field.first_chunk_mut()? = checksum.to_be_bytes();
        Some(())
    }
}

/// What an IP header says of the datagram that it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram {
    /// What is behind the IP header and its extensions; see [`ip_protocol`].
    pub protocol: u8,
    /// Bytes from the start of the frame to there.
    pub start: usize,
    /// Bytes from there on; none when the header's length is 0, as in a packet that is longer than it can say
    /// or that is still to be cut.
    pub payload: Option<usize>,
    /// The sum of the addresses, the part of the pseudo header that all segments of a packet share.
    pub addresses: Sum,
}

impl Datagram {
    /// Reads the IP header `ip_at` bytes into the frame that starts with `headers`. None when there is none, or
    /// when its datagram is a fragment. Behind a source route with stops left nothing is looked for: `protocol`
    /// says that it is one.
    pub(super) fn find(headers: &[u8], ip_at: usize) -> Option<Self> {
        let packet = headers.get(ip_at..)?;
        match packet.first()? >> 4 {
            4 => Self::ipv4(packet, ip_at),
            6 => Self::ipv6(packet, ip_at),
            _ => None,
        }
    }

    fn ipv4(packet: &[u8], ip_at: usize) -> Option<Self> {
        const MORE_FRAGMENTS_AND_OFFSET: u16 = 0x3fff;
        let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
        let header = ip.header_len()?;
        if ip.fragment.get() & MORE_FRAGMENTS_AND_OFFSET != 0 {
            return None;
        }
        let payload = match usize::from(ip.total_len.get()) {
            0 => None,
            total => Some(total.checked_sub(header)?),
        };
        let addresses = Sum::default().bytes(&ip.source).bytes(&ip.destination);
        Some(Self { protocol: ip.protocol, start: ip_at + header, payload, addresses })
    }

    fn ipv6(packet: &[u8], ip_at: usize) -> Option<Self> {
        let (ip, _) = Ipv6::ref_from_prefix(packet).ok()?;
        let mut protocol = ip.next_header;
        let mut start = size_of::<Ipv6>();
        for _ in 0..MOST_EXTENSIONS {
            match protocol {
                ip_protocol::HOP_BY_HOP | ip_protocol::DESTINATION_OPTIONS => {}
                // With stops left to go, the pseudo header has the last one's address and not this header's.
                ip_protocol::ROUTING if *packet.get(start + 3)? == 0 => {}
                _ => break,
            }
            let (next, len) = (*packet.get(start)?, *packet.get(start + 1)?);
            protocol = next;
            start += (usize::from(len) + 1) * 8;
        }
        let payload = match usize::from(ip.payload_len.get()) {
            0 => None,
            len => Some((size_of::<Ipv6>() + len).checked_sub(start)?),
        };
        let addresses = Sum::default().bytes(&ip.source).bytes(&ip.destination);
        Some(Self { protocol, start: ip_at + start, payload, addresses })
    }
}

/// Bytes from the start of an Ethernet frame to its IP header, past VLAN tags; none when there is none.
#[must_use]
pub fn ip_header_at(frame: &[u8]) -> Option<usize> {
    let (ethernet, _) = Ethernet::ref_from_prefix(frame).ok()?;
    let mut kind = ethernet.ether_type.get();
    let mut at = size_of::<Ethernet>();
    for _ in 0..MOST_TAGS {
        if kind != ether_type::VLAN && kind != ether_type::QINQ {
            break;
        }
        let (tag, _) = VlanTag::ref_from_prefix(frame.get(at..)?).ok()?;
        kind = tag.ether_type.get();
        at += size_of::<VlanTag>();
    }
    matches!(kind, ether_type::IPV4 | ether_type::IPV6).then_some(at)
}

/// The headers of a packet, as they are found by [`parse_lengths`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// [`ip_protocol::TCP`] or [`ip_protocol::UDP`].
    pub protocol: u8,
    /// How long each is; `tso_segment` is 0.
    pub lengths: TxLengths,
}

impl Headers {
    /// Bytes from the start of the packet to the TCP or UDP header (virtio's `csum_start`).
    #[must_use]
    pub const fn transport_at(&self) -> usize {
        self.lengths.l2 as usize + self.lengths.l3 as usize
    }

    /// Bytes from the TCP or UDP header to its checksum (virtio's `csum_offset`).
    #[must_use]
    pub const fn checksum_offset(&self) -> usize {
        if self.protocol == ip_protocol::TCP { 16 } else { 6 }
    }

    /// The flag that asks for the checksum: [`Offload::TX_TCP_CHECKSUM`] or [`Offload::TX_UDP_CHECKSUM`].
    #[must_use]
    pub const fn checksum_flag(&self) -> Offload {
        if self.protocol == ip_protocol::TCP { Offload::TX_TCP_CHECKSUM } else { Offload::TX_UDP_CHECKSUM }
    }

    /// Bytes in all headers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.transport_at() + self.lengths.l4 as usize
    }

    /// Never: there is an Ethernet header at least.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Finds the headers of an Ethernet frame with TCP or UDP in it: past VLAN tags, IPv4 options and IPv6 extension
/// headers.
///
/// None when it is something else, a fragment or source-routed, or when a length does not fit: then it cannot
/// carry the flags that ask for a checksum or for segmentation. An IP length of 0 is taken for "as long as the
/// packet", which is what packets to be segmented may have.
#[must_use]
pub fn parse_lengths(packet: &Mbuf) -> Option<Headers> {
    if packet.is_contiguous() {
        return parse_lengths_within(packet.data(), packet.len());
    }
    let mut scratch = [0; MOST_HEADER_BYTES];
    parse_lengths_within(header_bytes(packet, &mut scratch), packet.len())
}

/// As [`parse_lengths`], in a frame of `len` bytes of which `headers` are the first: all headers have to be in
/// those.
#[must_use]
pub fn parse_lengths_within(headers: &[u8], len: usize) -> Option<Headers> {
    let ip_at = ip_header_at(headers)?;
    let Datagram { protocol, start, payload, .. } = Datagram::find(headers, ip_at)?;
    let room = len.checked_sub(start)?;
    let payload = payload.unwrap_or(room);
    let transport = headers.get(start..)?;
    let l4 = match protocol {
        ip_protocol::TCP => Tcp::ref_from_prefix(transport).ok()?.0.header_len()?,
        ip_protocol::UDP => {
            let (udp, _) = Udp::ref_from_prefix(transport).ok()?;
            Some(size_of::<Udp>())
                .filter(|header| (*header..=payload).contains(&usize::from(udp.len.get())))?
        }
        _ => return None,
    };
    if l4 > payload || payload > room || l4 > transport.len() {
        return None;
    }
    let lengths = TxLengths {
        l2: u8::try_from(ip_at).ok()?,
        l3: u16::try_from(start - ip_at).ok()?,
        l4: u8::try_from(l4).ok()?,
        tso_segment: 0,
    };
    Some(Headers { protocol, lengths })
}

/// The beginning of a packet, with its headers: its first segment, or a copy in `scratch` when that is short.
pub(super) fn header_bytes<'a>(packet: &'a Mbuf, scratch: &'a mut [u8; MOST_HEADER_BYTES]) -> &'a [u8] {
    if packet.is_contiguous() || packet.data().len() >= MOST_HEADER_BYTES {
        return packet.data();
    }
    // As many bytes as there are always can be read.
    packet.read(0, packet.len().min(MOST_HEADER_BYTES), scratch).unwrap_or_default()
}

/// Computes the checksum of the TCP or UDP header behind the IP header `ip_at` bytes into `frame`, and writes
/// it. None, and no change, when there is no such header; see [`Transport::find`].
pub fn fill_transport_checksum(frame: &mut [u8], ip_at: usize) -> Option<()> {
    let transport = Transport::find(frame, ip_at)?;
    let checksum = transport.compute(frame)?;
    transport.write(frame, checksum)
}

/// Computes the checksum of the IPv4 header `ip_at` bytes into `frame`, and writes it. None, and no change,
/// when there is no such header.
pub fn fill_ipv4_checksum(frame: &mut [u8], ip_at: usize) -> Option<()> {
    const FIELD: usize = 10;
    let packet = frame.get_mut(ip_at..)?;
    let len = Ipv4::ref_from_prefix(packet).ok()?.0.header_len()?;
    let header = packet.get_mut(..len)?;
    header.get_mut(FIELD..)?.first_chunk_mut::<2>()?.fill(0);
    let sum = checksum(header);
    *header.get_mut(FIELD..)?.first_chunk_mut()? = sum.to_be_bytes();
    Some(())
}

/// Finishes the TCP or UDP checksum of an Ethernet frame whose sender left it to hardware: the field then holds
/// the sum of the pseudo header, not yet complemented.
///
/// None, and no change, when the field holds something else. So a frame that carries another one in a tunnel,
/// whose own checksum is complete or not used, is not spoiled.
pub fn finish_partial_checksum(frame: &mut [u8]) -> Option<()> {
    let transport = Transport::find(frame, ip_header_at(frame)?)?;
    let pseudo = !transport.pseudo.finish();
    // Zero has two forms in one's complement arithmetic.
    if transport.read(frame)? % 0xffff != pseudo % 0xffff {
        return None;
    }
    let checksum = transport.compute(frame)?;
    transport.write(frame, checksum)
}

#[cfg(test)]
mod tests;
