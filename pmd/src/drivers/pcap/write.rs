//! Writes captures: pcap and pcapng, with nanosecond stamps and Ethernet frames.

use std::io::{self, Write};
use std::path::Path;

use thiserror::Error;

use super::read::MAX_FRAME;

/// Bytes that are gathered before they are written out.
const CHUNK: usize = 256 << 10;

/// Bytes around the frame in the longer of the two formats: an enhanced packet block's 32, and padding.
const OVERHEAD: usize = 32 + 3;

/// What kind of capture is written. Both are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureFormat {
    /// pcap with nanosecond stamps (magic number `0xa1b23c4d`).
    Pcap,
    /// pcapng: one section with one interface whose clock counts nanoseconds.
    PcapNg,
}

impl CaptureFormat {
    /// pcapng for names that end in `.pcapng` or `.ntar`, else pcap.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("pcapng" | "ntar") => Self::PcapNg,
            _ => Self::Pcap,
        }
    }

    pub(super) fn header(self, snaplen: u32) -> Vec<u8> {
        let mut header = Vec::with_capacity(64);
        let mut words = |words: &[u32]| words.iter().for_each(|word| header.extend(word.to_le_bytes()));
        match self {
            Self::Pcap => words(&[0xa1b2_3c4d, 4 << 16 | 2, 0, 0, snaplen, 1]),
            Self::PcapNg => {
                // A section of version 1.0 whose length is not told.
                words(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
                // An Ethernet interface, with if_tsresol (option 9, one byte) = 9 and the end of options.
                words(&[1, 32, 1, snaplen, 1 << 16 | 9, 9, 0, 32]);
            }
        }
        header
    }

    /// Bytes of the record at the front of `records`.
    fn record_len(self, records: &[u8]) -> Option<usize> {
        let word = |at: usize| {
            let bytes = records.get(at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes) as usize)
        };
        match self {
            Self::Pcap => word(8).map(|captured| 16 + captured),
            Self::PcapNg => word(4),
        }
    }
}

/// A capture could not be written any further.
#[derive(Debug, Error)]
#[error("{source}")]
pub struct WriteError {
    /// What the system said.
    pub source: io::Error,
    /// Frames that were accepted and did not get into the file.
    pub lost: u64,
    /// Bytes of the file that hold whole records; cut there, it is a whole capture.
    pub whole: u64,
}

/// A writer of captures.
///
/// Frames are gathered and written out in large pieces; [`flush`](Self::flush), or dropping the writer, writes
/// out the rest.
#[derive(Debug)]
pub struct CaptureWriter<W: Write> {
    sink: W,
    format: CaptureFormat,
    snaplen: usize,
    /// Whole records.
    gathered: Vec<u8>,
    /// Bytes in the sink.
    written: u64,
    failed: bool,
}

impl<W: Write> CaptureWriter<W> {
    /// Starts a capture with a header. Of longer frames than `snaplen`, only that many bytes are written;
    /// more than [`MAX_FRAME`] are never.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn new(mut sink: W, format: CaptureFormat, snaplen: usize) -> io::Result<Self> {
        let snaplen = snaplen.clamp(1, MAX_FRAME);
        let header = format.header(snaplen as u32);
        sink.write_all(&header)?;
        Ok(Self::resume(sink, format, snaplen, header.len() as u64))
    }

    /// Goes on with a capture of the same format and `snaplen`, which has `len` bytes and where `sink` writes
    /// to the end of it.
    pub fn resume(sink: W, format: CaptureFormat, snaplen: usize, len: u64) -> Self {
        let gathered = Vec::with_capacity(CHUNK + MAX_FRAME + OVERHEAD);
        Self { sink, format, snaplen: snaplen.clamp(1, MAX_FRAME), gathered, written: len, failed: false }
    }

    /// Adds a frame of `len` bytes, which come in `segments`, stamped with nanoseconds since 1970.
    ///
    /// # Errors
    /// [`WriteError`] when the sink refuses; this frame and all later ones are not taken then.
    #[inline]
    pub fn write(
        &mut self,
        timestamp: u64,
        len: usize,
        segments: impl IntoIterator<Item: AsRef<[u8]>>,
    ) -> Result<(), WriteError> {
        if self.failed || self.gathered.len() >= CHUNK {
            self.write_out()?;
        }
        let captured = len.min(self.snaplen);
        let padding = captured.next_multiple_of(4) - captured;
        let (original, shown) = (len.min(u32::MAX as usize) as u32, captured as u32);
        let block = (32 + captured + padding) as u32;
        match self.format {
            CaptureFormat::Pcap => {
                // 32 bits of seconds last until 2106.
                let seconds = u32::try_from(timestamp / 1_000_000_000).unwrap_or(u32::MAX);
                self.words([seconds, (timestamp % 1_000_000_000) as u32, shown, original]);
            }
            CaptureFormat::PcapNg => {
                self.words([6, block, 0, (timestamp >> 32) as u32, timestamp as u32, shown, original]);
            }
        }
        let end = self.gathered.len() + captured;
        for segment in segments {
            let segment = segment.as_ref();
            let fits = segment.len().min(end - self.gathered.len());
            self.gathered.extend_from_slice(&segment[..fits]);
        }
        // The record has the length that its header tells, even if the segments had less than `len` bytes.
        self.gathered.resize(end, 0);
        if self.format == CaptureFormat::PcapNg {
            self.gathered.resize(end + padding, 0);
            self.words([block]);
        }
        Ok(())
    }

    /// Writes out what was gathered.
    ///
    /// # Errors
    /// [`WriteError`] when the sink refuses, now or before.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.write_out()?;
        self.sink.flush().map_err(|source| WriteError { source, lost: 0, whole: self.written })
    }

    #[cold]
    fn write_out(&mut self) -> Result<(), WriteError> {
        let failure = |source, lost, whole| Err(WriteError { source, lost, whole });
        if self.failed {
            return failure(io::Error::other("an earlier write failed"), 0, self.written);
        }
        let mut rest = self.gathered.as_slice();
        let refusal = loop {
            if rest.is_empty() {
                break None;
            }
            match self.sink.write(rest) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        let done = self.gathered.len() - rest.len();
        let (mut at, mut whole, mut lost) = (0, 0, 0);
        if refusal.is_none() {
            whole = done;
        } else {
            self.failed = true;
            while let Some(len) = self.gathered.get(at..).and_then(|records| self.format.record_len(records))
            {
                at += len;
                if at <= done {
                    whole = at;
                } else {
                    lost += 1;
                }
            }
        }
        self.gathered.clear();
        self.written += whole as u64;
        refusal.map_or(Ok(()), |source| failure(source, lost, self.written))
    }

    /// Adds numbers of a record's header.
    #[inline]
    fn words<const N: usize>(&mut self, words: [u32; N]) {
        self.gathered.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
    }
}

impl<W: Write> Drop for CaptureWriter<W> {
    fn drop(&mut self) {
        if !self.failed
            && let Err(error) = self.flush()
        {
            tracing::warn!("a capture lost its last {} frames: {error}", error.lost);
        }
    }
}
