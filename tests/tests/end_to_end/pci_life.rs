//! What becomes of PCI devices that a program drives: unplugged and plugged in again, left by a program that was killed,
//! given from the kernel to programs and back; and a guest in whose middle l2fwd links two hosts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::guest::cable::TAPS;
use wirerate_tests::guest::{self, Guest, Nic, Order, Task, Wire, forward_and_compare, pci_machine};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::network::{Network, Offloads, RIGHT, RIGHT_V6};
use wirerate_tests::output::{Balance, Totals};
use wirerate_tests::{exclusive, frames, scratch, wait};

/// What all of these need.
const NEEDS: &[Need] = &[Need::Qemu, Need::GuestKernel];
/// The same, and what hosts in namespaces need.
const NEEDS_HOSTS: &[Need] =
    &[Need::Qemu, Need::GuestKernel, Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping, Need::Iperf3];

/// Time for a program to start or to end, or for a guest to let a device go.
const TURN: Duration = Duration::from_secs(60);
/// Frames each way.
const FRAMES: usize = 1000;
/// Frames under way each way: fewer than the 256 descriptors of a ring.
const WINDOW: usize = 64;
/// Bits of the IOMMU's addresses.
const BITS: u8 = 48;
/// What `bind` is given, for programs.
const VFIO: &str = "vfio-pci";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("pci_life::a_port_that_is_unplugged_leaves_the_other_working", NEEDS, unplugged),
        trial("pci_life::l2fwd_ends_by_itself_when_all_its_ports_are_unplugged", NEEDS, all_unplugged),
        trial("pci_life::a_program_that_is_killed_leaves_nothing_behind", NEEDS, killed),
        trial("pci_life::wirerate_bind_takes_an_interface_and_gives_it_back", NEEDS, bound),
        trial("pci_life::l2fwd_in_a_guest_links_two_hosts", NEEDS_HOSTS, linked),
    ]
}

/// One of two ports goes while frames pass by both; the other goes on, and no mbuf is lost. Plugged in again, it works.
fn unplugged() -> Result<()> {
    let folder = scratch::directory("unplug")?;
    let wires = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
    let [left, right] = &wires;
    let mut machine = pci_machine("unplug").ours("testpmd").iommu(BITS);
    for wire in &wires {
        machine = machine.nic(Nic::wire(wire).pluggable());
    }
    machine.build()?;
    let _turn = exclusive::processors();
    let [mut guest] = guest::boot([&machine])?;
    logged(&mut guest, |guest| {
        // Each port sends what it receives.
        let task = testpmd(guest, "--port-topology=loop")?;
        let mut frames = frames::mixed(FRAMES, 3);
        let mut echo = |wire: &Wire, count: usize| -> Result<()> {
            for frame in frames.by_ref().take(count) {
                wire.send(&frame)?;
                let back = wire.receive(Duration::from_secs(10))?;
                ensure!(back.as_ref() == Some(&frame), "what came back is {back:?}");
            }
            Ok(())
        };
        echo(left, 50)?;
        echo(right, 50)?;
        guest.ask_to_unplug(0)?;
        // Frames are under way to it until it is gone.
        let filler: Vec<_> = frames::mixed(64, 5).collect();
        for frame in &filler {
            let _ = left.try_send(frame)?;
        }
        guest.unplugged(0, TURN)?;
        guest.wait_for(&task, "link down", TURN)?;
        echo(right, 200)?;
        let printed = guest.end(&task, "TERM", TURN)?;
        Balance::read(&printed)?.check_home()?;
        guest.plug(0)?;
        left.drain(Duration::from_millis(200))?;
        both_ways(guest, &wires)
    })
}

/// Without a port, l2fwd has nothing to do, and says so by its end.
fn all_unplugged() -> Result<()> {
    let folder = scratch::directory("unplug")?;
    let wire = Wire::new(folder.path(), "wire")?;
    let machine = pci_machine("unplug").ours("l2fwd").iommu(BITS).nic(Nic::wire(&wire).pluggable());
    machine.build()?;
    let _turn = exclusive::processors();
    let [mut guest] = guest::boot([&machine])?;
    logged(&mut guest, |guest| {
        let device = guest.bind(0, VFIO)?;
        let task = guest.spawn("l2fwd", &format!("/host/l2fwd -l 0 -m 64 -a {device} -- -T 0"))?;
        guest.wait_for(&task, "port 0: ", TURN)?;
        guest.unplug(0)?;
        let ended = guest.wait_end(&task, TURN)?;
        ensure!(ended.status == 0, "l2fwd ended with {}:\n{}", ended.status, ended.output);
        ensure!(
            ended.output.contains("wants the device back"),
            "nobody said that the device was unplugged:\n{}",
            ended.output
        );
        Balance::read(&ended.output)?.check_home()
    })
}

/// A program that is killed leaves its devices bound and at rest: the next one has them at once, with all huge pages.
fn killed() -> Result<()> {
    let folder = scratch::directory("killed")?;
    let wires = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
    let mut machine = pci_machine("killed").ours("testpmd").iommu(BITS);
    for wire in &wires {
        machine = machine.nic(Nic::wire(wire));
    }
    machine.build()?;
    let _turn = exclusive::processors();
    let [mut guest] = guest::boot([&machine])?;
    logged(&mut guest, |guest| {
        let free = free_hugepages(guest)?;
        for _ in 0..3 {
            let task = testpmd(guest, "")?;
            forward_and_compare([&wires[0], &wires[1]], 200, WINDOW, Order::Kept)?;
            // Frames are under way.
            for frame in frames::mixed(32, 7) {
                let _ = wires[0].try_send(&frame)?;
            }
            guest.signal(&task, "KILL")?;
            let ended = guest.wait_end(&task, TURN)?;
            ensure!(ended.status == 128 + 9, "testpmd ended with {}", ended.status);
            let left = free_hugepages(guest)?;
            ensure!(left == free, "{left} huge pages are free, and were {free}");
            guest.expect_no_fault()?;
        }
        both_ways(guest, &wires)
    })
}

/// The kernel has an interface, gives it to testpmd, and has it again.
fn bound() -> Result<()> {
    let folder = scratch::directory("bind")?;
    let wires = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
    let mut machine = pci_machine("bind")
        .ours("testpmd")
        .ours("wirerate")
        .iommu(BITS)
        .module("virtio_pci")
        .module("virtio_net");
    for wire in &wires {
        machine = machine.nic(Nic::wire(wire));
    }
    machine.build()?;
    let _turn = exclusive::processors();
    let [mut guest] = guest::boot([&machine])?;
    logged(&mut guest, |guest| {
        let devices = [guest.pci_address(0)?, guest.pci_address(1)?];
        answers_arp(guest, &wires[0])?;
        // It has an address: that is not for the taking.
        let refused = guest.outcome(&format!("/host/wirerate bind -b {VFIO} {}", devices[0]), TURN)?;
        ensure!(
            refused.status == 1 && refused.output.contains("eth0") && refused.output.contains("10.77.0.9"),
            "taking it was not refused: {refused:?}"
        );
        guest.run(&format!("/host/wirerate bind -b {VFIO} --force {}", devices[0]))?;
        guest.run(&format!("/host/wirerate bind -b {VFIO} eth1"))?;
        let shown = guest.run("/host/wirerate bind --status")?;
        let lines = |driver: &str| shown.matches(&format!("drv={driver}")).count();
        ensure!(lines(VFIO) == 2 && lines("virtio-pci") == 0, "{shown}");
        both_ways(guest, &wires)?;
        guest.run("/host/wirerate bind --restore")?;
        let shown = guest.run("/host/wirerate bind --status")?;
        let lines = |driver: &str| shown.matches(&format!("drv={driver}")).count();
        ensure!(lines(VFIO) == 0 && lines("virtio-pci") == 2, "{shown}");
        let overrides = guest.run(&format!(
            "cat /sys/bus/pci/devices/{}/driver_override /sys/bus/pci/devices/{}/driver_override",
            devices[0], devices[1]
        ))?;
        ensure!(overrides.trim().replace('\n', " ") == "(null) (null)", "drivers are fixed: {overrides}");
        answers_arp(guest, &wires[0])
    })
}

/// A guest between two hosts, with l2fwd in it.
fn linked() -> Result<()> {
    let network = Network::new(Offloads::None)?;
    for (index, tap) in TAPS.iter().enumerate() {
        let (bridge, port) = (format!("bridge{index}"), format!("port{index}"));
        network.middle.ip(&["tuntap", "add", tap, "mode", "tap"])?;
        network.middle.ip(&["link", "add", &bridge, "type", "bridge"])?;
        for member in [*tap, &port] {
            network.middle.ip(&["link", "set", member, "master", &bridge])?;
            network.middle.ip(&["link", "set", member, "up"])?;
        }
        network.middle.ip(&["link", "set", &bridge, "up"])?;
    }
    let mut machine = pci_machine("middle").ours("l2fwd").iommu(BITS).inside(&network.middle);
    for tap in TAPS {
        machine = machine.nic(Nic::tap(tap));
    }
    machine.build()?;
    let _turn = exclusive::processors();
    let [mut guest] = guest::boot([&machine])?;
    logged(&mut guest, |guest| {
        let devices = [guest.bind(0, VFIO)?, guest.bind(1, VFIO)?];
        let [zero, one] = &devices;
        // Two processors are also those of the hosts.
        let task = guest.spawn(
            "l2fwd",
            &format!(
                "/host/l2fwd -l 0 -m 64 -a {zero} -a {one} -- --no-mac-updating -T 0 --idle-policy sleep"
            ),
        )?;
        guest.wait_for(&task, "port 1: ", TURN)?;
        wait::until("the hosts to reach each other", TURN, || Ok(network.ping(RIGHT, 1, 56).is_ok()))?;
        network.ping(RIGHT, 20, 1472)?;
        network.ping(RIGHT_V6, 20, 56)?;
        network.send_file(4 << 20)?;
        for reverse in [false, true] {
            let rate = network.iperf3(2, reverse)?;
            ensure!(rate > 1e5, "{rate} bits a second, reverse: {reverse}");
        }
        let printed = guest.end(&task, "TERM", TURN)?;
        let totals = Totals::read(&printed)?;
        ensure!(totals.port(0)?.sent > 1000 && totals.port(1)?.sent > 1000, "{totals:?}");
        Balance::read(&printed)?.check_home()?;
        guest.expect_no_fault()
    })
}

/// testpmd on both interfaces, which forwards.
fn testpmd(guest: &mut Guest, more: &str) -> Result<Task> {
    let devices = [guest.bind(0, VFIO)?, guest.bind(1, VFIO)?];
    let [zero, one] = &devices;
    let task = guest.spawn(
        "testpmd",
        &format!(
            "/host/testpmd -l 0-1 -m 64 --in-memory -a {zero} -a {one} -- --total-num-mbufs=4096 --rxd=256 --txd=256 {more}"
        ),
    )?;
    guest.wait_for(&task, "Port 1: ", TURN)?;
    Ok(task)
}

/// Both interfaces pass frames to each other.
fn both_ways(guest: &mut Guest, wires: &[Wire; 2]) -> Result<()> {
    let task = testpmd(guest, "")?;
    let [left, right] = wires;
    forward_and_compare([left, right], FRAMES, WINDOW, Order::Kept)?;
    let printed = guest.end(&task, "TERM", TURN)?;
    Balance::read(&printed)?.check_home()?;
    guest.expect_no_fault()
}

/// The kernel of the guest has `eth0` and answers by it.
fn answers_arp(guest: &mut Guest, wire: &Wire) -> Result<()> {
    guest.run("ip addr flush dev eth0; ip addr add 10.77.0.9/24 dev eth0 && ip link set eth0 up")?;
    let mut request = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7], &[8, 6]].concat();
    // Ethernet, IPv4, their lengths, a request (RFC 826).
    request.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend([2, 0, 0, 0, 0, 7, 10, 77, 0, 1]);
    request.extend([0, 0, 0, 0, 0, 0, 10, 77, 0, 9]);
    request.resize(60, 0);
    wire.drain(Duration::from_millis(100))?;
    wait::until("the guest's kernel to answer", TURN, || {
        wire.send(&request)?;
        while let Some(frame) = wire.receive(Duration::from_millis(500))? {
            // An answer, from that address.
            if frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 2]) {
                ensure!(
                    frame.get(28..32) == Some(&[10, 77, 0, 9]),
                    "an answer of somebody else: {frame:02x?}"
                );
                return Ok(true);
            }
        }
        Ok(false)
    })
}

fn free_hugepages(guest: &mut Guest) -> Result<u64> {
    let printed = guest.run("cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")?;
    printed.trim().parse().context("no number of huge pages")
}

/// The log of a guest goes with what failed in it.
fn logged<T>(guest: &mut Guest, checks: impl FnOnce(&mut Guest) -> Result<T>) -> Result<T> {
    checks(guest).with_context(|| guest.log())
}
