//! The lists by which the command line names lcores and the CPUs that they run on.

use std::str::FromStr;

use crate::cpulist::{self, MAX_CPUS};

/// An lcore, and the CPUs on which it may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LcoreSpec {
    /// Its number, below 1,024.
    pub id: u32,
    /// The CPUs, ascending; at least one.
    pub cpus: Vec<u32>,
}

/// Lcores as `-l` names them: `0-3,5` runs each on the CPU of its number, `0@4` lcore 0 on CPU 4, `(0-1)@(4,6)`
/// lcores 0 and 1 on either of CPUs 4 and 6, and a group without CPUs, `(0-1)`, on all CPUs of the group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LcoreMap(Vec<LcoreSpec>);

impl LcoreMap {
    /// Lcores that run each on the CPU of its own number.
    #[must_use]
    pub fn one_to_one(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into_iter().map(|id| LcoreSpec { id, cpus: vec![id] }).collect())
    }

    /// Lcores by the bits of a hexadecimal mask of any length, with or without `0x`.
    ///
    /// # Errors
    /// A message when it is none, has no bit, or a bit above 1,023.
    pub fn from_mask(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let mut ids = Vec::new();
        for (place, digit) in (0u32..).zip(digits.chars().rev()) {
            let value =
                digit.to_digit(16).ok_or("expected a hexadecimal mask, for instance 3 for lcores 0 and 1")?;
            ids.extend((0..4).filter(|bit| value >> bit & 1 == 1).map(|bit| place * 4 + bit));
        }
        match ids.last() {
            None => Err("no lcore is in the mask".into()),
            Some(&last) if last >= MAX_CPUS => Err(format!("lcore {last} is beyond {}", MAX_CPUS - 1)),
            Some(_) => Ok(Self::one_to_one(ids)),
        }
    }

    /// The lcores by ascending number; empty stands for one on each CPU that may be used.
    #[must_use]
    pub fn lcores(&self) -> &[LcoreSpec] {
        &self.0
    }

    fn add(&mut self, spec: LcoreSpec) -> Result<(), String> {
        match self.0.iter().find(|known| known.id == spec.id) {
            None => self.0.push(spec),
            Some(known) if *known == spec => {}
            Some(known) => {
                let (one, other) = (cpulist::format(&known.cpus), cpulist::format(&spec.cpus));
                return Err(format!("lcore {} is put on CPUs {one} and on {other}", spec.id));
            }
        }
        Ok(())
    }
}

impl FromStr for LcoreMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut map = Self::default();
        for entry in split(text)? {
            let (lcores, cpus) = match entry.split_once('@') {
                Some((lcores, cpus)) => (lcores, Some(set(cpus)?)),
                None => (entry, None),
            };
            let ids = set(lcores)?;
            let together = if lcores.trim().starts_with('(') { Some(ids.clone()) } else { None };
            for id in ids {
                let cpus = cpus.clone().or_else(|| together.clone()).unwrap_or_else(|| vec![id]);
                map.add(LcoreSpec { id, cpus })?;
            }
        }
        map.0.sort_by_key(|spec| spec.id);
        Ok(map)
    }
}

/// Cuts at the commas outside of brackets.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let unbalanced = || format!("the brackets in '{text}' do not match");
    let (mut entries, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' if !inside => inside = true,
            b')' if inside => inside = false,
            b'(' | b')' => return Err(unbalanced()),
            b',' if !inside => {
                entries.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(unbalanced());
    }
    entries.push(&text[begin..]);
    Ok(entries)
}

/// Reads `3`, `0-3`, or `(0-3,5)`.
fn set(text: &str) -> Result<Vec<u32>, String> {
    let text = text.trim();
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(text);
    cpulist::parse(inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read(text: &str) -> Vec<(u32, Vec<u32>)> {
        let map: LcoreMap = text.parse().unwrap();
        map.lcores().iter().map(|spec| (spec.id, spec.cpus.clone())).collect()
    }

    #[test]
    fn maps_are_read_as_dpdk_writes_them() {
        assert_eq!(read("0-1,5"), [(0, vec![0]), (1, vec![1]), (5, vec![5])]);
        assert_eq!(read("0@1"), [(0, vec![1])]);
        assert_eq!(read("2,1@7"), [(1, vec![7]), (2, vec![2])]);
        assert_eq!(read("(0,2)@(4-5)"), [(0, vec![4, 5]), (2, vec![4, 5])]);
        assert_eq!(read("0-1@3"), [(0, vec![3]), (1, vec![3])]);
        // The example of DPDK's guide for --lcores.
        assert_eq!(
            read("1,2@(5-7),(3-5)@(0,2),(0,6),7-8"),
            [
                (0, vec![0, 6]),
                (1, vec![1]),
                (2, vec![5, 6, 7]),
                (3, vec![0, 2]),
                (4, vec![0, 2]),
                (5, vec![0, 2]),
                (6, vec![0, 6]),
                (7, vec![7]),
                (8, vec![8]),
            ]
        );
        assert_eq!(read("1,1"), [(1, vec![1])]);
    }

    #[test]
    fn wrong_maps_are_refused() {
        for text in ["", "x", "0@", "@0", "(0", "0)", "((0))", "0@1@2", "0,,1", "1,1@2", "()", "(0)1"] {
            assert!(text.parse::<LcoreMap>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn masks_of_any_length_are_read() {
        assert_eq!(LcoreMap::from_mask("0x13").unwrap(), LcoreMap::one_to_one([4, 1, 0]));
        assert_eq!(LcoreMap::from_mask("f").unwrap().lcores().len(), 4);
        let long = format!("8{}1", "0".repeat(40));
        assert_eq!(LcoreMap::from_mask(&long).unwrap(), LcoreMap::one_to_one([0, 167]));
        for text in ["", "0x", "0", "0000", "g", "-1"] {
            assert!(LcoreMap::from_mask(text).is_err(), "{text:?}");
        }
        assert!(LcoreMap::from_mask(&format!("1{}", "0".repeat(256))).is_err());
    }
}
