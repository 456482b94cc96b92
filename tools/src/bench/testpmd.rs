//! `wirerate bench testpmd`: our testpmd and DPDK's on the same virtual devices.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use wirerate_eal::hugetlb;

use wirerate_tools::paired::{Comparison, Figures, median};

use super::{Common, report, run};

/// MiB of memory that each program is given.
const MEMORY_MIB: usize = 256;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Seconds of each run
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(5..=600))]
    seconds: u32,
    /// Packets in a burst
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512))]
    burst: u16,
    /// Only work whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Work for both programs.
struct Work {
    name: &'static str,
    devices: &'static [&'static str],
    /// Options that both have.
    options: &'static [&'static str],
    cores: u16,
    /// Whether DPDK's testpmd can do it.
    peer: bool,
    /// Whether sent packets count, because none are received.
    sends: bool,
}

const WORKS: &[Work] = &[
    Work {
        name: "io, net_null, 1 core",
        devices: &["net_null0", "net_null1"],
        options: &["--forward-mode=io"],
        cores: 1,
        peer: true,
        sends: false,
    },
    Work {
        name: "mac, net_null, 1 core",
        devices: &["net_null0", "net_null1"],
        options: &["--forward-mode=mac"],
        cores: 1,
        peer: true,
        sends: false,
    },
    Work {
        name: "txonly, net_null, 1 core",
        devices: &["net_null0", "net_null1"],
        options: &["--forward-mode=txonly"],
        cores: 1,
        peer: true,
        sends: true,
    },
    Work {
        name: "io, net_ring, 2 cores",
        devices: &["net_ring0", "net_ring1"],
        options: &["--forward-mode=io", "--tx-first"],
        cores: 2,
        peer: true,
        sends: false,
    },
    Work {
        name: "flowgen, net_ring, 2 cores",
        devices: &["net_ring0", "net_ring1"],
        options: &["--forward-mode=flowgen"],
        cores: 2,
        peer: true,
        sends: false,
    },
    Work {
        name: "txonly into rxonly, net_ring, 2 cores",
        devices: &["net_ring0"],
        options: &["--forward-mode=txonly,rxonly"],
        cores: 2,
        peer: false,
        sends: false,
    },
];

/// The peer's program.
pub(super) const PEER: &str = "dpdk-testpmd";

impl Options {
    pub(super) fn run(&self) -> Result<()> {
        let ours = run::sibling("testpmd")?;
        let peer = peer_version();
        let huge = huge_pages_suffice(MEMORY_MIB);
        let pages = if huge { "2 MiB huge pages" } else { "no huge pages (--no-huge on both sides)" };
        println!("burst {}, {pages}", self.burst);
        if peer.is_none() {
            println!("{PEER} is not installed (Debian: apt install dpdk-dev): Wirerate alone");
        }
        let mut comparisons = Vec::new();
        for work in WORKS {
            if self.only.as_ref().is_some_and(|only| !work.name.contains(only.as_str())) {
                continue;
            }
            let time = Duration::from_secs(u64::from(self.seconds));
            let measure = |command: &mut Command| -> Result<Figures> {
                let output = run::run_for(command, time)?;
                read(&output, work.sends).with_context(|| format!("reading the output of {command:?}"))
            };
            let theirs = (work.peer && peer.is_some())
                .then_some(|| measure(Command::new(PEER).args(self.peer_arguments(work, huge))));
            comparisons.push(Comparison::measure(
                work.name,
                "Mpps",
                self.common.rounds,
                || measure(Command::new(&ours).args(self.our_arguments(work, huge))),
                theirs,
            )?);
        }
        ensure!(
            !comparisons.is_empty(),
            "no work has {:?} in its name",
            self.only.as_deref().unwrap_or_default()
        );
        report(&self.common, self.seconds, peer.as_deref().unwrap_or("nothing"), &comparisons)
    }

    /// Options that are the same on both sides, after `--`.
    fn program_arguments(&self, work: &Work) -> Vec<String> {
        let mut arguments: Vec<String> = work.options.iter().map(|&option| option.to_owned()).collect();
        arguments.push(format!("--burst={}", self.burst));
        arguments.push(format!("--nb-cores={}", work.cores));
        arguments.extend(["--mbcache=250", "--total-num-mbufs=16384", "--stats-period=1"].map(str::to_owned));
        arguments.extend(["--record-core-cycles", "--no-mlockall"].map(str::to_owned));
        arguments
    }

    fn our_arguments(&self, work: &Work, huge: bool) -> Vec<String> {
        let mut arguments = environment(work, huge);
        // The same processors as the peer's forwarding cores.
        arguments.push(if work.cores == 1 { "--lcores=1@1" } else { "--lcores=0@0,1@1" }.to_owned());
        arguments.push("--".to_owned());
        arguments.extend(self.program_arguments(work));
        arguments
    }

    fn peer_arguments(&self, work: &Work, huge: bool) -> Vec<String> {
        let mut arguments = environment(work, huge);
        // DPDK's main core does not forward: it shares processor 0 with the second forwarding core.
        arguments.push(if work.cores == 1 { "--lcores=0@0,1@1" } else { "--lcores=0@0,1@1,2@0" }.to_owned());
        arguments.push("--".to_owned());
        arguments.extend(self.program_arguments(work));
        arguments
    }
}

/// Whether there are free 2 MiB pages for `mib` of memory, of which DPDK takes all that it is given.
pub(super) fn huge_pages_suffice(mib: usize) -> bool {
    const PAGE: usize = 2 << 20;
    let pages = (mib << 20).div_ceil(PAGE) as u64;
    hugetlb::pools().iter().any(|pool| pool.page_size == PAGE && pool.available() >= pages)
}

/// Options of the environment that both understand.
fn environment(work: &Work, huge: bool) -> Vec<String> {
    let mut arguments = vec!["--no-pci".to_owned(), "-m".to_owned(), MEMORY_MIB.to_string()];
    // DPDK refuses the two together.
    arguments.push(if huge { "--in-memory" } else { "--no-huge" }.to_owned());
    for device in work.devices {
        arguments.extend(["--vdev".to_owned(), (*device).to_owned()]);
    }
    arguments
}

/// The version that the peer's program says it is; none when it is not installed.
pub(super) fn peer_version() -> Option<String> {
    let output = Command::new(PEER).args(["-v", "-h"]).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let version =
        text.lines().find_map(|line| line.split_once("RTE Version: ").map(|(_, v)| v.trim_matches('\'')));
    Some(version.unwrap_or("DPDK of unknown version").to_owned())
}

/// Reads the rates that both programs print each second, all ports together, and the cycles at the end. The
/// first two seconds are left out: one for starting, one for warming up.
fn read(output: &str, sends: bool) -> Result<Figures> {
    let seconds = rates(output, sends)?;
    let rate = median(seconds.into_iter().skip(2)).context("it printed fewer than 3 reports")?;
    Ok(Figures { rate, cycles: cycles(output) })
}

/// The rates that both programs print each second, all ports together, in Mpps: of what they send, or of what they
/// receive.
///
/// # Errors
/// When a rate is no number.
pub(super) fn rates(output: &str, sends: bool) -> Result<Vec<f64>> {
    let direction = if sends { "Tx-pps:" } else { "Rx-pps:" };
    let mut seconds: Vec<f64> = Vec::new();
    // What comes after the first line of the totals is no report of a second.
    let reports =
        output.lines().map(str::trim).take_while(|line| !line.contains("Forward statistics for port"));
    for line in reports {
        if line.starts_with("Port statistics ===") {
            seconds.push(0.0);
        } else if let (Some(rest), Some(sum)) = (line.strip_prefix(direction), seconds.last_mut()) {
            let rate = rest.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
            *sum += rate.with_context(|| format!("no rate in \"{line}\""))? / 1e6;
        }
    }
    Ok(seconds)
}

/// The cycles that a packet cost, as both programs tell at the end of a run with `--record-core-cycles`.
pub(super) fn cycles(output: &str) -> Option<f64> {
    output
        .lines()
        .find_map(|line| line.split_once("CPU cycles/packet="))
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_both_programs_are_read() {
        let block = |rate: u32| {
            format!(
                "Port statistics ====================================\n  Rx-pps:     {rate}          Rx-bps: 1\n  \
                 Tx-pps:  5          Tx-bps: 1\n  Rx-pps: 1000000          Rx-bps: 1\n"
            )
        };
        let output = [1, 2, 3_000_000, 5_000_000, 4_000_000].map(block).concat()
            + "  ------- Forward statistics for port 0  -------\nRx-pps: 99999999  Tx-pps: 9\n  CPU cycles/packet=12.50 (busy cycles=1 / total io packets=1) at 2445 MHz Clock\n";
        assert_eq!(read(&output, false).unwrap(), Figures { rate: 5.0, cycles: Some(12.5) });
        assert!(read(&block(1), false).is_err());
    }
}
