//! TCP and UDP checksums of whole frames: found, checked and filled in by software.
//!
//! Two callers need it. A driver whose device cannot do it is asked for it by a packet's offload flags. And a
//! frame that the kernel hands over before it left the machine (from a veth or a tap) may not have its checksum
//! yet: the sender left it to hardware that never came, and its field holds the sum of the pseudo header only.
//!
//! A frame may hold anything: every length in it is checked against the bytes that there are.

use zerocopy::FromBytes;

use super::checksum::{Sum, checksum};
use super::headers::{Ethernet, Ipv4, Ipv6, Udp, VlanTag, ether_type, ip_protocol};

/// Tags in front of the IP header that are looked past: the outer and the inner one of 802.1ad, and two more.
const MOST_TAGS: usize = 4;

/// IPv6 extension headers that are looked past; RFC 8200 (section 4.1) knows seven, each at most once or twice.
const MOST_EXTENSIONS: usize = 8;

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
        let packet = frame.get(ip_at..)?;
        match packet.first()? >> 4 {
            4 => Self::behind_ipv4(packet, ip_at),
            6 => Self::behind_ipv6(packet, ip_at),
            _ => None,
        }
    }

    fn behind_ipv4(packet: &[u8], ip_at: usize) -> Option<Self> {
        const MORE_FRAGMENTS_AND_OFFSET: u16 = 0x3fff;
        let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
        let header = ip.header_len()?;
        if ip.fragment.get() & MORE_FRAGMENTS_AND_OFFSET != 0 {
            return None;
        }
        let payload = usize::from(ip.total_len.get()).checked_sub(header)?;
        let addresses = Sum::default().bytes(&ip.source).bytes(&ip.destination);
        Self::at(packet, ip_at, ip.protocol, header, payload, addresses)
    }

    fn behind_ipv6(packet: &[u8], ip_at: usize) -> Option<Self> {
        let (ip, _) = Ipv6::ref_from_prefix(packet).ok()?;
        let mut protocol = ip.next_header;
        let mut start = size_of::<Ipv6>();
        let end = start + usize::from(ip.payload_len.get());
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
        let payload = end.checked_sub(start)?;
        let addresses = Sum::default().bytes(&ip.source).bytes(&ip.destination);
        Self::at(packet, ip_at, protocol, start, payload, addresses)
    }

    /// `start` and `payload` are bytes from the start of `packet` to the header, and bytes from there on.
    fn at(
        packet: &[u8],
        ip_at: usize,
        protocol: u8,
        start: usize,
        payload: usize,
        addresses: Sum,
    ) -> Option<Self> {
        let segment = packet.get(start..start.checked_add(payload)?)?;
        let len = match protocol {
            ip_protocol::TCP if payload >= 20 => payload,
            ip_protocol::UDP => {
                let len = usize::from(Udp::ref_from_prefix(segment).ok()?.0.len.get());
                Some(len).filter(|len| (size_of::<Udp>()..=payload).contains(len))?
            }
            _ => return None,
        };
        // A segment is at most 65,535 bytes long, as both IP headers count it in 16 bits.
        let pseudo = addresses.word(u16::from(protocol)).word(u16::try_from(len).ok()?);
        Some(Self { protocol, start: ip_at + start, end: ip_at + start + len, pseudo })
    }

    /// The checksum that belongs into the field, whatever is there now. `frame` is the one that this was found
    /// in.
    fn compute(&self, frame: &[u8]) -> Option<u16> {
        let field = self.checksum_at();
        let sum = self.pseudo.bytes(frame.get(self.start..field)?).bytes(frame.get(field + 2..self.end)?);
        Some(self.as_written(sum.finish()))
    }

    /// 0 in a UDP header says that there is no checksum (RFC 768); its other form stands for it.
    const fn as_written(&self, checksum: u16) -> u16 {
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
