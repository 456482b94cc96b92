//! What the device does with packets, and tells of them: words of descriptors, and the packets' own flags (datasheet 7.1.6.2,
//! 7.2.3.2.3, 7.2.4, 7.2.5).

use crate::net::complete::{OffloadError, own};
use crate::net::transport::parse_lengths;
use crate::packet::{Mbuf, Offload};

/// What a queue leaves to the device, if the application lets it.
pub(super) const SENDING: Offload = Offload::TX_ALL;

/// What a received packet's descriptor can tell.
pub(super) const RECEIVING: Offload = Offload::RX_RSS_HASH
    .union(Offload::RX_IP_CHECKSUM_GOOD)
    .union(Offload::RX_IP_CHECKSUM_BAD)
    .union(Offload::RX_L4_CHECKSUM_GOOD)
    .union(Offload::RX_L4_CHECKSUM_BAD)
    .union(Offload::RX_VLAN_STRIPPED);

/// Bits of a received descriptor's second word: UDP's checksum, L4's and IP's were looked at; L4's and IP's are wrong.
const UDP_SEEN: usize = 1 << 0;
const L4_SEEN: usize = 1 << 1;
const IP_SEEN: usize = 1 << 2;
const L4_WRONG: usize = 1 << 3;
const IP_WRONG: usize = 1 << 4;
const SEEN_SHIFT: u32 = 4;
const WRONG_SHIFT: u32 = 30;

/// The flags for all of those.
const CHECKSUMS: [u32; 32] = {
    let mut table = [0; 32];
    let mut at = 0;
    while at < table.len() {
        if at & IP_SEEN != 0 {
            let wrong = at & IP_WRONG != 0;
            let flag = if wrong { Offload::RX_IP_CHECKSUM_BAD } else { Offload::RX_IP_CHECKSUM_GOOD };
            table[at] |= flag.bits();
        }
        if at & L4_SEEN != 0 {
            if at & L4_WRONG == 0 {
                table[at] |= Offload::RX_L4_CHECKSUM_GOOD.bits();
            } else if at & UDP_SEEN == 0 {
                table[at] |= Offload::RX_L4_CHECKSUM_BAD.bits();
            }
            // An 82599 calls UDP's checksum wrong also where there is none, as Linux's and DPDK's drivers know: nothing is known.
        }
        at += 1;
    }
    table
};

/// The flags for what the second word of a received descriptor says of checksums.
#[inline(always)]
pub(super) fn checksum_flags(word: u64) -> u32 {
    let index = word >> SEEN_SHIFT & 7 | (word >> WRONG_SHIFT & 3) << 3;
    // Five bits.
    CHECKSUMS.get(index as usize).copied().unwrap_or(0)
}

/// Bits of a data descriptor's second word (7.2.3.2.4).
const VLAN: u64 = 1 << 30;
const SEGMENT: u64 = 1 << 31;
const CONTEXT_SHIFT: u32 = 36;
const CHECK_CONTEXT: u64 = 1 << 39;
const IP_SUM: u64 = 1 << 40;
const L4_SUM: u64 = 1 << 41;
/// Of a context descriptor's (7.2.3.2.3): its type, IPv4, TCP, and where fields begin.
const CONTEXT: u64 = 2 << 20 | 1 << 29;
const V4: u64 = 1 << 10;
const TCP: u64 = 1 << 11;
const L4_LEN_SHIFT: u32 = 40;
const MSS_SHIFT: u32 = 48;
/// Of its first word.
const MAC_LEN_SHIFT: u32 = 9;
const TAG_SHIFT: u32 = 16;
/// The most that fields hold.
const MOST_MAC_LEN: u8 = 127;
const MOST_IP_LEN: u16 = 511;
/// A link header without tags.
const PLAIN_MAC_LEN: u8 = 14;
/// The most payload that is cut (PAYLEN has 18 bits).
const MOST_CUT: usize = (1 << 18) - 1;

/// What a packet asks the device for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// The context descriptor that it needs, without its number.
    pub(super) context: [u64; 2],
    /// Bits of its data descriptors, without the context's number.
    bits: u64,
    /// Bytes of headers that PAYLEN does not count, as the packet is cut behind them.
    pub(super) headers: usize,
    /// Bytes of the longest frame that comes of it; 0 unless it is cut.
    pub(super) segment: usize,
    /// Where IP's header begins, if it is IPv4 whose checksum is computed.
    ip_at: Option<usize>,
    /// Where TCP's checksum is, if its pseudo header is to lose its length, and that length.
    tcp_at: Option<(usize, usize)>,
}

impl Asked {
    /// What `packet` asks for; nothing, if it asks for nothing.
    ///
    /// # Errors
    /// [`OffloadError::BadHeader`] when it has not the headers for that.
    pub(super) fn of(packet: &Mbuf) -> Result<Option<Self>, OffloadError> {
        let flags = packet.offload() & Offload::TX_ALL;
        if flags.is_empty() {
            return Ok(None);
        }
        let mut asked = Self {
            context: [0, CONTEXT],
            bits: CHECK_CONTEXT,
            headers: 0,
            segment: 0,
            ip_at: None,
            tcp_at: None,
        };
        let mut mac_len = PLAIN_MAC_LEN;
        if flags != Offload::TX_VLAN_INSERT {
            mac_len = asked.sums(packet, flags).ok_or(OffloadError::BadHeader)?;
        }
        asked.context[0] |= u64::from(mac_len) << MAC_LEN_SHIFT;
        if flags.contains(Offload::TX_VLAN_INSERT) {
            asked.bits |= VLAN;
            asked.context[0] |= u64::from(packet.vlan_tci()) << TAG_SHIFT;
        }
        Ok(Some(asked))
    }

    /// Adds checksums and segments; the length of the link header. None when the headers are not there.
    fn sums(&mut self, packet: &Mbuf, flags: Offload) -> Option<u8> {
        let mut lengths = packet.tx_lengths();
        if lengths.l2 == 0 || lengths.l3 == 0 {
            let segment = lengths.tso_segment;
            lengths = parse_lengths(packet)?.lengths;
            lengths.tso_segment = segment;
        }
        let (ip_at, ip_len) = (usize::from(lengths.l2), usize::from(lengths.l3));
        let l4_at = ip_at + ip_len;
        let mut version = [0];
        let v4 = match packet.read(ip_at, 1, &mut version)?.first()? >> 4 {
            4 => true,
            6 => false,
            _ => return None,
        };
        if !v4 && flags.contains(Offload::TX_IP_CHECKSUM) {
            // It has none.
            return None;
        }
        let fits = (PLAIN_MAC_LEN..=MOST_MAC_LEN).contains(&lengths.l2)
            && (if v4 { 20 } else { 40 }..=MOST_IP_LEN).contains(&lengths.l3)
            && l4_at <= packet.len();
        if !fits {
            return None;
        }
        self.context[0] |= u64::from(lengths.l3);
        let cuts = flags.contains(Offload::TX_TCP_SEGMENTATION);
        let (tcp, udp) =
            (cuts || flags.contains(Offload::TX_TCP_CHECKSUM), flags.contains(Offload::TX_UDP_CHECKSUM));
        if tcp && udp || (tcp || udp) && packet.len() < l4_at + if tcp { 20 } else { 8 } {
            return None;
        }
        if tcp || udp {
            self.bits |= L4_SUM;
            self.context[1] |= if tcp { TCP } else { 0 };
        }
        if v4 {
            self.context[1] |= V4;
        }
        if v4 && (cuts || flags.contains(Offload::TX_IP_CHECKSUM)) {
            self.bits |= IP_SUM;
            self.ip_at = Some(ip_at);
        }
        let (headers, mss) = (l4_at + usize::from(lengths.l4), usize::from(lengths.tso_segment));
        if !cuts {
            return Some(lengths.l2);
        }
        if mss == 0 || lengths.l4 < 20 || headers > packet.len() || packet.len() - headers > MOST_CUT {
            return None;
        }
        if packet.len() == headers {
            // There is nothing to cut.
            return Some(lengths.l2);
        }
        self.bits |= SEGMENT;
        self.context[1] |= u64::from(lengths.l4) << L4_LEN_SHIFT | (mss as u64) << MSS_SHIFT;
        (self.headers, self.segment) = (headers, headers + mss);
        self.tcp_at = Some((l4_at + 16, packet.len() - l4_at));
        Some(lengths.l2)
    }

    /// Bits for data descriptors that go by the context of this number.
    pub(super) fn bits(&self, context: usize) -> u64 {
        self.bits | (context as u64) << CONTEXT_SHIFT
    }

    /// The context descriptor with this number.
    pub(super) fn numbered(&self, context: usize) -> [u64; 2] {
        [self.context[0], self.context[1] | (context as u64) << CONTEXT_SHIFT]
    }

    /// Makes the packet one whose bytes may be changed, and whose headers are in its first segment if it is cut.
    ///
    /// # Errors
    /// [`OffloadError::NoMbuf`] when it has to be copied, and there is no room for that.
    pub(super) fn make_ready(&self, packet: &mut Mbuf) -> Result<(), OffloadError> {
        let writes =
            |at: Option<usize>, len, packet: &mut Mbuf| at.is_none_or(|at| packet.is_writable_at(at, len));
        let is_ready = writes(self.ip_at.map(|at| at + 10), 2, packet)
            && writes(self.tcp_at.map(|(at, _)| at), 2, packet)
            && packet.data().len() >= self.headers;
        if is_ready { Ok(()) } else { own(packet) }
    }

    /// Changes what is in a packet's checksum fields to what the device expects there. To be called once: the packet is handed
    /// over then. False when it is not ready.
    #[must_use]
    pub(super) fn finish(&self, packet: &mut Mbuf) -> bool {
        if self.ip_at.is_some_and(|at| !packet.write(at + 10, &[0; 2])) {
            return false;
        }
        let Some((at, len)) = self.tcp_at else { return true };
        let mut scratch = [0; 2];
        let Some(&[high, low]) = packet.read(at, 2, &mut scratch) else { return false };
        // The sum of the pseudo header has the length in it, and the device adds that of each segment (7.2.5.2).
        let len = (len as u32 & 0xffff) + (len as u32 >> 16);
        let without = u32::from(u16::from_be_bytes([high, low])) + (0xffff - len % 0xffff);
        let folded = (without & 0xffff) + (without >> 16);
        packet.write(at, &(folded as u16).to_be_bytes())
    }
}

/// The two contexts that a queue of the device keeps (7.2.3.2.3).
#[derive(Debug, Default)]
pub(super) struct Contexts {
    kept: [Option<[u64; 2]>; 2],
    newest: usize,
}

impl Contexts {
    /// The number of the one that `asked` needs; and whether it has to be given to the device first.
    pub(super) fn find(&self, asked: &Asked) -> (usize, bool) {
        match self.kept.iter().position(|kept| *kept == Some(asked.context)) {
            Some(number) => (number, false),
            None => (1 - self.newest, true),
        }
    }

    /// Notes that it was used.
    pub(super) fn used(&mut self, number: usize, asked: &Asked) {
        if let Some(kept) = self.kept.get_mut(number) {
            *kept = Some(asked.context);
            self.newest = number;
        }
    }
}

#[cfg(test)]
mod tests;
