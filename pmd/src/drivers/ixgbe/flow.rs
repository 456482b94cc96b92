//! Flow control of the whole link: pause frames that are obeyed, and that are sent (datasheet 3.7.7; IEEE 802.3, 31B). What
//! the configuration says is done; nothing is negotiated, as SFP+ has no negotiation.

use core::str::FromStr;

use wirerate_eal::mmio::Mmio;

use super::registers::{
    FCCFG, FCCFG_TFCE, FCRTH, FCRTH_FCEN, FCRTL, FCRTL_XONE, FCRTV, MFLCN, MFLCN_DPF, MFLCN_RFCE, Registers,
    fcttv,
};

/// Bytes of the packet buffer that stay for what is on its way when the other end is told to pause: some of the longest
/// frames, and a cable's worth.
const HEADROOM: u32 = 96 << 10;
/// The other end may go on when so many bytes fewer are in the buffer.
const GAP: u32 = 64 << 10;
/// How long the other end is to pause, in quanta of 512 bit times; it is told again after half of that (8.2.3.3.5).
const PAUSE: u32 = 0xffff;

/// Which way frames are paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FlowControl {
    /// Pause frames of the other end are obeyed.
    pub(super) obeys: bool,
    /// The other end is told to pause when the packet buffer fills up. Frames then wait for buffers, and are not dropped queue
    /// by queue.
    pub(super) asks: bool,
}

impl FromStr for FlowControl {
    type Err = &'static str;

    /// By DPDK's names of modes.
    fn from_str(mode: &str) -> Result<Self, Self::Err> {
        let (obeys, asks) = match mode {
            "none" => (false, false),
            "rx" => (true, false),
            "tx" => (false, true),
            "full" => (true, true),
            _ => return Err("expected none, rx, tx or full"),
        };
        Ok(Self { obeys, asks })
    }
}

/// Pauses so, after a reset.
pub(super) fn set_up<B: Mmio>(registers: &Registers<B>, flow: FlowControl) {
    // Pause frames are nobody's but the MAC's.
    registers.change(MFLCN, MFLCN_RFCE, MFLCN_DPF | if flow.obeys { MFLCN_RFCE } else { 0 });
    let (low, high) = match flow.asks {
        true => {
            let high = registers.family().packet_buffer() - HEADROOM;
            ((high - GAP) | FCRTL_XONE, high | FCRTH_FCEN)
        }
        false => (0, 0),
    };
    registers.write(FCRTL, low);
    registers.write(FCRTH, high);
    for pair in 0..4 {
        registers.write(fcttv(pair), PAUSE | PAUSE << 16);
    }
    registers.write(FCRTV, PAUSE / 2);
    registers.write(FCCFG, if flow.asks { FCCFG_TFCE } else { 0 });
}
