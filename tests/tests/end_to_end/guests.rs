//! Linux guests whose interfaces l2fwd serves by vhost-user, linked to each other and to namespaces.
//!
//! But where a test says otherwise, QEMU is the client of the sockets. It connects again by itself, so that l2fwd can end
//! and start while guests run.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tempfile::TempDir;
use wirerate_tests::dpdk::Dpdk;
use wirerate_tests::guest::{self, Feature, Guest, Machine, Nic};
use wirerate_tests::namespace::Namespace;
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::network::{LEFT, LEFT_V6, Network, Offloads, RIGHT, RIGHT_V6};
use wirerate_tests::output::{Balance, Totals};
use wirerate_tests::program::{Finished, Running, forwarder_cpu};
use wirerate_tests::{exclusive, scratch, wait};

use crate::support::bundled_in;

/// What all of these need.
const NEEDS: &[Need] =
    &[Need::Qemu, Need::GuestKernel, Need::Root, Need::Namespaces, Need::Ethtool, Need::Ping, Need::Iperf3];
/// The same, and DPDK.
const NEEDS_DPDK: &[Need] =
    &[Need::Qemu, Need::GuestKernel, Need::Root, Need::Namespaces, Need::Ethtool, Need::Iperf3, Need::Dpdk];

/// Time for a forwarder to end.
const END: Duration = Duration::from_secs(30);
/// Time for traffic to flow again after one side has ended and started: QEMU looks once a second.
const AGAIN: Duration = Duration::from_secs(60);
/// MiB of a transfer.
const MIB: u32 = 20;
/// Time for a transfer of a few seconds.
const TRANSFER: Duration = Duration::from_secs(120);
/// A forwarder that nobody stops ends by itself.
const LAST_RESORT: [&str; 2] = ["--duration", "400"];
/// What guests have agreed on with a device that has all offloads of virtio-net.
const OFFLOADS: [Feature; 8] = [
    Feature::Csum,
    Feature::GuestCsum,
    Feature::GuestTso4,
    Feature::GuestTso6,
    Feature::HostTso4,
    Feature::HostTso6,
    Feature::MrgRxbuf,
    Feature::Version1,
];
/// Processors of a guest: as many as pairs of queues.
const PROCESSORS: u32 = 2;
/// The longest that a packet is without segmentation offload.
const FRAME: u64 = 1514;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("guests::two_guests_send_segments_larger_than_frames", NEEDS, || by_l2fwd(|nic| nic, offloads)),
        trial("guests::dpdk_links_guests_as_l2fwd_does", NEEDS_DPDK, || {
            let dpdk = Dpdk::new();
            let io =
                |place: &Namespace, devices: &[&str]| dpdk.command(place, devices, &["--forward-mode=io"]);
            linked(&io, ",tso=1", |nic| nic, offloads)?.expect_code(0).map(drop)
        }),
        trial("guests::traffic_flows_again_after_l2fwd_has_ended", NEEDS, || {
            by_l2fwd(|nic| nic, forwarder_ends)
        }),
        trial("guests::l2fwd_comes_back_to_guests_that_listen", NEEDS, || {
            check_l2fwd(&linked(&l2fwd, ",client=1", Nic::listening, forwarder_comes_back)?)
        }),
        trial("guests::traffic_flows_again_after_a_guest_has_ended", NEEDS, || {
            by_l2fwd(|nic| nic, guest_ends)
        }),
        trial("guests::a_guest_talks_to_a_namespace", NEEDS, namespace),
        trial("guests::two_guests_use_packed_virtqueues", NEEDS, || by_l2fwd(Nic::packed, packed)),
        trial("guests::two_guests_use_two_pairs_of_queues", NEEDS, || {
            let finished = linked(&testpmd_of_two_queues, ",queues=2", |nic| nic.queues(2), queues)?;
            finished.expect_code(0)?;
            Balance::read(&finished.stdout)?.check_home()
        }),
    ]
}

/// Two guests with l2fwd between them, for `checks`, and a look at its totals.
fn by_l2fwd(nic: fn(Nic) -> Nic, checks: impl FnOnce(&mut Pair<'_>) -> Result<()>) -> Result<()> {
    check_l2fwd(&linked(&l2fwd, "", nic, checks)?)
}

/// The command line of a program that forwards between these devices, in this place.
type Forward<'a> = &'a dyn Fn(&Namespace, &[&str]) -> Result<Command>;

fn l2fwd(place: &Namespace, devices: &[&str]) -> Result<Command> {
    ours(place, "l2fwd", devices, &["--no-mac-updating", "-T", "0"])
}

fn testpmd_of_two_queues(place: &Namespace, devices: &[&str]) -> Result<Command> {
    ours(place, "testpmd", devices, &["--forward-mode=io", "--rxq=2", "--txq=2"])
}

fn ours(place: &Namespace, program: &str, devices: &[&str], own: &[&str]) -> Result<Command> {
    let cpu = forwarder_cpu()?;
    let environment = ["-l", &cpu, "--no-huge", "--no-pci"];
    // QEMU needs the processors, too.
    let last = [&["--idle-policy", "sleep"], &LAST_RESORT[..]].concat();
    bundled_in(place, program, &[&environment, devices, &["--"], own, &last].concat())
}

/// Two guests, at [`LEFT`] and [`RIGHT`], and what forwards between them.
struct Pair<'a> {
    left: Guest,
    right: Guest,
    forwarder: Running,
    forward: Forward<'a>,
    machines: [Machine; 2],
    devices: [String; 2],
    place: Namespace,
    _folder: TempDir,
}

/// Makes a pair, with these further parameters of `net_vhost` and guests' interfaces of this kind, for `checks`. Then
/// the forwarder ends by SIGTERM, before the guests.
fn linked(
    forward: Forward<'_>,
    parameters: &str,
    nic: fn(Nic) -> Nic,
    checks: impl FnOnce(&mut Pair<'_>) -> Result<()>,
) -> Result<Finished> {
    let _turn = exclusive::processors();
    let mut pair = Pair::new(forward, parameters, nic)?;
    let result = checks(&mut pair);
    result.with_context(|| pair.log())?;
    // The rest of the pair lives until the end of this function.
    let Pair { forwarder, left: _left, right: _right, .. } = pair;
    forwarder.end(Signal::TERM, END)
}

impl<'a> Pair<'a> {
    fn new(forward: Forward<'a>, parameters: &str, nic: fn(Nic) -> Nic) -> Result<Self> {
        let folder = scratch::directory("guests")?;
        let place = Namespace::new("guests")?;
        let sockets = ["left", "right"].map(|name| folder.path().join(name));
        let devices =
            [0, 1].map(|port| format!("net_vhost{port},iface={}{parameters}", sockets[port].display()));
        let machines = [("left", 0), ("right", 1)].map(|(name, port)| {
            let machine = Machine::new(name).nic(nic(Nic::vhost_user(&sockets[port]))).processors(PROCESSORS);
            machine.program("iperf3").program("ethtool")
        });
        let forwarder = start(forward, &place, &devices)?;
        let [left, right] = guest::boot(machines.each_ref()).with_context(|| forwarder.describe())?;
        let mut pair = Self { left, right, forwarder, forward, machines, devices, place, _folder: folder };
        let result = pair.set_up();
        result.with_context(|| pair.log())?;
        Ok(pair)
    }

    fn set_up(&mut self) -> Result<()> {
        set_up_left(&mut self.left)?;
        self.right.addresses(&[&format!("{RIGHT}/24"), &format!("{RIGHT_V6}/64")])?;
        self.right.serve_iperf3()?;
        self.left.reach(RIGHT, AGAIN)
    }

    /// Ends the forwarder by `signal` and starts another on the same devices.
    fn restart(&mut self, signal: Signal) -> Result<()> {
        self.forwarder.signal(signal)?;
        // The sockets are as the old one leaves them.
        wait::until("the forwarder to end", END, || Ok(!self.forwarder.is_running()?))?;
        self.forwarder = start(self.forward, &self.place, &self.devices)?;
        Ok(())
    }

    /// Pings of all sizes, to and fro, and TCP.
    fn talk(&mut self) -> Result<()> {
        // The last is sent in three frames.
        for bytes in [56, 1400, 4000] {
            self.left.ping(RIGHT, 10, bytes)?;
            self.right.ping(LEFT, 10, bytes)?;
        }
        self.left.ping(RIGHT_V6, 10, 1400)?;
        for reverse in [false, true] {
            self.left.iperf3_tcp(RIGHT, MIB, reverse)?;
        }
        Ok(())
    }

    fn log(&self) -> String {
        format!("{}{}the forwarder: {}", self.left.log(), self.right.log(), self.forwarder.describe())
    }
}

fn start(forward: Forward<'_>, place: &Namespace, devices: &[String; 2]) -> Result<Running> {
    let [one, two] = devices;
    Running::start(forward(place, &["--vdev", one, "--vdev", two])?)
}

fn set_up_left(guest: &mut Guest) -> Result<()> {
    guest.addresses(&[&format!("{LEFT}/24"), &format!("{LEFT_V6}/64")])
}

fn check_l2fwd(finished: &Finished) -> Result<()> {
    finished.expect_code(0)?;
    let totals = Totals::read(&finished.stdout)?;
    for id in [0, 1] {
        let (port, partner) = (totals.port(id)?, totals.port(1 - id)?);
        ensure!(port.received > 0 && port.sent > 0, "port {id} saw nothing: {port:?}");
        ensure!(
            port.received <= partner.sent + port.dropped + partner.dropped && partner.sent <= port.received,
            "packets vanished or came out of nowhere: {totals:?}"
        );
    }
    Ok(())
}

/// TCP hands segments of many frames to the device, and they cross as they are.
fn offloads(pair: &mut Pair<'_>) -> Result<()> {
    pair.left.expect_features(&OFFLOADS)?;
    pair.right.expect_features(&OFFLOADS)?;
    pair.talk()?;
    for (address, reverse) in [(RIGHT, false), (RIGHT, true), (RIGHT_V6, false), (RIGHT_V6, true)] {
        let before = (pair.left.counters()?, pair.right.counters()?);
        pair.left.iperf3_tcp(address, MIB, reverse)?;
        let left = pair.left.counters()?.since(&before.0);
        let right = pair.right.counters()?.since(&before.1);
        let (sender, receiver) = if reverse { (right, left) } else { (left, right) };
        ensure!(
            sender.mean_sent() > FRAME && receiver.mean_received() > FRAME,
            "to {address}, reverse: {reverse}: {sender:?} sent in {} bytes, {receiver:?} received in {}",
            sender.mean_sent(),
            receiver.mean_received()
        );
    }
    Ok(())
}

fn forwarder_comes_back(pair: &mut Pair<'_>) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        pair.restart(signal)?;
        pair.left.reach(RIGHT, AGAIN).with_context(|| format!("after {signal:?}"))?;
        pair.talk().with_context(|| format!("after {signal:?}"))?;
    }
    Ok(())
}

fn forwarder_ends(pair: &mut Pair<'_>) -> Result<()> {
    forwarder_comes_back(pair)?;
    // A transfer that it is in the midst of stands still, and goes on.
    let client = format!("iperf3 --json --client {RIGHT} --bytes 300M");
    pair.left.run(&format!("{client} >/tmp/transfer 2>&1 & echo $! >/tmp/pid"))?;
    std::thread::sleep(Duration::from_secs(1));
    pair.restart(Signal::KILL)?;
    pair.left.reach(RIGHT, AGAIN).context("in the midst of a transfer")?;
    let again = pair.right.counters()?;
    pair.left.run_within("while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.2; done", TRANSFER)?;
    let moved = pair.right.counters()?.since(&again);
    let report = pair.left.run("cat /tmp/transfer")?;
    ensure!(moved.rx_bytes > 100_000, "the transfer did not go on: {moved:?}\n{report}");
    ensure!(!report.contains("\"error\""), "the transfer failed:\n{report}");
    Ok(())
}

fn guest_ends(pair: &mut Pair<'_>) -> Result<()> {
    pair.left.reboot()?;
    set_up_left(&mut pair.left)?;
    pair.left.reach(RIGHT, AGAIN).context("after a reboot")?;
    pair.talk().context("after a reboot")?;
    // QEMU dies in the midst of traffic, and another comes to the same socket.
    pair.left
        .run(&format!("iperf3 --client {RIGHT} >/dev/null 2>&1 & ping -n -q {RIGHT} >/dev/null 2>&1 &"))?;
    std::thread::sleep(Duration::from_millis(500));
    pair.left.kill()?;
    let [left] = guest::boot([&pair.machines[0]])?;
    pair.left = left;
    set_up_left(&mut pair.left)?;
    pair.right.run("killall iperf3")?;
    pair.right.serve_iperf3()?;
    pair.left.reach(RIGHT, AGAIN).context("after QEMU was killed")?;
    pair.talk().context("after QEMU was killed")
}

fn packed(pair: &mut Pair<'_>) -> Result<()> {
    pair.left.expect_features(&[Feature::RingPacked])?;
    pair.right.expect_features(&[Feature::RingPacked])?;
    offloads(pair)
}

/// Both pairs of queues carry packets, in both guests.
fn queues(pair: &mut Pair<'_>) -> Result<()> {
    for guest in [&mut pair.left, &mut pair.right] {
        guest.expect_features(&[Feature::Mq])?;
        guest.run("test $(ethtool -l eth0 | grep -c 'Combined:.*2') = 2").context("the pairs of queues")?;
    }
    pair.talk()?;
    // What a processor sends goes by the queue of its own.
    for processor in [1, 2] {
        pair.left.run(&format!("taskset {processor} ping -n -q -c 20 -i 0.02 -W 5 {RIGHT}"))?;
    }
    for (guest, way) in [(&mut pair.left, "tx"), (&mut pair.right, "rx")] {
        for queue in [0, 1] {
            let counter = format!("{way}_queue_{queue}_packets");
            let counted = guest.run(&format!("ethtool -S eth0 | sed -n 's/ *{counter}: //p'"))?;
            let packets: u64 = counted.trim().parse().with_context(|| format!("{counter}: {counted:?}"))?;
            ensure!(packets >= 20, "{counter} is {packets}");
        }
    }
    Ok(())
}

/// A guest whose other side is a veth: what it sends in large segments is cut before it gets there.
fn namespace() -> Result<()> {
    let _turn = exclusive::processors();
    let network = Network::new(Offloads::None)?;
    let folder = scratch::directory("guest")?;
    let socket = folder.path().join("left");
    let vhost = format!("net_vhost0,iface={}", socket.display());
    let devices = ["--vdev", &vhost, "--vdev", "net_af_packet1,iface=port1"];
    let forwarder = Running::start(l2fwd(&network.middle, &devices)?)?;
    // It takes the place of the host on the left.
    let machine = Machine::new("left").nic(Nic::vhost_user(&socket)).program("iperf3");
    let [mut left] = guest::boot([&machine]).with_context(|| forwarder.describe())?;
    let result = guest_and_host(&mut left, &network.right);
    result.with_context(|| format!("{}the forwarder: {}", left.log(), forwarder.describe()))?;
    let finished = forwarder.end(Signal::TERM, END)?;
    finished.expect_code(0)?;
    let totals = Totals::read(&finished.stdout)?;
    let (guest, host) = (totals.port(0)?, totals.port(1)?);
    ensure!(
        host.received <= guest.sent + guest.dropped + host.dropped && guest.sent <= host.received,
        "packets to the guest vanished or came out of nowhere: {totals:?}"
    );
    ensure!(host.sent > 2 * guest.received, "what came from the guest was not cut: {totals:?}");
    Ok(())
}

fn guest_and_host(left: &mut Guest, right: &Namespace) -> Result<()> {
    set_up_left(left)?;
    left.expect_features(&OFFLOADS)?;
    let mut server = right.command("iperf3");
    server.args(["--server", "--forceflush"]);
    let mut server = Running::start(server)?;
    server.wait_for("Server listening", END)?;
    left.reach(RIGHT, AGAIN)?;
    // First with all that a cable has, then with checksums that the host leaves to hardware.
    for switches in [&[][..], &["tx", "on"]] {
        if !switches.is_empty() {
            right.offloads("host0", switches)?;
        }
        for bytes in [56, 1400, 4000] {
            left.ping(RIGHT, 10, bytes)?;
        }
        left.ping(RIGHT_V6, 10, 1400)?;
        for reverse in [false, true] {
            let lost = left.iperf3_udp(RIGHT, reverse)?;
            ensure!(lost < 50.0, "{lost} % of datagrams were lost, reverse: {reverse}");
        }
        for address in [RIGHT, RIGHT_V6] {
            let before = left.counters()?;
            left.iperf3_tcp(address, MIB, false)?;
            let sent = left.counters()?.since(&before).mean_sent();
            ensure!(sent > FRAME, "the guest sent packets of {sent} bytes to {address}");
            left.iperf3_tcp(address, MIB, true)?;
        }
    }
    Ok(())
}
