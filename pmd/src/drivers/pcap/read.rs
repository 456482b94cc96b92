//! Reads captures: pcap with micro- or nanosecond stamps, and pcapng, in either byte order.
//!
//! A capture is not trusted: whatever its bytes are, reading ends with a record, the end, or one error, and
//! allocates no more than [`MAX_BLOCK`] and the table of a pcapng section's interfaces. The formats are those
//! of draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng; `pcap-parser` takes records and blocks apart, once
//! they have been framed here.

use std::io::{self, Read};

use pcap_parser::{Block, LegacyPcapBlock, parse_block_be, parse_block_le};
use thiserror::Error;

use super::interface::{ETHERNET, Interface, link_name};

/// The most bytes that a captured frame may have: libpcap's own limit for Ethernet (`MAXIMUM_SNAPLEN`).
pub const MAX_FRAME: usize = 262_144;

/// The longest pcapng block that is looked into: a frame and generous options. Others are skipped, however
/// long.
const MAX_BLOCK: usize = 1 << 20;

/// The most interfaces that one pcapng section may describe.
const MAX_INTERFACES: usize = 1 << 16;

/// Bytes asked of the source at a time.
const CHUNK: usize = 256 << 10;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Why a capture cannot be read, or not any further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// There is not even a header.
    #[error("is empty: a capture has at least a header")]
    Empty,
    /// It starts like no capture.
    #[error("is no pcap or pcapng capture: it starts with {0:02x?}")]
    NotACapture([u8; 4]),
    /// Its packets are not Ethernet frames.
    #[error("packet {packet} has link type {found}{}, and only Ethernet (1) can be received", link_name(*.found))]
    LinkType {
        /// The packet's number, from 1.
        packet: u64,
        /// What it is, by the numbers of the tcpdump group.
        found: u32,
    },
    /// It ends where it should go on.
    #[error("ends in the middle of packet {packet}")]
    Truncated {
        /// The packet's number, from 1.
        packet: u64,
    },
    /// What is written there cannot be.
    #[error("is damaged at packet {packet}: {problem}")]
    Damaged {
        /// The packet's number, from 1.
        packet: u64,
        /// What is wrong.
        problem: String,
    },
    /// The source could not be read.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
}

/// A captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, in nanoseconds since 1970; none where the file does not say.
    pub timestamp: Option<u64>,
    /// Bytes that it had on the wire; more than `data` when the capture cut it.
    pub original_len: u32,
    /// The bytes that were captured, at most [`MAX_FRAME`].
    pub data: &'a [u8],
}

/// A reader of captures.
#[derive(Debug)]
pub struct CaptureReader<R> {
    input: Input<R>,
    format: Format,
    /// What `peek` found and `advance` has not taken.
    waiting: Option<Found>,
    taken: u64,
    /// Damage that was found before anybody asked.
    early: Option<CaptureError>,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(Legacy),
    PcapNg(Section),
}

/// What a pcap file's header says of its records.
#[derive(Debug, Clone, Copy)]
struct Legacy {
    big_endian: bool,
    /// Kuznetzov's variant, whose record headers have eight bytes more.
    modified: bool,
    nanoseconds: bool,
    link: u32,
}

/// What holds in the current section of a pcapng file.
#[derive(Debug, Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

/// A record in the buffer: where its data is from the buffer's start on, and bytes to its end.
#[derive(Debug, Clone, Copy)]
struct Found {
    timestamp: Option<u64>,
    original_len: u32,
    data_at: usize,
    data_len: usize,
    total: usize,
}

impl<R: Read> CaptureReader<R> {
    /// Reads the header and looks at the first record.
    ///
    /// # Errors
    /// [`CaptureError`] when `source` is no capture, or its first packet is no Ethernet frame. Damage after the
    /// header is not reported here but by [`peek`](Self::peek).
    pub fn new(source: R) -> Result<Self, CaptureError> {
        let mut input = Input { source, buffer: vec![0; CHUNK], start: 0, end: 0, exhausted: false };
        if !input.need(4)? {
            return Err(if input.bytes().is_empty() {
                CaptureError::Empty
            } else {
                CaptureError::Truncated { packet: 1 }
            });
        }
        let mut magic = [0; 4];
        magic.copy_from_slice(input.front(4));
        let format = if u32::from_le_bytes(magic) == SECTION_HEADER {
            Format::PcapNg(Section::default())
        } else {
            // The header is 24 bytes; what is no capture may be shorter and is told by its magic number.
            let whole = input.need(24)?;
            let header = match pcap_parser::parse_pcap_header(input.bytes()) {
                Ok((_, header)) => header,
                Err(pcap_parser::nom::Err::Incomplete(_)) if !whole => {
                    return Err(CaptureError::Truncated { packet: 1 });
                }
                Err(_) => return Err(CaptureError::NotACapture(magic)),
            };
            input.start += 24;
            Format::Pcap(Legacy {
                big_endian: header.is_bigendian(),
                modified: header.is_modified_format(),
                nanoseconds: header.is_nanosecond_precision(),
                // The upper bits say whether frames carry a check sequence.
                link: (header.network.0 & 0xffff).cast_unsigned(),
            })
        };
        let mut reader = Self { input, format, waiting: None, taken: 0, early: None, ended: false };
        if let Format::Pcap(Legacy { link, .. }) = reader.format
            && link != ETHERNET
        {
            return Err(CaptureError::LinkType { packet: 1, found: link });
        }
        match reader.find() {
            Ok(found) => reader.waiting = found,
            Err(error @ (CaptureError::LinkType { .. } | CaptureError::NotACapture(_))) => return Err(error),
            Err(error) => reader.early = Some(error),
        }
        Ok(reader)
    }

    /// The next record, which stays the next until [`advance`](Self::advance); none at the end.
    ///
    /// # Errors
    /// [`CaptureError`] says what is wrong with the file, once; after that it is at its end.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        if self.waiting.is_none() && !self.ended {
            let found = self.early.take().map_or_else(|| self.find(), Err);
            self.ended = !matches!(found, Ok(Some(_)));
            self.waiting = found?;
        }
        Ok(self.waiting.map(|found| {
            let bytes = self.input.bytes();
            let data = bytes.get(found.data_at..found.data_at + found.data_len).unwrap_or_default();
            Record { timestamp: found.timestamp, original_len: found.original_len, data }
        }))
    }

    /// Goes on to the record after the one that [`peek`](Self::peek) showed.
    #[inline]
    pub fn advance(&mut self) {
        if let Some(found) = self.waiting.take() {
            self.input.start += found.total;
            self.taken += 1;
        }
    }

    /// Records that were gone past.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    #[cfg(test)]
    pub(super) fn buffer_len(&self) -> usize {
        self.input.buffer.len()
    }

    #[inline]
    fn find(&mut self) -> Result<Option<Found>, CaptureError> {
        let place = Place { packet: self.taken + 1 };
        match &mut self.format {
            Format::Pcap(legacy) => legacy.find(&mut self.input, place),
            Format::PcapNg(section) => section.find(&mut self.input, place),
        }
    }
}

/// Which packet an error is at.
#[derive(Clone, Copy)]
struct Place {
    packet: u64,
}

impl Place {
    fn truncated(self) -> CaptureError {
        CaptureError::Truncated { packet: self.packet }
    }

    fn damaged(self, problem: impl Into<String>) -> CaptureError {
        CaptureError::Damaged { packet: self.packet, problem: problem.into() }
    }

    fn frame_len(self, len: u32) -> Result<usize, CaptureError> {
        let len = len as usize;
        if len > MAX_FRAME {
            return Err(self.damaged(format!("a frame of {len} bytes, where {MAX_FRAME} are the most")));
        }
        Ok(len)
    }
}

impl Legacy {
    #[inline]
    fn find<R: Read>(self, input: &mut Input<R>, place: Place) -> Result<Option<Found>, CaptureError> {
        let head = if self.modified { 24 } else { 16 };
        if !input.need(head)? {
            return if input.bytes().is_empty() { Ok(None) } else { Err(place.truncated()) };
        }
        let data_len = place.frame_len(word(input.front(head), 8, self.big_endian))?;
        let total = head + data_len;
        if !input.need(total)? {
            return Err(place.truncated());
        }
        let record = input.front(total);
        let parsed = match (self.modified, self.big_endian) {
            (true, _) => pcap_parser::parse_pcap_frame_modified(record),
            (false, true) => pcap_parser::parse_pcap_frame_be(record),
            (false, false) => pcap_parser::parse_pcap_frame(record),
        };
        let Ok((_, LegacyPcapBlock { ts_sec, ts_usec, origlen, .. })) = parsed else {
            return Err(place.damaged("no record"));
        };
        // At most (2^32 - 1) * (10^9 + 1000), which is below 2^63.
        let unit = if self.nanoseconds { 1 } else { 1000 };
        let timestamp = u64::from(ts_sec) * 1_000_000_000 + u64::from(ts_usec) * unit;
        Ok(Some(Found { timestamp: Some(timestamp), original_len: origlen, data_at: head, data_len, total }))
    }
}

impl Section {
    /// Works through blocks up to the next packet.
    fn find<R: Read>(&mut self, input: &mut Input<R>, place: Place) -> Result<Option<Found>, CaptureError> {
        loop {
            if !input.need(12)? {
                return if input.bytes().is_empty() { Ok(None) } else { Err(place.truncated()) };
            }
            let head = input.front(12);
            let kind = word(head, 0, self.big_endian);
            if kind == SECTION_HEADER {
                self.big_endian = match word(head, 8, true) {
                    0x1a2b_3c4d => true,
                    0x4d3c_2b1a => false,
                    _ => return Err(place.damaged("a section header without byte order")),
                };
            }
            let total = word(head, 4, self.big_endian) as usize;
            if total < 12 || !total.is_multiple_of(4) {
                return Err(place.damaged(format!("a block of {total} bytes")));
            }
            match kind {
                SECTION_HEADER | INTERFACE_DESCRIPTION | SIMPLE_PACKET | ENHANCED_PACKET => {
                    if total > MAX_BLOCK {
                        return Err(place.damaged(format!("a block of {total} bytes")));
                    }
                    if !input.need(total)? {
                        return Err(place.truncated());
                    }
                    if let Some(found) = self.take(input.front(total), place)? {
                        return Ok(Some(found));
                    }
                    input.start += total;
                }
                OBSOLETE_PACKET => {
                    let problem =
                        "a packet block of before 2009; editcap (of Wireshark) writes such files anew";
                    return Err(place.damaged(problem));
                }
                _ if !input.skip(total)? => return Err(place.truncated()),
                _ => {}
            }
        }
    }

    /// Takes in one whole block, which may be a packet.
    fn take(&mut self, block: &[u8], place: Place) -> Result<Option<Found>, CaptureError> {
        if block.last_chunk::<4>() != block.get(4..8).and_then(<[u8]>::first_chunk) {
            return Err(place.damaged("a block whose two lengths differ"));
        }
        // The block is whole, so a parser that wants more bytes was lied to by a length inside it.
        let parsed = if self.big_endian { parse_block_be(block) } else { parse_block_le(block) };
        let Ok((_, parsed)) = parsed else {
            return Err(place.damaged("a block whose contents do not fit in it"));
        };
        match parsed {
            Block::SectionHeader(header) if header.major_version == 1 => self.interfaces.clear(),
            Block::SectionHeader(header) => {
                let version = header.major_version;
                return Err(place.damaged(format!("pcapng version {version}, and only 1 is known")));
            }
            Block::InterfaceDescription(_) if self.interfaces.len() == MAX_INTERFACES => {
                return Err(place.damaged(format!("over {MAX_INTERFACES} interfaces")));
            }
            Block::InterfaceDescription(description) => {
                let interface = Interface::new(&description, self.big_endian);
                self.interfaces.push(interface.map_err(|problem| place.damaged(problem))?);
            }
            Block::EnhancedPacket(packet) => {
                let interface = self.interface(packet.if_id, place)?;
                let data_len = place.frame_len(packet.caplen)?;
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                return Ok(Some(Found {
                    timestamp: Some(interface.nanoseconds(ticks)),
                    original_len: packet.origlen,
                    data_at: 28,
                    data_len,
                    total: block.len(),
                }));
            }
            Block::SimplePacket(packet) => {
                // Its length is not in it: it is what the interface's limit leaves of the original.
                let limit = self.interface(0, place)?.snaplen.unwrap_or(u32::MAX);
                let data_len = (packet.origlen.min(limit) as usize).min(packet.data.len());
                place.frame_len(data_len as u32)?;
                return Ok(Some(Found {
                    timestamp: None,
                    original_len: packet.origlen,
                    data_at: 12,
                    data_len,
                    total: block.len(),
                }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn interface(&self, index: u32, place: Place) -> Result<&Interface, CaptureError> {
        match self.interfaces.get(index as usize) {
            Some(interface) if interface.link == ETHERNET => Ok(interface),
            Some(interface) => Err(CaptureError::LinkType { packet: place.packet, found: interface.link }),
            None => Err(place.damaged(format!("it came in by interface {index}, which is not described"))),
        }
    }
}

/// The 32-bit number at `at`; 0 where there is none.
#[inline]
fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let Some(bytes) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return 0 };
    if big_endian { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) }
}

/// A source and the bytes of it that were read and not yet used.
#[derive(Debug)]
struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    exhausted: bool,
}

impl<R: Read> Input<R> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The first `count` bytes, or as many as were read.
    #[inline]
    fn front(&self, count: usize) -> &[u8] {
        let bytes = self.bytes();
        bytes.get(..count).unwrap_or(bytes)
    }

    /// Reads on until `count` bytes are there; false when the source ends before.
    #[inline]
    fn need(&mut self, count: usize) -> Result<bool, CaptureError> {
        if self.end - self.start >= count { Ok(true) } else { self.read_on(count) }
    }

    #[cold]
    fn read_on(&mut self, count: usize) -> Result<bool, CaptureError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if count > self.buffer.len() {
            self.buffer.resize(count.next_multiple_of(CHUNK), 0);
        }
        while self.end < count && !self.exhausted {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.exhausted = true,
                // A source that says it read more than there was room for is not believed.
                Ok(read) => self.end = (self.end + read).min(self.buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::Io(error)),
            }
        }
        Ok(self.end >= count)
    }

    /// Passes over `count` bytes; false when the source ends before.
    fn skip(&mut self, mut count: usize) -> Result<bool, CaptureError> {
        while count > 0 {
            if !self.need(1)? {
                return Ok(false);
            }
            let passed = count.min(self.end - self.start);
            self.start += passed;
            count -= passed;
        }
        Ok(true)
    }
}
