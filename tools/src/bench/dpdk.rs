//! DPDK's side of the contests: a C program, compiled here against the installed libdpdk, told on its
//! standard input what to run.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use wirerate_tools::contest::{CACHE, Contestant, Place, Work};

const SOURCE: &str = include_str!("../../peers/dpdk.c");
/// How much longer than its work an answer may take: DPDK starts, makes pools, and shares its CPUs.
const PATIENCE: Duration = Duration::from_secs(30);

/// One program for each way of compiling it.
const BUILDS: [(&str, &[&str]); 2] = [("DPDK", &[]), ("DPDK native", &["-march=native"])];

/// What there is of DPDK.
pub(super) struct Found {
    pub(super) contestants: Vec<Box<dyn Contestant>>,
    /// DPDK's version; or what is missing, and what would mend it.
    pub(super) told: Result<String, String>,
}

/// Compiles and starts the peers, for pools or for rings.
///
/// # Errors
/// When DPDK is there, but what was compiled does not work.
pub(super) fn find(place: &Place, pools: bool) -> Result<Found> {
    let flags = match flags() {
        Ok(flags) => flags,
        Err(missing) => return Ok(Found { contestants: Vec::new(), told: Err(missing) }),
    };
    let directory = Rc::new(tempfile::tempdir().context("making a directory for DPDK's side")?);
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    let mut version = String::new();
    for (name, more) in BUILDS {
        let program = directory.path().join(name.replace(' ', "-"));
        compile(&program, SOURCE, &flags, more)?;
        let mut started = Program::start(&program, place, Rc::clone(&directory))?;
        version = started.ask("version", 0)?;
        let started = Rc::new(RefCell::new(started));
        let side = |name: String, calls| -> Box<dyn Contestant> {
            Box::new(Dpdk { name, calls, program: Rc::clone(&started) })
        };
        contestants.push(side(name.to_owned(), "plain"));
        if pools {
            contestants.push(side(format!("{name} cache"), "cache"));
        }
    }
    Ok(Found { contestants, told: Ok(version) })
}

/// The compiler's options for libdpdk; or what is missing.
pub(super) fn flags() -> Result<Vec<String>, String> {
    let output = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output().ok();
    let missing = |what: &str, package: &str| format!("{what} (Debian: apt install {package})");
    if output("cc", &["--version"]).is_none() {
        return Err(missing("there is no C compiler, cc", "gcc libdpdk-dev"));
    }
    let Some(found) = output("pkg-config", &["--cflags", "--libs", "libdpdk"]) else {
        return Err(missing("there is no pkg-config", "pkg-config libdpdk-dev"));
    };
    if !found.status.success() {
        return Err(missing("libdpdk is not installed", "libdpdk-dev"));
    }
    Ok(String::from_utf8_lossy(&found.stdout).split_whitespace().map(str::to_owned).collect())
}

/// Compiles `text` to `program`. `more` comes last: of two `-march`, the last counts, and the package has one.
pub(super) fn compile(program: &Path, text: &str, flags: &[String], more: &[&str]) -> Result<()> {
    let source = program.with_extension("c");
    std::fs::write(&source, text).with_context(|| format!("writing {}", source.display()))?;
    let mut command = Command::new("cc");
    command.args(["-O3", "-o"]).arg(program).arg(&source).args(flags).args(more);
    let output = command.output().context("running cc")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let error = text.lines().find(|line| line.contains("error")).unwrap_or("it said nothing of an error");
        bail!("compiling DPDK's side: {error}");
    }
    Ok(())
}

/// The program, running. It ends with this value.
pub(super) struct Program {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it says on standard error, when it is over.
    errors: Option<JoinHandle<String>>,
    _directory: Rc<TempDir>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(program: &Path, place: &Place, directory: Rc<TempDir>) -> Result<Self> {
        let lcores: Vec<String> =
            place.cpus().iter().enumerate().map(|(lcore, cpu)| format!("{lcore}@{cpu}")).collect();
        let mut command = Command::new(program);
        // Without files that two programs at once, or another of DPDK's, would share.
        command.args(["--no-huge", "-m", "512", "--no-pci", "--no-telemetry", "--no-shconf"]);
        command.args(["--log-level=error", "--lcores"]);
        command.arg(lcores.join(","));
        Self::spawn(command, directory)
    }

    /// Starts `command`, whose files are in `directory`.
    pub(super) fn spawn(mut command: Command, directory: Rc<TempDir>) -> Result<Self> {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("running {shown}"))?;
        let pipes = child.stdin.take().zip(child.stdout.take()).zip(child.stderr.take());
        let ((input, output), mut errors) = pipes.context("a program without pipes")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let read = BufReader::new(output).lines().map_while(Result::ok);
            read.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = errors.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self { child, input, lines, errors: Some(errors), _directory: directory })
    }

    /// The answer to a line, which takes `ms` milliseconds to work out.
    pub(super) fn ask(&mut self, line: &str, ms: u32) -> Result<String> {
        let asked = writeln!(self.input, "{line}");
        let patience = PATIENCE + Duration::from_millis(u64::from(ms));
        loop {
            match self.lines.recv_timeout(patience) {
                Ok(said) => {
                    if let Some(answer) = answer(&said) {
                        return answer.with_context(|| format!("asking DPDK's side for \"{line}\""));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("DPDK's side has not answered \"{line}\" in {} s", patience.as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let said = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
                    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
                    let said = lines.collect::<Vec<_>>().join("; ");
                    asked.with_context(|| format!("telling DPDK's side \"{line}\": {said}"))?;
                    bail!("DPDK's side ended at \"{line}\": {said}");
                }
            }
        }
    }
}

/// What a line answers; none when it is one of EAL's.
fn answer(line: &str) -> Option<Result<String>> {
    let text = line.strip_prefix("= ")?;
    Some(match text.strip_prefix("error: ") {
        Some(error) => Err(anyhow::anyhow!("{error}")),
        None => Ok(text.to_owned()),
    })
}

/// One build, by one kind of calls.
struct Dpdk {
    name: String,
    calls: &'static str,
    program: Rc<RefCell<Program>>,
}

impl Contestant for Dpdk {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, work: Work, bulk: usize, ms: u32) -> Result<Option<f64>> {
        let Some(line) = command(work, self.calls, bulk, ms) else { return Ok(None) };
        let answer = self.program.borrow_mut().ask(&line, ms)?;
        let cycles = answer.parse::<f64>().ok().filter(|cycles| cycles.is_finite() && *cycles > 0.0);
        cycles.with_context(|| format!("DPDK's side answered \"{answer}\" to \"{line}\"")).map(Some)
    }
}

/// The line that asks for this work; none when DPDK has no such work.
fn command(work: Work, calls: &str, bulk: usize, ms: u32) -> Option<String> {
    Some(match work {
        Work::Churn { keep, threads } => format!("churn {calls} {CACHE} {keep} {bulk} {threads} {ms}"),
        Work::Pair => format!("pair {calls} {CACHE} {bulk} {ms}"),
        Work::Ring { multi, threads } => {
            format!("ring {bulk} {} {threads} {ms}", if multi { "mpmc" } else { "spsc" })
        }
        Work::Crowd => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_what_eal_prints() {
        assert!(answer("EAL: Detected CPU lcores: 2").is_none());
        assert!(answer("12.5").is_none());
        assert_eq!(answer("= 12.5000").unwrap().unwrap(), "12.5000");
        assert_eq!(
            answer("= error: not understood: x").unwrap().unwrap_err().to_string(),
            "not understood: x"
        );
    }

    #[test]
    fn works_are_asked_for_as_the_program_has_them() {
        let line = |work| command(work, "plain", 8, 50);
        assert_eq!(line(Work::Churn { keep: 512, threads: 2 }).unwrap(), "churn plain 512 512 8 2 50");
        assert_eq!(line(Work::Pair).unwrap(), "pair plain 512 8 50");
        assert_eq!(line(Work::Ring { multi: true, threads: 1 }).unwrap(), "ring 8 mpmc 1 50");
        assert_eq!(line(Work::Crowd), None);
    }

    /// A program of the shell's in the place of DPDK's.
    fn program(script: &str) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program::spawn(command, Rc::new(tempfile::tempdir().unwrap())).unwrap()
    }

    #[test]
    fn figures_are_read_among_other_lines() {
        let script = "while read line; do echo EAL: hello; echo = 2.5; echo TELEMETRY: x; done";
        let program = Rc::new(RefCell::new(program(script)));
        let mut dpdk = Dpdk { name: "DPDK".into(), calls: "plain", program };
        for _ in 0..3 {
            assert_eq!(dpdk.run(Work::Pair, 8, 1).unwrap(), Some(2.5));
        }
        assert_eq!(dpdk.run(Work::Crowd, 8, 1).unwrap(), None);
    }

    #[test]
    fn what_is_no_figure_and_an_end_are_errors() {
        let run = |script| {
            let program = Rc::new(RefCell::new(program(script)));
            let mut dpdk = Dpdk { name: "DPDK".into(), calls: "plain", program };
            format!("{:#}", dpdk.run(Work::Pair, 8, 1).unwrap_err())
        };
        assert_eq!(run("read l; echo = -inf"), "DPDK's side answered \"-inf\" to \"pair plain 512 8 1\"");
        assert!(run("read l; echo = error: no").ends_with(": no"));
        let ended = run("read l; echo EAL: no memory >&2; echo ' Cause: x' >&2; exit 1");
        assert_eq!(ended, "DPDK's side ended at \"pair plain 512 8 1\": EAL: no memory; Cause: x");
    }
}
