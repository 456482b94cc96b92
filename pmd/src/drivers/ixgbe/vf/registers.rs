//! The registers of a virtual function beside those of receive queues, which are where a physical function has its own
//! (82599 datasheet, 8.3.5).

/// Bytes of registers that are used here.
pub(super) const LEN: usize = 0x4000;

/// Control: a reset of the function.
pub(super) const VFCTRL: usize = 0x00000;
pub(super) const VFCTRL_RST: u32 = 1 << 26;
/// The link's state, as LINKS of the physical function has it.
pub(super) const VFLINKS: usize = 0x00010;

/// Interrupt causes, which reading clears, and their masks, by which writing ones lets them through and keeps them back.
pub(super) const VTEICR: usize = 0x00100;
pub(super) const VTEIMS: usize = 0x00108;
pub(super) const VTEIMC: usize = 0x0010c;
pub(super) const VTEIMC_ALL: u32 = 0b111;
/// Causes that clear themselves, and that mask themselves, when they are told of.
pub(super) const VTEIAC: usize = 0x00110;
pub(super) const VTEIAM: usize = 0x00114;
/// Vectors, and how far apart the interrupts of the first two are.
pub(super) const VECTORS: u16 = 3;
pub(super) const fn vteitr(vector: usize) -> usize {
    0x00820 + 4 * vector
}
/// Which vectors queues have, two queues a register, and which the mailbox.
pub(super) const fn vtivar(pair: usize) -> usize {
    0x00120 + 4 * pair
}
pub(super) const VTIVAR_MISC: usize = 0x00140;

/// The mailbox's words.
pub(super) const fn vfmbmem(word: usize) -> usize {
    0x00200 + 4 * word
}
pub(super) const MAILBOX_WORDS: usize = 16;
/// The mailbox: a request, an acknowledgement; whose the words are; a message of the physical function, its acknowledgement;
/// it is being reset, it was.
pub(super) const VFMAILBOX: usize = 0x002fc;
pub(super) const MAILBOX_REQ: u32 = 1 << 0;
pub(super) const MAILBOX_ACK: u32 = 1 << 1;
pub(super) const MAILBOX_VFU: u32 = 1 << 2;
pub(super) const MAILBOX_PFSTS: u32 = 1 << 4;
pub(super) const MAILBOX_PFACK: u32 = 1 << 5;
pub(super) const MAILBOX_RSTI: u32 = 1 << 6;
pub(super) const MAILBOX_RSTD: u32 = 1 << 7;
/// Its bits that reading clears.
pub(super) const MAILBOX_ONCE: u32 = MAILBOX_PFSTS | MAILBOX_PFACK | MAILBOX_RSTD;

/// How received packets are split and spread: over two to the power of its upper bits queues.
pub(super) const VFPSRTYPE: usize = 0x00300;
pub(super) const VFPSRTYPE_RQPL_SHIFT: u32 = 29;

/// The first transmit queue's registers.
pub(super) const VFTDBAL: usize = 0x02000;
/// The heads that a transmit queue's device would write back.
pub(super) const fn vftdwbal(queue: usize) -> usize {
    0x02038 + 0x40 * queue
}
pub(super) const fn vftdwbah(queue: usize) -> usize {
    0x0203c + 0x40 * queue
}
/// A transmit queue's control.
pub(super) const fn vftxdctl(queue: usize) -> usize {
    0x02028 + 0x40 * queue
}

/// Good packets and bytes, both ways, and received packets for groups. They go round, at 32 and 36 bits.
pub(super) const VFGPRC: usize = 0x0101c;
pub(super) const VFGORC: (usize, usize) = (0x01020, 0x01024);
pub(super) const VFMPRC: usize = 0x01034;
pub(super) const VFGPTC: usize = 0x0201c;
pub(super) const VFGOTC: (usize, usize) = (0x02020, 0x02024);
