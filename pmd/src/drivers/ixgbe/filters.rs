//! Which frames are received, and by which queue: VLANs (datasheet 7.4) and RSS (7.1.2.8).

use wirerate_eal::mmio::Mmio;

use super::chip::Family;
use super::registers::{
    MRQC, MRQC_FIELDS_SHIFT, MRQC_RSS, Registers, VLNCTRL, VLNCTRL_VFE, reta, rssrk, vfta,
};
use crate::port::{RssConfig, RssHash, RssInfo};

/// Bytes of the key.
const KEY_LEN: usize = 40;

/// What a device can do of RSS.
pub(super) const fn info(family: Family) -> RssInfo {
    RssInfo { key_len: KEY_LEN as u8, table_len: family.spread_entries(), hash: RssHash::all() }
}

/// Registers of the table, four entries each.
fn table_words(family: Family) -> usize {
    usize::from(family.spread_entries()) / 4
}

/// The headers, by the bits of MRQC's upper half (8.2.3.7.12).
const FIELDS: [(RssHash, u32); 6] = [
    (RssHash::TCPV4, 0),
    (RssHash::IPV4, 1),
    (RssHash::IPV6, 4),
    (RssHash::TCPV6, 5),
    (RssHash::UDPV4, 6),
    (RssHash::UDPV6, 7),
];

/// Receives frames of a VLAN, or not any more.
pub(super) fn set_vlan<B: Mmio>(registers: &Registers<B>, vlan: u16, on: bool) {
    let (word, bit) = (vfta(usize::from(vlan >> 5 & 0x7f)), 1 << (vlan & 0x1f));
    registers.change(word, if on { 0 } else { bit }, if on { bit } else { 0 });
}

/// Receives frames of those VLANs only, and those without a tag; or all.
pub(super) fn set_vlan_filter<B: Mmio>(registers: &Registers<B>, on: bool) {
    let (clear, set) = if on { (0, VLNCTRL_VFE) } else { (VLNCTRL_VFE, 0) };
    registers.change(VLNCTRL, clear, set);
}

/// Spreads frames so; none has all go to the first queue. A short key is as if zeros followed.
pub(super) fn set_rss<B: Mmio>(registers: &Registers<B>, rss: Option<&RssConfig>) {
    let Some(rss) = rss else {
        registers.write(MRQC, 0);
        return;
    };
    let byte = |at: usize| rss.key.get(at).copied().unwrap_or(0);
    for index in 0..KEY_LEN / 4 {
        let word = u32::from_le_bytes([0, 1, 2, 3].map(|at| byte(4 * index + at)));
        registers.write(rssrk(index), word);
    }
    let mut queues = rss.table.iter().cycle().map(|queue| *queue as u8);
    for index in 0..table_words(registers.family()) {
        let word = u32::from_le_bytes([0; 4].map(|_| queues.next().unwrap_or(0)));
        registers.write(reta(index), word);
    }
    let chosen = FIELDS.iter().filter(|(hash, _)| rss.hash.contains(*hash));
    let fields = chosen.fold(0, |fields, (_, bit)| fields | 1 << bit);
    registers.write(MRQC, MRQC_RSS | fields << MRQC_FIELDS_SHIFT);
}

/// How the device spreads frames now; none if it does not.
pub(super) fn rss<B: Mmio>(registers: &Registers<B>) -> Option<RssConfig> {
    let mrqc = registers.read(MRQC);
    if mrqc & MRQC_RSS == 0 || mrqc == u32::MAX {
        return None;
    }
    let bytes = |registers: &Registers<B>, words: usize, at: fn(usize) -> usize| -> Vec<u8> {
        (0..words).flat_map(|index| registers.read(at(index)).to_le_bytes()).collect()
    };
    let fields = mrqc >> MRQC_FIELDS_SHIFT;
    Some(RssConfig {
        hash: FIELDS.iter().filter(|(_, bit)| fields >> bit & 1 == 1).map(|(hash, _)| *hash).collect(),
        key: bytes(registers, KEY_LEN / 4, rssrk),
        table: bytes(registers, table_words(registers.family()), reta).into_iter().map(u16::from).collect(),
    })
}
