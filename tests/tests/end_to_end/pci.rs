//! Poll-mode drivers of PCI devices, in Linux guests: what goes in at one interface comes out of the other.
//!
//! A guest has two interfaces, each with a wire to the test; a forwarder in the guest joins them. Forwarders and kinds
//! of interfaces are tables: what holds for one is asked of each.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::guest::cable::{Cables, TAPS};
use wirerate_tests::guest::{
    self, DPDK_PLUGINS, Guest, Machine, Nic, Order, Outcome, Task, Wire, forward_and_compare, pci_machine,
};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::{exclusive, scratch};

/// What a guest needs.
const NEEDS_GUEST: &[Need] = &[Need::Qemu, Need::GuestKernel];
/// The same, and DPDK in it.
const NEEDS: &[Need] = &[Need::Qemu, Need::GuestKernel, Need::DpdkPci];
/// The same, and what interfaces of several queues need.
const NEEDS_TAPS: &[Need] = &[Need::Qemu, Need::GuestKernel, Need::Root, Need::Namespaces];

/// Time for a forwarder to start, or to end.
const TURN: Duration = Duration::from_secs(60);
/// Frames each way, of which at most [`WINDOW`] are under way.
const FRAMES: usize = 10_000;
/// Frames under way each way: fewer than the 256 descriptors of a ring.
const WINDOW: usize = 64;
/// How long packets circulate for figures.
const CIRCULATE: Duration = Duration::from_secs(4);

/// A program that forwards between interfaces in a guest, unchanged and paired.
#[derive(Clone, Copy)]
pub(crate) struct Forwarder {
    name: &'static str,
    /// Puts it into a guest.
    add: fn(Machine) -> Machine,
    /// Its command line for these PCI devices, with so many pairs of queues, and with these options more.
    command: fn(devices: &[String], queues: u16, more: &str) -> String,
    /// What it prints when it forwards.
    ready: &'static str,
    /// How many pairs of a receive and a transmit queue it has moved frames between, by what it printed.
    pub(crate) streams: fn(printed: &str) -> usize,
    /// What it says of its speed at the end.
    figures: fn(printed: &str) -> Result<Figures>,
}

/// How fast packets circulated. Of an emulated processor only ratios say anything.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    /// Packets a second, received by both ports.
    pps: f64,
    /// Cycles of the time stamp counter that a packet took, without polling in vain.
    cycles: f64,
    /// Packets that were not sent on.
    dropped: u64,
}

impl Display for Figures {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} packets/s, {:.0} cycles/packet, {} dropped", self.pps, self.cycles, self.dropped)
    }
}

/// DPDK's testpmd.
pub(crate) const DPDK: Forwarder = Forwarder {
    name: "dpdk",
    add: |machine| machine.dpdk(&DPDK_PLUGINS),
    command: |devices, queues, more| {
        let allow: String = devices.iter().map(|device| format!(" -a {device}")).collect();
        format!(
            "dpdk-testpmd -l 0-1 -n 1 -m 64 --in-memory --no-telemetry{allow} -- --forward-mode=io --nb-cores=1 \
             --total-num-mbufs=2048 --rxd=256 --txd=256 --rxq={queues} --txq={queues} --stats-period=1 \
             --record-core-cycles --no-mlockall {more}"
        )
    },
    ready: "io packet forwarding - ports=2",
    streams: |printed| printed.matches("Forward Stats for RX Port=").count(),
    figures,
};

/// Ours.
pub(crate) const OURS: Forwarder = Forwarder {
    name: "ours",
    add: |machine| machine.ours("testpmd"),
    command: |devices, queues, more| {
        let allow: String = devices.iter().map(|device| format!(" -a {device}")).collect();
        format!(
            "/host/testpmd -l 0-1 -m 64 --in-memory{allow} -- --forward-mode=io --nb-cores=1 \
             --total-num-mbufs=12288 --rxd=256 --txd=256 --rxq={queues} --txq={queues} --stats-period=1 \
             --record-core-cycles {more}"
        )
    },
    ready: "Port 1: ",
    streams: |printed| printed.matches("    source ").count(),
    figures,
};

/// What interfaces are like, and how the guest reaches them.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) nic: fn(Nic) -> Nic,
    /// The kernel's driver that hands them over.
    pub(crate) driver: &'static str,
    /// Bits of the IOMMU's addresses; VFIO needs one.
    pub(crate) iommu: Option<u8>,
    /// Pairs of queues. Several take frames in any order.
    pub(crate) queues: u16,
}

/// Split virtqueues, with buffers that can be merged, by VFIO and an IOMMU.
pub(crate) const VFIO: Variant =
    Variant { name: "vfio", nic: |nic| nic, driver: "vfio-pci", iommu: Some(48), queues: 1 };

/// All kinds of interfaces.
const VARIANTS: [Variant; 7] = [
    VFIO,
    Variant { name: "vfio_with_39_bits", iommu: Some(39), ..VFIO },
    Variant { name: "packed_virtqueues", nic: Nic::packed, ..VFIO },
    Variant { name: "buffers_that_do_not_merge", nic: Nic::without_merging, ..VFIO },
    Variant { name: "two_pairs_of_queues", nic: |nic| nic.queues(2), queues: 2, ..VFIO },
    Variant { name: "two_pairs_of_queues_with_rss", nic: |nic| nic.queues(2).spreading(), queues: 2, ..VFIO },
    Variant { name: "uio", driver: "uio_pci_generic", iommu: None, ..VFIO },
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("pci::programs_run_beside_the_console", NEEDS_GUEST, background),
        trial("pci::dpdk_forwards_on_vfio", NEEDS, || forwards(&DPDK, &VFIO)),
        trial("pci::a_device_that_goes_past_the_iommu_is_refused", NEEDS_GUEST, past_iommu),
        trial("pci::ours_is_no_slower_than_dpdk", NEEDS, || side_by_side(&OURS, &DPDK)),
    ];
    for variant in VARIANTS {
        let name = format!("pci::ours_forwards_on_{}", variant.name);
        let needs = if variant.queues > 1 { NEEDS_TAPS } else { NEEDS_GUEST };
        trials.push(trial(&name, needs, move || forwards(&OURS, &variant)));
    }
    trials
}

/// Two interfaces of this kind, joined by `forwarder`, lose, change and double no frame. One queue swaps none either;
/// several all carry some.
fn forwards(forwarder: &Forwarder, variant: &Variant) -> Result<()> {
    let machine = machine(variant, &[forwarder])?;
    let _turn = exclusive::processors();
    let folder = scratch::directory("pci")?;
    if variant.queues == 1 {
        let wires = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
        let nics = wires.each_ref().map(|wire| (variant.nic)(Nic::wire(wire)));
        let mut guest = boot(machine, nics)?;
        return logged(&mut guest, |guest| exchange(guest, forwarder, variant, &wires, Order::Kept, ""))
            .map(drop);
    }
    let cables = Cables::new(folder.path())?;
    let nics = TAPS.map(|tap| (variant.nic)(Nic::tap(tap)));
    let mut guest = boot(machine.inside(&cables.namespace), nics)?;
    let printed =
        logged(&mut guest, |guest| exchange(guest, forwarder, variant, &cables.wires, Order::Any, ""));
    let printed = printed.with_context(|| cables.log())?;
    let streams = (forwarder.streams)(&printed);
    ensure!(streams == 2 * usize::from(variant.queues), "frames passed by {streams} streams:\n{printed}");
    Ok(())
}

/// What such a device were told to write would go anywhere.
fn past_iommu() -> Result<()> {
    let machine = machine(&VFIO, &[&OURS])?;
    let _turn = exclusive::processors();
    let mut guest = boot(machine, [Nic::hub(0).past_iommu(), Nic::hub(0)])?;
    logged(&mut guest, |guest| {
        let device = guest.bind(0, VFIO.driver)?;
        let outcome = guest.outcome(&(OURS.command)(&[device], 1, ""), TURN)?;
        ensure!(outcome.status == 2 && outcome.output.contains("iommu_platform=on"), "{outcome:?}");
        guest.expect_no_fault()
    })
}

/// Two forwarders get the same packets, on the same interfaces of one guest, by turns: 32 packets of 64 bytes circulate
/// in each direction on a hub, without the host.
fn side_by_side(ours: &Forwarder, theirs: &Forwarder) -> Result<()> {
    let machine = machine(&VFIO, &[ours, theirs])?;
    let _turn = exclusive::processors();
    let mut guest = boot(machine, [Nic::hub(0), Nic::hub(0)])?;
    let mut rounds = Vec::new();
    logged(&mut guest, |guest| {
        for _ in 0..3 {
            rounds.push((circulate(guest, ours)?, circulate(guest, theirs)?));
        }
        Ok(())
    })?;
    for (first, second) in &rounds {
        eprintln!("under emulation {}: {first}; {}: {second}", ours.name, theirs.name);
    }
    let median = |ratio: fn(&(Figures, Figures)) -> f64| {
        let mut ratios: Vec<f64> = rounds.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    let (rate, cost) = (median(|(a, b)| a.pps / b.pps), median(|(a, b)| a.cycles / b.cycles));
    eprintln!("ratios: {rate:.2} of the packets a second, {cost:.2} of the cycles a packet");
    // What an emulated processor measures is blurred.
    ensure!(rate > 0.8 && cost < 1.2, "{} is behind: {rounds:#?}", ours.name);
    Ok(())
}

/// What packets that circulate between both interfaces cost.
fn circulate(guest: &mut Guest, forwarder: &Forwarder) -> Result<Figures> {
    let task = start(guest, forwarder, &VFIO, "--tx-first")?;
    std::thread::sleep(CIRCULATE);
    let printed = end(guest, forwarder, &task)?;
    let figures = (forwarder.figures)(&printed).with_context(|| printed.clone())?;
    ensure!(figures.dropped == 0, "{} dropped packets: {figures}\n{printed}", forwarder.name);
    Ok(figures)
}

/// What testpmd prints, DPDK's or ours: at the end how many packets there were, and what each cost; and their rate each
/// second while it runs.
fn figures(printed: &str) -> Result<Figures> {
    let numbers = |key: &str| -> Result<Vec<f64>> {
        let found = printed.split(key).skip(1).map(|rest| {
            let rest = rest.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            rest[..end].parse().with_context(|| format!("no number after {key:?}"))
        });
        found.collect()
    };
    // The first report is of the time before, the second may be of a part of a second.
    let rates = numbers("Rx-pps:")?;
    let steady = rates.get(4..).filter(|rates| !rates.is_empty()).context("too few reports")?;
    let pps = 2.0 * steady.iter().sum::<f64>() / steady.len() as f64;
    let cycles = *numbers("CPU cycles/packet=")?.last().context("no cycles")?;
    let dropped = numbers("RX-dropped:")?.iter().chain(&numbers("TX-dropped:")?).sum::<f64>() as u64;
    Ok(Figures { pps, cycles, dropped })
}

/// Programs get input and signals and give output and status while the console runs others; and faults are seen.
fn background() -> Result<()> {
    let _turn = exclusive::processors();
    let [mut guest] = guest::boot([&pci_machine("background").iommu(48)])?;
    logged(&mut guest, |guest| {
        let cat = guest.spawn("cat", "cat")?;
        let other = guest.spawn("other", "sh -c \"echo there; exit 3\"")?;
        guest.tell(&cat, "it's a line")?;
        guest.wait_for(&cat, "it's a line", TURN)?;
        let missing = guest.wait_for(&cat, "another", Duration::from_millis(300));
        ensure!(missing.is_err(), "what was not printed was found");
        let ended = guest.wait_end(&other, TURN)?;
        ensure!(ended == Outcome { status: 3, output: "there\n".to_owned() }, "{ended:?}");
        ensure!(guest.wait_for(&other, "here not", TURN).is_err() && guest.tell(&other, "line").is_err());
        guest.signal(&cat, "TERM")?;
        let ended = guest.wait_end(&cat, TURN)?;
        // The shell may have a word for the signal.
        ensure!(ended.status == 143 && ended.output.starts_with("it's a line\n"), "{ended:?}");
        ensure!(guest.signal(&cat, "TERM").is_err(), "it got a signal after its end");

        guest.expect_no_fault()?;
        let fault =
            "DMAR: [DMA Write NO_PASID] Request device [00:10.0] fault addr 0x1000 [fault reason 0x05]";
        guest.run(&format!("echo '{fault}' >/dev/kmsg"))?;
        ensure!(guest.kernel_log()?.contains(fault) && guest.expect_no_fault().is_err(), "no fault was seen");
        Ok(())
    })
}

/// A guest for these forwarders. They are built before it has its turn at the processors.
fn machine(variant: &Variant, forwarders: &[&Forwarder]) -> Result<Machine> {
    let mut machine =
        forwarders.iter().fold(pci_machine("pci"), |machine, forwarder| (forwarder.add)(machine));
    if let Some(bits) = variant.iommu {
        machine = machine.iommu(bits);
    }
    machine.build()?;
    Ok(machine)
}

fn boot(machine: Machine, nics: [Nic; 2]) -> Result<Guest> {
    let machine = nics.into_iter().fold(machine, Machine::nic);
    let [guest] = guest::boot([&machine])?;
    Ok(guest)
}

/// The log of a guest goes with what failed in it.
pub(crate) fn logged<T>(guest: &mut Guest, checks: impl FnOnce(&mut Guest) -> Result<T>) -> Result<T> {
    checks(guest).with_context(|| guest.log())
}

/// Frames through `forwarder`, from its start, with these options more, to its end; what it printed.
pub(crate) fn exchange(
    guest: &mut Guest,
    forwarder: &Forwarder,
    variant: &Variant,
    wires: &[Wire; 2],
    order: Order,
    more: &str,
) -> Result<String> {
    let task = start(guest, forwarder, variant, more)?;
    let [left, right] = wires;
    let result = forward_and_compare([left, right], FRAMES, WINDOW, order);
    let printed = end(guest, forwarder, &task);
    result.with_context(|| match &printed {
        Ok(printed) => printed.clone(),
        Err(error) => format!("{error:#}"),
    })?;
    printed
}

/// Binds both interfaces, and starts `forwarder` on them.
fn start(guest: &mut Guest, forwarder: &Forwarder, variant: &Variant, more: &str) -> Result<Task> {
    let devices = [guest.bind(0, variant.driver)?, guest.bind(1, variant.driver)?];
    let task = guest.spawn(forwarder.name, &(forwarder.command)(&devices, variant.queues, more))?;
    guest.wait_for(&task, forwarder.ready, TURN)?;
    Ok(task)
}

/// Ends `forwarder`; what it printed. No device of its has gone astray.
fn end(guest: &mut Guest, forwarder: &Forwarder, task: &Task) -> Result<String> {
    let printed = guest.end(task, "TERM", TURN).context(forwarder.name)?;
    guest.expect_no_fault()?;
    Ok(printed)
}
