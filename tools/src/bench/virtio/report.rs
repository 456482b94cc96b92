//! What `wirerate bench virtio` prints and writes.

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use wirerate_tools::paired::median;

use super::link::{Figures, WARM_UP};
use super::side::{Player, Rings, Traffic};
use super::{best, cost, rate, ratios};

/// Packets a second that a 10 Gb/s line carries at most, in millions: what l2fwd is to forward on one core.
const GOAL: f64 = 14.88;

/// One pair of players, and the peer beside it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) traffic: Traffic,
    pub(super) rings: Rings,
    pub(super) players: [Player; 2],
    /// Runs of the pair; none in the row of the peer.
    pub(super) ours: Vec<Figures>,
    /// Runs of the peer, each next to the run of the same number.
    pub(super) theirs: Vec<Figures>,
    /// Why there are no figures.
    pub(super) failure: Option<String>,
}

impl Row {
    /// The ratio of the best seconds of all runs.
    fn ratio_of_best(&self) -> Option<f64> {
        Some(best(&self.ours)? / best(&self.theirs)?)
    }

    /// All figures, for a file.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let side = |runs: &[Figures]| {
            serde_json::json!({
                "median": rate(runs),
                "best": best(runs),
                "median_cycles": { "virtio": cost(runs, 0), "vhost": cost(runs, 1) },
                "runs": runs.iter().map(|run| run.rate).collect::<Vec<_>>(),
                "cycles": runs.iter().map(|run| run.cycles).collect::<Vec<_>>(),
                "shares": runs.iter().map(|run| run.share).collect::<Vec<_>>(),
            })
        };
        let ratios = ratios(&self.ours, &self.theirs);
        serde_json::json!({
            "name": self.name,
            "traffic": self.traffic.to_string(),
            "packed": self.rings.packed,
            "mergeable": self.rings.mergeable,
            "in_order": self.rings.in_order,
            "virtio": self.players[0].to_string(),
            "vhost": self.players[1].to_string(),
            "unit": "Mpps",
            "pair": side(&self.ours),
            "peer": side(&self.theirs),
            "ratio": median(ratios.iter().copied()),
            "spread": [ratios.first(), ratios.last()],
            "ratio_of_best": self.ratio_of_best(),
            "failure": self.failure,
        })
    }
}

/// The runs of l2fwd: Mpps, and cycles a packet.
#[derive(Debug)]
pub(super) struct Demonstration {
    pub(super) name: &'static str,
    pub(super) runs: Result<Vec<Forwarded>, String>,
}

/// One run of l2fwd.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Forwarded {
    /// The names of its ports.
    pub(super) ports: Vec<String>,
    /// Mpps that it sent.
    pub(super) rate: f64,
    /// TSC cycles that a packet cost, the start included.
    pub(super) cycles: f64,
}

impl Demonstration {
    pub(super) fn failure(&self) -> Option<&str> {
        self.runs.as_ref().err().map(String::as_str)
    }

    fn median(&self, figure: impl Fn(&Forwarded) -> f64) -> Option<f64> {
        median(self.runs.as_ref().into_iter().flatten().map(figure))
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        let runs = self.runs.as_ref().into_iter().flatten();
        serde_json::json!({
            "name": self.name,
            "ports": self.runs.as_ref().ok().and_then(|runs| Some(&runs.first()?.ports)),
            "unit": "Mpps",
            "median": self.median(|run| run.rate),
            "median_cycles": self.median(|run| run.cycles),
            "runs": runs.map(|run| run.rate).collect::<Vec<_>>(),
            "goal": GOAL,
            "failure": self.failure(),
        })
    }
}

/// Reads what l2fwd printed into a pipe: a line each second, and the totals at the end.
pub(super) fn read_l2fwd(output: &str) -> Result<Forwarded> {
    let mut ports = Vec::new();
    let mut seconds = Vec::new();
    let mut cycles = None;
    for line in output.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once(" Mpps  tx ") {
            let word = rest.split_whitespace().next().unwrap_or_default();
            seconds.push(word.parse::<f64>().with_context(|| format!("no rate in \"{line}\""))?);
        } else if line.starts_with("port ")
            && let Some((name, _)) = line.split_once(": ").and_then(|(_, rest)| rest.split_once(", MAC "))
        {
            ports.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("rate: ") {
            let word = rest.split(", ").nth(1).and_then(|cost| cost.strip_suffix(" cycles/packet"));
            cycles = word.and_then(|word| word.parse().ok());
        }
    }
    // The first has the start in it.
    let steady = seconds.iter().copied().skip(WARM_UP - 1);
    let rate = median(steady).with_context(|| format!("l2fwd reported only {} times", seconds.len()))?;
    ensure!(rate > 0.0, "l2fwd forwarded nothing");
    Ok(Forwarded { ports, rate, cycles: cycles.context("l2fwd told no cycles")? })
}

/// The rows, and l2fwd at the end.
pub(super) fn table(rows: &[Row], demonstration: Option<&Demonstration>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "virtio + vhost",
        "Mpps\n(best)",
        "DPDK\n(best)",
        "ratio",
        "pairs",
        "of best",
        "cycles,\nvirtio",
        "cycles,\nvhost",
        "DPDK\nvirtio",
        "DPDK\nvhost",
    ]);
    let number =
        |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let rates = |runs: &[Figures]| match (rate(runs), best(runs)) {
        (Some(rate), Some(best)) => format!("{rate:.2}\n({best:.2})"),
        _ => "-".into(),
    };
    for row in rows {
        if row.failure.is_some() {
            table.add_row([&row.name, "failed"]);
            continue;
        }
        let ratios = ratios(&row.ours, &row.theirs);
        let spread = match ratios[..] {
            [least, .., most] => format!("{least:.2} to {most:.2}"),
            _ => "-".into(),
        };
        table.add_row([
            row.name.clone(),
            rates(&row.ours),
            rates(&row.theirs),
            number(median(ratios.iter().copied()), 2),
            spread,
            number(row.ratio_of_best(), 2),
            number(cost(&row.ours, 0), 1),
            number(cost(&row.ours, 1), 1),
            number(cost(&row.theirs, 0), 1),
            number(cost(&row.theirs, 1), 1),
        ]);
    }
    if let Some(one) = demonstration {
        let ports = one.runs.as_ref().ok().and_then(|runs| Some(runs.first()?.ports.join(", ")));
        let rate = one.median(|run| run.rate);
        table.add_row([
            format!("{}\n({}; goal {GOAL} Mpps)", one.name, ports.unwrap_or_else(|| "failed".into())),
            number(rate, 2),
            "-".into(),
            number(rate.map(|rate| rate / GOAL), 2),
            "of the goal".into(),
            "-".into(),
            number(one.median(|run| run.cycles), 1),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_l2fwd_is_read() {
        let output = "port 0: demo0, MAC 02:00:00:00:00:00, link up\nport 1: demo1, MAC 02:00:00:00:00:01, link up\n\
                      memory: 19.0 MiB\n    1 s  rx 1.000 Mpps  tx 0.500 Mpps  rx 1385.3 Mb/s  dropped 2112\n    \
                      2 s  rx 2.356 Mpps  tx 4.000 Mpps  rx 1206.5 Mb/s\n    3 s  rx 2.0 Mpps  tx 6.000 Mpps  rx 1.0 Mb/s\n\
                      port 0: received 3763456 sent 3761152 dropped 2720\n\
                      rate: 2.507 Mpps, 280.9 cycles/packet, 16.8 % of 14.88 Mpps\n";
        let ports = vec!["demo0".to_owned(), "demo1".to_owned()];
        assert_eq!(read_l2fwd(output).unwrap(), Forwarded { ports, rate: 5.0, cycles: 280.9 });
        assert!(read_l2fwd("").is_err());
    }

    #[test]
    fn rows_have_ratios_of_neighbours_and_failures_show() {
        let figures = |rate| Figures { rate, best: rate + 1.0, cycles: [Some(100.0), None], share: 1.0 };
        let row = Row {
            name: "a row".into(),
            traffic: Traffic::ToVirtio,
            rings: Rings { packed: true, mergeable: true, in_order: false },
            players: [Player::Ours, Player::Dpdk],
            ours: [10.0, 30.0, 8.0].map(figures).to_vec(),
            theirs: [5.0, 10.0, 8.0].map(figures).to_vec(),
            failure: None,
        };
        let json = row.to_json();
        assert_eq!((&json["ratio"], &json["spread"]), (&2.0.into(), &serde_json::json!([1.0, 3.0])));
        assert_eq!((&json["pair"]["best"], &json["ratio_of_best"]), (&31.0.into(), &(31.0 / 11.0).into()));
        assert_eq!(json["pair"]["median_cycles"], serde_json::json!({ "virtio": 100.0, "vhost": null }));
        let failed = Row { ours: vec![], theirs: vec![], failure: Some("why".into()), ..row };
        assert_eq!(failed.to_json()["failure"], "why");
        assert!(table(&[failed], None).to_string().contains("failed"));
    }
}
