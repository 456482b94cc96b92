//! Transmit queues: frames into a file, or nowhere.

use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

use super::write::{CaptureWriter, WriteError};
use crate::packet::Burst;
use crate::port::{Counters, DropReason, TxDriver};

/// A transmit queue into a file. Dropping it writes out what is gathered and closes the file.
#[derive(Debug)]
pub(super) struct PcapTx {
    writer: CaptureWriter<File>,
    /// The file again, to cut it when writing failed.
    file: File,
    /// Says in the log what this is.
    label: String,
    failed: bool,
}

impl PcapTx {
    pub(super) fn new(writer: CaptureWriter<File>, file: File, label: String) -> Self {
        Self { writer, file, label, failed: false }
    }

    #[cold]
    fn fail(&mut self, error: &WriteError) {
        self.failed = true;
        tracing::warn!(
            "{} cannot be written: {error}; {} packets that were counted as sent are not in it, and all that \
             follow are dropped as {}",
            self.label,
            error.lost,
            DropReason::TxRefused.name(),
        );
        // A pipe or a device cannot be cut, and need not be.
        if self.file.metadata().is_ok_and(|metadata| metadata.is_file())
            && let Err(error) = self.file.set_len(error.whole)
        {
            tracing::warn!("{} ends in half a packet: {error}", self.label);
        }
    }
}

impl TxDriver for PcapTx {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let mut now = None;
        let (mut sent, mut bytes) = (0, 0);
        if !self.failed {
            for packet in burst.iter() {
                let timestamp = packet.timestamp().unwrap_or_else(|| *now.get_or_insert_with(wall_clock));
                if let Err(error) = self.writer.write(timestamp, packet.len(), packet.segments()) {
                    self.fail(&error);
                    break;
                }
                sent += 1;
                bytes += packet.len() as u64;
            }
        }
        if sent > 0 {
            counters.passed(sent, bytes);
        }
        counters.dropped(DropReason::TxRefused, burst.len() as u64 - sent);
        burst.free();
    }
}

impl Drop for PcapTx {
    fn drop(&mut self) {
        if !self.failed
            && let Err(error) = self.writer.flush()
        {
            self.fail(&error);
        }
    }
}

/// Nanoseconds since 1970, read once a burst.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A queue without a file: packets count as sent and are gone, as in DPDK's driver.
#[derive(Debug)]
pub(super) struct DiscardTx;

impl TxDriver for DiscardTx {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        counters.passed(burst.len() as u64, burst.bytes());
        burst.free();
    }
}

#[cfg(test)]
mod tests;
