//! What a pcapng file says of an interface: its kind of link, and what its time stamps count.

use pcap_parser::InterfaceDescriptionBlock;
use pcap_parser::pcapng::OptionCode;

/// `LINKTYPE_ETHERNET`.
pub(super) const ETHERNET: u32 = 1;

const NANOSECONDS: u64 = 1_000_000_000;

/// An interface description.
#[derive(Debug)]
pub(super) struct Interface {
    /// The link type, by the numbers of the tcpdump group.
    pub link: u32,
    /// Bytes to which its frames were cut, if they were.
    pub snaplen: Option<u32>,
    /// Ticks of its clock in a second.
    per_second: u64,
    /// Nanoseconds in a tick, where that is a whole number.
    tick: Option<u64>,
    /// Nanoseconds to add.
    offset: i128,
}

impl Interface {
    /// Takes over what matters of a description block in a section of this byte order.
    ///
    /// The two time options are read here: pcap-parser 0.17 takes `if_tsoffset` for little-endian always, and
    /// refuses resolutions that are powers of two.
    pub(super) fn new(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Result<Self, String> {
        let (mut resolution, mut offset) = (6, 0);
        for option in &block.options {
            let value = option.as_bytes().unwrap_or_default();
            match option.code {
                OptionCode::EndOfOpt => break,
                OptionCode::IfTsresol => resolution = value.first().copied().unwrap_or(resolution),
                OptionCode::IfTsoffset => {
                    if let Some(bytes) = value.first_chunk() {
                        offset =
                            if big_endian { i64::from_be_bytes(*bytes) } else { i64::from_le_bytes(*bytes) };
                    }
                }
                _ => {}
            }
        }
        let exponent = u32::from(resolution & 0x7f);
        let base: u64 = if resolution & 0x80 == 0 { 10 } else { 2 };
        let Some(per_second) = base.checked_pow(exponent) else {
            return Err(format!("an interface whose clock ticks {base}^{exponent} times a second"));
        };
        Ok(Self {
            link: (block.linktype.0 & 0xffff).cast_unsigned(),
            snaplen: (block.snaplen > 0).then_some(block.snaplen),
            per_second,
            tick: NANOSECONDS.is_multiple_of(per_second).then(|| NANOSECONDS / per_second),
            offset: i128::from(offset) * i128::from(NANOSECONDS),
        })
    }

    /// Nanoseconds since 1970 at `ticks`; the nearest there is when that is before 1970 or after 2554.
    #[inline]
    pub(super) fn nanoseconds(&self, ticks: u64) -> u64 {
        if let Some(tick) = self.tick
            && self.offset == 0
        {
            return ticks.saturating_mul(tick);
        }
        let elapsed = u128::from(ticks) * u128::from(NANOSECONDS) / u128::from(self.per_second);
        // Below 2^94 and 2^93 in size, so the sum fits.
        (elapsed.cast_signed() + self.offset).clamp(0, i128::from(u64::MAX)) as u64
    }
}

/// ` (name)` for the link types that captures often have, else nothing.
pub(super) fn link_name(link: u32) -> &'static str {
    match link {
        0 => " (BSD loopback)",
        1 => " (Ethernet)",
        101 => " (raw IP)",
        105 => " (802.11)",
        113 => " (Linux cooked)",
        127 => " (802.11 radiotap)",
        189 | 220 => " (Linux USB)",
        276 => " (Linux cooked v2)",
        _ => "",
    }
}
