//! Frames out of capture files, through l2fwd, into capture files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::capture::{self, Format, Packet, stamp};
use wirerate_tests::frames::{ADDRESSES, LONGEST, Random, SHORTEST, mixed};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::output::Totals;
use wirerate_tests::program::{self, forwarder_cpu};
use wirerate_tests::scratch;

use crate::support::{LAST_RESORT, LIMIT, expect_refusal, l2fwd, run, text};

/// Frames of the long run.
const MANY: usize = 100_000;
/// Frames of the others.
const FEW: usize = 500;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("files::a_hundred_thousand_frames_arrive_byte_exact_and_in_order", &[], many_frames),
        trial("files::tcpdump_reads_the_output", &[Need::Tcpdump], tcpdump),
        trial("files::both_directions_at_once", &[], both_directions),
        trial("files::every_format_is_read_with_its_stamps", &[], formats),
        trial("files::no_mac_updating_changes_no_byte", &[], unchanged),
        trial("files::frames_before_a_cut_arrive", &[], cut),
        trial("files::a_cut_at_any_byte_is_no_crash", &[], cut_anywhere),
        trial("files::corrupt_files_are_no_crash", &[], corrupt),
        trial("files::jumbo_frames_go_through_in_chains", &[], jumbo),
        trial("files::infinite_rx_begins_again", &[], infinite),
    ]
}

/// Files of one run, in a folder of their own.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(label: &str) -> Result<Self> {
        Ok(Self { folder: scratch::directory(label)? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file `name` as a parameter of net_pcap.
    fn parameter(&self, key: &str, name: &str) -> Result<String> {
        Ok(format!("{key}={}", text(&self.path(name))?))
    }

    /// Forwards `in` to `out`: from port 0, by port 1.
    fn forward(&self, options: &[&str]) -> Result<(Totals, String)> {
        let zero = format!("net_pcap0,{}", self.parameter("rx_pcap", "in")?);
        let one = format!("net_pcap1,{}", self.parameter("tx_pcap", "out")?);
        l2fwd(&[&zero, &one], options)
    }
}

/// The MAC address that l2fwd says port `id` has.
fn mac_of(stdout: &str, id: u16) -> Result<[u8; 6]> {
    let prefix = format!("port {id}: ");
    let line = stdout.lines().filter_map(|line| line.strip_prefix(&prefix));
    let address = line.filter_map(|line| line.split_once("MAC ")).map(|(_, rest)| rest).next();
    let address = address.with_context(|| format!("no MAC of port {id} in:\n{stdout}"))?;
    let digits = address.split(',').next().unwrap_or_default();
    let bytes: Vec<u8> = digits
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{digits:?} is no MAC address"))?;
    bytes.try_into().ok().with_context(|| format!("{digits:?} is no MAC address"))
}

/// Checks that what arrived is what was sent, in order, with the addresses that port `to` gives it.
fn check_rewritten(sent: impl Iterator<Item = Vec<u8>>, got: &[Packet], to: u16, mac: [u8; 6]) -> Result<()> {
    let [high, low] = to.to_be_bytes();
    let destination = [0x02, 0, 0, 0, high, low];
    for (index, (mut frame, packet)) in sent.zip(got).enumerate() {
        frame[..6].copy_from_slice(&destination);
        frame[6..ADDRESSES].copy_from_slice(&mac);
        ensure!(
            frame == packet.bytes,
            "frame {index} of {} bytes arrived with {}; sent, as it should have arrived:\n{frame:02x?}\narrived:\n{:02x?}",
            frame.len(),
            packet.bytes.len(),
            packet.bytes
        );
        ensure!(
            packet.original_length == frame.len(),
            "frame {index} says it had {}",
            packet.original_length
        );
    }
    Ok(())
}

/// Runs `count` frames of `seed` through and checks everything about them.
fn forward_and_check(files: &Files, count: usize, seed: u64) -> Result<()> {
    capture::write(&files.path("in"), Format::Nano, mixed(count, seed))?;
    let (totals, stdout) = files.forward(&[])?;
    let (zero, one) = (totals.port(0)?, totals.port(1)?);
    ensure!((zero.received, zero.sent, zero.dropped) == (count as u64, 0, 0), "port 0: {zero:?}");
    ensure!((one.received, one.sent, one.dropped) == (0, count as u64, 0), "port 1: {one:?}");
    ensure!(totals.drops.is_empty(), "dropped: {:?}", totals.drops);
    let arrived = capture::read(&files.path("out"))?;
    ensure!(arrived.len() == count, "{} of {count} frames are in the file", arrived.len());
    check_rewritten(mixed(count, seed), &arrived, 1, mac_of(&stdout, 1)?)?;
    for (index, packet) in arrived.iter().enumerate() {
        ensure!(packet.nanoseconds == stamp(index), "frame {index} has the stamp {}", packet.nanoseconds);
    }
    Ok(())
}

fn many_frames() -> Result<()> {
    let lengths: Vec<usize> = mixed(MANY, 2026).map(|frame| frame.len()).collect();
    ensure!(lengths.iter().min() == Some(&SHORTEST) && lengths.iter().max() == Some(&LONGEST));
    forward_and_check(&Files::new("many")?, MANY, 2026)
}

fn tcpdump() -> Result<()> {
    let files = Files::new("tcpdump")?;
    let count = 20_000;
    forward_and_check(&files, count, 5)?;
    let mut command = Command::new("tcpdump");
    command.args(["-r", text(&files.path("out"))?, "-n", "-e", "-tt"]);
    let finished = program::run(command, LIMIT)?;
    finished.expect_code(0)?;
    // It says what it reads, and nothing else.
    let said: Vec<&str> =
        finished.stderr.lines().filter(|line| !line.starts_with("reading from file")).collect();
    ensure!(said.is_empty(), "tcpdump complains: {said:?}");
    // A frame's line begins with its stamp; further lines have bytes of a type that it does not know.
    let second = (stamp(0) / 1_000_000_000).to_string();
    let lines: Vec<&str> = finished.stdout.lines().filter(|line| line.starts_with(&second)).collect();
    ensure!(lines.len() == count, "tcpdump reads {} frames of {count}", lines.len());
    for wrong in ["truncated", "bad ", "[|"] {
        let found = lines.iter().find(|line| line.contains(wrong));
        ensure!(found.is_none(), "tcpdump finds a frame wrong: {found:?}");
    }
    Ok(())
}

fn both_directions() -> Result<()> {
    let files = Files::new("both")?;
    let count = 20_000;
    let mut vdevs = Vec::new();
    for id in [0, 1] {
        capture::write(&files.path(&format!("in{id}")), Format::Nano, mixed(count, 10 + id))?;
        let rx = files.parameter("rx_pcap", &format!("in{id}"))?;
        let tx = files.parameter("tx_pcap", &format!("out{id}"))?;
        vdevs.push(format!("net_pcap{id},{rx},{tx}"));
    }
    let (totals, stdout) = l2fwd(&[&vdevs[0], &vdevs[1]], &[])?;
    for (from, to) in [(0_u16, 1_u16), (1, 0)] {
        let port = totals.port(to)?;
        ensure!((port.received, port.sent, port.dropped) == (count as u64, count as u64, 0), "{port:?}");
        let arrived = capture::read(&files.path(&format!("out{to}")))?;
        ensure!(arrived.len() == count, "{} of {count} frames are in the file", arrived.len());
        let sent = mixed(count, 10 + u64::from(from));
        check_rewritten(sent, &arrived, to, mac_of(&stdout, to)?)?;
    }
    Ok(())
}

fn formats() -> Result<()> {
    for format in Format::ALL {
        let files = Files::new("formats")?;
        capture::write(&files.path("in"), format, mixed(FEW, 6))?;
        let (totals, stdout) = files.forward(&[]).with_context(|| format!("{format:?}"))?;
        ensure!(totals.port(0)?.received == FEW as u64, "{format:?}: {totals:?}");
        let arrived = capture::read(&files.path("out"))?;
        ensure!(arrived.len() == FEW, "{format:?}: {} frames", arrived.len());
        check_rewritten(mixed(FEW, 6), &arrived, 1, mac_of(&stdout, 1)?)
            .with_context(|| format!("{format:?}"))?;
        for (index, packet) in arrived.iter().enumerate() {
            let seen = stamp(index) - stamp(index) % format.resolution();
            ensure!(packet.nanoseconds == seen, "{format:?}: frame {index} at {}", packet.nanoseconds);
        }
    }
    Ok(())
}

fn unchanged() -> Result<()> {
    let files = Files::new("unchanged")?;
    capture::write(&files.path("in"), Format::Nano, mixed(FEW, 8))?;
    files.forward(&["--no-mac-updating"])?;
    let (sent, arrived) = (capture::read(&files.path("in"))?, capture::read(&files.path("out"))?);
    ensure!(sent == arrived, "{} frames became {}, or others", sent.len(), arrived.len());
    Ok(())
}

fn cut() -> Result<()> {
    for format in Format::ALL {
        let files = Files::new("cut")?;
        capture::write(&files.path("in"), format, mixed(FEW, 9))?;
        let whole = std::fs::read(files.path("in"))?;
        // In the midst of the last frame.
        std::fs::write(files.path("in"), &whole[..whole.len() - 20])?;
        let (totals, stdout) = files.forward(&[]).with_context(|| format!("{format:?}"))?;
        let port = totals.port(0)?;
        ensure!(port.received == FEW as u64 - 1, "{format:?}: {port:?}");
        ensure!(totals.drop_count("port 0 rx_malformed") == 1, "{format:?}: {:?}", totals.drops);
        ensure!(totals.port(1)?.sent == FEW as u64 - 1, "{format:?}: {totals:?}");
        let arrived = capture::read(&files.path("out"))?;
        ensure!(arrived.len() == FEW - 1, "{format:?}: {} frames", arrived.len());
        check_rewritten(mixed(FEW, 9), &arrived, 1, mac_of(&stdout, 1)?)?;
    }
    Ok(())
}

/// Runs l2fwd on the file at `path`, whatever it is; what it does must be one of the two things that are right.
/// Returns how many frames came in, if it did not refuse.
fn forward_anything(path: &Path) -> Result<Option<u64>> {
    let cpu = forwarder_cpu()?;
    let vdev = format!("net_pcap0,rx_pcap={}", text(path)?);
    // A port alone sends what it receives by itself, and without a file to send into that is the end of it.
    let arguments = ["-l", &cpu, "--no-huge", "--no-pci", "--vdev", &vdev, "--", "-T", "0"];
    let finished = run("l2fwd", &[&arguments[..], &LAST_RESORT].concat())?;
    if finished.status.code() == Some(2) {
        expect_refusal(&finished, &[text(path)?])?;
        return Ok(None);
    }
    finished.expect_code(0)?;
    Ok(Some(Totals::read(&finished.stdout)?.port(0)?.received))
}

fn cut_anywhere() -> Result<()> {
    let files = Files::new("anywhere")?;
    let path = files.path("in");
    for format in [Format::Nano, Format::Ng] {
        let frames: Vec<Vec<u8>> = mixed(40, 11).filter(|frame| frame.len() < 300).take(3).collect();
        capture::write(&path, format, &frames)?;
        let whole = std::fs::read(&path)?;
        let mut ends = vec![format.preamble().len()];
        for (index, frame) in frames.iter().enumerate() {
            ends.push(ends[index] + format.record(stamp(index), frame).len());
        }
        // Every byte of the headers, and some of the frames.
        let near = |cut: usize| ends.iter().any(|&end| cut.abs_diff(end) <= 18);
        for cut in (0..whole.len()).filter(|&cut| cut < ends[0] || near(cut) && cut % 3 == 0) {
            std::fs::write(&path, &whole[..cut])?;
            let received = forward_anything(&path).with_context(|| format!("{format:?} cut at {cut}"))?;
            let frames_before = ends.iter().filter(|&&end| end <= cut).count();
            let expected = frames_before.checked_sub(1).map(|frames| frames as u64);
            let right = match (expected, received) {
                // The preamble of a pcapng file is two blocks: without the second there is no frame.
                (None, None) => true,
                (None, Some(count)) => format == Format::Ng && count == 0,
                (expected, received) => expected == received,
            };
            ensure!(right, "{format:?} cut at {cut}: {expected:?} frames expected, {received:?} received");
        }
    }
    Ok(())
}

fn corrupt() -> Result<()> {
    let files = Files::new("corrupt")?;
    let path = files.path("in");
    let mut random = Random::new(12);
    let mut refused = 0;
    for round in 0..80 {
        let format = Format::ALL[round % Format::ALL.len()];
        let mut bytes = format.preamble();
        for (index, frame) in mixed(6, 13).enumerate() {
            bytes.extend(format.record(stamp(index), &frame));
        }
        // Headers are worth more than payload: half of the hits are in the first bytes.
        for _ in 0..=random.below(4) {
            let limit = if random.below(2) == 0 { bytes.len() } else { 120 };
            let at = random.below(limit);
            bytes[at] = [0, 0xff, 0x7f, 0x80, random.bits() as u8][random.below(5)];
        }
        std::fs::write(&path, &bytes)?;
        let received = forward_anything(&path).with_context(|| format!("round {round}, {format:?}"))?;
        // No frame is made up out of damaged ones beyond what the file could hold.
        ensure!(received.is_none_or(|count| count <= bytes.len() as u64 / 16), "{received:?} frames");
        refused += u32::from(received.is_none());
    }
    ensure!(
        (1..80).contains(&refused),
        "{refused} of 80 files were refused: the damage is not what it should be"
    );
    Ok(())
}

fn jumbo() -> Result<()> {
    let files = Files::new("jumbo")?;
    // Longer than an mbuf's 2,048 bytes, up to the longest jumbo frames there are.
    let frames: Vec<Vec<u8>> = [2048, 2049, 4096, 4097, 9000, 9018]
        .iter()
        .map(|&length| {
            let mut frame = vec![0; length];
            Random::new(length as u64).fill(&mut frame);
            frame
        })
        .collect();
    capture::write(&files.path("in"), Format::Nano, &frames)?;
    let (totals, stdout) = files.forward(&[])?;
    ensure!(totals.port(1)?.sent == frames.len() as u64, "{totals:?}");
    let arrived = capture::read(&files.path("out"))?;
    ensure!(arrived.len() == frames.len(), "{} frames", arrived.len());
    check_rewritten(frames.into_iter(), &arrived, 1, mac_of(&stdout, 1)?)
}

fn infinite() -> Result<()> {
    let files = Files::new("infinite")?;
    capture::write(&files.path("in"), Format::Nano, mixed(100, 14))?;
    let zero = format!("net_pcap0,{},infinite_rx=1", files.parameter("rx_pcap", "in")?);
    let one = "net_ring0";
    // A ring that nobody empties but itself: what goes in by port 1 comes out of it and goes to port 0.
    let (totals, _) = l2fwd(&[&zero, one], &["--duration", "1"])?;
    let received = totals.port(0)?.received;
    ensure!(received > 1000, "100 frames for ever made {received} in a second: {totals:?}");
    Ok(())
}
