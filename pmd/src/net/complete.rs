//! What a packet's offload flags ask for, done in software: checksums and the VLAN tag. Cutting is in
//! [`gso`](super::gso).
//!
//! Packets may be chains of segments of any length, and hold anything: all lengths are checked first.

use core::ops::Range;

use thiserror::Error;
use zerocopy::FromBytes;

use super::checksum::Sum;
use super::headers::{Ipv4, ether_type, ip_protocol};
use super::transport::{MOST_HEADER_BYTES, Transport, header_bytes, ip_header_at, parse_lengths};
use crate::packet::{MAX_BURST, Mbuf, Offload};
use crate::port::DropReason;

/// Bytes in front of a VLAN tag: the two addresses.
const ADDRESSES: usize = 12;
/// Bytes in a VLAN tag.
const TAG: usize = 4;
/// Bytes from the start of an IPv4 header to its checksum.
const IPV4_CHECKSUM: usize = 10;

/// Why software could not do what a packet's offload flags ask for.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffloadError {
    /// The headers are not what the flags need, or a length is not that of the headers or leads out of the
    /// packet.
    #[error("the packet's headers and lengths are not what its offload flags ask for")]
    BadHeader,
    /// The bytes to be written are shared with another packet.
    #[error("the packet's bytes are shared with another packet; send a copy of it")]
    Shared,
    /// The pool has too few mbufs.
    #[error("the pool has too few mbufs; make it larger, or keep fewer packets")]
    NoMbuf,
    /// The packet would become more segments than software makes of one.
    #[error("a packet of {segments} TCP segments is more than software cuts ({MAX_BURST})")]
    TooManySegments {
        /// How many those were.
        segments: usize,
    },
}

impl OffloadError {
    /// The name under which a queue drops such a packet.
    #[must_use]
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Self::BadHeader => DropReason::BadHeader,
            Self::Shared => DropReason::Shared,
            Self::NoMbuf => DropReason::TxNoMbuf,
            Self::TooManySegments { .. } => DropReason::TxTooLong,
        }
    }
}

/// Fills in the IPv4 header, TCP and UDP checksums that the packet's flags ask for, and takes those flags off.
///
/// The headers are found by the packet's `TxLengths`, or looked for where those are 0. The sum of the pseudo
/// header is computed from the IP header, whatever is in the checksum field. The TCP checksum of a packet that is to
/// be segmented is left alone: it is each segment's own matter.
///
/// # Errors
/// [`OffloadError::BadHeader`] or [`OffloadError::Shared`]; the packet is as before then.
pub fn complete_checksums(packet: &mut Mbuf) -> Result<(), OffloadError> {
    complete_some_checksums(packet, Offload::TX_CHECKSUMS)
}

/// As [`complete_checksums`], of those checksums only that are in `which`.
///
/// # Errors
/// The same.
pub fn complete_some_checksums(packet: &mut Mbuf, which: Offload) -> Result<(), OffloadError> {
    const TRANSPORT: Offload = Offload::TX_TCP_CHECKSUM.union(Offload::TX_UDP_CHECKSUM);
    let asked = packet.offload();
    let mut todo = asked & which & Offload::TX_CHECKSUMS;
    if asked.contains(Offload::TX_TCP_SEGMENTATION) {
        todo -= TRANSPORT;
    }
    if todo.is_empty() {
        return Ok(());
    }
    let fields = compute(packet, todo).ok_or(OffloadError::BadHeader)?;
    if !fields.iter().flatten().all(|&(at, _)| packet.is_writable_at(at, 2)) {
        return Err(OffloadError::Shared);
    }
    for (at, checksum) in fields.into_iter().flatten() {
        packet.write(at, &checksum.to_be_bytes());
    }
    packet.set_offload(asked - todo);
    Ok(())
}

/// The checksums of the IPv4 header and of what is behind it, as far as they are in `todo`, and where they belong.
fn compute(packet: &Mbuf, todo: Offload) -> Option<[Option<(usize, u16)>; 2]> {
    let mut scratch = [0; MOST_HEADER_BYTES];
    let headers = header_bytes(packet, &mut scratch);
    let lengths = packet.tx_lengths();
    let ip_at = match usize::from(lengths.l2) {
        0 => ip_header_at(headers)?,
        told => told,
    };
    let mut fields = [None; 2];
    if todo.contains(Offload::TX_IP_CHECKSUM) {
        fields[0] = Some((ip_at + IPV4_CHECKSUM, ipv4_checksum(headers.get(ip_at..)?)?));
    }
    let asked_of = match (todo.contains(Offload::TX_TCP_CHECKSUM), todo.contains(Offload::TX_UDP_CHECKSUM)) {
        (false, false) => return Some(fields),
        (true, false) => ip_protocol::TCP,
        (false, true) => ip_protocol::UDP,
        (true, true) => return None,
    };
    let found = Transport::find_within(headers, packet.len(), ip_at)?;
    let told_elsewhere = lengths.l3 != 0 && ip_at + usize::from(lengths.l3) != found.start;
    let told_too_long = usize::from(lengths.l4) > found.end - found.start;
    if found.protocol != asked_of || told_elsewhere || told_too_long {
        return None;
    }
    let field = found.checksum_at();
    let (_, sum) = sum_pieces(pieces(packet, found.start..field), found.pseudo, 0);
    // The field is at an even distance and two bytes long, so that what follows it begins a word again.
    let (_, sum) = sum_pieces(pieces(packet, field + 2..found.end), sum, 0);
    fields[1] = Some((field, found.as_written(sum.finish())));
    Some(fields)
}

/// The checksum of the IPv4 header that `packet` starts with, whatever is in its field.
pub(super) fn ipv4_checksum(packet: &[u8]) -> Option<u16> {
    let len = Ipv4::ref_from_prefix(packet).ok()?.0.header_len()?;
    let (before, after) = packet.get(..len)?.split_at_checked(IPV4_CHECKSUM)?;
    Some(Sum::default().bytes(before).bytes(after.get(2..)?).finish())
}

/// Completes a checksum of any kind that its sender left half done (virtio 1.2, 5.1.6.2; Linux's
/// `CHECKSUM_PARTIAL`): the internet checksum of all bytes from `start` on goes into the two bytes `offset` behind
/// `start`, which hold the sum of the pseudo header until then and are summed too. So the headers are not looked
/// at; for packets that [`parse_lengths`] does not know.
///
/// A checksum of 0 is written in its other form, 0xffff, as Linux does: in UDP 0 would say that there is none.
///
/// # Errors
/// [`OffloadError::BadHeader`] when the two bytes are not in the packet, [`OffloadError::Shared`] when they cannot be
/// written; the packet is as before then.
pub fn complete_partial(packet: &mut Mbuf, start: usize, offset: usize) -> Result<(), OffloadError> {
    let at = start.checked_add(offset).ok_or(OffloadError::BadHeader)?;
    if at.checked_add(2).is_none_or(|end| end > packet.len()) {
        return Err(OffloadError::BadHeader);
    }
    let (_, sum) = sum_pieces(pieces(packet, start..packet.len()), Sum::default(), 0);
    let checksum = match sum.finish() {
        0 => 0xffff,
        checksum => checksum,
    };
    if packet.write(at, &checksum.to_be_bytes()) { Ok(()) } else { Err(OffloadError::Shared) }
}

/// Takes in a received packet whose checksum its sender left to hardware, with virtio's words for where it is
/// (`csum_start`, `csum_offset`). When that is the TCP or UDP checksum of the packet's headers and `allowed`
/// ([`PortConfig::rx_offloads`](crate::PortConfig::rx_offloads)) has its flag, the packet gets the flag and its
/// `TxLengths`, for whoever sends it; else [`complete_partial`] does it here.
///
/// # Errors
/// Those of [`complete_partial`].
pub fn receive_partial(
    packet: &mut Mbuf,
    start: usize,
    offset: usize,
    allowed: Offload,
) -> Result<(), OffloadError> {
    if let Some(headers) = parse_lengths(packet)
        && (headers.transport_at(), headers.checksum_offset()) == (start, offset)
        && allowed.contains(headers.checksum_flag())
    {
        packet.set_tx_lengths(headers.lengths);
        packet.set_offload(packet.offload() | headers.checksum_flag());
        return Ok(());
    }
    complete_partial(packet, start, offset)
}

/// Puts the tag that [`Offload::TX_VLAN_INSERT`] asks for into the frame, an 802.1Q one with the packet's
/// `vlan_tci`, and takes the flag off. A packet that is shared or has no headroom becomes a copy of itself, from the
/// same pool.
///
/// # Errors
/// [`OffloadError::BadHeader`] when there is no Ethernet header, or it is longer than `TxLengths` can say;
/// [`OffloadError::NoMbuf`] when there has to be a copy and cannot be. The packet's bytes are as before then.
pub fn insert_vlan_tag(packet: &mut Mbuf) -> Result<(), OffloadError> {
    if !packet.offload().contains(Offload::TX_VLAN_INSERT) {
        return Ok(());
    }
    let mut lengths = packet.tx_lengths();
    if lengths.l2 != 0 {
        lengths.l2 = lengths.l2.checked_add(TAG as u8).ok_or(OffloadError::BadHeader)?;
    }
    if packet.len() < ADDRESSES + 2 {
        return Err(OffloadError::BadHeader);
    }
    if packet.headroom() < TAG || packet.data().len() < ADDRESSES {
        own(packet)?;
    }
    if packet.data().len() < ADDRESSES || packet.prepend(TAG).is_none() {
        return Err(OffloadError::BadHeader);
    }
    let [high, low] = packet.vlan_tci().to_be_bytes();
    let [kind, of_tag] = ether_type::VLAN.to_be_bytes();
    let Some(start) = packet.data_mut().and_then(|data| data.get_mut(..ADDRESSES + TAG)) else {
        return Err(OffloadError::Shared);
    };
    start.copy_within(TAG.., 0);
    if let Some(tag) = start.last_chunk_mut::<TAG>() {
        *tag = [kind, of_tag, high, low];
    }
    packet.set_tx_lengths(lengths);
    packet.set_offload(packet.offload() - Offload::TX_VLAN_INSERT);
    Ok(())
}

/// Makes the packet a copy of itself, from the same pool, so that nobody shares its bytes.
///
/// # Errors
/// [`OffloadError::NoMbuf`] when the pool has too few; the packet stays then.
pub(crate) fn own(packet: &mut Mbuf) -> Result<(), OffloadError> {
    let copy = packet.copy_into(|| packet.alloc_alike()).ok_or(OffloadError::NoMbuf)?;
    *packet = copy;
    Ok(())
}

/// The bytes of a packet that are in `range`, segment by segment.
fn pieces(packet: &Mbuf, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
    packet
        .segments()
        .scan(0, move |at, segment| {
            let here = *at;
            *at += segment.len();
            (here < range.end).then(|| {
                let (from, to) = (range.start.saturating_sub(here), segment.len().min(range.end - here));
                segment.get(from..to).unwrap_or_default()
            })
        })
        .filter(|piece| !piece.is_empty())
}

/// Adds pieces that follow each other to `sum`, the first of them `at` bytes behind where the sum began; returns
/// where the last one ends, too.
pub(super) fn sum_pieces<T: AsRef<[u8]>>(
    pieces: impl Iterator<Item = T>,
    sum: Sum,
    at: usize,
) -> (usize, Sum) {
    pieces.fold((at, sum), |(at, sum), piece| {
        let piece = piece.as_ref();
        (at + piece.len(), sum.piece(piece, at))
    })
}

#[cfg(test)]
mod tests;
