//! Causes, masks and vectors (datasheet, 7.3 and 8.2.3.5).

use std::fmt;

/// Bits of EICR beside those of the queues (8.2.3.5.1).
pub(crate) const RX_MISS: u32 = 1 << 17;
pub(crate) const LINK_CHANGE: u32 = 1 << 20;

/// Bits 15:0 of EICR are those of queues, or vectors.
const QUEUES: u32 = 0xffff;
/// GPIE (8.2.3.5.18).
const GPIE_MULTIPLE_MSIX: u32 = 1 << 4;
const GPIE_OTHER_CLEAR_DISABLE: u32 = 1 << 5;
const GPIE_AUTO_MASK: u32 = 1 << 30;
/// An entry of IVAR is in use (8.2.3.5.16).
const IVAR_VALID: u32 = 0x80;

/// The host's end of interrupts.
pub trait Signals: Send + fmt::Debug {
    /// A message of MSI-X, or vector 0 for MSI.
    fn message(&mut self, vector: u16);
    /// INTx goes up or down.
    fn line(&mut self, up: bool);
}

/// Which kind of interrupt the configuration space has on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// INTx.
    #[default]
    Line,
    /// One message.
    Msi,
    /// A message for each vector.
    Msix,
}

/// 16 bits of EICR for queues and 16 others; queues' are extended to 64 for MSI-X.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) queues: u64,
    pub(crate) other: u32,
}

impl Bits {
    pub(crate) fn of(register: u32) -> Self {
        Self { queues: u64::from(register & QUEUES), other: register & !QUEUES }
    }

    /// Of one of the two registers that extend another: 32 vectors.
    pub(crate) fn of_half(half: u32, bits: u32) -> Self {
        Self { queues: u64::from(bits) << (32 * half), other: 0 }
    }

    pub(crate) fn register(self) -> u32 {
        self.queues as u32 & QUEUES | self.other
    }

    pub(crate) fn half(self, half: u32) -> u32 {
        (self.queues >> (32 * half)) as u32
    }

    fn and(self, with: Self) -> Self {
        Self { queues: self.queues & with.queues, other: self.other & with.other }
    }

    fn or(self, with: Self) -> Self {
        Self { queues: self.queues | with.queues, other: self.other | with.other }
    }

    fn without(self, bits: Self) -> Self {
        Self { queues: self.queues & !bits.queues, other: self.other & !bits.other }
    }
}

/// What a driver has set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) gpie: u32,
    /// EIAC.
    pub(crate) auto_clear: u32,
    pub(crate) auto_mask: Bits,
    pub(crate) ivar_misc: u32,
}

/// The unit's state.
#[derive(Debug)]
pub(crate) struct Interrupts {
    pub(crate) mode: Mode,
    pub(crate) signals: Option<Box<dyn Signals>>,
    causes: Bits,
    pub(crate) mask: Bits,
    line: bool,
}

impl Interrupts {
    pub(crate) fn new() -> Self {
        Self { mode: Mode::Line, signals: None, causes: Bits::default(), mask: Bits::default(), line: false }
    }

    /// As after a reset of the device; what the configuration space says stays.
    pub(crate) fn reset(&mut self) {
        (self.causes, self.mask) = (Bits::default(), Bits::default());
        self.level();
    }

    /// Something happened, or a driver writes EICS.
    pub(crate) fn raise(&mut self, bits: Bits, setup: &Setup) {
        let new = bits.without(self.causes);
        self.causes = self.causes.or(bits);
        self.tell(new.and(self.mask), setup);
    }

    /// EIMS: what is a cause already is told of now.
    pub(crate) fn unmask(&mut self, bits: Bits, setup: &Setup) {
        let new = bits.without(self.mask);
        self.mask = self.mask.or(bits);
        self.tell(new.and(self.causes), setup);
    }

    /// EIMC.
    pub(crate) fn mask(&mut self, bits: Bits) {
        self.mask = self.mask.without(bits);
        self.level();
    }

    /// EICR is written.
    pub(crate) fn clear(&mut self, bits: Bits) {
        self.causes = self.causes.without(bits);
        self.level();
    }

    /// EICR is read, which clears (8.2.3.5.1) and masks by itself what EIAM says, unless messages do (7.3.1.5).
    pub(crate) fn read(&mut self, setup: &Setup) -> u32 {
        let value = self.causes.register();
        let cleared = if setup.gpie & GPIE_OTHER_CLEAR_DISABLE != 0 { value & 0x3fff_0000 } else { value };
        self.causes = self.causes.without(Bits::of(cleared));
        if setup.gpie & GPIE_AUTO_MASK == 0 {
            self.mask = self.mask.without(Bits::of(value).and(setup.auto_mask));
        }
        self.level();
        value
    }

    /// Tells of causes that are new and not masked.
    fn tell(&mut self, new: Bits, setup: &Setup) {
        if new == Bits::default() {
            return;
        }
        match self.mode {
            Mode::Line => self.level(),
            Mode::Msi => self.message(0),
            Mode::Msix if setup.gpie & GPIE_MULTIPLE_MSIX == 0 => self.message(0),
            Mode::Msix => {
                for vector in (0..64).filter(|vector| new.queues >> vector & 1 == 1) {
                    let bit = Bits { queues: 1 << vector, other: 0 };
                    // Vectors that EICR has no bit for clear themselves.
                    if vector > 15 || setup.auto_clear >> vector & 1 == 1 {
                        self.causes = self.causes.without(bit);
                    }
                    self.message(vector);
                }
                let entry = setup.ivar_misc >> 8;
                if new.other != 0 && entry & IVAR_VALID != 0 {
                    self.message((entry & 0x3f) as u16);
                }
                if setup.gpie & GPIE_AUTO_MASK != 0 {
                    self.mask = self.mask.without(new.and(setup.auto_mask));
                }
            }
        }
    }

    fn message(&mut self, vector: u16) {
        if let Some(signals) = &mut self.signals {
            signals.message(vector);
        }
    }

    /// Puts the line where it belongs.
    fn level(&mut self) {
        let up = self.mode == Mode::Line && self.causes.and(self.mask) != Bits::default();
        if up != self.line {
            self.line = up;
            if let Some(signals) = &mut self.signals {
                signals.line(up);
            }
        }
    }

    /// The configuration space has another kind on now.
    pub(crate) fn switch(&mut self, mode: Mode) {
        self.mode = mode;
        self.level();
    }
}

/// The bit of EICR, or the vector, that a queue's entry in IVAR names; none if it is not valid.
pub(crate) fn allocation(ivar: u32, queue: u32, transmit: bool) -> Option<u32> {
    let entry = ivar >> (16 * (queue & 1) + if transmit { 8 } else { 0 });
    (entry & IVAR_VALID != 0).then_some(entry & 0x3f)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl Told {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Signals for Told {
        fn message(&mut self, vector: u16) {
            self.0.lock().unwrap().push(vector.to_string());
        }
        fn line(&mut self, up: bool) {
            self.0.lock().unwrap().push(if up { "up".into() } else { "down".into() });
        }
    }

    fn unit(mode: Mode) -> (Interrupts, Told) {
        let told = Told::default();
        let mut unit = Interrupts::new();
        unit.mode = mode;
        unit.signals = Some(Box::new(told.clone()));
        (unit, told)
    }

    const PLAIN: Setup =
        Setup { gpie: 0, auto_clear: 0, auto_mask: Bits { queues: 0, other: 0 }, ivar_misc: 0 };

    #[test]
    fn the_line_is_up_while_something_is_not_masked() {
        let (mut unit, told) = unit(Mode::Line);
        unit.raise(Bits::of(LINK_CHANGE), &PLAIN);
        assert!(told.take().is_empty());
        unit.unmask(Bits::of(LINK_CHANGE | 1), &PLAIN);
        unit.raise(Bits::of(1), &PLAIN);
        assert_eq!(told.take(), ["up"]);
        unit.clear(Bits::of(1));
        assert!(told.take().is_empty());
        assert_eq!(unit.read(&PLAIN), LINK_CHANGE);
        assert_eq!((told.take(), unit.read(&PLAIN)), (vec!["down".to_owned()], 0));
        let auto = Setup { auto_mask: Bits::of(1), ..PLAIN };
        unit.raise(Bits::of(1), &auto);
        unit.read(&auto);
        unit.raise(Bits::of(1), &auto);
        assert_eq!((told.take(), unit.mask.register()), (vec!["up".into(), "down".into()], LINK_CHANGE));
    }

    #[test]
    fn vectors_clear_and_mask_themselves_where_told() {
        let (mut unit, told) = unit(Mode::Msix);
        let setup = Setup {
            gpie: GPIE_MULTIPLE_MSIX | GPIE_OTHER_CLEAR_DISABLE,
            auto_clear: 0b10,
            ivar_misc: 0x8300,
            ..PLAIN
        };
        unit.unmask(Bits { queues: u64::MAX, other: LINK_CHANGE }, &setup);
        for _ in 0..2 {
            unit.raise(Bits { queues: 1 << 40 | 0b111, other: LINK_CHANGE }, &setup);
        }
        // Vectors 0 and 2 are still causes, and so is the link.
        assert_eq!(told.take(), ["0", "1", "2", "40", "3", "1", "40"]);
        assert_eq!(unit.read(&setup), LINK_CHANGE | 0b101);
        assert_eq!(unit.read(&setup), 0b101);
        let auto = Setup { gpie: setup.gpie | GPIE_AUTO_MASK, auto_mask: Bits::of(0b10), ..setup };
        unit.raise(Bits::of(0b10), &auto);
        unit.raise(Bits::of(0b10), &auto);
        assert_eq!(told.take(), ["1"]);
        unit.unmask(Bits::of(0b10), &auto);
        assert_eq!(told.take(), ["1"], "what came while it was masked");
    }

    #[test]
    fn one_message_does_for_all_without_gpie() {
        for mode in [Mode::Msi, Mode::Msix] {
            let (mut unit, told) = unit(mode);
            unit.unmask(Bits::of(u32::MAX), &PLAIN);
            unit.raise(Bits::of(0b1000 | LINK_CHANGE), &PLAIN);
            assert_eq!(told.take(), ["0"]);
        }
    }

    #[test]
    fn queues_have_entries() {
        let ivar = 0x83_82_05_80u32;
        assert_eq!(allocation(ivar, 4, false), Some(0));
        assert_eq!(allocation(ivar, 4, true), None);
        assert_eq!(allocation(ivar, 5, false), Some(2));
        assert_eq!(allocation(ivar, 5, true), Some(3));
    }
}
