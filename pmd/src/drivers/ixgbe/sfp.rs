//! The module in the cage: what it is, whether it is one that works, and what the EEPROM has for its kind (datasheet 3.7.4.1,
//! 6.3; SFF-8472, table 4-1).

use core::fmt;

use wirerate_eal::mmio::Mmio;

use super::eeprom;
use super::error::IxgbeError;
use super::registers::{CORECTL, ESDP, ESDP_SDP3, Registers, SYNC_MAC_CSR};
use super::semaphore::Taken;

/// Bytes that are read: up to the end of the serial number and its checksum.
const BYTES: usize = 64;
/// An SFP or SFP+, in the first byte.
const SFP: u8 = 3;
/// Where the rest is: codes of 10 Gb/s, of 1 Gb/s, and of cables; the vendor's name, number and part.
const CODES_10G: usize = 3;
const CODES_1G: usize = 6;
const CODES_CABLE: usize = 8;
const VENDOR_NAME: core::ops::Range<usize> = 20..36;
const VENDOR_NUMBER: core::ops::Range<usize> = 37..40;
const PART: core::ops::Range<usize> = 40..56;
const CHECKSUM: usize = 63;
/// The vendors whose optics Intel lets be used.
const INTEL: [u8; 3] = [0x00, 0x1b, 0x21];
/// The word of the EEPROM's capabilities, and their bit for any module; the list of what is to be written for each kind.
const CAPABILITIES: u16 = 0x2c;
const ANY_MODULE: u16 = 1 << 0;
const LIST: u16 = 0x2b;
const NONE: u16 = 0xffff;
/// Entries in a list at most, and words for a kind.
const MOST: u16 = 64;

/// What a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A copper cable without electronics, and one with.
    Cable,
    ActiveCable,
    /// Short and long reach, by their standards.
    Optics {
        name: &'static str,
    },
    Other,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    kind: Kind,
    vendor: String,
    part: String,
    number: [u8; 3],
    identifier: u8,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Cable => "direct attach cable",
            Kind::ActiveCable => "active direct attach cable",
            Kind::Optics { name } => name,
            Kind::Other => "unknown kind",
        };
        write!(f, "{} {} ({kind})", self.vendor, self.part)
    }
}

impl Module {
    /// Reads what is in the cage of port `port`; nothing if it is empty.
    ///
    /// # Errors
    /// [`IxgbeError`] when that cannot be read, or what was read is damaged.
    pub(super) fn find<B: Mmio>(registers: &Registers<B>, port: u32) -> Result<Option<Self>, IxgbeError> {
        let mut bytes = [0; BYTES];
        let mut sum = (0, 0);
        // A module that was put in just now may not be awake, and wires are disturbed.
        for _ in 0..3 {
            if super::i2c::read(registers, port, 0, &mut bytes)?.is_none() {
                return Ok(None);
            }
            let expected = bytes.iter().take(CHECKSUM).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            sum = (bytes.get(CHECKSUM).copied().unwrap_or(0), expected);
            if sum.0 == sum.1 {
                return Ok(Some(Self::of(&bytes)));
            }
        }
        Err(IxgbeError::ModuleChecksum { found: sum.0, expected: sum.1 })
    }

    fn of(bytes: &[u8; BYTES]) -> Self {
        let text = |range: core::ops::Range<usize>| -> String {
            let text = bytes.get(range).unwrap_or_default().iter().map(|byte| char::from(*byte));
            text.map(|letter| if letter.is_ascii_graphic() { letter } else { ' ' })
                .collect::<String>()
                .trim()
                .to_owned()
        };
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let kind = match (byte(CODES_CABLE), byte(CODES_10G), byte(CODES_1G)) {
            (cable, ..) if cable & 1 << 2 != 0 => Kind::Cable,
            (cable, ..) if cable & 1 << 3 != 0 => Kind::ActiveCable,
            (_, fast, _) if fast & 1 << 4 != 0 => Kind::Optics { name: "10GBASE-SR" },
            (_, fast, _) if fast & 1 << 5 != 0 => Kind::Optics { name: "10GBASE-LR" },
            _ => Kind::Other,
        };
        let number = bytes.get(VENDOR_NUMBER).and_then(|number| number.try_into().ok()).unwrap_or_default();
        Self { kind, vendor: text(VENDOR_NAME), part: text(PART), number, identifier: byte(0) }
    }

    /// Whether the device is known to work with it: cables and Intel's optics, or any, if its EEPROM says so.
    ///
    /// # Errors
    /// [`IxgbeError::Module`] for another, unless `any` are allowed.
    pub(super) fn check<B: Mmio>(&self, registers: &Registers<B>, any: bool) -> Result<(), IxgbeError> {
        let problem = match self.kind {
            _ if self.identifier != SFP => "no SFP+",
            Kind::Other => "of no kind for 10 Gb/s that is known here",
            Kind::Optics { .. } if self.number != INTEL => {
                if capabilities(registers)? & ANY_MODULE != 0 {
                    return Ok(());
                }
                "not one that Intel has tried"
            }
            _ => return Ok(()),
        };
        if any {
            tracing::warn!("the module in the cage, {self}, is {problem}; it is used all the same");
            return Ok(());
        }
        Err(IxgbeError::Module { module: self.to_string(), problem })
    }

    /// The number by which the EEPROM's list has the module, for each of both ports.
    fn number_in_list(&self, port: u32) -> u16 {
        let of_first = match self.kind {
            Kind::Cable => 3,
            // Those with limiting amplifiers are set up as optics are.
            Kind::ActiveCable | Kind::Optics { .. } | Kind::Other => 5,
        };
        of_first + port as u16
    }
}

/// Gives the device what its EEPROM has for a module of this kind, which is for the analog side of the link.
///
/// # Errors
/// [`IxgbeError`] when the EEPROM has nothing for it, or is not to be had.
pub(super) fn initialise<B: Mmio>(
    registers: &Registers<B>,
    module: &Module,
    port: u32,
) -> Result<(), IxgbeError> {
    let number = module.number_in_list(port);
    let taken = eeprom::take(registers)?;
    let words = sequence(number, |address| eeprom::word(registers, address))?;
    drop(taken);
    let words = words.ok_or(IxgbeError::NoSequence { number })?;
    let _taken = Taken::take(registers, "set-up of the link", SYNC_MAC_CSR)?;
    for word in words {
        registers.write(CORECTL, word.into());
        registers.flush();
    }
    Ok(())
}

fn capabilities<B: Mmio>(registers: &Registers<B>) -> Result<u16, IxgbeError> {
    let _taken = eeprom::take(registers)?;
    eeprom::word(registers, CAPABILITIES)
}

/// Lets the module's laser shine.
pub(super) fn laser_on<B: Mmio>(registers: &Registers<B>) {
    // Its input is "off" (8.2.3.1.4).
    registers.clear(ESDP, ESDP_SDP3);
    registers.flush();
}

/// The words for the kind of this number; none if the list has none.
fn sequence<E>(number: u16, mut word: impl FnMut(u16) -> Result<u16, E>) -> Result<Option<Vec<u16>>, E> {
    let list = word(LIST)?;
    if matches!(list, 0 | NONE) {
        return Ok(None);
    }
    for entry in 0..MOST {
        let at = list.wrapping_add(1 + 2 * entry);
        let (kind, place) = (word(at)?, word(at.wrapping_add(1))?);
        if kind == NONE {
            break;
        }
        if kind != number {
            continue;
        }
        if matches!(place, 0 | NONE) {
            return Ok(None);
        }
        let mut words = Vec::new();
        // The first is not for the device: it is the sequence's length.
        for at in 1..=MOST {
            match word(place.wrapping_add(at))? {
                NONE => break,
                value => words.push(value),
            }
        }
        return Ok(Some(words));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn module(change: impl FnOnce(&mut [u8; BYTES])) -> Module {
        let mut bytes = [0; BYTES];
        (bytes[0], bytes[3]) = (3, 0x10);
        bytes[20..36].copy_from_slice(b"Intel Corp      ");
        bytes[37..40].copy_from_slice(&INTEL);
        bytes[40..56].copy_from_slice(b"FTLX8571D3BCV-IT");
        change(&mut bytes);
        Module::of(&bytes)
    }

    #[test]
    fn modules_are_told_from_each_other() {
        assert_eq!(module(|_| ()).to_string(), "Intel Corp FTLX8571D3BCV-IT (10GBASE-SR)");
        for (place, value, kind, number) in [
            (3, 0x20, "(10GBASE-LR)", 5),
            (8, 0x04, "(direct attach cable)", 3),
            (8, 0x08, "(active direct attach cable)", 5),
            (3, 0, "(unknown kind)", 5),
        ] {
            let module = module(|bytes| bytes[place] = value);
            assert!(module.to_string().ends_with(kind), "{module}");
            assert_eq!([0, 1].map(|port| module.number_in_list(port)), [number, number + 1]);
        }
        let odd = module(|bytes| bytes[20..24].copy_from_slice(&[0x1b, b'[', 0xff, b'm']));
        assert_eq!(odd.to_string(), "[ ml Corp FTLX8571D3BCV-IT (10GBASE-SR)", "no control characters");
    }

    #[test]
    fn lists_lead_to_words_and_those_without_end_do_not_hang() {
        let find = |words: &[(u16, u16)], number| {
            let word = |at| {
                Ok::<_, ()>(words.iter().find(|(place, _)| *place == at).map_or(NONE, |(_, word)| *word))
            };
            sequence(number, word).unwrap()
        };
        let list = [
            (0x2b, 0x200),
            (0x201, 3),
            (0x202, 0x240),
            (0x203, 5),
            (0x204, 0),
            (0x240, 2),
            (0x241, 0x1234),
            (0x242, 7),
        ];
        assert_eq!(find(&list, 3), Some(vec![0x1234, 7]));
        assert_eq!(
            (find(&list, 5), find(&list, 4), find(&[(0x2b, 0)], 3), find(&[], 3)),
            (None, None, None, None)
        );
        assert_eq!(sequence(9, |_| Ok::<_, ()>(0x200)).unwrap(), None);
        assert_eq!(sequence(0x200, |_| Ok::<_, ()>(0x200)).unwrap().map(|words| words.len()), Some(64));
    }
}
