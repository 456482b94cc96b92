//! Linux guests under QEMU, whose interfaces a program of ours serves by vhost-user.
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

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::program::Running;
use crate::{scratch, wait};

mod console;
mod cpio;
mod image;
mod initramfs;
mod kernel;
mod modules;
mod nic;
mod traffic;

pub use console::Outcome;
pub use kernel::Kernel;
pub use modules::{Module, Modules};
pub use nic::Nic;
pub use traffic::{Counters, Feature};

use console::Console;

/// Time to come up: some seconds, and more where builds keep the processors busy.
const BOOT: Duration = Duration::from_secs(150);
/// Time that a command may take, unless more is given.
const COMMAND: Duration = Duration::from_secs(30);
/// What every guest loads: QEMU's PCI devices of virtio, and network interfaces among them.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// A guest to be.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    memory: u32,
    processors: u32,
    nics: Vec<Nic>,
    modules: Vec<&'static str>,
    programs: Vec<String>,
    kernel_arguments: String,
}

impl Machine {
    /// One with a processor, 256 MiB of memory and no interfaces. The name is for people.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory: 256,
            processors: 1,
            nics: Vec::new(),
            modules: MODULES.to_vec(),
            programs: Vec::new(),
            kernel_arguments: String::new(),
        }
    }

    /// With so many MiB of memory, shared with whoever serves its interfaces.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// With so many processors.
    #[must_use]
    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// With another interface: the first is `eth0`.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// With a module of the kernel loaded.
    #[must_use]
    pub fn module(mut self, name: &'static str) -> Self {
        self.modules.push(name);
        self
    }

    /// With a program of the host, and its libraries. The shell prefers busybox's own of the same name.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.programs.push(name.to_owned());
        self
    }

    /// With these words on the kernel's command line.
    #[must_use]
    pub fn kernel_arguments(mut self, words: &str) -> Self {
        self.kernel_arguments = words.to_owned();
        self
    }

    /// Starts it, and does not wait until it is up. QEMU waits first until all its interfaces are served.
    ///
    /// # Errors
    /// When there is no kernel, a program is missing, or QEMU does not start.
    pub fn start(&self) -> Result<Guest> {
        let folder = scratch::directory(&self.name)?;
        let kernel = Kernel::cached()?;
        let initramfs = folder.path().join("initramfs");
        std::fs::write(&initramfs, initramfs::build(&kernel, &self.modules, &self.programs)?)?;
        let socket = folder.path().join("console");

        // QEMU ends with the thread that starts it, however that comes.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        // The small buffer for translated code is plenty, and spares the host's memory.
        command.args(["-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max"]);
        command.args(["-machine", "q35,memory-backend=memory", "-smp", &self.processors.to_string()]);
        command.args(["-m", &format!("{}M", self.memory), "-object"]);
        command.arg(format!("memory-backend-memfd,id=memory,size={}M,share=on", self.memory));
        // The first serial line has the kernel's messages, the second the console.
        command.args(["-serial", "stdio", "-serial"]).arg({
            let mut line = OsString::from("unix:");
            line.push(&socket);
            line.push(",server=on,wait=off");
            line
        });
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        command.args(["-append", &format!("console=ttyS0 quiet {}", self.kernel_arguments)]);
        for (index, nic) in self.nics.iter().enumerate() {
            command.args(nic.arguments(index));
        }
        let mut qemu = Running::start(command)?;
        let console = Console::connect(&socket, || alive(&mut qemu))?;
        Ok(Guest { name: self.name.clone(), console, qemu, _folder: folder })
    }
}

/// A guest that runs; QEMU is killed with the value.
#[derive(Debug)]
pub struct Guest {
    name: String,
    console: Console,
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
