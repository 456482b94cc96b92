//! Segmentation in software: one large TCP packet becomes several that the wire takes (Linux's GSO), for ports
//! whose device does not do it (TSO).

use zerocopy::FromBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

use super::checksum::Sum;
use super::complete::{OffloadError, ipv4_checksum, sum_pieces};
use super::headers::{Ipv4, Ipv6, Tcp, ip_protocol, tcp_flag};
use super::transport::{
    Datagram, Headers, MOST_HEADER_BYTES, header_bytes, ip_header_at, parse_lengths_within,
};
use crate::packet::{Burst, MAX_BURST, Mbuf, MbufPool, Offload, TxLengths};

/// Flags that a segment does not take over: what they ask for is done.
const DONE: Offload = Offload::TX_CHECKSUMS.union(Offload::TX_TCP_SEGMENTATION).union(Offload::RX_LRO);

/// Cuts a TCP packet over IPv4 or IPv6 into segments of [`TxLengths::tso_segment`] bytes of payload, the last one of
/// what is left, and gives them to `out` in their order. Returns how many there are.
///
/// Each segment is a packet of mbufs from `pool` with a copy of the headers and its part of the payload, whose IP
/// length, IPv4 identification, sequence number, flags (FIN and PSH only in the last, CWR only in the first) and
/// checksums are its own. It has the packet's port, hash, VLAN tag and time stamp, and no checksum is asked for any
/// more. The packet itself stays as it is, and may be shared.
///
/// An IP length of 0 is taken for "as long as the packet".
///
/// ```
/// # use wirerate_pmd::net::gso;
/// # use wirerate_pmd::packet::TxLengths;
/// # use wirerate_pmd::{MbufPool, MbufPoolConfig};
/// # let pool = MbufPool::on_heap(&MbufPoolConfig::new("doc", 64))?;
/// # let mut frame = vec![0; 14 + 20 + 20];
/// # frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
/// # frame[16..18].copy_from_slice(&4040_u16.to_be_bytes());
/// # (frame[23], frame[46]) = (6, 0x50);
/// # frame.resize(14 + 4040, 0);
/// let mut packet = pool.alloc_from(&frame).ok_or("no mbuf")?;
/// packet.set_tx_lengths(TxLengths { l2: 14, l3: 20, l4: 20, tso_segment: 1460 });
/// let mut lens = Vec::new();
/// gso::segment(&packet, &pool, |segment| lens.push(segment.len()))?;
/// assert_eq!(lens, [1514, 1514, 54 + 1080]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Nothing is given to `out` then, and all mbufs are home:
/// [`OffloadError::BadHeader`] when this is no whole TCP packet over IP over Ethernet, or its `TxLengths` are not
/// those of its headers; [`OffloadError::TooManySegments`] above [`MAX_BURST`]; [`OffloadError::NoMbuf`] when the pool
/// has too few.
pub fn segment(packet: &Mbuf, pool: &MbufPool, out: impl FnMut(Mbuf)) -> Result<usize, OffloadError> {
    segment_into(packet, || pool.alloc(), out)
}

/// As [`segment`], into mbufs of the pool that the packet came from: what a device can reach of the packet, it
/// can reach of its segments.
///
/// # Errors
/// The same.
pub fn segment_alike(packet: &Mbuf, out: impl FnMut(Mbuf)) -> Result<usize, OffloadError> {
    segment_into(packet, || packet.alloc_alike(), out)
}

fn segment_into(
    packet: &Mbuf,
    mut alloc: impl FnMut() -> Option<Mbuf>,
    out: impl FnMut(Mbuf),
) -> Result<usize, OffloadError> {
    let mut cutter = Cutter::new(packet).ok_or(OffloadError::BadHeader)?;
    let count = cutter.payload.div_ceil(cutter.most).max(1);
    if count > MAX_BURST {
        return Err(OffloadError::TooManySegments { segments: count });
    }
    // They gather here, so that there are all or none.
    let mut segments = Burst::new(MAX_BURST);
    for index in 0..count {
        let segment = cutter.cut(index, index + 1 == count, &mut alloc)?;
        // There is room: `count` is at most the burst's limit.
        segments.push(segment).map_err(|_| OffloadError::TooManySegments { segments: count })?;
    }
    segments.drain().for_each(out);
    Ok(count)
}

/// A packet that is being cut.
struct Cutter<'a> {
    packet: &'a Mbuf,
    /// The headers, of which each segment gets a copy with its own figures.
    template: [u8; MOST_HEADER_BYTES],
    headers: Headers,
    /// The sum of the addresses.
    addresses: Sum,
    /// Bytes of payload in the packet, and at most in a segment.
    payload: usize,
    most: usize,
    /// What was in these fields of the packet.
    identification: u16,
    sequence: u32,
    flags: u8,
    rest: Rest<'a>,
}

impl<'a> Cutter<'a> {
    fn new(packet: &'a Mbuf) -> Option<Self> {
        let most = usize::from(packet.tx_lengths().tso_segment);
        let mut scratch = [0; MOST_HEADER_BYTES];
        let start = header_bytes(packet, &mut scratch);
        let headers = parse_lengths_within(start, packet.len())?;
        let datagram = Datagram::find(start, ip_header_at(start)?)?;
        if headers.protocol != ip_protocol::TCP
            || most == 0
            || contradicts(packet.tx_lengths(), headers.lengths)
        {
            return None;
        }
        let len = headers.len();
        let mut template = [0; MOST_HEADER_BYTES];
        template.get_mut(..len)?.copy_from_slice(start.get(..len)?);
        let segment = datagram.payload.unwrap_or(packet.len() - datagram.start);
        let ip = start.get(usize::from(headers.lengths.l2)..)?;
        let (tcp, _) = Tcp::ref_from_prefix(start.get(headers.transport_at()..)?).ok()?;
        Some(Self {
            packet,
            template,
            headers,
            addresses: datagram.addresses,
            payload: segment.checked_sub(usize::from(headers.lengths.l4))?,
            most,
            identification: Ipv4::ref_from_prefix(ip).ok()?.0.identification.get(),
            sequence: tcp.sequence.get(),
            flags: tcp.flags,
            rest: Rest::behind(packet, len),
        })
    }

    /// Makes the segment with this index.
    fn cut(
        &mut self,
        index: usize,
        last: bool,
        alloc: &mut impl FnMut() -> Option<Mbuf>,
    ) -> Result<Mbuf, OffloadError> {
        let here = self.most.min(self.payload - index * self.most);
        let mut flags = self.flags;
        if !last {
            flags &= !(tcp_flag::FIN | tcp_flag::PSH);
        }
        if index > 0 {
            flags &= !tcp_flag::CWR;
        }
        self.adjust(index, here, flags).ok_or(OffloadError::BadHeader)?;

        let headers = self.template.get(..self.headers.len()).unwrap_or_default();
        let mut segment = alloc().ok_or(OffloadError::NoMbuf)?;
        segment.copy_metadata(self.packet);
        segment.set_offload(segment.offload() - DONE);
        segment.set_tx_lengths(self.headers.lengths);
        segment.extend_by(headers, &mut *alloc).ok_or(OffloadError::NoMbuf)?;
        for piece in self.rest.take(here) {
            segment.extend_by(piece, &mut *alloc).ok_or(OffloadError::NoMbuf)?;
        }
        Ok(segment)
    }

    /// Writes the figures of the segment with this index and `here` bytes of payload into the headers.
    fn adjust(&mut self, index: usize, here: usize, flags: u8) -> Option<()> {
        let TxLengths { l2, l3, l4, .. } = self.headers.lengths;
        let covered = u16::try_from(usize::from(l4) + here).ok()?;
        let ip = self.template.get_mut(usize::from(l2)..)?;
        if ip.first()? >> 4 == 4 {
            let (header, _) = Ipv4::mut_from_prefix(ip).ok()?;
            header.total_len = U16::new(l3.checked_add(covered)?);
            // At most `MAX_BURST`, which fits.
            header.identification = U16::new(self.identification.wrapping_add(index as u16));
            let checksum = ipv4_checksum(ip)?;
            Ipv4::mut_from_prefix(ip).ok()?.0.checksum = U16::new(checksum);
        } else {
            let (header, extensions) =
                (Ipv6::mut_from_prefix(ip).ok()?.0, l3.checked_sub(size_of::<Ipv6>() as u16)?);
            header.payload_len = U16::new(extensions.checked_add(covered)?);
        }
        let transport = self.template.get_mut(self.headers.transport_at()..self.headers.len())?;
        let (tcp, _) = Tcp::mut_from_prefix(transport).ok()?;
        // Sequence numbers count modulo 2^32, and a packet is shorter than that.
        tcp.sequence = U32::new(self.sequence.wrapping_add((index * self.most) as u32));
        tcp.flags = flags;
        tcp.checksum = U16::new(0);
        let sum = self.addresses.word(u16::from(ip_protocol::TCP)).word(covered).bytes(transport);
        // The header's length is a multiple of 4, so the payload begins a word.
        let (_, sum) = sum_pieces(self.rest.clone().take(here), sum, 0);
        Tcp::mut_from_prefix(transport).ok()?.0.checksum = U16::new(sum.finish());
        Some(())
    }
}

/// Whether lengths that a packet tells are not those of its headers. 0 tells nothing.
fn contradicts(told: TxLengths, found: TxLengths) -> bool {
    (told.l2 != 0 && told.l2 != found.l2)
        || (told.l3 != 0 && told.l3 != found.l3)
        || (told.l4 != 0 && told.l4 != found.l4)
}

/// The bytes of a packet from some place on.
#[derive(Clone)]
struct Rest<'a> {
    segments: crate::packet::Segments<'a>,
    /// What is left of the segment that was begun.
    begun: &'a [u8],
}

impl<'a> Rest<'a> {
    fn behind(packet: &'a Mbuf, offset: usize) -> Self {
        let mut rest = Self { segments: packet.segments(), begun: &[] };
        rest.take(offset).for_each(|_| {});
        rest
    }

    /// Takes the next `count` bytes, or all there are, piece by piece.
    fn take(&mut self, mut count: usize) -> impl Iterator<Item = &'a [u8]> {
        core::iter::from_fn(move || {
            while count > 0 && self.begun.is_empty() {
                self.begun = self.segments.next()?;
            }
            let (here, rest) = self.begun.split_at(self.begun.len().min(count));
            self.begun = rest;
            count -= here.len();
            (!here.is_empty()).then_some(here)
        })
    }
}

#[cfg(test)]
mod tests;
