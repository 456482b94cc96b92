//! The EEPROM: whether its settings are whole (datasheet 6.1 to 6.3, 8.2.3.2).

use std::time::Duration;

use wirerate_eal::mmio::Mmio;

use super::chip::Family;
use super::error::IxgbeError;
use super::registers::{
    EEC, EEC_PRES, EEC_SIZE_SHIFT, EERD, EERD_ADDRESS_SHIFT, EERD_DATA_SHIFT, EERD_DONE, EERD_START,
    Registers, SYNC_EEPROM,
};
use super::semaphore::Taken;

/// How long a word may take to read.
const WORD_TIME: Duration = Duration::from_millis(500);
/// The sum of all words that it covers (6.3.2.14).
const SUM: u16 = 0xbaba;
/// The word that brings the sum to that.
const CHECKSUM_WORD: u16 = 0x3f;
/// Words that point at sections which the sum covers, too.
const POINTERS: core::ops::Range<u16> = 0x03..0x0f;
/// Those among them that an X540's sum does not cover: of the PHY's and the option ROM's sections.
const NOT_OF_X540: [u16; 2] = [0x04, 0x05];
/// The most words that the field of EERD can name.
const MOST_WORDS: u32 = 1 << 14;

/// Takes the EEPROM from others.
///
/// # Errors
/// That it is not to be had.
pub(super) fn take<B: Mmio>(registers: &Registers<B>) -> Result<Taken<'_, B>, IxgbeError> {
    Taken::take(registers, "EEPROM", SYNC_EEPROM)
}

/// Reads a word. The EEPROM is to be [taken](take).
///
/// # Errors
/// That it does not answer.
pub(super) fn word<B: Mmio>(registers: &Registers<B>, address: u16) -> Result<u16, IxgbeError> {
    registers.write(EERD, EERD_START | u32::from(address) << EERD_ADDRESS_SHIFT);
    let value = registers.wait("reading a word of the EEPROM", EERD, EERD_DONE, EERD_DONE, WORD_TIME)?;
    Ok((value >> EERD_DATA_SHIFT) as u16)
}

/// Compares the EEPROM with its checksum.
///
/// # Errors
/// [`IxgbeError::NoEeprom`], [`IxgbeError::Checksum`], or that it does not answer.
pub(super) fn check<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    let (eec, family) = (registers.read(EEC), registers.family());
    if family == Family::X550 {
        // The firmware reads it for us, and has looked at it.
        return Ok(());
    }
    if family == Family::I82599 && eec & EEC_PRES == 0 {
        return Err(IxgbeError::NoEeprom { eec });
    }
    let words = (64 << (eec >> EEC_SIZE_SHIFT & 0xf)).min(MOST_WORDS);
    let taken = take(registers)?;
    let expected = expected(words, pointers(family), |address| word(registers, address))?;
    let found = word(registers, CHECKSUM_WORD)?;
    drop(taken);
    if found == expected { Ok(()) } else { Err(IxgbeError::Checksum { found, expected }) }
}

fn pointers(family: Family) -> impl Iterator<Item = u16> {
    POINTERS.filter(move |pointer| family == Family::I82599 || !NOT_OF_X540.contains(pointer))
}

/// The checksum that an EEPROM of so many words should have.
fn expected<E>(
    words: u32,
    pointers: impl IntoIterator<Item = u16>,
    mut word: impl FnMut(u16) -> Result<u16, E>,
) -> Result<u16, E> {
    let mut sum = 0_u16;
    for address in 0..CHECKSUM_WORD {
        sum = sum.wrapping_add(word(address)?);
    }
    for pointer in pointers {
        let section = word(pointer)?;
        if matches!(section, 0 | 0xffff) || u32::from(section) >= words {
            continue;
        }
        let len = word(section)?;
        // A section that would not fit is none.
        if matches!(len, 0 | 0xffff) || u32::from(section) + u32::from(len) >= words {
            continue;
        }
        for address in section + 1..=section + len {
            sum = sum.wrapping_add(word(address)?);
        }
    }
    Ok(SUM.wrapping_sub(sum))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn expected_of(eeprom: &[u16]) -> u16 {
        expected_by(Family::I82599, eeprom)
    }

    fn expected_by(family: Family, eeprom: &[u16]) -> u16 {
        expected(eeprom.len() as u32, pointers(family), |address| {
            eeprom.get(usize::from(address)).copied().ok_or(address)
        })
        .unwrap()
    }

    #[test]
    fn sections_that_are_pointed_at_count_and_what_leads_nowhere_does_not() {
        let mut eeprom = vec![0; 256];
        assert_eq!(expected_of(&eeprom), 0xbaba);
        eeprom[0x3e] = 1;
        // The checksum's own word, and words behind, do not count by themselves.
        (eeprom[0x3f], eeprom[0x80], eeprom[0x81]) = (7, 2, 0x1000);
        assert_eq!(expected_of(&eeprom), 0xbab9);
        // A section of two words at 0x80.
        (eeprom[0x03], eeprom[0x82], eeprom[0x83]) = (0x80, 0x0100, 0x5555);
        assert_eq!(expected_of(&eeprom), 0xbab9 - 0x80 - 0x1100);
        // One that an X540's does not cover.
        (eeprom[0x05], eeprom[0xa0], eeprom[0xa1]) = (0xa0, 1, 0x2222);
        assert_eq!(expected_by(Family::X540, &eeprom), expected_of(&eeprom).wrapping_add(0x2222));
        (eeprom[0x05], eeprom[0xa0], eeprom[0xa1]) = (0, 0, 0);
        // Pointers of nothing, out of the EEPROM, and at a section that is longer than it; the firmware's does not count.
        let before = expected_of(&eeprom);
        (eeprom[0x04], eeprom[0x05], eeprom[0x06], eeprom[0x90]) = (0xffff, 0x100, 0x90, 0x70);
        let pointers = 0xffff_u16.wrapping_add(0x100).wrapping_add(0x90);
        assert_eq!(expected_of(&eeprom), before.wrapping_sub(pointers));
        (eeprom[0x0f], eeprom[0x90]) = (0x80, 0x6f);
        assert_eq!(expected_of(&eeprom), before.wrapping_sub(pointers).wrapping_sub(0x80));
    }
}
