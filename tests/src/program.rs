//! Running programs: the bundled ones, which are built first, and others; always with a deadline.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{repository, wait};

/// Time to build the bundled programs, with nothing built before.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// Time for the last output to arrive after a program has ended.
const OUTPUT_LIMIT: Duration = Duration::from_secs(5);

/// Where the bundled program `name` is. The first call of a run builds them all, in the tests' own profile.
///
/// # Errors
/// When they do not build, or there is none of this name.
pub fn bundled(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<Vec<(String, PathBuf)>, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let built = built.as_ref().map_err(|error| anyhow!("{error}"))?;
    let found = built.iter().find(|(other, _)| other == name);
    let (_, path) = found.with_context(|| format!("apps and tools have no program {name}"))?;
    Ok(path.clone())
}

/// Builds the bundled programs; their names and where they are.
fn build() -> Result<Vec<(String, PathBuf)>> {
    let mut command = repository::cargo()?;
    command.args(["build", "-p", "wirerate-apps", "-p", "wirerate-tools", "--bins"]);
    command.args(["--message-format", "json-render-diagnostics", "--profile", &repository::profile()?]);
    let finished = run(command, BUILD_LIMIT)?;
    finished.expect_code(0)?;
    let mut programs = Vec::new();
    for line in finished.stdout.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo printed no JSON")?;
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            programs.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(programs)
}

/// The CPU that a forwarder gets: the last that this process may use, so that the first is left for the hosts.
///
/// # Errors
/// When the kernel does not tell.
pub fn forwarder_cpu() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.and_then(|list| list.trim().rsplit([',', '-']).next());
    Ok(last.unwrap_or("0").to_owned())
}

/// Runs `command` to its end.
///
/// # Errors
/// When it does not start, or takes longer than `limit`; it is killed then.
pub fn run(command: Command, limit: Duration) -> Result<Finished> {
    Running::start(command)?.wait(limit)
}

/// A program that runs; it is killed with the value.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl Running {
    /// Starts `command`, without input and with its output captured.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command) -> Result<Self> {
        let what = words(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A level of logging that the user likes is none of the tests' business.
        command.env_remove("RUST_LOG");
        let mut child = command.spawn().with_context(|| format!("starting {what}"))?;
        let stdout = Capture::of(child.stdout.take());
        let stderr = Capture::of(child.stderr.take());
        Ok(Self { what, child, stdout, stderr })
    }

    /// What it printed until now.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its command line and the last that it printed until now, to be read by people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}\n{}{}", self.what, ending(&self.stdout.text()), ending(&self.stderr.text()))
    }

    /// The process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs still.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running()? {
            bail!("it ended before it was told to: {}", self.describe());
        }
        // It has not been waited for, so the id is still its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("sending {signal:?} to {}", self.what))
    }

    /// Waits until it has printed `text`.
    ///
    /// # Errors
    /// When it ends without, or takes longer than `limit`.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let mut ended = false;
        let what = format!("{} to print {text:?}", self.what);
        wait::until(&what, limit, || {
            if self.stdout.text().contains(text) {
                return Ok(true);
            }
            ensure!(!ended, "{} ended and had not printed {text:?}:\n{}", self.what, self.stderr.text());
            // Looked at once more after the end, for the last words.
            ended = self.child.try_wait()?.is_some();
            Ok(false)
        })
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    /// When it has ended before, or takes longer than `limit` to end.
    pub fn end(mut self, signal: Signal, limit: Duration) -> Result<Finished> {
        self.signal(signal)?;
        self.wait(limit)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When that takes longer than `limit`; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let what = format!("the end of {}", self.what);
        let mut status = None;
        let ended = wait::until(&what, limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        });
        ended.with_context(|| self.describe())?;
        let status = status.context("no exit status")?;
        // A grandchild may hold the pipe open: what came until the deadline is taken.
        let _ = wait::until("the rest of the output", OUTPUT_LIMIT, || {
            Ok(self.stdout.is_complete() && self.stderr.is_complete())
        });
        Ok(Finished {
            what: std::mem::take(&mut self.what),
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its command line.
    pub what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it printed on the error output.
    pub stderr: String,
}

impl Finished {
    /// Checks that it ended with `code`.
    ///
    /// # Errors
    /// When it did not; with all that it printed.
    pub fn expect_code(&self, code: i32) -> Result<&Self> {
        if self.status.code() == Some(code) {
            return Ok(self);
        }
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "neither code nor signal".to_owned(),
        };
        bail!(
            "{}\nended with {how}, and {code} was expected; stdout:\n{}\nstderr:\n{}",
            self.what,
            ending(&self.stdout),
            ending(&self.stderr)
        )
    }
}

/// What comes out of a pipe, collected by a thread.
#[derive(Debug)]
pub(crate) struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(crate) fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let thread = pipe.map(|mut pipe| {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                    bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..count]);
                }
            })
        });
        Self { bytes, thread }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// What came after the first `seen` bytes.
    pub(crate) fn since(&self, seen: usize) -> Vec<u8> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.get(seen..).unwrap_or_default().to_vec()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// The last lines of an output: what a failure is about is there.
fn ending(output: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = output.lines().collect();
    let cut = lines.len().saturating_sub(LINES);
    let before = if cut > 0 { format!("... {cut} lines\n") } else { String::new() };
    lines[cut..].iter().fold(before, |text, line| text + line + "\n")
}

/// A command line, to be read by people.
fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_exit_code_arrive() {
        let finished = run(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        assert!(finished.expect_code(3).is_ok() && finished.expect_code(0).is_err());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let mut running = Running::start(shell("echo there; exec sleep 60")).unwrap();
        running.wait_for("there", Duration::from_secs(10)).unwrap();
        let pid = running.id();
        assert!(running.wait(Duration::from_millis(50)).is_err());
        assert!(!PathBuf::from(format!("/proc/{pid}/exe")).exists());
    }

    #[test]
    fn a_signal_ends_it() {
        let finished =
            Running::start(shell("exec sleep 60")).unwrap().end(Signal::TERM, Duration::from_secs(10));
        assert_eq!(finished.unwrap().status.signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn one_that_ends_without_the_text_is_told() {
        let mut running = Running::start(shell("echo other")).unwrap();
        let error = running.wait_for("text", Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("had not printed"), "{error}");
    }
}
