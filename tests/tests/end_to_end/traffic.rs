//! Real traffic: two hosts in namespaces, with l2fwd between them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use wirerate_tests::frames::{LONGEST, mixed};
use wirerate_tests::namespace::Namespace;
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::network::{Network, Offloads, RIGHT, RIGHT_V6};
use wirerate_tests::output::{Balance, Totals, asleep};
use wirerate_tests::program::{Running, forwarder_cpu};
use wirerate_tests::{capture, exclusive, scratch, wait};

use crate::support::{LAST_RESORT, LIMIT, bundled_in, text};

/// Devices on both of the forwarder's interfaces.
const PORTS: [&str; 4] = ["--vdev", "net_af_packet0,iface=port0", "--vdev", "net_af_packet1,iface=port1"];
/// Bytes of the file that is sent.
const FILE: u64 = 64 << 20;
/// Time for a forwarder to end.
const END: Duration = Duration::from_secs(30);

/// What all of these need.
const NEEDS: &[Need] = &[Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping];
/// The same, and iperf3.
const NEEDS_IPERF3: &[Need] = &[Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping, Need::Iperf3];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("traffic::ping_loses_nothing", NEEDS, || with_l2fwd(Offloads::None, ping)),
        trial("traffic::ping_loses_nothing_with_checksums_offloaded", NEEDS, || {
            with_l2fwd(Offloads::ChecksumOnly, ping)
        }),
        trial("traffic::tagged_frames_cross_three_forwarders_byte_exact", NEEDS, tagged_frames),
        trial("traffic::iperf3_runs_in_both_directions", NEEDS_IPERF3, || with_l2fwd(Offloads::None, iperf3)),
        trial("traffic::iperf3_runs_with_checksums_offloaded", NEEDS_IPERF3, || {
            with_l2fwd(Offloads::ChecksumOnly, iperf3)
        }),
        trial("traffic::a_file_arrives_with_the_same_sha256", NEEDS, || {
            with_l2fwd(Offloads::None, |network| network.send_file(FILE))
        }),
        trial("traffic::a_file_arrives_with_checksums_offloaded", NEEDS, || {
            with_l2fwd(Offloads::ChecksumOnly, |network| network.send_file(FILE))
        }),
        trial("traffic::a_file_goes_through_two_lcores", NEEDS, two_lcores),
        trial("traffic::a_forwarder_sleeps_until_packets_wake_it", NEEDS, sleeping),
        trial("traffic::testpmd_io_forwards_as_l2fwd_does", NEEDS, testpmd_io),
        trial("traffic::testpmd_icmpecho_answers_pings", NEEDS, icmpecho),
    ]
}

fn ping(network: &Network) -> Result<()> {
    network.ping(RIGHT, 20, 56)?;
    // The longest that fits, one that is sent in two frames, and the shortest.
    network.ping(RIGHT, 20, 1472)?;
    network.ping(RIGHT, 20, 2000)?;
    network.ping(RIGHT, 20, 0)?;
    network.ping(RIGHT_V6, 20, 56)
}

fn iperf3(network: &Network) -> Result<()> {
    for reverse in [false, true] {
        let rate = network.iperf3(3, reverse)?;
        // A forwarder that crawls is broken, too: a megabit a second is a thousandth of what is usual.
        ensure!(rate > 1e6, "{rate} bits a second, reverse: {reverse}");
    }
    Ok(())
}

/// l2fwd in the middle of a network of its own, on one lcore, while `traffic` runs; then an end by SIGTERM and
/// a look at the totals.
fn with_l2fwd(offloads: Offloads, traffic: impl FnOnce(&Network) -> Result<()>) -> Result<()> {
    let cpu = forwarder_cpu()?;
    forward(offloads, &["-l", &cpu], &[], traffic).map(drop)
}

/// From a capture file into the left host's interface, through the middle, and out of the right host's interface
/// into a capture file.
///
/// The kernel takes VLAN tags out of what it receives, and puts none back: three forwarders have to.
fn tagged_frames() -> Result<()> {
    let _turn = exclusive::processors();
    let network = Network::new(Offloads::None)?;
    let folder = scratch::directory("tagged")?;
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let frames = tagged();
    capture::write(&input, capture::Format::Nano, &frames)?;
    let cpu = forwarder_cpu()?;
    let start = |place: &Namespace, zero: &str, one: &str| {
        let environment = ["-l", &cpu, "--no-huge", "--no-pci", "--vdev", zero, "--vdev", one];
        let own = ["--", "--no-mac-updating", "-T", "0"];
        bundled_in(place, "l2fwd", &[&environment[..], &own, &LAST_RESORT].concat())
    };
    let middle = network.forward(start(
        &network.middle,
        "net_af_packet0,iface=port0",
        "net_af_packet1,iface=port1",
    )?)?;
    let sink = format!("net_pcap0,tx_pcap={}", text(&output)?);
    let mut right = Running::start(start(&network.right, "net_af_packet0,iface=host0", &sink)?)?;
    right.wait_for("port 1:", LIMIT)?;
    let source = format!("net_pcap0,rx_pcap={}", text(&input)?);
    let left = Running::start(start(&network.left, &source, "net_af_packet0,iface=host0")?)?;

    // What arrives is counted by the kernel, too; the file is whole when its writer has ended.
    wait::until("the frames to arrive", LIMIT, || {
        let file = "/sys/class/net/host0/statistics/rx_packets";
        let arrived = network.right.run("cat", &[file])?.stdout.trim().parse::<usize>()?;
        Ok(arrived >= frames.len())
    })?;
    std::thread::sleep(Duration::from_millis(500));
    for (running, sent) in [(left, true), (middle, true), (right, false)] {
        let finished = running.end(Signal::TERM, END)?;
        finished.expect_code(0)?;
        let totals = Totals::read(&finished.stdout)?;
        ensure!(totals.drops.is_empty(), "{}\ndropped {:?}", finished.what, totals.drops);
        ensure!(!sent || totals.port(1)?.sent >= frames.len() as u64, "{totals:?}");
    }
    // Both hosts have a word to say of their own; the source address tells which frames are the test's.
    let mut arrived = capture::read(&output)?;
    arrived.retain(|packet| packet.bytes.get(6..8) == Some(&[0x02, 0xbb]));
    ensure!(arrived.len() == frames.len(), "{} of {} frames arrived", arrived.len(), frames.len());
    for (index, (packet, frame)) in arrived.iter().zip(&frames).enumerate() {
        ensure!(&packet.bytes == frame, "frame {index}: {frame:02x?}\nbecame {:02x?}", packet.bytes);
    }
    Ok(())
}

/// Frames of all kinds, many with a tag, some with two, and one that is as long as a tag allows; fewer than a
/// ring of a socket holds, so that none may be lost.
fn tagged() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = mixed(200, 21).collect();
    for (index, frame) in frames.iter_mut().enumerate() {
        // Priorities and the drop bit are part of the tag.
        let tag = 0xf000 >> (index % 5) | index as u16;
        match index % 4 {
            0 => frame[12..16].copy_from_slice(&[[0x81, 0x00], tag.to_be_bytes()].concat()),
            1 => {
                frame[12..16].copy_from_slice(&[[0x88, 0xa8], tag.to_be_bytes()].concat());
                frame[16..20].copy_from_slice(&[0x81, 0x00, 0x01, 0x23]);
            }
            _ => {}
        }
    }
    let mut longest = frames[0].clone();
    longest.resize(LONGEST + 4, 0x5a);
    frames.push(longest);
    frames
}

fn two_lcores() -> Result<()> {
    // Two lcores wherever there are two processors; on one they share it.
    let cpu = forwarder_cpu()?;
    let lcores = if cpu == "0" { "(0-1)@0".to_owned() } else { format!("0@0,1@{cpu}") };
    forward(Offloads::None, &["-l", &lcores], &[], |network| network.send_file(FILE / 4)).map(drop)
}

/// With pings far apart it sleeps for the most part, wakes for each of them and loses none; and a file that
/// keeps it busy goes through as ever.
fn sleeping() -> Result<()> {
    let cpu = forwarder_cpu()?;
    let output = forward(Offloads::None, &["-l", &cpu], &["--idle-policy", "sleep"], |network| {
        network.ping(RIGHT, 20, 56)?;
        std::thread::sleep(Duration::from_secs(2));
        network.ping(RIGHT, 20, 1472)?;
        network.send_file(FILE / 16)
    })?;
    let (asleep, sleeps) = asleep(&output)?;
    ensure!(asleep > 10.0 && sleeps > 20, "asleep for {asleep} % of the time, {sleeps} times:\n{output}");
    Ok(())
}

/// What l2fwd printed, with these options of its own.
fn forward(
    offloads: Offloads,
    lcores: &[&str],
    options: &[&str],
    traffic: impl FnOnce(&Network) -> Result<()>,
) -> Result<String> {
    let _turn = exclusive::processors();
    let network = Network::new(offloads)?;
    let own = ["--", "--no-mac-updating", "-T", "0"];
    let arguments = [lcores, &["--no-huge", "--no-pci"], &PORTS, &own, options, &LAST_RESORT].concat();
    let running = network.forward(bundled_in(&network.middle, "l2fwd", &arguments)?)?;
    let result = traffic(&network).with_context(|| format!("the forwarder:\n{}", running.describe()));
    let finished = running.end(Signal::TERM, END)?;
    result.with_context(|| format!("its last words:\n{}{}", finished.stdout, finished.stderr))?;
    finished.expect_code(0)?;
    let totals = Totals::read(&finished.stdout)?;
    for id in [0, 1] {
        let port = totals.port(id)?;
        ensure!(port.received > 0 && port.sent > 0, "port {id} saw nothing: {port:?}");
        // Nothing that came in is unaccounted for: it went out by the partner, or was dropped with a reason.
        let partner = totals.port(1 - id)?;
        ensure!(
            port.received <= partner.sent + port.dropped + partner.dropped && partner.sent <= port.received,
            "packets vanished or came out of nowhere: {totals:?}"
        );
    }
    ensure!(totals.drop_count("port 0 rx_malformed") == 0, "{:?}", totals.drops);
    ensure!(network.middle.packet_sockets()? == 0, "the forwarder left a socket");
    Ok(finished.stdout)
}

fn testpmd_io() -> Result<()> {
    let _turn = exclusive::processors();
    let network = Network::new(Offloads::None)?;
    let cpu = forwarder_cpu()?;
    let own = ["--", "--forward-mode=io"];
    let arguments = [&["-l", &cpu, "--no-huge", "--no-pci"][..], &PORTS, &own, &LAST_RESORT].concat();
    let running = network.forward(bundled_in(&network.middle, "testpmd", &arguments)?)?;
    network.ping(RIGHT, 20, 1472)?;
    network.send_file(FILE / 4)?;
    end_testpmd(running)
}

fn icmpecho() -> Result<()> {
    let _turn = exclusive::processors();
    let network = Network::new(Offloads::None)?;
    let cpu = forwarder_cpu()?;
    let own = ["--", "--forward-mode=icmpecho"];
    let arguments = [&["-l", &cpu, "--no-huge", "--no-pci"][..], &PORTS, &own, &LAST_RESORT].concat();
    // The right host is down: every answer is testpmd's own, for addresses that nobody has.
    network.right.ip(&["link", "set", "host0", "down"])?;
    let running = network.forward(bundled_in(&network.middle, "testpmd", &arguments)?)?;
    network.ping(RIGHT, 20, 56)?;
    network.ping("10.77.0.200", 20, 1472)?;
    end_testpmd(running)
}

fn end_testpmd(running: Running) -> Result<()> {
    let finished = running.end(Signal::INT, END)?;
    finished.expect_code(0)?;
    Balance::read(&finished.stdout)?.check_home()
}
