//! The model's virtual function, judged in a Linux guest by drivers that others wrote, Linux's and DPDK's; then ours drives it.
//! None of them may break a rule of the datasheet, or of the mailbox, that the model keeps.
//!
//! The guest has two functions, each with a wire to the test. For Linux the test is a cable between the wires, and one of the
//! functions is in a network namespace of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::guest::{self, DPDK_IXGBE, Guest, Nic, Order, Wire, pci_machine};
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::nic_server::{Cable, Manner, NicServer, Wires};
use wirerate_tests::{exclusive, scratch};

use crate::pci::{DPDK, OURS, VFIO, exchange, logged};

const NEEDS: &[Need] = &[Need::Qemu, Need::GuestKernel, Need::VfioUserQemu, Need::DpdkIxgbe, Need::Ethtool];

/// Time for a link to come up, or an address to answer.
const UP: Duration = Duration::from_secs(30);
const NEAR: &str = "10.84.0.1";
const FAR: &str = "10.84.0.2";
const TAGGED: [&str; 2] = ["10.85.0.1", "10.85.0.2"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("nic82599::virtual_function", NEEDS, drive)]
}

/// A cable between two wires, until it is cut.
struct Joined {
    cut: std::sync::Arc<AtomicBool>,
    thread: JoinHandle<Result<[Wire; 2]>>,
}

impl Joined {
    fn new(wires: [Wire; 2]) -> Self {
        let cut = std::sync::Arc::new(AtomicBool::new(false));
        let over = std::sync::Arc::clone(&cut);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut idle = true;
                for (from, to) in [(0, 1), (1, 0)] {
                    while let Some(frame) = wires[from].try_receive()? {
                        wires[to].send(&frame)?;
                        idle = false;
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            Ok(wires)
        });
        Self { cut, thread }
    }

    /// The wires, with nothing on them.
    fn cut(self) -> Result<[Wire; 2]> {
        self.cut.store(true, Ordering::Relaxed);
        let wires = self.thread.join().ok().context("the cable's thread panicked")??;
        for wire in &wires {
            wire.drain(Duration::from_millis(100))?;
        }
        Ok(wires)
    }
}

fn drive() -> Result<()> {
    let mut machine = pci_machine("nic82599_vf").iommu(48).module("ixgbevf").module("8021q");
    machine = machine.dpdk(&DPDK_IXGBE).ours("testpmd").program("ethtool");
    machine.build()?;
    let _turn = exclusive::processors();
    let folder = scratch::directory("nic82599_vf")?;
    let wires = [Wire::new(folder.path(), "left")?, Wire::new(folder.path(), "right")?];
    let cables = wires.each_ref().map(|wire| Cable::Wires(Wires::to(wire)));
    let manner = Manner { is_virtual: true, ..Manner::default() };
    let server = NicServer::start(folder.path(), manner, cables.into())?;
    for index in [0, 1] {
        machine = machine.nic(Nic::vfio_user(server.socket(index)?));
    }
    let [mut guest] = guest::boot([&machine])?;
    let driven = logged(&mut guest, |guest| {
        let joined = Joined::new(wires);
        linux(guest, &server)?;
        // Frames for others have to be forwarded, too.
        for index in [0, 1] {
            let mut model = server.card(index)?.model();
            model.physical().context("no physical function")?.lets_receive_all = true;
        }
        let wires = joined.cut()?;
        for forwarder in [DPDK, OURS] {
            exchange(guest, &forwarder, &VFIO, &wires, Order::Kept, "")?;
            server.expect_no_fault()?;
        }
        Ok(())
    });
    driven.with_context(|| format!("{}\n{}", server.faults().join("\n"), server.counters().join("\n")))
}

/// Runs a command where the other end is.
fn far(guest: &mut Guest, command: &str) -> Result<String> {
    guest.run(&format!("nsenter -t $(cat /tmp/far) -n {command}"))
}

/// Linux's driver brings both functions up, and passes all kinds of frames.
fn linux(guest: &mut Guest, server: &NicServer) -> Result<()> {
    guest.run("unshare -n sleep 10000 >/dev/null 2>&1 & echo $! >/tmp/far; sleep 0.2")?;
    guest.run("ip link set eth1 netns $(cat /tmp/far)")?;
    guest.run(&format!("ip addr add {NEAR}/24 dev eth0; ip link set eth0 up"))?;
    far(guest, &format!("ip addr add {FAR}/24 dev eth1"))?;
    far(guest, "ip link set eth1 up")?;
    guest.reach(FAR, UP)?;
    let told = guest.run("ethtool -i eth0; ethtool eth0; cat /sys/class/net/eth0/address")?;
    for words in ["driver: ixgbevf", "Speed: 10000Mb/s", "Link detected: yes", "90:e2:ba:12:34:56"] {
        ensure!(told.contains(words), "nothing of {words:?} in:\n{told}");
    }
    guest.ping(FAR, 3, 1400)?;
    server.expect_no_fault()?;
    // A VLAN, longer frames, another address.
    let [near, other] = TAGGED;
    guest.run(&format!(
        "ip link add link eth0 name tagged type vlan id 84; ip addr add {near}/24 dev tagged; ip link set tagged up"
    ))?;
    far(guest, "ip link add link eth1 name tagged type vlan id 84")?;
    far(guest, &format!("ip addr add {other}/24 dev tagged"))?;
    far(guest, "ip link set tagged up")?;
    guest.reach(other, UP)?;
    guest.run("ip link set eth0 mtu 9000")?;
    far(guest, "ip link set eth1 mtu 9000")?;
    guest.reach(FAR, UP)?;
    guest.ping(FAR, 3, 8900)?;
    guest.run("ip link set eth0 promisc on; ip link set eth0 promisc off; ifconfig eth0 allmulti")?;
    guest.run("ip link set eth0 address 02:00:00:00:82:99")?;
    guest.reach(FAR, UP)?;
    server.expect_no_fault()?;
    let counters = guest.run("ethtool -S eth0")?;
    let value = |name: &str| -> Result<u64> {
        let line = counters.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        line.with_context(|| format!("no counter {name} in:\n{counters}"))?.parse().context("no number")
    };
    ensure!(value("rx_packets")? > 6 && value("tx_packets")? > 6, "{counters}");
    // The physical function goes, and comes again.
    server.card(0)?.model().reset_physical(false);
    guest.run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done")?;
    server.card(0)?.model().reset_physical(true);
    guest.reach(FAR, UP)?;
    // And the driver goes.
    guest.run("kill $(cat /tmp/far); sleep 0.2; rmmod ixgbevf")?;
    server.expect_no_fault()
}
