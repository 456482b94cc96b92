//! Gives a PCI function to another kernel driver, and gives it back.
//!
//! Before anything is changed, the driver that had the function is written down ([`memory`]), so that it gets the
//! function back ([`Binder::restore`]) also after a crash, or from another process. `driver_override` names the driver
//! that hands over, as in the kernel's `Documentation/ABI/testing/sysfs-bus-pci`: no other function is concerned, as it
//! would be with `new_id`.

mod kernel;
mod memory;
mod usage;

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

pub use kernel::{KernelControl, RealKernel};
use memory::{Memory, Remembered};

use super::device::{self, DEVICES, HANDOVER_DRIVERS, PciDevice};
use super::{PciAddress, PciError};
use crate::system::SystemRoot;

/// Where it is remembered what drivers functions had: gone at the next boot, as the change itself.
pub const MEMORY: &str = "/run/wirerate/bind";

/// Gives PCI functions to drivers, and back.
#[derive(Debug)]
pub struct Binder<K = RealKernel> {
    root: SystemRoot,
    memory: Memory,
    kernel: K,
}

/// What became of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bound {
    /// The driver that it had.
    pub before: Option<String>,
    /// The driver that it has.
    pub after: Option<String>,
    /// The other functions of its IOMMU group that a driver has which does not hand over. VFIO gives a group to a program
    /// only when there are none.
    pub in_the_way: Vec<PciAddress>,
}

/// Who gets a function.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Driver(&'a str),
    Nobody,
    /// Whom the kernel finds.
    Anybody,
}

impl Binder {
    /// On this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::with(SystemRoot::default(), MEMORY, RealKernel::default())
    }
}

impl Default for Binder {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: KernelControl> Binder<K> {
    /// On the machine under `root`, that is changed through `kernel`, with what is remembered in the directory `memory`.
    pub fn with(root: SystemRoot, memory: impl Into<PathBuf>, kernel: K) -> Self {
        Self { root, memory: Memory::at(memory), kernel }
    }

    /// The machine that is looked at.
    #[must_use]
    pub fn root(&self) -> &SystemRoot {
        &self.root
    }

    /// Gives a function to `driver`, whose module is loaded if need be. Nothing is changed, or all undone, on failure.
    ///
    /// # Errors
    /// [`PciError::InUse`] when the machine uses the function and `force` is not set; otherwise [`PciError`] with what
    /// the kernel said, and what would mend it.
    pub fn bind(&self, address: PciAddress, driver: &str, force: bool) -> Result<Bound, PciError> {
        let device = device::find(&self.root, address)?;
        if !is_name(driver) {
            return Err(unusable(
                address,
                format!("{driver:?} is no driver's name: expected one such as vfio-pci"),
            ));
        }
        if device.driver.as_deref() == Some(driver) {
            return Ok(self.outcome(&device, device.driver.clone()));
        }
        self.may_take(&device, force)?;
        self.have_driver(address, driver)?;
        self.have_iommu(&device, driver)?;
        self.change(&device, Target::Driver(driver))
    }

    /// Takes a function from its driver, and gives it to none.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn unbind(&self, address: PciAddress, force: bool) -> Result<Bound, PciError> {
        let device = device::find(&self.root, address)?;
        if device.driver.is_none() {
            return Ok(self.outcome(&device, None));
        }
        self.may_take(&device, force)?;
        self.change(&device, Target::Nobody)
    }

    /// Gives a function back to the driver that it had before it was first taken; where that is not known and none has it
    /// but one that hands over, to the driver that the kernel finds for it.
    ///
    /// # Errors
    /// [`PciError::InUse`] when a program has the function open and `force` is not set; otherwise [`PciError`] with what
    /// the kernel said. What is remembered stays so then.
    pub fn restore(&self, address: PciAddress, force: bool) -> Result<Bound, PciError> {
        let device = device::find(&self.root, address)?;
        let remembered = self.memory.read(address);
        let Remembered { driver, driver_override } = remembered.clone().unwrap_or_default();
        let in_place = match &remembered {
            Some(_) => device.driver == driver,
            None => device.driver.is_some() && !device.is_handed_over(),
        };
        let target = match (&driver, &remembered) {
            (Some(driver), _) => Target::Driver(driver),
            (None, Some(_)) => Target::Nobody,
            (None, None) => Target::Anybody,
        };
        if !in_place {
            self.may_take(&device, force)?;
            if let Target::Driver(driver) = target {
                self.have_driver(address, driver)?;
            }
            self.hand(&device, driver_override.as_deref(), target)
                .map_err(|problem| unusable(address, problem))?;
        } else if remembered.is_some() {
            self.set_override(address, driver_override.as_deref())
                .map_err(|problem| unusable(address, problem))?;
        }
        self.memory.forget(address)?;
        Ok(self.outcome(&device, device::find(&self.root, address)?.driver))
    }

    /// The functions of which it is remembered what driver they had, by address.
    #[must_use]
    pub fn remembered(&self) -> Vec<PciAddress> {
        self.memory.all()
    }

    /// How the machine itself uses the function by its network interfaces, in words; none when it does not.
    #[must_use]
    pub fn network_use(&self, device: &PciDevice) -> Option<String> {
        usage::by_network(&self.root, &self.kernel.addresses(), device)
    }

    fn may_take(&self, device: &PciDevice, force: bool) -> Result<(), PciError> {
        let used = || self.network_use(device).or_else(|| usage::by_program(&self.root, device));
        match used().filter(|_| !force) {
            Some(by) => Err(PciError::InUse { address: device.address, by }),
            None => Ok(()),
        }
    }

    /// Has the kernel load the driver where it has not.
    fn have_driver(&self, address: PciAddress, driver: &str) -> Result<(), PciError> {
        let there = || self.root.path(format!("sys/bus/pci/drivers/{driver}")).is_dir();
        if there() {
            return Ok(());
        }
        let said = self.kernel.load_module(driver);
        if there() {
            return Ok(());
        }
        let said = match said {
            Ok(()) => "modprobe found a module, which is no driver for PCI".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(unusable(
            address,
            format!("the kernel has no driver {driver}: {said}; load it: modprobe {driver}"),
        ))
    }

    /// VFIO hands a function over only where an IOMMU keeps it to its own memory, unless that was expressly waived. Known
    /// beforehand, so the function need not be taken from its driver to find out.
    fn have_iommu(&self, device: &PciDevice, driver: &str) -> Result<(), PciError> {
        let waived = || {
            let told = self.root.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
            told.is_some_and(|told| told == "Y" || told == "1")
        };
        if driver != "vfio-pci" || device.iommu_group.is_some() || waived() {
            return Ok(());
        }
        Err(unusable(device.address, format!("vfio-pci cannot have it: {NO_IOMMU}")))
    }

    fn change(&self, device: &PciDevice, target: Target<'_>) -> Result<Bound, PciError> {
        let address = device.address;
        let at_first = Remembered {
            driver: device.driver.clone(),
            driver_override: self
                .root
                .text(format!("{DEVICES}/{address}/driver_override"))
                .filter(|text| is_name(text)),
        };
        // Of a function that was taken before, the first driver counts, unless somebody gave it back in between.
        let known = self.memory.read(address).filter(|_| device.driver.is_none() || device.is_handed_over());
        if known.is_none() {
            self.memory.remember(address, &at_first)?;
        }
        let wanted = match target {
            Target::Driver(driver) if takes_anything(driver) => Some(driver),
            Target::Nobody => at_first.driver_override.as_deref(),
            _ => None,
        };
        if let Err(problem) = self.hand(device, wanted, target) {
            let mut line = problem;
            let back = at_first.driver.as_deref().map_or(Target::Nobody, Target::Driver);
            match self.undo(address, at_first.driver_override.as_deref(), back) {
                Err(also) => {
                    line.push_str(&format!(
                        "; giving it back failed too: {also}; try `wirerate bind --restore {address}`"
                    ));
                }
                Ok(()) if known.is_none() => self.memory.forget(address)?,
                Ok(()) => {}
            }
            return Err(unusable(address, line));
        }
        if matches!(target, Target::Driver(driver) if !takes_anything(driver)) {
            self.memory.forget(address)?;
        }
        Ok(self.outcome(device, device::find(&self.root, address)?.driver))
    }

    fn undo(
        &self,
        address: PciAddress,
        driver_override: Option<&str>,
        target: Target<'_>,
    ) -> Result<(), String> {
        let now = device::find(&self.root, address).map_err(|error| error.to_string())?;
        match target {
            Target::Driver(driver) if now.driver.as_deref() == Some(driver) => {
                self.set_override(address, driver_override)
            }
            _ => self.hand(&now, driver_override, target),
        }
    }

    /// Takes a function from the driver that it has and gives it to another; the problem in words on failure.
    fn hand(
        &self,
        device: &PciDevice,
        driver_override: Option<&str>,
        target: Target<'_>,
    ) -> Result<(), String> {
        let address = device.address;
        let text = address.to_string();
        self.set_override(address, driver_override)?;
        if let Some(driver) = &device.driver {
            let file = format!("{DEVICES}/{address}/driver/unbind");
            self.kernel
                .write(&file, &text)
                .map_err(|error| format!("taking it from {driver} failed: {}", said(&error)))?;
        }
        match target {
            Target::Nobody => {}
            Target::Anybody => {
                self.kernel
                    .write("sys/bus/pci/drivers_probe", &text)
                    .map_err(|error| format!("having the kernel find a driver failed: {}", said(&error)))?;
            }
            Target::Driver(driver) => {
                // As the kernel's probing of all drivers by drivers_probe, but this one tells why a driver refused.
                let bound = self.kernel.write(&format!("sys/bus/pci/drivers/{driver}/bind"), &text);
                let now = device::find(&self.root, address).map_err(|error| error.to_string())?.driver;
                match bound {
                    _ if now.as_deref() == Some(driver) => {}
                    Ok(()) => {
                        return Err(format!(
                            "{driver} did not take it, and the kernel does not say why; look at dmesg"
                        ));
                    }
                    Err(error) => return Err(refusal(driver, device, &error)),
                }
            }
        }
        Ok(())
    }

    fn set_override(&self, address: PciAddress, driver: Option<&str>) -> Result<(), String> {
        // An empty line clears it.
        let text = format!("{}\n", driver.unwrap_or_default());
        self.kernel
            .write(&format!("{DEVICES}/{address}/driver_override"), &text)
            .map_err(|error| format!("writing its driver_override failed: {}", said(&error)))
    }

    fn outcome(&self, device: &PciDevice, after: Option<String>) -> Bound {
        let rest = device.iommu_group.map(|group| rest_of_group(&self.root, group, device.address));
        let hands_over = after.as_deref() == Some(HANDOVER_DRIVERS[0]);
        let in_the_way = |address: &PciAddress| {
            let driver = device::find(&self.root, *address).ok().and_then(|device| device.driver);
            // VFIO does not mind the drivers of bridges (`vfio_dev_driver_allowed` in the kernel).
            driver.is_some_and(|driver| !HANDOVER_DRIVERS.contains(&driver.as_str()) && driver != "pcieport")
        };
        Bound {
            before: device.driver.clone(),
            after,
            in_the_way: rest
                .unwrap_or_default()
                .into_iter()
                .filter(|_| hands_over)
                .filter(in_the_way)
                .collect(),
        }
    }
}

const NO_IOMMU: &str = "there is no IOMMU; switch it on (in the firmware, and by intel_iommu=on on the kernel's command \
                        line), or use uio_pci_generic";

/// The other functions of an IOMMU group than `address`; they can only be handed over together.
fn rest_of_group(root: &SystemRoot, group: u32, address: PciAddress) -> Vec<PciAddress> {
    let names = root.names(format!("sys/kernel/iommu_groups/{group}/devices"));
    names.iter().filter_map(|name| name.parse().ok()).filter(|other| *other != address).collect()
}

/// Whether a driver knows no devices of its own and has to be named for each. Any other driver is not to be given a
/// device that it does not know: it would take it for one that it does.
fn takes_anything(driver: &str) -> bool {
    HANDOVER_DRIVERS.contains(&driver) || driver.contains("vfio")
}

/// Whether it can be a driver's name, and so a part of a path.
fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{error}; run it as root"),
        _ => error.to_string(),
    }
}

/// Why a driver did not take a function, by what the kernel said.
fn refusal(driver: &str, device: &PciDevice, error: &io::Error) -> String {
    let mends = match Errno::from_io_error(error) {
        Some(Errno::INVAL) if driver.contains("vfio") && device.iommu_group.is_none() => NO_IOMMU.to_owned(),
        Some(Errno::INVAL) if driver.contains("vfio") => {
            "another function of its IOMMU group may be in use, or it is a bridge; look at dmesg".to_owned()
        }
        Some(Errno::NODEV) if driver == "uio_pci_generic" => {
            "it may have no INTx interrupt, as a virtual function has none; use vfio-pci".to_owned()
        }
        Some(Errno::NODEV) => {
            format!("{driver} does not know {:04x}:{:04x}", device.vendor, device.device)
        }
        _ => "look at dmesg".to_owned(),
    };
    format!("{driver} did not take it: {}; {mends}", said(error))
}

fn unusable(address: PciAddress, problem: String) -> PciError {
    PciError::Unusable { address, problem }
}

#[cfg(test)]
mod tests;
