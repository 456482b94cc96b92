//! Rings of descriptors: how a driver sets them up and hands descriptors over (datasheet, 4.6.7, 4.6.8, 7.1 and 7.2).

use super::classify::etqf_is_wrong;
use super::memory::{Dma, Unreachable};
use super::model::Model;
use super::registers::Found;
use super::transmit::FLUSH;

/// RXDCTL.ENABLE and TXDCTL.ENABLE (8.2.3.8.6, 8.2.3.9.10).
pub(crate) const ENABLE: u32 = 1 << 25;
/// RXCTRL.RXEN (8.2.3.8.10), DMATXCTL.TE (8.2.3.9.2).
pub(crate) const RX_ENABLE: u32 = 1 << 0;
pub(crate) const TX_ENABLE: u32 = 1 << 0;
/// SECRXCTRL.RX_DIS and SECTXCTRL.TX_DIS (8.2.3.12).
pub(crate) const SECURITY_HALT: u32 = 1 << 1;
/// CTRL_EXT.EXTENDED_VLAN (8.2.3.1.3).
const EXTENDED_VLAN: u32 = 1 << 26;
/// RTTDCS.ARBDIS (8.2.3.10.2).
const ARBITER_OFF: u32 = 1 << 6;
/// Checksums are cut off, as two registers have to agree on: HLREG0.RXCRCSTRP and RDRXCTL.CRCStrip (4.6.7).
pub(crate) const HLREG0_STRIP: u32 = 1 << 1;
const RDRXCTL_STRIP: u32 = 1 << 1;
/// SRRCTL (8.2.3.8.7).
pub(crate) const SRRCTL_TYPE: u32 = 7 << 25;
pub(crate) const SRRCTL_ADVANCED: u32 = 1 << 25;
const SRRCTL_SIZE: u32 = 0x1f;
const SRRCTL_DROP: u32 = 1 << 28;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: usize = 16;

/// The registers of one direction's queues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) low: &'static str,
    pub(crate) high: &'static str,
    pub(crate) len: &'static str,
    pub(crate) head: &'static str,
    pub(crate) tail: &'static str,
    pub(crate) control: &'static str,
}

pub(crate) const RX: Side =
    Side { low: "RDBAL", high: "RDBAH", len: "RDLEN", head: "RDH", tail: "RDT", control: "RXDCTL" };
pub(crate) const TX: Side =
    Side { low: "TDBAL", high: "TDBAH", len: "TDLEN", head: "TDH", tail: "TDT", control: "TXDCTL" };

/// A ring as its registers have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ring {
    pub(crate) base: u64,
    /// Descriptors.
    pub(crate) len: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

impl Ring {
    /// The device address of a descriptor.
    pub(crate) fn at(&self, index: u32) -> u64 {
        self.base.wrapping_add(u64::from(index) * DESCRIPTOR as u64)
    }

    /// The place after one.
    pub(crate) fn after(&self, index: u32) -> u32 {
        if index + 1 >= self.len { 0 } else { index + 1 }
    }

    /// How many the device has.
    pub(crate) fn filled(&self) -> u32 {
        self.distance(self.head, self.tail)
    }

    fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + self.len - from }
    }
}

impl Model {
    /// The way to memory.
    pub fn set_dma(&mut self, dma: Box<dyn Dma>) {
        self.dma = Some(dma);
    }

    pub(crate) fn ring(&self, side: &Side, queue: u32) -> Ring {
        let value = |name| self.value_of(name, queue);
        Ring {
            base: u64::from(value(side.high)) << 32 | u64::from(value(side.low)),
            len: value(side.len) / DESCRIPTOR as u32,
            head: value(side.head),
            tail: value(side.tail),
        }
    }

    /// Whether what is written to a queue's register is kept, be it right or wrong.
    pub(crate) fn may_write_ring(&mut self, found: &Found, value: u32) -> bool {
        let (name, queue) = (found.register.name, found.index);
        let problem = match name {
            "RXCTRL" => self.receive_is_not_ready(value),
            "CTRL_EXT" => (value & EXTENDED_VLAN != 0)
                .then_some("EXTENDED_VLAN asks for two tags in each frame, which the model has not"),
            "RXCSUM" => self.rxcsum_is_wrong(value),
            "FCCFG" | "MFLCN" => Self::flow_is_wrong(name, value),
            "MRQC" => self.mrqc_is_wrong(value),
            "ETQF" => etqf_is_wrong(value),
            "FTQF" | "SYNQF" => Self::classifier_is_missing(found, value),
            "MTQC" if self.value("RTTDCS") & ARBITER_OFF == 0 && value != self.value("MTQC") => {
                Some("RTTDCS.ARBDIS is to be set while it changes")
            }
            "RXDCTL" if self.starts(&RX, queue, value) => self.rx_is_not_ready(queue),
            "TXDCTL" if self.starts(&TX, queue, value) => self.tx_is_not_ready(queue),
            // What becomes of frames without room may change at any time: Linux does so when the link comes up.
            "SRRCTL" if (value ^ self.value_of("SRRCTL", queue)) & !SRRCTL_DROP == 0 => None,
            // DPDK writes 0 to both after it has enabled the queue, where they are 0.
            "RDH" | "TDH" if value == self.value_of(name, queue) => None,
            "RDBAL" | "RDBAH" | "RDLEN" | "RDH" | "SRRCTL" => self.is_in_use(&RX, queue),
            "TDBAL" | "TDBAH" | "TDLEN" | "TDH" | "TDWBAL" | "TDWBAH" => self.is_in_use(&TX, queue),
            "RDT" => self.tail_is_wrong(&RX, queue, value),
            "TDT" => self.tail_is_wrong(&TX, queue, value),
            _ => None,
        };
        if let Some(what) = problem {
            self.fault(found, value, what);
        }
        problem.is_none() || self.is_kept_all_the_same(name, queue)
    }

    /// What is written at a wrong time and stands there nevertheless, as Linux's test of the registers asks of cards: the
    /// receiver's enable bit, and the tail of a queue that is off.
    fn is_kept_all_the_same(&self, name: &str, queue: u32) -> bool {
        match name {
            "RXCTRL" => true,
            "RDT" => self.value_of(RX.control, queue) & ENABLE == 0,
            "TDT" => self.value_of(TX.control, queue) & ENABLE == 0,
            _ => false,
        }
    }

    fn starts(&self, side: &Side, queue: u32, value: u32) -> bool {
        value & ENABLE != 0 && self.value_of(side.control, queue) & ENABLE == 0
    }

    /// The receive path is to be enabled last, while the security block is halted (4.6.7).
    fn receive_is_not_ready(&self, value: u32) -> Option<&'static str> {
        if value & RX_ENABLE == 0 || self.value("RXCTRL") & RX_ENABLE != 0 {
            return None;
        }
        let strips = (self.value("HLREG0") & HLREG0_STRIP != 0, self.value("RDRXCTL") & RDRXCTL_STRIP != 0);
        if self.value("SECRXCTRL") & SECURITY_HALT == 0 {
            return Some("SECRXCTRL.RX_DIS is to be set while the receiver is enabled (4.6.7)");
        }
        (strips.0 != strips.1).then_some("HLREG0.RXCRCSTRP and RDRXCTL.CRCStrip are to be the same (4.6.7)")
    }

    fn ring_is_not_ready(&self, side: &Side, queue: u32) -> Option<&'static str> {
        let ring = self.ring(side, queue);
        if ring.len == 0 {
            return Some("a queue is enabled whose ring has no length");
        }
        (ring.head != ring.tail || ring.head >= ring.len).then_some(
            "a queue is enabled whose ring is not empty: its head is not its tail, or is past its end",
        )
    }

    fn rx_is_not_ready(&self, queue: u32) -> Option<&'static str> {
        let srrctl = self.value_of("SRRCTL", queue);
        if !matches!(srrctl & SRRCTL_TYPE, 0 | SRRCTL_ADVANCED) {
            return Some(
                "SRRCTL.DESCTYPE asks for headers apart, which the model has not (packet split off), or is reserved",
            );
        }
        if !(1..=16).contains(&(srrctl & SRRCTL_SIZE)) {
            return Some("SRRCTL.BSIZEPACKET is to be 1 to 16 KB");
        }
        self.ring_is_not_ready(&RX, queue)
    }

    fn tx_is_not_ready(&self, queue: u32) -> Option<&'static str> {
        if self.value("DMATXCTL") & TX_ENABLE == 0 {
            return Some("DMATXCTL.TE is to be set before a queue is enabled (4.6.8)");
        }
        self.ring_is_not_ready(&TX, queue)
    }

    fn is_in_use(&self, side: &Side, queue: u32) -> Option<&'static str> {
        (self.value_of(side.control, queue) & ENABLE != 0)
            .then_some("it is not to be written while the queue is enabled")
    }

    fn tail_is_wrong(&self, side: &Side, queue: u32, value: u32) -> Option<&'static str> {
        let ring = self.ring(side, queue);
        if self.value_of(side.control, queue) & ENABLE == 0 {
            return (value != 0).then_some("the tail is not to be moved before the queue is enabled");
        }
        if self.is_waited_for(side.control, queue) {
            return Some("the tail is not to be moved before ENABLE reads as 1");
        }
        if value >= ring.len {
            return Some("the tail is past the ring's end");
        }
        // One descriptor stays the driver's: head and tail alike mean that all are.
        (ring.distance(ring.tail, value) > ring.len - 1 - ring.filled())
            .then_some("the tail overtakes the head")
    }

    /// A queue's control register, or a unit's, has its new value.
    pub(crate) fn ring_was_written(&mut self, found: &Found, value: u32, was: u32) {
        let (queue, now) = (found.index, self.value_of(found.register.name, found.index));
        match found.register.name {
            "RXDCTL" if (was ^ now) & ENABLE != 0 => {
                self.wait("RXDCTL", queue, ENABLE, was & ENABLE);
                self.receive.set_running(queue, now & ENABLE != 0);
                self.release(false, queue);
            }
            "TXDCTL" if (was ^ now) & ENABLE != 0 => {
                self.wait("TXDCTL", queue, ENABLE, was & ENABLE);
                self.transmit.set_running(queue, now & ENABLE != 0);
                self.release(true, queue);
            }
            "TXDCTL" if value & FLUSH != 0 && self.write_back(queue).is_none() => {
                self.transmit.set_running(queue, false);
            }
            "SECRXCTRL" if now & SECURITY_HALT != 0 => self.wait("SECRXSTAT", 0, 1, 0),
            "SECTXCTRL" if now & SECURITY_HALT != 0 => self.wait("SECTXSTAT", 0, 1, 0),
            _ => {}
        }
    }

    /// Reads memory for a queue; that it is not reached is a fault.
    pub(crate) fn dma_read(
        &mut self,
        who: (&'static str, u32),
        address: u64,
        bytes: &mut [u8],
    ) -> Option<()> {
        let read = self.dma.as_ref().map_or(Err(Unreachable::NotMaster), |dma| dma.read(address, bytes));
        self.reached(who, address, read)
    }

    pub(crate) fn dma_write(&mut self, who: (&'static str, u32), address: u64, bytes: &[u8]) -> Option<()> {
        let written = self.dma.as_ref().map_or(Err(Unreachable::NotMaster), |dma| dma.write(address, bytes));
        self.reached(who, address, written)
    }

    fn reached(
        &mut self,
        who: (&'static str, u32),
        address: u64,
        result: Result<(), Unreachable>,
    ) -> Option<()> {
        result.map_err(|error| self.queue_fault(who, address, &error.to_string())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_turn_round() {
        let ring = Ring { base: 0x1000, len: 8, head: 6, tail: 2 };
        assert_eq!((ring.filled(), ring.after(6), ring.after(7), ring.at(7)), (4, 7, 0, 0x1070));
        assert_eq!(Ring { tail: 6, ..ring }.filled(), 0);
    }
}
