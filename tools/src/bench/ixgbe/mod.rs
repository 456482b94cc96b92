//! `wirerate bench ixgbe`: what a packet costs the driver of the 82599, by itself.
//!
//! The device is the model of `wirerate-nic`, which brings the driver up and checks it. It works between measurements only:
//! it writes a ring's worth of received packets back and takes out what was sent, and then rests while the driver goes
//! through all of it, burst by burst, and the clock is looked at before and after. Packets are not looked at in between.

mod rig;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use wirerate_eal::clock::cycles;
use wirerate_eal::{Eal, Topology};
use wirerate_pmd::Burst;
use wirerate_tools::paired::median;

use self::rig::{CACHE, FILLED, MBUFS, RING, Rig};
use super::{Common, machine, testpmd};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How often a ring is gone through in each run
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    turns: u32,
    /// Sizes of bursts
    #[arg(long, value_name = "N,...", value_delimiter = ',',
        default_values = ["1", "2", "4", "8", "16", "32", "64", "128", "256"],
        value_parser = clap::value_parser!(u16).range(1..=256))]
    bursts: Vec<u16>,
}

/// MiB of memory that the pool and rings need.
const MEMORY_MIB: usize = 32;
/// Turns before the measured ones.
const WARM_UP: u32 = 10;
/// What ixy says of itself: forwarding at bursts of 32, cycles a packet ("The Case for Writing Network Drivers in High-Level
/// Programming Languages", ANCS 2019).
const PEERS: [(&str, u32); 2] = [("ixy", 94), ("ixy.rs", 100)];

/// Cycles a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Costs {
    receive: f64,
    transmit: f64,
    forward: f64,
}

/// The runs of one size of bursts.
struct Row {
    burst: u16,
    runs: Vec<Costs>,
}

impl Row {
    fn median(&self, cost: impl Fn(&Costs) -> f64) -> f64 {
        median(self.runs.iter().map(cost)).unwrap_or(f64::NAN)
    }

    /// The least of all runs, in which others disturbed least.
    fn least(&self) -> f64 {
        self.runs.iter().map(|run| run.forward).fold(f64::INFINITY, f64::min)
    }

    fn to_json(&self) -> serde_json::Value {
        let runs = |cost: fn(&Costs) -> f64| self.runs.iter().map(cost).collect::<Vec<_>>();
        serde_json::json!({
            "burst": self.burst,
            "receive": self.median(|run| run.receive),
            "transmit": self.median(|run| run.transmit),
            "forward": self.median(|run| run.forward),
            "least": self.least(),
            "runs": {
                "receive": runs(|run| run.receive),
                "transmit": runs(|run| run.transmit),
                "forward": runs(|run| run.forward),
            },
        })
    }
}

impl Options {
    pub(super) fn run(&self) -> Result<()> {
        let topology = Topology::discover();
        let cpus = topology.cpus();
        // The first has more of the kernel's work.
        let cpu = cpus.get(1).or(cpus.first()).context("the kernel tells of no CPU")?.id;
        let huge = testpmd::huge_pages_suffice(MEMORY_MIB);
        let pages = if huge { "2 MiB huge pages" } else { "no huge pages" };
        let eal = Eal::builder().lcores([cpu]).no_huge(!huge).in_memory(huge).build()?;
        let mut rows: Vec<Row> =
            self.bursts.iter().map(|burst| Row { burst: *burst, runs: Vec::new() }).collect();
        let (rounds, turns) = (self.common.rounds, self.turns);
        let lcore = eal.main_lcore().id();
        eal.scope(|scope| {
            let measured = scope.launch(lcore, |_| -> Result<()> {
                let mut rig = Rig::new(&eal)?;
                let look = cost_of_a_look();
                for _ in 0..rounds {
                    for row in &mut rows {
                        row.runs.push(measure(&mut rig, row.burst, turns, look)?);
                    }
                }
                Ok(())
            })?;
            measured.join()?
        })??;
        println!("{}", machine::describe("nothing"));
        println!(
            "the driver of the 82599 alone, cycles a packet: frames of 64 bytes, rings of {RING}, {MBUFS} mbufs, cache \
             {CACHE}, {pages}, CPU {cpu}"
        );
        println!(
            "the model's device works between measurements; doorbells go to ordinary memory (a write to a card costs more)"
        );
        println!("medians of {rounds} runs of {turns} times {FILLED} packets each");
        println!("{}", table(&rows));
        let peers = PEERS.map(|(name, cost)| format!("{name} {cost}"));
        println!("published for the whole way, bursts of 32: {}", peers.join(", "));
        self.write(&rows, pages)
    }

    /// Writes the figures where asked to.
    fn write(&self, rows: &[Row], pages: &str) -> Result<()> {
        let Some(path) = &self.common.json else { return Ok(()) };
        let figures = serde_json::json!({
            "machine": machine::describe("nothing"),
            "pages": pages,
            "ring": RING,
            "rounds": self.common.rounds,
            "turns": self.turns,
            "unit": "cycles a packet",
            "bursts": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// What two looks at the clock, one after the other, are apart.
fn cost_of_a_look() -> f64 {
    let apart = (0..10_001).map(|_| {
        let begun = cycles();
        cycles().saturating_sub(begun) as f64
    });
    median(apart).unwrap_or(0.0)
}

/// One run with bursts of so many packets.
fn measure(rig: &mut Rig, burst: u16, turns: u32, look: f64) -> Result<Costs> {
    let mut burst = Burst::new(burst.into());
    let (mut apart, mut whole) = (Vec::new(), Vec::new());
    for turn in 0..WARM_UP + turns {
        let one = by_itself(rig, &mut burst)?;
        let all = together(rig, &mut burst)?;
        if turn >= WARM_UP {
            apart.push(one);
            whole.push(all);
        }
    }
    rig.work(0)?;
    let (sent, arrived) = (2 * (WARM_UP + turns) as usize * FILLED, rig.arrived());
    ensure!(sent == arrived, "{arrived} packets came out of the far end, and {sent} were sent");
    let packets = FILLED as f64;
    let cost = |sums: Vec<(u64, u64)>| {
        let net = sums.into_iter().map(|(sum, calls)| (sum as f64 - look * calls as f64) / packets);
        fastest(net.collect())
    };
    let (receive, transmit): (Vec<_>, Vec<_>) =
        apart.into_iter().map(|(receive, transmit, calls)| ((receive, calls), (transmit, calls))).unzip();
    Ok(Costs { receive: cost(receive), transmit: cost(transmit), forward: cost(whole) })
}

/// Goes through a ring, with a look at the clock before and after each call: cycles of receiving and sending, and how many
/// calls of each.
fn by_itself(rig: &mut Rig, burst: &mut Burst) -> Result<(u64, u64, u64)> {
    rig.work(FILLED)?;
    let (rx, tx) = rig.ends()?;
    let (mut receive, mut transmit, mut calls, mut done) = (0, 0, 0, 0);
    while done < FILLED {
        let begun = cycles();
        let came = rx.rx_burst(burst);
        let received = cycles();
        let went = tx.tx_burst(burst);
        let sent = cycles();
        receive += received.saturating_sub(begun);
        transmit += sent.saturating_sub(received);
        calls += 1;
        done += came;
        ensure!(came > 0 && went == came, "{came} packets came of {FILLED}, and {went} went");
    }
    Ok((receive, transmit, calls))
}

/// Goes through a ring with two looks at the clock; the cycles, and one call.
fn together(rig: &mut Rig, burst: &mut Burst) -> Result<(u64, u64)> {
    rig.work(FILLED)?;
    let (rx, tx) = rig.ends()?;
    let (mut done, mut sent) = (0, 0);
    let begun = cycles();
    while done < FILLED {
        let came = rx.rx_burst(burst);
        sent += tx.tx_burst(burst);
        done += came;
        if came == 0 {
            break;
        }
    }
    let took = cycles().saturating_sub(begun);
    ensure!(done == FILLED && sent == FILLED, "{done} packets came of {FILLED}, and {sent} went");
    Ok((took, 1))
}

/// The mean of the fastest 95 %: others interrupted the rest.
fn fastest(mut runs: Vec<f64>) -> f64 {
    runs.sort_unstable_by(f64::total_cmp);
    let kept = (runs.len() - runs.len() / 20).max(1);
    runs.iter().take(kept).sum::<f64>() / kept as f64
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["burst", "receive", "transmit", "forward", "least"]);
    for row in rows {
        let number = |cost: fn(&Costs) -> f64| format!("{:.1}", row.median(cost));
        table.add_row([
            row.burst.to_string(),
            number(|run| run.receive),
            number(|run| run.transmit),
            number(|run| run.forward),
            format!("{:.1}", row.least()),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
