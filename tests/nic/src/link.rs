//! When the link is up (datasheet, 4.6.3.2 and 8.2.3.22.19 to 23): a cable and a module are there, the laser is on, the
//! link is not held down, and some time has gone by since it was last started.

use super::interrupts::{Bits, LINK_CHANGE};
use super::model::Model;

/// AUTOC.FLU forces the link up, whatever is at its other end.
const AUTOC_FORCE: u32 = 1 << 0;
/// AUTOC.LMS, a serial link of 10 Gb/s (8.2.3.22.19).
const AUTOC_LMS: u32 = 7 << 13;
const AUTOC_LMS_10G_SERIAL: u32 = 3 << 13;
/// AUTOC2 holds the link down (8.2.3.22.22).
const AUTOC2_LINK_DISABLE: u32 = 0x7000_0000;
/// The cage's transmitter is off when SDP3 is driven high.
const ESDP_SDP3: u32 = 1 << 3;
const ESDP_SDP3_IS_OUTPUT: u32 = 1 << 11;

/// LINKS: up, at 10 Gb/s (8.2.3.22.20).
const LINKS_UP_10G: u32 = 0x7000_0000;
/// ANLP1.AN_STATE is not "disabled" once it was started (8.2.3.22.23).
const ANLP1_AN_STATE: u32 = 1 << 16;
/// STATUS.LINKUP (8.2.3.1.2).
pub(crate) const STATUS_LINK_UP: u32 = 1 << 7;

/// The link's state beside its registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Somebody is at the other end.
    pub(crate) cable: bool,
    pub(crate) up: bool,
    /// It was started, and has this long to go.
    starting: Option<u32>,
    started: bool,
}

impl Link {
    pub(crate) fn new(cable: bool) -> Self {
        Self { cable, up: false, starting: None, started: false }
    }
}

impl Model {
    /// Whether the link is up.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.link.up
    }

    /// Plugs the cable in, or pulls it out.
    pub fn set_cable(&mut self, cable: bool) {
        self.link.cable = cable;
        self.look_at_link();
    }

    /// AUTOC.Restart_AN, or a reset: the link goes down, and up again after a while.
    pub(crate) fn restart_link(&mut self) {
        self.link.starting = Some(2 + self.random.below(4) as u32);
        self.link.started = false;
        self.look_at_link();
    }

    /// Time goes by for the link.
    pub(crate) fn link_time(&mut self) {
        if let Some(left) = &mut self.link.starting {
            *left -= 1;
            if *left == 0 {
                (self.link.starting, self.link.started) = (None, true);
            }
        }
        self.look_at_link();
    }

    /// Whether it is up is seen anew; a change is a cause of interrupts.
    pub(crate) fn look_at_link(&mut self) {
        let laser = self.value("ESDP") & (ESDP_SDP3 | ESDP_SDP3_IS_OUTPUT) != ESDP_SDP3 | ESDP_SDP3_IS_OUTPUT;
        let up = self.link.cable
            && !self.trouble.is_link_down()
            && self.has_module()
            && self.link.started
            && laser
            && self.value("AUTOC") & AUTOC_LMS == AUTOC_LMS_10G_SERIAL
            && self.value("AUTOC2") & AUTOC2_LINK_DISABLE == 0
            || self.value("AUTOC") & AUTOC_FORCE != 0;
        if up != self.link.up {
            self.link.up = up;
            self.raise(Bits::of(LINK_CHANGE));
        }
    }

    pub(crate) fn links(&self) -> u32 {
        if self.link.up { LINKS_UP_10G } else { 0 }
    }

    pub(crate) fn anlp1(&self) -> u32 {
        if self.link.started { ANLP1_AN_STATE } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::tests::model;

    const AUTOC: u32 = 0x42a0;
    const AUTOC2: u32 = 0x42a8;
    const LINKS: u32 = 0x42a4;
    const ESDP: u32 = 0x20;

    fn comes_up(model: &mut crate::Model) -> bool {
        (0..10).any(|_| model.read32(LINKS) == 0x7000_0000)
    }

    #[test]
    fn the_link_comes_up_after_a_while_and_goes_with_its_cable() {
        for seed in 0..20 {
            let mut model = model(seed);
            let autoc = model.read32(AUTOC);
            model.write32(AUTOC, autoc | 1 << 12);
            assert_eq!((model.read32(AUTOC), model.read32(0x42b0)), (autoc, 0), "it has not started yet");
            assert!(comes_up(&mut model));
            assert_eq!((model.read32(0x42b0), model.read32(0x8) >> 7 & 1), (1 << 16, 1));
            model.set_cable(false);
            assert!(!comes_up(&mut model));
            assert_eq!(model.read32(0x8) >> 7 & 1, 0);
            // Up and down are one cause, which EICS tells of and EICR tells of once.
            assert_eq!((model.read32(0x808), model.read32(0x808)), (1 << 20, 1 << 20));
            assert_eq!((model.read32(0x800), model.read32(0x800), model.read32(0x808)), (1 << 20, 0, 0));
            model.set_cable(true);
            assert_eq!((model.link_is_up(), model.read32(0x800)), (true, 1 << 20));
            assert!(model.faults().list().is_empty(), "{:?}", model.faults());
        }
    }

    #[test]
    fn a_link_that_is_forced_is_up_alone() {
        let mut model = model(1);
        model.set_cable(false);
        let autoc = model.read32(AUTOC);
        assert!(!comes_up(&mut model));
        model.write32(AUTOC, autoc | 1);
        assert!(comes_up(&mut model));
        model.write32(AUTOC, autoc);
        assert!(!comes_up(&mut model));
    }

    #[test]
    fn what_holds_the_link_down_does() {
        let mut model = model(1);
        assert!(comes_up(&mut model));
        for (register, value) in [(AUTOC2, 0x4000_0000), (ESDP, 0x808), (AUTOC, 2 << 13)] {
            let was = model.read32(register);
            model.write32(register, value | if register == AUTOC2 { was } else { 0 });
            assert!(!comes_up(&mut model), "{register:#x}");
            model.write32(register, was);
            assert!(comes_up(&mut model));
        }
    }
}
