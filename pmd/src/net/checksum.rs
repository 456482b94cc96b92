//! The internet checksum (RFC 1071), whole and mended in place (RFC 1624).

/// A one's complement sum that is being built from pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; a piece of odd length may only be the last.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // The sum may be taken in any word size and either byte order, if it is folded and swapped at the end
        // (RFC 1071, section 2): 32-bit words in the machine's order, of which 2^32 fit the accumulator.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 = fold(self.0 + fold(sum) + u64::from(u32::from_ne_bytes(last)));
        self
    }

    /// Adds bytes that stand `at` bytes behind the first of what is summed, so that pieces may have any length.
    #[must_use]
    pub fn piece(mut self, bytes: &[u8], at: usize) -> Self {
        let sum = fold(Self::default().bytes(bytes).0) as u16;
        // What begins in the middle of a 16-bit word has its bytes in the other's places (RFC 1071, section 2).
        let sum = if at % 2 == 1 { sum.swap_bytes() } else { sum };
        self.0 = fold(self.0 + u64::from(sum));
        self
    }

    /// Adds a 16-bit value of the host's, as it stands on the wire.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// The checksum to be written into the header, as a value of the host's.
    #[must_use]
    pub fn finish(self) -> u16 {
        u16::from_be(!(fold(fold(self.0)) as u16))
    }
}

/// Folds to at most 17 bits; twice, to 16.
fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    (sum & 0xffff) + (sum >> 16)
}

/// The checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

/// The checksum of a header after one of its 16-bit words changed from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub fn mended(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u64::from(!checksum) + u64::from(!old) + u64::from(new);
    !(fold(fold(sum)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Word by word as RFC 1071 states it, to check the wide one against.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn any_length_and_content_agrees_with_the_plain_sum() {
        let mut state = 1_u64;
        for len in 0..1600 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            assert_eq!(checksum(&bytes), plain(&bytes), "{len} bytes");
            assert_eq!(checksum(&vec![0xff; len]), plain(&vec![0xff; len]), "{len} times 0xff");
        }
    }

    #[test]
    fn pieces_of_any_length_sum_to_the_whole() {
        let bytes: Vec<u8> = (0..200_u32).map(|at| (at * 151 + at / 7) as u8).collect();
        for step in 1..40 {
            let mut sum = Sum::default();
            for (index, piece) in bytes.chunks(step).enumerate() {
                sum = sum.piece(piece, index * step);
            }
            assert_eq!(sum.finish(), plain(&bytes), "pieces of {step}");
        }
    }

    #[test]
    fn mending_is_the_same_as_computing_anew() {
        let mut header = [0x45_u8, 0, 0, 84, 0x12, 0x34, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let before = checksum(&header);
        let (old, new) = (u16::from_be_bytes([header[8], header[9]]), 0x3f01_u16);
        header[8..10].copy_from_slice(&new.to_be_bytes());
        assert_eq!(mended(before, old, new), checksum(&header));
    }
}
