//! Runs programs for a while and reads what they say.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long after SIGINT a program may take to end.
const GRACE: Duration = Duration::from_secs(30);
/// How often a program that runs is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// A program that runs; it is killed when this goes.
#[derive(Debug)]
pub(super) struct Running {
    what: String,
    child: Child,
    stdout: Captured,
    stderr: Captured,
}

impl Running {
    /// Starts `command`, without input and with its output captured.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let what = words(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("running {what}"))?;
        let stdout = Captured::of(child.stdout.take());
        let stderr = Captured::of(child.stderr.take());
        Ok(Self { what, child, stdout, stderr })
    }

    /// What it printed until now.
    pub(super) fn printed(&self) -> String {
        self.stdout.text()
    }

    /// The time that its threads have run until now; none when the kernel does not tell.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        cpu_time(&stat, rustix::param::clock_ticks_per_second())
    }

    /// Checks that it has not ended.
    ///
    /// # Errors
    /// When it has; with the last that it said.
    pub(super) fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    /// Asks it to end by SIGINT, waits for the end, and returns what it printed.
    ///
    /// # Errors
    /// When it had ended before, fails, or does not end.
    pub(super) fn end(mut self) -> Result<String> {
        self.expect_running()?;
        // It has not been waited for, so the id is still its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::INT).with_context(|| format!("sending SIGINT to {}", self.what))?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    return Err(self.ended(status));
                }
                self.stdout.wait();
                return Ok(self.stdout.text());
            }
            ensure!(begun.elapsed() < GRACE, "{} did not end {} s after SIGINT", self.what, GRACE.as_secs());
            std::thread::sleep(LOOK);
        }
    }

    fn ended(&mut self, status: ExitStatus) -> anyhow::Error {
        self.stderr.wait();
        let said = self.stderr.text();
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        anyhow::anyhow!("{} ended with {status}: {last}", self.what)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe, collected by a thread.
#[derive(Debug)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Captured {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
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

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until all has arrived, which it has soon after the program's end.
    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `command` for `time`, asks it to end by SIGINT, and returns what it printed on standard output. One that
/// ends by itself before that is as good.
///
/// # Errors
/// When it cannot be run, fails, or does not end.
pub(super) fn run_for(command: &mut Command, time: Duration) -> Result<String> {
    let mut running = Running::start(command)?;
    let begun = Instant::now();
    while begun.elapsed() < time {
        match running.child.try_wait()? {
            None => std::thread::sleep(LOOK),
            Some(status) if status.success() => {
                running.stdout.wait();
                return Ok(running.stdout.text());
            }
            Some(status) => return Err(running.ended(status)),
        }
    }
    running.end()
}

/// A program that was built beside this one.
///
/// # Errors
/// When it is not there.
pub(super) fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    bail!("{} is not there; build it with: cargo build --release --bin {name}", path.display())
}

/// Time in user mode and in the kernel, in a line of a process's `stat` file.
fn cpu_time(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The name of the program, in brackets, may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let sum = ticks()? + ticks()?;
    (ticks_per_second > 0).then(|| Duration::from_secs_f64(sum as f64 / ticks_per_second as f64))
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
        // A shell cannot trap what it was started without, as everything is that another shell runs in the background.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", "sh", "-c", script]);
        command
    }

    #[test]
    fn what_it_prints_can_be_read_while_it_runs_and_after() {
        let script = "trap 'echo last; exit 0' INT; echo first; while :; do sleep 0.05; done";
        let mut running = Running::start(&mut shell(script)).unwrap();
        let begun = Instant::now();
        while running.printed() != "first\n" && begun.elapsed() < GRACE {
            std::thread::sleep(LOOK);
        }
        running.expect_running().unwrap();
        assert_eq!(running.end().unwrap(), "first\nlast\n");
    }

    #[test]
    fn an_early_end_is_told_with_the_last_words() {
        let error = run_for(&mut shell("echo first >&2; echo why >&2; exit 3"), GRACE).unwrap_err();
        assert!(error.to_string().ends_with("ended with exit status: 3: why"), "{error}");
        assert_eq!(run_for(&mut shell("echo done"), GRACE).unwrap(), "done\n");
    }

    #[test]
    fn time_that_a_program_has_run_is_read() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 95 0 0 0 150 25 3 4 20 0 1 0 9 9 9";
        assert_eq!(cpu_time(stat, 100), Some(Duration::from_millis(1750)));
        assert_eq!(cpu_time("7 (x) S 1", 100), None);
        let spinning = Running::start(&mut shell("while :; do :; done")).unwrap();
        let begun = Instant::now();
        while spinning.cpu_time().unwrap().is_zero() && begun.elapsed() < GRACE {
            std::thread::sleep(LOOK);
        }
        assert!(!spinning.cpu_time().unwrap().is_zero());
    }

    #[test]
    fn none_is_left_behind() {
        let running = Running::start(&mut shell("exec sleep 60")).unwrap();
        let process = PathBuf::from(format!("/proc/{}", running.child.id()));
        assert!(process.exists());
        drop(running);
        assert!(!process.exists());
    }
}
