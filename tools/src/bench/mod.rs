//! `wirerate bench`: the same work on Wirerate and on its peers, in one run, taking turns.
//!
//! These machines are noisy, and a machine can be twice as fast one minute as the next. So no figure here stands alone:
//! each side is measured right before or after the other, several times, and what counts is the median of the
//! ratios of such pairs.

mod contest;
mod dpdk;
mod ixgbe;
mod machine;
mod plot;
mod run;
mod standings;
mod testpmd;
mod virtio;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use wirerate_tools::paired::{self, Comparison};

/// What can be compared.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// testpmd against dpdk-testpmd on net_null and net_ring: packets a second and cycles a packet
    Testpmd(testpmd::Options),
    /// virtio-user and vhost against DPDK's, in all pairs, through testpmd: packets a second, and cycles a packet of
    /// each side
    Virtio(virtio::Options),
    /// The driver of the 82599 alone, on a model of the device: cycles a packet
    Ixgbe(ixgbe::Options),
    /// The pool against DPDK's mempool, malloc and other pools: cycles an object
    Mempool(contest::Options),
    /// The ring against DPDK's and crossbeam's queue: cycles an object
    Ring(contest::Options),
}

/// How often, and where the figures go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Runs of each side, by turns, which the medians are taken of
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Also write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Bench {
    /// Runs the comparison and prints it.
    ///
    /// # Errors
    /// When a program cannot be run, or prints what cannot be read.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Testpmd(options) => options.run(),
            Self::Virtio(options) => options.run(),
            Self::Ixgbe(options) => options.run(),
            Self::Mempool(options) => options.run_mempool(),
            Self::Ring(options) => options.run_ring(),
        }
    }
}

/// Prints the comparisons as a table, and writes them as JSON where asked.
fn report(common: &Common, seconds: u32, peer: &str, comparisons: &[Comparison]) -> Result<()> {
    println!("{}", machine::describe(peer));
    println!("medians of {} pairs of runs, {seconds} s each, taking turns", common.rounds);
    println!("{}", paired::table(comparisons));
    if let Some(path) = &common.json {
        let figures = serde_json::json!({
            "machine": machine::describe(peer),
            "rounds": common.rounds,
            "seconds": seconds,
            "comparisons": comparisons.iter().map(Comparison::to_json).collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
