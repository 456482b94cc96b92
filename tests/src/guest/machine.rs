//! The description of a guest, and the QEMU that it becomes.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::console::Console;
use super::emulator::Emulator;
use super::initramfs::{self, Content};
use super::kernel::Kernel;
use super::{Guest, Nic, alive, ours};
use crate::namespace::Namespace;
use crate::program::Running;
use crate::scratch;

/// What a guest loads unless it is told what: QEMU's PCI devices of virtio, and network interfaces among them.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// A guest to be.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    memory: u32,
    processors: u32,
    nics: Vec<Nic>,
    content: Content,
    kernel_arguments: String,
    /// Bits of the addresses that its IOMMU takes.
    iommu: Option<u8>,
    hugepages: u32,
    namespace: Option<String>,
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
            content: Content { modules: MODULES.to_vec(), ..Content::default() },
            kernel_arguments: String::new(),
            iommu: None,
            hugepages: 0,
            namespace: None,
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

    /// With another interface: the first is `eth0`, if the guest has a driver loaded for it.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// With a module of the kernel loaded.
    #[must_use]
    pub fn module(mut self, name: &'static str) -> Self {
        self.content.modules.push(name);
        self
    }

    /// With these modules loaded, and no others until now: no interface has a driver of the kernel but by them.
    #[must_use]
    pub fn only_modules(mut self, names: &[&'static str]) -> Self {
        self.content.modules = names.to_vec();
        self
    }

    /// With a program of the host, and its libraries. The shell prefers busybox's own of the same name.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.content.programs.push(name.to_owned());
        self
    }

    /// With a program of ours, of apps or tools, built for guests: `/host/<name>`.
    #[must_use]
    pub fn ours(mut self, name: &str) -> Self {
        self.content.ours.push(ours::Program::Bundled(name.to_owned()));
        self
    }

    /// With an example of one of our packages, built for guests: `/host/<name>`.
    #[must_use]
    pub fn our_example(mut self, package: &str, name: &str) -> Self {
        let (package, name) = (package.to_owned(), name.to_owned());
        self.content.ours.push(ours::Program::Example { package, name });
        self
    }

    /// With DPDK's testpmd, and plugins of these names beside the drivers that it is linked to.
    #[must_use]
    pub fn dpdk(mut self, plugins: &[&'static str]) -> Self {
        self.content.dpdk.extend(plugins);
        self.program("dpdk-testpmd")
    }

    /// With these words on the kernel's command line.
    #[must_use]
    pub fn kernel_arguments(mut self, words: &str) -> Self {
        self.kernel_arguments = words.to_owned();
        self
    }

    /// With an IOMMU (Intel's) that takes addresses of so many bits, 39 or 48, and remaps interrupts.
    #[must_use]
    pub fn iommu(mut self, bits: u8) -> Self {
        self.iommu = Some(bits);
        self
    }

    /// With so many pages of 2 MiB reserved, and a hugetlbfs of them at `/dev/hugepages`.
    #[must_use]
    pub fn hugepages(mut self, count: u32) -> Self {
        self.hugepages = count;
        self
    }

    /// With QEMU in this namespace, where the other sides of its tap interfaces are.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.name().to_owned());
        self
    }

    /// Builds our programs for it, if they are not built yet: a test that takes turns does so before its turn.
    ///
    /// # Errors
    /// When one does not build.
    pub fn build(&self) -> Result<()> {
        self.content.ours.iter().try_for_each(|program| program.content().map(drop))
    }

    /// Starts it, and does not wait until it is up. QEMU waits first until all its interfaces of vhost-user are served.
    ///
    /// # Errors
    /// When there is no kernel, a program is missing, or QEMU does not start.
    pub fn start(&self) -> Result<Guest> {
        let folder = scratch::directory(&self.name)?;
        let kernel = Kernel::cached()?;
        let initramfs = folder.path().join("initramfs");
        std::fs::write(&initramfs, initramfs::build(&kernel, &self.content)?)?;
        let [console, monitor] = ["console", "monitor"].map(|name| folder.path().join(name));
        let mut qemu = Running::start(self.qemu(&kernel, &initramfs, &console, &monitor)?)?;
        let console = Console::connect(&console, || alive(&mut qemu))?;
        let name = self.name.clone();
        let (nics, has_iommu) = (self.nics.clone(), self.iommu.is_some());
        Ok(Guest { name, nics, has_iommu, console, monitor: Err(monitor), qemu, _folder: folder })
    }

    fn qemu(&self, kernel: &Kernel, initramfs: &Path, console: &Path, monitor: &Path) -> Result<Command> {
        // QEMU ends with the thread that starts it, however that comes.
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "setpriv"]);
                command
            }
            None => Command::new("setpriv"),
        };
        command.args(["--pdeathsig", "KILL", "--"]);
        if self.nics.iter().any(Nic::is_vfio_user) {
            command.args(Emulator::cached()?.words());
        } else {
            command.arg("qemu-system-x86_64");
        }
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        // The small buffer for translated code is plenty, and spares the host's memory.
        command.args(["-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max"]);
        command.args(["-machine", "q35,memory-backend=memory", "-smp", &self.processors.to_string()]);
        command.args(["-m", &format!("{}M", self.memory), "-object"]);
        command.arg(format!("memory-backend-memfd,id=memory,size={}M,share=on", self.memory));
        // The first serial line has the kernel's messages, the second the console.
        command.args(["-serial", "stdio", "-serial"]).arg(listening(console));
        command.arg("-qmp").arg(listening(monitor));
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        let mut words = format!("console=ttyS0 quiet hugepages={}", self.hugepages);
        if let Some(bits) = self.iommu {
            // Before the devices that are behind it.
            command.arg("-device");
            command.arg(format!("intel-iommu,intremap=on,caching-mode=on,device-iotlb=on,aw-bits={bits}"));
            words += " intel_iommu=on iommu=pt";
        }
        command.args(["-append", &format!("{words} {}", self.kernel_arguments)]);
        for (index, nic) in self.nics.iter().enumerate() {
            command.args(nic.arguments(index, self.iommu.is_some()));
        }
        Ok(command)
    }
}

/// A socket that QEMU makes.
fn listening(path: &Path) -> OsString {
    let mut line = OsString::from("unix:");
    line.push(path);
    line.push(",server=on,wait=off");
    line
}
