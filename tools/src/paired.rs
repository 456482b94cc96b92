//! Two sides that take turns, and what comes of it.
#![forbid(unsafe_code)]

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

/// What one run of one side gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// The rate, in the comparison's unit; more is better.
    pub rate: f64,
    /// TSC cycles for each packet, where the side counts them; less is better.
    pub cycles: Option<f64>,
}

/// One kind of work on both sides.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What the work is.
    pub name: String,
    /// What `Figures::rate` counts: `Mpps`, `Gb/s`.
    pub unit: &'static str,
    /// Wirerate's runs.
    pub ours: Vec<Figures>,
    /// The peer's, run by run beside them; empty where the peer cannot do the same.
    pub theirs: Vec<Figures>,
}

impl Comparison {
    /// Runs both sides `rounds` times in turns; which goes first changes from round to round.
    ///
    /// # Errors
    /// The first error of a side.
    pub fn measure(
        name: impl Into<String>,
        unit: &'static str,
        rounds: u32,
        ours: impl FnMut() -> Result<Figures>,
        theirs: Option<impl FnMut() -> Result<Figures>>,
    ) -> Result<Self> {
        let (ours, theirs) = take_turns(rounds, ours, theirs)?;
        Ok(Self { name: name.into(), unit, ours, theirs })
    }

    /// The median of our rate over theirs, pair by pair; none without a peer.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        median(self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours.rate / theirs.rate))
    }

    /// All figures, for a file.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let side = |runs: &[Figures]| {
            serde_json::json!({
                "median": median(runs.iter().map(|run| run.rate)),
                "median_cycles": median(runs.iter().filter_map(|run| run.cycles)),
                "runs": runs.iter().map(|run| run.rate).collect::<Vec<_>>(),
                "cycles": runs.iter().map(|run| run.cycles).collect::<Vec<_>>(),
            })
        };
        serde_json::json!({
            "name": self.name,
            "unit": self.unit,
            "wirerate": side(&self.ours),
            "peer": side(&self.theirs),
            "ratio": self.ratio(),
        })
    }
}

/// Runs both sides `rounds` times in turns; which goes first changes from round to round, and the first round is
/// begun by `ours`. Without `theirs`, there are no runs of theirs.
///
/// # Errors
/// The first error of a side.
pub fn take_turns<T>(
    rounds: u32,
    mut ours: impl FnMut() -> Result<T>,
    mut theirs: Option<impl FnMut() -> Result<T>>,
) -> Result<(Vec<T>, Vec<T>)> {
    let mut runs = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let first = round % 2 == 0;
        if first {
            runs.0.push(ours()?);
        }
        if let Some(theirs) = &mut theirs {
            runs.1.push(theirs()?);
        }
        if !first {
            runs.0.push(ours()?);
        }
    }
    Ok(runs)
}

/// The middle value; the mean of the two middle ones of an even number; none of none.
#[must_use]
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The comparisons, a row each.
#[must_use]
pub fn table(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["work", "unit", "wirerate", "peer", "ratio", "pairs", "cycles/packet", "peer's"]);
    let number =
        |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    for work in comparisons {
        let rate = |runs: &[Figures]| number(median(runs.iter().map(|run| run.rate)), 2);
        let cycles = |runs: &[Figures]| number(median(runs.iter().filter_map(|run| run.cycles)), 1);
        let mut ratios: Vec<f64> = work.ours.iter().zip(&work.theirs).map(|(a, b)| a.rate / b.rate).collect();
        ratios.sort_by(f64::total_cmp);
        let spread = match ratios[..] {
            [least, .., most] => format!("{least:.2} to {most:.2}"),
            _ => "-".into(),
        };
        table.add_row([
            work.name.clone(),
            work.unit.into(),
            rate(&work.ours),
            rate(&work.theirs),
            number(work.ratio(), 2),
            spread,
            cycles(&work.ours),
            cycles(&work.theirs),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }

    #[test]
    fn sides_take_turns_and_pairs_are_compared() {
        let order = std::cell::RefCell::new(String::new());
        let ours = || {
            order.borrow_mut().push('o');
            Ok(Figures { rate: 30.0, cycles: None })
        };
        let theirs = || {
            order.borrow_mut().push('t');
            Ok(Figures { rate: 20.0, cycles: Some(1.0) })
        };
        let comparison = Comparison::measure("x", "Mpps", 3, ours, Some(theirs)).unwrap();
        assert_eq!(*order.borrow(), "ottoot");
        assert_eq!(comparison.ratio(), Some(1.5));
        let alone = Comparison::measure("x", "Mpps", 1, ours, None::<fn() -> Result<Figures>>).unwrap();
        assert_eq!(alone.ratio(), None);
    }
}
