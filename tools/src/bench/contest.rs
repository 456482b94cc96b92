//! `wirerate bench mempool` and `wirerate bench ring`: the loops of `wirerate_tools::contest` on Wirerate,
//! DPDK and others, by turns.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use wirerate_tools::contest::{self, Contestant, Place, Work};

use super::standings::{self, Setting};
use super::{Common, dpdk, machine, plot};

/// How to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    ms: u32,
    /// Only work whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Also draw the figures into this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What is measured.
struct Contest {
    title: &'static str,
    settings: &'static [Setting],
    /// Who is compared with whom: a peer, and one of ours.
    pairs: &'static [(&'static str, &'static str)],
    /// Crates that take part.
    crates: &'static [&'static str],
    pools: bool,
}

const BULKS: &[usize] = &[1, 4, 8, 32, 64];

const MEMPOOL: Contest = Contest {
    title: "memory pools: get and put back",
    settings: &[
        Setting { name: "1 core", work: Work::Churn { keep: 512, threads: 1 }, bulks: BULKS },
        Setting { name: "2 cores", work: Work::Churn { keep: 512, threads: 2 }, bulks: BULKS },
        Setting { name: "keep 32768", work: Work::Churn { keep: 32_768, threads: 1 }, bulks: BULKS },
        Setting { name: "pair: one core gets, one puts", work: Work::Pair, bulks: BULKS },
        Setting { name: "threads that are not pinned", work: Work::Crowd, bulks: BULKS },
    ],
    pairs: &[
        ("DPDK", "wirerate"),
        ("DPDK cache", "wirerate cache"),
        ("DPDK native", "wirerate"),
        ("DPDK native cache", "wirerate cache"),
        ("wirerate, 8 threads", "wirerate, 2 threads"),
    ],
    crates: &["crossbeam-queue", "sharded-slab", "object-pool"],
    pools: true,
};

const RING_BULKS: &[usize] = &[1, 8, 32, 256];

const fn ring(name: &'static str, multi: bool, threads: usize) -> Setting {
    Setting { name, work: Work::Ring { multi, threads }, bulks: RING_BULKS }
}

const RING: Contest = Contest {
    title: "rings: in and out",
    settings: &[
        ring("single ends, same core", false, 1),
        ring("multi ends, same core", true, 1),
        ring("single ends, core to core", false, 2),
        ring("multi ends, core to core", true, 2),
    ],
    pairs: &[("DPDK", "wirerate"), ("DPDK native", "wirerate"), ("ArrayQueue", "wirerate")],
    crates: &["crossbeam-queue"],
    pools: false,
};

impl Options {
    pub(super) fn run_mempool(&self) -> Result<()> {
        self.run(&MEMPOOL, contest::pools)
    }

    pub(super) fn run_ring(&self) -> Result<()> {
        self.run(&RING, |place| Ok(contest::rings(place)))
    }

    fn run(
        &self,
        contest: &Contest,
        ours: impl FnOnce(&Place) -> Result<Vec<Box<dyn Contestant>>>,
    ) -> Result<()> {
        let place = Place::here();
        let settings = standings::choose(contest.settings, self.only.as_deref(), place.cpus().len())?;
        let peer = dpdk::find(&place, contest.pools)?;
        if let Err(missing) = &peer.told {
            println!("DPDK is left out: {missing}");
        }
        let mut contestants = ours(&place)?;
        contestants.extend(peer.contestants);
        let machine = describe(contest, peer.told.ok(), &place);
        let Common { rounds, .. } = self.common;
        let standings = standings::measure(&mut contestants, &settings, rounds, self.ms)?;

        let unit = place.unit();
        println!("{}: {unit} for each object, less is better", contest.title);
        println!("{machine}");
        println!("medians of {rounds} runs of {} ms each, taking turns; ratios with least and most", self.ms);
        for standing in &standings {
            println!("\n{}", standing.table(contest.pairs));
        }
        if let Some(path) = &self.common.json {
            let figures = serde_json::json!({
                "title": contest.title,
                "machine": machine,
                "unit": format!("{unit} for each object"),
                "rounds": rounds,
                "ms": self.ms,
                "works": standings.iter().map(|standing| standing.to_json(contest.pairs)).collect::<Vec<_>>(),
            });
            let text = serde_json::to_string_pretty(&figures)?;
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        if let Some(path) = &self.svg {
            let text = plot::svg(contest.title, &machine, unit, &standings);
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

/// The machine, the versions of all, and where the objects are.
fn describe(contest: &Contest, dpdk: Option<String>, place: &Place) -> String {
    let crates = contest.crates.iter().map(|name| format!("{name} {}", machine::locked(name)));
    let heap = contest.pools.then(contest::heap);
    let peers: Vec<String> = dpdk.into_iter().chain(heap).chain(crates).collect();
    let cpus: Vec<String> = place.cpus().iter().map(u32::to_string).collect();
    let what = if contest.pools {
        format!("objects of {} bytes, caches of {}, {}", contest::OBJECT, contest::CACHE, machine::pages())
    } else {
        format!("rings of {}", contest::RING)
    };
    format!("{}; {what}, CPUs {}", machine::describe(&peers.join(", ")), cpus.join(" and "))
}
