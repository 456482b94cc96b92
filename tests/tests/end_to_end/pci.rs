//! Poll-mode drivers of PCI devices, in Linux guests: what goes in at one interface comes out of the other.
//!
//! A guest has two interfaces, each with a wire to the test; a forwarder in the guest joins them. The forwarder is a
//! parameter: what holds for one is asked of each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::guest::{self, Guest, Machine, Nic, Order, Wire, forward_and_compare, pci_machine};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::{exclusive, scratch};

/// What all of these need.
const NEEDS: &[Need] = &[Need::Qemu, Need::GuestKernel, Need::DpdkPci];

/// Time for a forwarder to start, or to end.
const TURN: Duration = Duration::from_secs(60);
/// Frames each way, of which at most [`WINDOW`] are under way.
const FRAMES: usize = 1000;
/// Frames under way each way: fewer than the 256 descriptors of a ring.
const WINDOW: usize = 64;

/// A program that forwards between interfaces in a guest, unchanged and paired.
struct Forwarder {
    /// For people.
    name: &'static str,
    /// Its command line for these PCI devices, with so many pairs of queues.
    command: fn(devices: &[String], queues: u16) -> String,
    /// What it prints when it forwards.
    ready: &'static str,
}

/// DPDK's testpmd.
const DPDK: Forwarder = Forwarder {
    name: "dpdk-testpmd",
    command: |devices, queues| {
        let allow: String = devices.iter().map(|device| format!(" -a {device}")).collect();
        format!(
            "dpdk-testpmd -l 0-1 -n 1 -m 64 --in-memory --no-telemetry{allow} -- --forward-mode=io --nb-cores=1 \
             --total-num-mbufs=2048 --rxd=256 --txd=256 --rxq={queues} --txq={queues} --stats-period=1 \
             --record-core-cycles --no-mlockall"
        )
    },
    ready: "io packet forwarding",
};

/// What interfaces are like, and how the guest reaches them.
struct Variant {
    nic: fn(Nic) -> Nic,
    /// The kernel's driver that hands them over. VFIO has an IOMMU.
    driver: &'static str,
    /// Bits of the IOMMU's addresses.
    iommu: Option<u8>,
}

const VFIO: Variant = Variant { nic: |nic| nic, driver: "vfio-pci", iommu: Some(48) };
const UIO: Variant = Variant { nic: |nic| nic, driver: "uio_pci_generic", iommu: None };

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("pci::dpdk_forwards_on_vfio", NEEDS, || forwards(&DPDK, &VFIO)),
        trial("pci::dpdk_forwards_on_uio", NEEDS, || forwards(&DPDK, &UIO)),
    ]
}

/// Two interfaces of this kind, joined by `forwarder`, lose, change and swap no frame.
fn forwards(forwarder: &Forwarder, variant: &Variant) -> Result<()> {
    let _turn = exclusive::processors();
    let folder = scratch::directory("pci")?;
    let [left, right] = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
    let mut machine = machine(variant);
    for wire in [&left, &right] {
        machine = machine.nic((variant.nic)(Nic::wire(wire)));
    }
    let [mut guest] = guest::boot([&machine])?;
    let result = forwarding(&mut guest, forwarder, variant, |_| {
        forward_and_compare([&left, &right], FRAMES, WINDOW, Order::Kept)
    });
    result.map(drop).with_context(|| guest.log())
}

fn machine(variant: &Variant) -> Machine {
    let machine = pci_machine("pci");
    variant.iommu.map_or(machine.clone(), |bits| machine.iommu(bits))
}

/// Binds the interfaces, runs `forwarder` on them during `checks`, and ends it; what it printed.
fn forwarding(
    guest: &mut Guest,
    forwarder: &Forwarder,
    variant: &Variant,
    checks: impl FnOnce(&mut Guest) -> Result<()>,
) -> Result<String> {
    let devices = [guest.bind(0, variant.driver)?, guest.bind(1, variant.driver)?];
    let task = guest.spawn("forwarder", &(forwarder.command)(&devices, 1))?;
    guest.wait_for(&task, forwarder.ready, TURN).context(forwarder.name)?;
    let result = checks(guest);
    let printed = guest.end(&task, "TERM", TURN).context(forwarder.name);
    result.with_context(|| {
        format!("{}:\n{}", forwarder.name, printed.as_deref().unwrap_or("it failed, too"))
    })?;
    guest.expect_no_fault()?;
    let printed = printed?;
    ensure!(!printed.is_empty(), "{} printed nothing", forwarder.name);
    Ok(printed)
}
