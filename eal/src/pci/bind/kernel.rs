//! What binding asks of the kernel: a seam, so that tests see the sequence of writes.

use std::io;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use crate::system::SystemRoot;

/// How a machine is changed. What it is like is read from its [`SystemRoot`].
pub trait KernelControl {
    /// Writes `text` in one piece to a file that exists, named from the root, as in `sys/bus/pci/drivers_probe`.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, file: &str, text: &str) -> io::Result<()>;

    /// Loads a driver's module.
    ///
    /// # Errors
    /// What `modprobe` says, in one line.
    fn load_module(&self, module: &str) -> io::Result<()>;

    /// The addresses of network interfaces, each with the interface's name.
    fn addresses(&self) -> Vec<(String, IpAddr)>;
}

/// The kernel that runs.
#[derive(Debug, Default)]
pub struct RealKernel {
    root: SystemRoot,
}

impl KernelControl for RealKernel {
    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        self.root.write(file, text)
    }

    fn load_module(&self, module: &str) -> io::Result<()> {
        let output = Command::new("modprobe").arg("--").arg(module).stdin(Stdio::null()).output();
        let output = output.map_err(|error| io::Error::new(error.kind(), format!("modprobe: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().map(str::trim).find(|line| !line.is_empty());
        Err(io::Error::other(line.map_or_else(|| format!("modprobe: {}", output.status), str::to_owned)))
    }

    fn addresses(&self) -> Vec<(String, IpAddr)> {
        let known = if_addrs::get_if_addrs().unwrap_or_default();
        known.into_iter().map(|interface| (interface.name.clone(), interface.ip())).collect()
    }
}
