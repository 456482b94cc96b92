//! Several contestants that take turns at several works: every figure, medians, ratios, tables and JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use wirerate_tools::contest::{Contestant, Work};
use wirerate_tools::paired::median;

/// A work by its name, in bulks of several sizes.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) work: Work,
    pub(super) bulks: &'static [usize],
}

/// What came of a work.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) setting: Setting,
    /// Those who have done it, in their order.
    pub(super) names: Vec<String>,
    /// By name and bulk: cycles for each object, round by round.
    runs: BTreeMap<(String, usize), Vec<f64>>,
}

/// Cycles of one over another's, round by round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// Lets all contestants do each work in each round; who begins changes from round to round.
///
/// # Errors
/// The first error of a contestant.
pub(super) fn measure(
    contestants: &mut [Box<dyn Contestant>],
    settings: &[Setting],
    rounds: u32,
    ms: u32,
) -> Result<Vec<Standing>> {
    let standing =
        |setting: &Setting| Standing { setting: setting.clone(), names: Vec::new(), runs: BTreeMap::new() };
    let mut standings: Vec<Standing> = settings.iter().map(standing).collect();
    let count = contestants.len();
    for round in 0..rounds as usize {
        for standing in &mut standings {
            for &bulk in standing.setting.bulks {
                for turn in 0..count {
                    let contestant = &mut contestants[(turn + round) % count];
                    let cycles = contestant.run(standing.setting.work, bulk, ms).with_context(|| {
                        format!("{} at \"{}\" in bulks of {bulk}", contestant.name(), standing.setting.name)
                    })?;
                    if let Some(cycles) = cycles {
                        let key = (contestant.name().to_owned(), bulk);
                        standing.runs.entry(key).or_default().push(cycles);
                    }
                }
            }
        }
    }
    for standing in &mut standings {
        let took_part =
            |name: &String| standing.setting.bulks.iter().any(|&bulk| !standing.runs(name, bulk).is_empty());
        let names = contestants.iter().map(|contestant| contestant.name().to_owned());
        standing.names = names.filter(took_part).collect();
    }
    Ok(standings)
}

impl Standing {
    fn runs(&self, name: &str, bulk: usize) -> &[f64] {
        self.runs.get(&(name.to_owned(), bulk)).map_or(&[], Vec::as_slice)
    }

    /// The median of the rounds.
    pub(super) fn median(&self, name: &str, bulk: usize) -> Option<f64> {
        median(self.runs(name, bulk).iter().copied())
    }

    /// `peer`'s cycles over those of `ours`: above 1, `ours` is faster.
    pub(super) fn ratio(&self, peer: &str, ours: &str, bulk: usize) -> Option<Ratio> {
        let ratios =
            || self.runs(peer, bulk).iter().zip(self.runs(ours, bulk)).map(|(peer, ours)| peer / ours);
        Some(Ratio {
            median: median(ratios())?,
            least: ratios().reduce(f64::min)?,
            most: ratios().reduce(f64::max)?,
        })
    }

    /// Those of `pairs`, as (peer, ours), of which both took part.
    fn pairs<'a>(&self, pairs: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let there = |name: &str| self.names.iter().any(|one| one == name);
        pairs.iter().copied().filter(move |(peer, ours)| there(peer) && there(ours))
    }

    /// A row for each contestant, and one for each ratio of `pairs`.
    pub(super) fn table(&self, pairs: &[(&str, &str)]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        let bulks = self.setting.bulks;
        let row = |name: String, cell: &dyn Fn(usize) -> Option<String>| {
            let cells = bulks.iter().map(|&bulk| cell(bulk).unwrap_or_else(|| "-".into()));
            std::iter::once(name).chain(cells).collect::<Vec<_>>()
        };
        table.set_header(row(self.setting.name.into(), &|bulk| Some(format!("n = {bulk}"))));
        for name in &self.names {
            table.add_row(row(name.clone(), &|bulk| Some(format!("{:.2}", self.median(name, bulk)?))));
        }
        for (peer, ours) in self.pairs(pairs) {
            table.add_row(row(format!("{peer} / {ours}"), &|bulk| {
                let Ratio { median, least, most } = self.ratio(peer, ours, bulk)?;
                Some(format!("{median:.2} ({least:.2}-{most:.2})"))
            }));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// All figures, for a file.
    pub(super) fn to_json(&self, pairs: &[(&str, &str)]) -> Value {
        let bulks = self.setting.bulks;
        let contestants = self.names.iter().map(|name| {
            let figures = bulks.iter().map(|&bulk| {
                json!({ "bulk": bulk, "median": self.median(name, bulk), "runs": self.runs(name, bulk) })
            });
            json!({ "name": name, "cycles": figures.collect::<Vec<_>>() })
        });
        let ratios = self.pairs(pairs).map(|(peer, ours)| {
            let figures = bulks.iter().filter_map(|&bulk| {
                let Ratio { median, least, most } = self.ratio(peer, ours, bulk)?;
                Some(json!({ "bulk": bulk, "median": median, "least": least, "most": most }))
            });
            json!({ "peer": peer, "ours": ours, "ratio": figures.collect::<Vec<_>>() })
        });
        json!({
            "name": self.setting.name,
            "contestants": contestants.collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
        })
    }
}

/// Those whose name has `only` in it, and that this machine has CPUs for; says which are left out for lack of
/// CPUs.
///
/// # Errors
/// When none is left.
pub(super) fn choose(all: &[Setting], only: Option<&str>, cpus: usize) -> Result<Vec<Setting>> {
    let named: Vec<Setting> =
        all.iter().filter(|setting| only.is_none_or(|only| setting.name.contains(only))).cloned().collect();
    ensure!(!named.is_empty(), "no work has {:?} in its name", only.unwrap_or_default());
    let (chosen, out): (Vec<_>, Vec<_>) = named.into_iter().partition(|one| one.work.cpus() <= cpus);
    for setting in out {
        println!(
            "{}: left out, as it needs {} CPUs, and this process may use {cpus}",
            setting.name,
            setting.work.cpus()
        );
    }
    ensure!(!chosen.is_empty(), "no work is left for {cpus} CPUs");
    Ok(chosen)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// One that takes so many cycles for each object more from run to run, and notes that it was called.
    struct Known {
        name: &'static str,
        cycles: f64,
        pairs: bool,
        calls: Rc<RefCell<String>>,
    }

    impl Contestant for Known {
        fn name(&self) -> &str {
            self.name
        }

        fn run(&mut self, work: Work, bulk: usize, _: u32) -> Result<Option<f64>> {
            self.calls.borrow_mut().push_str(&self.name[..1]);
            self.cycles += 1.0;
            Ok((self.pairs || work != Work::Pair).then_some(self.cycles * bulk as f64))
        }
    }

    pub(in super::super) const SETTINGS: [Setting; 2] = [
        Setting { name: "1 core", work: Work::Churn { keep: 512, threads: 1 }, bulks: &[1, 2] },
        Setting { name: "a <pair>", work: Work::Pair, bulks: &[4] },
    ];

    pub(in super::super) fn standings() -> (Vec<Standing>, String) {
        let calls = Rc::new(RefCell::new(String::new()));
        let known = |name, cycles, pairs| -> Box<dyn Contestant> {
            Box::new(Known { name, cycles, pairs, calls: Rc::clone(&calls) })
        };
        let mut contestants =
            [known("ours", 9.0, true), known("peer", 19.0, true), known("&other", 1.0, false)];
        let standings = measure(&mut contestants, &SETTINGS, 3, 1).unwrap();
        let calls = calls.borrow().clone();
        (standings, calls)
    }

    #[test]
    fn all_take_turns_and_who_begins_changes() {
        let (standings, calls) = standings();
        assert_eq!(calls, ["op&", "p&o", "&op"].map(|turn| turn.repeat(3)).concat());
        assert_eq!(standings[0].names, ["ours", "peer", "&other"]);
        assert_eq!(standings[1].names, ["ours", "peer"]);
    }

    #[test]
    fn medians_and_ratios_of_the_same_round() {
        let (standings, _) = standings();
        let first = &standings[0];
        // Ours: 10, 13 and 16 cycles; the peer: 20, 23 and 26.
        assert_eq!((first.median("ours", 1), first.median("peer", 1)), (Some(13.0), Some(23.0)));
        let ratio = first.ratio("peer", "ours", 1).unwrap();
        assert_eq!(ratio, Ratio { median: 23.0 / 13.0, least: 26.0 / 16.0, most: 2.0 });
        assert_eq!(standings[1].ratio("&other", "ours", 4), None);
        let table = first.table(&[("peer", "ours"), ("nobody", "ours")]).to_string();
        assert!(table.contains("1.77 (1.62-2.00)") && !table.contains("nobody"), "{table}");
        let value = first.to_json(&[("peer", "ours")]);
        assert_eq!(value["contestants"][1]["cycles"][0]["runs"], json!([20.0, 23.0, 26.0]));
        assert_eq!(value["ratios"][0]["ratio"][0]["most"], 2.0);
    }

    #[test]
    fn works_are_chosen_by_name_and_by_cpus() {
        let names = |only, cpus| -> Result<Vec<&str>> {
            Ok(choose(&SETTINGS, only, cpus)?.iter().map(|setting| setting.name).collect())
        };
        assert_eq!(names(None, 2).unwrap(), ["1 core", "a <pair>"]);
        assert_eq!(names(None, 1).unwrap(), ["1 core"]);
        assert_eq!(names(Some("pair"), 2).unwrap(), ["a <pair>"]);
        assert!(names(Some("pair"), 1).is_err());
        assert!(names(Some("nothing"), 2).is_err());
    }
}
