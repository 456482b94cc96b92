//! Frames from memory to the wire (datasheet, 7.2): descriptors, one by one, until a frame is whole.

use super::model::Model;
use super::receive::halves;
use super::rings::{DESCRIPTOR, Ring, SECURITY_HALT, TX, TX_ENABLE};

/// Bits of a descriptor's second half (7.2.3.2.2 and 7.2.3.2.4).
const TYPE: u64 = 0xf << 20;
const TYPE_CONTEXT: u64 = 2 << 20;
const TYPE_DATA: u64 = 3 << 20;
const END: u64 = 1 << 24;
const INSERT_FCS: u64 = 1 << 25;
const LEGACY_CHECKSUM: u64 = 1 << 26;
const REPORT: u64 = 1 << 27;
const ADVANCED: u64 = 1 << 29;
const VLAN: u64 = 1 << 30;
const SEGMENT: u64 = 1 << 31;
const OPTIONS: u64 = 0x3f << 40;
const DONE: u8 = 1 << 0;

/// TDWBAL.Head_WB_En (8.2.3.9.11).
const HEAD_WRITE_BACK: u32 = 1 << 0;
/// HLREG0.TXPADEN (8.2.3.22.8).
const PAD: u32 = 1 << 10;
/// Bytes of the shortest frame without its checksum.
const SHORTEST: usize = 60;
/// Bytes of the longest frame (7.2.1.1).
const LONGEST: usize = 15_872;

/// What a queue has of a frame.
#[derive(Debug, Default)]
struct Part {
    queue: u32,
    bytes: Vec<u8>,
    /// What the first descriptor says of the whole frame's length; none for a legacy one.
    expected: Option<u64>,
    begun: bool,
}

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Transmit {
    running: Vec<Part>,
    next: usize,
}

impl Transmit {
    pub(crate) fn set_running(&mut self, queue: u32, on: bool) {
        self.running.retain(|part| part.queue != queue);
        if on {
            self.running.push(Part { queue, ..Part::default() });
        }
    }

    fn part(&mut self, queue: u32) -> Option<&mut Part> {
        self.running.iter_mut().find(|part| part.queue == queue)
    }
}

impl Model {
    /// Works on one descriptor of one queue, each in turn; whether there was one.
    pub(crate) fn transmit_one(&mut self) -> bool {
        let halted = self.value("SECTXCTRL") & SECURITY_HALT != 0;
        if self.value("DMATXCTL") & TX_ENABLE == 0 || halted || !self.link.up {
            return false;
        }
        for _ in 0..self.transmit.running.len() {
            let at = self.transmit.next % self.transmit.running.len();
            self.transmit.next = at + 1;
            let queue = self.transmit.running[at].queue;
            let ring = self.ring(&TX, queue);
            if ring.filled() == 0 {
                continue;
            }
            if self.take_descriptor(queue, ring).is_none() {
                // Something was wrong: what comes after is unknown, so the queue does nothing any more.
                self.transmit.set_running(queue, false);
            }
            return true;
        }
        false
    }

    fn take_descriptor(&mut self, queue: u32, ring: Ring) -> Option<()> {
        let at = ring.at(ring.head);
        let mut descriptor = [0; DESCRIPTOR];
        self.dma_read(("TDBAL", queue), at, &mut descriptor)?;
        let (address, word) = halves(&descriptor);
        if let Some(what) = problem(word) {
            self.queue_fault(("TDT", queue), word, what);
            return None;
        }
        if word & ADVANCED == 0 || word & TYPE == TYPE_DATA {
            self.take_data(queue, address, word)?;
        }
        let head = ring.after(ring.head);
        self.set_value_of("TDH", queue, head);
        if word & REPORT == 0 {
            return Some(());
        }
        let low = self.value_of("TDWBAL", queue);
        if low & HEAD_WRITE_BACK != 0 {
            let place = u64::from(self.value_of("TDWBAH", queue)) << 32 | u64::from(low & !3);
            self.dma_write(("TDWBAL", queue), place, &head.to_le_bytes())?;
        } else {
            // A legacy descriptor keeps the rest (7.2.3.2.2); an advanced one has nothing else then (7.2.3.2.5).
            let kept =
                if word & ADVANCED == 0 { [descriptor[13], descriptor[14], descriptor[15]] } else { [0; 3] };
            let done = [DONE, kept[0], kept[1], kept[2]];
            self.dma_write(("TDBAL", queue), at + 12, &done)?;
        }
        self.raise_queue(queue, true);
        Some(())
    }

    fn take_data(&mut self, queue: u32, address: u64, word: u64) -> Option<()> {
        let mut bytes = vec![0; (word & 0xffff) as usize];
        self.dma_read(("TDT", queue), address, &mut bytes)?;
        let part = self.transmit.part(queue)?;
        if !part.begun {
            part.begun = true;
            part.expected = (word & ADVANCED != 0).then_some(word >> 46);
        }
        part.bytes.extend(bytes);
        let (len, expected) = (part.bytes.len(), part.expected);
        if len > LONGEST {
            self.queue_fault(("TDT", queue), word, "a frame is longer than 15.5 KB (7.2.1.1)");
            return None;
        }
        if word & END == 0 {
            return Some(());
        }
        let mut frame = std::mem::take(&mut part.bytes);
        part.begun = false;
        if expected.is_some_and(|expected| expected != len as u64) {
            self.queue_fault(("TDT", queue), word, "PAYLEN is not the frame's length (7.2.3.2.4)");
            return None;
        }
        if frame.len() < SHORTEST && self.value("HLREG0") & PAD != 0 {
            frame.resize(SHORTEST, 0);
        }
        self.count_departure(&frame);
        self.count_queue(queue, frame.len(), true);
        if let Some(wire) = &mut self.wire {
            wire.send(frame);
        }
        Some(())
    }
}

/// What is wrong with a descriptor.
fn problem(word: u64) -> Option<&'static str> {
    let is_advanced = word & ADVANCED != 0;
    if is_advanced && word & TYPE == TYPE_CONTEXT {
        return (word & (END | REPORT) != 0).then_some("a context descriptor has EOP or RS (7.2.3.2.3)");
    }
    if is_advanced && word & TYPE != TYPE_DATA {
        return Some("DTYP is neither a context's nor data's (7.2.3.2.4)");
    }
    if word & 0xffff == 0 {
        return Some("a descriptor has no data");
    }
    if word & INSERT_FCS == 0 {
        return Some("IFCS is not set: the model has no frames that bring their own checksum");
    }
    if word & REPORT != 0 && word & END == 0 {
        return Some("RS is set before the frame's last descriptor");
    }
    let asks = if is_advanced { VLAN | SEGMENT | OPTIONS } else { VLAN | LEGACY_CHECKSUM };
    (word & asks != 0).then_some("the descriptor asks for an offload, of which the model has none")
}
