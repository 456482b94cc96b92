//! What a user meets first: help, the demonstration, and how bad input is answered.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use wirerate_tests::needs::{self, Need, trial};
use wirerate_tests::output::{Balance, Forwarded, Totals, cycles_per_packet, forward_statistics};
use wirerate_tests::program::{self, Finished, Running};
use wirerate_tests::{capture, exclusive, frames, scratch};

use crate::support::{LIMIT, bundled, expect_refusal, l2fwd, run, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("usage::help_shows_both_kinds_of_options", &[], help),
        trial("usage::unknown_options_are_named_with_the_likely_one", &[], unknown_options),
        trial("usage::values_out_of_range_are_refused", &[], wrong_values),
        trial("usage::unknown_drivers_and_parameters_are_named_with_the_likely_one", &[], unknown_names),
        trial("usage::a_missing_interface_is_named", &[], missing_interface),
        trial("usage::missing_permission_is_told_with_what_gives_it", &[Need::Unprivileged], no_permission),
        trial("usage::queues_that_a_port_cannot_have_are_refused", &[], too_many_queues),
        trial("usage::a_pool_too_small_is_told_the_sum", &[], small_pool),
        trial("usage::missing_and_foreign_files_are_named", &[], wrong_files),
        trial("usage::ports_that_are_not_there_are_refused", &[], wrong_ports),
        trial("usage::the_demonstration_ends_with_totals", &[], demonstration),
        trial("usage::the_demonstration_ends_at_sigint_and_sigterm", &[], demonstration_signals),
        trial("usage::a_pipe_gets_no_escape_sequences", &[], pipe),
        trial("usage::a_terminal_gets_a_table_refreshed_in_place", &[Need::Script], terminal),
        trial("usage::testpmd_prints_what_dpdk_prints", &[], testpmd),
        trial("usage::testpmd_sends_and_receives_over_a_ring", &[], testpmd_over_ring),
        trial("usage::hugetlbfs_is_mounted_and_unmounted", &[Need::Root, Need::Hugepages], hugetlbfs),
        trial("usage::binding_without_privileges_is_told", &[Need::Unprivileged], bind_unprivileged),
        trial("usage::the_demonstration_runs_without_privileges", &[Need::Unprivileged], unprivileged),
    ]
}

fn help() -> Result<()> {
    let options = [
        (
            "l2fwd",
            ["--portmap", "--no-mac-updating", "--duration", "-q", "--idle-policy", "--total-num-mbufs"],
        ),
        ("testpmd", ["--forward-mode", "--burst", "--txpkts", "--nb-cores", "--idle-policy", "--mbcache"]),
    ];
    for (program, own) in options {
        for ask in [&["--help"][..], &["-h"], &["--", "--help"]] {
            let finished = run(program, ask)?;
            finished.expect_code(0)?;
            ensure!(finished.stderr.is_empty(), "{program} {ask:?} complains: {}", finished.stderr);
            let environment = ["--vdev", "--no-huge", "--in-memory", "--lcores", "-m", "--huge-dir"];
            for option in own.iter().chain(&environment) {
                ensure!(finished.stdout.contains(option), "{program} {ask:?} does not show {option}");
            }
        }
    }
    Ok(())
}

fn unknown_options() -> Result<()> {
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("l2fwd", &["--no-hug"], &["--no-hug", "--no-huge"]),
        ("l2fwd", &["--vdevs", "net_null0"], &["--vdevs", "--vdev"]),
        ("l2fwd", &["--", "--no-mac-updatin"], &["--no-mac-updatin", "--no-mac-updating"]),
        ("testpmd", &["--", "--forward-mod=io"], &["--forward-mod", "--forward-mode"]),
        // An option of the program before `--` is the most common slip of all.
        ("testpmd", &["--forward-mode=io"], &["--forward-mode"]),
    ];
    for (program, arguments, words) in cases {
        expect_refusal(&run(program, arguments)?, words)?;
    }
    Ok(())
}

fn wrong_values() -> Result<()> {
    let null = ["--no-huge", "--vdev", "net_null0", "--vdev", "net_null1", "--"];
    let cases: [(&str, &[&str], &[&str]); 13] = [
        ("l2fwd", &["--duration", "soon"], &["--duration", "soon"]),
        ("l2fwd", &["-T", "often"], &["-T", "often"]),
        ("l2fwd", &["--idle-policy", "sleep=soon"], &["--idle-policy", "sleep=soon", "sleep=200us"]),
        ("l2fwd", &["-q", "0"], &["-q"]),
        ("l2fwd", &["-p", "xyz"], &["xyz", "hexadecimal"]),
        ("l2fwd", &["-p", "0"], &["no port"]),
        ("l2fwd", &["--portmap", "(0,1"], &["(0,1"]),
        ("l2fwd", &["--portmap", "(0,1),(1,0)"], &["two pairs"]),
        ("testpmd", &["--forward-mode=fast"], &["fast", "rxonly"]),
        ("testpmd", &["--burst=0"], &["--burst", "512"]),
        ("testpmd", &["--burst=100000"], &["--burst", "512"]),
        ("testpmd", &["--nb-cores=1000"], &["--nb-cores", "1000", "-l"]),
        ("testpmd", &["--txpkts=60000"], &["--txpkts"]),
    ];
    for (program, arguments, words) in cases {
        expect_refusal(&run(program, &[&null, arguments].concat())?, words)?;
    }
    let cases: [(&[&str], &[&str]); 4] = [
        (&["-l", "two"], &["two"]),
        (&["-l", "0@99999"], &["99999"]),
        (&["-m", "0"], &["-m"]),
        (&["--huge-dir", "/nonexistent/wirerate"], &["/nonexistent/wirerate"]),
    ];
    for (arguments, words) in cases {
        let arguments = [arguments, &["--vdev", "net_null0", "--vdev", "net_null1"]].concat();
        expect_refusal(&run("l2fwd", &arguments)?, words)?;
    }
    Ok(())
}

fn unknown_names() -> Result<()> {
    let cases: [(&str, &[&str]); 5] = [
        ("net_af_paket0,iface=lo", &["net_af_paket", "net_af_packet"]),
        ("net_nul0", &["net_nul", "net_null"]),
        ("nosuchthing", &["nosuchthing", "net_null", "net_ring", "net_pcap", "net_af_packet"]),
        ("net_null0,sise=64", &["sise", "size"]),
        ("net_null0,size=big", &["net_null0", "size", "big"]),
    ];
    for (vdev, words) in cases {
        expect_refusal(&run("l2fwd", &["--no-huge", "--vdev", vdev])?, words)?;
    }
    let twice = run("l2fwd", &["--no-huge", "--vdev", "net_null0", "--vdev", "net_null0"])?;
    expect_refusal(&twice, &["net_null0"])?;
    Ok(())
}

fn missing_interface() -> Result<()> {
    let finished = run("l2fwd", &["--no-huge", "--vdev", "net_af_packet0,iface=wirerate-none"])?;
    // What there is instead is in the message too.
    expect_refusal(&finished, &["net_af_packet0", "wirerate-none", "lo"])?;
    expect_refusal(&run("l2fwd", &["--no-huge", "--vdev", "net_af_packet0"])?, &["iface"])?;
    Ok(())
}

/// `program` as a user without privileges runs it.
fn as_user(program: &str, arguments: &[&str]) -> Result<Finished> {
    if !needs::is_root() {
        return run(program, arguments);
    }
    // The repository may be where only root can look.
    let folder = scratch::directory("program")?;
    let copy: PathBuf = folder.path().join(program);
    fs::copy(program::bundled(program)?, &copy).context("copying the program")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(needs::find("setpriv").context("setpriv is gone")?);
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]);
    command.arg(copy).args(arguments);
    program::run(command, LIMIT)
}

fn no_permission() -> Result<()> {
    let finished = as_user("l2fwd", &["--no-huge", "--vdev", "net_af_packet0,iface=lo"])?;
    expect_refusal(&finished, &["net_af_packet0", "CAP_NET_RAW", "root"])?;
    let folder = scratch::directory("unreadable")?;
    let file = folder.path().join("in.pcap");
    capture::write(&file, capture::Format::Nano, frames::mixed(1, 1))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000))?;
    let vdev = format!("net_pcap0,rx_pcap={}", text(&file)?);
    expect_refusal(&as_user("l2fwd", &["--no-huge", "--vdev", &vdev])?, &[text(&file)?])?;
    Ok(())
}

fn too_many_queues() -> Result<()> {
    let folder = scratch::directory("queues")?;
    let file = folder.path().join("in.pcap");
    capture::write(&file, capture::Format::Nano, frames::mixed(1, 1))?;
    let vdev = format!("net_pcap0,rx_pcap={}", text(&file)?);
    let finished = run("testpmd", &["--no-huge", "--vdev", &vdev, "--", "--rxq=4"])?;
    expect_refusal(&finished, &["net_pcap0", "4", "1", "queue"])?;
    Ok(())
}

fn small_pool() -> Result<()> {
    let ask = |mbufs: &str| {
        let vdevs = ["--no-huge", "--no-pci", "--vdev", "net_ring0", "--vdev", "net_ring1"];
        let own = ["--", "--duration", "0.2", "--total-num-mbufs", mbufs];
        run("l2fwd", &[&vdevs[..], &own].concat())
    };
    let line = expect_refusal(&ask("64")?, &["64", " + ", " = "])?;
    // The sum is right when as many as it says are enough, and one less is not.
    let sum = line.split(" = ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let needed: u64 =
        sum.and_then(|digits| digits.parse().ok()).with_context(|| format!("no sum in {line}"))?;
    ensure!(needed > 64, "{needed} mbufs are needed, and 64 were refused");
    expect_refusal(&ask(&(needed - 1).to_string())?, &[&needed.to_string()])?;
    let finished = ask(&needed.to_string())?;
    finished.expect_code(0)?;
    let totals = Totals::read(&finished.stdout)?;
    ensure!(totals.pool.size == needed, "asked for {needed} mbufs: {:?}", totals.pool);
    Ok(())
}

fn wrong_files() -> Result<()> {
    let folder = scratch::directory("wrong")?;
    let missing = folder.path().join("missing.pcap");
    let foreign = folder.path().join("foreign.pcap");
    fs::write(&foreign, "This is no capture file, and it is long enough to be one.\n")?;
    let empty = folder.path().join("empty.pcap");
    fs::write(&empty, "")?;
    let wifi = folder.path().join("wifi.pcap");
    let mut header = capture::Format::Nano.preamble();
    // Link type 105: IEEE 802.11.
    header[20] = 105;
    fs::write(&wifi, header)?;
    for file in [missing.as_path(), &foreign, &empty, &wifi, folder.path()] {
        let vdev = format!("net_pcap0,rx_pcap={}", text(file)?);
        expect_refusal(&run("l2fwd", &["--no-huge", "--vdev", &vdev])?, &["net_pcap0", text(file)?])?;
    }
    let nowhere = folder.path().join("no/such/folder/out.pcap");
    let vdev = format!("net_pcap0,tx_pcap={}", text(&nowhere)?);
    expect_refusal(&run("l2fwd", &["--no-huge", "--vdev", &vdev])?, &["net_pcap0", text(&nowhere)?])?;
    Ok(())
}

fn wrong_ports() -> Result<()> {
    expect_refusal(&run("l2fwd", &["--no-huge", "--", "-p", "3"])?, &["-p", "--vdev"])?;
    let two = ["--no-huge", "--vdev", "net_null0", "--vdev", "net_null1", "--"];
    let refused = |own: &[&str], words: &[&str]| -> Result<()> {
        expect_refusal(&run("l2fwd", &[&two, own].concat())?, words).map(drop)
    };
    refused(&["-p", "4"], &["mask", "3"])?;
    refused(&["--portmap", "(0,7)"], &["7"])?;
    expect_refusal(&run("testpmd", &["--no-huge"])?, &["--vdev"])?;
    Ok(())
}

fn demonstration() -> Result<()> {
    let _turn = exclusive::processors();
    let begun = Instant::now();
    let (totals, stdout) = l2fwd_demo(&["--duration", "1"])?;
    ensure!(begun.elapsed() < Duration::from_secs(30), "one second took {:?}", begun.elapsed());
    for id in [0, 1] {
        let port = totals.port(id)?;
        ensure!(
            port.received > 10_000 && port.sent > 10_000,
            "port {id} forwarded next to nothing: {port:?}"
        );
    }
    // What came in by one went out by the other, but what was dropped on the way.
    let (zero, one) = (totals.port(0)?, totals.port(1)?);
    ensure!(zero.sent <= one.received && one.sent <= zero.received, "packets out of nowhere: {totals:?}");
    ensure!(totals.rate.mpps > 0.01 && totals.rate.cycles > 0.0, "{stdout}");
    Ok(())
}

/// l2fwd without a device, as the README runs it.
fn l2fwd_demo(options: &[&str]) -> Result<(Totals, String)> {
    let finished = run("l2fwd", &[&["--"], options].concat())?;
    finished.expect_code(0)?;
    Ok((Totals::read(&finished.stdout)?, finished.stdout))
}

fn demonstration_signals() -> Result<()> {
    let _turn = exclusive::processors();
    for signal in [Signal::INT, Signal::TERM] {
        let mut running = Running::start(bundled("l2fwd", &["--", "--duration", "60"])?)?;
        // The first report: it is in the midst of it.
        running.wait_for("Mpps", LIMIT)?;
        let begun = Instant::now();
        let finished = running.end(signal, LIMIT)?;
        finished.expect_code(0).with_context(|| format!("after {signal:?}"))?;
        let totals = Totals::read(&finished.stdout).with_context(|| format!("after {signal:?}"))?;
        ensure!(totals.port(0)?.received > 0, "nothing was received before {signal:?}");
        ensure!(begun.elapsed() < Duration::from_secs(20), "the end took {:?}", begun.elapsed());
    }
    Ok(())
}

fn pipe() -> Result<()> {
    let _turn = exclusive::processors();
    let finished = run("l2fwd", &["--", "--duration", "2.2"])?;
    finished.expect_code(0)?;
    for (name, text) in [("stdout", &finished.stdout), ("stderr", &finished.stderr)] {
        ensure!(!text.contains('\x1b'), "{name} has escape sequences:\n{text:?}");
        ensure!(!text.contains('\r'), "{name} has carriage returns:\n{text:?}");
    }
    let reports = finished.stdout.lines().filter(|line| line.contains(" s  rx ")).count();
    ensure!(reports >= 2, "two seconds had {reports} reports:\n{}", finished.stdout);
    Ok(())
}

fn terminal() -> Result<()> {
    let _turn = exclusive::processors();
    let program = program::bundled("l2fwd")?;
    let mut command = Command::new("script");
    let line = format!("'{}' -- --duration 3.3", text(&program)?);
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    let finished = program::run(command, LIMIT)?;
    finished.expect_code(0)?;
    let stdout = &finished.stdout;
    // Each table but the first goes up over the one before (CPL, `ESC [ n F`) and clears from there (`ESC [ J`).
    let moves: Vec<usize> = stdout
        .split("\x1b[")
        .skip(1)
        .filter_map(|rest| rest.split_once('F').and_then(|(count, _)| count.parse().ok()))
        .collect();
    ensure!(moves.len() >= 2, "three seconds have {} refreshes:\n{stdout:?}", moves.len());
    ensure!(stdout.matches("\x1b[J").count() >= moves.len(), "the old table is not cleared:\n{stdout:?}");
    // From the first table's head to the first move there are as many lines as it goes up.
    let (before, _) = stdout.split_once(&format!("\x1b[{}F", moves[0])).context("the first move is gone")?;
    let table = before.rfind("link").and_then(|head| before[..head].rfind('\n')).context("no table")?;
    let lines = before[table + 1..].lines().count();
    ensure!(
        (lines..=lines + 1).contains(&moves[0]),
        "the table has {lines} lines, and the refresh goes up {}:\n{stdout:?}",
        moves[0]
    );
    Totals::read(&stdout.replace('\r', "")).map(drop)
}

fn testpmd() -> Result<()> {
    let vdevs = ["--no-huge", "--no-pci", "--vdev", "net_null0", "--vdev", "net_null1"];
    for mode in ["io", "mac", "macswap", "rxonly", "txonly", "flowgen"] {
        let mode_option = format!("--forward-mode={mode}");
        let own = ["--", &mode_option, "--record-core-cycles", "--stats-period", "1", "--duration", "0.5"];
        let finished = run("testpmd", &[&vdevs[..], &own].concat())?;
        finished.expect_code(0)?;
        let stdout = &finished.stdout;
        Balance::read(stdout)?.check_home().with_context(|| mode.to_owned())?;
        let blocks = forward_statistics(stdout)?;
        let all = blocks.get(&None).with_context(|| format!("{mode}: nothing accumulated:\n{stdout}"))?;
        let ports: Vec<_> = [0, 1].iter().filter_map(|id| blocks.get(&Some(*id))).collect();
        ensure!(ports.len() == 2, "{mode}: not two ports:\n{stdout}");
        let sum = |what: fn(&Forwarded) -> u64| ports.iter().map(|p| what(p)).sum::<u64>();
        ensure!(sum(|port| port.rx_packets) == all.rx_packets, "{mode}: the sum is wrong:\n{stdout}");
        ensure!(sum(|port| port.tx_packets) == all.tx_packets, "{mode}: the sum is wrong:\n{stdout}");
        ensure!((all.rx_packets > 0) == (mode != "txonly"), "{mode} received {}:\n{stdout}", all.rx_packets);
        ensure!((all.tx_packets > 0) == (mode != "rxonly"), "{mode} sent {}:\n{stdout}", all.tx_packets);
        let cycles = cycles_per_packet(stdout)?;
        ensure!(cycles > 0.0, "{mode}: {cycles} cycles a packet:\n{stdout}");
    }
    Ok(())
}

fn testpmd_over_ring() -> Result<()> {
    let _turn = exclusive::processors();
    // In a loop over one ring, what was sent first goes round for ever.
    let vdev = ["--no-huge", "--no-pci", "--vdev", "net_ring0", "--"];
    let own =
        ["--forward-mode=io", "--port-topology=loop", "--tx-first=2", "--burst=16", "--duration", "0.5"];
    let finished = run("testpmd", &[&vdev[..], &own].concat())?;
    finished.expect_code(0)?;
    Balance::read(&finished.stdout)?.check_home()?;
    let blocks = forward_statistics(&finished.stdout)?;
    let all = blocks.get(&None).context("nothing accumulated")?;
    // 32 packets went out first; each was received and sent again, but those on their way at the end.
    ensure!(
        all.rx_packets > 1000,
        "32 packets went round {} times:\n{}",
        all.rx_packets / 32,
        finished.stdout
    );
    let sent = all.tx_packets;
    ensure!(
        (all.rx_packets..=all.rx_packets + 64).contains(&sent),
        "{} received, {sent} sent",
        all.rx_packets
    );
    Ok(())
}

fn unprivileged() -> Result<()> {
    let _turn = exclusive::processors();
    let finished = as_user("l2fwd", &["--", "--duration", "1"])?;
    finished.expect_code(0)?;
    let totals = Totals::read(&finished.stdout)?;
    ensure!(totals.port(0)?.received > 10_000, "{totals:?}");
    // Devices given by name need no more.
    let arguments = ["--vdev", "net_null0", "--vdev", "net_null1", "--", "--duration", "0.5"];
    as_user("l2fwd", &arguments)?.expect_code(0)?;
    let (null, _) = l2fwd(&["net_null0", "net_null1"], &["--duration", "0.5"])?;
    ensure!(null.port(1)?.received > 0, "{null:?}");
    Ok(())
}

/// In a mount namespace of its own, so that the machine's mounts stay as they are.
fn hugetlbfs() -> Result<()> {
    let folder = scratch::directory("hugetlbfs")?;
    // A second name for it, by which the table of mounts does not know it.
    let (place, name) = (folder.path().join("huge"), folder.path().join("link"));
    symlink(&place, &name)?;
    fs::create_dir(&place)?;
    let (place, name) = (text(&place)?, text(&name)?);
    let tool = program::bundled("wirerate")?;
    let alone = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-e",
            "-c",
            script,
            text(&tool)?,
            place,
            name,
        ]);
        program::run(command, LIMIT)
    };
    let finished = alone(
        r#"
        "$0" hugepages --mount --page-size 2M --directory "$2"
        grep " $1 hugetlbfs .*pagesize=2M" /proc/self/mounts
        touch "$1/file"
        "$0" hugepages -m -d "$1"
        "$0" hugepages -u -d "$1"
        ! grep " $1 " /proc/self/mounts
        "$0" hugepages -u -d "$1"
        "#,
    )?;
    finished.expect_code(0)?;
    let shown = &finished.stdout;
    for line in [
        format!("hugetlbfs with pages of 2M on {place}\n"),
        format!("hugetlbfs is mounted on {place} already\n"),
        format!("no hugetlbfs is mounted on {place}\n"),
    ] {
        ensure!(shown.contains(&line), "no {line:?} in:\n{shown}");
    }
    let busy = alone(r#""$0" hugepages -m -d "$1"; cd "$1"; exec "$0" hugepages -u -d "$1""#)?;
    busy.expect_code(1)?;
    ensure!(busy.stderr.contains("a program uses it") && busy.stderr.lines().count() == 1, "{}", busy.stderr);
    ensure!(!fs::read_to_string("/proc/self/mounts")?.contains(place), "it is mounted outside");
    Ok(())
}

fn bind_unprivileged() -> Result<()> {
    // Whatever the machine has, it is shown to everybody.
    as_user("wirerate", &["bind"])?.expect_code(0)?;
    expect_refusal(&as_user("wirerate", &["bind", "-b", "vfio-pci", "ffff:ff:1f.7"])?, &["ffff:ff:1f.7"])?;
    Ok(())
}
