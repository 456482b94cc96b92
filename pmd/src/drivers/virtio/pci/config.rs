//! What a network device says of itself in its configuration (virtio 1.2, 5.1.4).

use wirerate_eal::mmio::Mmio;

use super::common::Registers;
use super::error::VirtioPciError;
use crate::port::{RssHash, RssInfo};
use crate::virtqueue::Features;

/// Status: the link is up.
const LINK_UP: u16 = 1;
/// Status: the driver is to announce itself.
const ANNOUNCE: u16 = 2;

/// As many entries of an indirection table, and bytes of a key, as are used: a command has to fit its buffer.
const MOST_ENTRIES: u16 = 256;
const MOST_KEY: u8 = 52;

/// A device's configuration, as far as its features say that it means something.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NetConfig {
    pub(super) mac: [u8; 6],
    pub(super) mtu: u16,
    /// Pairs of queues; 1 when it can have no more.
    pub(super) pairs: u16,
    pub(super) rss: Option<RssInfo>,
}

impl NetConfig {
    /// Reads all that does not change.
    ///
    /// # Errors
    /// [`VirtioPciError::Unstable`], and [`VirtioPciError::Structure`] when the configuration is shorter than the features
    /// say.
    pub(super) fn read<B: Mmio>(
        registers: &Registers<B>,
        features: Features,
    ) -> Result<Self, VirtioPciError> {
        let read = |registers: &Registers<B>| {
            let mut config = Self { pairs: 1, ..Self::default() };
            if features.contains(Features::MAC) {
                for (at, byte) in config.mac.iter_mut().enumerate() {
                    *byte = registers.config8(at)?;
                }
            }
            if features.intersects(Features::MQ | Features::RSS) {
                // 5.1.4.1: at least 1.
                config.pairs = registers.config16(8)?.max(1);
            }
            if features.contains(Features::MTU) {
                config.mtu = registers.config16(10)?;
            }
            if features.contains(Features::RSS) {
                let (key, table) = (registers.config8(17)?, registers.config16(18)?);
                let hash = RssHash::from_bits_truncate(registers.config32(20)?);
                // 5.1.4.1: a key of at least 40 bytes, and a table of at least 128 entries.
                if key >= 40 && table >= 128 {
                    let table_len = 1 << table.min(MOST_ENTRIES).ilog2();
                    config.rss = Some(RssInfo { key_len: key.min(MOST_KEY), table_len, hash });
                }
            }
            Some(config)
        };
        registers.stable(read)?.ok_or_else(short)
    }
}

/// What changes while a device works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    /// Whether the link is up.
    pub(super) up: bool,
    /// Whether the device asks to be announced.
    pub(super) announce: bool,
    /// Megabits a second, where it is told.
    pub(super) speed: Option<u32>,
}

impl Now {
    /// Reads it.
    ///
    /// # Errors
    /// As for [`NetConfig::read`].
    pub(super) fn read<B: Mmio>(
        registers: &Registers<B>,
        features: Features,
    ) -> Result<Self, VirtioPciError> {
        let read = |registers: &Registers<B>| {
            let status = if features.contains(Features::STATUS) { registers.config16(6)? } else { LINK_UP };
            let announce = features.contains(Features::GUEST_ANNOUNCE) && status & ANNOUNCE != 0;
            let speed = features.contains(Features::SPEED_DUPLEX).then(|| registers.config32(12)).flatten();
            // Any number up to 2^31 - 1 is a speed; others say that it is not known.
            let speed = speed.filter(|speed| (1..=i32::MAX as u32).contains(speed));
            Some(Self { up: status & LINK_UP != 0, announce, speed })
        };
        registers.stable(read)?.ok_or_else(short)
    }
}

fn short() -> VirtioPciError {
    let problem = "it is shorter than the device's features say".to_owned();
    VirtioPciError::Structure { what: "device configuration", problem }
}
