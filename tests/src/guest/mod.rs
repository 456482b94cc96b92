//! Linux guests under QEMU, whose interfaces a program of ours serves by vhost-user, or drives from within.
//!
//! A [`Machine`] describes a guest: its memory, its interfaces, what is in it. [`Machine::start`] makes it a
//! [`Guest`], which takes commands:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use wirerate_tests::guest::{Machine, Nic};
//!
//! let machine = Machine::new("left").nic(Nic::vhost_user("/run/left.sock".as_ref())).program("iperf3");
//! let mut guest = machine.start()?;
//! guest.ready()?;
//! print!("{}", guest.run("ip link")?);
//! # Ok(())
//! # }
//! ```
//!
//! The processor is QEMU's own (TCG), so no test depends on what a machine lets its guests do, and no test says
//! anything about speed. The kernel is Debian's ([`Kernel`]); the rest of a guest is made from the host's programs
//! when it starts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::program::Running;
use crate::wait;

pub mod cable;
mod cache;
mod console;
mod cpio;
mod emulator;
mod exchange;
mod image;
mod initramfs;
mod kernel;
mod machine;
mod modules;
mod monitor;
mod nic;
mod ours;
mod pci;
mod task;
mod traffic;
mod wire;

pub use console::Outcome;
pub use emulator::Emulator;
pub use exchange::{Order, forward_and_compare};
pub use kernel::Kernel;
pub use machine::Machine;
pub use modules::{Module, Modules};
pub use nic::Nic;
pub use pci::{DPDK_IXGBE, DPDK_PLUGINS, pci_machine};
pub use task::Task;
pub use traffic::{Counters, Feature};
pub use wire::Wire;

use console::Console;
use monitor::Monitor;

/// Time to come up: some seconds, and more where builds keep the processors busy.
const BOOT: Duration = Duration::from_secs(150);
/// Time that a command may take, unless more is given.
const COMMAND: Duration = Duration::from_secs(30);

/// A guest that runs; QEMU is killed with the value.
#[derive(Debug)]
pub struct Guest {
    name: String,
    nics: Vec<Nic>,
    has_iommu: bool,
    console: Console,
    /// Connected when it is first asked for, until then its socket: QEMU greets when it waits for nobody any more.
    monitor: Result<Monitor, PathBuf>,
    qemu: Running,
    _folder: TempDir,
}

impl Guest {
    /// Waits until it takes commands.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub fn ready(&mut self) -> Result<()> {
        let Self { name, console, qemu, .. } = self;
        console.ready(BOOT, || alive(qemu)).with_context(|| format!("the guest {name}"))
    }

    /// Runs lines for a shell, and gives what they printed.
    ///
    /// # Errors
    /// When they end with another status than 0, or do not end in time.
    pub fn run(&mut self, script: &str) -> Result<String> {
        self.run_within(script, COMMAND)
    }

    /// The same, with a time limit of its own.
    ///
    /// # Errors
    /// When they end with another status than 0, or do not end in time.
    pub fn run_within(&mut self, script: &str, limit: Duration) -> Result<String> {
        let Outcome { status, output } = self.outcome(script, limit)?;
        ensure!(status == 0, "in the guest {}, {script:?} ended with {status}:\n{output}", self.name);
        Ok(output)
    }

    /// Runs lines for a shell, whatever their status.
    ///
    /// # Errors
    /// When they do not end in time; the guest takes no commands then.
    pub fn outcome(&mut self, script: &str, limit: Duration) -> Result<Outcome> {
        let Self { name, console, qemu, .. } = self;
        let outcome = console.run(script, limit, || alive(qemu));
        outcome.with_context(|| format!("in the guest {name}, running {script:?}"))
    }

    /// Resets it at once, as a crash of its kernel does, and waits until it is up again.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub fn reboot(&mut self) -> Result<()> {
        self.console.send("reboot -f")?;
        self.ready()
    }

    /// Kills QEMU, as a host's crash does to it.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.qemu.signal(Signal::KILL)?;
        wait::until("QEMU to end", COMMAND, || Ok(!self.qemu.is_running()?))
    }

    fn monitor(&mut self) -> Result<&mut Monitor> {
        if let Err(socket) = &self.monitor {
            self.monitor = Ok(Monitor::connect(socket)?);
        }
        self.monitor.as_mut().ok().context("no monitor")
    }

    /// All that its kernel, its shell and QEMU said, to be read by people.
    #[must_use]
    pub fn log(&self) -> String {
        let Self { name, console, qemu, .. } = self;
        format!("the guest {name}: {}\nits console:\n{}", qemu.describe(), console.transcript())
    }
}

/// Starts guests and waits until all are up.
///
/// # Errors
/// When one does not start or come up; with the log of each that started.
pub fn boot<const COUNT: usize>(machines: [&Machine; COUNT]) -> Result<[Guest; COUNT]> {
    let mut guests = Vec::new();
    for machine in machines {
        guests.push(machine.start()?);
    }
    let up = guests.iter_mut().try_for_each(Guest::ready);
    up.with_context(|| guests.iter().map(Guest::log).collect::<String>())?;
    guests.try_into().ok().context("as many guests as machines")
}

fn alive(qemu: &mut Running) -> Result<()> {
    ensure!(qemu.is_running()?, "QEMU ended:\n{}", qemu.describe());
    Ok(())
}
