//! The header before each packet of a network device (virtio 1.2, 5.1.6).

use super::features::Features;

/// Bytes of the header; the device and driver of virtio 1.0 and later always have all of them.
pub const LEN: usize = 12;
/// Bytes that it has with legacy devices without mergeable buffers: the last field is missing.
pub const LEGACY_LEN: usize = 10;

/// [`NetHeader::flags`]: the checksum is to be completed.
pub const NEEDS_CHECKSUM: u8 = 1;
/// [`NetHeader::flags`]: the checksum was looked at, and is right.
pub const DATA_VALID: u8 = 2;

/// [`NetHeader::gso_type`]: a packet as on a wire.
pub const GSO_NONE: u8 = 0;
/// [`NetHeader::gso_type`]: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// [`NetHeader::gso_type`]: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// [`NetHeader::gso_type`]: with congestion marks.
pub const GSO_ECN: u8 = 0x80;

/// The header, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetHeader {
    /// [`NEEDS_CHECKSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCPV4`], [`GSO_TCPV6`], with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers of a large packet; a hint.
    pub header_len: u16,
    /// Payload bytes in each segment of a large packet.
    pub gso_size: u16,
    /// Where the checksum begins to count.
    pub checksum_start: u16,
    /// Where it is to be written, after its start.
    pub checksum_offset: u16,
    /// Buffers that the packet lies in, when they are mergeable.
    pub buffers: u16,
}

impl NetHeader {
    /// Reads a header. A legacy one has its last field missing; it comes as 0 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        const fn word(bytes: &[u8; LEN], at: usize) -> u16 {
            u16::from_le_bytes([bytes[at], bytes[at + 1]])
        }
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: word(&bytes, 2),
            gso_size: word(&bytes, 4),
            checksum_start: word(&bytes, 6),
            checksum_offset: word(&bytes, 8),
            buffers: word(&bytes, 10),
        }
    }

    /// The header as it lies in memory.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; LEN] {
        let [header, size, start, offset, buffers] = [
            self.header_len.to_le_bytes(),
            self.gso_size.to_le_bytes(),
            self.checksum_start.to_le_bytes(),
            self.checksum_offset.to_le_bytes(),
            self.buffers.to_le_bytes(),
        ];
        [
            self.flags,
            self.gso_type,
            header[0],
            header[1],
            size[0],
            size[1],
            start[0],
            start[1],
            offset[0],
            offset[1],
            buffers[0],
            buffers[1],
        ]
    }

    /// Reads a whole header where it lies in shared memory: its first 8 bytes and its last 4, each once.
    ///
    /// # Safety
    /// [`LEN`] bytes are readable at `place`.
    #[inline(always)]
    pub(crate) unsafe fn words(place: *const u8) -> (u64, u32) {
        // SAFETY: as the caller says; the reads need no alignment.
        unsafe {
            let first = place.cast::<u64>().read_unaligned();
            let last = place.add(8).cast::<u32>().read_unaligned();
            (u64::from_le(first), u32::from_le(last))
        }
    }

    /// A header out of its [words](Self::words).
    #[inline]
    #[must_use]
    pub(crate) const fn from_words((first, last): (u64, u32)) -> Self {
        Self {
            flags: first as u8,
            gso_type: (first >> 8) as u8,
            header_len: (first >> 16) as u16,
            gso_size: (first >> 32) as u16,
            checksum_start: (first >> 48) as u16,
            checksum_offset: last as u16,
            buffers: (last >> 16) as u16,
        }
    }

    /// Whether the packet is as on a wire, with nothing said of its checksum.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.flags == 0 && self.gso_type == GSO_NONE
    }
}

/// Bytes of the header with these features.
#[inline]
#[must_use]
pub const fn len_with(features: Features) -> usize {
    if features.intersects(Features::VERSION_1.union(Features::MRG_RXBUF)) { LEN } else { LEGACY_LEN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_numbers_are_the_same() {
        let bytes = [1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 3, 0];
        let header = NetHeader::from_bytes(bytes);
        assert_eq!(
            header,
            NetHeader {
                flags: NEEDS_CHECKSUM,
                gso_type: GSO_TCPV4 | GSO_ECN,
                header_len: 54,
                gso_size: 1460,
                checksum_start: 34,
                checksum_offset: 16,
                buffers: 3
            }
        );
        assert_eq!(header.to_bytes(), bytes);
        // SAFETY: the array has all bytes of a header.
        assert_eq!(NetHeader::from_words(unsafe { NetHeader::words(bytes.as_ptr()) }), header);
        assert!(!header.is_plain() && NetHeader { buffers: 1, ..NetHeader::default() }.is_plain());
        assert_eq!((len_with(Features::empty()), len_with(Features::VERSION_1)), (10, 12));
    }
}
