//! What a test needs of the machine, and what becomes of it where that is missing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::cgroup::MemoryCgroup;
use crate::guest::{self, Emulator, Kernel};
use crate::hugepages::Reservation;
use crate::namespace::Namespace;
use crate::program;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Effective user 0.
    Root,
    /// Network namespaces and veth pairs can be made.
    Namespaces,
    /// Huge pages of 2 MiB can be reserved, and a hugetlbfs mounted.
    Hugepages,
    /// `iperf3`.
    Iperf3,
    /// `ping`.
    Ping,
    /// `ethtool`.
    Ethtool,
    /// `tcpdump`.
    Tcpdump,
    /// `dpdk-testpmd`, with its drivers for AF_PACKET and in-memory ports.
    Dpdk,
    /// `dpdk-testpmd`, with its drivers for virtio-user and vhost.
    DpdkVirtio,
    /// `dpdk-testpmd`, with its drivers for PCI devices in a guest.
    DpdkPci,
    /// `dpdk-testpmd`, with its driver for the 82599 in a guest.
    DpdkIxgbe,
    /// A C compiler, and DPDK's libraries to compile against.
    Libdpdk,
    /// A nightly toolchain that rustup knows.
    Nightly,
    /// `c++`: libFuzzer is compiled with the fuzz targets.
    Cxx,
    /// `valgrind`.
    Valgrind,
    /// `script` of util-linux, which gives a program a terminal.
    Script,
    /// QEMU for x86-64, and what the inside of a guest is made of.
    Qemu,
    /// A kernel for guests is in the cache.
    GuestKernel,
    /// A QEMU that takes devices by vfio-user is in the cache.
    VfioUserQemu,
    /// A memory cgroup can be made.
    MemoryCgroup,
    /// A user without privileges to run a program as: this one, or `setpriv` to become one.
    Unprivileged,
}

impl Need {
    /// Why the machine does not have it; nothing when it has. Looks once.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        static FOUND: Mutex<BTreeMap<Need, Option<String>>> = Mutex::new(BTreeMap::new());
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(self).or_insert_with(|| self.probe().err().map(|reason| format!("{reason:#}"))).clone()
    }

    fn probe(self) -> Result<()> {
        match self {
            Self::Root => {
                anyhow::ensure!(is_root(), "not root");
            }
            Self::Namespaces => {
                on_path("ip", "iproute2")?;
                let namespace = Namespace::new("probe")?;
                namespace.ip(&["link", "add", "one", "type", "veth", "peer", "name", "two"])?;
            }
            Self::Hugepages => {
                on_path("mount", "mount")?;
                Reservation::new(1)?;
            }
            Self::Iperf3 => on_path("iperf3", "iperf3")?,
            Self::Ping => on_path("ping", "iputils-ping")?,
            Self::Ethtool => on_path("ethtool", "ethtool")?,
            Self::Tcpdump => on_path("tcpdump", "tcpdump")?,
            Self::Cxx => on_path("c++", "g++")?,
            Self::Valgrind => on_path("valgrind", "valgrind")?,
            Self::Script => on_path("script", "bsdutils")?,
            Self::Dpdk => on_path("dpdk-testpmd", "dpdk-dev")?,
            Self::DpdkVirtio => dpdk_drivers(&["bus_vdev", "net_virtio", "net_vhost"])?,
            Self::DpdkPci => dpdk_drivers(&guest::DPDK_PLUGINS)?,
            Self::DpdkIxgbe => dpdk_drivers(&guest::DPDK_IXGBE)?,
            Self::Libdpdk => {
                on_path("cc", "gcc")?;
                on_path("pkg-config", "pkgconf")?;
                let mut command = Command::new("pkg-config");
                command.args(["--exists", "libdpdk"]);
                let finished = program::run(command, Duration::from_secs(30))?;
                anyhow::ensure!(finished.status.success(), "no libdpdk (Debian: apt install libdpdk-dev)");
            }
            Self::Nightly => {
                on_path("rustup", "rustup")?;
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "--version"]);
                let finished = program::run(command, Duration::from_secs(30))?;
                anyhow::ensure!(
                    finished.status.success(),
                    "no nightly toolchain: rustup toolchain install nightly"
                );
            }
            Self::Qemu => {
                on_path("qemu-system-x86_64", "qemu-system-x86")?;
                on_path("busybox", "busybox-static")?;
                on_path("setpriv", "util-linux")?;
                on_path("ldd", "libc-bin")?;
            }
            Self::GuestKernel => drop(Kernel::cached()?),
            Self::VfioUserQemu => drop(Emulator::cached()?),
            Self::MemoryCgroup => drop(MemoryCgroup::new()?),
            Self::Unprivileged => {
                if is_root() {
                    on_path("setpriv", "util-linux")?;
                }
            }
        }
        Ok(())
    }
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is, on the path or where a system keeps its own.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn on_path(program: &str, package: &str) -> Result<()> {
    anyhow::ensure!(find(program).is_some(), "no {program} (Debian: apt install {package})");
    Ok(())
}

/// The file of this driver among those that dpdk-testpmd loads: `/usr/lib/<machine>/dpdk/pmds-<version>`.
pub(crate) fn dpdk_driver(driver: &str) -> Option<String> {
    let folders =
        |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let prefix = format!("librte_{driver}.so.");
    // There are links of other names to the file: `.so` and `.so.23`.
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix(&prefix)).is_some_and(|version| version.contains('.'))
    };
    let mut drivers =
        folders("/usr/lib".into()).flat_map(|machine| folders(machine.join("dpdk"))).flat_map(folders);
    drivers.find(named).and_then(|path| path.to_str().map(str::to_owned))
}

/// Checks that dpdk-testpmd has these drivers.
fn dpdk_drivers(drivers: &[&str]) -> Result<()> {
    on_path("dpdk-testpmd", "dpdk-dev")?;
    for driver in drivers {
        let package = driver.replace('_', "-");
        anyhow::ensure!(
            dpdk_driver(driver).is_some(),
            "no DPDK driver {driver} (Debian: apt install 'librte-{package}[0-9]*')"
        );
    }
    Ok(())
}

/// Whether what is missing is a failure: `WIRERATE_REQUIRE=all`.
#[must_use]
pub fn all_required() -> bool {
    std::env::var_os("WIRERATE_REQUIRE").is_some_and(|value| value == "all")
}

/// A test of this name that runs where all of `needs` are met.
///
/// Elsewhere it reports itself ignored, and says why; or failed, with `WIRERATE_REQUIRE=all`.
pub fn trial(
    name: &str,
    needs: &'static [Need],
    test: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        // Without root the rest cannot be had either, and need not be told.
        let reason = needs.iter().find_map(|need| need.missing());
        if let Some(reason) = reason {
            if all_required() {
                return Err(Failed::from(format!("WIRERATE_REQUIRE=all, and this machine has {reason}")));
            }
            return Ok(Completion::ignored_with(reason));
        }
        test().map(|()| Completion::Completed).map_err(|error| Failed::from(told(&error)))
    })
}

/// An error with all that led to it, the nearest first, a line each.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\nbecause: ")
}
