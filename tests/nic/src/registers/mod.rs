//! The registers of BAR 0, by name: where each is, what it reads as after a reset, and what may be written to it.
//!
//! Sections are those of the Intel 82599 10 GbE Controller Datasheet (331520). [`TABLE`] has them all; [`find`] answers
//! for an offset. What happens beyond keeping what was written is told elsewhere, in the model's own modules.

mod table;
mod vf;

use std::sync::LazyLock;

pub use table::TABLE;
pub use vf::{VF_BAR_LEN, VF_TABLE, elsewhere, find_vf};

/// Bytes of BAR 0 (9.3.6.1); registers are in the first 128 KiB.
pub const BAR_LEN: usize = 512 * 1024;
/// Bytes of BAR 0 that have registers.
pub(crate) const SPACE: u32 = 0x2_0000;

/// What reading and writing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Bits are kept as the masks say.
    ReadWrite,
    /// Nothing can be written.
    ReadOnly,
    /// A counter: reading clears it, and nothing can be written (8.2.3.23).
    ReadClear,
    /// Reads as zero; writing does something.
    WriteOnly,
    /// What is written as 1 becomes 0.
    WriteClear,
}

/// A register, or an array of them.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    /// The datasheet's name.
    pub name: &'static str,
    /// The datasheet's section.
    pub section: &'static str,
    /// The offset of the first.
    pub offset: u32,
    /// How many there are.
    pub count: u32,
    /// Bytes from one to the next.
    pub stride: u32,
    /// The index of the first, for arrays in two pieces.
    pub first: u32,
    /// Where the same registers are once more: their first offset, and their number.
    pub alias: Option<(u32, u32, u32)>,
    /// What it reads as after a reset, where nothing else says so.
    pub reset: u32,
    /// What accesses do.
    pub access: Access,
    /// Bits that keep what is written.
    pub kept: u32,
    /// Bits whose writing starts something, and that read as zero when it is done.
    pub clearing: u32,
    /// Bits that the device owns: writing has no effect, and writing back what was read, or zero, is no fault.
    pub status: u32,
    /// Bits that are reserved, and that drivers write all the same: they read as zero, and it is no fault.
    pub ignored: u32,
}

impl Register {
    /// Bits that are to be written as they are after a reset (8.2.1).
    #[must_use]
    pub const fn reserved(&self) -> u32 {
        !(self.kept | self.clearing | self.status | self.ignored)
    }

    /// The name with the index, if there are several.
    #[must_use]
    pub fn named(&self, index: u32) -> String {
        if self.count > 1 { format!("{}[{index}]", self.name) } else { self.name.to_owned() }
    }

    const fn new(name: &'static str, section: &'static str, offset: u32, access: Access) -> Self {
        Self {
            name,
            section,
            offset,
            count: 1,
            stride: 4,
            first: 0,
            alias: None,
            reset: 0,
            access,
            kept: 0,
            clearing: 0,
            status: 0,
            ignored: 0,
        }
    }

    /// One whose bits in `kept` can be written.
    const fn rw(name: &'static str, section: &'static str, offset: u32, kept: u32) -> Self {
        let mut register = Self::new(name, section, offset, Access::ReadWrite);
        register.kept = kept;
        register
    }

    const fn ro(name: &'static str, section: &'static str, offset: u32) -> Self {
        Self::new(name, section, offset, Access::ReadOnly)
    }

    const fn rc(name: &'static str, section: &'static str, offset: u32) -> Self {
        Self::new(name, section, offset, Access::ReadClear)
    }

    const fn wo(name: &'static str, section: &'static str, offset: u32) -> Self {
        let mut register = Self::new(name, section, offset, Access::WriteOnly);
        register.clearing = u32::MAX;
        register
    }

    const fn array(mut self, count: u32, stride: u32) -> Self {
        (self.count, self.stride) = (count, stride);
        self
    }

    const fn from(mut self, first: u32) -> Self {
        self.first = first;
        self
    }

    const fn also_at(mut self, offset: u32, count: u32, stride: u32) -> Self {
        self.alias = Some((offset, count, stride));
        self
    }

    const fn reset(mut self, value: u32) -> Self {
        self.reset = value;
        self
    }

    const fn clearing(mut self, bits: u32) -> Self {
        self.clearing = bits;
        self
    }

    const fn ignored(mut self, bits: u32) -> Self {
        self.ignored = bits;
        self
    }

    const fn status(mut self, bits: u32) -> Self {
        self.status = bits;
        self
    }
}

/// Which register is at an offset.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The register, or the array.
    pub register: &'static Register,
    /// Which of the array, as the datasheet counts.
    pub index: u32,
    /// The first of the offsets that it has.
    pub offset: u32,
}

impl Found {
    /// The name with the index.
    #[must_use]
    pub fn named(&self) -> String {
        self.register.named(self.index)
    }
}

/// Where a register is in the table, and which of the array, by a quarter of its offset.
static BY_OFFSET: LazyLock<Vec<Option<(u16, u16)>>> = LazyLock::new(|| {
    let mut places = vec![None; SPACE as usize / 4];
    for (at, register) in (0..).zip(TABLE) {
        let own = (register.offset, register.count, register.stride);
        for (start, count, stride) in [Some(own), register.alias].into_iter().flatten() {
            for place in 0..count {
                places[((start + place * stride) / 4) as usize] = Some((at, place as u16));
            }
        }
    }
    places
});

/// A name as a number, which the compiler knows where it knows the name. None has more than 16 bytes.
#[inline(always)]
fn key(name: &str) -> u128 {
    let mut bytes = [0; 16];
    let len = name.len().min(16);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    u128::from_le_bytes(bytes)
}

/// Places for names: several for each, so that most are in their first.
const PLACES: usize = 1 << 11;

#[inline(always)]
fn place_of(key: u128) -> usize {
    // An odd number with as many ones as zeros (the golden ratio's) mixes what names differ in into the upper bits.
    let mixed = (key as u64 ^ ((key >> 64) as u64).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - PLACES.ilog2())) as usize
}

/// The pieces of a register, with its name.
type Named = (u128, Vec<&'static Register>);

/// Registers by their names: each in the place that is its, or behind.
static BY_NAME: LazyLock<Vec<Option<Named>>> = LazyLock::new(|| {
    let mut places = vec![None; PLACES];
    for register in TABLE {
        let name = key(register.name);
        let mut at = place_of(name);
        while places[at].as_ref().is_some_and(|(other, _)| *other != name) {
            at = (at + 1) % PLACES;
        }
        places[at].get_or_insert_with(|| (name, Vec::new())).1.push(register);
    }
    places
});

#[inline(always)]
fn pieces(name: &str) -> &'static [&'static Register] {
    let name = key(name);
    let mut at = place_of(name);
    let places = &**BY_NAME;
    while let Some(Some((other, pieces))) = places.get(at) {
        if *other == name {
            return pieces;
        }
        at = (at + 1) % PLACES;
    }
    &[]
}

/// The register at an offset, which is a multiple of 4; none if the table has none.
#[must_use]
pub fn find(offset: u32) -> Option<Found> {
    let (at, place) = (*BY_OFFSET.get(offset as usize / 4)?).filter(|_| offset.is_multiple_of(4))?;
    let register = TABLE.get(usize::from(at))?;
    let place = u32::from(place);
    Some(Found { register, index: register.first + place, offset: register.offset + place * register.stride })
}

/// The first of the offsets of one of an array, or of the only one, whose index is 0; none if there is none.
#[must_use]
#[inline(always)]
pub fn offset_of(name: &str, index: u32) -> Option<u32> {
    pieces(name).iter().find_map(|register| {
        let place = index.checked_sub(register.first).filter(|place| *place < register.count)?;
        Some(register.offset + place * register.stride)
    })
}

/// The first offsets of all of an array, in the order of their indices.
pub(crate) fn offsets_of(name: &str) -> impl Iterator<Item = u32> {
    pieces(name)
        .iter()
        .flat_map(|register| (0..register.count).map(|place| register.offset + place * register.stride))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::HashMap;

    use super::*;

    #[test]
    fn no_two_registers_are_in_one_place() {
        let mut places = HashMap::new();
        for register in TABLE {
            let (at, also) = (register.offset, register.alias);
            for (start, count, stride) in
                [Some((at, register.count, register.stride)), also].into_iter().flatten()
            {
                for index in 0..count {
                    let offset = start + index * stride;
                    assert!(offset.is_multiple_of(4) && offset < SPACE, "{}", register.name);
                    if let Some(other) = places.insert(offset, register.name) {
                        panic!("{} and {other} are both at {offset:#x}", register.name);
                    }
                }
            }
            assert!(also.is_none_or(|(_, count, _)| count <= register.count), "{}", register.name);
        }
    }

    #[test]
    fn masks_do_not_contradict_each_other() {
        for register in TABLE {
            let Register { name, kept, clearing, status, ignored, access, section, .. } = register;
            assert_eq!(kept & clearing | kept & status | clearing & status, 0, "{name}");
            assert_eq!(ignored & (kept | clearing | status), 0, "{name}");
            assert!(section.starts_with("8.2.3.") || *section == "8.2.2", "{name}");
            match access {
                Access::ReadOnly | Access::ReadClear => assert_eq!(kept | clearing, 0, "{name}"),
                Access::ReadWrite => assert_ne!(kept | clearing, 0, "{name}"),
                Access::WriteOnly => assert_eq!((*kept, *clearing), (0, u32::MAX), "{name}"),
                Access::WriteClear => assert_eq!(*kept, 0, "{name}"),
            }
        }
    }

    #[test]
    fn arrays_in_pieces_and_second_places_are_found() {
        let name = |offset| find(offset).map(|found| (found.named(), found.offset));
        assert_eq!(name(0x1018 + 5 * 0x40), Some(("RDT[5]".into(), 0x1158)));
        assert_eq!(name(0xd018 + 0x40), Some(("RDT[65]".into(), 0xd058)));
        assert_eq!(name(0x2100 + 4 * 3), Some(("SRRCTL[3]".into(), 0x1014 + 3 * 0x40)));
        assert_eq!(name(0x5400 + 8 * 15), Some(("RAL[15]".into(), 0xa278)));
        assert_eq!(name(0x5404), Some(("RAH[0]".into(), 0xa204)));
        assert_eq!(name(0x12300), Some(("EITR[24]".into(), 0x12300)));
        assert_eq!(name(0x4), Some(("CTRL".into(), 0)));
        assert_eq!((name(0x104), name(0x5082), name(0x1ffff), name(u32::MAX)), (None, None, None, None));
        assert_eq!(offset_of("RDT", 65), Some(0xd058));
        assert_eq!(
            (offset_of("CTRL", 0), offset_of("CTRL", 1), offset_of("CTRLS", 0)),
            (Some(0), None, None)
        );
        assert_eq!(offsets_of("EITR").skip(22).take(4).collect::<Vec<_>>(), [0x878, 0x87c, 0x12300, 0x12304]);
    }
}
