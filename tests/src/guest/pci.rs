//! Guests for drivers of PCI devices in user space: their interfaces, seen as PCI devices.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{Guest, Machine, task};

/// What testpmd of DPDK needs in a guest beside the drivers that it is linked to.
pub const DPDK_PLUGINS: [&str; 4] = ["bus_pci", "bus_vdev", "mempool_ring", "net_virtio"];
/// The same, for the 82599.
pub const DPDK_IXGBE: [&str; 4] = ["bus_pci", "bus_vdev", "mempool_ring", "net_ixgbe"];
/// Time for a guest to let a device go, or to find it.
const PLUG: Duration = Duration::from_secs(20);
/// How the kernel reports that a device has reached for memory that is not its own: `DMAR: [DMA Read NO_PASID]
/// Request device [00:10.0] fault addr`.
const FAULT: &str = "DMAR:.*[Ff]ault";

/// A guest with two processors and 64 pages of 2 MiB, whose interfaces no driver of the kernel takes.
///
/// It has the modules of VFIO and of `uio_pci_generic` loaded. An IOMMU, interfaces and programs are to be added.
#[must_use]
pub fn pci_machine(name: &str) -> Machine {
    Machine::new(name).processors(2).memory(640).hugepages(64).only_modules(&[
        "vfio_pci",
        "vfio_iommu_type1",
        "uio_pci_generic",
    ])
}

impl Guest {
    /// The PCI address of interface `index`: `0000:00:10.0`.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn pci_address(&mut self, index: usize) -> Result<String> {
        let nic = self.nics.get(index).with_context(|| format!("no interface {index}"))?;
        let place = nic.place(index);
        let found = self.run(&format!("for device in {place}; do [ -e $device ] && basename $device; done"));
        let address = found.with_context(|| format!("interface {index} is not plugged in"))?;
        Ok(address.trim().to_owned())
    }

    /// Binds interface `index` to a driver of the kernel, whatever had it before; its PCI address.
    ///
    /// # Errors
    /// When the driver does not take it, or is not loaded.
    pub fn bind(&mut self, index: usize, driver: &str) -> Result<String> {
        let address = self.pci_address(index)?;
        let script = format!(
            "cd /sys/bus/pci/devices/{address}\n\
             [ ! -e driver ] || echo {address} >driver/unbind\n\
             echo {driver} >driver_override\n\
             echo {address} >/sys/bus/pci/drivers_probe\n\
             basename $(readlink driver)"
        );
        let outcome = self.outcome(&script, PLUG)?;
        let bound = outcome.output.trim();
        ensure!(bound == driver, "{address} was to be bound to {driver}, and is to {bound:?}");
        Ok(address)
    }

    /// Asks the guest to let interface `index` go, which must be pluggable, and waits until it is gone.
    ///
    /// # Errors
    /// When the guest keeps it: a driver in user space may.
    pub fn unplug(&mut self, index: usize) -> Result<()> {
        self.ask_to_unplug(index)?;
        self.unplugged(index, PLUG)
    }

    /// Asks the guest to let interface `index` go.
    ///
    /// # Errors
    /// When it is not there, or not pluggable.
    pub fn ask_to_unplug(&mut self, index: usize) -> Result<()> {
        self.monitor()?.order("device_del", &json!({ "id": format!("nic{index}") })).map(drop)
    }

    /// Waits until interface `index` is gone, after it was asked for.
    ///
    /// # Errors
    /// When it is there for longer than `limit`.
    pub fn unplugged(&mut self, index: usize, limit: Duration) -> Result<()> {
        let id = format!("nic{index}");
        self.monitor()?.event("DEVICE_DELETED", limit, |data| data["device"] == id.as_str())
    }

    /// Plugs interface `index` in again, and waits until the guest has found it; its PCI address.
    ///
    /// # Errors
    /// When it is there already, or the guest does not find it.
    pub fn plug(&mut self, index: usize) -> Result<String> {
        let nic = self.nics.get(index).with_context(|| format!("no interface {index}"))?;
        let (order, place) = (nic.plug(index, self.has_iommu), nic.place(index));
        self.monitor()?.order("device_add", &order)?;
        let found = self.run(&task::until(&format!("ls -d {place} >/dev/null 2>&1"), PLUG));
        found.context("the guest does not find what was plugged in")?;
        self.pci_address(index)
    }

    /// What the kernel has said until now.
    ///
    /// # Errors
    /// When the guest takes no commands.
    pub fn kernel_log(&mut self) -> Result<String> {
        self.run("dmesg")
    }

    /// Checks that no device has reached for memory that its driver has not given it.
    ///
    /// # Errors
    /// When the IOMMU has reported a fault, with what it said.
    pub fn expect_no_fault(&mut self) -> Result<()> {
        let found = self.outcome(&format!("dmesg | grep -e '{FAULT}'"), PLUG)?;
        match found.status {
            1 => Ok(()),
            0 => bail!("the IOMMU of the guest {} reports:\n{}", self.name, found.output),
            _ => bail!("looking for faults: {}", found.output),
        }
    }
}
