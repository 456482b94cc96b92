//! Commands for a guest's shell, by a serial line that has nothing else on it.
//!
//! The guest's `init` says that it is ready by one line, and runs a shell that reads commands from the line. After
//! each the shell prints a line with the command's number and its exit status. Both begin with the byte 0x1e, a
//! record separator, which no program prints.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::program::Capture;
use crate::wait;

const READY: &[u8] = b"\x1eready\n";
/// Time for QEMU to make the socket.
const CONNECT: Duration = Duration::from_secs(20);

/// The test's end of the line.
#[derive(Debug)]
pub(super) struct Console {
    line: UnixStream,
    output: Capture,
    /// Bytes of the output that have been looked at.
    seen: usize,
    /// Commands sent until now.
    commands: u32,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status, as the shell tells it: 128 and the signal, if one ended it.
    pub status: u8,
    /// What it printed, on both outputs.
    pub output: String,
}

impl Console {
    /// Connects to the socket of a QEMU that starts, as long as it is `alive`.
    pub(super) fn connect(path: &Path, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut line = None;
        wait::until("QEMU to offer the guest's console", CONNECT, || {
            alive()?;
            line = UnixStream::connect(path).ok();
            Ok(line.is_some())
        })?;
        Self::on(line.context("no console")?)
    }

    fn on(line: UnixStream) -> Result<Self> {
        line.set_write_timeout(Some(CONNECT)).context("setting the console's time limit")?;
        let output = Capture::of(Some(line.try_clone().context("sharing the console")?));
        Ok(Self { line, output, seen: 0, commands: 0 })
    }

    /// All that came over the line.
    pub(super) fn transcript(&self) -> String {
        self.output.text().replace('\x1e', "> ")
    }

    /// Waits until a guest that starts, or starts again, takes commands.
    pub(super) fn ready(&mut self, limit: Duration, alive: impl FnMut() -> Result<()>) -> Result<()> {
        self.until(READY, limit, alive).map(drop).context("the guest does not come up")
    }

    /// Sends a line and does not wait for what becomes of it.
    pub(super) fn send(&mut self, line: &str) -> Result<()> {
        (&self.line).write_all(format!("{line}\n").as_bytes()).context("writing to the guest's console")
    }

    /// Runs `script`, lines for the shell, to its end.
    pub(super) fn run(
        &mut self,
        script: &str,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Outcome> {
        self.commands += 1;
        let number = self.commands;
        // A shell of its own: a syntax error, or an `exit`, must not end the one that prints the mark.
        let quoted = script.replace('\'', r"'\''");
        self.send(&format!("sh -c '{quoted}' </dev/null 2>&1; printf '\\036done {number} %d\\n' $?"))?;
        let mark = format!("\x1edone {number} ");
        let output = self.until(mark.as_bytes(), limit, &mut alive)?;
        let status = self.until(b"\n", limit, alive)?;
        let status = status.parse().with_context(|| format!("no exit status: {status:?}"))?;
        Ok(Outcome { status, output })
    }

    /// What comes until `mark`, which is passed over.
    fn until(
        &mut self,
        mark: &[u8],
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<String> {
        let mut found = None;
        let what = format!("{:?} from the guest", String::from_utf8_lossy(mark));
        wait::until(&what, limit, || {
            let is_complete = self.output.is_complete();
            let unseen = self.output.since(self.seen);
            found = unseen.windows(mark.len()).position(|window| window == mark).map(|at| (at, unseen));
            if found.is_none() {
                alive()?;
                ensure!(!is_complete, "the guest's console was closed");
            }
            Ok(found.is_some())
        })?;
        let (at, unseen) = found.context("no mark")?;
        self.seen += at + mark.len();
        Ok(String::from_utf8_lossy(&unseen[..at]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A console with a shell of this machine at its other end.
    fn console() -> (Console, std::process::Child) {
        let (near, far) = UnixStream::pair().unwrap();
        let input = Stdio::from(std::os::fd::OwnedFd::from(far.try_clone().unwrap()));
        let output = Stdio::from(std::os::fd::OwnedFd::from(far));
        let mut command = Command::new("sh");
        command.args(["-c", r"printf 'noise\036ready\n'; exec sh"]);
        let shell = command.stdin(input).stdout(output).spawn().unwrap();
        (Console::on(near).unwrap(), shell)
    }

    #[test]
    fn commands_give_their_output_and_status() {
        let (mut console, mut shell) = console();
        console.ready(LIMIT, || Ok(())).unwrap();
        let mut run = |script: &str| console.run(script, LIMIT, || Ok(())).unwrap();
        let outcome = |status, output: &str| Outcome { status, output: output.to_owned() };
        assert_eq!(run("echo 'one'; echo two >&2"), outcome(0, "one\ntwo\n"));
        assert_eq!(run("printf 'no end'; exit 3"), outcome(3, "no end"));
        assert_eq!(run("cat; kill -9 $$").status, 137);
        assert_ne!(run("if").status, 0, "a syntax error");
        assert_eq!(run("echo there\necho still"), outcome(0, "there\nstill\n"));
        console.send("exit").unwrap();
        shell.wait().unwrap();
        let error = console.run("echo", LIMIT, || Ok(())).unwrap_err();
        assert!(!format!("{error:#}").contains("in vain"), "{error:#}");
    }

    #[test]
    fn a_command_that_does_not_end_is_given_up() {
        let (mut console, mut shell) = console();
        let error = console.run("sleep 30", Duration::from_millis(200), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("in vain"), "{error:#}");
        let error = console.run("sleep 30", LIMIT, || anyhow::bail!("QEMU ended")).unwrap_err();
        assert!(error.to_string().contains("QEMU ended"), "{error:#}");
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
