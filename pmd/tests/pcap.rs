//! `net_pcap` as a program sees it: through devargs, ports and queues, with files in a directory of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use wirerate_eal::Eal;
use wirerate_pmd::drivers::pcap::{CaptureFormat, CaptureReader, CaptureWriter};
use wirerate_pmd::port::{Configured, DropReason, Opened, Queues, Started, registry};
use wirerate_pmd::{Burst, Mbuf, MbufPool, MbufPoolConfig, Port, PortConfig, RxQueue, TxQueue};

/// An environment, a directory and a pool, which must be whole in the end.
struct Bench {
    eal: Eal,
    directory: TempDir,
    pool: MbufPool,
}

impl Bench {
    fn new(mbufs: usize, data_room: usize) -> Self {
        let config = MbufPoolConfig::new("pcap", mbufs).data_room(data_room).cache(32);
        Self {
            eal: Eal::builder().no_huge(true).build().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            pool: MbufPool::on_heap(&config).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens a port; `{}` in the parameters stands for the directory.
    fn open(&self, parameters: &str) -> Result<Port<Opened>, String> {
        let directory = self.directory.path().to_str().unwrap();
        let devargs = format!("net_pcap0,{}", parameters.replace("{}", directory));
        registry::open(&self.eal, 3, &devargs).map_err(|error| error.to_string())
    }

    fn configure(&self, parameters: &str, rx: u16, tx: u16) -> Port<Configured> {
        let config = PortConfig::new(self.pool.clone()).rx_queues(rx).tx_queues(tx);
        self.open(parameters).unwrap().configure(&config).unwrap()
    }

    fn start(&self, parameters: &str, rx: u16, tx: u16) -> (Port<Started>, Queues) {
        self.configure(parameters, rx, tx).start().unwrap()
    }

    /// Writes a file of frames, stamped one microsecond apart, and returns its path.
    fn capture(&self, name: &str, frames: &[Vec<u8>]) -> PathBuf {
        let path = self.path(name);
        let format = CaptureFormat::of_path(&path);
        let mut writer = CaptureWriter::new(File::create(&path).unwrap(), format, usize::MAX).unwrap();
        for (stamp, frame) in (1..).zip(frames) {
            writer.write(stamp * 1000, frame.len(), [&frame[..]]).unwrap();
        }
        path
    }

    /// Everything is home, once each.
    #[track_caller]
    fn balance(&self) {
        let counts = self.pool.counts();
        assert_eq!(counts.in_use, 0, "{counts:?}");
        assert_eq!(counts.free + counts.cached, counts.size, "{counts:?}");
        self.pool.audit().unwrap();
    }
}

/// Frames of many sizes, no two alike.
fn mixed_frames(count: usize) -> Vec<Vec<u8>> {
    let size = |index: usize| match index % 7 {
        0 => 60,
        1 => 64 + index % 1450,
        2 => 1514,
        3 => 14 + index % 50,
        4 => 9018 - index % 100,
        5 => 128 + index % 2,
        _ => 1 + index % 14,
    };
    (0..count).map(|index| (0..size(index)).map(|at| (index * 31 + at * 7) as u8).collect()).collect()
}

fn bytes_of(packet: &Mbuf) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

/// What a queue has until it ends.
fn receive_all(queue: &mut RxQueue) -> Vec<(Option<u64>, Vec<u8>)> {
    let (mut burst, mut received) = (Burst::default(), Vec::new());
    let started = Instant::now();
    while !queue.ended() {
        queue.rx_burst(&mut burst);
        received.extend(burst.drain().map(|packet| (packet.timestamp(), bytes_of(&packet))));
        assert!(started.elapsed().as_secs() < 60, "the queue does not end");
    }
    received
}

/// Sends all frames, with their stamps where they have any; every burst has to be taken whole.
fn send(pool: &MbufPool, queue: &mut TxQueue, frames: impl IntoIterator<Item = (Option<u64>, Vec<u8>)>) {
    let mut burst = Burst::default();
    for (stamp, frame) in frames {
        let mut packet = pool.alloc_from(&frame).unwrap();
        if let Some(stamp) = stamp {
            packet.set_timestamp(stamp);
        }
        burst.push(packet).unwrap();
        if burst.room() == 0 {
            assert_eq!(queue.tx_burst(&mut burst), Burst::DEFAULT_LIMIT);
        }
    }
    let left = burst.len();
    assert_eq!(queue.tx_burst(&mut burst), left);
}

fn read_file(path: &Path) -> Vec<(Option<u64>, Vec<u8>)> {
    let mut reader = CaptureReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(record) = reader.peek().unwrap() {
        frames.push((record.timestamp, record.data.to_vec()));
        reader.advance();
    }
    frames
}

#[test]
fn ten_thousand_frames_out_and_in_again() {
    // Mbufs of 512 bytes, so that the larger frames are chains on both ways.
    let bench = Bench::new(2048, 512);
    let frames: Vec<_> = (0..)
        .zip(mixed_frames(10_000))
        .map(|(index, frame)| (Some(1_750_000_000_123_456_789 + index * 1_000_000_001), frame))
        .collect();
    for name in ["out.pcap", "out.pcapng"] {
        let (port, mut queues) = bench.start(&format!("tx_pcap={{}}/{name}"), 0, 1);
        send(&bench.pool, &mut queues.tx[0], frames.clone());
        assert_eq!(port.stats().opackets, 10_000);
        assert_eq!(port.stats().obytes, frames.iter().map(|frame| frame.1.len() as u64).sum::<u64>());
        drop(queues);

        let (port, mut queues) = bench.start(&format!("rx_pcap={{}}/{name}"), 1, 1);
        assert!(port.link().up);
        assert_eq!(receive_all(&mut queues.rx[0]), frames, "{name}");
        assert!(!port.link().up, "the link is down when the file has ended");
        assert_eq!((port.stats().ipackets, port.stats().ierrors), (10_000, 0));
        bench.balance();
    }
}

#[test]
fn other_programs_read_what_is_sent() {
    let bench = Bench::new(256, 2048);
    let frames = mixed_frames(200);
    for name in ["out.pcap", "out.pcapng"] {
        let (_port, mut queues) = bench.start(&format!("tx_pcap={{}}/{name}"), 0, 1);
        let stamped =
            (0..).zip(&frames).map(|(at, frame)| (Some(1_600_000_000_000_000_007 + at), frame.clone()));
        send(&bench.pool, &mut queues.tx[0], stamped);
        drop(queues);
        let told = Command::new("tcpdump")
            .args(["-r", bench.path(name).to_str().unwrap(), "-nn", "-xx", "-tt"])
            .args(["--time-stamp-precision=nano"])
            .output();
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                let required = std::env::var_os("WIRERATE_REQUIRE").is_some_and(|value| value == "all");
                assert!(!required, "WIRERATE_REQUIRE=all, and tcpdump cannot be run: {error}");
                eprintln!("not checked: tcpdump cannot be run: {error}");
                return;
            }
        };
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let told = String::from_utf8_lossy(&told.stdout);
        let stamps: Vec<_> = told
            .lines()
            .filter_map(|line| line.split(' ').next().filter(|word| word.contains('.')))
            .collect();
        let expected: Vec<_> = (7..207).map(|nanos| format!("1600000000.{nanos:09}")).collect();
        assert_eq!(stamps, expected);
        let digits = told
            .lines()
            .filter_map(|line| line.strip_prefix("\t0x")?.split_once(":  "))
            .flat_map(|(_, digits)| digits.bytes().filter(u8::is_ascii_hexdigit));
        let written = frames.iter().flatten().flat_map(|byte| format!("{byte:02x}").into_bytes());
        assert!(digits.eq(written), "{name}: tcpdump shows other bytes");
    }
}

#[test]
fn an_empty_pool_loses_nothing() {
    let bench = Bench::new(40, 256);
    let frames = mixed_frames(500);
    bench.capture("in.pcap", &frames);
    let (port, mut queues) = bench.start("rx_pcap={}/in.pcap", 1, 0);
    let mut burst = Burst::default();
    let mut held: Vec<Mbuf> = Vec::new();
    let mut received = Vec::new();
    let mut starved = 0;
    while !queues.rx[0].ended() {
        // Packets are kept until there are none to be had.
        if queues.rx[0].rx_burst(&mut burst) == 0 {
            starved += 1;
            assert!(queues.rx[0].ended() || !held.is_empty(), "the pool is whole, and nothing comes");
            held.clear();
        }
        received.extend(burst.iter().map(bytes_of));
        held.extend(burst.drain());
    }
    assert!(starved > 10, "{starved}");
    assert_eq!(received, frames);
    assert_eq!((port.stats().rx_nombuf, port.stats().ierrors), (0, 0));
    drop(held);
    bench.balance();
}

#[test]
fn a_frame_longer_than_the_whole_pool_is_dropped() {
    let bench = Bench::new(8, 256);
    let frames = [vec![1; 100], vec![2; 9 * 256], vec![3; 2 * 256], vec![4; 60]];
    bench.capture("in.pcap", &frames);
    let (port, mut queues) = bench.start("rx_pcap={}/in.pcap", 1, 0);
    let received: Vec<_> = receive_all(&mut queues.rx[0]).into_iter().map(|frame| frame.1).collect();
    assert_eq!(received, [&frames[0][..], &frames[2], &frames[3]]);
    assert_eq!(port.rx_counters()[0].drops(DropReason::RxTooLong), 1);
    drop(queues);
    bench.balance();
}

#[test]
fn damage_ends_the_queue_and_counts_once() {
    let bench = Bench::new(256, 2048);
    let frames = mixed_frames(20);
    let path = bench.capture("in.pcap", &frames);
    let whole = fs::read(&path).unwrap();
    let before: usize = 24 + frames[..13].iter().map(|frame| 16 + frame.len()).sum::<usize>();
    let mut damaged = whole.clone();
    damaged[before + 8..before + 12].fill(0xff);
    for bytes in [&damaged[..], &whole[..before + 15], &whole[..before + 16]] {
        fs::write(&path, bytes).unwrap();
        let (port, mut queues) = bench.start("rx_pcap={}/in.pcap", 1, 0);
        let received: Vec<_> = receive_all(&mut queues.rx[0]).into_iter().map(|frame| frame.1).collect();
        assert_eq!(received, frames[..13]);
        let mut burst = Burst::default();
        assert_eq!(queues.rx[0].rx_burst(&mut burst), 0);
        assert_eq!(port.rx_counters()[0].drops(DropReason::RxMalformed), 1);
        assert_eq!((port.stats().ipackets, port.stats().ierrors), (13, 1));
        assert!(!port.link().up);
        drop(queues);
        bench.balance();
    }
}

#[test]
fn replay_goes_round_and_round() {
    let bench = Bench::new(128, 2048);
    let frames = mixed_frames(11);
    bench.capture("a.pcapng", &frames);
    bench.capture("b.pcap", &frames[3..4]);
    let (port, mut queues) = bench.start("rx_pcap={}/a.pcapng,rx_pcap={}/b.pcap,infinite_rx=1", 2, 2);
    let mut burst = Burst::default();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    while first.len() < 1000 {
        assert!(queues.rx[0].rx_burst(&mut burst) > 0);
        first.extend(burst.drain().map(|packet| (packet.timestamp(), bytes_of(&packet))));
        assert_eq!(queues.rx[1].rx_burst(&mut burst), Burst::DEFAULT_LIMIT);
        second.extend(burst.drain().map(|packet| bytes_of(&packet)));
    }
    for (index, (stamp, frame)) in first.iter().enumerate() {
        assert_eq!((stamp, frame), (&None, &frames[index % 11]), "frame {index}");
    }
    assert!(second.iter().all(|frame| *frame == frames[3]));
    assert!(port.link().up && !queues.rx[0].ended());
    drop(queues);
    bench.balance();
}

#[test]
fn each_file_is_a_queue() {
    let bench = Bench::new(512, 2048);
    let frames = mixed_frames(300);
    bench.capture("in0.pcap", &frames[..100]);
    bench.capture("in1.pcapng", &frames[100..]);
    let parameters = "rx_pcap={}/in0.pcap,rx_pcap={}/in1.pcapng,tx_pcap={}/out0.pcap,tx_pcap={}/out1.pcap";
    let (port, mut queues) = bench.start(parameters, 2, 2);
    assert_eq!((port.info().max_rx_queues, port.info().max_tx_queues), (2, 2));
    // Two threads, each with a queue either way, as an application's lcores have them.
    std::thread::scope(|scope| {
        for (mut rx, mut tx) in queues.rx.drain(..).zip(queues.tx.drain(..)) {
            scope.spawn(move || {
                let mut burst = Burst::default();
                while !rx.ended() {
                    rx.rx_burst(&mut burst);
                    tx.send_or_drop(&mut burst);
                }
            });
        }
    });
    let forwarded = |name| read_file(&bench.path(name)).into_iter().map(|frame| frame.1).collect::<Vec<_>>();
    assert_eq!(forwarded("out0.pcap"), frames[..100]);
    assert_eq!(forwarded("out1.pcap"), frames[100..]);
    // A forwarded packet keeps the time at which it was captured.
    assert_eq!(read_file(&bench.path("out1.pcap"))[7].0, Some(8000));
    assert_eq!((port.stats().ipackets, port.stats().opackets), (300, 300));
    bench.balance();
}

#[test]
fn started_again_it_reads_from_the_start_and_writes_on() {
    let bench = Bench::new(256, 2048);
    let frames = mixed_frames(10);
    bench.capture("in.pcap", &frames);
    for name in ["out.pcap", "out.pcapng"] {
        fs::write(bench.path(name), "something older").unwrap();
        let mut port = bench.configure(&format!("rx_pcap={{}}/in.pcap,tx_pcap={{}}/{name}"), 1, 1);
        for _ in 0..3 {
            let (started, mut queues) = port.start().unwrap();
            assert!(started.link().up);
            let received = receive_all(&mut queues.rx[0]);
            send(&bench.pool, &mut queues.tx[0], received);
            drop(queues);
            port = started.stop().unwrap();
        }
        let written: Vec<_> = read_file(&bench.path(name)).into_iter().map(|frame| frame.1).collect();
        assert_eq!(written, [&frames[..], &frames, &frames].concat(), "{name}");
    }
    bench.balance();
}

#[test]
fn what_has_no_time_gets_the_time_of_sending_and_snaplen_cuts() {
    let bench = Bench::new(64, 64);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let before = now();
    let (port, mut queues) = bench.start("tx_pcap={}/out.pcap,snaplen=100", 0, 1);
    let frames = [(None, vec![7; 300]), (None, vec![8; 90]), (Some(5), vec![9; 101])];
    send(&bench.pool, &mut queues.tx[0], frames);
    drop(queues);
    let mut reader = CaptureReader::new(File::open(bench.path("out.pcap")).unwrap()).unwrap();
    let mut shown = Vec::new();
    while let Some(record) = reader.peek().unwrap() {
        let stamp = record.timestamp.unwrap();
        shown.push((record.original_len, record.data.len(), (before..=now()).contains(&stamp)));
        reader.advance();
    }
    assert_eq!(shown, [(300, 100, true), (90, 90, true), (101, 100, false)]);
    assert_eq!(port.stats().obytes, 491);
    bench.balance();
}

#[test]
fn a_way_without_files_discards_or_has_ended() {
    let bench = Bench::new(64, 2048);
    bench.capture("a.pcap", &mixed_frames(3));
    let (port, mut queues) = bench.start("rx_pcap={}/a.pcap,rx_pcap={}/a.pcap", 2, 2);
    send(&bench.pool, &mut queues.tx[1], [(None, vec![1; 60]), (None, vec![2; 61])]);
    assert_eq!((port.stats().opackets, port.stats().obytes), (2, 121));
    let (port, queues) = bench.start("tx_pcap={}/b.pcap", 1, 1);
    assert!(queues.rx[0].ended() && port.link().up);
    assert_eq!(port.mac().to_string(), "02:00:00:00:00:00");
    let second = format!("net_pcap1,tx_pcap={}", bench.path("c.pcap").display());
    assert_eq!(registry::open(&bench.eal, 4, &second).unwrap().mac().to_string(), "02:00:00:00:00:01");
    drop(queues);
    bench.balance();
}

#[test]
fn a_file_that_cannot_be_written_refuses_packets() {
    let bench = Bench::new(64, 2048);
    let pipe = bench.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Both ends, so that opening neither waits for the other.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let (port, mut queues) = bench.start("tx_pcap={}/pipe", 0, 1);
    drop(reader);
    // The first chunk that is written out finds that nobody reads.
    let mut offered = 0;
    let counters = Arc::clone(&port.tx_counters()[0]);
    while counters.drops(DropReason::TxRefused) < 50 {
        send(&bench.pool, &mut queues.tx[0], (0..20).map(|_| (None, vec![1; 2000])));
        offered += 20;
        assert!(offered < 1000, "nothing is refused");
    }
    assert_eq!(port.stats().opackets + port.stats().oerrors, offered);
    drop(queues);
    bench.balance();
}

#[test]
fn what_cannot_be_opened_is_told_in_one_line() {
    let bench = Bench::new(64, 2048);
    let directory = bench.directory.path().to_str().unwrap().to_owned();
    fs::write(bench.path("text.pcap"), "This is no capture.").unwrap();
    fs::write(bench.path("empty.pcap"), "").unwrap();
    fs::create_dir(bench.path("folder")).unwrap();
    let path = bench.capture("ip.pcap", &mixed_frames(1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] = 101;
    fs::write(&path, &bytes).unwrap();
    let good = bench.capture("good.pcap", &mixed_frames(2));
    let cut = bench.capture("cut.pcap", &mixed_frames(2));
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    bench.capture("none.pcap", &[]);
    for (parameters, expected) in [
        ("snaplen=9", "rx_pcap=... is missing: a file to receive from (or tx_pcap, a file to send into)"),
        ("rx_pcap={}/nowhere.pcap", "rx_pcap={}/nowhere.pcap: No such file or directory (os error 2)"),
        ("rx_pcap={}/folder", "rx_pcap={}/folder: is a directory; a capture file is needed"),
        ("rx_pcap=/dev/null", "rx_pcap=/dev/null: is no ordinary file; a capture file is needed"),
        (
            "rx_pcap={}/text.pcap",
            "rx_pcap={}/text.pcap: is no pcap or pcapng capture: it starts with [54, 68, 69, 73]",
        ),
        ("rx_pcap={}/empty.pcap", "rx_pcap={}/empty.pcap: is empty: a capture has at least a header"),
        (
            "rx_pcap={}/ip.pcap",
            "rx_pcap={}/ip.pcap: packet 1 has link type 101 (raw IP), and only Ethernet (1) can be received",
        ),
        ("rx_pcap={}/none.pcap,infinite_rx=1", "rx_pcap={}/none.pcap: has no packets to replay"),
        ("rx_pcap={}/cut.pcap,infinite_rx=1", "rx_pcap={}/cut.pcap: ends in the middle of packet 2"),
        ("tx_pcap={}/a.pcap,infinite_rx=1", "infinite_rx=1: there is no rx_pcap to replay"),
        ("tx_pcap={}/a.pcap,snaplen=0", "snaplen=0: expected bytes, 1 to 262144"),
        ("tx_pcap={}/a.pcap,snaplen=262145", "snaplen=262145: expected bytes, 1 to 262144"),
        ("tx_pcap={}/no/a.pcap", "tx_pcap={}/no/a.pcap: No such file or directory (os error 2)"),
        ("tx_pcap={}/folder", "tx_pcap={}/folder: Is a directory (os error 21)"),
        ("tx_pcap=/dev/full", "tx_pcap=/dev/full: No space left on device (os error 28)"),
        (
            "rx_pcap={}/good.pcap,tx_pcap={}/good.pcap",
            "tx_pcap={}/good.pcap: is read or written by another queue or program already",
        ),
        (
            "tx_pcap={}/a.pcap,tx_pcap={}/a.pcap",
            "tx_pcap={}/a.pcap: is read or written by another queue or program already",
        ),
        (
            "rx_iface=eth1",
            "rx_iface=eth1: net_pcap is for files; for an interface use net_af_packet0,iface=eth1",
        ),
        (
            "rx_pcp={}/a.pcap",
            "no parameter is called \"rx_pcp\" (did you mean \"rx_pcap\"?); there are rx_pcap, tx_pcap, \
             infinite_rx, snaplen, iface, rx_iface, tx_iface",
        ),
    ] {
        let error = bench.open(parameters).expect_err(parameters);
        assert_eq!(error.strip_prefix("net_pcap0: ").unwrap().replace(&directory, "{}"), expected);
    }
    assert_eq!(read_file(&good).len(), 2, "what was refused is as it was");
}

#[test]
fn a_port_that_never_starts_leaves_an_empty_capture() {
    let bench = Bench::new(64, 2048);
    drop(bench.open("tx_pcap={}/out.pcap,tx_pcap={}/out.pcapng").unwrap());
    assert!(read_file(&bench.path("out.pcap")).is_empty());
    assert!(read_file(&bench.path("out.pcapng")).is_empty());
}
