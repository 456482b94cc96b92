//! Capture files: written here byte by byte, read by a crate that the drivers do not write with.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// How a capture file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// pcap, microseconds, least significant byte first.
    Micro,
    /// pcap, nanoseconds, least significant byte first.
    Nano,
    /// pcap, microseconds, most significant byte first.
    MicroBigEndian,
    /// pcapng with nanoseconds, least significant byte first.
    Ng,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Micro, Self::Nano, Self::MicroBigEndian, Self::Ng];

    /// Bytes before the first frame.
    #[must_use]
    pub fn preamble(self) -> Vec<u8> {
        match self {
            Self::Micro => pcap_header(0xa1b2_c3d4, u32::to_le_bytes, u16::to_le_bytes),
            Self::Nano => pcap_header(0xa1b2_3c4d, u32::to_le_bytes, u16::to_le_bytes),
            Self::MicroBigEndian => pcap_header(0xa1b2_c3d4, u32::to_be_bytes, u16::to_be_bytes),
            Self::Ng => {
                let mut section = Vec::new();
                section.extend(0x1a2b_3c4d_u32.to_le_bytes());
                section.extend([1, 0, 0, 0]);
                section.extend([0xff; 8]);
                // Ethernet, no limit of length; option 9: stamps are in 10^-9 s.
                let interface = [1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
                [block(0x0a0d_0d0a, &section), block(1, &interface)].concat()
            }
        }
    }

    /// The bytes of a frame with its header, stamped `nanoseconds` after 1970.
    #[must_use]
    pub fn record(self, nanoseconds: u64, frame: &[u8]) -> Vec<u8> {
        let length = frame.len() as u32;
        let (seconds, rest) = ((nanoseconds / 1_000_000_000) as u32, (nanoseconds % 1_000_000_000) as u32);
        let words = |fraction: u32, bytes: fn(u32) -> [u8; 4]| {
            [bytes(seconds), bytes(fraction), bytes(length), bytes(length)].concat()
        };
        let header = match self {
            Self::Micro => words(rest / 1000, u32::to_le_bytes),
            Self::Nano => words(rest, u32::to_le_bytes),
            Self::MicroBigEndian => words(rest / 1000, u32::to_be_bytes),
            Self::Ng => {
                let mut body = vec![0; 4];
                body.extend(((nanoseconds >> 32) as u32).to_le_bytes());
                body.extend((nanoseconds as u32).to_le_bytes());
                body.extend(length.to_le_bytes());
                body.extend(length.to_le_bytes());
                body.extend(frame);
                body.resize(body.len().next_multiple_of(4), 0);
                return block(6, &body);
            }
        };
        [&header, frame].concat()
    }

    /// Nanoseconds that it can tell apart.
    #[must_use]
    pub const fn resolution(self) -> u64 {
        match self {
            Self::Micro | Self::MicroBigEndian => 1000,
            Self::Nano | Self::Ng => 1,
        }
    }
}

/// The header of a pcap file: version 2.4, frames of up to 262,144 bytes, Ethernet.
fn pcap_header(magic: u32, four: fn(u32) -> [u8; 4], two: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mut header = four(magic).to_vec();
    header.extend(two(2));
    header.extend(two(4));
    header.extend([0; 8]);
    header.extend(four(262_144));
    header.extend(four(1));
    header
}

/// A block of a pcapng file.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}

/// When the frame number `index` of a written file was seen: some odd 1.2 µs after the one before.
#[must_use]
pub const fn stamp(index: usize) -> u64 {
    1_700_000_000_123_456_789 + index as u64 * 1_234
}

/// Writes `frames` to a file at `path`; the stamps are those of [`stamp`].
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, format: Format, frames: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut file = BufWriter::new(file);
    file.write_all(&format.preamble())?;
    for (index, frame) in frames.into_iter().enumerate() {
        file.write_all(&format.record(stamp(index), frame.as_ref()))?;
    }
    file.flush().with_context(|| format!("writing {}", path.display()))
}

/// A frame out of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When it was seen, in nanoseconds after 1970.
    pub nanoseconds: u64,
    /// What was captured of it.
    pub bytes: Vec<u8>,
    /// How long it was.
    pub original_length: usize,
}

/// Reads all frames of the pcap or pcapng file at `path`.
///
/// # Errors
/// When it is neither, is of no Ethernet, or is damaged or cut anywhere.
pub fn read(path: &Path) -> Result<Vec<Packet>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut reader = match create_reader(1 << 20, file) {
        Ok(reader) => reader,
        Err(error) => bail!("{} is no capture file: {error:?}", path.display()),
    };
    let mut packets = Vec::new();
    // Nanoseconds in one unit of the stamps.
    let mut unit = 1000;
    loop {
        match reader.next() {
            Ok((used, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        ethernet(header.network)?;
                        unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
                    }
                    PcapBlockOwned::Legacy(record) => packets.push(Packet {
                        nanoseconds: u64::from(record.ts_sec) * 1_000_000_000
                            + u64::from(record.ts_usec) * unit,
                        bytes: record.data.get(..record.caplen as usize).context("a short record")?.to_vec(),
                        original_length: record.origlen as usize,
                    }),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        ethernet(interface.linktype)?;
                        let per_second = interface.ts_resolution().context("an odd resolution")?;
                        unit = 1_000_000_000 / per_second;
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => packets.push(Packet {
                        nanoseconds: (u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low)) * unit,
                        bytes: packet.data.get(..packet.caplen as usize).context("a short block")?.to_vec(),
                        original_length: packet.origlen as usize,
                    }),
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(packets),
            Err(PcapError::Incomplete(_)) => {
                if let Err(error) = reader.refill() {
                    bail!("reading {}: {error:?}", path.display());
                }
            }
            Err(error) => {
                let shown = error.to_string();
                bail!("{} is damaged after frame {}: {shown}", path.display(), packets.len());
            }
        }
    }
}

fn ethernet(link: Linktype) -> Result<()> {
    anyhow::ensure!(link == Linktype::ETHERNET, "{link:?} where Ethernet was expected");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frames, scratch};

    #[test]
    fn what_is_written_is_read() {
        let folder = scratch::directory("capture").unwrap();
        let path = folder.path().join("file");
        let sent: Vec<_> = frames::mixed(3000, 7).collect();
        for format in Format::ALL {
            write(&path, format, &sent).unwrap();
            let read = read(&path).unwrap();
            assert_eq!(read.len(), sent.len(), "{format:?}");
            for (index, (packet, frame)) in read.iter().zip(&sent).enumerate() {
                assert_eq!(&packet.bytes, frame, "{format:?} {index}");
                assert_eq!(packet.original_length, frame.len());
                let lost = stamp(index) % format.resolution();
                assert_eq!(packet.nanoseconds, stamp(index) - lost, "{format:?} {index}");
            }
        }
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let folder = scratch::directory("capture").unwrap();
        let path = folder.path().join("file");
        for format in Format::ALL {
            write(&path, format, frames::mixed(3, 7)).unwrap();
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
            assert!(read(&path).is_err(), "{format:?}");
        }
    }
}
