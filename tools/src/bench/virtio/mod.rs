//! `wirerate bench virtio`: a virtio driver and a vhost device in two processes, ours and DPDK's in all pairs.
//!
//! The peer is DPDK's driver with DPDK's device. Each of our pairs runs right before or after it.

mod link;
mod report;
mod side;
mod sides;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use wirerate_eal::Topology;
use wirerate_tools::paired::{median, take_turns};

use self::link::Link;
use self::report::{Demonstration, Row};
use self::side::{MEMORY_MIB, Player, Rings, Setting, Traffic};
use super::{Common, machine, run, testpmd};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Seconds that are measured of each run, once packets flow
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Repeat a run in which others took more than 5 % of a side's processor, up to so many times
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    again: u32,
    /// Packets in a burst
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    burst: u16,
    /// Rings to measure on
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', default_values = ["split", "packed"])]
    rings: Vec<Kind>,
    /// Whether packets may lie in several buffers (VIRTIO_NET_F_MRG_RXBUF); several give a row each
    #[arg(long, value_name = "on|off,...", value_delimiter = ',', default_values = ["on"])]
    mergeable: Vec<Switch>,
    /// Whether buffers are used in order (VIRTIO_F_IN_ORDER); several give a row each
    #[arg(long, value_name = "on|off,...", value_delimiter = ',', default_values = ["off"])]
    in_order: Vec<Switch>,
    /// Instead: what a packet costs the driver and the device each by itself, both played by one thread by turns
    #[arg(long, conflicts_with_all = ["again", "only"])]
    sides: bool,
    /// Only rows whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Split,
    Packed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// The pairs that are compared with the peer, each as its virtio and its vhost side.
const PAIRS: [[Player; 2]; 3] =
    [[Player::Ours, Player::Ours], [Player::Ours, Player::Dpdk], [Player::Dpdk, Player::Ours]];
/// The peer.
const PEERS: [Player; 2] = [Player::Dpdk, Player::Dpdk];
/// The row of the forwarding program.
const DEMONSTRATION: &str = "l2fwd, its demonstration in one process";

impl Options {
    pub(super) fn run(&self) -> Result<()> {
        if self.sides {
            return self.run_sides();
        }
        let peer = testpmd::peer_version();
        let setting = self.setting()?;
        let pages = if setting.huge { "2 MiB huge pages" } else { "no huge pages (--no-huge on both sides)" };
        let [virtio, vhost] = setting.cpus;
        println!("burst {}, {pages}, virtio side on CPU {virtio}, vhost side on CPU {vhost}", self.burst);
        if peer.is_none() {
            println!("{} is not installed (Debian: apt install dpdk-dev): Wirerate alone", testpmd::PEER);
        }
        tell_load();
        // A signal ends what runs, and takes its socket away.
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stopped)).context("catching signals")?;
        }

        let mut rows = Vec::new();
        for traffic in Traffic::ALL {
            for rings in self.forms() {
                rows.extend(self.compare(traffic, rings, peer.is_some(), &setting, &stopped)?);
            }
        }
        let demonstration = self.chosen(DEMONSTRATION).then(|| self.demonstration(&setting));
        ensure!(
            !rows.is_empty() || demonstration.is_some(),
            "no row has {:?} in its name",
            self.only.as_deref().unwrap_or_default()
        );

        let peer = peer.as_deref().unwrap_or("nothing");
        println!("{}", machine::describe(peer));
        println!("medians of {} pairs of runs, {} s each, taking turns", self.common.rounds, self.seconds);
        println!("{}", report::table(&rows, demonstration.as_ref()));
        let runs = rows.iter().flat_map(|row| row.ours.iter().chain(&row.theirs));
        let (all, disturbed) =
            runs.fold((0, 0), |(all, disturbed), run| (all + 1, disturbed + u32::from(run.is_disturbed())));
        if disturbed > 0 {
            println!(
                "in {disturbed} of {all} runs others took more than 5 % of a side's processor (--again N repeats such)"
            );
        }
        self.write(&serde_json::json!({
            "machine": machine::describe(peer),
            "pages": pages,
            "rounds": self.common.rounds,
            "seconds": self.seconds,
            "burst": self.burst,
            "comparisons": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "l2fwd": demonstration.as_ref().map(Demonstration::to_json),
        }))?;
        let failures: Vec<String> = rows
            .iter()
            .filter_map(|row| row.failure.as_ref().map(|failure| format!("{}: {failure}", row.name)))
            .chain(demonstration.as_ref().and_then(|one| Some(format!("{}: {}", one.name, one.failure()?))))
            .collect();
        match &failures[..] {
            [] => Ok(()),
            [only] => bail!("{only}"),
            [first, ..] => bail!("{} rows failed; the first is {first}", failures.len()),
        }
    }

    fn chosen(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// All forms of rings that were asked for.
    fn forms(&self) -> Vec<Rings> {
        let mut forms = Vec::new();
        for kind in &self.rings {
            for mergeable in &self.mergeable {
                for in_order in &self.in_order {
                    forms.push(Rings {
                        packed: *kind == Kind::Packed,
                        mergeable: *mergeable == Switch::On,
                        in_order: *in_order == Switch::On,
                    });
                }
            }
        }
        forms
    }

    /// Our pairs beside the peer, a row each; and one of the peer alone where none of ours works.
    ///
    /// # Errors
    /// Only when a signal asked for the end. What else goes wrong is told in its row.
    fn compare(
        &self,
        traffic: Traffic,
        rings: Rings,
        peer: bool,
        setting: &Setting,
        stopped: &AtomicBool,
    ) -> Result<Vec<Row>> {
        let rounds = self.common.rounds;
        let measure = |players: [Player; 2]| {
            let link = Link { players, traffic, rings };
            move || {
                let mut figures = link.run(setting, self.seconds as usize, stopped)?;
                for _ in 0..self.again {
                    if !figures.is_disturbed() {
                        break;
                    }
                    figures = link.run(setting, self.seconds as usize, stopped)?;
                }
                Ok(figures)
            }
        };
        let name = |[virtio, vhost]: [Player; 2]| format!("{traffic}, {rings}: {virtio} + {vhost}");
        let possible = |players: &&[Player; 2]| peer || !players.contains(&Player::Dpdk);
        let mut rows: Vec<Row> = Vec::new();
        for &players in PAIRS.iter().filter(possible) {
            let name = name(players);
            if !self.chosen(&name) {
                continue;
            }
            eprintln!("{name} ...");
            let row =
                Row { name, traffic, rings, players, ours: Vec::new(), theirs: Vec::new(), failure: None };
            rows.push(match take_turns(rounds, measure(players), peer.then(|| measure(PEERS))) {
                Ok((ours, theirs)) => Row { ours, theirs, ..row },
                Err(error) => Row { failure: Some(format!("{error:#}")), ..row },
            });
            ensure!(!stopped.load(std::sync::atomic::Ordering::Relaxed), "stopped by a signal");
        }
        let none = rows.iter().all(|row| row.failure.is_some());
        if peer && none && (!rows.is_empty() || self.chosen(&name(PEERS))) {
            let name = name(PEERS);
            eprintln!("{name} ...");
            let row = Row {
                name,
                traffic,
                rings,
                players: PEERS,
                ours: Vec::new(),
                theirs: Vec::new(),
                failure: None,
            };
            rows.push(match take_turns(rounds, measure(PEERS), None::<fn() -> Result<link::Figures>>) {
                Ok((theirs, _)) => Row { theirs, ..row },
                Err(error) => Row { failure: Some(format!("{error:#}")), ..row },
            });
            ensure!(!stopped.load(std::sync::atomic::Ordering::Relaxed), "stopped by a signal");
        }
        Ok(rows)
    }

    /// l2fwd without devices: its two ports and what is behind them are in one process, on a core each.
    fn demonstration(&self, setting: &Setting) -> Demonstration {
        eprintln!("{DEMONSTRATION} ...");
        let once = || -> Result<_> {
            let [far, near] = setting.cpus;
            let pages = if setting.huge { "--in-memory" } else { "--no-huge" };
            let mut command = Command::new(setting.ours.with_file_name("l2fwd"));
            command.args([&format!("--lcores=1@{near},2@{far}"), "--no-pci", pages]);
            // One second for the start and one for warming up, as everywhere.
            let limit = link::WARM_UP as u64 + u64::from(self.seconds);
            command.arg("--").arg(format!("--duration={limit}")).args(["-T", "1"]);
            report::read_l2fwd(&run::run_for(&mut command, Duration::from_secs(limit) + link::START)?)
        };
        let runs = (0..self.common.rounds).map(|_| once()).collect::<Result<Vec<_>>>();
        Demonstration { name: DEMONSTRATION, runs: runs.map_err(|error| format!("{error:#}")) }
    }

    /// Driver and device in one thread, by turns with DPDK's.
    fn run_sides(&self) -> Result<()> {
        let topology = Topology::discover();
        let cpus = topology.cpus();
        // The first has more of the kernel's work.
        let cpu = cpus.get(1).or(cpus.first()).context("the kernel tells of no CPU")?.id;
        let huge = testpmd::huge_pages_suffice(2 * MEMORY_MIB);
        let pages = if huge { "2 MiB huge pages" } else { "no huge pages (--no-huge on both sides)" };
        println!("burst {}, {pages}, one thread on CPU {cpu}", self.burst);
        tell_load();
        let peer = sides::Compiled::new()?;
        if let Err(missing) = &peer {
            println!("DPDK is left out: {missing}");
        }
        let (mut all, mut version) = (Vec::new(), "nothing".to_owned());
        for rings in self.forms() {
            let mut ours = sides::Ours::open(rings, self.burst, huge, cpu)?;
            let mut theirs = peer.as_ref().ok().map(|peer| peer.open(rings, huge, cpu)).transpose()?;
            if let Some(theirs) = &mut theirs {
                version = theirs.version()?;
            }
            let ms = self.seconds * 1000;
            let (ours, theirs) = take_turns(
                self.common.rounds,
                || ours.run(Duration::from_millis(ms.into())),
                theirs.as_mut().map(|theirs| || theirs.run(self.burst, ms)),
            )?;
            all.push(sides::Sides { rings, ours, theirs });
        }
        println!("{}", machine::describe(&version));
        println!("medians of {} pairs of runs, {} s each, taking turns", self.common.rounds, self.seconds);
        println!("{}", sides::table(&all));
        self.write(&serde_json::json!({
            "machine": machine::describe(&version),
            "pages": pages,
            "rounds": self.common.rounds,
            "seconds": self.seconds,
            "burst": self.burst,
            "sides": all.iter().map(sides::Sides::to_json).collect::<Vec<_>>(),
        }))
    }

    /// Writes the figures where asked to.
    fn write(&self, figures: &serde_json::Value) -> Result<()> {
        let Some(path) = &self.common.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(figures)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn setting(&self) -> Result<Setting> {
        run::sibling("l2fwd")?;
        let topology = Topology::discover();
        let [first, more @ ..] = topology.cpus() else { bail!("the kernel tells of no CPU") };
        // Not a thread of the same core, where there is another.
        let other =
            more.iter().find(|cpu| (cpu.socket, cpu.core) != (first.socket, first.core)).or(more.first());
        let second = other.context("two CPUs are needed, and this process may use one")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).map(|folder| folder.join("setpriv"));
        let whole = link::START.as_secs() * 4 + u64::from(self.seconds) * 3;
        Ok(Setting {
            ours: run::sibling("testpmd")?,
            cpus: [second.id, first.id],
            burst: self.burst,
            huge: testpmd::huge_pages_suffice(2 * MEMORY_MIB),
            setpriv: programs.find(|program: &PathBuf| program.is_file()),
            last_resort: whole,
        })
    }
}

/// Says so when others use the processors: by the load of the last minute (proc_loadavg(5)).
fn tell_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
    if load > 0.5 {
        println!("others use the processors (load {load:.1}): both sides are slower than they could be");
    }
}

/// The ratios of runs next to each other in time.
fn ratios(ours: &[link::Figures], theirs: &[link::Figures]) -> Vec<f64> {
    let mut ratios: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate / theirs.rate).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// The median rate of runs.
fn rate(runs: &[link::Figures]) -> Option<f64> {
    median(runs.iter().map(|run| run.rate))
}

/// The rate of the best second of all runs.
fn best(runs: &[link::Figures]) -> Option<f64> {
    runs.iter().map(|run| run.best).max_by(f64::total_cmp)
}

/// The median of the cycles that a side's packets cost: 0 for the virtio side, 1 for the vhost side.
fn cost(runs: &[link::Figures], side: usize) -> Option<f64> {
    median(runs.iter().filter_map(|run| run.cycles.get(side).copied().flatten()))
}
