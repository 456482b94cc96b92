//! What holds for the sources, and runs of the tests under other tools.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use wirerate_tests::needs::{self, Need, trial};
use wirerate_tests::program::{self, Finished};
use wirerate_tests::repository::{self, metadata};

/// Time for a run that builds a part of the workspace anew.
const LONG: Duration = Duration::from_secs(1200);
/// What of the pool's tests runs under valgrind, and how many there are at least; and in the library itself.
const POOL_TESTS: [(&str, u64); 7] =
    [("raw", 15), ("typed", 5), ("guards", 15), ("ring", 20), ("cache", 4), ("elastic", 8), ("buffers", 10)];
const LIBRARY_TESTS: u64 = 20;
/// Time for an example.
const EXAMPLE: Duration = Duration::from_secs(300);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("checks::loom_models_of_the_pool_hold", &[], loom),
        trial("checks::pool_and_mbufs_pass_under_address_sanitizer", &[Need::Nightly], address_sanitizer),
        trial("checks::fuzz_targets_run", &[Need::Nightly, Need::Cxx], fuzz),
        trial("checks::the_pool_passes_under_valgrind", &[Need::Valgrind], valgrind),
        trial("checks::the_pool_passes_without_std", &[], || with_features("--no-default-features")),
        trial("checks::the_pool_passes_with_all_features", &[], || with_features("--all-features")),
        trial("checks::examples_run_as_they_say", &[], examples),
        trial("checks::dependencies_point_down", &[], arrows),
        trial("checks::run_time_dependencies_are_explained", &[], dependencies_told),
        trial("checks::programs_and_examples_forbid_unsafe", &[], no_unsafe),
        trial("checks::the_smallest_forwarder_is_short", &[], short_forwarder),
        trial("checks::commands_of_the_readme_exist", &[], readme),
    ]
}

/// Checks that a run of `cargo test` passed, and ran some tests at all. Returns how many.
fn passed(finished: &Finished) -> Result<u64> {
    finished.expect_code(0)?;
    let mut count = 0;
    for line in finished.stdout.lines().filter(|line| line.starts_with("test result: ok.")) {
        let number = line.split_whitespace().nth(3).and_then(|word| word.parse::<u64>().ok());
        count += number.with_context(|| format!("no number in {line:?}"))?;
    }
    ensure!(count > 0, "{}\nran no test:\n{}", finished.what, finished.stdout);
    Ok(count)
}

fn loom() -> Result<()> {
    let mut command = repository::cargo()?;
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", repository::target()?.join("loom"));
    // One thing is compiled once and runs long: link-time optimisation would only cost time.
    command.envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")]);
    command.args(["test", "-p", "wirerate-mempool", "--release", "--lib", "loom_"]);
    passed(&program::run(command, LONG)?).map(drop)
}

fn address_sanitizer() -> Result<()> {
    let mut command = Command::new("rustup");
    command.args([
        "run",
        "nightly",
        "cargo",
        "test",
        "-p",
        "wirerate-mempool",
        "-p",
        "wirerate-pmd",
        "--lib",
    ]);
    // A target makes that build scripts and macros are built without the sanitizer.
    command.args(["--target", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)]);
    command.arg("--target-dir").arg(repository::target()?.join("asan"));
    command.current_dir(repository::root()?).env("RUSTFLAGS", "-Zsanitizer=address");
    // What cargo told about the stable toolchain would reach the nightly one.
    for variable in ["RUSTC", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    passed(&program::run(command, LONG)?).map(drop)
}

/// Builds the fuzz targets as the head of their library says, and runs each for a moment, the same way each time.
fn fuzz() -> Result<()> {
    const TARGETS: [&str; 5] = ["messages", "session", "device_ring", "driver_ring", "ports"];
    let folder = repository::root()?.join("tests/fuzz");
    let built = repository::target()?.join("fuzz");
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                 -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1";
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "build", "--release", "--bins", "--target", &platform]);
    command.arg("--target-dir").arg(&built).current_dir(&folder).env("RUSTFLAGS", flags);
    for variable in ["RUSTC", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    program::run(command, LONG)?.expect_code(0)?;
    let programs = built.join(&platform).join("release");
    let scratch = tempfile::tempdir()?;
    // The first inputs go to a folder of this run, so that nothing that an earlier one found changes it.
    let mut seeds = Command::new(programs.join("seeds"));
    seeds.current_dir(scratch.path());
    program::run(seeds, EXAMPLE)?.expect_code(0)?;
    for target in TARGETS {
        let mut command = Command::new(programs.join(target));
        command.args(["-seed=1", "-runs=20000", "-max_total_time=5", "-timeout=20", "-rss_limit_mb=2048"]);
        command.arg(scratch.path().join("corpus").join(target)).current_dir(scratch.path());
        let finished = program::run(command, EXAMPLE)?;
        finished.expect_code(0)?;
        let done = finished.stderr.lines().find(|line| line.starts_with("Done "));
        let runs =
            done.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse::<u64>().ok());
        ensure!(runs.is_some_and(|runs| runs > 20), "{target} made {runs:?} runs:\n{}", finished.stderr);
    }
    Ok(())
}

/// The tests of the pool in a debug build, with many threads and with misuse; but for those against a model,
/// which would take minutes.
fn valgrind() -> Result<()> {
    let mut command = repository::cargo()?;
    command.env("CARGO_TARGET_DIR", repository::target()?.join("valgrind"));
    command.args(["test", "-p", "wirerate-mempool", "--lib", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.args(POOL_TESTS.iter().flat_map(|(name, _)| ["--test", name]));
    let built = program::run(command, LONG)?;
    built.expect_code(0)?;
    let mut run = 0;
    for message in built.stdout.lines().map(serde_json::from_str::<Value>) {
        let message = message.context("cargo printed no JSON")?;
        let (Some(name), Some(file)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        else {
            continue;
        };
        let least =
            POOL_TESTS.iter().find(|(one, _)| *one == name).map_or(LIBRARY_TESTS, |(_, least)| *least);
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--error-exitcode=1", "--leak-check=full"]);
        // The harness of the tests leaves some bytes behind that are possibly lost.
        command.args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]);
        // One thread runs at a time under valgrind. In turns, lest one that waits for another keeps it from
        // running.
        command.args(["--fair-sched=yes", file, "--test-threads=1"]);
        let passed = passed(&program::run(command, LONG)?)?;
        ensure!(passed >= least, "{name} ran {passed} tests, and {least} are expected at least");
        run += 1;
    }
    ensure!(run == POOL_TESTS.len() + 1, "{run} programs ran, and not {POOL_TESTS:?} and the library's");
    Ok(())
}

/// Runs the pool's tests with these features.
fn with_features(features: &str) -> Result<()> {
    let mut command = repository::cargo()?;
    command.args(["test", "-p", "wirerate-mempool", "--lib", "--tests", features]);
    passed(&program::run(command, LONG)?).map(drop)
}

/// The targets of the workspace of a kind (`bin`, `example`): package, name and file.
fn targets(metadata: &Value, kind: &str) -> Result<Vec<(String, String, PathBuf)>> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        for target in package["targets"].as_array().context("no targets")? {
            let kinds = target["kind"].as_array().context("no kinds")?;
            if !kinds.iter().any(|one| one == kind) {
                continue;
            }
            let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
            let path = PathBuf::from(text(&target["src_path"])?);
            found.push((text(&package["name"])?, text(&target["name"])?, path));
        }
    }
    Ok(found)
}

fn examples() -> Result<()> {
    let examples = targets(&metadata()?, "example")?;
    ensure!(!examples.is_empty(), "there are no examples");
    for (package, name, path) in examples {
        // Those of the tests measure, with peers, and have a test beside the peers'.
        if package == "wirerate-tests" {
            continue;
        }
        let source = std::fs::read_to_string(&path)?;
        // An example that needs arguments says in its head how it is run.
        let head = source.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
        let said = head.split('`').find(|text| text.starts_with("cargo run") && text.contains(&name));
        let words: Vec<&str> = said.unwrap_or_default().split_whitespace().collect();
        let arguments = words.iter().position(|&word| word == "--").map_or(&[][..], |at| &words[at + 1..]);
        let mut command = repository::cargo()?;
        command.args([
            "run",
            "--quiet",
            "-p",
            &package,
            "--example",
            &name,
            "--profile",
            &repository::profile()?,
        ]);
        command.arg("--").args(arguments);
        program::run(command, EXAMPLE)?.expect_code(0)?;
    }
    Ok(())
}

/// The workspace's packages that `package` depends on, in any way.
fn own_dependencies(package: &Value) -> Result<BTreeSet<&str>> {
    let all = package["dependencies"].as_array().context("no dependencies")?;
    let names = all.iter().filter_map(|dependency| dependency["name"].as_str());
    Ok(names.filter(|name| name.starts_with("wirerate-")).collect())
}

fn arrows() -> Result<()> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let allowed: [(&str, &[&str]); 7] = [
        ("wirerate-mempool", &[]),
        ("wirerate-eal", &["wirerate-mempool"]),
        ("wirerate-pmd", &["wirerate-mempool", "wirerate-eal"]),
        ("wirerate-apps", &["wirerate-mempool", "wirerate-eal", "wirerate-pmd"]),
        // A device's model knows no driver.
        ("wirerate-nic", &["wirerate-mempool", "wirerate-eal"]),
        (
            "wirerate-tools",
            &["wirerate-mempool", "wirerate-eal", "wirerate-pmd", "wirerate-apps", "wirerate-nic"],
        ),
        (
            "wirerate-tests",
            &[
                "wirerate-mempool",
                "wirerate-eal",
                "wirerate-pmd",
                "wirerate-apps",
                "wirerate-tools",
                "wirerate-nic",
            ],
        ),
    ];
    ensure!(
        packages.len() == allowed.len(),
        "{} packages, and the house has {}",
        packages.len(),
        allowed.len()
    );
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let below = allowed.iter().find(|(one, _)| *one == name).map(|(_, below)| *below);
        let below = below.with_context(|| format!("{name} has no place in the house"))?;
        for dependency in own_dependencies(package)? {
            ensure!(below.contains(&dependency), "{name} depends on {dependency}, which is not below it");
        }
    }
    Ok(())
}

fn dependencies_told() -> Result<()> {
    let told = std::fs::read_to_string(repository::root()?.join("docs/dependencies.md"))?;
    let metadata = metadata()?;
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().context("a package without a name")?;
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            let crate_name = dependency["name"].as_str().context("a dependency without a name")?;
            let for_models = dependency["target"] == "cfg(loom)";
            let at_run_time = dependency["kind"].is_null() && !for_models && name != "wirerate-tests";
            if at_run_time && !crate_name.starts_with("wirerate-") {
                let row = format!("| {crate_name} |");
                ensure!(
                    told.contains(&row),
                    "docs/dependencies.md does not say why {name} uses {crate_name}"
                );
            }
        }
    }
    Ok(())
}

fn no_unsafe() -> Result<()> {
    let metadata = metadata()?;
    let programs = targets(&metadata, "bin")?.into_iter().filter(|(package, ..)| package == "wirerate-apps");
    let examples =
        targets(&metadata, "example")?.into_iter().filter(|(package, ..)| package == "wirerate-pmd");
    let all: Vec<PathBuf> = programs.chain(examples).map(|(_, _, path)| path).collect();
    ensure!(all.len() >= 3, "l2fwd, testpmd and an example are expected, and there is {all:?}");
    for path in all {
        let source = std::fs::read_to_string(&path)?;
        let first = source.lines().find(|line| !line.is_empty() && !line.starts_with("//"));
        ensure!(
            first.is_some_and(|line| line.trim() == "#![forbid(unsafe_code)]"),
            "{} does not begin with #![forbid(unsafe_code)], but with {first:?}",
            path.display()
        );
    }
    Ok(())
}

fn short_forwarder() -> Result<()> {
    let path = repository::root()?.join("pmd/examples/forward.rs");
    let lines = std::fs::read_to_string(&path)?.lines().count();
    ensure!(lines < 60, "{} has {lines} lines", path.display());
    Ok(())
}

fn readme() -> Result<()> {
    let root = repository::root()?;
    let readme = std::fs::read_to_string(root.join("README.md")).context("reading README.md")?;
    let commands = shell_commands(&readme);
    ensure!(!commands.is_empty(), "README.md shows no command");
    let metadata = metadata()?;
    for command in &commands {
        check_command(command, root, &metadata).with_context(|| format!("README.md says {command:?}"))?;
    }
    Ok(())
}

/// The commands in the shell blocks of a Markdown text, without comments, prompts and continued lines.
fn shell_commands(markdown: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut in_shell = None;
    let mut continued = false;
    for line in markdown.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            in_shell = match in_shell {
                None => Some(["sh", "shell", "bash", "console"].contains(&language.trim())),
                Some(_) => None,
            };
            continued = false;
            continue;
        }
        if in_shell != Some(true) {
            continue;
        }
        let line = line.split(" # ").next().unwrap_or_default().trim().trim_start_matches("$ ");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (text, more) = line.strip_suffix('\\').map_or((line, false), |text| (text.trim_end(), true));
        match commands.last_mut().filter(|_| continued) {
            Some(last) => {
                last.push(' ');
                last.push_str(text);
            }
            None => commands.push(text.to_owned()),
        }
        continued = more;
    }
    commands
}

/// Checks that what `command` runs exists, and knows the options that it is given.
fn check_command(command: &str, root: &Path, metadata: &Value) -> Result<()> {
    for part in command.split("&&").flat_map(|part| part.split(" | ")) {
        let mut words: Vec<&str> = part.split_whitespace().collect();
        while words.first().is_some_and(|word| *word == "sudo" || word.contains('=')) {
            words.remove(0);
        }
        let Some((&program, arguments)) = words.split_first() else { continue };
        let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program);
        let ours = targets(metadata, "bin")?.iter().any(|(_, bin, _)| bin == name);
        if program == "cargo" {
            check_cargo(arguments, metadata)?;
        } else if ours {
            check_options(name, arguments)?;
        } else if program.contains('/') {
            ensure!(root.join(program).is_file(), "there is no file {program}");
        } else {
            // Those that only some machines have are named in the text beside them.
            let known = ["cd", "git", "ip", "echo", "sysctl", "iperf3", "ping", "dpdk-testpmd", "ethtool"];
            ensure!(
                known.contains(&program) || needs::find(program).is_some(),
                "there is no program {program}"
            );
        }
    }
    Ok(())
}

fn check_cargo(arguments: &[&str], metadata: &Value) -> Result<()> {
    let before = arguments.split(|word| *word == "--").next().unwrap_or_default();
    let after = arguments.iter().position(|word| *word == "--").map_or(&[][..], |at| &arguments[at + 1..]);
    for (option, kind) in [("--bin", "bin"), ("--example", "example")] {
        let Some(at) = before.iter().position(|word| *word == option) else { continue };
        let name = *before.get(at + 1).with_context(|| format!("{option} names nothing"))?;
        let there = targets(metadata, kind)?.iter().any(|(_, one, _)| one == name);
        ensure!(there, "there is no {kind} {name}");
        if kind == "bin" {
            check_options(name, after)?;
        }
    }
    if let Some(at) = before.iter().position(|word| ["-p", "--package"].contains(word)) {
        let packages = metadata["packages"].as_array().context("no packages")?;
        let name = before.get(at + 1).context("-p names nothing")?;
        ensure!(packages.iter().any(|package| package["name"] == *name), "there is no package {name}");
    }
    Ok(())
}

/// Checks the long options and the subcommand that one of the bundled programs is given against its help.
fn check_options(name: &str, arguments: &[&str]) -> Result<()> {
    let subcommand = arguments.first().filter(|word| name == "wirerate" && !word.starts_with('-'));
    let mut command = Command::new(program::bundled(name)?);
    command.args(subcommand).arg("--help");
    let finished = program::run(command, Duration::from_secs(60))?;
    finished.expect_code(0)?;
    for word in arguments.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
        let option = word.split('=').next().unwrap_or(word);
        if !finished.stdout.contains(option) {
            bail!("{name} knows no {option}");
        }
    }
    Ok(())
}
