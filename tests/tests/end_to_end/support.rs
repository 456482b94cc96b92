//! Command lines of the bundled programs, and what every run of them is checked for.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use wirerate_tests::namespace::Namespace;
use wirerate_tests::output::Totals;
use wirerate_tests::program::{self, Finished, forwarder_cpu};

/// How long a run may take that has little to do. Generous: other tests build programs at the same time.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A program that nobody stops ends by itself after so many seconds: a test that is killed leaves none behind.
pub(crate) const LAST_RESORT: [&str; 2] = ["--duration", "120"];

/// `program`, one of the bundled ones, with these arguments.
pub(crate) fn bundled(program: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program::bundled(program)?);
    command.args(arguments);
    Ok(command)
}

/// The same inside a namespace.
pub(crate) fn bundled_in(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = namespace.command(program::bundled(program)?);
    command.args(arguments);
    Ok(command)
}

/// `bundled`, run to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<Finished> {
    program::run(bundled(program, arguments)?, LIMIT)
}

/// Runs l2fwd on one lcore without huge pages to a clean end, with these devices and these options of its own.
pub(crate) fn l2fwd(vdevs: &[&str], options: &[&str]) -> Result<(Totals, String)> {
    let cpu = forwarder_cpu()?;
    let mut arguments = vec!["-l", &cpu, "--no-huge", "--no-pci"];
    vdevs.iter().for_each(|vdev| arguments.extend(["--vdev", vdev]));
    arguments.push("--");
    arguments.extend(options);
    if !options.contains(&"--duration") {
        arguments.extend(LAST_RESORT);
    }
    let finished = run("l2fwd", &arguments)?;
    finished.expect_code(0)?;
    Ok((Totals::read(&finished.stdout)?, finished.stdout))
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

/// Checks that a run ended as bad input does: exit code 2, nothing but one line on the error output, which
/// begins with `error: ` and contains all of `words`. Returns the line.
pub(crate) fn expect_refusal(finished: &Finished, words: &[&str]) -> Result<String> {
    finished.expect_code(2)?;
    let mut lines = finished.stderr.lines();
    let line = lines.next().unwrap_or_default();
    ensure!(lines.next().is_none(), "{}\nmore than one line:\n{}", finished.what, finished.stderr);
    ensure!(line.starts_with("error: "), "{}\nprinted {line:?}", finished.what);
    for word in words {
        ensure!(line.contains(word), "{}\ndoes not speak of {word:?}: {line}", finished.what);
    }
    Ok(line.to_owned())
}
