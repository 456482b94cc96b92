//! What a header says of a packet, as the packet's own flags, and back.

use super::features::Features;
use super::net_header::NetHeader;
use crate::packet::Mbuf;

/// Notes what `header` says of a received packet; false when it cannot be.
pub(crate) fn note(_packet: &mut Mbuf, _header: NetHeader) -> bool {
    true
}

/// The header of a packet for a peer that agreed to `features`; none when the packet's flags cannot be.
pub(crate) fn header_for(_packet: &Mbuf, _features: Features) -> Option<NetHeader> {
    Some(NetHeader::default())
}
