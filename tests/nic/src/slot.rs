//! A card as whoever has it outside of this process drives it: a server of vfio-user, for a guest.
//!
//! Unlike a [`Function`](super::Function) it is not given back, its interrupts are told by events of the other side, and
//! what system software writes to any function's configuration space is no fault of the driver.

use std::os::fd::OwnedFd;

use super::config::Written;
use super::function::{Card, lock};
use super::interrupts::Mode;
use super::registers::BAR_LEN;

impl Card {
    /// Reads configuration space; what is past its end reads as ones.
    pub fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = lock(&self.config);
        for (at, byte) in (offset..).zip(bytes) {
            let word = u16::try_from(at & !3).map_or(u32::MAX, |word| config.read(word));
            *byte = word.to_le_bytes()[(at & 3) as usize];
        }
    }

    /// Writes 1, 2 or 4 bytes to configuration space.
    ///
    /// What cannot be written keeps its value, and that is no fault: system software asks each BAR for its size in this
    /// way, and those that are not there too (PCI 3.0, 6.2.5.1).
    pub fn write_config(&self, offset: u64, bytes: &[u8]) {
        let (Ok(at), Ok(len @ 1..=4)) = (u16::try_from(offset), u8::try_from(bytes.len())) else { return };
        let mut value = [0; 4];
        value[..bytes.len()].copy_from_slice(bytes);
        let written = lock(&self.config).write(at, len, u32::from_le_bytes(value));
        match written {
            Written::Kept => self.memory().set_master(lock(&self.config).is_master()),
            Written::Reset => self.power_on(),
            Written::Refused => {}
        }
    }

    /// Reads BAR 0. Anything but a dword is a fault (datasheet, 8.2.1), but two at once, which a bridge may make of them.
    pub fn read_bar(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(u8::MAX);
        let Some(offset) = u32::try_from(offset).ok().filter(|offset| (*offset as usize) < BAR_LEN) else {
            return;
        };
        if !matches!(bytes.len(), 4 | 8) {
            self.model().narrow_access(offset as usize, 0);
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(bytes.chunks_exact_mut(4)) {
            word.copy_from_slice(&self.model().read32(at).to_le_bytes());
        }
    }

    /// Writes BAR 0, likewise.
    pub fn write_bar(&self, offset: u64, bytes: &[u8]) {
        let Some(offset) = u32::try_from(offset).ok().filter(|offset| (*offset as usize) < BAR_LEN) else {
            return;
        };
        if !matches!(bytes.len(), 4 | 8) {
            self.model().narrow_access(offset as usize, 0);
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(bytes.chunks_exact(4)) {
            self.model().write32(at, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
    }

    /// A reset of the function: registers and configuration space are as after power-on. What is mapped stays so, and
    /// interrupts go where they went.
    pub fn power_on(&self) {
        lock(&self.config).reset();
        self.memory().set_master(false);
        self.model().reset();
    }

    /// Interrupts are of this kind from now on. Messages from vector `first` on, or INTx, are told by these events; a message
    /// without one waits for it.
    pub fn tell_by(&self, kind: Mode, first: u16, events: Vec<Option<OwnedFd>>) {
        let mut model = self.model();
        if kind == Mode::Line {
            self.lines().lock().set_line(events.into_iter().next().flatten());
        } else {
            self.lines().lock().set_vectors(first.into(), events);
        }
        model.set_interrupt_mode(kind);
    }

    /// No interrupt is told any more.
    pub fn tell_nobody(&self) {
        let mut model = self.model();
        self.lines().lock().clear();
        model.set_interrupt_mode(Mode::Line);
    }

    /// Masks or unmasks a vector, or INTx, which is masked by being told.
    pub fn mask(&self, kind: Mode, vector: u16, masked: bool) {
        let mut ends = self.lines().lock();
        if kind == Mode::Line {
            ends.mask_line(masked);
        } else {
            ends.mask_vector(vector.into(), masked);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;

    use rustix::event::{EventfdFlags, eventfd};
    use wirerate_eal::pci::PciAddress;

    use super::*;
    use crate::Settings;

    fn card() -> Arc<Card> {
        Card::new(PciAddress::new(0, 3, 0, 0).unwrap(), Settings::default())
    }

    fn told(event: &OwnedFd) -> bool {
        rustix::io::read(event, &mut [0; 8]).is_ok()
    }

    #[test]
    fn configuration_space_is_read_by_bytes_and_asked_for_sizes() {
        let card = card();
        let mut bytes = [0; 6];
        card.read_config(1, &mut bytes);
        assert_eq!(bytes, [0x80, 0xfb, 0x10, 0, 0, 0x10]);
        card.read_config(4095, &mut bytes);
        assert_eq!(bytes, [0, 0xff, 0xff, 0xff, 0xff, 0xff]);
        for bar in (0x10..=0x30).step_by(4) {
            card.write_config(bar, &[0xff; 4]);
        }
        card.read_config(0x10, &mut bytes);
        assert_eq!(bytes, [0xc, 0, 0xf8, 0xff, 0xff, 0xff]);
        card.write_config(4, &[4, 0]);
        card.write_config(u64::MAX, &[0]);
        card.write_config(4, &[0; 9]);
        card.read_config(4, &mut bytes);
        assert_eq!(bytes[0], 4);
        assert_eq!(card.model().faults().count(), 0);
    }

    #[test]
    fn a_reset_keeps_where_interrupts_go() {
        let card = card();
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (line, vector) = (event(), event());
        card.tell_by(Mode::Line, 0, vec![Some(line.try_clone().unwrap())]);
        // EIMS and EICS: the link's cause.
        let cause = |card: &Card| {
            for register in [0x880, 0x808] {
                card.write_bar(register, &(1u32 << 20).to_le_bytes());
            }
        };
        cause(&card);
        assert!(told(&line));
        card.write_config(0xa8, &0x8000u16.to_le_bytes());
        card.mask(Mode::Line, 0, false);
        assert!(!told(&line), "the reset took the cause away");
        cause(&card);
        assert!(told(&line));
        card.tell_by(Mode::Msi, 0, vec![Some(vector.try_clone().unwrap())]);
        card.power_on();
        cause(&card);
        assert!(told(&vector) && !told(&line));
        card.tell_nobody();
        card.power_on();
        cause(&card);
        assert!(!told(&vector) && !told(&line));
        let mut bytes = [0; 4];
        card.read_bar(0x800, &mut bytes);
        assert_eq!(u32::from_le_bytes(bytes), 1 << 20);
        assert_eq!(card.model().faults().count(), 0);
    }

    #[test]
    fn narrow_accesses_and_those_past_the_end() {
        let card = card();
        let mut bytes = [0; 8];
        card.read_bar(0x5400, &mut bytes);
        assert_eq!(bytes[..6], [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56]);
        card.read_bar(u64::MAX, &mut bytes);
        card.write_bar(BAR_LEN as u64, &[0; 4]);
        assert_eq!((bytes, card.model().faults().count()), ([0xff; 8], 0));
        card.read_bar(0x5400, &mut bytes[..2]);
        card.write_bar(0x5400, &[0]);
        assert_eq!(card.model().faults().count(), 2);
    }
}
