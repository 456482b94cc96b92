//! A Linux guest on vhost-user sockets, or with interfaces for drivers in user space, and its console.
//!
//! `cargo run -p wirerate-tests --example guest -- [--fetch] [--packed] [--queues N] [SOCKET]...` boots a guest with
//! an interface for each socket, served by `net_vhost0,iface=SOCKET` of l2fwd or another program. Lines that are typed
//! are run in the guest, one after the other; the end of the input ends it. `--fetch` first downloads Debian's kernel
//! and a QEMU for `--nic` into the cache; without a socket that is all.
//!
//! `--pci` in place of sockets boots one with an IOMMU and two interfaces on a hub, bound to vfio-pci, with our testpmd
//! and wirerate in `/host`, and DPDK's testpmd if the host has it.
//!
//! `--nic` boots one with two models of the 82599 that a cable joins, for Linux's driver; `--nic --pci` has them bound to
//! vfio-pci. Rules that a driver breaks are told after the command that broke them.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wirerate_tests::guest::{
    self, DPDK_IXGBE, DPDK_PLUGINS, Emulator, Guest, Kernel, Machine, Nic, Outcome, pci_machine,
};
use wirerate_tests::needs::{self, Need};
use wirerate_tests::nic_server::{Cable, Manner, NicServer};
use wirerate_tests::scratch;

/// Host programs that are useful there, if the host has them.
const PROGRAMS: [&str; 3] = ["iperf3", "ethtool", "tcpdump"];
/// Time for a command.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    let (mut fetch, mut packed, mut pci, mut nic) = (false, false, false, false);
    let (mut queues, mut sockets, mut words) = (1, Vec::new(), String::new());
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--fetch") => fetch = true,
            Some("--packed") => packed = true,
            Some("--pci") => pci = true,
            Some("--nic") => nic = true,
            Some("--append") => {
                let more = arguments.next().and_then(|words| words.into_string().ok());
                words = more.context("--append takes words for the kernel")?;
            }
            Some("--queues") => {
                let count = arguments.next().context("--queues takes a number")?;
                queues =
                    count.to_str().and_then(|count| count.parse().ok()).context("--queues takes a number")?;
            }
            Some(option) if option.starts_with('-') => bail!("{option} is no option of this program"),
            _ => sockets.push(PathBuf::from(argument)),
        }
    }
    if fetch {
        println!("the kernel for guests is {}", Kernel::fetch()?.image.display());
        println!("the QEMU for devices of other processes is {}", Emulator::fetch()?.folder().display());
    }
    if nic {
        return models(pci, &words);
    }
    if pci {
        return drivers(packed);
    }
    if sockets.is_empty() {
        anyhow::ensure!(fetch, "no socket is given, and nothing else to do");
        return Ok(());
    }

    let mut machine = Machine::new("guest").processors(queues.into());
    for name in PROGRAMS.into_iter().filter(|name| needs::find(name).is_some()) {
        machine = machine.program(name);
    }
    for socket in &sockets {
        let nic = Nic::vhost_user(socket).queues(queues);
        machine = machine.nic(if packed { nic.packed() } else { nic });
    }
    println!("waiting for the other side of {} socket(s), and for the guest", sockets.len());
    let [mut guest] = guest::boot([&machine])?;
    console(&mut guest, None)
}

/// A guest for drivers in user space.
fn drivers(packed: bool) -> Result<()> {
    let nic = || if packed { Nic::hub(0).packed() } else { Nic::hub(0) };
    let mut machine = pci_machine("guest").iommu(48).nic(nic()).nic(nic());
    machine = machine.ours("testpmd").ours("wirerate");
    if Need::DpdkPci.missing().is_none() {
        machine = machine.dpdk(&DPDK_PLUGINS);
    }
    println!("building our programs, and waiting for the guest");
    let [mut guest] = guest::boot([&machine])?;
    for index in [0, 1] {
        println!("vfio-pci has {}", guest.bind(index, "vfio-pci")?);
    }
    console(&mut guest, None)
}

/// A guest with models of the 82599.
fn models(in_user_space: bool, words: &str) -> Result<()> {
    let folder = scratch::directory("nic")?;
    let server = NicServer::start(folder.path(), Manner::default(), vec![Cable::Next, Cable::None])?;
    let mut machine = if in_user_space {
        let machine = pci_machine("nic").iommu(48).ours("testpmd").ours("wirerate");
        if Need::DpdkIxgbe.missing().is_none() { machine.dpdk(&DPDK_IXGBE) } else { machine }
    } else {
        Machine::new("nic").processors(2).memory(640).only_modules(&["ixgbe", "8021q"])
    };
    machine = machine.kernel_arguments(words);
    for name in PROGRAMS.into_iter().filter(|name| needs::find(name).is_some()) {
        machine = machine.program(name);
    }
    for index in [0, 1] {
        machine = machine.nic(Nic::vfio_user(server.socket(index)?));
    }
    println!("waiting for the guest");
    let [mut guest] = guest::boot([&machine])?;
    if in_user_space {
        for index in [0, 1] {
            println!("vfio-pci has {}", guest.bind(index, "vfio-pci")?);
        }
    }
    console(&mut guest, Some(&server))
}

/// Runs what is typed.
fn console(guest: &mut Guest, server: Option<&NicServer>) -> Result<()> {
    let mut told = 0;
    prompt()?;
    for line in std::io::stdin().lock().lines() {
        let Outcome { status, output } = guest.outcome(&line?, LIMIT)?;
        print!("{output}");
        if status != 0 {
            println!("exit status {status}");
        }
        let faults = server.map(NicServer::faults).unwrap_or_default();
        faults.iter().skip(told).for_each(|fault| println!("{fault}"));
        told = faults.len();
        prompt()?;
    }
    println!();
    Ok(())
}

fn prompt() -> Result<()> {
    print!("guest# ");
    std::io::stdout().flush().context("printing")
}
