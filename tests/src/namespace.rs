//! A network namespace for the time of a test.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::{self, Finished};
use crate::scratch;

/// Time that one command of iproute2 or ethtool may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A named network namespace; it and all its interfaces go away with the value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with a name of its own, its loopback up and IPv6 off unless a test turns it on.
    ///
    /// # Errors
    /// When this process may not.
    pub fn new(label: &str) -> Result<Self> {
        let name = scratch::unique(label);
        ip(&["netns", "add", &name])?;
        // From here on it is removed whatever comes.
        let namespace = Self { name };
        // Router solicitations and the like would be counted among the test's own frames.
        namespace.run("sysctl", &["-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `program` inside, to be given arguments and started. It has the id of the process that is started.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // `ip` turns into the program, with exec.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a short command inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(program);
        command.args(arguments);
        let finished = program::run(command, LIMIT)?;
        finished.expect_code(0)?;
        Ok(finished)
    }

    /// Runs `ip` on what is inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], arguments].concat()).map(drop)
    }

    /// Switches offloads of `interface`, as `ethtool -K` names them: `&["tx", "off"]`.
    ///
    /// # Errors
    /// When ethtool fails.
    pub fn offloads(&self, interface: &str, switches: &[&str]) -> Result<()> {
        self.run("ethtool", &[&["-K", interface], switches].concat()).map(drop)
    }

    /// AF_PACKET sockets that processes have open inside.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn packet_sockets(&self) -> Result<usize> {
        let listed = self.run("cat", &["/proc/net/packet"])?;
        Ok(listed.stdout.lines().count().saturating_sub(1))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Names of all namespaces.
///
/// # Errors
/// When there is no `ip`.
pub fn existing() -> Result<Vec<String>> {
    let listed = ip(&["netns", "list"])?;
    Ok(listed.stdout.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Ends what still runs in the namespace `name`, and removes it.
pub(crate) fn remove(name: &str) {
    // Whatever runs in there was started by the run that made it.
    if let Ok(listed) = ip(&["netns", "pids", name]) {
        let pids = listed.stdout.lines().filter_map(|line| line.trim().parse().ok().and_then(Pid::from_raw));
        pids.for_each(|pid| {
            let _ = kill_process(pid, Signal::KILL);
        });
    }
    // Nothing can be done about an error here; the next run tries again.
    let _ = ip(&["netns", "del", name]);
}

fn ip(arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new("ip");
    command.args(arguments);
    let finished = program::run(command, LIMIT).context("is iproute2 installed?")?;
    finished.expect_code(0)?;
    Ok(finished)
}
