//! DPDK in the place of l2fwd: what the tests ask is what it gives, so they ask nothing odd.
//!
//! Speeds are compared by `wirerate bench` and the example `tcp_in_turns`, not here.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use wirerate_tests::dpdk::Dpdk;
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::network::{Network, Offloads, RIGHT, RIGHT_V6};
use wirerate_tests::output::{Balance, forward_statistics};
use wirerate_tests::program::{self, Running, forwarder_cpu};
use wirerate_tests::{exclusive, repository, scratch, wait};

use crate::support::bundled_in;

const NEEDS: &[Need] = &[Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping, Need::Dpdk];
const NEEDS_IPERF3: &[Need] =
    &[Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping, Need::Dpdk, Need::Iperf3];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("peers::dpdk_forwards_the_same_traffic", NEEDS, dpdk_forwards),
        trial("peers::our_testpmd_counts_what_dpdk_sends", NEEDS, dpdk_sends),
        trial("peers::tcp_is_compared_in_turns", NEEDS_IPERF3, tcp_in_turns),
        trial("peers::pools_and_rings_are_compared_in_turns", &[Need::Root, Need::Libdpdk], contests),
        trial("peers::virtio_is_compared_in_turns", &[Need::Root, Need::DpdkVirtio, Need::Libdpdk], virtio),
    ]
}

fn dpdk_forwards() -> Result<()> {
    let _turn = exclusive::processors();
    // Its driver does not fill in checksums that were left to hardware, so nothing is left.
    let network = Network::new(Offloads::None)?;
    let dpdk = Dpdk::new();
    let devices = ["--vdev=net_af_packet0,iface=port0", "--vdev=net_af_packet1,iface=port1"];
    let command = dpdk.command(&network.middle, &devices, &["--forward-mode=io"])?;
    let running = network.forward(command)?;
    network.ping(RIGHT, 20, 1472)?;
    network.ping(RIGHT_V6, 20, 56)?;
    network.send_file(64 << 20).with_context(|| running.describe())?;
    let finished = running.end(Signal::INT, Duration::from_secs(30))?;
    // What it prints is read by the same function as ours.
    let blocks = forward_statistics(&finished.stdout)?;
    let all = blocks.get(&None).with_context(|| format!("no statistics:\n{}", finished.stdout))?;
    ensure!(all.rx_packets > 0 && all.tx_packets > 0, "{all:?}");
    Ok(())
}

/// That both take part and say something of the right size; how much is no matter of tests.
fn contests() -> Result<()> {
    let _turn = exclusive::processors();
    let scratch = scratch::directory("contest")?;
    for (contest, work) in [("mempool", "1 core"), ("ring", "single ends, same core")] {
        let svg = scratch.path().join(format!("{contest}.svg"));
        let mut command = Command::new(program::bundled("wirerate")?);
        command.args(["bench", contest, "--rounds", "1", "--ms", "5", "--only", work, "--svg"]).arg(&svg);
        let finished = program::run(command, Duration::from_secs(120))?;
        finished.expect_code(0)?;
        let row = |name: &str| {
            let row = finished.stdout.lines().map(|line| line.split(['│', '┆']).collect::<Vec<_>>().concat());
            let row = row.map(|line| line.trim().to_owned()).find(|line| line.starts_with(name));
            let row = row.with_context(|| format!("no row of {name:?} in:\n{}", finished.stdout))?;
            let figures = row[name.len()..].split_whitespace();
            figures
                .map(|figure| figure.parse::<f64>().with_context(|| row.clone()))
                .collect::<Result<Vec<_>>>()
        };
        for name in ["wirerate  ", "DPDK  ", "DPDK native  "] {
            let figures = row(name)?;
            let sensible = figures.iter().all(|cycles| (0.05..10_000.0).contains(cycles));
            ensure!(figures.len() >= 4 && sensible, "{name}: {figures:?}");
        }
        ensure!(std::fs::read_to_string(&svg)?.contains("DPDK native"), "the plot lacks a line");
    }
    Ok(())
}

/// That all pairs are there, with figures of the right size, and that nothing is left behind.
fn virtio() -> Result<()> {
    let _turn = exclusive::processors();
    // It takes huge pages where there are many.
    let _pages = exclusive::hugepages();
    let scratch = scratch::directory("virtio")?;
    let json = scratch.path().join("figures.json");
    let compare = |what: &[&str]| -> Result<(serde_json::Value, String)> {
        let mut command = Command::new(program::bundled("wirerate")?);
        command.args(["bench", "virtio", "--rounds", "1", "--seconds", "1", "--json"]).arg(&json).args(what);
        command.env("TMPDIR", scratch.path());
        let finished = program::run(command, Duration::from_secs(300))?;
        let figures =
            std::fs::read(&json).with_context(|| format!("{}: {}", finished.what, finished.stderr))?;
        std::fs::remove_file(&json)?;
        let left: Vec<_> =
            std::fs::read_dir(scratch.path())?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "it left {left:?}");
        let figures: serde_json::Value = serde_json::from_slice(&figures)?;
        for row in figures["comparisons"].as_array().into_iter().flatten() {
            let name = row["name"].as_str().context("a row without a name")?;
            ensure!(finished.stdout.contains(name), "no row of {name:?} in:\n{}", finished.stdout);
        }
        Ok((figures, finished.stdout))
    };
    let sensible = |value: &serde_json::Value| value.as_f64().is_some_and(|mpps| (1e-4..1e4).contains(&mpps));

    for (only, pairs) in
        [("round trip, split", 3), ("vhost to virtio, packed, mergeable: wirerate + wirerate", 1)]
    {
        let (figures, _) = compare(&["--only", only])?;
        let rows = figures["comparisons"].as_array().context("no rows")?;
        ensure!(rows.len() == pairs, "{} of {pairs} pairs for {only:?}: {figures:#}", rows.len());
        for row in rows {
            ensure!(row["failure"].is_null(), "{row:#}");
            let all = [&row["ratio"], &row["pair"]["median"], &row["peer"]["median"]];
            ensure!(all.into_iter().all(sensible), "{row:#}");
        }
    }

    let (figures, shown) = compare(&["--only", "l2fwd"])?;
    ensure!(sensible(&figures["l2fwd"]["median"]), "{figures:#}");
    ensure!(figures["l2fwd"]["goal"] == 14.88 && shown.contains("goal 14.88 Mpps"), "{shown}");

    let (figures, shown) = compare(&["--sides", "--mergeable", "on,off"])?;
    let forms = figures["sides"].as_array().context("no sides")?;
    let names: Vec<_> = forms.iter().filter_map(|form| form["rings"].as_str()).collect();
    ensure!(names == ["split, mergeable", "split", "packed, mergeable", "packed"], "{names:?}");
    for form in forms {
        let steps = form["steps"].as_array().context("no steps")?;
        let all = |step: &serde_json::Value| {
            [&step["ratio"], &step["wirerate"]["median"], &step["peer"]["median"]].into_iter().all(sensible)
        };
        ensure!(steps.len() == 4 && steps.iter().all(all), "{form:#}");
    }
    ensure!(shown.contains("packed: device receives"), "{shown}");
    Ok(())
}

fn dpdk_sends() -> Result<()> {
    let _turn = exclusive::processors();
    let network = Network::new(Offloads::None)?;
    let cpu = forwarder_cpu()?;
    let own = ["-l", &cpu, "--no-huge", "--no-pci", "--vdev", "net_af_packet0,iface=port0"];
    let options = ["--", "--forward-mode=rxonly", "--duration", "60"];
    let mut receiver =
        Running::start(bundled_in(&network.middle, "testpmd", &[&own[..], &options].concat())?)?;
    receiver.wait_for("Port 0:", Duration::from_secs(30))?;
    wait::until("its socket", Duration::from_secs(30), || Ok(network.middle.packet_sockets()? > 0))?;

    let dpdk = Dpdk::new();
    let device = ["--vdev=net_af_packet0,iface=host0"];
    let command = dpdk.command(&network.left, &device, &["--forward-mode=txonly", "--txpkts=200"])?;
    let mut sender = Running::start(command)?;
    // Its second report: it has sent for a second.
    wait::until("DPDK to send", Duration::from_secs(60), || {
        ensure!(sender.is_running()?, "DPDK ended: {}", sender.describe());
        Ok(sender.stdout().matches("Port statistics").count() >= 2)
    })?;
    let sent = sender.end(Signal::INT, Duration::from_secs(30))?;
    let sent = forward_statistics(&sent.stdout)?;
    let sent = sent.get(&Some(0)).context("DPDK printed no statistics")?.tx_packets;
    let finished = receiver.end(Signal::INT, Duration::from_secs(30))?;
    finished.expect_code(0)?;
    Balance::read(&finished.stdout)?.check_home()?;
    let received = forward_statistics(&finished.stdout)?;
    let received = received.get(&Some(0)).context("our testpmd printed no statistics")?.rx_packets;
    ensure!(sent > 1000, "DPDK sent {sent}");
    // It may be slower than DPDK sends, on a machine of two processors, but has no packet that was not sent
    // (some few are the host's own).
    ensure!(received > 1000 && received <= sent + 100, "DPDK sent {sent}, {received} were received");
    Ok(())
}

fn tcp_in_turns() -> Result<()> {
    let _turn = exclusive::processors();
    let mut command = repository::cargo()?;
    command.args(["run", "--quiet", "-p", "wirerate-tests", "--example", "tcp_in_turns"]);
    command.args(["--profile", &repository::profile()?, "--", "1", "1"]);
    let finished = program::run(command, Duration::from_secs(600))?;
    finished.expect_code(0)?;
    for direction in ["left to right", "right to left"] {
        ensure!(finished.stdout.contains(direction), "nothing about {direction}:\n{}", finished.stdout);
    }
    Ok(())
}
