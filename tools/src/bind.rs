//! `wirerate bind`: which drivers network devices have; gives them to programs, and back to the kernel.

mod names;
mod status;

use std::fmt::Write;

use anyhow::{Result, bail};
use clap::Args;
use wirerate_eal::pci::{self, Binder, Bound, KernelControl, PciAddress, PciDevice, PciError};

use crate::machine::Machine;
use crate::{Refused, print};

/// Show which drivers network devices have, or give devices to other drivers
///
/// Without an option, shows what there is. Takes the options of dpdk-devbind.py.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wirerate bind --bind vfio-pci 0000:01:00.0 eth1\n  wirerate bind --restore\n\nAll but \
                  showing needs root. A device that carries an address, a route or a bridge of this machine is left \
                  alone without --force. Which driver a device had is kept in /run/wirerate/bind, so that --restore \
                  works from anywhere until the next boot."
)]
pub(crate) struct Options {
    /// PCI addresses, with or without their domain, or names of network interfaces
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,
    /// Show which drivers network devices have; the default. After another option, when that is done
    #[arg(long, short)]
    status: bool,
    /// Give the devices to this driver: vfio-pci, uio_pci_generic, a driver of the kernel's own, or none
    #[arg(long, short, value_name = "DRIVER", conflicts_with_all = ["unbind", "restore"], requires = "devices")]
    bind: Option<String>,
    /// Take the devices from their drivers
    #[arg(long, short, conflicts_with = "restore", requires = "devices")]
    unbind: bool,
    /// Give the devices back to the drivers that they had; all that were taken unless some are named
    #[arg(long)]
    restore: bool,
    /// Also take devices that this machine or a program uses. It may cut you off
    #[arg(long)]
    force: bool,
    /// Show as JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut shown = String::new();
    let done = run_in(&Machine::here(), &Binder::new(), options, &mut shown);
    // What was done before something failed is told too.
    print(&shown)?;
    done
}

/// Does what is asked, and adds to `shown` what is to be told, also if something fails.
fn run_in<K: KernelControl>(
    machine: &Machine,
    binder: &Binder<K>,
    options: &Options,
    shown: &mut String,
) -> Result<()> {
    // A habit from `hugepages show`.
    let named: &[String] = if options.devices == ["status"] { &[] } else { &options.devices };
    let changes = options.bind.is_some() || options.unbind || options.restore;
    if let (Some(first), false) = (named.first(), changes) {
        bail!("what is to be done with {first}? Give --bind DRIVER, --unbind or --restore");
    }
    let devices = pci::scan(&machine.system());
    let mut chosen = Vec::new();
    for name in named {
        let address = find(&devices, name)?;
        if !chosen.contains(&address) {
            chosen.push(address);
        }
    }
    if options.restore && chosen.is_empty() {
        chosen = binder.remembered();
        if chosen.is_empty() && !options.json {
            shown.push_str("no device was taken from its driver since this machine started\n");
        }
    }
    let mut problems = Vec::new();
    for address in chosen {
        let result = match &options.bind {
            Some(driver) if driver != "none" => binder.bind(address, driver, options.force),
            None if options.restore => binder.restore(address, options.force),
            _ => binder.unbind(address, options.force),
        };
        match result {
            Ok(bound) if !options.json => tell(address, &bound, shown),
            Ok(_) => {}
            // One that cannot be had is no reason to leave the others.
            Err(error) => problems.push(error.to_string()),
        }
    }
    if options.json {
        shown.push_str(&format!("{:#}\n", status::as_json(machine, binder)));
    } else if options.status || !changes {
        shown.push_str(&status::as_text(machine, binder));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Refused(problems.join("; also ")).into())
}

/// What became of a device, in a line or two.
fn tell(address: PciAddress, bound: &Bound, shown: &mut String) {
    let driver = |driver: &Option<String>| driver.as_deref().unwrap_or("no driver").to_owned();
    let (before, after) = (driver(&bound.before), driver(&bound.after));
    // Writing to a String cannot fail.
    let _ = if before == after {
        writeln!(shown, "{address}: {after} as before")
    } else {
        writeln!(shown, "{address}: {after} instead of {before}")
    };
    if !bound.in_the_way.is_empty() {
        let rest: Vec<_> = bound.in_the_way.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            shown,
            "{address}: a program gets it only when the rest of its IOMMU group is free too: wirerate bind --bind \
             vfio-pci {}",
            rest.join(" ")
        );
    }
}

/// The device of this address or interface.
fn find(devices: &[PciDevice], name: &str) -> Result<PciAddress> {
    if let Ok(address) = name.parse::<PciAddress>() {
        if devices.iter().any(|device| device.address == address) {
            return Ok(address);
        }
        return Err(PciError::NotFound { address }.into());
    }
    let has = |device: &&PciDevice| device.interfaces.iter().any(|interface| interface.name == name);
    if let Some(device) = devices.iter().find(has) {
        return Ok(device.address);
    }
    let interfaces = devices.iter().flat_map(|device| &device.interfaces);
    let interfaces: Vec<_> = interfaces.map(|interface| status::printable(&interface.name)).collect();
    bail!(
        "no device {name:?}: expected a PCI address, as in 0000:00:03.0, or a network interface of a PCI device: {}",
        if interfaces.is_empty() { "there is none".to_owned() } else { interfaces.join(", ") }
    )
}

#[cfg(test)]
mod tests;
