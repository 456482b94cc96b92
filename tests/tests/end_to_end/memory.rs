//! What a pool holds of a machine's memory, as a memory cgroup counts it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::cgroup::MemoryCgroup;
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::{program, repository};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("memory::a_pool_gives_back_what_its_cgroup_counts", &[Need::MemoryCgroup], gives_back)]
}

/// The example says what it does, and reads the figures from the cgroup that it runs in.
fn gives_back() -> Result<()> {
    let profile = repository::profile()?;
    let mut build = repository::cargo()?;
    build.args(["build", "--quiet", "-p", "wirerate-mempool", "--example", "elastic", "--profile", &profile]);
    program::run(build, Duration::from_secs(600))?.expect_code(0)?;
    let own = std::env::current_exe()?;
    let example = own.ancestors().nth(2).context("no target folder")?.join("examples/elastic");

    let cgroup = MemoryCgroup::new()?;
    let mut command = cgroup.command(&example);
    command.arg(cgroup.stat());
    let finished = program::run(command, Duration::from_secs(120))?;
    finished.expect_code(0)?;
    let output = &finished.stdout;
    let resident = |stage: &str| {
        let line = output.lines().find(|line| line.starts_with(stage));
        let line = line.with_context(|| format!("nothing about {stage:?} in:\n{output}"))?;
        let figure = line.split_once(" MiB resident").and_then(|(before, _)| before.rsplit(' ').next());
        figure.and_then(|figure| figure.parse::<u64>().ok()).with_context(|| format!("no figure in {line:?}"))
    };
    let (full, shrunk, held) =
        (resident("all used")?, resident("two threads at work")?, resident("one object held")?);
    ensure!(full >= 64, "64 MiB of objects were written, and {full} MiB are resident:\n{output}");
    // 8 MiB of objects are kept, and the program has some memory besides.
    ensure!(shrunk <= 16, "{shrunk} MiB are resident after the pool shrank at work:\n{output}");
    ensure!(held <= 8, "{held} MiB are resident with one object held:\n{output}");
    let bursts = output.lines().filter_map(|line| line.strip_prefix("bursts since: ")?.parse::<u64>().ok());
    ensure!(bursts.filter(|bursts| *bursts >= 1000).count() == 2, "traffic did not go on:\n{output}");
    // An object in use keeps its own chunk, and no other. Debug builds have some chunks more, for guards.
    let chunks =
        output.split_once(" chunks").and_then(|(before, _)| before.rsplit(' ').next()?.parse::<u64>().ok());
    let chunks = chunks.context("no number of chunks")?;
    ensure!(output.contains(&format!("one object held: {} chunks went", chunks - 1)), "{output}");
    Ok(())
}
