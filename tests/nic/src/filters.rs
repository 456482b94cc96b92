//! Which frames are for the port (datasheet, 7.1.1): by their destination (7.1.1.1) and by their VLAN (7.1.1.2). That PFUTA
//! works without pools, where MCSTCTRL.MFE is set, is known from DPDK's driver only.

use super::model::Model;
use super::packet::Headers;

/// FCTRL (8.2.3.7.1).
const ALL_MULTICAST: u32 = 1 << 8;
const ALL_UNICAST: u32 = 1 << 9;
const BROADCAST: u32 = 1 << 10;
/// MCSTCTRL (8.2.3.7.3), RAH.AV (8.2.3.7.9).
const HASH_BITS: u32 = 3;
const HASH_FILTER: u32 = 1 << 2;
const ADDRESS_VALID: u32 = 1 << 31;
/// VLNCTRL (8.2.3.7.2).
const VLAN_TYPE: u32 = 0xffff;
const CFI: u32 = 1 << 28;
const CFI_FILTER: u32 = 1 << 29;
const VLAN_FILTER: u32 = 1 << 30;

/// How a frame passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// It is for the port, or all are asked for.
    Exactly,
    /// A hash of its destination is in a table, so it may be for others (PIF of 7.1.6.2).
    ByHash,
}

impl Model {
    /// The EtherType of tags.
    pub(crate) fn vlan_type(&self) -> u16 {
        (self.value("VLNCTRL") & VLAN_TYPE) as u16
    }

    /// Whether a frame is for this port, and how that is known.
    pub(crate) fn filter(&self, frame: &[u8], headers: &Headers) -> Option<Passed> {
        let passed = self.filter_address(frame)?;
        headers.tag.is_none_or(|tag| self.vlan_passes(tag)).then_some(passed)
    }

    fn filter_address(&self, frame: &[u8]) -> Option<Passed> {
        let &[a, b, c, d, e, f, ..] = frame else { return None };
        let fctrl = self.value("FCTRL");
        let is_on = |bit| (fctrl & bit != 0).then_some(Passed::Exactly);
        if [a, b, c, d, e, f] == [0xff; 6] {
            return is_on(BROADCAST);
        }
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = ADDRESS_VALID | u32::from(u16::from_le_bytes([e, f]));
        if self.values_of("RAL").zip(self.values_of("RAH")).any(|entry| entry == (low, high)) {
            return Some(Passed::Exactly);
        }
        let (all, table) = if a & 1 == 1 { (ALL_MULTICAST, "MTA") } else { (ALL_UNICAST, "PFUTA") };
        is_on(all).or_else(|| {
            let control = self.value("MCSTCTRL");
            // Which 12 bits of the address are looked up is what MO says.
            let offset = control & HASH_BITS;
            let shift = 4 - offset - u32::from(offset == 3);
            let bits = u32::from(u16::from_le_bytes([e, f])) >> shift & 0xfff;
            let is_listed = self.value_of(table, bits >> 5) >> (bits & 0x1f) & 1 == 1;
            (control & HASH_FILTER != 0 && is_listed).then_some(Passed::ByHash)
        })
    }

    fn vlan_passes(&self, tag: u16) -> bool {
        let control = self.value("VLNCTRL");
        if control & VLAN_FILTER == 0 {
            return true;
        }
        let cfi = control & CFI_FILTER == 0 || (tag >> 12 & 1 == 1) == (control & CFI != 0);
        let id = u32::from(tag & 0xfff);
        cfi && self.value_of("VFTA", id / 32) >> (id % 32) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::model;
    use super::*;

    fn passes(model: &Model, to: [u8; 6], tag: Option<u16>) -> Option<Passed> {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&to);
        if let Some(tag) = tag {
            frame[12..14].copy_from_slice(&[0x81, 0]);
            frame[14..16].copy_from_slice(&tag.to_be_bytes());
        }
        model.filter(&frame, &Headers::of(&frame, model.vlan_type()))
    }

    #[test]
    fn addresses_pass_exactly_or_by_their_hash() {
        let mut model = model(1);
        model.write32(0xa200 + 8 * 127, 0x0403_0202);
        model.write32(0xa204 + 8 * 127, 0x8000_0605);
        let (last, unicast, group) = ([2, 2, 3, 4, 5, 6], [2, 2, 3, 4, 5, 7], [3, 2, 3, 4, 5, 7]);
        assert_eq!(passes(&model, last, None), Some(Passed::Exactly));
        // MO: which 12 of the upper 16 bits, 0x0705.
        for (offset, bits) in [(0, 0x070), (1, 0x0e0), (2, 0x1c1), (3, 0x705)] {
            for (table, to, other) in [(0x5200, group, unicast), (0xf400, unicast, group)] {
                model.write32(table + 4 * (bits >> 5), 1 << (bits & 0x1f));
                model.write32(0x5090, offset);
                assert_eq!(passes(&model, to, None), None);
                model.write32(0x5090, offset | 4);
                assert_eq!(
                    (passes(&model, to, None), passes(&model, other, None)),
                    (Some(Passed::ByHash), None)
                );
                model.write32(table + 4 * (bits >> 5), 0);
            }
        }
        model.write32(0xa204 + 8 * 127, 0x605);
        assert_eq!(passes(&model, last, None), None);
        assert!(model.faults().list().is_empty(), "{:?}", model.faults());
    }

    #[test]
    fn only_vlans_that_are_listed_pass_where_they_are_filtered() {
        let mut model = model(1);
        model.write32(0x5080, 0x200);
        let to = [2; 6];
        assert!(passes(&model, to, Some(100)).is_some());
        model.write32(0x5088, 0x8100 | VLAN_FILTER);
        assert!(passes(&model, to, Some(100)).is_none() && passes(&model, to, None).is_some());
        model.write32(0xa000 + 4 * (100 / 32), 1 << (100 % 32));
        assert!(passes(&model, to, Some(0xf064)).is_some() && passes(&model, to, Some(101)).is_none());
        model.write32(0x5088, 0x8100 | VLAN_FILTER | CFI_FILTER);
        assert!(passes(&model, to, Some(0x1064)).is_none() && passes(&model, to, Some(0xe064)).is_some());
        model.write32(0x5088, 0x8100 | VLAN_FILTER | CFI_FILTER | CFI);
        assert!(passes(&model, to, Some(0x1064)).is_some() && passes(&model, to, Some(0xe064)).is_none());
        // Another EtherType makes other frames tagged ones.
        model.write32(0x5088, 0x88a8 | VLAN_FILTER);
        assert!(passes(&model, to, Some(101)).is_some());
        assert!(model.faults().list().is_empty(), "{:?}", model.faults());
    }
}
