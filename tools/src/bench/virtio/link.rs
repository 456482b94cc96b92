//! One run: two programs with a socket between them, from the first start to the last end.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::run::{LOOK, Running};
use super::super::testpmd::{cycles, rates};
use super::side::{Player, Rings, Role, Setting, Side, Traffic};

/// Time for a program to start, and for packets to flow after that.
pub(super) const START: Duration = Duration::from_secs(60);
/// Seconds with packets that are not measured: the one in which they begin to flow, and one more.
pub(super) const WARM_UP: usize = 2;
/// A listening socket, in the flags of /proc/net/unix (the kernel's `__SO_ACCEPTCON`).
const LISTENS: &str = "00010000";

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    /// Mpps that the receiver saw.
    pub(super) rate: f64,
    /// Mpps of its best second, in which others used the processors least.
    pub(super) best: f64,
    /// TSC cycles a packet cost the virtio side and the vhost side, in bursts that had packets; none of a side that
    /// only sends, as the waiting for room would count there.
    pub(super) cycles: [Option<f64>; 2],
    /// What the side that had less of its processor had of it while it was measured, at most 1: what is missing, others
    /// took.
    pub(super) share: f64,
}

impl Figures {
    /// Whether others took so much of a processor that the figures say little.
    pub(super) fn is_disturbed(&self) -> bool {
        self.share < 0.95
    }
}

/// Who plays, and what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// The virtio side and the vhost side.
    pub(super) players: [Player; 2],
    pub(super) traffic: Traffic,
    pub(super) rings: Rings,
}

impl Link {
    /// Runs both programs until `seconds` seconds of steady flow have been measured.
    ///
    /// # Errors
    /// When a program ends early or too late, when no packets flow or they stop, or when `stopped` is set. Neither
    /// program, nor the socket, is left behind.
    pub(super) fn run(&self, setting: &Setting, seconds: usize, stopped: &AtomicBool) -> Result<Figures> {
        // The name says whose it is, for who clears up after a process that was killed.
        let prefix = format!("wirerate-{}-virtio-", std::process::id());
        let folder =
            tempfile::Builder::new().prefix(&prefix).tempdir().context("making a folder for the socket")?;
        let folder = folder.path();
        fs::write(Side::first_commands(folder), Side::first_commands_text())
            .context("writing DPDK's commands")?;
        let start = |player, role| {
            let side = Side { player, role, traffic: self.traffic, rings: self.rings, folder };
            Running::start(&mut side.command(setting))
        };
        let go_on = || {
            std::thread::sleep(LOOK);
            ensure!(!stopped.load(Ordering::Relaxed), "stopped by a signal");
            Ok(())
        };

        // The vhost side listens, so it is first.
        let mut vhost = start(self.players[1], Role::Vhost)?;
        let socket = Side::socket(folder);
        let begun = Instant::now();
        while !listens(&socket) {
            go_on()?;
            vhost.expect_running()?;
            ensure!(begun.elapsed() < START, "the vhost side did not listen within {} s", START.as_secs());
        }
        let mut virtio = start(self.players[0], Role::Virtio)?;

        let begun = Instant::now();
        let limit = START + Duration::from_secs((WARM_UP + seconds) as u64 * 2);
        // When the measured seconds began, and what both programs had run until then.
        let mut from = None;
        let (measured, share) = loop {
            go_on()?;
            virtio.expect_running()?;
            vhost.expect_running()?;
            let receiver = match self.traffic.receiver() {
                Role::Virtio => &virtio,
                Role::Vhost => &vhost,
            };
            let flow = flow(&receiver.printed())?;
            if flow.len() >= WARM_UP && from.is_none() {
                from = Some((Instant::now(), [virtio.cpu_time(), vhost.cpu_time()]));
            }
            // Where others take all of a processor, nothing may flow for seconds; but something has to be measured.
            let some = flow.iter().skip(WARM_UP).any(|&rate| rate > 0.0);
            if let Some((when, before)) = from
                && flow.len() >= WARM_UP + seconds
                && some
            {
                let whole = when.elapsed().as_secs_f64();
                let had = [virtio.cpu_time(), vhost.cpu_time()].into_iter().zip(before);
                // Polling never rests, so a side that has its processor to itself runs all the time.
                let shares = had
                    .filter_map(|(now, before)| Some(now?.saturating_sub(before?).as_secs_f64() / whole))
                    .fold(1.0, f64::min);
                break (flow, shares);
            }
            let waited = begun.elapsed();
            ensure!(waited < START || !flow.is_empty(), "no packets flowed within {} s", START.as_secs());
            ensure!(
                waited < limit,
                "packets stopped to flow: {} reports in {} s, Mpps {flow:?}",
                flow.len(),
                limit.as_secs()
            );
        };
        let measured = &measured[WARM_UP..];
        let rate = measured.iter().sum::<f64>() / measured.len().max(1) as f64;

        let best = measured.iter().copied().fold(rate, f64::max);

        let cost = |role, output: &str| cycles(output).filter(|_| !self.traffic.only_sends(role));
        // The one that connects goes first, so that the other sees what it would see of a guest.
        let virtio = cost(Role::Virtio, &virtio.end()?);
        let vhost = cost(Role::Vhost, &vhost.end()?);
        Ok(Figures { rate, best, cycles: [virtio, vhost], share })
    }
}

/// The rates of the seconds that are told in full, from the first with packets on.
fn flow(output: &str) -> Result<Vec<f64>> {
    // What is received is told before what is sent: a report is whole when that has begun.
    let whole = output.rfind("Tx-pps:").map_or("", |end| &output[..end]);
    Ok(rates(whole, false)?.into_iter().skip_while(|&rate| rate == 0.0).collect())
}

/// Whether a process listens on the socket, as the kernel tells. Connecting would tell as well, and disturb.
fn listens(socket: &Path) -> bool {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let Some(socket) = socket.to_str() else { return false };
    table.lines().any(|line| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(LISTENS) && line.ends_with(&format!(" {socket}"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn only_whole_reports_with_packets_count() {
        let report =
            |rate: u32| format!("Port statistics ====\n  Rx-pps:  {rate}000000  Rx-bps: 1\n  Tx-pps: 1\n");
        let reports = [0, 0, 3, 0, 5].map(report).concat();
        assert_eq!(flow(&reports).unwrap(), [3.0, 0.0, 5.0]);
        assert_eq!(flow(&(reports + "Port statistics ====\n  Rx-pps:  70")).unwrap(), [3.0, 0.0, 5.0]);
        assert_eq!(flow("").unwrap(), [0.0; 0]);
    }

    #[test]
    fn a_socket_is_seen_when_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a socket");
        assert!(!listens(&socket));
        let other = folder.path().join("other");
        let _bound = UnixDatagram::bind(&other).unwrap();
        assert!(!listens(&other), "it is bound, and nobody listens");
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(listens(&socket));
        drop(listener);
        assert!(!listens(&socket), "a path that a dead process left");
    }
}
