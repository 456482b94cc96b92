//! What the device does with a frame before it goes out (datasheet, 7.2.3.2.3 for contexts, 7.2.4 for segments, 7.2.5 for
//! checksums): tags, checksums of IP and L4, and packets that are cut into segments of TCP or UDP.

use super::packet::{CRC32C, Headers, L4, crc, finished, sum};

/// TUCMD in the second half of a context (7.2.3.2.3), whose other bits are for IPsec and FCoE.
const SNAP: u64 = 1 << 9;
const V4: u64 = 1 << 10;
const L4_SHIFT: u32 = 11;
/// Bits of both halves that mean something here; the rest is reserved, or for IPsec and FCoE.
const LOW: u64 = 0xffff_ffff;
const HIGH: u64 = 0xffff_ff10_20f0_0000 | SNAP | V4 | 3 << L4_SHIFT;

/// What a data descriptor asks for, in its second half (7.2.3.2.4).
const VLAN: u64 = 1 << 30;
const SEGMENT: u64 = 1 << 31;
const IP_SUM: u64 = 1 << 40;
const L4_SUM: u64 = 1 << 41;
/// A context is looked at although nothing is asked for.
const CHECK_CONTEXT: u64 = 1 << 39;
/// Reserved bits, and those for time stamps, LinkSec and IPsec.
const NOT_HAD: u64 = 0xf << 16 | 1 << 26 | 1 << 28 | 0xf << 32 | 6 << 36 | 0x3c << 40;
/// What a legacy one has of that (7.2.3.2.2).
const LEGACY_SUM: u64 = 1 << 26;
const LEGACY_NOT_HAD: u64 = 1 << 28 | 1 << 31 | 0xff << 32;

/// Where a tag goes.
const TAG_AT: usize = 12;
/// The most that MACLEN says, and the least.
const MAC_HEADER: std::ops::RangeInclusive<usize> = 14..=127;

/// A context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    tag: u16,
    /// MACLEN, IPLEN and L4LEN.
    mac: usize,
    ip: usize,
    l4: usize,
    mss: usize,
    v4: bool,
    kind: Option<L4>,
}

impl Context {
    /// A context descriptor's place and what it says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(low: u64, high: u64) -> Result<(usize, Self), &'static str> {
        if low & !LOW != 0 || high & !HIGH != 0 {
            return Err(
                "a context descriptor has EOP, RS, reserved bits, or asks for IPsec or FCoE (7.2.3.2.3)",
            );
        }
        let kind = match high >> L4_SHIFT & 3 {
            0 => Some(L4::Udp),
            1 => Some(L4::Tcp),
            2 => Some(L4::Sctp),
            _ => None,
        };
        let context = Self {
            tag: (low >> 16) as u16,
            mac: (low >> 9 & 0x7f) as usize,
            ip: (low & 0x1ff) as usize,
            l4: (high >> 40 & 0xff) as usize,
            mss: (high >> 48) as usize,
            v4: high & V4 != 0,
            kind,
        };
        Ok(((high >> 36 & 1) as usize, context))
    }

    /// Bytes of all headers.
    fn headers(&self) -> usize {
        self.mac + self.ip + self.l4
    }
}

/// What a frame's first descriptor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    tag: Option<u16>,
    segments: bool,
    ip: bool,
    l4: bool,
    context: Option<Context>,
    /// Where a legacy descriptor's checksum goes, and from where on it is.
    legacy: Option<(usize, usize)>,
    /// Bytes that PAYLEN says; none for legacy ones.
    expected: Option<usize>,
}

impl Asked {
    /// By the second half of an advanced data descriptor, with a queue's contexts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn advanced(word: u64, contexts: &[Option<Context>; 2]) -> Result<Self, &'static str> {
        if word & NOT_HAD != 0 {
            return Err(
                "it has STA or reserved bits, or asks for LinkSec, IPsec, or a time stamp (7.2.3.2.4)",
            );
        }
        let is = |bit| word & bit != 0;
        let mut asked = Self {
            tag: None,
            segments: is(SEGMENT),
            ip: is(IP_SUM),
            l4: is(L4_SUM),
            context: None,
            legacy: None,
            expected: Some((word >> 46) as usize),
        };
        if word & (VLAN | SEGMENT | IP_SUM | L4_SUM | CHECK_CONTEXT) == 0 {
            return Ok(asked);
        }
        let context = contexts[(word >> 36 & 1) as usize].ok_or("IDX is of a context that was not set up")?;
        asked.tag = is(VLAN).then_some(context.tag);
        asked.context = Some(context);
        asked.check(&context).map(|()| asked)
    }

    /// Whether a context is right for what is asked.
    fn check(&self, context: &Context) -> Result<(), &'static str> {
        if !(self.segments || self.ip || self.l4) {
            return Ok(());
        }
        if !MAC_HEADER.contains(&context.mac) {
            return Err("MACLEN is not 14 to 127 (7.2.3.2.3)");
        }
        // For L4's checksum alone the device needs no version, and Linux tells it none.
        let tells_version = self.segments || self.ip;
        if context.ip < if context.v4 || !tells_version { 20 } else { 40 } {
            return Err("IPLEN is shorter than the header of IP (7.2.3.2.3)");
        }
        if self.ip && !context.v4 {
            return Err("IXSM is set for IPv6, which has no checksum (7.2.3.2.4)");
        }
        if self.l4 && context.kind.is_none() {
            return Err("L4T is reserved (7.2.3.2.3)");
        }
        if !self.segments {
            return Ok(());
        }
        if !self.l4 || context.v4 && !self.ip {
            return Err("TSE is set without TXSM, or without IXSM for IPv4 (7.2.3.2.4)");
        }
        let least = match context.kind {
            Some(L4::Tcp) => 20,
            Some(L4::Udp) => 8,
            _ => return Err("TSE is set for what is neither TCP nor UDP (7.2.4)"),
        };
        if context.l4 < least {
            return Err("L4LEN is shorter than the header of TCP or UDP (7.2.3.2.3)");
        }
        (context.mss > 0).then_some(()).ok_or("TSE is set and MSS is 0 (7.2.3.2.3)")
    }

    /// By the second half of a legacy descriptor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn legacy(word: u64) -> Result<Self, &'static str> {
        if word & LEGACY_NOT_HAD != 0 {
            return Err("it has STA or reserved bits (7.2.3.2.2)");
        }
        Ok(Self {
            tag: (word & VLAN != 0).then_some((word >> 48) as u16),
            legacy: (word & LEGACY_SUM != 0)
                .then_some(((word >> 16 & 0xff) as usize, (word >> 40 & 0xff) as usize)),
            ..Self::default()
        })
    }

    /// Whether the data is cut into segments.
    pub(crate) fn segments(&self) -> bool {
        self.segments
    }

    /// The frames that go out for the data that was gathered. `masks` are those of TCP's flags in the first segment, those
    /// between, and the last (8.2.3.9.3, 8.2.3.9.4); `vlan` is the EtherType of tags.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub(crate) fn frames(
        &self,
        data: Vec<u8>,
        masks: [u16; 3],
        vlan: u16,
    ) -> Result<Vec<Vec<u8>>, &'static str> {
        let headers = self.context.filter(|_| self.segments).map_or(0, |context| context.headers());
        if self.expected.is_some_and(|expected| expected + headers != data.len()) {
            return Err(if self.segments {
                "PAYLEN is not what follows the headers of lengths MACLEN, IPLEN and L4LEN (7.2.3.2.4)"
            } else {
                "PAYLEN is not the frame's length (7.2.3.2.4)"
            });
        }
        let mut frames = match self.context {
            Some(context) if self.segments || self.ip || self.l4 => {
                context.compare(&data, self, vlan)?;
                if self.segments { context.cut(&data, masks) } else { vec![data] }
            }
            _ => vec![data],
        };
        for frame in &mut frames {
            self.finish(frame, vlan)?;
        }
        Ok(frames)
    }

    /// Puts checksums into a frame, and the tag.
    fn finish(&self, frame: &mut Vec<u8>, vlan: u16) -> Result<(), &'static str> {
        if let Some((at, start)) = self.legacy {
            if start >= frame.len() || at + 2 > frame.len() {
                return Err("CSO or CSS is past the frame's end (7.2.3.2.2)");
            }
            let sum = finished(sum(0, &frame[start..]));
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if let Some(context) = self.context {
            if self.ip {
                context.sum_ip(frame);
            }
            if self.l4 {
                context.sum_l4(frame, vlan)?;
            }
        }
        if let Some(tag) = self.tag.filter(|_| frame.len() >= TAG_AT) {
            let [[a, b], [c, d]] = [vlan, tag].map(u16::to_be_bytes);
            frame.splice(TAG_AT..TAG_AT, [a, b, c, d]);
        }
        Ok(())
    }
}

impl Context {
    /// Whether the data's headers are as the context says, where the device knows them.
    fn compare(&self, data: &[u8], asked: &Asked, vlan: u16) -> Result<(), &'static str> {
        let end = if asked.segments { self.headers() } else { self.mac + self.ip };
        if data.len() < end {
            return Err("the data is shorter than its headers (7.2.3.2.3)");
        }
        // A packet that is to be cut says another length than it has.
        let mut whole = data[..data.len().min(0x1_0000)].to_vec();
        if asked.segments {
            self.set_len(&mut whole);
        }
        let Some(ip) = Headers::of(&whole, vlan).ip else { return Ok(()) };
        let tells_version = asked.segments || asked.ip;
        if ip.at != self.mac || tells_version && ip.v6 == self.v4 {
            return Err("MACLEN or IPV4 is not as the frame is (7.2.3.2.3)");
        }
        if (!ip.v6 || ip.l4.is_some()) && ip.len != self.ip
            || asked.l4 && ip.l4.is_some() && ip.l4 != self.kind
        {
            return Err("IPLEN or L4T is not as the frame is (7.2.3.2.3)");
        }
        let tcp = asked.segments && ip.l4 == Some(L4::Tcp);
        if tcp && usize::from(whole[ip.l4_at() + 12] >> 4) * 4 != self.l4 {
            return Err("L4LEN is not as the frame is (7.2.3.2.3)");
        }
        Ok(())
    }

    /// Sets IP's length, and UDP's, to what is there.
    fn set_len(&self, frame: &mut [u8]) {
        let (at, total) = (self.mac, frame.len() - self.mac);
        let (place, len) = if self.v4 { (at + 2, total) } else { (at + 4, total - 40) };
        frame[place..place + 2].copy_from_slice(&(len as u16).to_be_bytes());
        if self.kind == Some(L4::Udp) {
            let place = self.mac + self.ip + 4;
            frame[place..place + 2].copy_from_slice(&((total - self.ip) as u16).to_be_bytes());
        }
    }

    /// Cuts data into segments, each with the headers in front (7.2.4.7). A single segment is taken for a last one, which the
    /// datasheet does not say.
    fn cut(&self, data: &[u8], [first, between, last]: [u16; 3]) -> Vec<Vec<u8>> {
        let (headers, payload) = data.split_at(self.headers());
        let (ip, l4) = (self.mac, self.mac + self.ip);
        let pieces: Vec<&[u8]> =
            if payload.is_empty() { vec![payload] } else { payload.chunks(self.mss).collect() };
        let count = pieces.len();
        let segment = |(index, piece): (usize, &[u8])| {
            let mut frame = headers.to_vec();
            frame.extend(piece);
            self.set_len(&mut frame);
            if self.v4 {
                let id = u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]).wrapping_add(index as u16);
                frame[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
            }
            if self.kind == Some(L4::Tcp) {
                let old = [frame[l4 + 4], frame[l4 + 5], frame[l4 + 6], frame[l4 + 7]];
                let sequence = u32::from_be_bytes(old).wrapping_add((index * self.mss) as u32);
                frame[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
                let mask = match index {
                    _ if index + 1 == count => last,
                    0 => first,
                    _ => between,
                };
                let flags = u16::from_be_bytes([frame[l4 + 12], frame[l4 + 13]]) & (mask | 0xf000);
                frame[l4 + 12..l4 + 14].copy_from_slice(&flags.to_be_bytes());
            }
            // L4's checksum has the pseudo header's sum without the length, which the device adds (7.2.5.2).
            let place = l4 + self.kind.map_or(0, L4::checksum_at);
            let without = u64::from(u16::from_be_bytes([frame[place], frame[place + 1]]));
            let with = !finished(without + (self.l4 + piece.len()) as u64);
            frame[place..place + 2].copy_from_slice(&with.to_be_bytes());
            frame
        };
        pieces.into_iter().enumerate().map(segment).collect()
    }

    /// IP's checksum, in place of whatever there is (7.2.5.1).
    fn sum_ip(&self, frame: &mut [u8]) {
        let (start, end) = (self.mac, self.mac + self.ip);
        frame[start + 10..start + 12].fill(0);
        let sum = finished(sum(0, &frame[start..end]));
        frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
    }

    /// L4's checksum, over what there is in its place: the pseudo header's sum is the driver's to put there (7.2.5.2).
    fn sum_l4(&self, frame: &mut [u8], vlan: u16) -> Result<(), &'static str> {
        let start = self.mac + self.ip;
        // What pads a frame is no part of a packet, but drivers hand over none.
        let (Some(kind), true) = (self.kind, frame.len() > start) else { return Ok(()) };
        let place = start + kind.checksum_at();
        if kind == L4::Sctp {
            let Some(4) = frame.get(place..place + 4).map(<[u8]>::len) else {
                return Err("the frame ends before its checksum of SCTP");
            };
            frame[place..place + 4].fill(0);
            let sum = crc(CRC32C, &frame[start..]);
            frame[place..place + 4].copy_from_slice(&sum.to_le_bytes());
            return Ok(());
        }
        if place + 2 > frame.len() {
            return Err("the frame ends before its checksum of L4");
        }
        let whole = finished(sum(0, &frame[start..]));
        // Zero means of UDP that there is no checksum (RFC 768).
        let whole = if kind == L4::Udp && whole == 0 { u16::MAX } else { whole };
        frame[place..place + 2].copy_from_slice(&whole.to_be_bytes());
        match Headers::of(frame, vlan).ip.and_then(|ip| ip.l4_is_right(frame)) {
            Some(false) => Err("the pseudo header's sum is not in the place of L4's checksum (7.2.5.2)"),
            _ => Ok(()),
        }
    }
}
