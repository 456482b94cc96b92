//! What a program shows while it runs and when it ends.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use crossterm::cursor::MoveToPreviousLine;
use crossterm::queue;
use crossterm::terminal::{Clear, ClearType};
use wirerate_eal::{Clock, StopToken};
use wirerate_mempool::Counts;
use wirerate_pmd::pipeline::{Part, busy_cycles};
use wirerate_pmd::port::{Counters, PortStats, Started};
use wirerate_pmd::{MbufPool, Port};

use crate::say;
use crate::work::Share;

/// Packets a second that a 10 Gb/s line carries at most: 64-byte frames with preamble and gap (IEEE 802.3).
pub const LINE_RATE: f64 = 10e9 / ((64 + 8 + 12) * 8) as f64;

/// Prints the registers of a port's device.
pub fn print_registers<S>(port: &Port<S>) {
    let registers = port.registers();
    if registers.is_empty() {
        say!("Port {}: {} has no registers to show", port.id(), port.name());
    }
    for register in registers {
        say!("Port {}: {:#07x} {} = {:#010x}", port.id(), register.offset, register.name, register.value);
    }
}

/// A block of text that takes the place of the one before on a terminal, and follows it in a pipe.
#[derive(Debug)]
pub struct Live {
    terminal: bool,
    height: u16,
}

impl Live {
    /// For standard output.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: stdout().is_terminal(), height: 0 }
    }

    /// Whether blocks replace each other.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Shows `block`. A reader that has gone away is no reason to stop forwarding, so errors are ignored.
    pub fn show(&mut self, block: &str) {
        let mut out = stdout().lock();
        if self.terminal && self.height > 0 {
            let _ = queue!(out, MoveToPreviousLine(self.height), Clear(ClearType::FromCursorDown));
        }
        let _ = writeln!(out, "{block}").and_then(|()| out.flush());
        self.height = block.lines().count() as u16;
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

/// How a program shows what its ports do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A table on a terminal, a line in a pipe.
    Table,
    /// As testpmd's `show port stats all`.
    NicStatistics,
}

/// What the ports of a program do from one look to the next.
#[derive(Debug)]
pub struct Watch {
    style: Style,
    begun: Instant,
    ended: Option<Instant>,
    looked: Instant,
    before: Vec<PortStats>,
    /// Whether each port's link was up when it was looked at last, and when that was.
    links: (Vec<bool>, Instant),
}

impl Watch {
    /// Begins now.
    #[must_use]
    pub fn new(style: Style, ports: &[Port<Started>]) -> Self {
        let now = Instant::now();
        let before = ports.iter().map(Port::stats).collect();
        let links = (ports.iter().map(|port| port.link().up).collect(), now);
        Self { style, begun: now, ended: None, looked: now, before, links }
    }

    /// Time since the beginning, or from there to the end.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).duration_since(self.begun)
    }

    /// Shows what happens every `period` seconds (0 for never), until the end is requested, `limit` seconds are
    /// over, or `done` is true; then requests the end.
    pub fn run(
        &mut self,
        ports: &[Port<Started>],
        stop: &StopToken,
        period: u64,
        limit: Option<f64>,
        done: impl Fn() -> bool,
    ) {
        const LOOK: Duration = Duration::from_millis(20);
        const LINKS: Duration = Duration::from_millis(200);
        let mut live = Live::new();
        let limit = limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        while !done() && limit.is_none_or(|limit| self.elapsed() < limit) {
            let left = limit.map_or(LOOK, |limit| limit.saturating_sub(self.elapsed()).min(LOOK));
            if stop.wait_timeout(left) {
                break;
            }
            // The table on a terminal has them.
            if !live.is_terminal() && self.links.1.elapsed() >= LINKS {
                self.say_links(ports);
            }
            if period > 0 && self.looked.elapsed() >= Duration::from_secs(period) {
                live.show(&self.look(ports, live.is_terminal()));
            }
        }
        self.ended = Some(Instant::now());
        stop.request();
    }

    /// Says which links have gone up or down since the last time.
    fn say_links(&mut self, ports: &[Port<Started>]) {
        let (were_up, looked) = &mut self.links;
        *looked = Instant::now();
        for (port, was_up) in ports.iter().zip(were_up) {
            let link = port.link();
            if std::mem::replace(was_up, link.up) != link.up {
                say!("port {}: {}, link {link}", port.id(), port.name());
            }
        }
    }

    /// A table of what happened since the last look, for a terminal, or one line of it, for a pipe.
    pub fn look(&mut self, ports: &[Port<Started>], terminal: bool) -> String {
        let seconds = self.looked.elapsed().as_secs_f64().max(1e-9);
        self.looked = Instant::now();
        let now: Vec<PortStats> = ports.iter().map(Port::stats).collect();
        let rates: Vec<[f64; 4]> = now.iter().zip(&self.before).map(|(n, b)| rates(n, b, seconds)).collect();
        let text = if self.style == Style::NicStatistics {
            nic_statistics(ports, &now, &rates)
        } else if terminal {
            self.table(ports, &now, &rates)
        } else {
            let sum = |column: usize| rates.iter().map(|rates| rates[column]).sum::<f64>();
            let dropped: u64 = ports.iter().map(dropped).sum();
            format!(
                "{:>5.0} s  rx {:.3} Mpps  tx {:.3} Mpps  rx {:.1} Mb/s  tx {:.1} Mb/s  dropped {dropped}",
                self.elapsed().as_secs_f64(),
                sum(0),
                sum(1),
                sum(2),
                sum(3),
            )
        };
        self.before = now;
        text
    }

    fn table(&self, ports: &[Port<Started>], now: &[PortStats], rates: &[[f64; 4]]) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "port", "link", "rx Mpps", "tx Mpps", "rx Mb/s", "tx Mb/s", "received", "sent", "dropped",
        ]);
        for ((port, stats), [rx, tx, rx_mb, tx_mb]) in ports.iter().zip(now).zip(rates) {
            table.add_row([
                format!("{} {}", port.id(), port.name()),
                if port.link().up { "up".to_owned() } else { "down".to_owned() },
                format!("{rx:.3}"),
                format!("{tx:.3}"),
                format!("{rx_mb:.1}"),
                format!("{tx_mb:.1}"),
                stats.ipackets.to_string(),
                stats.opackets.to_string(),
                dropped(port).to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n{:.0} s; Ctrl-C ends", self.elapsed().as_secs_f64())
    }
}

/// Received and sent Mpps, received and sent Mb/s.
fn rates(now: &PortStats, before: &PortStats, seconds: f64) -> [f64; 4] {
    let rate = |now: u64, before: u64, unit: f64| now.saturating_sub(before) as f64 * unit / seconds / 1e6;
    [
        rate(now.ipackets, before.ipackets, 1.0),
        rate(now.opackets, before.opackets, 1.0),
        rate(now.ibytes, before.ibytes, 8.0),
        rate(now.obytes, before.obytes, 8.0),
    ]
}

/// The ports' statistics as testpmd prints them.
fn nic_statistics(ports: &[Port<Started>], now: &[PortStats], rates: &[[f64; 4]]) -> String {
    let mut text = String::from("Port statistics ====================================");
    for ((port, stats), [rx, tx, rx_mb, tx_mb]) in ports.iter().zip(now).zip(rates) {
        let id = port.id();
        let _ = write!(
            text,
            "
  {hashes} NIC statistics for port {id:<2} {hashes}
  RX-packets: {:<10} RX-missed: {:<10} RX-bytes:  {}
  RX-errors: {}
  RX-nombuf:  {:<10}
  TX-packets: {:<10} TX-errors: {:<10} TX-bytes:  {}

  Throughput (since last show)
  Rx-pps: {:>12.0}          Rx-bps: {:>12.0}
  Tx-pps: {:>12.0}          Tx-bps: {:>12.0}
  {hashes}{}{hashes}",
            stats.ipackets,
            stats.imissed,
            stats.ibytes,
            stats.ierrors,
            stats.rx_nombuf,
            stats.opackets,
            stats.oerrors,
            stats.obytes,
            rx * 1e6,
            rx_mb * 1e6,
            tx * 1e6,
            tx_mb * 1e6,
            "#".repeat(29),
            hashes = "#".repeat(24),
        );
    }
    text
}

/// Prints what went through each port and through all, as testpmd does when it stops.
pub fn print_forward_statistics(ports: &[Port<Started>], stages: &[Part], elapsed: Duration) {
    let mut all = [0; 4];
    let rows = |[rx, rx_dropped, tx, tx_dropped]: [u64; 4]| {
        format!(
            "  RX-packets: {rx:<14} RX-dropped: {rx_dropped:<13} RX-total: {}\n  \
             TX-packets: {tx:<14} TX-dropped: {tx_dropped:<13} TX-total: {}",
            rx + rx_dropped,
            tx + tx_dropped
        )
    };
    for port in ports {
        let stats = port.stats();
        let tx_dropped = port.tx_counters().iter().flat_map(|queue| queue.all_drops()).map(|(_, n)| n).sum();
        let row = [stats.ipackets, stats.imissed + stats.rx_nombuf, stats.opackets, tx_dropped];
        all.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        let rule = "-".repeat(22);
        say!("\n  {rule} Forward statistics for port {:<2} {rule}\n{}", port.id(), rows(row));
        say!("  {}", "-".repeat(76));
    }
    let rule = "+".repeat(15);
    say!("\n  {rule} Accumulated forward statistics for all ports{rule}\n{}", rows(all));
    say!("  {}\n", "+".repeat(76));
    print_drops(ports, stages);
    let seconds = elapsed.as_secs_f64().max(1e-9);
    say!(
        "Average: received {:.3} Mpps, sent {:.3} Mpps, over {seconds:.2} s",
        all[0] as f64 / seconds / 1e6,
        all[2] as f64 / seconds / 1e6
    );
}

/// Prints the cycles that a packet cost in bursts that had packets, as testpmd's `--record-core-cycles` does.
pub fn print_cycles(ports: &[Port<Started>], parts: &[Part], clock: &Clock) {
    let cycles = busy_cycles(parts);
    let sum = |what: fn(&PortStats) -> u64| ports.iter().map(|port| what(&port.stats())).sum::<u64>();
    let (direction, packets) = match sum(|stats| stats.ipackets) {
        0 => ("TX", sum(|stats| stats.opackets)),
        received => ("RX", received),
    };
    say!(
        "  CPU cycles/packet={:.2} (busy cycles={cycles} / total {direction} packets={packets}) at {:.0} MHz Clock",
        cycles as f64 / packets.max(1) as f64,
        clock.hz() as f64 / 1e6
    );
    for part in parts {
        let (packets, cycles) = (part.counters.packets(), part.counters.cycles());
        if packets > 0 {
            say!(
                "    {:<10} {:.2} cycles/packet over {packets} packets",
                part.name,
                cycles as f64 / packets as f64
            );
        }
    }
}

/// Prints what each lcore did with its time.
pub fn print_shares(shares: &[(u32, Share)], clock: &Clock, elapsed: Duration) {
    for (lcore, share) in shares {
        say!("lcore {lcore}: {}", share.told(clock, elapsed));
    }
}

/// All that a port dropped, for whatever reason, and what its device missed.
fn dropped(port: &Port<Started>) -> u64 {
    let counted = |queues: &[Arc<Counters>]| -> u64 {
        queues.iter().flat_map(|queue| queue.all_drops()).map(|(_, count)| count).sum()
    };
    counted(port.rx_counters()) + counted(port.tx_counters()) + port.device_missed()
}

/// Prints what each port did, and each drop by its reason.
pub fn print_ports(ports: &[Port<Started>], stages: &[Part]) {
    for port in ports {
        let stats = port.stats();
        say!(
            "port {}: received {} sent {} dropped {}",
            port.id(),
            stats.ipackets,
            stats.opackets,
            dropped(port)
        );
    }
    print_drops(ports, stages);
}

/// Prints each drop of ports and stages by its reason.
fn print_drops(ports: &[Port<Started>], stages: &[Part]) {
    for port in ports {
        for (reason, count) in
            sum_by_reason(port.rx_counters().iter().chain(port.tx_counters()).map(AsRef::as_ref))
        {
            say!("drop port {} {reason}: {count}", port.id());
        }
        if port.device_missed() > 0 {
            say!("drop port {} rx_missed_by_device: {}", port.id(), port.device_missed());
        }
    }
    for part in stages {
        for (reason, count) in part.counters.all_drops() {
            say!("drop stage {} {}: {count}", part.name, reason.name());
        }
    }
}

#[expect(single_use_lifetimes, reason = "an elided lifetime in an argument of this form is not stable")]
fn sum_by_reason<'a>(queues: impl Iterator<Item = &'a Counters>) -> Vec<(&'static str, u64)> {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for (reason, count) in queues.flat_map(|queue| queue.all_drops()) {
        match sums.iter_mut().find(|(name, _)| *name == reason.name()) {
            Some((_, sum)) => *sum += count,
            None => sums.push((reason.name(), count)),
        }
    }
    sums
}

/// `rate: ...`: what was forwarded, what a packet cost, and how that compares with a 10 Gb/s line.
#[must_use]
pub fn rate(packets: u64, elapsed: Duration, busy_cycles: u64) -> String {
    let mpps = packets as f64 / elapsed.as_secs_f64().max(1e-9) / 1e6;
    let cycles = busy_cycles as f64 / packets.max(1) as f64;
    let share = mpps * 1e6 / LINE_RATE * 100.0;
    format!("rate: {mpps:.3} Mpps, {cycles:.1} cycles/packet, {share:.1} % of 14.88 Mpps")
}

/// The line that says where a pool's mbufs are.
#[must_use]
pub fn balance(counts: &Counts) -> String {
    format!(
        "pool mbufs: {} = {} free + {} cached + {} in use",
        counts.size, counts.free, counts.cached, counts.in_use
    )
}

/// Prints the pool's balance once every queue is gone, and says what did not come home.
///
/// # Errors
/// When an mbuf is still in use, or is free twice or not at all.
pub fn print_balance(pool: &MbufPool) -> Result<(), crate::program::Failed> {
    let counts = pool.counts();
    say!("{}", balance(&counts));
    if counts.in_use != 0 {
        return Err(crate::program::Failed(format!("{} mbufs never came home", counts.in_use)));
    }
    pool.audit().map_err(|error| crate::program::Failed(error.to_string()))
}
