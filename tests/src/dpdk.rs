//! DPDK's own testpmd, as a peer.

use std::process::Command;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::program::forwarder_cpu;
use crate::scratch;

/// `dpdk-testpmd`, on two lcores of which the second forwards.
#[derive(Debug)]
pub struct Dpdk {
    prefix: String,
}

impl Dpdk {
    /// One with a folder of its own for what it shares.
    #[must_use]
    pub fn new() -> Self {
        Self { prefix: scratch::unique("dpdk") }
    }

    /// The command line inside `place`, with these devices and these options of testpmd.
    ///
    /// # Errors
    /// When it is not known which processors there are.
    pub fn command(&self, place: &Namespace, devices: &[&str], options: &[&str]) -> Result<Command> {
        self.complete(place.command("dpdk-testpmd"), devices, options)
    }

    /// The same where this process is.
    ///
    /// # Errors
    /// When it is not known which processors there are.
    pub fn command_here(&self, devices: &[&str], options: &[&str]) -> Result<Command> {
        self.complete(Command::new("dpdk-testpmd"), devices, options)
    }

    fn complete(&self, mut command: Command, devices: &[&str], options: &[&str]) -> Result<Command> {
        // Its first lcore sleeps, so that on a machine of one processor both can be there. Without huge pages it
        // refuses --in-memory.
        command.arg(format!("--lcores=0@0,1@{}", forwarder_cpu()?));
        command.args(["--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry"]);
        command.args(["--file-prefix", &self.prefix]).args(devices);
        command.args(["--", "--total-num-mbufs=4096", "--stats-period=1", "--no-mlockall"]).args(options);
        Ok(command)
    }
}

impl Default for Dpdk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        // DPDK leaves the folder of each run behind.
        let _ = std::fs::remove_dir_all(std::path::Path::new("/var/run/dpdk").join(&self.prefix));
    }
}
