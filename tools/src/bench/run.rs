//! Runs a program for a while and reads what it says.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long after SIGINT a program may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Ends the program if it still runs when this goes.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command` for `time`, asks it to end by SIGINT, and returns what it printed on standard output.
///
/// # Errors
/// When it cannot be run, fails, or does not end.
pub(super) fn run_for(command: &mut Command, time: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {shown}"))?;
    let mut running = Running(child);
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_string(&mut text);
            }
            text
        })
    };
    let out = reader(running.0.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = reader(running.0.stderr.take().map(|pipe| Box::new(pipe) as _));

    let begun = Instant::now();
    let mut asked = false;
    let status = loop {
        if let Some(status) = running.0.try_wait()? {
            break status;
        }
        if !asked && begun.elapsed() >= time {
            asked = true;
            if let Some(pid) = i32::try_from(running.0.id()).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::INT)?;
            }
        }
        if begun.elapsed() > time + GRACE {
            bail!("{shown} did not end {} s after SIGINT", GRACE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if !status.success() {
        bail!("{shown} ended with {status}: {}", err.lines().last().unwrap_or("it said nothing"));
    }
    Ok(out)
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
