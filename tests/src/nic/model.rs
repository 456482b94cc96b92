//! The device: its registers, what reading and writing them does, and the rules about that.

use std::collections::HashMap;

use super::eeprom::Eeprom;
use super::fault::{Fault, Faults};
use super::interrupts::{Bits, Interrupts, Mode, Setup, Signals};
use super::link::{Link, STATUS_LINK_UP};
use super::random::Random;
use super::registers::{self, Access, BAR_LEN, Found, TABLE};
use super::sfp::{Bus, Module};

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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            eeprom: Eeprom::new([0x90, 0xe2, 0xba, 0x12, 0x34, 0x56]),
            module: Some(Module::default()),
            cable: true,
            port: 0,
        }
    }
}

/// Bits that a register does not show yet as they will be.
#[derive(Debug, Clone, Copy)]
struct Wait {
    offset: u32,
    bits: u32,
    /// What they read as until then.
    shown: u32,
    /// Reads, or steps, to go.
    left: u32,
}

/// An 82599's port.
#[derive(Debug)]
pub struct Model {
    words: Vec<u32>,
    /// The first of the offsets, by a register's name and index.
    places: HashMap<(&'static str, u32), u32>,
    waits: Vec<Wait>,
    faults: Faults,
    eeprom: Eeprom,
    bus: Bus,
    port: u8,
    pub(crate) random: Random,
    pub(crate) link: Link,
    pub(crate) interrupts: Interrupts,
}

impl Model {
    /// A device that has just got its power.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut places = HashMap::new();
        for register in TABLE {
            for place in 0..register.count {
                places.insert(
                    (register.name, register.first + place),
                    register.offset + place * register.stride,
                );
            }
        }
        let mut model = Self {
            words: vec![0; registers::SPACE as usize / 4],
            places,
            waits: Vec::new(),
            faults: Faults::default(),
            eeprom: settings.eeprom,
            bus: Bus::new(settings.module),
            port: settings.port & 1,
            random: Random::new(settings.seed),
            link: Link::new(settings.cable),
            interrupts: Interrupts::new(),
        };
        model.reset();
        model
    }

    /// What a driver did that it may not do.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Where interrupts go.
    pub fn set_signals(&mut self, signals: Box<dyn Signals>) {
        self.interrupts.signals = Some(signals);
    }

    /// Which kind of interrupt the configuration space has on.
    pub fn set_interrupt_mode(&mut self, mode: Mode) {
        self.interrupts.switch(mode);
    }

    /// As after power-on, or a reset by CTRL: registers have their first values and the EEPROM was read (4.2.1).
    pub fn reset(&mut self) {
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
        self.wait("EEC", 0, EEC_AUTO_READ_DONE, 0);
        self.wait("RDRXCTL", 0, RDRXCTL_INIT_DONE, 0);
        self.interrupts.reset();
        self.restart_link();
    }

    /// Lets time go by, and does what there is to do.
    pub fn step(&mut self) {
        for wait in &mut self.waits {
            wait.left = wait.left.saturating_sub(1);
        }
        self.waits.retain(|wait| wait.left > 0);
        self.link_time();
    }

    /// Reads a register. What is not there reads as zero, and outside of the BAR as ones.
    pub fn read32(&mut self, offset: u32) -> u32 {
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
        self.as_shown(found.offset, value)
    }

    /// Writes a register. What is not there, or is not to be written, keeps its value.
    pub fn write32(&mut self, offset: u32, value: u32) {
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
            if wrong != 0 {
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
            let kept = self.word(found.offset) & !register.kept | value & register.kept;
            self.write_kept(&found, value, kept);
        }
        self.act(&found, value);
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
        let setup = self.interrupt_setup();
        match found.register.name {
            "CTRL" if value & (CTRL_RESET | CTRL_LINK_RESET) != 0 => {
                self.reset();
                self.wait("CTRL", 0, CTRL_RESET, value & CTRL_RESET);
            }
            "I2CCTL" => self.bus.drive(value & I2C_CLOCK_OUT != 0, value & I2C_DATA_OUT != 0),
            "EEC" => {
                let granted = if value & EEC_REQUEST != 0 { EEC_GRANT } else { 0 };
                let kept = self.word(found.offset) & !EEC_GRANT | granted;
                self.set_word(found.offset, kept);
            }
            "EERD" if value & EERD_START != 0 => {
                let word = self.eeprom.word((value >> 2 & 0x3fff) as u16);
                self.set_word(found.offset, u32::from(word) << 16 | value & 0xfffc | EERD_DONE);
                self.wait("EERD", 0, EERD_DONE, 0);
            }
            "AUTOC" if value & AUTOC_RESTART != 0 => self.restart_link(),
            "AUTOC" | "AUTOC2" | "ESDP" => self.look_at_link(),
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

    pub(crate) fn fault(&mut self, found: &Found, value: u32, what: &str) {
        let (register, section) = (found.named(), found.register.section);
        self.faults.add(Fault { register, value: value.into(), section, what: what.into() });
    }

    /// What is kept at a register's first offset.
    fn word(&self, offset: u32) -> u32 {
        self.words[(offset / 4) as usize]
    }

    fn set_word(&mut self, offset: u32, value: u32) {
        self.words[(offset / 4) as usize] = value;
    }

    /// What a register of the table keeps.
    pub(crate) fn value(&self, name: &'static str) -> u32 {
        self.value_of(name, 0)
    }

    /// What one of an array keeps; zero if there is none.
    pub(crate) fn value_of(&self, name: &str, index: u32) -> u32 {
        self.places.get(&(name, index)).map_or(0, |offset| self.word(*offset))
    }

    pub(crate) fn set_value_of(&mut self, name: &str, index: u32, value: u32) {
        if let Some(&offset) = self.places.get(&(name, index)) {
            self.set_word(offset, value);
        }
    }

    /// Bits of a register read as `shown` for a while.
    pub(crate) fn wait(&mut self, name: &str, index: u32, bits: u32, shown: u32) {
        let left = self.random.below(4);
        if let (Some(&offset), 1..) = (self.places.get(&(name, index)), left) {
            self.waits.retain(|wait| (wait.offset, wait.bits) != (offset, bits));
            self.waits.push(Wait { offset, bits, shown, left });
        }
    }

    /// A register's value as a read has it, which is what lets time go by for those that wait.
    fn as_shown(&mut self, offset: u32, mut value: u32) -> u32 {
        for wait in self.waits.iter_mut().filter(|wait| wait.offset == offset) {
            value = value & !wait.bits | wait.shown;
            wait.left -= 1;
        }
        self.waits.retain(|wait| wait.left > 0);
        value
    }

    fn status(&self) -> u32 {
        let master = if self.value("CTRL") & CTRL_MASTER_DISABLE == 0 { STATUS_MASTER_ENABLED } else { 0 };
        let up = if self.link.up { STATUS_LINK_UP } else { 0 };
        master | up | u32::from(self.port) << 2
    }

    pub(crate) fn has_module(&self) -> bool {
        self.bus.module.is_some()
    }

    fn interrupt_setup(&self) -> Setup {
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

    /// Causes an interrupt, if it is not masked.
    pub(crate) fn raise(&mut self, bits: Bits) {
        let setup = self.interrupt_setup();
        self.interrupts.raise(bits, &setup);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::sfp::tests::Host;
    use super::*;

    pub(crate) fn model(seed: u64) -> Model {
        Model::new(Settings { seed, ..Settings::default() })
    }

    fn reads(model: &mut Model, offset: u32, mask: u32, value: u32) -> bool {
        (0..5).any(|_| model.read32(offset) & mask == value)
    }

    fn told(model: &Model) -> Vec<String> {
        model.faults().list().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_reset_gives_each_register_its_first_value() {
        let mut model = model(4);
        for (offset, value) in [(0x5078, 0x8200_0000), (0x5080, 0x702), (0x1018, 5), (0x5200, 9)] {
            model.write32(offset, value);
        }
        model.write32(0x5404, 0x1234);
        model.write32(0x880, 1);
        assert_eq!((model.read32(0x5080), model.read32(0xa204), model.read32(0x880)), (0x702, 0x1234, 1));
        model.write32(0x0, CTRL_RESET);
        assert!(reads(&mut model, 0x0, CTRL_RESET, 0));
        assert!(reads(&mut model, 0x10010, EEC_AUTO_READ_DONE, EEC_AUTO_READ_DONE));
        assert!(reads(&mut model, 0x2f00, RDRXCTL_INIT_DONE, RDRXCTL_INIT_DONE));
        assert_eq!((model.read32(0x5080), model.read32(0x1018), model.read32(0x5200)), (0, 0, 0));
        assert_eq!((model.read32(0x880), model.read32(0x3c00), model.read32(0x3c04)), (0, 0x8_0000, 0));
        assert_eq!((model.read32(0x5400), model.read32(0x5404)), (0x12ba_e290, 0x8000_5634));
        assert!(told(&model).is_empty(), "{:?}", told(&model));
    }

    #[test]
    fn what_may_not_be_written_is_a_fault_with_its_section() {
        let mut model = model(1);
        model.write32(0x8, 1);
        model.write32(0x4074, 0);
        model.write32(0x1000 + 0x40 * 3, 0x1234_5640);
        model.write32(0x104, 7);
        assert_eq!(model.read32(0x2), 0);
        model.write32(0x10014, 0x8);
        model.write32(0x2f00, 0);
        model.write32(0x10160, 1);
        assert_eq!(
            told(&model),
            [
                "STATUS 0x1: it can only be read (82599 datasheet, 8.2.3.1.2)",
                "GPRC 0x0: it can only be read (82599 datasheet, 8.2.3.23)",
                "RDBAL[3] 0x12345640: reserved bits 0x40 are to be written as 0x0 (82599 datasheet, 8.2.3.8.1)",
                "0x00104 0x7: there is no such register (82599 datasheet, 8.2.2)",
                "0x00002 0x0: there is no such register (82599 datasheet, 8.2.2)",
                "SW_FW_SYNC 0x1: SWSM.SWESMBI is to be had first (10.5.4) (82599 datasheet, 8.2.3.4.11)",
            ]
        );
        assert_eq!(model.read32(0x10c0), 0x1234_5600, "the lowest bits are not kept");
        assert_eq!(model.read32(BAR_LEN as u32), u32::MAX);
    }

    #[test]
    fn words_of_the_eeprom_come_after_a_while() {
        for seed in 0..10 {
            let mut model = model(seed);
            let sum = (0..0x40u32).fold(0u16, |sum, word| {
                model.write32(0x10014, word << 2 | EERD_START);
                assert!(reads(&mut model, 0x10014, EERD_DONE, EERD_DONE));
                sum.wrapping_add((model.read32(0x10014) >> 16) as u16)
            });
            // The core's part is in the sum, too.
            let mac = [0xe290u16, 0x12ba, 0x5634].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
            assert_eq!(sum.wrapping_add(mac), 0xbaba);
            assert!(told(&model).is_empty(), "{:?}", told(&model));
        }
    }

    fn take_sync(model: &mut Model, bits: u32) {
        assert_eq!(model.read32(0x10140) & SWSM_DRIVER, 0);
        assert_eq!(model.read32(0x10140) & SWSM_DRIVER, SWSM_DRIVER, "whoever reads it has it");
        model.write32(0x10140, SWSM_DRIVER | SWSM_FIRMWARE);
        assert_eq!(model.read32(0x10140) & SWSM_FIRMWARE, SWSM_FIRMWARE);
        let sync = model.read32(0x10160);
        model.write32(0x10160, sync | bits);
        model.write32(0x10140, 0);
    }

    #[test]
    fn semaphores_are_to_be_had_before_what_they_guard() {
        let mut model = model(1);
        take_sync(&mut model, SYNC_PHY0 | SYNC_EEPROM);
        let bytes = Host(|clock, data| {
            let bit = |on, bit| if on { bit } else { 0 };
            model.write32(0x28, bit(clock, I2C_CLOCK_OUT) | bit(data, I2C_DATA_OUT));
            model.read32(0x28) & I2C_DATA_IN != 0
        })
        .read(0xa0, 0, 4);
        assert_eq!(bytes, Some(vec![3, 4, 7, 0x10]));
        let eec = model.read32(0x10010) & 0x70;
        model.write32(0x10010, eec | EEC_REQUEST);
        assert_eq!(model.read32(0x10010) & EEC_GRANT, EEC_GRANT);
        model.write32(0x10010, eec | EEC_REQUEST | 1);
        model.write32(0x10010, eec);
        assert!(told(&model).is_empty(), "{:?}", told(&model));

        take_sync(&mut model, 0);
        model.write32(0x10140, SWSM_FIRMWARE);
        model.write32(0x10160, 0);
        model.write32(0x28, 0xa);
        model.write32(0x10010, eec | EEC_REQUEST);
        model.write32(0x10010, eec);
        model.write32(0x10010, eec | 2);
        let registers: Vec<_> = model.faults().list().iter().map(|fault| fault.register.clone()).collect();
        assert_eq!(registers, ["I2CCTL", "EEC", "EEC"]);
    }

    #[test]
    fn a_master_that_is_to_stop_says_when_it_has() {
        let mut model = model(1);
        assert_eq!(model.read32(0x8) & STATUS_MASTER_ENABLED, STATUS_MASTER_ENABLED);
        model.write32(0x0, CTRL_MASTER_DISABLE);
        assert_eq!(model.read32(0x8) & STATUS_MASTER_ENABLED, 0);
        assert_eq!(model.read32(0x20) & ESDP_SDP2, ESDP_SDP2);
    }
}
