//! Receive queues: frames out of a file, once or over and over.

use core::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::read::{CaptureError, CaptureReader, Record};
use crate::packet::{Burst, MbufPool};
use crate::port::{Counters, DropReason, RxDriver};

/// Bytes of frames that are replayed without end, at most: they are held in memory.
pub(super) const MAX_REPLAY: u64 = 1 << 30;

/// Where frames come from, one at a time.
pub(super) trait Frames: Send + fmt::Debug {
    /// The next frame; none at the end.
    fn peek(&mut self) -> Result<Option<Record<'_>>, CaptureError>;
    /// Goes on to the frame after it.
    fn advance(&mut self);
}

impl<R: Read + Send + fmt::Debug> Frames for CaptureReader<R> {
    #[inline]
    fn peek(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        self.peek()
    }

    #[inline]
    fn advance(&mut self) {
        self.advance();
    }
}

/// A receive queue over a source of frames, which is closed at its end.
#[derive(Debug)]
pub(super) struct PcapRx<F> {
    frames: Option<F>,
    pool: MbufPool,
    /// Says in the log what this is.
    label: String,
    /// Files of the port that have not ended.
    open: Arc<AtomicUsize>,
}

impl<F: Frames> PcapRx<F> {
    pub(super) fn new(frames: F, pool: MbufPool, label: String, open: Arc<AtomicUsize>) -> Self {
        Self { frames: Some(frames), pool, label, open }
    }

    /// Puts frames into the empty mbufs of `burst` from `filled` on, and returns where it stopped: at the end,
    /// or where the pool had too few mbufs for a long frame.
    #[inline]
    fn fill(frames: &mut F, pool: &MbufPool, burst: &mut Burst, mut filled: usize) -> (usize, Stop) {
        for packet in &mut burst[filled..] {
            match frames.peek() {
                Ok(Some(record)) => {
                    if !packet.append_slice(record.data) && pool.extend(packet, record.data).is_none() {
                        return (filled, Stop::Pool);
                    }
                    if let Some(timestamp) = record.timestamp {
                        packet.set_timestamp(timestamp);
                    }
                }
                Ok(None) => return (filled, Stop::End(None)),
                Err(error) => return (filled, Stop::End(Some(error))),
            }
            frames.advance();
            filled += 1;
        }
        (filled, Stop::Full)
    }

    /// Adds frames one by one, with no mbuf taken that is not used, as long as the pool has any.
    #[cold]
    fn fill_sparingly(frames: &mut F, pool: &MbufPool, burst: &mut Burst, counters: &Counters) -> Stop {
        while burst.room() > 0 {
            match frames.peek() {
                Ok(Some(record)) => match pool.alloc_from(record.data) {
                    Some(mut packet) => {
                        if let Some(timestamp) = record.timestamp {
                            packet.set_timestamp(timestamp);
                        }
                        if burst.push(packet).is_err() {
                            break;
                        }
                    }
                    None if record.data.len().div_ceil(pool.data_room()) > pool.counts().size => {
                        counters.dropped(DropReason::RxTooLong, 1);
                    }
                    None => return Stop::Pool,
                },
                Ok(None) => return Stop::End(None),
                Err(error) => return Stop::End(Some(error)),
            }
            frames.advance();
        }
        Stop::Full
    }

    #[cold]
    fn end(&mut self, error: Option<CaptureError>, counters: &Counters) {
        self.frames = None;
        self.open.fetch_sub(1, Ordering::Relaxed);
        match error {
            Some(error) => {
                counters.dropped(DropReason::RxMalformed, 1);
                tracing::warn!("{} {error}; the queue ends here", self.label);
            }
            None => tracing::debug!("{} has been read to its end", self.label),
        }
    }
}

/// Why no more frames were added.
#[derive(Debug)]
enum Stop {
    /// The burst is full.
    Full,
    /// The pool is empty; the frame waits for the next poll.
    Pool,
    /// The source has nothing more, or only damage.
    End(Option<CaptureError>),
}

impl<F: Frames> RxDriver for PcapRx<F> {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let Some(frames) = &mut self.frames else { return };
        let before = burst.len();
        let mut stop = Stop::Pool;
        if self.pool.alloc_bulk(burst, burst.room()) {
            let filled;
            (filled, stop) = Self::fill(frames, &self.pool, burst, before);
            while burst.len() > filled {
                drop(burst.pop());
            }
        }
        if matches!(stop, Stop::Pool) {
            stop = Self::fill_sparingly(frames, &self.pool, burst, counters);
        }
        if let Stop::End(error) = stop {
            self.end(error, counters);
        }
    }

    fn ended(&self) -> bool {
        self.frames.is_none()
    }
}

/// A queue that never has anything, and says so.
#[derive(Debug)]
pub(super) struct EndedRx;

impl RxDriver for EndedRx {
    fn rx_burst(&mut self, _burst: &mut Burst, _counters: &Counters) {}

    fn ended(&self) -> bool {
        true
    }
}

/// The frames of a file in memory.
#[derive(Debug)]
pub(super) struct Recording {
    bytes: Box<[u8]>,
    /// Where each frame ends, and the next one starts.
    ends: Box<[u32]>,
}

impl Recording {
    /// Reads a whole file.
    ///
    /// # Errors
    /// What is wrong with it: a recording has at least one frame, at most [`MAX_REPLAY`] bytes and no damage.
    pub(super) fn load(mut reader: CaptureReader<File>) -> Result<Self, String> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        while let Some(record) = reader.peek().map_err(|error| error.to_string())? {
            bytes.extend_from_slice(record.data);
            if bytes.len() as u64 > MAX_REPLAY {
                return Err(format!("is too long to be replayed: it has over {MAX_REPLAY} bytes of frames"));
            }
            ends.push(bytes.len() as u32);
            reader.advance();
        }
        if ends.is_empty() {
            return Err("has no packets to replay".to_owned());
        }
        Ok(Self { bytes: bytes.into(), ends: ends.into() })
    }
}

/// Gives a recording's frames over and over, without stamps: when they were captured says nothing of when
/// they come in again.
#[derive(Debug)]
pub(super) struct Replay {
    recording: Arc<Recording>,
    next: usize,
    start: usize,
}

impl Replay {
    pub(super) fn new(recording: Arc<Recording>) -> Self {
        Self { recording, next: 0, start: 0 }
    }

    #[inline]
    fn end(&self) -> usize {
        self.recording.ends.get(self.next).map_or(self.start, |&end| end as usize)
    }
}

impl Frames for Replay {
    #[inline]
    fn peek(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        let data = self.recording.bytes.get(self.start..self.end()).unwrap_or_default();
        Ok(Some(Record { timestamp: None, original_len: data.len() as u32, data }))
    }

    #[inline]
    fn advance(&mut self) {
        self.start = self.end();
        self.next += 1;
        if self.next == self.recording.ends.len() {
            (self.next, self.start) = (0, 0);
        }
    }
}
