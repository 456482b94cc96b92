//! The registers that can be shown: those that reading does not change (datasheet 8.2.3).

use wirerate_eal::mmio::Mmio;

use super::registers::Registers;
use crate::port::RegisterValue;

/// A register, or so many of the same kind, and how many bytes these are apart.
type Row = (&'static str, usize, usize, usize);

/// What the whole port has.
const PORT: [Row; 51] = [
    ("CTRL", 0x00000, 1, 0),
    ("STATUS", 0x00008, 1, 0),
    ("CTRL_EXT", 0x00018, 1, 0),
    ("ESDP", 0x00020, 1, 0),
    ("I2CCTL", 0x00028, 1, 0),
    ("LEDCTL", 0x00200, 1, 0),
    ("EEC", 0x10010, 1, 0),
    ("EEMNGCTL", 0x10110, 1, 0),
    ("FWSM", 0x10148, 1, 0),
    ("SW_FW_SYNC", 0x10160, 1, 0),
    ("GPIE", 0x00898, 1, 0),
    ("EIMS", 0x00880, 1, 0),
    ("EIMS_EX", 0x00aa0, 2, 4),
    ("EIAC", 0x00810, 1, 0),
    ("EIAM_EX", 0x00ad0, 2, 4),
    ("IVAR", 0x00900, 8, 4),
    ("IVAR_MISC", 0x00a00, 1, 0),
    ("EITR", 0x00820, 16, 4),
    ("FCTTV", 0x03200, 4, 4),
    ("FCRTL", 0x03220, 1, 4),
    ("FCRTH", 0x03260, 1, 4),
    ("FCRTV", 0x032a0, 1, 0),
    ("FCCFG", 0x03d00, 1, 0),
    ("MFLCN", 0x04294, 1, 0),
    ("RXCTRL", 0x03000, 1, 0),
    ("RDRXCTL", 0x02f00, 1, 0),
    ("RXPBSIZE", 0x03c00, 8, 4),
    ("SECRXCTRL", 0x08d00, 1, 0),
    ("SECRXSTAT", 0x08d04, 1, 0),
    ("FCTRL", 0x05080, 1, 0),
    ("VLNCTRL", 0x05088, 1, 0),
    ("MCSTCTRL", 0x05090, 1, 0),
    ("RXCSUM", 0x05000, 1, 0),
    ("MRQC", 0x05818, 1, 0),
    ("RSSRK", 0x05c80, 10, 4),
    ("RETA", 0x05c00, 32, 4),
    ("RAL", 0x0a200, 4, 8),
    ("RAH", 0x0a204, 4, 8),
    ("DMATXCTL", 0x04a80, 1, 0),
    ("DTXMXSZRQ", 0x08100, 1, 0),
    ("RTTDCS", 0x04900, 1, 0),
    ("MTQC", 0x08120, 1, 0),
    ("TXPBSIZE", 0x0cc00, 8, 4),
    ("TXPBTHRESH", 0x04950, 8, 4),
    ("HLREG0", 0x04240, 1, 0),
    ("MAXFRS", 0x04268, 1, 0),
    ("AUTOC", 0x042a0, 1, 0),
    ("AUTOC2", 0x042a8, 1, 0),
    ("ANLP1", 0x042b0, 1, 0),
    ("LINKS", 0x042a4, 1, 0),
    ("CORECTL", 0x14f00, 1, 0),
];

/// What a receive and a transmit queue have.
const RX_QUEUE: [Row; 7] = [
    ("RDBAL", 0x01000, 1, 0x40),
    ("RDBAH", 0x01004, 1, 0x40),
    ("RDLEN", 0x01008, 1, 0x40),
    ("RDH", 0x01010, 1, 0x40),
    ("SRRCTL", 0x01014, 1, 0x40),
    ("RDT", 0x01018, 1, 0x40),
    ("RXDCTL", 0x01028, 1, 0x40),
];
const TX_QUEUE: [Row; 6] = [
    ("TDBAL", 0x06000, 1, 0x40),
    ("TDBAH", 0x06004, 1, 0x40),
    ("TDLEN", 0x06008, 1, 0x40),
    ("TDH", 0x06010, 1, 0x40),
    ("TDT", 0x06018, 1, 0x40),
    ("TXDCTL", 0x06028, 1, 0x40),
];

/// All of them, with `receives` and `sends` queues.
pub(super) fn dump<B: Mmio>(registers: &Registers<B>, receives: u16, sends: u16) -> Vec<RegisterValue> {
    let queues = [(&RX_QUEUE[..], receives), (&TX_QUEUE[..], sends)];
    let of_queues = queues.into_iter().flat_map(|(rows, count)| {
        rows.iter().map(move |(name, offset, _, stride)| (*name, *offset, usize::from(count), *stride))
    });
    let rows = PORT.into_iter().chain(of_queues);
    rows.flat_map(|(name, offset, count, stride)| {
        (0..count).map(move |index| {
            let offset = offset + index * stride;
            let name = if stride == 0 { name.to_owned() } else { format!("{name}[{index}]") };
            RegisterValue { name, offset: offset as u64, value: registers.read(offset) }
        })
    })
    .collect()
}
