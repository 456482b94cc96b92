//! What a virtual function counts (82599 datasheet, 8.3.5.5): registers that go round, and that neither reading nor a reset
//! clears, added up here.

use wirerate_eal::mmio::Mmio;

use super::registers::{VFGORC, VFGOTC, VFGPRC, VFGPTC, VFMPRC};
use crate::drivers::ixgbe::registers::Registers;
use crate::port::DeviceStats;

const NAMES: [&str; 5] = [
    "rx_good_packets_of_device",
    "tx_good_packets_of_device",
    "rx_multicast_packets",
    "rx_good_bytes_of_device",
    "tx_good_bytes_of_device",
];
/// Bits of each: packets, then bytes.
const BITS: [u32; NAMES.len()] = [32, 32, 32, 36, 36];

/// Sums since the last reset of the counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Totals {
    last: [u64; NAMES.len()],
    sums: [u64; NAMES.len()],
}

fn now<B: Mmio>(registers: &Registers<B>) -> [u64; NAMES.len()] {
    let short = |register| u64::from(registers.read(register));
    let long = |(low, high)| {
        // The upper half may have counted on between the two, which it does once in seconds.
        let (before, lower, upper) = (short(high), short(low), short(high));
        let lower = if before == upper { lower } else { short(low) };
        lower | (upper & 0xf) << 32
    };
    [short(VFGPRC), short(VFGPTC), short(VFMPRC), long(VFGORC), long(VFGOTC)]
}

impl Totals {
    /// Begins where the registers are now: what they have was counted for others.
    pub(super) fn begin<B: Mmio>(&mut self, registers: &Registers<B>) {
        self.last = now(registers);
    }

    /// Adds what was counted since the registers were read last. False, and nothing added, when the device is gone.
    pub(super) fn add<B: Mmio>(&mut self, registers: &Registers<B>) -> bool {
        let now = now(registers);
        // One that went meanwhile has counted all ones.
        let here = !registers.is_gone();
        if here {
            for ((sum, last), (now, bits)) in
                self.sums.iter_mut().zip(&mut self.last).zip(now.into_iter().zip(BITS))
            {
                *sum += now.wrapping_sub(*last) & ((1 << bits) - 1);
                *last = now;
            }
        }
        here
    }

    /// Counts from zero.
    pub(super) fn reset(&mut self) {
        self.sums = Default::default();
    }

    /// The sums, by their names.
    pub(super) fn tell(&self) -> DeviceStats {
        let extended = NAMES.iter().zip(self.sums).map(|(name, sum)| ((*name).to_owned(), sum)).collect();
        DeviceStats { missed: 0, extended }
    }
}
