//! Reading what the bundled programs print at their end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// What l2fwd prints at its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    /// The ports by their numbers.
    pub ports: BTreeMap<u16, Port>,
    /// Drops by where and why: `port 0 rx_nombuf`.
    pub drops: BTreeMap<String, u64>,
    /// Where the mbufs are.
    pub pool: Balance,
    /// How fast it was.
    pub rate: Rate,
}

/// `port 0: received 123 sent 456 dropped 7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Packets that came in.
    pub received: u64,
    /// Packets that went out.
    pub sent: u64,
    /// Packets that did neither arrive nor leave whole.
    pub dropped: u64,
}

/// `pool mbufs: 8192 = 7936 free + 256 cached + 0 in use`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Mbufs in the pool.
    pub size: u64,
    /// Those that every thread can take.
    pub free: u64,
    /// Those that a thread keeps at hand.
    pub cached: u64,
    /// Those that somebody has.
    pub in_use: u64,
}

/// `rate: 12.345 Mpps, 98.7 cycles/packet, 83.0 % of 14.88 Mpps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Million packets a second.
    pub mpps: f64,
    /// Cycles of the time stamp counter that a packet took.
    pub cycles: f64,
    /// Percent of 10 Gb/s in the shortest frames.
    pub share: f64,
}

impl Balance {
    /// Reads the line of the pool `mbufs`.
    ///
    /// # Errors
    /// When there is none, there are two, or it does not read as expected.
    pub fn read(stdout: &str) -> Result<Self> {
        let line = only_line(stdout, "pool mbufs: ")?;
        let (size, rest) = line.split_once(" = ").with_context(|| format!("no sum in {line:?}"))?;
        let parts: Vec<&str> = rest.split(" + ").collect();
        let [free, cached, in_use] = parts[..] else { anyhow::bail!("not three parts in {line:?}") };
        Ok(Self {
            size: number(size)?,
            free: number(free.strip_suffix(" free").context("no \"free\"")?)?,
            cached: number(cached.strip_suffix(" cached").context("no \"cached\"")?)?,
            in_use: number(in_use.strip_suffix(" in use").context("no \"in use\"")?)?,
        })
    }

    /// Checks that every mbuf is accounted for, and home.
    ///
    /// # Errors
    /// When one is not.
    pub fn check_home(&self) -> Result<()> {
        ensure!(
            self.free + self.cached + self.in_use == self.size,
            "the pool's parts are not its whole: {self:?}"
        );
        ensure!(self.in_use == 0, "mbufs never came home: {self:?}");
        ensure!(self.size > 0, "the pool is empty: {self:?}");
        Ok(())
    }
}

impl Totals {
    /// Reads l2fwd's last lines, and checks that all mbufs are home and the drops by reason are the drops.
    ///
    /// # Errors
    /// When a line is missing or does not read as expected, or a check fails.
    pub fn read(stdout: &str) -> Result<Self> {
        let mut ports = BTreeMap::new();
        let mut drops = BTreeMap::new();
        for line in stdout.lines() {
            if let Some(rest) = line.strip_prefix("port ")
                && let Some((id, counts)) = rest.split_once(": received ")
            {
                let port = Port::read(counts).with_context(|| format!("in {line:?}"))?;
                let before =
                    ports.insert(id.parse().with_context(|| format!("no number in {line:?}"))?, port);
                ensure!(before.is_none(), "the totals of port {id} are there twice");
            } else if let Some(rest) = line.strip_prefix("drop ") {
                let (what, count) = rest.split_once(": ").with_context(|| format!("no count in {line:?}"))?;
                ensure!(drops.insert(what.to_owned(), number(count)?).is_none(), "{what} is there twice");
            }
        }
        let pool = Balance::read(stdout)?;
        pool.check_home()?;
        let totals = Self { ports, drops, pool, rate: Rate::read(stdout)? };
        totals.check_drops()?;
        Ok(totals)
    }

    /// The counts of one port.
    ///
    /// # Errors
    /// When nothing was printed of it.
    pub fn port(&self, id: u16) -> Result<Port> {
        self.ports.get(&id).copied().with_context(|| format!("no totals of port {id} in {self:?}"))
    }

    /// What was dropped for a reason: `port 0 rx_nombuf`.
    #[must_use]
    pub fn drop_count(&self, what: &str) -> u64 {
        self.drops.get(what).copied().unwrap_or(0)
    }

    fn check_drops(&self) -> Result<()> {
        for (id, port) in &self.ports {
            let prefix = format!("port {id} ");
            let by_reason: u64 =
                self.drops.iter().filter(|(what, _)| what.starts_with(&prefix)).map(|(_, n)| n).sum();
            ensure!(
                by_reason == port.dropped,
                "port {id} dropped {} and gives reasons for {by_reason}: {:?}",
                port.dropped,
                self.drops
            );
        }
        ensure!(self.drops.values().all(|&count| count > 0), "a reason without a drop: {:?}", self.drops);
        Ok(())
    }
}

impl Port {
    fn read(counts: &str) -> Result<Self> {
        let (received, rest) = counts.split_once(" sent ").context("no \"sent\"")?;
        let (sent, dropped) = rest.split_once(" dropped ").context("no \"dropped\"")?;
        Ok(Self { received: number(received)?, sent: number(sent)?, dropped: number(dropped)? })
    }
}

impl Rate {
    fn read(stdout: &str) -> Result<Self> {
        let line = only_line(stdout, "rate: ")?;
        let read = || {
            let (mpps, rest) = line.split_once(" Mpps, ")?;
            let (cycles, share) = rest.split_once(" cycles/packet, ")?;
            let share = share.strip_suffix(" % of 14.88 Mpps")?;
            Some(Self { mpps: mpps.parse().ok()?, cycles: cycles.parse().ok()?, share: share.parse().ok()? })
        };
        let rate = read().with_context(|| format!("{line:?} reads differently"))?;
        // The share is that of the rate, as far as both are rounded.
        let share = rate.mpps / 14.880_952 * 100.0;
        ensure!((rate.share - share).abs() < 0.1, "{line:?}: the share is not that of the rate");
        Ok(rate)
    }
}

/// What testpmd prints of a port, or of all, under `Forward statistics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Packets that came in.
    pub rx_packets: u64,
    /// Packets that went out.
    pub tx_packets: u64,
}

/// Reads testpmd's forward statistics, of each port and accumulated (the last, without a number).
///
/// # Errors
/// When a block has not the lines that `dpdk-testpmd` prints.
pub fn forward_statistics(stdout: &str) -> Result<BTreeMap<Option<u16>, Forwarded>> {
    let mut blocks = BTreeMap::new();
    let mut lines = stdout.lines();
    while let Some(line) = lines.next() {
        let key = if let Some((_, rest)) = line.split_once(" Forward statistics for port ") {
            let number = rest.split_whitespace().next().with_context(|| format!("no number in {line:?}"))?;
            Some(number.parse().with_context(|| format!("no number in {line:?}"))?)
        } else if line.contains(" Accumulated forward statistics for all ports") {
            None
        } else {
            continue;
        };
        let (rx, tx) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let block =
            Forwarded { rx_packets: field(rx, "RX-packets:")?, tx_packets: field(tx, "TX-packets:")? };
        ensure!(blocks.insert(key, block).is_none(), "the statistics of {key:?} are there twice");
    }
    Ok(blocks)
}

/// Reads the number of testpmd's `CPU cycles/packet=`.
///
/// # Errors
/// When there is none.
pub fn cycles_per_packet(stdout: &str) -> Result<f64> {
    let (_, rest) = stdout.split_once("CPU cycles/packet=").context("no \"CPU cycles/packet=\"")?;
    let text = rest.split(' ').next().unwrap_or_default();
    text.parse().with_context(|| format!("{text:?} is no number"))
}

fn field(line: &str, name: &str) -> Result<u64> {
    let (_, rest) = line.split_once(name).with_context(|| format!("no {name} in {line:?}"))?;
    number(rest.split_whitespace().next().unwrap_or_default())
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

/// What follows `prefix` in the only line that begins with it.
fn only_line<'a>(stdout: &'a str, prefix: &str) -> Result<&'a str> {
    let mut lines = stdout.lines().filter_map(|line| line.strip_prefix(prefix));
    let line = lines.next().with_context(|| format!("no line begins with {prefix:?} in:\n{stdout}"))?;
    ensure!(lines.next().is_none(), "two lines begin with {prefix:?}");
    Ok(line)
}

/// Of how much of the time the first lcore slept, in percent, and how often: l2fwd's and testpmd's line
/// `lcore 0: busy 1.0 %, polling in vain 2.0 %, asleep 97.0 % (123 sleeps)`.
///
/// # Errors
/// When there is no such line, or its shares do not add up.
pub fn asleep(stdout: &str) -> Result<(f64, u64)> {
    let line =
        stdout.lines().find(|line| line.starts_with("lcore ")).context("no line of an lcore's time")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|other| *other == word);
        let value = at.and_then(|at| words.get(at + 1)).with_context(|| format!("no {word} in {line:?}"))?;
        value.parse::<f64>().with_context(|| format!("no number after {word} in {line:?}"))
    };
    let (busy, polling, asleep) = (after("busy")?, after("vain")?, after("asleep")?);
    ensure!((99.7..100.3).contains(&(busy + polling + asleep)), "the shares are not a whole: {line:?}");
    let sleeps = words.iter().find_map(|word| word.strip_prefix('(')?.parse().ok());
    Ok((asleep, sleeps.with_context(|| format!("no number of sleeps in {line:?}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
port 0: net_null0, MAC 02:00:00:00:00:00, link up
port 0: received 123 sent 456 dropped 7
drop port 0 rx_nombuf: 3
drop port 0 tx_full: 4
drop stage mac shared_bytes: 1
rate: 12.345 Mpps, 98.7 cycles/packet, 83.0 % of 14.88 Mpps
pool mbufs: 8192 = 7936 free + 256 cached + 0 in use
";

    #[test]
    fn totals_are_read() {
        let totals = Totals::read(GOOD).unwrap();
        assert_eq!(totals.port(0).unwrap(), Port { received: 123, sent: 456, dropped: 7 });
        assert!(totals.port(1).is_err());
        assert_eq!(totals.drop_count("stage mac shared_bytes"), 1);
        assert_eq!(totals.drop_count("port 1 rx_nombuf"), 0);
        assert_eq!(totals.pool, Balance { size: 8192, free: 7936, cached: 256, in_use: 0 });
    }

    #[test]
    fn wrong_sums_are_found() {
        let wrong = [
            ("256 cached", "255 cached"),
            ("256 cached + 0 in use", "255 cached + 1 in use"),
            ("rx_nombuf: 3", "rx_nombuf: 2"),
            ("shared_bytes: 1", "shared_bytes: 0"),
            ("83.0 %", "38.0 %"),
            ("rate: ", "speed: "),
            ("dropped 7", "lost 7"),
            ("pool mbufs", "pool other"),
        ];
        for (right, wrong) in wrong {
            assert!(GOOD.contains(right));
            assert!(Totals::read(&GOOD.replace(right, wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn statistics_of_testpmd_are_read() {
        let stdout = "
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 10             RX-dropped: 1             RX-total: 11
  TX-packets: 20             TX-dropped: 0             TX-total: 20
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 10             RX-dropped: 1             RX-total: 11
  TX-packets: 20             TX-dropped: 0             TX-total: 20
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

  CPU cycles/packet=72.50 (total cycles=1 / total RX packets=1) at 2100 MHz Clock
";
        let blocks = forward_statistics(stdout).unwrap();
        let expected = Forwarded { rx_packets: 10, tx_packets: 20 };
        assert_eq!(blocks, BTreeMap::from([(Some(0), expected), (None, expected)]));
        assert_eq!(cycles_per_packet(stdout).unwrap(), 72.5);
    }
}
