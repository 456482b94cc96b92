//! The SFP+ module's memory, on the two wires of I2CCTL (datasheet, 8.2.3.1.5; SFF-8472).

/// The I2C addresses of the module's identification and of its diagnostics, as they are sent.
const IDENTITY: u8 = 0xa0;
const DIAGNOSTICS: u8 = 0xa2;

/// A module in its cage.
#[derive(Debug, Clone)]
pub struct Module {
    identity: [u8; 256],
}

impl Default for Module {
    /// 10GBASE-SR by Intel.
    fn default() -> Self {
        let mut identity = [0; 256];
        // SFP, by its two wires only, with an LC connector (SFF-8472, table 5-1).
        (identity[0], identity[1], identity[2]) = (3, 4, 7);
        // 10GBASE-SR, and the vendor's OUI.
        identity[3] = 0x10;
        identity[37..40].copy_from_slice(&[0x00, 0x1b, 0x21]);
        identity[20..36].copy_from_slice(b"Intel Corp      ");
        let mut module = Self { identity };
        module.mend();
        module
    }
}

impl Module {
    /// Changes a byte of the identification, as for another kind of module, and mends its checksum unless it is that.
    pub fn set(&mut self, at: u8, value: u8) {
        self.identity[usize::from(at)] = value;
        if at != 63 {
            self.mend();
        }
    }

    fn mend(&mut self) {
        self.identity[63] = self.identity[..63].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    }

    fn byte(&self, address: u8, at: u8) -> u8 {
        if address & !1 == IDENTITY { self.identity[usize::from(at)] } else { 0 }
    }
}

/// What is under way on the wires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing, or something for another.
    Idle,
    /// The host sends an address.
    Address,
    /// The host sends the place in the module's memory, then bytes for it.
    Write,
    /// The module sends bytes.
    Read,
}

/// The two wires, with the module's end of them.
#[derive(Debug, Clone)]
pub(crate) struct Bus {
    pub(crate) module: Option<Module>,
    clock: bool,
    data: bool,
    phase: Phase,
    /// Clocks in this byte, 8 for the acknowledgement's.
    bit: u8,
    shift: u8,
    address: u8,
    place: u8,
    /// The next byte that is sent is the place.
    at_place: bool,
    pulls: bool,
}

impl Bus {
    pub(crate) fn new(module: Option<Module>) -> Self {
        Self {
            module,
            clock: true,
            data: true,
            phase: Phase::Idle,
            bit: 0,
            shift: 0,
            address: 0,
            place: 0,
            at_place: false,
            pulls: false,
        }
    }

    /// The data wire, which anybody may pull down.
    pub(crate) fn line(&self) -> bool {
        self.data && !self.pulls
    }

    /// The clock wire.
    pub(crate) fn clock(&self) -> bool {
        self.clock
    }

    /// The host lets the wires go up, or pulls them down.
    pub(crate) fn drive(&mut self, clock: bool, data: bool) {
        let was = (self.clock, self.data);
        (self.clock, self.data) = (clock, data);
        match (was, clock) {
            // The clock stays up: a change of data is a start or a stop.
            ((true, true), true) if !data => {
                (self.phase, self.bit, self.shift, self.pulls) = (Phase::Address, 0, 0, false);
            }
            ((true, false), true) if data => (self.phase, self.pulls) = (Phase::Idle, false),
            ((false, _), true) => self.rises(data),
            ((true, _), false) => self.falls(),
            _ => {}
        }
    }

    fn rises(&mut self, data: bool) {
        match (self.phase, self.bit) {
            (Phase::Idle, _) => return,
            (Phase::Address | Phase::Write, 0..8) => self.shift = self.shift << 1 | u8::from(data),
            // The host did not acknowledge: it wants no more.
            (Phase::Read, 8) if data => self.phase = Phase::Idle,
            _ => {}
        }
        self.bit += 1;
    }

    fn falls(&mut self) {
        if self.phase == Phase::Idle {
            self.pulls = false;
            return;
        }
        match self.bit {
            8 => self.pulls = self.acknowledges(),
            9 => {
                (self.bit, self.pulls) = (0, false);
                self.next_byte();
            }
            _ => {}
        }
        if self.phase == Phase::Read && self.bit < 8 {
            self.pulls = self.shift & (0x80 >> self.bit) == 0;
        }
    }

    /// Whether the byte that is whole now is taken.
    fn acknowledges(&mut self) -> bool {
        match self.phase {
            Phase::Address => {
                let mine = matches!(self.shift & !1, IDENTITY | DIAGNOSTICS) && self.module.is_some();
                self.address = self.shift;
                mine
            }
            Phase::Write => {
                if self.at_place {
                    self.place = self.shift;
                } else {
                    // What the host writes into its memory is not kept.
                    self.place = self.place.wrapping_add(1);
                }
                self.at_place = false;
                true
            }
            // The host acknowledges.
            Phase::Read | Phase::Idle => false,
        }
    }

    fn next_byte(&mut self) {
        if self.phase == Phase::Address {
            let Some(_) =
                self.module.as_ref().filter(|_| matches!(self.address & !1, IDENTITY | DIAGNOSTICS))
            else {
                self.phase = Phase::Idle;
                return;
            };
            (self.phase, self.at_place) =
                if self.address & 1 == 1 { (Phase::Read, false) } else { (Phase::Write, true) };
        }
        self.shift = 0;
        if let (Phase::Read, Some(module)) = (self.phase, &self.module) {
            self.shift = module.byte(self.address, self.place);
            self.place = self.place.wrapping_add(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host's end: the wires, by a function that drives them and one that samples data.
    pub(crate) struct Host<D: FnMut(bool, bool) -> bool>(pub(crate) D);

    impl<D: FnMut(bool, bool) -> bool> Host<D> {
        fn start(&mut self) {
            for (clock, data) in [(false, true), (true, true), (true, false), (false, false)] {
                (self.0)(clock, data);
            }
        }

        fn stop(&mut self) {
            for (clock, data) in [(false, false), (true, false), (true, true)] {
                (self.0)(clock, data);
            }
        }

        fn bit(&mut self, data: bool) -> bool {
            (self.0)(false, data);
            let line = (self.0)(true, data);
            (self.0)(false, data);
            line
        }

        /// Sends a byte; whether it was taken.
        fn send(&mut self, byte: u8) -> bool {
            for at in (0..8).rev() {
                self.bit(byte >> at & 1 == 1);
            }
            !self.bit(true)
        }

        fn take(&mut self, more: bool) -> u8 {
            let byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.bit(true)));
            self.bit(!more);
            byte
        }

        /// Bytes of a device, or none if there is no such device.
        pub(crate) fn read(&mut self, address: u8, place: u8, count: usize) -> Option<Vec<u8>> {
            self.start();
            let there = self.send(address) && self.send(place);
            let mut bytes = Vec::new();
            if there {
                self.start();
                assert!(self.send(address | 1));
                bytes = (1..=count).map(|at| self.take(at < count)).collect();
            }
            self.stop();
            there.then_some(bytes)
        }
    }

    fn host(bus: &mut Bus) -> Host<impl FnMut(bool, bool) -> bool> {
        Host(|clock, data| {
            bus.drive(clock, data);
            bus.line()
        })
    }

    #[test]
    fn the_module_is_read_byte_by_byte() {
        let mut bus = Bus::new(Some(Module::default()));
        assert_eq!(host(&mut bus).read(0xa0, 0, 4), Some(vec![3, 4, 7, 0x10]));
        assert_eq!(host(&mut bus).read(0xa0, 37, 3), Some(vec![0, 0x1b, 0x21]));
        assert_eq!(host(&mut bus).read(0xa0, 20, 5), Some(b"Intel".to_vec()));
        assert_eq!(host(&mut bus).read(0xa2, 0, 2), Some(vec![0, 0]));
        assert!(bus.line() && bus.clock());
    }

    #[test]
    fn nobody_answers_for_another_or_from_an_empty_cage() {
        let mut bus = Bus::new(Some(Module::default()));
        assert_eq!(host(&mut bus).read(0xf8, 0, 1), None);
        assert_eq!(host(&mut bus).read(0xa0, 0, 1), Some(vec![3]));
        assert_eq!(host(&mut Bus::new(None)).read(0xa0, 0, 1), None);
    }
}
