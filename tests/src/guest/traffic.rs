//! What guests say to others over their first interface, and what they have to say about it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Guest;
use crate::wait;

/// Features of a virtio-net device that tests ask for, by their bits (virtio 1.2, 5.1.3 and 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The guest may leave checksums to the device.
    Csum = 0,
    /// The device may leave checksums to the guest.
    GuestCsum = 1,
    /// The guest takes TCP segments over IPv4 that are larger than a frame.
    GuestTso4 = 7,
    /// The same over IPv6.
    GuestTso6 = 8,
    /// The device takes TCP segments over IPv4 that are larger than a frame.
    HostTso4 = 11,
    /// The same over IPv6.
    HostTso6 = 12,
    /// A packet may fill several receive buffers.
    MrgRxbuf = 15,
    /// Several pairs of queues.
    Mq = 22,
    /// Virtio 1.0 and later.
    Version1 = 32,
    /// Packed virtqueues.
    RingPacked = 34,
}

/// What an interface has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received; a segment that came in one piece is one.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent; a segment that the device has to cut is one.
    pub tx_packets: u64,
}

impl Counters {
    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes.saturating_sub(before.rx_bytes),
            rx_packets: self.rx_packets.saturating_sub(before.rx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(before.tx_bytes),
            tx_packets: self.tx_packets.saturating_sub(before.tx_packets),
        }
    }

    /// Mean length of a packet received, in bytes; 0 without any.
    #[must_use]
    pub fn mean_received(&self) -> u64 {
        self.rx_bytes.checked_div(self.rx_packets).unwrap_or(0)
    }

    /// Mean length of a packet sent, in bytes; 0 without any.
    #[must_use]
    pub fn mean_sent(&self) -> u64 {
        self.tx_bytes.checked_div(self.tx_packets).unwrap_or(0)
    }
}

impl Guest {
    /// Brings `eth0` up with these addresses and the lengths of their networks: `10.77.0.1/24`.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn addresses(&mut self, addresses: &[&str]) -> Result<()> {
        // Without the wait for others of the same IPv6 address, during which it cannot be used.
        let mut script = "set -e; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad\n".to_owned();
        for address in addresses {
            script += &format!("ip addr add {address} dev eth0\n");
        }
        self.run(&(script + "ip link set eth0 up")).map(drop)
    }

    /// Whether `eth0` and its device have agreed on each of `features`.
    ///
    /// # Errors
    /// When they have not on one, or the kernel does not tell.
    pub fn expect_features(&mut self, features: &[Feature]) -> Result<()> {
        // A digit for each bit, the lowest first.
        let bits = self.run("cat /sys/class/net/eth0/device/features")?;
        for feature in features {
            ensure!(
                bits.as_bytes().get(*feature as usize) == Some(&b'1'),
                "the guest {} and its device have not agreed on {feature:?}: {bits}",
                self.name
            );
        }
        Ok(())
    }

    /// What `eth0` has counted until now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counters(&mut self) -> Result<Counters> {
        let printed = self.run(
            "cd /sys/class/net/eth0/statistics; for what in rx_bytes rx_packets tx_bytes tx_packets; do\n\
             cat $what; done",
        )?;
        let counts: Result<Vec<u64>, _> = printed.lines().map(str::parse).collect();
        let counts = counts.with_context(|| format!("in {printed:?}"))?;
        let [rx_bytes, rx_packets, tx_bytes, tx_packets] = counts[..] else {
            anyhow::bail!("not four numbers: {printed:?}")
        };
        Ok(Counters { rx_bytes, rx_packets, tx_bytes, tx_packets })
    }

    /// Waits until `address` answers.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn reach(&mut self, address: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("{address} to answer the guest {}", self.name), limit, || {
            let outcome = self.outcome(&format!("ping -n -c 1 -W 1 {address}"), Duration::from_secs(20))?;
            Ok(outcome.status == 0)
        })
    }

    /// Sends `count` pings of `bytes` to `address`, one after the other, and checks that each is answered.
    ///
    /// # Errors
    /// When one is lost.
    pub fn ping(&mut self, address: &str, count: u32, bytes: u32) -> Result<()> {
        // After the last of many, `ping` waits no longer than the slowest answer suggests. Where other programs keep the
        // processors busy that is too short; for the only one it waits as long as it is told.
        let script =
            format!("for i in $(seq {count}); do ping -n -c 1 -W 15 -s {bytes} {address} || exit; done");
        self.run_within(&script, Duration::from_secs(90)).map(drop)
    }

    /// Starts a server of iperf3 for many clients, which stays, and waits until it listens. The guest needs the
    /// host's `iperf3`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve_iperf3(&mut self) -> Result<()> {
        self.run(
            "iperf3 --server >/tmp/iperf3 2>&1 &\n\
             until netstat -l -t -n | grep -q :5201; do sleep 0.1; done",
        )
        .map(drop)
    }

    /// Sends some MiB by TCP to iperf3's server at `address`, or has it send them. The guest needs the host's `iperf3`.
    ///
    /// It asks for an amount and not for a time: where other programs keep the processors busy, a second may be one in
    /// which TCP waits for its timers.
    ///
    /// # Errors
    /// When they do not arrive within a minute and a half, which a working link takes a fraction of a second for.
    pub fn iperf3_tcp(&mut self, address: &str, mib: u32, reverse: bool) -> Result<()> {
        let printed = self.iperf3_client(address, reverse, &format!("--bytes {mib}M"))?;
        let report: serde_json::Value = serde_json::from_str(&printed).context("iperf3's report")?;
        let received = report["end"]["sum_received"]["bytes"].as_u64();
        let received = received.with_context(|| format!("iperf3 reports no bytes:\n{printed}"))?;
        // What is under way when the last byte has been sent is not waited for.
        ensure!(received >> 20 >= u64::from(mib / 2), "{received} bytes of {mib} MiB arrived:\n{printed}");
        Ok(())
    }

    /// Runs iperf3 over UDP, for a second and not fast, to the server at `address`, or from it; how many of a hundred
    /// datagrams were lost. The guest needs the host's `iperf3`.
    ///
    /// # Errors
    /// When it fails, or reports no figure.
    pub fn iperf3_udp(&mut self, address: &str, reverse: bool) -> Result<f64> {
        let printed = self.iperf3_client(address, reverse, "--udp --time 1 --bitrate 2M --length 1000")?;
        let report: serde_json::Value = serde_json::from_str(&printed).context("iperf3's report")?;
        let lost = report["end"]["sum"]["lost_percent"].as_f64();
        lost.with_context(|| format!("iperf3 reports no loss:\n{printed}"))
    }

    fn iperf3_client(&mut self, address: &str, reverse: bool, options: &str) -> Result<String> {
        let reverse = if reverse { "--reverse" } else { "" };
        let script = format!("iperf3 --json --interval 0 --client {address} {reverse} {options}");
        self.run_within(&script, Duration::from_secs(90))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_what_was_counted_since() {
        let before = Counters { rx_bytes: 100, rx_packets: 1, tx_bytes: 7, tx_packets: 7 };
        let after = Counters { rx_bytes: 3100, rx_packets: 3, tx_bytes: 7, tx_packets: 7 };
        let since = after.since(&before);
        assert_eq!((since.mean_received(), since.mean_sent()), (1500, 0));
    }
}
