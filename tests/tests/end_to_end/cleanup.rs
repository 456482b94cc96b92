//! What is left when a forwarder ends in the midst of its work: nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tempfile::TempDir;
use wirerate_tests::hugepages::{self, Counts, Reservation};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::network::{Network, Offloads, RIGHT};
use wirerate_tests::output::Totals;
use wirerate_tests::program::{self, Running, forwarder_cpu};
use wirerate_tests::{exclusive, namespace, scratch, wait};

use crate::support::{LAST_RESORT, LIMIT, bundled, bundled_in, text};

/// Pages that a run may use: 128 MiB.
const PAGES: u64 = 64;
/// Time for the kernel to take everything back after the end of a process.
const SETTLE: Duration = Duration::from_secs(30);

const NEEDS_NETWORK: &[Need] = &[Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping, Need::Iperf3];
const NEEDS_PAGES: &[Need] = &[Need::Root, Need::Hugepages];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cleanup::sigterm_amid_tcp_leaves_nothing", NEEDS_NETWORK, || amid_tcp(Signal::TERM)),
        trial("cleanup::sigkill_amid_tcp_leaves_nothing", NEEDS_NETWORK, || amid_tcp(Signal::KILL)),
        trial("cleanup::hugepages_come_back_after_sigterm", NEEDS_PAGES, || pages(Signal::TERM)),
        trial("cleanup::hugepages_come_back_after_sigkill", NEEDS_PAGES, || pages(Signal::KILL)),
        trial("cleanup::what_a_kill_left_the_next_run_removes", NEEDS_PAGES, left_by_choice),
    ]
}

fn amid_tcp(signal: Signal) -> Result<()> {
    let _turn = exclusive::processors();
    let prefix = scratch::unique("files");
    let network = Network::new(Offloads::None)?;
    let cpu = forwarder_cpu()?;
    let environment = [
        "-l",
        &cpu,
        "--no-huge",
        "--no-pci",
        "--file-prefix",
        &prefix,
        "--vdev",
        "net_af_packet0,iface=port0",
    ];
    let own = ["--vdev", "net_af_packet1,iface=port1", "--", "--no-mac-updating", "-T", "0"];
    let arguments = [&environment[..], &own, &LAST_RESORT].concat();
    let spaces = other_namespaces()?;
    let forwarder = network.forward(bundled_in(&network.middle, "l2fwd", &arguments)?)?;
    ensure!(network.middle.packet_sockets()? > 0, "it forwards without a socket: nothing is looked at here");

    let mut server = network.right.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = Running::start(server)?;
    server.wait_for("Server listening", LIMIT)?;
    let mut client = network.left.command("iperf3");
    client.args(["--client", RIGHT, "--time", "60", "--interval", "0.2", "--forceflush"]);
    let mut client = Running::start(client)?;
    // The first report with a rate: bytes flow.
    client.wait_for("bits/sec", LIMIT)?;

    let pid = forwarder.id();
    let finished = forwarder.end(signal, LIMIT)?;
    if signal == Signal::KILL {
        ensure!(finished.status.code().is_none(), "it survived: {:?}", finished.status);
    } else {
        finished.expect_code(0)?;
        let totals = Totals::read(&finished.stdout)?;
        ensure!(totals.port(0)?.received > 100, "there was next to no traffic: {totals:?}");
    }
    wait::until("the sockets to go", SETTLE, || Ok(network.middle.packet_sockets()? == 0))?;
    let links = network.middle.run("ip", &["-d", "-o", "link", "show"])?.stdout;
    ensure!(links.matches("promiscuity ").count() >= 3, "ip tells nothing of promiscuity:\n{links}");
    ensure!(links.lines().all(|link| link.contains("promiscuity 0 ")), "one stays promiscuous:\n{links}");
    let inside = network.middle.run("ip", &["netns", "pids", network.middle.name()])?;
    // The command that asks is inside itself, so only the forwarder's own id tells.
    ensure!(inside.stdout.lines().all(|line| line.trim() != pid.to_string()), "{pid} runs still");
    ensure!(other_namespaces()? == spaces, "it left a namespace");
    let files = files_with(&prefix);
    ensure!(files.is_empty(), "it left files: {files:?}");
    Ok(())
}

/// Namespaces that are not these tests' own, which come and go.
fn other_namespaces() -> Result<Vec<String>> {
    let mut names = namespace::existing()?;
    names.retain(|name| !name.starts_with("wirerate-"));
    names.sort();
    Ok(names)
}

/// Files and sockets whose name has `prefix`, where programs keep such things.
fn files_with(prefix: &str) -> Vec<PathBuf> {
    let folders = ["/dev/shm", "/dev/hugepages", "/run", "/var/run", "/run/wirerate", "/run/dpdk", "/tmp"];
    let temporary = std::env::temp_dir();
    let entries =
        folders.iter().map(Path::new).chain([temporary.as_path()]).filter_map(|f| f.read_dir().ok());
    let names = entries.flat_map(Iterator::flatten).map(|entry| entry.path());
    names.filter(|path| path.to_string_lossy().contains(prefix)).collect()
}

/// A hugetlbfs of 2 MiB pages for the time of a test.
struct HugeMount {
    folder: TempDir,
}

impl HugeMount {
    fn new() -> Result<Self> {
        let folder = scratch::directory("hugetlbfs")?;
        let mut command = Command::new("mount");
        command.args(["-t", "hugetlbfs", "-o", "pagesize=2M", "none"]).arg(folder.path());
        program::run(command, LIMIT)?.expect_code(0)?;
        Ok(Self { folder })
    }

    fn path(&self) -> Result<&str> {
        text(self.folder.path())
    }

    fn files(&self) -> Result<usize> {
        Ok(self.folder.path().read_dir().context("reading the hugetlbfs")?.count())
    }
}

impl Drop for HugeMount {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg(self.folder.path());
        // The folder cannot be removed if this fails; the next run tries again.
        let _ = program::run(command, LIMIT);
    }
}

/// l2fwd in the midst of its work, with its mbufs in huge pages for certain.
fn start_on_pages(options: &[&str]) -> Result<Running> {
    let cpu = forwarder_cpu()?;
    let devices = ["-l", &cpu, "--no-pci", "--vdev", "net_null0", "--vdev", "net_null1"];
    let arguments = [&devices[..], options, &["--", "-T", "1"], &LAST_RESORT].concat();
    let mut running = Running::start(bundled("l2fwd", &arguments)?)?;
    running.wait_for("Mpps", LIMIT)?;
    let used = hugepages::used_by(running.id())?;
    ensure!(used > 0, "none of its memory is in huge pages; it says:\n{}", running.describe());
    Ok(running)
}

fn wait_for_pages(before: Counts) -> Result<()> {
    wait::until("the huge pages to come back", SETTLE, || Ok(hugepages::counts()?.used() <= before.used()))
        .with_context(|| format!("{before:?} became {:?}", hugepages::counts()))
}

fn pages(signal: Signal) -> Result<()> {
    // Whoever runs without --no-huge takes this turn, too: pages that are in use are this test's.
    let _turn = exclusive::processors();
    let _reservation = Reservation::new(PAGES)?;
    let mount = HugeMount::new()?;
    let prefix = scratch::unique("pages");
    let before = hugepages::counts()?;
    let ways: [&[&str]; 3] = [
        &["--file-prefix", &prefix],
        &["--in-memory"],
        &["--huge-dir", mount.path()?, "--file-prefix", &prefix],
    ];
    for way in ways {
        let running = start_on_pages(way).with_context(|| format!("{way:?}"))?;
        let finished = running.end(signal, LIMIT)?;
        if signal == Signal::TERM {
            finished.expect_code(0)?;
            Totals::read(&finished.stdout)?;
        }
        ensure!(mount.files()? == 0, "{way:?} left a file");
        ensure!(files_with(&prefix).is_empty(), "{way:?} left {:?}", files_with(&prefix));
        wait_for_pages(before).with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

fn left_by_choice() -> Result<()> {
    let _turn = exclusive::processors();
    let _reservation = Reservation::new(PAGES)?;
    let mount = HugeMount::new()?;
    let prefix = scratch::unique("kept");
    let before = hugepages::counts()?;
    let way = ["--huge-dir", mount.path()?, "--file-prefix", &prefix, "--huge-unlink=existing"];
    // With files that keep their names, a kill does leave some. That is the user's choice here.
    start_on_pages(&way)?.end(Signal::KILL, LIMIT)?;
    ensure!(mount.files()? > 0, "the files had no names: nothing is looked at here");
    // The next run takes those of the dead one away, and its own at its end.
    let finished = start_on_pages(&way)?.end(Signal::TERM, LIMIT)?;
    finished.expect_code(0)?;
    ensure!(mount.files()? == 0, "{} files are left", mount.files()?);
    wait_for_pages(before)
}
