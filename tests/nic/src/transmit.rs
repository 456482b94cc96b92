//! Frames from memory to the wire (datasheet, 7.2): descriptors, one by one, until a frame is whole, and their way back
//! (7.2.3.5). That EITR's timer never writes back where its interval is 0 is known from Linux's driver.

use super::model::Model;
use super::offload::{Asked, Context};
use super::receive::halves;
use super::rings::{DESCRIPTOR, Ring, SECURITY_HALT, TX, TX_ENABLE};
use super::trouble::Write;

/// Bits of a descriptor's second half (7.2.3.2.2 and 7.2.3.2.4).
const TYPE: u64 = 0xf << 20;
const TYPE_CONTEXT: u64 = 2 << 20;
const TYPE_DATA: u64 = 3 << 20;
const END: u64 = 1 << 24;
const INSERT_FCS: u64 = 1 << 25;
const REPORT: u64 = 1 << 27;
const ADVANCED: u64 = 1 << 29;
const DONE: u8 = 1 << 0;

/// TDWBAL.Head_WB_En (8.2.3.9.11).
const HEAD_WRITE_BACK: u32 = 1 << 0;
/// TXDCTL.WTHRESH and SWFLSH (8.2.3.9.10).
const WRITE_BACK_SHIFT: u32 = 16;
const WRITE_BACK_MASK: u32 = 0x7f;
pub(crate) const FLUSH: u32 = 1 << 26;
/// EITR.ITR_INTERVAL (8.2.3.5.12), of which the model makes a step out of each unit.
const INTERVAL_SHIFT: u32 = 3;
const INTERVAL_MASK: u32 = 0x1ff;
/// HLREG0.TXPADEN (8.2.3.22.8).
const PAD: u32 = 1 << 10;
/// Bytes of the shortest frame without its checksum.
const SHORTEST: usize = 60;
/// Bytes of the longest frame, of what is cut into segments (PAYLEN has 18 bits), and the most buffers of a frame together
/// with WTHRESH (7.2.1.1).
const LONGEST: usize = 15_872;
const LONGEST_CUT: usize = (1 << 18) + 1024;
const MOST_BUFFERS: u32 = 40;

/// A descriptor that is done and not written back.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: u64,
    /// The place behind it.
    head: u32,
    /// What is written instead of the upper four bytes; those of one whose status was not asked for may stay.
    done: [u8; 4],
    report: bool,
}

/// What a queue has under way.
#[derive(Debug, Default)]
struct Queue {
    index: u32,
    contexts: [Option<Context>; 2],
    /// Of a frame that is not whole: the second half of its first descriptor, what is asked for, its bytes, its buffers.
    first: Option<(u64, Asked)>,
    bytes: Vec<u8>,
    buffers: u32,
    used: Vec<Used>,
    /// Steps until what is used is written back in any case; none where nothing waits, or there is no timer.
    timer: Option<u32>,
}

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Transmit {
    running: Vec<Queue>,
    next: usize,
}

impl Transmit {
    pub(crate) fn set_running(&mut self, queue: u32, on: bool) {
        self.running.retain(|other| other.index != queue);
        if on {
            self.running.push(Queue { index: queue, ..Queue::default() });
        }
    }

    fn queue(&mut self, index: u32) -> Option<&mut Queue> {
        self.running.iter_mut().find(|queue| queue.index == index)
    }
}

impl Model {
    /// Works on one descriptor of one queue, each in turn; whether there was one.
    pub(crate) fn transmit_one(&mut self) -> bool {
        let halted = self.value("SECTXCTRL") & SECURITY_HALT != 0 || self.trouble.is_stuck();
        if self.value("DMATXCTL") & TX_ENABLE == 0 || halted || !self.link.up || self.is_paused() {
            return false;
        }
        for _ in 0..self.transmit.running.len() {
            let at = self.transmit.next % self.transmit.running.len();
            self.transmit.next = at + 1;
            let queue = self.transmit.running[at].index;
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
        self.trouble.fetch();
        self.dma_read(("TDBAL", queue), at, &mut descriptor)?;
        let (low, word) = halves(&descriptor);
        let is_context = word & ADVANCED != 0 && word & TYPE == TYPE_CONTEXT;
        let done = if is_context {
            self.take_context(queue, low, word)
        } else {
            match problem(word) {
                Some(what) => Err(what),
                None => self.take_data(queue, low, word),
            }
        };
        match done {
            Ok(reached) => reached?,
            Err(what) => {
                self.queue_fault(("TDT", queue), word, what);
                return None;
            }
        }
        let head = ring.after(ring.head);
        self.set_value_of("TDH", queue, head);
        if is_context {
            return Some(());
        }
        // A legacy descriptor keeps the rest (7.2.3.2.2); an advanced one has nothing else then (7.2.3.2.5).
        let [.., a, b, c] = descriptor;
        let done = if word & ADVANCED == 0 { [DONE, a, b, c] } else { [DONE, 0, 0, 0] };
        self.use_up(queue, Used { at, head, done, report: word & REPORT != 0 })
    }

    fn take_context(&mut self, queue: u32, low: u64, word: u64) -> Result<Option<()>, &'static str> {
        let (place, context) = Context::of(low, word)?;
        let Some(part) = self.transmit.queue(queue) else { return Ok(None) };
        if part.first.is_some() {
            return Err("a context descriptor is within a frame (7.2.3.2.3)");
        }
        part.contexts[place] = Some(context);
        Ok(Some(()))
    }

    /// Takes a buffer. The inner option is whether memory was reached.
    fn take_data(&mut self, queue: u32, address: u64, word: u64) -> Result<Option<()>, &'static str> {
        let most_buffers = MOST_BUFFERS.saturating_sub(self.write_back_threshold(queue));
        let Some(part) = self.transmit.queue(queue) else { return Ok(None) };
        let is_first = part.first.is_none();
        let (begun, asked) = match part.first {
            Some(first) => first,
            None if word & ADVANCED == 0 => (word, Asked::legacy(word)?),
            None => (word, Asked::advanced(word, &part.contexts)?),
        };
        if (begun ^ word) & ADVANCED != 0 {
            return Err("descriptors of both kinds are mixed in a frame (7.2.3.2)");
        }
        let len = (word & 0xffff) as usize;
        if len == 0 {
            // Between frames a legacy one may be empty (7.2.3.2.2).
            let is_null = is_first && word & ADVANCED == 0 && word & END != 0;
            return if is_null { Ok(Some(())) } else { Err("a descriptor has no data") };
        }
        part.first = Some((begun, asked));
        part.buffers += 1;
        let (buffers, gathered) = (part.buffers, part.bytes.len() + len);
        if !asked.segments() && buffers > most_buffers {
            return Err("a frame has more than 40 buffers less WTHRESH (7.2.1.1)");
        }
        if gathered > if asked.segments() { LONGEST_CUT } else { LONGEST } {
            return Err("a frame is longer than 15.5 KB, or 256 KB to be cut (7.2.1.1)");
        }
        let mut bytes = vec![0; len];
        if self.dma_read(("TDT", queue), address, &mut bytes).is_none() {
            return Ok(None);
        }
        let Some(part) = self.transmit.queue(queue) else { return Ok(None) };
        part.bytes.extend(bytes);
        if word & END == 0 {
            return Ok(Some(()));
        }
        let data = std::mem::take(&mut part.bytes);
        (part.first, part.buffers) = (None, 0);
        for frame in asked.frames(data, self.flag_masks(), (self.value("DMATXCTL") >> 16) as u16)? {
            if frame.len() > LONGEST {
                return Err("a segment is longer than 15.5 KB (7.2.1.1)");
            }
            self.send(queue, frame);
        }
        Ok(Some(()))
    }

    /// What of TCP's flags stays in the first segment, in those between, and in the last (8.2.3.9.3, 8.2.3.9.4).
    fn flag_masks(&self) -> [u16; 3] {
        let (low, high) = (self.value("DTXTCPFLGL"), self.value("DTXTCPFLGH"));
        [low as u16 & 0xfff, (low >> 16) as u16 & 0xfff, high as u16 & 0xfff]
    }

    fn send(&mut self, queue: u32, mut frame: Vec<u8>) {
        if frame.len() < SHORTEST && self.value("HLREG0") & PAD != 0 {
            frame.resize(SHORTEST, 0);
        }
        self.count_departure(&frame);
        self.count_queue(queue, frame.len(), true);
        if self.is_looped() {
            self.hear(frame);
        } else if let Some(wire) = &mut self.wire {
            wire.send(frame);
        }
    }

    fn write_back_threshold(&self, queue: u32) -> u32 {
        self.value_of("TXDCTL", queue) >> WRITE_BACK_SHIFT & WRITE_BACK_MASK
    }

    /// A descriptor is done: it is written back now, or when as many as WTHRESH says are (7.2.3.5.2).
    fn use_up(&mut self, queue: u32, used: Used) -> Option<()> {
        let threshold = self.write_back_threshold(queue);
        if !used.report && threshold == 0 {
            return Some(());
        }
        let interval = self.throttle_of(queue) >> INTERVAL_SHIFT & INTERVAL_MASK;
        let part = self.transmit.queue(queue)?;
        part.used.push(used);
        let reports = part.used.iter().filter(|used| used.report).count();
        if reports > 0 && reports >= threshold as usize {
            return self.write_back(queue);
        }
        if part.timer.is_none() && reports > 0 && interval > 0 {
            part.timer = Some(interval);
        }
        Some(())
    }

    /// Writes back what waits for it.
    pub(crate) fn write_back(&mut self, queue: u32) -> Option<()> {
        let part = self.transmit.queue(queue)?;
        part.timer = None;
        let used = std::mem::take(&mut part.used);
        let Some(last) = used.iter().rfind(|used| used.report) else { return Some(()) };
        let low = self.value_of("TDWBAL", queue);
        if low & HEAD_WRITE_BACK != 0 {
            let address = u64::from(self.value_of("TDWBAH", queue)) << 32 | u64::from(low & !3);
            return self.put_back(true, queue, &[four("TDWBAL", address, last.head.to_le_bytes())]);
        }
        let mut writes = Vec::with_capacity(used.len());
        for used in &used {
            // Where descriptors are gathered, some go back although nobody asked.
            if used.report || self.random.below(2) == 0 {
                writes.push(four("TDBAL", used.at + 12, used.done));
            }
        }
        self.put_back(true, queue, &writes)
    }

    /// Time goes by for descriptors that wait; whether there are any.
    pub(crate) fn write_back_time(&mut self) -> bool {
        let waits = self.transmit.running.iter().any(|part| part.timer.is_some());
        if self.trouble.is_stuck() {
            return false;
        }
        let mut due = Vec::new();
        for part in &mut self.transmit.running {
            if let Some(left) = &mut part.timer {
                *left -= 1;
                if *left == 0 {
                    due.push(part.index);
                }
            }
        }
        for queue in due {
            if self.write_back(queue).is_none() {
                self.transmit.set_running(queue, false);
            }
        }
        waits
    }
}

fn four(register: &'static str, address: u64, [a, b, c, d]: [u8; 4]) -> Write {
    let mut bytes = [0; DESCRIPTOR];
    bytes[..4].copy_from_slice(&[a, b, c, d]);
    Write { register, address, bytes, len: 4 }
}

/// What is wrong with a descriptor that has data.
fn problem(word: u64) -> Option<&'static str> {
    if word & ADVANCED != 0 && word & TYPE != TYPE_DATA {
        return Some("DTYP is neither a context's nor data's (7.2.3.2.4)");
    }
    if word & INSERT_FCS == 0 {
        return Some("IFCS is not set: the model has no frames that bring their own checksum");
    }
    (word & REPORT != 0 && word & END == 0).then_some("RS is set before the frame's last descriptor")
}
