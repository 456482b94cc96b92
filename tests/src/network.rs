//! Two hosts with a forwarder between them, each a network namespace.
//!
//! ```text
//!   left: host0 ===veth=== port0 :middle: port1 ===veth=== host0 :right
//! ```
//!
//! The forwarder runs in the middle and has `port0` and `port1`. It must leave MAC addresses as they are: the
//! hosts know each other's by ARP.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::program::{self, Running};
use crate::{transfer, wait};

/// Address of the host on the left.
pub const LEFT: &str = "10.77.0.1";
/// Address of the host on the right.
pub const RIGHT: &str = "10.77.0.2";
/// IPv6 address of the host on the left.
pub const LEFT_V6: &str = "fd77::1";
/// IPv6 address of the host on the right.
pub const RIGHT_V6: &str = "fd77::2";
/// TCP port of the transfers.
const TCP_PORT: u16 = 7077;

/// Which offloads the hosts' and the forwarder's interfaces have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// None: every frame is on the wire as it would be on a cable.
    None,
    /// What veth has by default but segmentation: checksums are left to the hardware that is not there.
    ChecksumOnly,
}

/// Two hosts and the place between them.
#[derive(Debug)]
pub struct Network {
    /// The host at [`LEFT`].
    pub left: Namespace,
    /// Where the forwarder runs, on `port0` and `port1`.
    pub middle: Namespace,
    /// The host at [`RIGHT`].
    pub right: Namespace,
}

impl Network {
    /// Makes the namespaces, the veth pairs and the addresses.
    ///
    /// # Errors
    /// When this process may not, or `ip` or `ethtool` fail.
    pub fn new(offloads: Offloads) -> Result<Self> {
        let network = Self {
            left: Namespace::new("left")?,
            middle: Namespace::new("middle")?,
            right: Namespace::new("right")?,
        };
        let sides = [(&network.left, "port0", "1"), (&network.right, "port1", "2")];
        for (host, port, number) in sides {
            let middle = &network.middle;
            middle.ip(&[
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "host0",
                "netns",
                host.name(),
            ])?;
            host.run("sysctl", &["-q", "-w", "net.ipv6.conf.host0.disable_ipv6=0"])?;
            let switches: &[&str] = match offloads {
                Offloads::None => &["tx", "off", "gso", "off", "tso", "off", "gro", "off"],
                Offloads::ChecksumOnly => &["gso", "off", "tso", "off"],
            };
            host.offloads("host0", switches)?;
            middle.offloads(port, switches)?;
            host.ip(&["addr", "add", &format!("10.77.0.{number}/24"), "dev", "host0"])?;
            host.ip(&["addr", "add", &format!("fd77::{number}/64"), "dev", "host0", "nodad"])?;
            middle.ip(&["link", "set", port, "up"])?;
            host.ip(&["link", "set", "host0", "up"])?;
        }
        Ok(network)
    }

    /// Starts a forwarder in the middle and waits until the hosts reach each other.
    ///
    /// # Errors
    /// When it does not start, ends, or the hosts do not reach each other in time.
    pub fn forward(&self, forwarder: Command) -> Result<Running> {
        let mut running = Running::start(forwarder)?;
        wait::until("the right host to answer the left one", Duration::from_secs(40), || {
            ensure!(running.is_running()?, "the forwarder ended at once:\n{}", running.describe());
            let mut ping = self.left.command("ping");
            ping.args(["-c", "1", "-W", "1", RIGHT]);
            Ok(program::run(ping, Duration::from_secs(10))?.status.success())
        })
        .with_context(|| format!("the forwarder so far:\n{}", running.describe()))?;
        Ok(running)
    }

    /// Sends `count` pings of `bytes` from the left host to `address`, and checks that all are answered.
    ///
    /// # Errors
    /// When one is lost.
    pub fn ping(&self, address: &str, count: u32, bytes: u32) -> Result<()> {
        let mut ping = self.left.command("ping");
        ping.args([
            "-n",
            "-i",
            "0.05",
            "-W",
            "5",
            "-c",
            &count.to_string(),
            "-s",
            &bytes.to_string(),
            address,
        ]);
        let finished = program::run(ping, Duration::from_secs(60))?;
        let all = format!("{count} packets transmitted, {count} received, 0% packet loss");
        ensure!(finished.stdout.contains(&all), "{}\n{}", finished.what, finished.stdout);
        ensure!(!finished.stdout.contains("DUP!"), "answered twice:\n{}", finished.stdout);
        Ok(())
    }

    /// Runs iperf3 over TCP from left to right for `seconds`, or from right to left; bits a second that arrived.
    ///
    /// # Errors
    /// When it fails, or reports no figure.
    pub fn iperf3(&self, seconds: u32, reverse: bool) -> Result<f64> {
        let limit = Duration::from_secs(u64::from(seconds) + 40);
        let mut server = self.right.command("iperf3");
        server.args(["--server", "--one-off", "--forceflush"]);
        let mut server = Running::start(server)?;
        server.wait_for("Server listening", Duration::from_secs(20))?;
        let mut client = self.left.command("iperf3");
        client.args(["--json", "--client", RIGHT, "--time", &seconds.to_string()]);
        if reverse {
            client.arg("--reverse");
        }
        let finished = program::run(client, limit)?;
        finished.expect_code(0)?;
        server.wait(limit)?.expect_code(0)?;
        let report: serde_json::Value = serde_json::from_str(&finished.stdout).context("iperf3's report")?;
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        rate.with_context(|| format!("iperf3 reports no rate:\n{}", finished.stdout))
    }

    /// Sends a file of `bytes` random bytes from left to right by TCP, and checks that what arrives has the
    /// same SHA-256.
    ///
    /// # Errors
    /// When it has not, or does not arrive in time.
    pub fn send_file(&self, bytes: u64) -> Result<()> {
        transfer::between(&self.left, &self.right, (RIGHT, TCP_PORT), bytes)
    }
}
