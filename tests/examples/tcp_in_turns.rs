//! TCP through our l2fwd and through DPDK's testpmd, on the same veths, in turns.
//!
//! `cargo run --release -p wirerate-tests --example tcp_in_turns -- [PAIRS] [SECONDS]`, as root; 5 pairs of 5 seconds
//! unless given. It needs iproute2, ethtool, iperf3 and dpdk-testpmd.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use wirerate_tests::dpdk::Dpdk;
use wirerate_tests::network::{Network, Offloads};
use wirerate_tests::output::Balance;
use wirerate_tests::program::{self, forwarder_cpu};
use wirerate_tools::paired::{self, Comparison, Figures};

/// Time for a forwarder to end.
const END: Duration = Duration::from_secs(30);
/// What both forward between.
const DEVICES: [&str; 4] = ["--vdev", "net_af_packet0,iface=port0", "--vdev", "net_af_packet1,iface=port1"];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |usual: u32| -> Result<u32> {
        arguments
            .next()
            .map_or(Ok(usual), |text| text.parse().with_context(|| format!("{text} is no number")))
    };
    let (pairs, seconds) = (number(5)?, number(5)?);
    let network = Network::new(Offloads::None)?;
    let dpdk = Dpdk::new();
    let reverse = Cell::new(false);
    let through = |forwarder: Command, ours: bool| -> Result<Figures> {
        let running = network.forward(forwarder)?;
        let rate = network.iperf3(seconds, reverse.get()).with_context(|| running.describe())?;
        let finished = running.end(Signal::INT, END)?;
        finished.expect_code(0)?;
        if ours {
            Balance::read(&finished.stdout)?.check_home()?;
        }
        Ok(Figures { rate: rate / 1e9, cycles: None })
    };
    let mut comparisons = Vec::new();
    for (name, backwards) in [("TCP, left to right", false), ("TCP, right to left", true)] {
        reverse.set(backwards);
        let ours = || {
            let mut command = network.middle.command(program::bundled("l2fwd")?);
            command.args(["-l", &forwarder_cpu()?, "--no-huge", "--no-pci"]).args(DEVICES);
            command.args(["--", "--no-mac-updating", "-T", "0", "--duration", "600"]);
            through(command, true)
        };
        let theirs = || through(dpdk.command(&network.middle, &DEVICES, &["--forward-mode=io"])?, false);
        comparisons.push(Comparison::measure(name, "Gb/s", pairs, ours, Some(theirs))?);
    }
    println!("{pairs} pairs of {seconds} s, in turns; one forwarding core, the veths' offloads off");
    println!("{}", paired::table(&comparisons));
    Ok(())
}
