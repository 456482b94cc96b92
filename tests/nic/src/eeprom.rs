//! What the EEPROM says (datasheet, 6.2 and 6.3): enough for a board with an SFP+ cage.

/// Words of a 256 kbit EEPROM, as EEC.EE_SIZE says.
const WORDS: usize = 0x4000;
/// The words from 0 up to this one add up to [`SUM`] (6.3.6.10).
const CHECKSUM: usize = 0x3f;
const SUM: u16 = 0xbaba;
/// A pointer to nothing.
const NONE: u16 = 0xffff;

/// Where the parts lie that words point to.
const FIRMWARE: usize = 0x100;
const FIRMWARE_VERSION: usize = 0x120;
const SFP_LIST: usize = 0x200;
const SFP_SEQUENCE: usize = 0x240;
const MAC_ADDRESS: usize = 0x300;

/// The EEPROM's words.
#[derive(Debug, Clone)]
pub struct Eeprom {
    words: Vec<u16>,
}

impl Eeprom {
    /// An image with this MAC address and a checksum that is right.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        let mut words = vec![NONE; WORDS];
        words[..0x40].fill(0);
        // The core's part, which has the MAC address in the order of its bytes (6.3.7).
        (words[0x09], words[MAC_ADDRESS]) = (MAC_ADDRESS as u16, 3);
        for (word, pair) in words[MAC_ADDRESS + 1..].iter_mut().zip(mac.chunks(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        // Firmware: the passthrough patch's version, which drivers want above 5.
        words[0x0f] = FIRMWARE as u16;
        words[FIRMWARE + 2] = NONE;
        words[FIRMWARE + 4] = FIRMWARE_VERSION as u16;
        words[FIRMWARE_VERSION + 7] = 6;
        // The board's number, in the old way, and the image's version.
        (words[0x15], words[0x16], words[0x18]) = (0xe66b, 0x0001, 0x61c1);
        (words[0x2d], words[0x2e]) = (0x8000, 0x0001);
        // No other MAC addresses.
        (words[0x27], words[0x28], words[0x37]) = (NONE, NONE, NONE);
        // What is to be written to CORECTL for each kind of SFP module: here the same for all.
        words[0x2b] = SFP_LIST as u16;
        words[SFP_LIST] = 0;
        let mut at = SFP_LIST + 1;
        for kind in 0..13 {
            (words[at], words[at + 1]) = (kind, SFP_SEQUENCE as u16);
            at += 2;
        }
        // The sequence's first word is its length; the rest ends with ones, as the list does.
        (words[SFP_SEQUENCE], words[SFP_SEQUENCE + 1], words[SFP_SEQUENCE + 2]) = (1, 0x1234, NONE);
        let mut image = Self { words };
        image.mend();
        image
    }

    /// A word; ones past the end.
    #[must_use]
    pub fn word(&self, at: u16) -> u16 {
        self.words.get(usize::from(at)).copied().unwrap_or(NONE)
    }

    /// Changes a word, and nothing else: the checksum is wrong then unless [`mend`](Self::mend) follows. Past the end
    /// nothing happens.
    pub fn set(&mut self, at: u16, value: u16) {
        if let Some(word) = self.words.get_mut(usize::from(at)) {
            *word = value;
        }
    }

    /// Makes the checksum right (6.3.6.10): it is over the first words and all parts that pointers 0x03 to 0x0f, without
    /// the firmware's, lead to.
    pub fn mend(&mut self) {
        self.words[CHECKSUM] = SUM.wrapping_sub(self.sum());
    }

    /// The sum of what the checksum is over, without it.
    fn sum(&self) -> u16 {
        let mut sum = self.words[..CHECKSUM].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        for pointer in &self.words[0x03..0x0f] {
            let start = usize::from(*pointer);
            if !(1..WORDS).contains(&start) {
                continue;
            }
            let len = usize::from(self.words[start]);
            if len == usize::from(NONE) || start + len >= WORDS {
                continue;
            }
            sum = self.words[start + 1..=start + len].iter().fold(sum, |sum, word| sum.wrapping_add(*word));
        }
        sum
    }

    /// The MAC address that the device loads into the first pair of RAL and RAH.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let core = self.word(0x09);
        let mut mac = [0; 6];
        for (index, pair) in (1..).zip(mac.chunks_exact_mut(2)) {
            pair.copy_from_slice(&self.word(core.wrapping_add(index)).to_le_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x90, 0xe2, 0xba, 1, 2, 3];

    #[test]
    fn the_checksum_is_right_until_a_word_changes() {
        let mut eeprom = Eeprom::new(MAC);
        let right = |eeprom: &Eeprom| eeprom.sum().wrapping_add(eeprom.word(0x3f)) == SUM;
        assert!(right(&eeprom));
        assert_eq!(eeprom.mac(), MAC);
        eeprom.set(0x301, 7);
        assert!(!right(&eeprom), "the core's part counts");
        eeprom.mend();
        assert!(right(&eeprom));
        eeprom.set(0x15, 0);
        assert!(!right(&eeprom));
        assert_eq!(eeprom.word(u16::MAX), NONE);
    }
}
