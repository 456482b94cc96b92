//! A virtual function (datasheet, 7.10 and 8.3): another view of the device, of some of its queues and of nothing else. The
//! physical function is played by [`Physical`], which has set the device up and answers by the mailbox. The device has
//! one function beside the physical one, so what comes from the wire is for it, as far as the physical one lets it.
//!
//! Filters are the port's own, set up by the physical function for its guest: pools that share a port are not modelled.

mod mailbox;
mod physical;
#[cfg(test)]
mod tests;

use mailbox::Mailbox;
pub use physical::{Manner, Physical};

use super::fault::Fault;
use super::interrupts::{Bits, Setup};
use super::model::Model;
use super::registers::{Found, VF_BAR_LEN, VF_TABLE, elsewhere, find_vf, offset_of};
use super::rings::{ENABLE, RX, TX};

/// VFCTRL.RST (8.3.5.1.1).
const CTRL_RESET: u32 = 1 << 26;
/// Queues that the function has.
pub(crate) const QUEUES: u32 = 4;
/// An entry of VTIVAR_MISC is in use, and its vector (8.3.5.2).
const VALID: u32 = 0x80;
const VECTOR: u32 = 0x3;
/// GPIE as a physical function with virtual ones has it: a vector for each cause, masked by themselves (8.2.3.5.18).
const GPIE: u32 = 1 << 30 | 1 << 4;
/// Counters of bytes have 36 bits (8.3.5.5).
const BYTES: u64 = (1 << 36) - 1;

/// What frames were counted as. The counters go round, and reading does not clear them (8.3.5.5).
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    received: u32,
    received_bytes: u64,
    multicast: u32,
    sent: u32,
    sent_bytes: u64,
}

/// What a virtual function has of its own.
#[derive(Debug)]
pub(crate) struct Vf {
    words: Vec<u32>,
    pub(crate) mailbox: Mailbox,
    physical: Physical,
    counts: Counts,
}

impl Vf {
    pub(crate) fn new(mac: [u8; 6]) -> Self {
        Self {
            words: vec![0; VF_BAR_LEN / 4],
            mailbox: Mailbox::default(),
            physical: Physical::new(mac),
            counts: Counts::default(),
        }
    }

    fn value(&self, name: &str, index: u32) -> u32 {
        let register = VF_TABLE.iter().find(|register| register.name == name);
        register.map_or(0, |register| self.words[((register.offset + index * register.stride) / 4) as usize])
    }

    /// What says how interrupts are told.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            gpie: GPIE,
            auto_clear: self.value("VTEIAC", 0),
            auto_mask: Bits::of(self.value("VTEIAM", 0)),
            ivar_misc: 0,
        }
    }

    /// VTIVAR for a queue.
    pub(crate) fn allocation(&self, queue: u32) -> u32 {
        self.value("VTIVAR", queue / 2)
    }

    /// VTEITR of a vector, of which there are two.
    pub(crate) fn throttle(&self, vector: u32) -> u32 {
        if vector < 2 { self.value("VTEITR", vector) } else { 0 }
    }

    /// A frame went into a queue or came out of one.
    pub(crate) fn count(&mut self, len: usize, sent: bool) {
        let Counts { received, received_bytes, sent: sent_frames, sent_bytes, .. } = &mut self.counts;
        let (frames, bytes) = if sent { (sent_frames, sent_bytes) } else { (received, received_bytes) };
        *frames = frames.wrapping_add(1);
        *bytes = bytes.wrapping_add(len as u64) & BYTES;
    }

    pub(crate) fn count_multicast(&mut self) {
        self.counts.multicast = self.counts.multicast.wrapping_add(1);
    }
}

impl Model {
    /// Has the counters of a virtual function near their ends, from where they go round.
    pub fn fill_vf_counters(&mut self) {
        if let Some(vf) = &mut self.vf {
            let (full, bytes) = (u32::MAX - 1, BYTES - 10);
            vf.counts = Counts {
                received: full,
                received_bytes: bytes,
                multicast: full,
                sent: full,
                sent_bytes: bytes,
            };
        }
    }

    /// A register of a virtual function is read.
    pub(crate) fn vf_read32(&mut self, offset: u32) -> u32 {
        if offset as usize >= VF_BAR_LEN {
            return u32::MAX;
        }
        self.vf_time();
        let Some(found) = self.vf_find(offset, 0) else { return 0 };
        if let Some(offset) = self.vf_elsewhere(&found) {
            return self.device_read32(offset);
        }
        self.link_time();
        let setup = self.interrupt_setup();
        let (status, links) = (self.status(), self.links());
        let Some(vf) = &mut self.vf else { return 0 };
        match found.register.name {
            "VFCTRL" => 0,
            "VFSTATUS" => status,
            "VFLINKS" => links,
            "VFMAILBOX" => vf.mailbox.read(),
            "VFMBMEM" => vf.mailbox.words[found.index as usize],
            "VFGPRC" => vf.counts.received,
            "VFGORC_LSB" => vf.counts.received_bytes as u32,
            "VFGORC_MSB" => (vf.counts.received_bytes >> 32) as u32,
            "VFMPRC" => vf.counts.multicast,
            "VFGPTC" => vf.counts.sent,
            "VFGOTC_LSB" => vf.counts.sent_bytes as u32,
            "VFGOTC_MSB" => (vf.counts.sent_bytes >> 32) as u32,
            "VTEICR" => self.interrupts.read(&setup),
            "VTEIMS" => self.interrupts.mask.register(),
            _ => vf.words[(found.offset / 4) as usize],
        }
    }

    /// A register of a virtual function is written.
    pub(crate) fn vf_write32(&mut self, offset: u32, value: u32) {
        if offset as usize >= VF_BAR_LEN {
            return;
        }
        let Some(found) = self.vf_find(offset, value) else { return };
        if let Some(offset) = self.vf_elsewhere(&found) {
            self.device_write32(offset, value);
            if found.register.name == "VFPSRTYPE" {
                self.spread();
            }
            return;
        }
        let register = found.register;
        if register.kept | register.clearing == 0 {
            self.fault(&found, value, "it can only be read");
            return;
        }
        let wrong = value & register.reserved();
        if wrong != 0 {
            self.fault(&found, value, &format!("reserved bits {wrong:#x} are to be written as 0"));
        }
        let (setup, bits) = (self.interrupt_setup(), Bits::of(value));
        match register.name {
            "VFCTRL" if value & CTRL_RESET != 0 => self.reset_vf(),
            "VFMAILBOX" => {
                let delay = self.random.below(4) as u32;
                let acknowledged = value & mailbox::ACK != 0;
                let problem = self.vf.as_mut().and_then(|vf| vf.mailbox.write(value, delay));
                if let Some(what) = problem {
                    self.fault(&found, value, what);
                }
                if acknowledged {
                    self.physical_was_heard();
                }
            }
            "VFMBMEM" => {
                if !self.vf.as_ref().is_some_and(|vf| vf.mailbox.is_vfs()) {
                    self.fault(&found, value, "the mailbox is to be taken before it is written");
                } else if let Some(vf) = &mut self.vf {
                    vf.mailbox.words[found.index as usize] = value;
                    vf.mailbox.written |= 1 << found.index;
                }
            }
            "VTEICR" => self.interrupts.clear(bits),
            "VTEICS" => self.interrupts.raise(bits, &setup),
            "VTEIMS" => self.interrupts.unmask(bits, &setup),
            "VTEIMC" => self.interrupts.mask(bits),
            _ => {
                if let Some(vf) = &mut self.vf {
                    vf.words[(found.offset / 4) as usize] = value & register.kept;
                }
            }
        }
    }

    /// The register at an offset; that there is none is a fault.
    fn vf_find(&mut self, offset: u32, value: u32) -> Option<Found> {
        let found = find_vf(offset);
        if found.is_none() {
            self.add_fault(Fault {
                register: format!("{offset:#07x}"),
                value: value.into(),
                section: "8.3.4",
                what: "a virtual function has no such register".into(),
            });
        }
        found
    }

    /// Where the device has a register of the function's queues. Those of queues that it was not given are nobody's.
    fn vf_elsewhere(&self, found: &Found) -> Option<u32> {
        offset_of(elsewhere(found.register.name)?, found.index)
    }

    /// The function is reset: its queues stop, and no interrupt is told. The rest of its registers keep what they had, as
    /// the device's do (4.2.2.2).
    pub(crate) fn reset_vf(&mut self) {
        for queue in 0..QUEUES {
            for side in [RX, TX] {
                let value = self.value_of(side.control, queue) & !ENABLE;
                self.set_value_of(side.control, queue, value);
            }
        }
        self.stop_queues();
        self.interrupts.reset();
        if let Some(vf) = &mut self.vf {
            vf.mailbox.forget();
        }
        self.vf_was_reset();
    }

    /// The function's queues stop: frames in the packet buffer are dropped, and nothing is written back any more.
    fn stop_queues(&mut self) {
        for queue in 0..QUEUES {
            self.receive.set_running(queue, false);
            self.transmit.set_running(queue, false);
        }
        self.receive.empty();
        self.trouble.forget();
    }

    /// Time goes by for the mailbox; whether something waits for more of it.
    pub(crate) fn vf_time(&mut self) -> bool {
        let Some(vf) = &mut self.vf else { return false };
        let spoke = vf.mailbox.speak();
        let request = vf.mailbox.request();
        if spoke {
            self.raise_mailbox();
        }
        if let Some((words, written)) = request {
            self.answer(words, written);
        }
        self.vf.as_ref().is_some_and(|vf| vf.mailbox.waits())
    }

    /// The physical function has said something, or has heard.
    fn raise_mailbox(&mut self) {
        let entry = self.vf.as_ref().map_or(0, |vf| vf.value("VTIVAR_MISC", 0));
        if entry & VALID != 0 {
            let setup = self.interrupt_setup();
            self.interrupts.raise(Bits { queues: 1 << (entry & VECTOR), other: 0 }, &setup);
        }
    }
}
