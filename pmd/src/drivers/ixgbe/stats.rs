//! What the device counts (datasheet 8.2.3.23): registers that reading clears, summed up here.

use wirerate_eal::mmio::Mmio;

use super::registers::Registers;
use crate::port::DeviceStats;

/// A register that counts.
#[derive(Debug, Clone, Copy)]
enum Register {
    /// 32 bits.
    Short(usize),
    /// 36 bits: the lower 32, then the rest.
    Long(usize, usize),
}
use Register::{Long, Short};

/// What the whole port counts, by DPDK's names.
const PORT: [(&str, Register); 42] = [
    ("rx_crc_errors", Short(0x04000)),
    ("rx_illegal_byte_errors", Short(0x04004)),
    ("rx_error_bytes", Short(0x04008)),
    ("mac_short_packet_discard", Short(0x04010)),
    ("mac_local_errors", Short(0x04034)),
    ("mac_remote_errors", Short(0x04038)),
    ("rx_length_errors", Short(0x04040)),
    ("tx_xon_packets", Short(0x03f60)),
    ("tx_xoff_packets", Short(0x03f68)),
    ("rx_xon_packets", Short(0x041a4)),
    ("rx_xoff_packets", Short(0x041a8)),
    ("rx_size_64_packets", Short(0x0405c)),
    ("rx_size_65_to_127_packets", Short(0x04060)),
    ("rx_size_128_to_255_packets", Short(0x04064)),
    ("rx_size_256_to_511_packets", Short(0x04068)),
    ("rx_size_512_to_1023_packets", Short(0x0406c)),
    ("rx_size_1024_to_max_packets", Short(0x04070)),
    ("rx_good_packets_of_device", Short(0x04074)),
    ("rx_broadcast_packets", Short(0x04078)),
    ("rx_multicast_packets", Short(0x0407c)),
    ("tx_good_packets_of_device", Short(0x04080)),
    ("rx_good_bytes_of_device", Long(0x04088, 0x0408c)),
    ("tx_good_bytes_of_device", Long(0x04090, 0x04094)),
    ("rx_undersize_errors", Short(0x040a4)),
    ("rx_fragment_errors", Short(0x040a8)),
    ("rx_oversize_errors", Short(0x040ac)),
    ("rx_jabber_errors", Short(0x040b0)),
    ("rx_total_bytes", Long(0x040c0, 0x040c4)),
    ("rx_total_packets", Short(0x040d0)),
    ("tx_total_packets", Short(0x040d4)),
    ("tx_size_64_packets", Short(0x040d8)),
    ("tx_size_65_to_127_packets", Short(0x040dc)),
    ("tx_size_128_to_255_packets", Short(0x040e0)),
    ("tx_size_256_to_511_packets", Short(0x040e4)),
    ("tx_size_512_to_1023_packets", Short(0x040e8)),
    ("tx_size_1024_to_max_packets", Short(0x040ec)),
    ("tx_multicast_packets", Short(0x040f0)),
    ("tx_broadcast_packets", Short(0x040f4)),
    ("rx_management_packets", Short(0x040b4)),
    ("rx_management_dropped", Short(0x040b8)),
    ("tx_management_packets", Short(0x0cf90)),
    ("rx_l3_l4_xsum_error", Short(0x04120)),
];

/// Packets that found no room in a packet buffer (MPC), one register for each of 8.
const fn missed(buffer: usize) -> Register {
    Short(0x03fa0 + 4 * buffer)
}
const BUFFERS: usize = 8;
/// Packets that found no descriptor (QPRDC), one register for each of 16 sets of queue statistics.
const fn no_descriptor(set: usize) -> Register {
    Short(0x01430 + 0x40 * set)
}
const SETS: usize = 16;
/// What a set counts of its queue, both ways.
const fn of_queue(set: usize) -> [(&'static str, Register); 4] {
    let [rx, tx] = [0x01034 + 0x40 * set, 0x08700 + 8 * set];
    [
        ("rx_packets", Short(0x01030 + 0x40 * set)),
        ("rx_bytes", Long(rx, rx + 4)),
        ("tx_packets", Short(0x08680 + 4 * set)),
        ("tx_bytes", Long(tx, tx + 4)),
    ]
}
/// Which set counts for queues: four queues a register, a byte each (8.2.3.23.71, 8.2.3.23.73).
const SET_OF_QUEUES: [usize; 2] = [0x02300, 0x08600];

/// Sums since the last reset of the counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Totals {
    port: [u64; PORT.len()],
    queues: [[u64; 4]; SETS],
    missed: u64,
    no_descriptor: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { port: [0; PORT.len()], queues: [[0; 4]; SETS], missed: 0, no_descriptor: 0 }
    }
}

/// Has queue statistics `n` count for queue `n`, both ways.
pub(super) fn prepare<B: Mmio>(registers: &Registers<B>) {
    for base in SET_OF_QUEUES {
        for index in 0..SETS as u32 / 4 {
            let first = 4 * index;
            let sets = u32::from_le_bytes([0, 1, 2, 3]) + first * 0x0101_0101;
            registers.write(base + 4 * index as usize, sets);
        }
    }
}

/// Sets all registers to zero (4.6.5).
pub(super) fn clear<B: Mmio>(registers: &Registers<B>) {
    Totals::default().add(registers);
}

impl Totals {
    /// Adds what the device has counted since it was asked last. False, and nothing added, when the device is gone.
    pub(super) fn add<B: Mmio>(&mut self, registers: &Registers<B>) -> bool {
        let mut sum = self.clone();
        for (total, (_, register)) in sum.port.iter_mut().zip(PORT) {
            *total += read(registers, register);
        }
        for (set, totals) in sum.queues.iter_mut().enumerate() {
            for (total, (_, register)) in totals.iter_mut().zip(of_queue(set)) {
                *total += read(registers, register);
            }
        }
        sum.missed += (0..BUFFERS).map(|buffer| read(registers, missed(buffer))).sum::<u64>();
        sum.no_descriptor += (0..SETS).map(|set| read(registers, no_descriptor(set))).sum::<u64>();
        // One that went meanwhile has counted all ones.
        let here = !registers.is_gone();
        if here {
            *self = sum;
        }
        here
    }

    /// The sums, by their names, with those of so many queues.
    pub(super) fn tell(&self, queues: usize) -> DeviceStats {
        let mut extended: Vec<(String, u64)> =
            PORT.iter().zip(self.port).map(|((name, _), total)| ((*name).to_owned(), total)).collect();
        for (queue, totals) in self.queues.iter().enumerate().take(queues) {
            for (total, (name, _)) in totals.iter().zip(of_queue(queue)) {
                extended.push((format!("device_q{queue}_{name}"), *total));
            }
        }
        extended.push(("rx_missed_packets".to_owned(), self.missed));
        extended.push(("rx_no_descriptor_packets".to_owned(), self.no_descriptor));
        DeviceStats { missed: self.missed + self.no_descriptor, extended }
    }
}

fn read<B: Mmio>(registers: &Registers<B>, register: Register) -> u64 {
    match register {
        Short(at) => registers.read(at).into(),
        // The lower half first: the upper one is held until then, and is cleared with it.
        Long(low, high) => u64::from(registers.read(low)) | u64::from(registers.read(high) & 0xf) << 32,
    }
}
