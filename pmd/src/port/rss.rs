//! How received packets are spread over queues by a hash of their headers.

use bitflags::bitflags;

bitflags! {
    /// Headers that a hash is made of, by the bits of virtio 1.2, 5.1.6.4.3.1. The most specific one that a packet has
    /// counts.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RssHash: u32 {
        /// IPv4 addresses.
        const IPV4 = 1 << 0;
        /// IPv4 addresses and TCP ports.
        const TCPV4 = 1 << 1;
        /// IPv4 addresses and UDP ports.
        const UDPV4 = 1 << 2;
        /// IPv6 addresses.
        const IPV6 = 1 << 3;
        /// IPv6 addresses and TCP ports.
        const TCPV6 = 1 << 4;
        /// IPv6 addresses and UDP ports.
        const UDPV6 = 1 << 5;
    }
}

/// What a device can do of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RssInfo {
    /// The longest key, in bytes; 40 or more.
    pub key_len: u8,
    /// The longest table, in entries; a power of two.
    pub table_len: u16,
    /// The headers that it knows.
    pub hash: RssHash,
}

/// How packets are to be spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssConfig {
    /// The headers that count. Packets that have none of them go to queue 0.
    pub hash: RssHash,
    /// The Toeplitz key, in bytes.
    pub key: Vec<u8>,
    /// The receive queue for each value of the hash's lowest bits; as many entries as a power of two.
    pub table: Vec<u16>,
}

impl RssConfig {
    /// The key that Microsoft's specification of RSS gives as an example, which most drivers begin with.
    pub const USUAL_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// All headers that `info` names, over `queues` queues in turn; at least one queue.
    #[must_use]
    pub fn even(info: RssInfo, queues: u16) -> Self {
        let table = (0..info.table_len).map(|at| at % queues.max(1)).collect();
        Self { hash: info.hash, key: Self::USUAL_KEY.to_vec(), table }
    }

    /// Why a device of `info` with `queues` receive queues cannot do this; none if it can.
    #[must_use]
    pub fn problem(&self, info: RssInfo, queues: u16) -> Option<String> {
        let (key, table) = (self.key.len(), self.table.len());
        if !info.hash.contains(self.hash) {
            return Some(format!("the device hashes {:?} and not {:?}", info.hash, self.hash - info.hash));
        }
        if key == 0 || key > usize::from(info.key_len) {
            return Some(format!("a key of {key} bytes, and the device takes 1 to {}", info.key_len));
        }
        if !table.is_power_of_two() || table > usize::from(info.table_len) {
            return Some(format!(
                "a table of {table} entries; expected a power of two up to {}",
                info.table_len
            ));
        }
        let outside = self.table.iter().find(|queue| **queue >= queues)?;
        Some(format!("the table names rx queue {outside} of {queues}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_a_device_cannot_do_is_told() {
        let info = RssInfo { key_len: 40, table_len: 128, hash: RssHash::IPV4 | RssHash::TCPV4 };
        let even = RssConfig::even(info, 3);
        assert_eq!((even.problem(info, 3), even.table.len(), even.table[4]), (None, 128, 1));
        assert!(even.problem(info, 2).unwrap().contains("rx queue 2 of 2"));
        for (change, problem) in [
            (RssConfig { hash: RssHash::UDPV6, ..even.clone() }, "hashes"),
            (RssConfig { key: vec![0; 41], ..even.clone() }, "key of 41"),
            (RssConfig { key: Vec::new(), ..even.clone() }, "key of 0"),
            (RssConfig { table: vec![0; 3], ..even.clone() }, "table of 3"),
            (RssConfig { table: vec![0; 256], ..even.clone() }, "table of 256"),
            (RssConfig { table: Vec::new(), ..even }, "table of 0"),
        ] {
            assert!(change.problem(info, 3).unwrap().contains(problem), "{problem}");
        }
    }
}
