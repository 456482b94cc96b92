//! `net_pcap`: receives what is in capture files, and sends into capture files.
//!
//! | parameter | |
//! |---|---|
//! | `rx_pcap` | a pcap or pcapng file to receive from; each one is a receive queue |
//! | `tx_pcap` | a file to send into, pcapng when its name ends in `.pcapng`, else pcap; each one is a transmit queue |
//! | `infinite_rx` | 1: files are replayed without end; 0 unless given |
//! | `snaplen` | bytes of each sent packet that are written, 262144 unless given |
//!
//! The names and meanings are DPDK's; its `iface`, `rx_iface` and `tx_iface` are what `net_af_packet` is for.
//!
//! **Receiving.** Packets come in with the time at which they were captured. Of a packet that was cut when it
//! was captured comes what was captured, as in DPDK's driver. A queue ends with its file, and a port's link goes
//! down when all its files have ended. A file that is damaged is read up to the damage, which the log tells and
//! which counts as one [`RxMalformed`](crate::port::DropReason::RxMalformed). When the pool is empty nothing is
//! lost: a file can wait. A packet longer than all of the pool's mbufs is dropped as
//! [`RxTooLong`](crate::port::DropReason::RxTooLong). A started port reads its files from the beginning, each
//! time that it is started.
//!
//! **Replay.** With `infinite_rx`, files are held in memory (at most 1 GiB of packets each), and packets come
//! without a time.
//!
//! **Sending.** A packet's own time is written, or the time of the burst when it has none. The file appears when
//! the port is opened, an older one of that name is replaced, and it is whole when its queue is dropped; a port
//! that is started again goes on writing at its end. When writing fails the file is cut behind the last whole
//! packet, and what can no longer be written is dropped as [`TxRefused`](crate::port::DropReason::TxRefused).
//!
//! A port without `tx_pcap` discards what is sent, and counts it as sent; one without `rx_pcap` receives nothing,
//! on queues that have ended. Such a port has as many queues that way as it has files the other way.
//!
//! Files are locked (`flock`) while they are used, so that two queues or two programs do not write into one file,
//! or read a file that is being written.

mod interface;
mod read;
mod rx;
#[cfg(test)]
mod tests;
mod tx;
mod write;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wirerate_eal::Eal;

pub use self::read::{CaptureError, CaptureReader, MAX_FRAME, Record};
use self::rx::{EndedRx, MAX_REPLAY, PcapRx, Recording, Replay};
use self::tx::{DiscardTx, PcapTx};
pub use self::write::{CaptureFormat, CaptureWriter, WriteError};
use crate::net::MacAddress;
use crate::packet::MbufPool;
use crate::port::{
    DevArgs, Device, DeviceInfo, DeviceQueues, Link, PortConfig, PortError, RxDriver, TxDriver,
};

/// More files than anybody opens, and fewer than file descriptors run out at.
const MAX_FILES: usize = 256;

#[derive(Debug)]
struct Pcap {
    name: String,
    sources: Vec<Source>,
    sinks: Vec<Sink>,
    config: Option<PortConfig>,
    mac: MacAddress,
    /// Received files that have not ended.
    open: Arc<AtomicUsize>,
}

/// A file to receive from.
#[derive(Debug)]
struct Source {
    path: String,
    /// Open and locked as long as the port is.
    file: File,
    recording: Option<Arc<Recording>>,
}

/// A file to send into.
#[derive(Debug)]
struct Sink {
    path: String,
    format: CaptureFormat,
    snaplen: usize,
    /// From when the port was opened to its first start.
    fresh: Option<(CaptureWriter<File>, File)>,
}

/// Opens a `net_pcap` device.
///
/// # Errors
/// [`PortError`] when a parameter is unknown or out of range, when a file cannot be opened, or when a file to
/// receive from is no capture of Ethernet frames.
pub fn open(_eal: &Eal, mut args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    const SNAPLEN: &str = "bytes, 1 to 262144";
    let (rx, tx) = (args.take_all("rx_pcap"), args.take_all("tx_pcap"));
    let replayed = args.take_flag("infinite_rx")?;
    let snaplen = args.take::<usize>("snaplen", SNAPLEN)?.unwrap_or(MAX_FRAME);
    if !(1..=MAX_FRAME).contains(&snaplen) {
        return Err(args.bad("snaplen", &snaplen.to_string(), &format!("expected {SNAPLEN}")));
    }
    for key in ["iface", "rx_iface", "tx_iface"] {
        if let Some(interface) = args.take_all(key).first() {
            let problem =
                format!("net_pcap is for files; for an interface use net_af_packet0,iface={interface}");
            return Err(args.bad(key, interface, &problem));
        }
    }
    let name = args.clone().finish()?;
    if rx.is_empty() && tx.is_empty() {
        return Err(args.missing("rx_pcap", "a file to receive from (or tx_pcap, a file to send into)"));
    }
    if replayed && rx.is_empty() {
        return Err(args.bad("infinite_rx", "1", "there is no rx_pcap to replay"));
    }
    for (key, files) in [("rx_pcap", &rx), ("tx_pcap", &tx)] {
        if let Some(path) = files.get(MAX_FILES) {
            return Err(args.bad(key, path, &format!("more than {MAX_FILES} files")));
        }
    }
    // Files to receive from are opened and locked before anything is created or replaced.
    let mut sources = Vec::new();
    for path in rx {
        match Source::open(&path, replayed) {
            Ok(source) => sources.push(source),
            Err(problem) => return Err(args.bad("rx_pcap", &path, &problem)),
        }
    }
    let mut sinks = Vec::new();
    for path in tx {
        match Sink::create(&path, snaplen) {
            Ok(sink) => sinks.push(sink),
            Err(problem) => return Err(args.bad("tx_pcap", &path, &problem)),
        }
    }
    let open = Arc::new(AtomicUsize::new(sources.len()));
    // net_pcap0 and net_pcap1 of one program have different addresses.
    let number = name.strip_prefix(args.driver()).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    Ok(Box::new(Pcap { name, sources, sinks, config: None, mac: MacAddress::local(number), open }))
}

impl Source {
    fn open(path: &str, replayed: bool) -> Result<Self, String> {
        // Asked before it is opened: opening a pipe waits for somebody to write.
        let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a directory" } else { "no ordinary file" };
            return Err(format!("is {found}; a capture file is needed"));
        }
        let file = File::open(path).map_err(|error| error.to_string())?;
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err("is being written by another queue or program".to_owned());
        }
        let mut source = Self { path: path.to_owned(), file, recording: None };
        let reader = source.reader().map_err(|error| error.to_string())?;
        if replayed {
            if metadata.len() > 2 * MAX_REPLAY {
                return Err(format!(
                    "is too long to be replayed: {} bytes, where {MAX_REPLAY} bytes of packets are the most",
                    metadata.len()
                ));
            }
            source.recording = Some(Arc::new(Recording::load(reader)?));
        }
        Ok(source)
    }

    /// A reader from the beginning of the file. There is one at a time: they share a position.
    fn reader(&self) -> Result<CaptureReader<File>, CaptureError> {
        let mut file = self.file.try_clone().map_err(CaptureError::Io)?;
        file.rewind().map_err(CaptureError::Io)?;
        CaptureReader::new(file)
    }
}

impl Sink {
    fn create(path: &str, snaplen: usize) -> Result<Self, String> {
        let format = CaptureFormat::of_path(Path::new(path));
        let mut sink = Self { path: path.to_owned(), format, snaplen, fresh: None };
        sink.fresh = Some(sink.writer(true)?);
        Ok(sink)
    }

    /// A writer to the end of the file, which is emptied before when it is to be `replaced`.
    fn writer(&self, replaced: bool) -> Result<(CaptureWriter<File>, File), String> {
        let told = |error: io::Error| error.to_string();
        let file = OpenOptions::new().append(true).create(true).open(&self.path).map_err(told)?;
        let ordinary = file.metadata().map_err(told)?.is_file();
        if ordinary && let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err("is read or written by another queue or program already".to_owned());
        }
        if ordinary && replaced {
            file.set_len(0).map_err(told)?;
        }
        let len = file.metadata().map_err(told)?.len();
        let handle = file.try_clone().map_err(told)?;
        let writer = if replaced || (ordinary && len == 0) {
            CaptureWriter::new(file, self.format, self.snaplen).map_err(told)?
        } else {
            CaptureWriter::resume(file, self.format, self.snaplen, len)
        };
        Ok((writer, handle))
    }
}

impl Pcap {
    fn rx_queue(&self, index: usize, pool: &MbufPool) -> Result<Box<dyn RxDriver>, PortError> {
        let Some(source) = self.sources.get(index) else { return Ok(Box::new(EndedRx)) };
        let label = format!("{}: rx_pcap={}", self.name, source.path);
        let (pool, open) = (pool.clone(), Arc::clone(&self.open));
        Ok(match &source.recording {
            Some(recording) => Box::new(PcapRx::new(Replay::new(Arc::clone(recording)), pool, label, open)),
            None => match source.reader() {
                Ok(reader) => Box::new(PcapRx::new(reader, pool, label, open)),
                Err(error) => return Err(self.bad("rx_pcap", &source.path, error.to_string())),
            },
        })
    }

    fn tx_queue(&mut self, index: usize) -> Result<Box<dyn TxDriver>, PortError> {
        let Some(sink) = self.sinks.get_mut(index) else { return Ok(Box::new(DiscardTx)) };
        let label = format!("{}: tx_pcap={}", self.name, sink.path);
        let opened = match sink.fresh.take() {
            Some(opened) => Ok(opened),
            None => sink.writer(false),
        };
        match opened {
            Ok((writer, file)) => Ok(Box::new(PcapTx::new(writer, file, label))),
            Err(problem) => {
                let path = sink.path.clone();
                Err(self.bad("tx_pcap", &path, problem))
            }
        }
    }

    fn bad(&self, key: &str, value: &str, problem: String) -> PortError {
        PortError::BadParameter {
            device: self.name.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            problem,
        }
    }
}

impl Device for Pcap {
    fn info(&self) -> DeviceInfo {
        // `open` allows no more than MAX_FILES, and at least one way has a file.
        let (rx, tx) = (self.sources.len() as u16, self.sinks.len() as u16);
        let or = |files: u16, others: u16| if files > 0 { files } else { others };
        let mut info = DeviceInfo::new("net_pcap", or(rx, tx), or(tx, rx));
        info.max_frame = MAX_FRAME;
        info
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        for (key, paths, queues) in [
            ("rx_pcap", self.sources.iter().map(|source| &source.path).collect::<Vec<_>>(), config.rx_queues),
            ("tx_pcap", self.sinks.iter().map(|sink| &sink.path).collect(), config.tx_queues),
        ] {
            for path in paths.iter().skip(usize::from(queues)) {
                tracing::warn!("{}: {key}={path} is not used: the port has {queues} such queues", self.name);
            }
        }
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let mut queues = DeviceQueues { rx: Vec::new(), tx: Vec::new() };
        let Some(config) = self.config.clone() else { return Ok(queues) };
        if let Some(pool) = &config.pool {
            let rx_queues = usize::from(config.rx_queues);
            self.open.store(rx_queues.min(self.sources.len()), Ordering::Relaxed);
            for index in 0..rx_queues {
                queues.rx.push(self.rx_queue(index, pool)?);
            }
        }
        for index in 0..usize::from(config.tx_queues) {
            queues.tx.push(self.tx_queue(index)?);
        }
        Ok(queues)
    }

    fn stop(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn link(&self) -> Link {
        let up = self.sources.is_empty() || self.open.load(Ordering::Relaxed) > 0;
        Link { up, speed: None }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        self.mac = mac;
        Ok(())
    }

    fn set_promiscuous(&mut self, _on: bool) -> Result<(), PortError> {
        // A file has what was captured, for whichever station that was.
        Ok(())
    }
}
