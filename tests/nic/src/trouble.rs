//! What goes wrong with a device although its driver does nothing wrong: a plan, and what has come of it. What a seed
//! decides is when; all of it is what the datasheet allows (write-backs of 7.1.8 and 7.2.3.5 have no time, and their order is
//! that of their queue only), or how hardware fails.

use super::interrupts::{Bits, LINK_CHANGE, RX_MISS};
use super::model::Model;
use super::rings::DESCRIPTOR;

/// A semaphore that is never free (10.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semaphore {
    /// SWSM.SMBI, between drivers: it reads as taken.
    Drivers,
    /// SWSM.SWESMBI, between software and firmware: it cannot be taken.
    Firmware,
    /// All that SW_FW_SYNC is for is the firmware's.
    Resources,
}

/// A plan of troubles. The default has none. Rates are of a thousand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Descriptors are written back up to so many steps late, queues independently, and each in its order.
    pub late: u32,
    /// Write-backs that come only with a later one of their queue, or never.
    pub withheld: u16,
    /// Steps in which the link goes down for a while.
    pub flaps: u16,
    /// Frames that come in with a wrong check sequence: they are dropped, or marked where FCTRL.SBP has them stored.
    pub damaged: u16,
    /// Frames that come in with a byte behind the Ethernet header changed, and the check sequence right.
    pub spoilt: u16,
    /// Steps in which there is a cause of an interrupt without a reason.
    pub spurious: u16,
    /// After so many descriptors none is fetched or written back any more, until a reset.
    pub stuck_after: Option<u32>,
    /// The bus is said to be in use for ever (STATUS.PCIe_Master_Enable_Status, 5.2.5.3.2), until a reset.
    pub master_stays: bool,
    /// A reset by CTRL does not end: the device does nothing any more until the function is reset.
    pub reset_hangs: bool,
    /// A word of the EEPROM that reads wrongly.
    pub eeprom_word: Option<u16>,
    /// A semaphore that is never free.
    pub semaphore: Option<Semaphore>,
    /// After so many accesses to its registers the device is pulled out.
    pub removed_after: Option<u64>,
}

/// What came of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Write-backs that were late or withheld.
    pub held_back: u64,
    /// Times that the link went down.
    pub flaps: u64,
    /// Frames that were lost on the wire: while the link was down or the receiver off.
    pub lost: u64,
    /// Frames with a wrong check sequence.
    pub damaged: u64,
    /// Frames with a byte changed.
    pub spoilt: u64,
    /// Interrupts' causes without a reason.
    pub spurious: u64,
    /// Accesses to registers.
    pub accesses: u64,
}

/// Write-backs of a queue that are held back, the first first.
#[derive(Debug)]
struct Held {
    transmit: bool,
    queue: u32,
    writes: Vec<Write>,
    /// Steps until they come; none if only a later one brings them.
    timer: Option<u32>,
}

/// Bytes that go to memory when a descriptor is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write {
    pub(crate) register: &'static str,
    pub(crate) address: u64,
    pub(crate) bytes: [u8; DESCRIPTOR],
    /// How many of them.
    pub(crate) len: usize,
}

/// Troubles, as they are under way.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    plan: Troubles,
    tally: Tally,
    held: Vec<Held>,
    /// Steps until the link may be up again.
    down: u32,
    /// Descriptors until the device is stuck.
    fetches: Option<u32>,
    hung: bool,
}

/// The longest that a flap takes, in steps.
const LONGEST_FLAP: usize = 40;
/// Bytes of the Ethernet header.
const HEADER: usize = 14;
/// STATUS.PCIe_Master_Enable_Status (8.2.3.1.2), SWSM (8.2.3.4.9), the firmware's bits of SW_FW_SYNC (8.2.3.4.11).
const MASTER_ENABLED: u32 = 1 << 19;
const SWSM_DRIVER: u32 = 1 << 0;
const SWSM_FIRMWARE: u32 = 1 << 1;
const SYNC_FIRMWARE: u32 = 0x1f << 5;

impl Trouble {
    pub(crate) fn new(plan: Troubles) -> Self {
        Self { fetches: plan.stuck_after, plan, ..Self::default() }
    }

    /// A reset of the device: what was under way is gone.
    pub(crate) fn reset(&mut self) {
        self.forget();
        self.hung = false;
        // These were until now.
        self.fetches = self.fetches.filter(|left| *left > 0);
        self.plan.master_stays = false;
    }

    /// What was held back does not come any more.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
    }

    /// A reset is asked for; whether it does not end.
    pub(crate) fn hangs(&mut self) -> bool {
        self.hung |= self.plan.reset_hangs;
        self.hung
    }

    pub(crate) fn is_link_down(&self) -> bool {
        self.down > 0
    }

    /// Whether the device reaches no memory any more.
    pub(crate) fn is_stuck(&self) -> bool {
        self.hung || self.fetches == Some(0) || self.is_removed()
    }

    /// A descriptor is fetched.
    pub(crate) fn fetch(&mut self) {
        if let Some(left) = &mut self.fetches {
            *left = left.saturating_sub(1);
        }
    }

    fn is_removed(&self) -> bool {
        self.plan.removed_after.is_some_and(|after| self.tally.accesses > after)
    }

    /// A register is accessed; whether there is somebody to answer.
    pub(crate) fn access(&mut self) -> bool {
        self.tally.accesses += 1;
        !self.is_removed()
    }

    /// A register as it reads with its troubles.
    pub(crate) fn shown(&self, name: &str, value: u32) -> u32 {
        let stuck = self.fetches == Some(0) || self.plan.master_stays;
        match (name, self.plan.semaphore) {
            ("STATUS", _) if stuck => value | MASTER_ENABLED,
            ("SWSM", Some(Semaphore::Drivers)) => value | SWSM_DRIVER,
            ("SWSM", Some(Semaphore::Firmware)) => value & !SWSM_FIRMWARE,
            ("SW_FW_SYNC", Some(Semaphore::Resources)) => value | SYNC_FIRMWARE,
            _ => value,
        }
    }

    /// A word of the EEPROM as it reads.
    pub(crate) fn word(&self, at: u16, value: u16) -> u16 {
        if self.plan.eeprom_word == Some(at) { !value } else { value }
    }

    pub(crate) fn lose(&mut self) {
        self.tally.lost += 1;
    }
}

impl Model {
    /// Gives the device other troubles than it has. Those that are under way go on.
    pub fn set_troubles(&mut self, troubles: Troubles) {
        self.trouble.fetches = troubles.stuck_after;
        self.trouble.plan = troubles;
    }

    /// The end of all troubles: what was held back comes now.
    pub fn end_troubles(&mut self) {
        self.set_troubles(Troubles::default());
        let queues: Vec<_> = self.trouble.held.iter().map(|held| (held.transmit, held.queue)).collect();
        for (transmit, queue) in queues {
            self.release(transmit, queue);
        }
    }

    /// What came of the troubles until now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.trouble.tally
    }

    /// Whether the device was pulled out.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.trouble.is_removed()
    }

    fn happens(&mut self, rate: u16) -> bool {
        rate > 0 && self.random.below(1000) < usize::from(rate)
    }

    /// Time goes by for troubles; whether it does for any.
    pub(crate) fn trouble_time(&mut self) -> bool {
        let mut waits = self.trouble.down > 0;
        self.trouble.down = self.trouble.down.saturating_sub(1);
        if self.link.up && self.happens(self.trouble.plan.flaps) {
            self.trouble.down = 1 + self.random.below(LONGEST_FLAP) as u32;
            self.trouble.tally.flaps += 1;
        }
        if self.happens(self.trouble.plan.spurious) {
            self.trouble.tally.spurious += 1;
            let queues = 1 << self.random.below(16);
            let other = [0, LINK_CHANGE, RX_MISS][self.random.below(3)];
            self.raise(Bits { queues, other });
        }
        if self.trouble.is_stuck() {
            return waits;
        }
        let mut due = Vec::new();
        for held in &mut self.trouble.held {
            if let Some(left) = &mut held.timer {
                waits = true;
                *left = left.saturating_sub(1);
                if *left == 0 {
                    due.push((held.transmit, held.queue));
                }
            }
        }
        for (transmit, queue) in due {
            self.release(transmit, queue);
        }
        waits
    }

    /// What the wire does to a frame that comes in; whether its check sequence is still right.
    pub(crate) fn wear(&mut self, frame: &mut [u8]) -> bool {
        if self.happens(self.trouble.plan.damaged) {
            self.trouble.tally.damaged += 1;
            return false;
        }
        if frame.len() > HEADER && self.happens(self.trouble.plan.spoilt) {
            self.trouble.tally.spoilt += 1;
            let at = HEADER + self.random.below(frame.len() - HEADER);
            frame[at] ^= 1 << self.random.below(8);
        }
        true
    }

    /// Writes back what a queue is done with, now or later, and tells of it.
    pub(crate) fn put_back(&mut self, transmit: bool, queue: u32, writes: &[Write]) -> Option<()> {
        let Troubles { late, withheld, .. } = self.trouble.plan;
        if late == 0 && withheld == 0 && self.trouble.held.is_empty() {
            writes.iter().try_for_each(|write| self.write(queue, write))?;
            self.raise_queue(queue, transmit);
            return Some(());
        }
        let withheld = self.happens(withheld);
        let late = if withheld { 0 } else { self.random.below(late as usize + 1) as u32 };
        let held = &mut self.trouble.held;
        let place = held.iter().position(|held| (held.transmit, held.queue) == (transmit, queue));
        let place = place.unwrap_or_else(|| {
            held.push(Held { transmit, queue, writes: Vec::new(), timer: None });
            held.len() - 1
        });
        let own = &mut held[place];
        own.writes.extend(writes);
        if withheld || late > 0 {
            self.trouble.tally.held_back += 1;
            if !withheld {
                own.timer = Some(own.timer.map_or(late, |timer| timer.min(late)));
            }
            return Some(());
        }
        self.release(transmit, queue)
    }

    /// Writes back all that a queue has held back.
    pub(crate) fn release(&mut self, transmit: bool, queue: u32) -> Option<()> {
        let held = &mut self.trouble.held;
        let place = held.iter().position(|held| (held.transmit, held.queue) == (transmit, queue));
        let Some(place) = place else { return Some(()) };
        let held = held.swap_remove(place);
        held.writes.iter().try_for_each(|write| self.write(queue, write))?;
        self.raise_queue(queue, transmit);
        Some(())
    }

    fn write(&mut self, queue: u32, write: &Write) -> Option<()> {
        self.dma_write((write.register, queue), write.address, &write.bytes[..write.len])
    }
}
