//! Ethernet frames of many kinds and lengths, the same for the same seed.

pub use wirerate_nic::Random;

/// Bytes of the shortest frame, without its checksum.
pub const SHORTEST: usize = 60;
/// Bytes of the longest frame of an MTU of 1500, without its checksum.
pub const LONGEST: usize = 1514;

/// Bytes of the addresses that a forwarder rewrites.
pub const ADDRESSES: usize = 12;

/// `count` frames of 60 to 1514 bytes: IPv4 and IPv6 with UDP, the same with a VLAN tag, ARP, and a type that
/// nobody knows. No two are the same.
pub fn mixed(count: usize, seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random::new(seed);
    (0..count).map(move |index| {
        let length = match index {
            0 => SHORTEST,
            1 => LONGEST,
            _ => SHORTEST + random.below(LONGEST - SHORTEST + 1),
        };
        let mut frame = vec![0; length];
        random.fill(&mut frame);
        frame[..6].copy_from_slice(&[0x02, 0xaa, 0, 0, 0, index as u8]);
        frame[6..12].copy_from_slice(&[0x02, 0xbb, 0, 0, (index >> 8) as u8, index as u8]);
        match random.below(8) {
            0..3 => ipv4(&mut frame, 12),
            // Headers of 62 bytes, and the last 8 below.
            3..5 if length >= 70 => ipv6(&mut frame),
            5 => {
                frame[12..16].copy_from_slice(&[0x81, 0x00, 0x20, 177]);
                ipv4(&mut frame, 16);
            }
            6 => {
                // A request; what follows 28 bytes is padding.
                frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
            }
            // For local experiments (IEEE 802, clause 9.2.3).
            _ => frame[12..14].copy_from_slice(&[0x88, 0xb5]),
        }
        // The last bytes say which one it is.
        let end = length - 8;
        frame[end..].copy_from_slice(&(index as u64).to_be_bytes());
        frame
    })
}

/// UDP ports of a service that has no format (RFC 863): nobody looks further into such a frame.
const DISCARD: [u8; 4] = [0, 9, 0, 9];

/// Writes the type and headers of IPv4 and UDP at `at`. The UDP checksum is 0: not computed.
fn ipv4(frame: &mut [u8], at: usize) {
    let length = (frame.len() - at - 2) as u16;
    frame[at..at + 2].copy_from_slice(&[0x08, 0x00]);
    let header = &mut frame[at + 2..];
    header[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    header[2..4].copy_from_slice(&length.to_be_bytes());
    let words = header[..20].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    header[20..24].copy_from_slice(&DISCARD);
    header[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    header[26..28].fill(0);
}

/// Writes the type and headers of IPv6 and UDP, which end at byte 62.
fn ipv6(frame: &mut [u8]) {
    let payload = (frame.len() - 54) as u16;
    frame[12..20].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]);
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame[20..22].copy_from_slice(&[17, 64]);
    frame[54..58].copy_from_slice(&DISCARD);
    frame[58..60].copy_from_slice(&payload.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn frames_are_mixed_and_the_same_again() {
        let frames: Vec<_> = mixed(5000, 1).collect();
        assert!(mixed(5000, 1).eq(frames.iter().cloned()));
        assert!(!mixed(5000, 2).eq(frames.iter().cloned()));
        assert_eq!(frames.iter().collect::<HashSet<_>>().len(), 5000);
        let lengths: HashSet<usize> = frames.iter().map(Vec::len).collect();
        assert_eq!(lengths.iter().min(), Some(&60));
        assert_eq!(lengths.iter().max(), Some(&1514));
        assert!(lengths.len() > 1000);
        let types: HashSet<[u8; 2]> = frames.iter().map(|frame| [frame[12], frame[13]]).collect();
        assert_eq!(types.len(), 5);
    }

    #[test]
    fn ipv4_headers_have_a_right_checksum() {
        for frame in mixed(1000, 3).filter(|frame| frame[12..14] == [0x08, 0x00]) {
            let words = frame[14..34].chunks(2).map(|two| u64::from(two[0]) << 8 | u64::from(two[1]));
            // Ones' complement: a sum that is right is a multiple of 0xffff.
            assert_eq!(words.sum::<u64>() % 0xffff, 0);
        }
    }
}
