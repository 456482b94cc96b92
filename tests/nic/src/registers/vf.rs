//! The registers of a virtual function's BAR 0 (datasheet, 8.3.5). Those of queues are the device's own ones, which a
//! function sees at offsets of its own; [`elsewhere`] says which.

use super::Access::{ReadOnly, WriteClear};
use super::{Found, Register};

/// Bytes of a virtual function's BAR 0 (9.4.2.1).
pub const VF_BAR_LEN: usize = 16 * 1024;

const ALL: u32 = u32::MAX;
/// Queues that a function has registers of.
const QUEUES: u32 = 8;
const STEP: u32 = 0x40;
/// Bits of its causes: three vectors.
const CAUSES: u32 = 0b111;

const GENERAL: &str = "8.3.5.1";
const INTERRUPT: &str = "8.3.5.2";
const RECEIVE: &str = "8.3.5.3";
const TRANSMIT: &str = "8.3.5.4";
const STATISTICS: &str = "8.3.5.5";

const fn rw(name: &'static str, section: &'static str, offset: u32, kept: u32) -> Register {
    Register::rw(name, section, offset, kept)
}

const fn ro(name: &'static str, section: &'static str, offset: u32) -> Register {
    Register::new(name, section, offset, ReadOnly)
}

const fn wo(name: &'static str, section: &'static str, offset: u32) -> Register {
    Register::wo(name, section, offset)
}

/// A queue's, which is looked up elsewhere.
const fn queue(name: &'static str, section: &'static str, offset: u32) -> Register {
    rw(name, section, offset, ALL).array(QUEUES, STEP)
}

/// All registers that a virtual function has.
pub const VF_TABLE: &[Register] = &[
    rw("VFCTRL", GENERAL, 0x0000, 0).clearing(1 << 26),
    ro("VFSTATUS", GENERAL, 0x0008),
    ro("VFLINKS", GENERAL, 0x0010),
    ro("VFFRTIMER", GENERAL, 0x0048),
    ro("VFRXMEMWRAP", GENERAL, 0x3190),
    rw("VFMAILBOX", GENERAL, 0x02fc, 1 << 2).clearing(0b11).status(0xf8),
    rw("VFMBMEM", GENERAL, 0x0200, ALL).array(16, 4),
    {
        let mut register = Register::new("VTEICR", INTERRUPT, 0x0100, WriteClear);
        register.clearing = CAUSES;
        register
    },
    wo("VTEICS", INTERRUPT, 0x0104),
    rw("VTEIMS", INTERRUPT, 0x0108, 0).clearing(CAUSES),
    wo("VTEIMC", INTERRUPT, 0x010c),
    rw("VTEIAC", INTERRUPT, 0x0110, CAUSES),
    rw("VTEIAM", INTERRUPT, 0x0114, CAUSES),
    rw("VTIVAR", INTERRUPT, 0x0120, 0x8383_8383).array(4, 4),
    rw("VTIVAR_MISC", INTERRUPT, 0x0140, 0x0000_0083),
    rw("VTRSCINT", INTERRUPT, 0x0180, 0x01ff_8ff8).array(2, 4),
    rw("VTEITR", INTERRUPT, 0x0820, 0x01ff_8ff8).clearing(0x8000_0000).array(2, 4),
    rw("VFPSRTYPE", RECEIVE, 0x0300, ALL),
    queue("VFRDBAL", RECEIVE, 0x1000),
    queue("VFRDBAH", RECEIVE, 0x1004),
    queue("VFRDLEN", RECEIVE, 0x1008),
    queue("VFDCA_RXCTRL", RECEIVE, 0x100c),
    queue("VFRDH", RECEIVE, 0x1010),
    queue("VFSRRCTL", RECEIVE, 0x1014),
    queue("VFRDT", RECEIVE, 0x1018),
    queue("VFRXDCTL", RECEIVE, 0x1028),
    queue("VFRSCCTL", RECEIVE, 0x102c),
    queue("VFTDBAL", TRANSMIT, 0x2000),
    queue("VFTDBAH", TRANSMIT, 0x2004),
    queue("VFTDLEN", TRANSMIT, 0x2008),
    queue("VFDCA_TXCTRL", TRANSMIT, 0x200c),
    queue("VFTDH", TRANSMIT, 0x2010),
    queue("VFTDT", TRANSMIT, 0x2018),
    queue("VFTXDCTL", TRANSMIT, 0x2028),
    queue("VFTDWBAL", TRANSMIT, 0x2038),
    queue("VFTDWBAH", TRANSMIT, 0x203c),
    ro("VFGPRC", STATISTICS, 0x101c),
    ro("VFGORC_LSB", STATISTICS, 0x1020),
    ro("VFGORC_MSB", STATISTICS, 0x1024),
    ro("VFMPRC", STATISTICS, 0x1034),
    ro("VFGPTC", STATISTICS, 0x201c),
    ro("VFGOTC_LSB", STATISTICS, 0x2020),
    ro("VFGOTC_MSB", STATISTICS, 0x2024),
];

/// The register at an offset of a virtual function's BAR 0.
#[must_use]
pub fn find_vf(offset: u32) -> Option<Found> {
    VF_TABLE.iter().find_map(|register| {
        let place = offset.checked_sub(register.offset)?;
        let index = place / register.stride;
        let is_there = place.is_multiple_of(register.stride) && index < register.count;
        is_there.then_some(Found { register, index, offset: offset - offset % 4 })
    })
}

/// The device's register that a virtual function's is, by its name.
#[must_use]
pub fn elsewhere(name: &'static str) -> Option<&'static str> {
    let is_queues = matches!(
        name,
        "VFPSRTYPE"
            | "VFRDBAL"
            | "VFRDBAH"
            | "VFRDLEN"
            | "VFDCA_RXCTRL"
            | "VFRDH"
            | "VFSRRCTL"
            | "VFRDT"
            | "VFRXDCTL"
            | "VFRSCCTL"
            | "VFTDBAL"
            | "VFTDBAH"
            | "VFTDLEN"
            | "VFDCA_TXCTRL"
            | "VFTDH"
            | "VFTDT"
            | "VFTXDCTL"
            | "VFTDWBAL"
            | "VFTDWBAH"
    );
    name.strip_prefix("VF").filter(|_| is_queues)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::TABLE;
    use super::*;

    #[test]
    fn each_register_has_a_place_of_its_own_and_those_elsewhere_are_there() {
        let mut places = std::collections::HashSet::new();
        for register in VF_TABLE {
            for index in 0..register.count {
                let offset = register.offset + index * register.stride;
                assert!((offset as usize) < VF_BAR_LEN && places.insert(offset), "{}", register.name);
                assert_eq!(find_vf(offset).unwrap().named(), register.named(index));
            }
            let there = elsewhere(register.name);
            assert!(
                there.is_none_or(|name| TABLE.iter().any(|other| other.name == name)),
                "{}",
                register.name
            );
        }
        assert!(find_vf(0x4).is_none() && find_vf(0x3000).is_none(), "X550's");
    }
}
