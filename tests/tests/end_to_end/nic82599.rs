//! The model of the 82599, judged by drivers that others wrote, in Linux guests: Linux's own, and DPDK's. Each does what it
//! does with a card, and may break no rule of the datasheet that the model keeps. Then our driver, in the same guest, may
//! not either.
//!
//! A guest has two cards. For Linux a cable joins them, and one is in a network namespace of its own in the guest; for
//! forwarders each has a wire to the test.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;
use vfio_user::Client;
use wirerate_tests::guest::{self, DPDK_IXGBE, Guest, Machine, Nic, Order, Wire, pci_machine};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::nic_server::{Cable, Manner, NicServer, Wires};
use wirerate_tests::{exclusive, scratch};

use crate::pci::{DPDK, Forwarder, OURS, VFIO, Variant, exchange, logged};

/// What Linux's driver needs.
const NEEDS_LINUX: &[Need] =
    &[Need::Qemu, Need::GuestKernel, Need::VfioUserQemu, Need::Ethtool, Need::Iperf3];
/// What our driver alone needs.
const NEEDS_OURS: &[Need] = &[Need::Qemu, Need::GuestKernel, Need::VfioUserQemu];
/// What a forwarder of ours needs, and DPDK beside it.
const NEEDS: &[Need] = &[Need::Qemu, Need::GuestKernel, Need::VfioUserQemu, Need::DpdkIxgbe];

/// Time for a link to come up, or an address to answer.
const UP: Duration = Duration::from_secs(30);
/// Time for Linux's driver to test its card.
const SELF_TEST: Duration = Duration::from_secs(60);
/// Time for frames to go both ways over a cable.
const EXCHANGE: Duration = Duration::from_secs(60);
/// The addresses at both ends of the cable, without and with a tag.
const NEAR: &str = "10.82.0.1";
const FAR: &str = "10.82.0.2";
const TAGGED: [&str; 2] = ["10.83.0.1", "10.83.0.2"];
/// What DPDK's testpmd has a card do that changes nothing of frames. Some have tags, so that filters would drop them.
const DPDK_OFFLOADS: &str = "--enable-rx-cksum --enable-scatter --max-pkt-len=9000";
/// Ours, with room for frames. It has the device drop frames without a descriptor, as is right with several queues, and the
/// threads that serve cards may get their turns late: then the device knows late of descriptors.
pub(crate) const OURS_WITH_LONG_RINGS: Forwarder = Forwarder {
    command: |devices, queues, more| {
        let devices: Vec<String> = devices.iter().map(|device| format!("{device},queue_size=1024")).collect();
        (OURS.command)(&devices, queues, more)
    },
    ..OURS
};
/// Registers whose rules Linux's test of registers breaks on purpose: it writes what can only be read, patterns over
/// reserved bits of rings that are off, and both enable bits with nothing set up around them; and then resets the card.
const REGISTER_TEST: [&str; 8] = ["STATUS", "RXCTRL", "RDLEN", "RDT", "RXDCTL", "TDBAL", "TDLEN", "RAH"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("nic82599::linux_by_vectors", NEEDS_LINUX, linux_by_vectors),
        trial("nic82599::linux_by_the_line", NEEDS_LINUX, linux_by_the_line),
        trial("nic82599::linux_by_one_message", NEEDS_LINUX, linux_by_one_message),
        trial("nic82599::linux_behind_an_iommu", NEEDS_LINUX, linux_behind_an_iommu),
        trial("nic82599::dpdk_and_ours_forward", NEEDS, forward),
        trial("nic82599::our_driver_at_both_ends_of_a_cable", NEEDS_OURS, cabled),
        trial("nic82599::the_server_tells_what_was_broken", &[], tells),
    ]
}

/// A guest with Linux's driver on both ends of a cable, and the cards.
struct Lab {
    // In this order: a server ends when its QEMU has.
    guest: Guest,
    server: NicServer,
    _folder: TempDir,
}

impl Lab {
    fn boot(manner: Manner, change: impl FnOnce(Machine) -> Machine) -> Result<Self> {
        let folder = scratch::directory("nic82599")?;
        let server = NicServer::start(folder.path(), manner, vec![Cable::Next, Cable::None])?;
        let mut machine = Machine::new("nic82599").processors(2).memory(512);
        machine = change(machine.only_modules(&["ixgbe", "8021q"]));
        for program in ["ethtool", "iperf3"] {
            machine = machine.program(program);
        }
        for index in [0, 1] {
            machine = machine.nic(Nic::vfio_user(server.socket(index)?));
        }
        let [guest] = guest::boot([&machine])?;
        Ok(Self { guest, server, _folder: folder })
    }

    /// Runs checks; what the guest said and the cards counted goes with what fails.
    fn run(mut self, checks: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        checks(&mut self).with_context(|| {
            let (faults, counters) = (self.server.faults().join("\n"), self.server.counters().join("\n"));
            format!("{faults}\n{counters}\n{}", self.guest.log())
        })
    }

    fn near(&mut self, script: &str) -> Result<String> {
        self.guest.run_within(script, SELF_TEST)
    }

    /// Runs a command where the other end is.
    fn far(&mut self, command: &str) -> Result<String> {
        self.near(&format!("nsenter -t $(cat /tmp/far) -n {command}"))
    }

    /// Puts the second card into a namespace, and gives both an address.
    fn part(&mut self) -> Result<()> {
        self.near("unshare -n sleep 10000 >/dev/null 2>&1 & echo $! >/tmp/far; sleep 0.2")?;
        self.near("ip link set eth1 netns $(cat /tmp/far)")?;
        self.near(&format!("ip addr add {NEAR}/24 dev eth0; ip link set eth0 up"))?;
        self.far("ip link set lo up")?;
        self.far(&format!("ip addr add {FAR}/24 dev eth1"))?;
        self.far("ip link set eth1 up")?;
        self.reach()
    }

    /// Waits until the other end answers.
    fn reach(&mut self) -> Result<()> {
        self.guest.reach(FAR, UP)
    }

    /// Runs ethtool at the first card, and looks for these words in what it prints.
    fn ethtool(&mut self, arguments: &str, words: &[&str]) -> Result<String> {
        let printed = self.near(&format!("ethtool {arguments}"))?;
        for words in words {
            ensure!(printed.contains(words), "ethtool {arguments} says nothing of {words:?}:\n{printed}");
        }
        Ok(printed)
    }

    /// What a counter of Linux's says.
    fn counter(&mut self, name: &str) -> Result<u64> {
        let printed = self.ethtool("-S eth0", &[])?;
        let value = printed.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        value.with_context(|| format!("no counter {name}"))?.parse().context("no number")
    }

    /// Linux tests the card, all of it, and puts it back to work.
    fn test_card(&mut self) -> Result<()> {
        self.server.expect_no_fault()?;
        self.ethtool("-t eth0 offline", &["result is PASS"])?;
        self.server.forgive(&REGISTER_TEST)?;
        self.reach()
    }
}

/// All that Linux's driver does with a card, with a vector for each queue.
fn linux_by_vectors() -> Result<()> {
    let _turn = exclusive::processors();
    Lab::boot(Manner::default(), |machine| machine)?.run(|lab| {
        lab.part()?;
        lab.ethtool("eth0", &["Speed: 10000Mb/s", "Port: FIBRE", "Link detected: yes"])?;
        lab.ethtool("-k eth0", &["tcp-segmentation-offload: on", "rx-checksumming: on"])?;
        let vectors = lab.near("grep -c eth0-TxRx /proc/interrupts")?;
        ensure!(vectors.trim() == "2", "{vectors} vectors for queues");
        traffic(lab)?;
        tags_and_long_frames(lab)?;
        switches(lab)?;
        looks(lab)?;
        lab.test_card()?;
        // The driver goes, and comes to a card that others have used.
        lab.near("kill $(cat /tmp/far); rmmod ixgbe; insmod /modules/*-ixgbe.ko; sleep 0.5")?;
        lab.part()?;
        lab.server.expect_no_fault()
    })
}

/// Streams both ways, over both queues.
fn traffic(lab: &mut Lab) -> Result<()> {
    lab.guest.ping(FAR, 3, 1400)?;
    lab.far("sh -c \"iperf3 --server >/tmp/iperf3 2>&1 &\"; sleep 0.5")?;
    for reverse in [false, true] {
        lab.guest.iperf3_tcp(FAR, 32, reverse)?;
    }
    let queues = ["tx_queue_0_packets", "tx_queue_1_packets", "rx_queue_0_packets", "rx_queue_1_packets"];
    // Where a stream goes is chance. It is two of two queues each way before long.
    for _ in 0..12 {
        let mut moved = 0;
        for queue in queues {
            moved += usize::from(lab.counter(queue)? > 100);
        }
        if moved == queues.len() {
            return lab.server.expect_no_fault();
        }
        lab.guest.iperf3_tcp(FAR, 1, true)?;
        lab.guest.iperf3_tcp(FAR, 1, false)?;
    }
    let printed = lab.ethtool("-S eth0", &[])?;
    anyhow::bail!("not all of {queues:?} have moved:\n{printed}")
}

/// A VLAN, whose tags the card inserts and strips, and frames of 9000 bytes.
fn tags_and_long_frames(lab: &mut Lab) -> Result<()> {
    lab.ethtool("-k eth0", &["rx-vlan-offload: on", "tx-vlan-offload: on", "rx-vlan-filter: on"])?;
    let [near, far] = TAGGED;
    lab.near(&format!(
        "ip link add link eth0 name tagged type vlan id 82; ip addr add {near}/24 dev tagged; ip link set tagged up"
    ))?;
    lab.far("ip link add link eth1 name tagged type vlan id 82")?;
    lab.far(&format!("ip addr add {far}/24 dev tagged"))?;
    lab.far("ip link set tagged up")?;
    lab.guest.reach(far, UP)?;
    lab.guest.ping(far, 2, 1400)?;
    // Without the card's help tags are in the frames.
    lab.ethtool("-K eth0 rxvlan off txvlan off", &[])?;
    lab.guest.reach(far, UP)?;
    lab.ethtool("-K eth0 rxvlan on txvlan on", &[])?;
    lab.near("ip link set eth0 mtu 9000")?;
    lab.far("ip link set eth1 mtu 9000")?;
    lab.reach()?;
    lab.guest.ping(FAR, 3, 8900)?;
    lab.guest.iperf3_tcp(FAR, 8, false)?;
    lab.server.expect_no_fault()
}

/// What an administrator switches.
fn switches(lab: &mut Lab) -> Result<()> {
    for switches in ["promisc allmulti", "-promisc -allmulti"] {
        lab.near(&format!("ifconfig eth0 {switches}"))?;
        lab.guest.ping(FAR, 1, 56)?;
    }
    // The group of all hosts is one that the other card listens to.
    lab.far("sh -c \"echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts\"")?;
    lab.near("ip route add 224.0.0.0/4 dev eth0; ping -n -c 1 -W 10 224.0.0.1")?;
    lab.near("ip link set eth0 down; ip link set eth0 address 02:00:00:00:82:99; ip link set eth0 up")?;
    lab.reach()?;
    for switches in
        ["-A eth0 rx off tx off", "-A eth0 rx on tx on", "-K eth0 tso off", "-K eth0 tx off rx off"]
    {
        lab.ethtool(switches, &[])?;
        lab.reach()?;
    }
    lab.ethtool("-K eth0 tx on rx on tso on", &[])?;
    lab.ethtool("-G eth0 rx 256 tx 256", &[])?;
    lab.reach()?;
    lab.guest.iperf3_tcp(FAR, 8, false)?;
    // The other end goes away, and comes back.
    lab.far("ip link set eth1 down")?;
    lab.far("ip link set eth1 up")?;
    lab.reach()?;
    // And the cable.
    let cable = |lab: &mut Lab, plugged| -> Result<()> {
        (0..2).try_for_each(|index| lab.server.card(index).map(|card| card.model().set_cable(plugged)))
    };
    cable(lab, false)?;
    lab.near("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done")?;
    cable(lab, true)?;
    lab.reach()?;
    lab.server.expect_no_fault()
}

/// What an administrator looks at.
fn looks(lab: &mut Lab) -> Result<()> {
    lab.ethtool("-m eth0", &["10G Base-SR", "Intel Corp", "0x07 (LC)"])?;
    lab.ethtool("-d eth0", &["LINKS (Link Status register)", "0x70000000"])?;
    lab.ethtool("-e eth0", &["0x0000:"])?;
    lab.ethtool("-i eth0", &["driver: ixgbe"])?;
    lab.ethtool("-x eth0", &["RX flow hash indirection table for eth0 with 2 RX ring(s)"])?;
    lab.ethtool("-g eth0", &["RX:\t\t256"])?;
    let (pings, missed) = (lab.counter("tx_packets")?, lab.counter("rx_crc_errors")?);
    ensure!(pings > 1000 && missed == 0, "{pings} packets sent, {missed} received with errors");
    lab.server.expect_no_fault()
}

/// With neither kind of messages there is one interrupt, for all. Then Linux's test of the card is about interrupts, too.
fn linux_by_the_line() -> Result<()> {
    let _turn = exclusive::processors();
    Lab::boot(Manner::default(), |machine| machine.kernel_arguments("pci=nomsi"))?.run(|lab| {
        one_interrupt(lab, "IO-APIC")?;
        lab.test_card()?;
        lab.server.expect_no_fault()
    })
}

/// Without MSI-X there is one message, for all.
fn linux_by_one_message() -> Result<()> {
    let _turn = exclusive::processors();
    let manner = Manner { has_msix: false, ..Manner::default() };
    Lab::boot(manner, |machine| machine)?.run(|lab| one_interrupt(lab, "PCI-MSI"))
}

/// The device reaches no memory but what the driver has mapped, and as long as it has.
fn linux_behind_an_iommu() -> Result<()> {
    let _turn = exclusive::processors();
    let strict = |machine: Machine| machine.iommu(48).kernel_arguments("iommu=nopt iommu.strict=1");
    Lab::boot(Manner::default(), strict)?.run(|lab| {
        let kind = lab.near("cat /sys/class/net/eth0/device/iommu_group/type")?;
        ensure!(kind.starts_with("DMA"), "the IOMMU does not translate: {kind}");
        lab.part()?;
        lab.guest.ping(FAR, 3, 1400)?;
        // In several frames each.
        lab.guest.ping(FAR, 20, 20_000)?;
        lab.near("ip link set eth0 down; ip link set eth0 up")?;
        lab.reach()?;
        lab.guest.expect_no_fault()?;
        lab.server.expect_no_fault()
    })
}

/// One interrupt, of this kind, is enough.
fn one_interrupt(lab: &mut Lab, kind: &str) -> Result<()> {
    lab.part()?;
    let line = lab.near("grep eth0 /proc/interrupts")?;
    ensure!(line.contains(kind) && line.lines().count() == 1, "no {kind} alone:\n{line}");
    lab.far("sh -c \"iperf3 --server >/tmp/iperf3 2>&1 &\"; sleep 0.5")?;
    for reverse in [false, true] {
        lab.guest.iperf3_tcp(FAR, 16, reverse)?;
    }
    lab.server.expect_no_fault()
}

/// DPDK's testpmd, then ours, on the same cards, by VFIO and an IOMMU.
fn forward() -> Result<()> {
    let mut machine = pci_machine("nic82599").iommu(48).dpdk(&DPDK_IXGBE).ours("testpmd");
    machine.build()?;
    let _turn = exclusive::processors();
    let folder = scratch::directory("nic82599")?;
    let wires = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
    let cables = wires.each_ref().map(|wire| Cable::Wires(Wires::to(wire)));
    let server = NicServer::start(folder.path(), Manner::default(), cables.into())?;
    for index in [0, 1] {
        machine = machine.nic(Nic::vfio_user(server.socket(index)?));
    }
    let [mut guest] = guest::boot([&machine])?;
    let forwarded = logged(&mut guest, |guest| {
        let two = Variant { queues: 2, ..VFIO };
        for (forwarder, more) in [(DPDK, DPDK_OFFLOADS), (OURS_WITH_LONG_RINGS, "")] {
            exchange(guest, &forwarder, &VFIO, &wires, Order::Kept, "")?;
            server.expect_no_fault()?;
            // Frames of IP spread over both queues by their hash, and come in any order then.
            let printed = exchange(guest, &forwarder, &two, &wires, Order::Any, more)?;
            let streams = (forwarder.streams)(&printed);
            ensure!(streams == 4, "frames passed by {streams} streams:\n{printed}");
            server.expect_no_fault()?;
        }
        Ok(())
    });
    forwarded.with_context(|| format!("{}\n{}", server.faults().join("\n"), server.counters().join("\n")))
}

/// The program that is for people who have cards, on two that a cable joins.
fn cabled() -> Result<()> {
    let mut machine = pci_machine("nic82599").iommu(48).our_example("wirerate-pmd", "cabled");
    machine.build()?;
    let _turn = exclusive::processors();
    let folder = scratch::directory("nic82599")?;
    let server = NicServer::start(folder.path(), Manner::default(), vec![Cable::Next, Cable::None])?;
    for index in [0, 1] {
        machine = machine.nic(Nic::vfio_user(server.socket(index)?));
    }
    let [mut guest] = guest::boot([&machine])?;
    let checked = logged(&mut guest, |guest| {
        let devices = [guest.bind(0, "vfio-pci")?, guest.bind(1, "vfio-pci")?];
        let [one, other] = devices;
        let printed = guest.run_within(&format!("/host/cabled -l 0 -a {one} -a {other} 2>&1"), EXCHANGE)?;
        ensure!(printed.contains("10000 frames each way, all as they were sent"), "it printed:\n{printed}");
        guest.expect_no_fault()
    });
    checked
        .and_then(|()| server.expect_no_fault())
        .with_context(|| format!("{}\n{}", server.faults().join("\n"), server.counters().join("\n")))
}

/// The program that serves cards says what a driver did, and ends with its input.
fn tells() -> Result<()> {
    let folder = scratch::directory("nic82599")?;
    let sockets = ["one", "other"].map(|name| folder.path().join(name));
    let mut command = Command::new(env!("CARGO_BIN_EXE_wirerate-nic-server"));
    command.args(&sockets).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = command.spawn()?;
    let mut lines = BufReader::new(program.stdout.take().context("no output")?).lines();
    let mut next = || lines.next().context("no line")?.context("reading its output");
    ensure!(next()? == "serving");
    let mut driver = Client::new(&sockets[1]).context("connecting to the second")?;
    // CTRL is to be written with its reserved bits as they are.
    driver.region_write(0, 0, &1_u32.to_le_bytes())?;
    let told = next()?;
    ensure!(told.starts_with("card 1: fault: CTRL 0x1: reserved bits"), "{told}");
    drop(program.stdin.take());
    let status = program.wait()?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    ensure!(sockets.iter().all(|socket| !socket.exists()), "its sockets stay");
    Ok(())
}
