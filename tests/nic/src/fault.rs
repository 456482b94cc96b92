//! What a driver did that it may not do.

use std::fmt;

/// A rule of the datasheet that was broken, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The register's name, with its index in an array, as `RDT[3]`; an offset in hexadecimal where there is no register.
    pub register: String,
    /// What was written, or the address or the word of a descriptor that is wrong.
    pub value: u64,
    /// The section of the datasheet that has the rule.
    pub section: &'static str,
    /// What is wrong, in one line.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { register, value, section, what } = self;
        write!(f, "{register} {value:#x}: {what} (82599 datasheet, {section})")
    }
}

/// Faults in the order in which they were made.
#[derive(Debug)]
pub struct Faults {
    /// Whether they are kept at all.
    strict: bool,
    kept: Vec<Fault>,
    /// Those that came after the list was full.
    more: u64,
}

/// A driver that goes wrong in a loop fills no memory.
const MOST: usize = 1000;

impl Faults {
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, kept: Vec::new(), more: 0 }
    }

    /// Notes one.
    pub(crate) fn add(&mut self, fault: Fault) {
        if !self.strict {
            return;
        }
        if self.kept.len() < MOST {
            self.kept.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// The first thousand.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.kept
    }

    /// Forgets them, and gives those of the list.
    pub(crate) fn take(&mut self) -> Vec<Fault> {
        self.more = 0;
        std::mem::take(&mut self.kept)
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.kept.len() as u64 + self.more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_and_their_list_ends() {
        let fault = Fault {
            register: "RDT[3]".into(),
            value: 64,
            section: "8.2.3.8.5",
            what: "past the ring".into(),
        };
        assert_eq!(fault.to_string(), "RDT[3] 0x40: past the ring (82599 datasheet, 8.2.3.8.5)");
        let (mut faults, mut others) = (Faults::new(true), Faults::new(false));
        for _ in 0..MOST + 5 {
            faults.add(fault.clone());
            others.add(fault.clone());
        }
        assert_eq!((others.list().len(), others.count()), (0, 0), "they are not to be kept");
        assert_eq!((faults.list().len(), faults.count()), (MOST, MOST as u64 + 5));
        assert_eq!((faults.take().len(), faults.count()), (MOST, 0));
    }
}
