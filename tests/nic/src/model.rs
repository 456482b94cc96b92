//! The device: its registers, what reading and writing them does, and the rules about that.

use super::eeprom::Eeprom;
use super::fault::{Fault, Faults};
use super::flow::Flow;
use super::interrupts::{Bits, Interrupts, Mode, Setup, Signals, allocation};
use super::link::{Link, STATUS_LINK_UP};
use super::memory::Dma;
use super::random::Random;
use super::receive::Receive;
use super::registers::{self, Access, BAR_LEN, Found, TABLE};
use super::rings::SECURITY_HALT;
use super::sfp::{Bus, Module};
use super::transmit::Transmit;
use super::trouble::{Trouble, Troubles};
use super::values::Wait;
use super::vf::Vf;
use super::wire::Wire;

/// CTRL (8.2.3.1.1).
const CTRL_MASTER_DISABLE: u32 = 1 << 2;
const CTRL_LINK_RESET: u32 = 1 << 3;
const CTRL_RESET: u32 = 1 << 26;
/// STATUS (8.2.3.1.2).
const STATUS_MASTER_ENABLED: u32 = 1 << 19;
/// ESDP.SDP2, an input while its direction is 0: there is a module in the cage.
const ESDP_SDP2: u32 = 1 << 2;
const ESDP_SDP2_IS_OUTPUT: u32 = 1 << 10;
/// I2CCTL (8.2.3.1.5).
const I2C_CLOCK_IN: u32 = 1 << 0;
const I2C_CLOCK_OUT: u32 = 1 << 1;
const I2C_DATA_IN: u32 = 1 << 2;
const I2C_DATA_OUT: u32 = 1 << 3;
/// EEC (8.2.3.2.1) and EERD (8.2.3.2.2).
const EEC_WIRES: u32 = 0b111;
const EEC_REQUEST: u32 = 1 << 6;
const EEC_GRANT: u32 = 1 << 7;
const EEC_AUTO_READ_DONE: u32 = 1 << 9;
const EERD_START: u32 = 1 << 0;
const EERD_DONE: u32 = 1 << 1;
/// SWSM (8.2.3.4.9) and SW_FW_SYNC (8.2.3.4.11).
const SWSM_DRIVER: u32 = 1 << 0;
const SWSM_FIRMWARE: u32 = 1 << 1;
const SYNC_EEPROM: u32 = 1 << 0;
const SYNC_PHY0: u32 = 1 << 1;
/// RDRXCTL.DMAIDONE (8.2.3.8.8).
const RDRXCTL_INIT_DONE: u32 = 1 << 3;
/// RAH.AV (8.2.3.7.9).
const RAH_VALID: u32 = 1 << 31;
/// AUTOC.Restart_AN (8.2.3.22.19).
const AUTOC_RESTART: u32 = 1 << 12;

/// FDIRCTRL (8.2.3.21.1): memory is set aside for filters, and cleared when this is set.
const FDIRCTRL_ALLOCATES: u32 = 0b11;
const FDIRCTRL_INIT_DONE: u32 = 1 << 3;

/// Frames received, and descriptors sent, that a step has at most.
const MOST_WORK: usize = 32;

/// What a model is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of all that the datasheet leaves open.
    pub seed: u64,
    /// The EEPROM's image.
    pub eeprom: Eeprom,
    /// The module in the cage, or none.
    pub module: Option<Module>,
    /// Whether a cable leads to somebody who is up.
    pub cable: bool,
    /// Which of the two ports it is, 0 or 1.
    pub port: u8,
    /// Whether it is a virtual function of the port, whose physical function is played.
    pub is_virtual: bool,
    /// Whether faults are kept. What a driver may not do has no effect in any case.
    pub strict: bool,
    /// What goes wrong with it.
    pub troubles: Troubles,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            eeprom: Eeprom::new([0x90, 0xe2, 0xba, 0x12, 0x34, 0x56]),
            module: Some(Module::default()),
            cable: true,
            port: 0,
            is_virtual: false,
            strict: true,
            troubles: Troubles::default(),
        }
    }
}

/// An 82599's port.
#[derive(Debug)]
pub struct Model {
    pub(crate) words: Vec<u32>,
    pub(crate) waits: Vec<Wait>,
    faults: Faults,
    eeprom: Eeprom,
    bus: Bus,
    port: u8,
    pub(crate) random: Random,
    pub(crate) link: Link,
    pub(crate) interrupts: Interrupts,
    pub(crate) dma: Option<Box<dyn Dma>>,
    pub(crate) wire: Option<Box<dyn Wire>>,
    pub(crate) flow: Flow,
    pub(crate) receive: Receive,
    pub(crate) transmit: Transmit,
    /// What a virtual function has, where this is one's view of the device.
    pub(crate) vf: Option<Box<Vf>>,
    pub(crate) trouble: Trouble,
}

impl Model {
    /// A device that has just got its power.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mac = settings.eeprom.mac();
        let mut model = Self {
            words: vec![0; registers::SPACE as usize / 4],
            waits: Vec::new(),
            faults: Faults::new(settings.strict),
            eeprom: settings.eeprom,
            bus: Bus::new(settings.module),
            port: settings.port & 1,
            random: Random::new(settings.seed),
            link: Link::new(settings.cable),
            interrupts: Interrupts::new(),
            dma: None,
            wire: None,
            flow: Flow::default(),
            receive: Receive::default(),
            transmit: Transmit::default(),
            vf: settings.is_virtual.then(|| Box::new(Vf::new(mac))),
            trouble: Trouble::new(settings.troubles),
        };
        model.reset_device();
        if model.vf.is_some() {
            model.set_up_as_physical();
        }
        model
    }

    /// What a driver did that it may not do.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Forgets them, for what breaks rules on purpose; the first thousand.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        self.faults.take()
    }

    /// Where interrupts go.
    pub fn set_signals(&mut self, signals: Box<dyn Signals>) {
        self.interrupts.signals = Some(signals);
    }

    /// Which kind of interrupt the configuration space has on.
    pub fn set_interrupt_mode(&mut self, mode: Mode) {
        self.interrupts.switch(mode);
    }

    /// As after power-on, or a reset of the function.
    pub fn reset(&mut self) {
        if self.vf.is_some() { self.reset_vf() } else { self.reset_device() }
    }

    /// As after power-on, or a reset by CTRL: registers have their first values and the EEPROM was read (4.2.1).
    fn reset_device(&mut self) {
        for register in TABLE {
            for place in 0..register.count {
                self.words[((register.offset + place * register.stride) / 4) as usize] = register.reset;
            }
        }
        for buffer in 1..8 {
            self.set_value_of("RXPBSIZE", buffer, 0);
            self.set_value_of("TXPBSIZE", buffer, 0);
        }
        let mac = self.eeprom.mac();
        self.set_value_of("RAL", 0, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        self.set_value_of("RAH", 0, RAH_VALID | u32::from(u16::from_le_bytes([mac[4], mac[5]])));
        self.set_value_of("MPSAR", 0, u32::MAX);
        self.set_value_of("MPSAR", 1, u32::MAX);
        self.waits.clear();
        (self.receive, self.transmit) = (Receive::default(), Transmit::default());
        self.flow = Flow::default();
        self.trouble.reset();
        self.wait("EEC", 0, EEC_AUTO_READ_DONE, 0);
        self.wait("RDRXCTL", 0, RDRXCTL_INIT_DONE, 0);
        self.interrupts.reset();
        self.restart_link();
    }

    /// Plugs the cable into something else.
    pub fn set_wire(&mut self, wire: Box<dyn Wire>) {
        self.wire = Some(wire);
    }

    /// Puts a module into the cage, or takes it out.
    pub fn set_module(&mut self, module: Option<Module>) {
        self.bus = Bus::new(module);
        self.look_at_link();
    }

    /// Lets time go by, and does some of what there is to do, in an order that the seed says; whether there was something,
    /// or something waits for its time.
    pub fn step(&mut self) -> bool {
        if self.is_removed() {
            return false;
        }
        self.waits_time();
        self.link_time();
        let mut works = self.trouble_time();
        works |= self.vf_time();
        works |= self.write_back_time();
        works |= self.flow_time();
        works |= self.throttle_time();
        works |= self.take_arrivals();
        for _ in 0..=self.random.below(MOST_WORK) {
            let receives_first = self.random.below(2) == 0;
            let done = receives_first && self.receive_one() || self.transmit_one() || self.receive_one();
            if !done {
                break;
            }
            works = true;
        }
        works
    }

    /// Reads a register of the function. What is not there reads as zero, and outside of the BAR as ones.
    pub fn read32(&mut self, offset: u32) -> u32 {
        match &self.vf {
            _ if !self.trouble.access() => u32::MAX,
            Some(_) => self.vf_read32(offset),
            None => self.device_read32(offset),
        }
    }

    pub(crate) fn device_read32(&mut self, offset: u32) -> u32 {
        if offset as usize >= BAR_LEN {
            return u32::MAX;
        }
        let Some(found) = self.find(offset, 0) else { return 0 };
        let name = found.register.name;
        match name {
            "LINKS" | "ANLP1" => self.link_time(),
            "EICR" => return self.interrupts.read(&self.interrupt_setup()),
            _ => {}
        }
        let kept = self.word(found.offset);
        let value = match name {
            "STATUS" => self.status(),
            "LINKS" => self.links(),
            "ANLP1" => self.anlp1(),
            "SECRXSTAT" => u32::from(self.value("SECRXCTRL") & SECURITY_HALT != 0),
            "SECTXSTAT" => u32::from(self.value("SECTXCTRL") & SECURITY_HALT != 0),
            "EICS" => self.interrupts.causes().register(),
            "EIMS" => self.interrupts.mask.register(),
            "EIMS_EX" => self.interrupts.mask.half(found.index),
            "ESDP" if self.has_module() && kept & ESDP_SDP2_IS_OUTPUT == 0 => kept | ESDP_SDP2,
            "ESDP" if kept & ESDP_SDP2_IS_OUTPUT == 0 => kept & !ESDP_SDP2,
            "I2CCTL" => {
                let bit = |on, bit| if on { bit } else { 0 };
                let lines = bit(self.bus.clock(), I2C_CLOCK_IN) | bit(self.bus.line(), I2C_DATA_IN);
                kept & (I2C_CLOCK_OUT | I2C_DATA_OUT) | lines
            }
            _ => kept,
        };
        match (name, found.register.access) {
            // Whoever reads it first has it (10.5.4).
            ("SWSM", _) => self.set_word(found.offset, kept | SWSM_DRIVER),
            (_, Access::ReadClear) => self.set_word(found.offset, 0),
            _ => {}
        }
        let value = self.as_shown(found.offset, value);
        self.trouble.shown(name, value)
    }

    /// Writes a register of the function. What is not there, or is not to be written, keeps its value.
    pub fn write32(&mut self, offset: u32, value: u32) {
        match &self.vf {
            _ if !self.trouble.access() => {}
            Some(_) => self.vf_write32(offset, value),
            None => self.device_write32(offset, value),
        }
    }

    pub(crate) fn device_write32(&mut self, offset: u32, value: u32) {
        if offset as usize >= BAR_LEN {
            return;
        }
        let Some(found) = self.find(offset, value) else { return };
        let register = found.register;
        if matches!(register.access, Access::ReadOnly | Access::ReadClear) {
            self.fault(&found, value, "it can only be read");
            return;
        }
        if register.access == Access::ReadWrite {
            let wrong = (value ^ register.reset) & register.reserved();
            if wrong != 0 && !self.has_no_effect(&found) {
                let expected = register.reset & register.reserved();
                self.fault(
                    &found,
                    value,
                    &format!("reserved bits {wrong:#x} are to be written as {expected:#x}"),
                );
            }
            let untrue = value & !self.word(found.offset) & register.status;
            if untrue != 0 {
                self.fault(
                    &found,
                    value,
                    &format!("bits {untrue:#x} are the device's, which has them clear"),
                );
            }
            if !self.may_write_ring(&found, value) {
                return;
            }
            let was = self.word(found.offset);
            let kept = was & !register.kept | value & register.kept;
            self.write_kept(&found, value, kept);
            self.ring_was_written(&found, value, was);
        }
        self.act(&found, value);
    }

    /// Whether nothing depends on a register, so that reserved bits in it do no harm: the threshold of a packet buffer of size
    /// zero. Linux computes one from the size for each buffer, below zero for those.
    fn has_no_effect(&self, found: &Found) -> bool {
        found.register.name == "FCRTH" && self.value_of("RXPBSIZE", found.index) == 0
    }

    /// Keeps what was written, where the rules about other registers let it.
    fn write_kept(&mut self, found: &Found, value: u32, kept: u32) {
        let port = self.port;
        match found.register.name {
            "SW_FW_SYNC" if self.value("SWSM") & SWSM_FIRMWARE == 0 => {
                self.fault(found, value, "SWSM.SWESMBI is to be had first (10.5.4)");
            }
            "I2CCTL" if self.value("SW_FW_SYNC") & SYNC_PHY0 << port == 0 => {
                self.fault(found, value, "the PHY's bit in SW_FW_SYNC is to be had first (10.5.4)");
            }
            "EEC" if value & EEC_REQUEST != 0 && self.value("SW_FW_SYNC") & SYNC_EEPROM == 0 => {
                self.fault(found, value, "the EEPROM's bit in SW_FW_SYNC is to be had first (10.5.4)");
            }
            "EEC" if value & EEC_WIRES != 0 && self.value("EEC") & EEC_GRANT == 0 => {
                self.fault(found, value, "EE_GNT is to be had before the wires are driven");
            }
            _ => {}
        }
        self.set_word(found.offset, kept);
    }

    /// What writing does beyond that.
    fn act(&mut self, found: &Found, value: u32) {
        match found.register.name {
            "CTRL" if value & CTRL_RESET != 0 && self.trouble.hangs() => {
                let kept = self.word(found.offset) | CTRL_RESET;
                self.set_word(found.offset, kept);
            }
            "CTRL" if value & (CTRL_RESET | CTRL_LINK_RESET) != 0 => {
                self.reset_device();
                self.wait("CTRL", 0, CTRL_RESET, value & CTRL_RESET);
            }
            "I2CCTL" => self.bus.drive(value & I2C_CLOCK_OUT != 0, value & I2C_DATA_OUT != 0),
            "EEC" => {
                let granted = if value & EEC_REQUEST != 0 { EEC_GRANT } else { 0 };
                let kept = self.word(found.offset) & !EEC_GRANT | granted;
                self.set_word(found.offset, kept);
            }
            "EERD" if value & EERD_START != 0 => {
                let at = (value >> 2 & 0x3fff) as u16;
                let word = self.trouble.word(at, self.eeprom.word(at));
                self.set_word(found.offset, u32::from(word) << 16 | value & 0xfffc | EERD_DONE);
                self.wait("EERD", 0, EERD_DONE, 0);
            }
            "AUTOC" if value & AUTOC_RESTART != 0 => self.restart_link(),
            "FDIRCTRL" if value & FDIRCTRL_ALLOCATES != 0 => {
                self.set_word(found.offset, self.word(found.offset) | FDIRCTRL_INIT_DONE);
                self.wait("FDIRCTRL", 0, FDIRCTRL_INIT_DONE, 0);
            }
            "AUTOC" | "AUTOC2" | "ESDP" => self.look_at_link(),
            "EITR" | "EICR" | "EICS" | "EICS_EX" | "EIMS" | "EIMS_EX" | "EIMC" | "EIMC_EX" => {
                self.act_on_interrupts(found, value);
            }
            _ => {}
        }
    }

    fn act_on_interrupts(&mut self, found: &Found, value: u32) {
        let setup = self.interrupt_setup();
        match found.register.name {
            "EITR" => self.interrupts.set_interval(found.index, value, &setup),
            "EICR" => self.interrupts.clear(Bits::of(value)),
            "EICS" => self.interrupts.raise(Bits::of(value), &setup),
            "EICS_EX" => self.interrupts.raise(Bits::of_half(found.index, value), &setup),
            "EIMS" => self.interrupts.unmask(Bits::of(value), &setup),
            "EIMS_EX" => self.interrupts.unmask(Bits::of_half(found.index, value), &setup),
            "EIMC" => self.interrupts.mask(Bits::of(value)),
            "EIMC_EX" => self.interrupts.mask(Bits::of_half(found.index, value)),
            _ => {}
        }
    }

    /// The register at an offset; that there is none is a fault.
    fn find(&mut self, offset: u32, value: u32) -> Option<Found> {
        let found = if offset.is_multiple_of(4) { registers::find(offset) } else { None };
        if found.is_none() {
            self.faults.add(Fault {
                register: format!("{offset:#07x}"),
                value: value.into(),
                section: "8.2.2",
                what: "there is no such register".into(),
            });
        }
        found
    }

    /// Something else than a dword was read or written.
    pub(crate) fn narrow_access(&mut self, offset: usize, value: u32) {
        self.faults.add(Fault {
            register: format!("{offset:#07x}"),
            value: value.into(),
            section: "8.2.1",
            what: "registers are accessed in dwords".into(),
        });
    }

    /// Something was written that configuration space has nothing to write for.
    pub(crate) fn config_refused(&mut self, offset: u16, value: u32) {
        self.faults.add(Fault {
            register: format!("configuration space at {offset:#x}"),
            value: value.into(),
            section: "9.3",
            what: "nothing of it can be written".into(),
        });
    }

    pub(crate) fn add_fault(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    pub(crate) fn fault(&mut self, found: &Found, value: u32, what: &str) {
        let (register, section) = (found.named(), found.register.section);
        self.faults.add(Fault { register, value: value.into(), section, what: what.into() });
    }

    /// A queue cannot go on: `value` is an address, or a descriptor.
    pub(crate) fn queue_fault(&mut self, (name, queue): (&'static str, u32), value: u64, what: &str) {
        let section = if name.starts_with('R') { "7.1" } else { "7.2" };
        self.faults.add(Fault { register: format!("{name}[{queue}]"), value, section, what: what.into() });
    }

    pub(crate) fn status(&self) -> u32 {
        let master = if self.value("CTRL") & CTRL_MASTER_DISABLE == 0 { STATUS_MASTER_ENABLED } else { 0 };
        let up = if self.link.up { STATUS_LINK_UP } else { 0 };
        master | up | u32::from(self.port) << 2
    }

    /// Whether there is a module in the cage.
    #[must_use]
    pub fn has_module(&self) -> bool {
        self.bus.module.is_some()
    }

    pub(crate) fn interrupt_setup(&self) -> Setup {
        if let Some(vf) = &self.vf {
            return vf.setup();
        }
        let mut auto_mask = Bits::of(self.value("EIAM"));
        for half in 0..2 {
            auto_mask.queues |= Bits::of_half(half, self.value_of("EIAM_EX", half)).queues;
        }
        Setup {
            gpie: self.value("GPIE"),
            auto_clear: self.value("EIAC"),
            auto_mask,
            ivar_misc: self.value("IVAR_MISC"),
        }
    }

    /// Time goes by for interrupts that are held back; whether there are any.
    fn throttle_time(&mut self) -> bool {
        if !self.interrupts.waits() {
            return false;
        }
        let setup = self.interrupt_setup();
        self.interrupts.time(&setup);
        true
    }

    /// Causes an interrupt, if it is not masked. What is not a queue's is the physical function's.
    pub(crate) fn raise(&mut self, mut bits: Bits) {
        if self.vf.is_some() {
            bits.other = 0;
        }
        let setup = self.interrupt_setup();
        self.interrupts.raise(bits, &setup);
    }

    /// A queue has something to tell.
    pub(crate) fn raise_queue(&mut self, queue: u32, transmit: bool) {
        if let Some(bit) = self.cause_of(queue, transmit) {
            self.raise(Bits { queues: 1 << bit, other: 0 });
        }
    }

    /// The cause, and where there are vectors the vector, that a queue has (8.2.3.5.16).
    fn cause_of(&self, queue: u32, transmit: bool) -> Option<u32> {
        let ivar = self.vf.as_ref().map(|vf| vf.allocation(queue));
        allocation(ivar.unwrap_or_else(|| self.value_of("IVAR", queue / 2)), queue, transmit)
    }

    /// EITR of a transmit queue's vector, a virtual function's own (8.3.5.2); 0 where it has none.
    pub(crate) fn throttle_of(&self, queue: u32) -> u32 {
        let of = |vector| match &self.vf {
            Some(vf) => vf.throttle(vector),
            None => self.value_of("EITR", vector),
        };
        self.cause_of(queue, true).map_or(0, of)
    }
}

#[cfg(test)]
pub(crate) mod tests;
