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
/// EITR (8.2.3.5.12): ITR_INTERVAL, the counter, and that the counter is not written.
const INTERVAL_SHIFT: u32 = 3;
const INTERVAL_MASK: u32 = 0x1ff;
const COUNTER_KEPT: u32 = 1 << 31;
/// Vectors that messages have.
const VECTORS: usize = 64;

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
    throttles: [Throttle; VECTORS],
}

/// How often a vector may interrupt (7.3.2.1). A unit of EITR, of 2 us, is a step of the model.
#[derive(Debug, Clone, Copy, Default)]
struct Throttle {
    interval: u32,
    /// Steps until the next interrupt may come.
    left: u32,
    /// Something waits for that.
    held: bool,
}

impl Interrupts {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Line,
            signals: None,
            causes: Bits::default(),
            mask: Bits::default(),
            line: false,
            throttles: [Throttle::default(); VECTORS],
        }
    }

    /// As after a reset of the device; what the configuration space says stays.
    pub(crate) fn reset(&mut self) {
        (self.causes, self.mask) = (Bits::default(), Bits::default());
        self.throttles = [Throttle::default(); VECTORS];
        self.level();
    }

    /// EITR is written. Unless the counter is to be kept it begins anew, at zero as drivers write it.
    pub(crate) fn set_interval(&mut self, vector: u32, value: u32, setup: &Setup) {
        let Some(throttle) = self.throttles.get_mut(vector as usize) else { return };
        throttle.interval = value >> INTERVAL_SHIFT & INTERVAL_MASK;
        if value & COUNTER_KEPT == 0 {
            throttle.left = 0;
            self.let_go(vector as usize, setup);
        }
    }

    /// Whether a vector has just interrupted.
    pub(crate) fn waits(&self) -> bool {
        self.throttles.iter().any(|throttle| throttle.left > 0)
    }

    /// Time goes by for vectors that have just interrupted.
    pub(crate) fn time(&mut self, setup: &Setup) {
        for vector in 0..VECTORS {
            let throttle = &mut self.throttles[vector];
            if throttle.left > 0 {
                throttle.left -= 1;
                self.let_go(vector, setup);
            }
        }
    }

    /// Tells of what a vector has held back, if its time has come and it is not masked.
    fn let_go(&mut self, vector: usize, setup: &Setup) {
        let throttle = &mut self.throttles[vector];
        if throttle.left > 0 || !std::mem::take(&mut throttle.held) {
            return;
        }
        if self.mode == Mode::Line {
            self.level();
            return;
        }
        let due = self.causes.and(self.mask).and(self.of_vector(vector as u16, setup));
        if due != Bits::default() {
            self.message(vector as u16, due, setup);
        }
    }

    /// Whether messages have vectors of their own.
    fn has_vectors(&self, setup: &Setup) -> bool {
        self.mode == Mode::Msix && setup.gpie & GPIE_MULTIPLE_MSIX != 0
    }

    /// The causes that a vector is for.
    fn of_vector(&self, vector: u16, setup: &Setup) -> Bits {
        if !self.has_vectors(setup) {
            return Bits { queues: u64::MAX, other: u32::MAX };
        }
        let entry = setup.ivar_misc >> 8;
        let is_other = entry & IVAR_VALID != 0 && (entry & 0x3f) as u16 == vector;
        Bits { queues: 1 << vector, other: if is_other { u32::MAX } else { 0 } }
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

    /// EICS is read: what EICR would say, and nothing is cleared. Linux's driver takes its causes from there where they have
    /// a vector of their own.
    pub(crate) fn causes(&self) -> Bits {
        self.causes
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
        if self.mode == Mode::Line {
            self.level();
            return;
        }
        let vectors = if self.has_vectors(setup) { VECTORS as u16 } else { 1 };
        for vector in 0..vectors {
            let due = new.and(self.of_vector(vector, setup));
            if due != Bits::default() {
                self.message(vector, due, setup);
            }
        }
    }

    /// Sends a message, or holds it back.
    fn message(&mut self, vector: u16, due: Bits, setup: &Setup) {
        let throttle = &mut self.throttles[usize::from(vector)];
        if throttle.left > 0 {
            throttle.held = true;
            return;
        }
        throttle.left = throttle.interval;
        if self.has_vectors(setup) {
            // Vectors that EICR has no bit for clear themselves.
            if vector > 15 || setup.auto_clear >> vector & 1 == 1 {
                self.causes = self.causes.without(Bits { queues: due.queues, other: 0 });
            }
            if setup.gpie & GPIE_AUTO_MASK != 0 {
                self.mask = self.mask.without(due.and(setup.auto_mask));
            }
        }
        if let Some(signals) = &mut self.signals {
            signals.message(vector);
        }
    }

    /// Puts the line where it belongs.
    fn level(&mut self) {
        let up = self.mode == Mode::Line && self.causes.and(self.mask) != Bits::default();
        if up != self.line {
            let throttle = &mut self.throttles[0];
            if up && throttle.left > 0 {
                throttle.held = true;
                return;
            }
            if up {
                throttle.left = throttle.interval;
            }
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
mod tests;
