//! The copper PHY of an X540 or X550, by MDIO (82599 datasheet 8.2.3.22.11, 8.2.3.22.12; IEEE 802.3, 45). Its firmware
//! negotiates the link by itself, once it has its power.

use std::time::Duration;

use wirerate_eal::mmio::Mmio;

use super::error::IxgbeError;
use super::registers::{
    MSCA, MSCA_COMMAND, MSCA_DEVICE_SHIFT, MSCA_PHY_SHIFT, MSCA_READ, MSCA_WRITE, MSRWD, Registers, SYNC_PHY0,
};
use super::semaphore::Taken;

/// How long a word may take. It takes some microseconds.
const WORD_TIME: Duration = Duration::from_millis(100);
/// Devices in a PHY, and their registers (45.2): the PMA's identifier, the vendor's control.
const PMA: (u32, u32) = (1, 2);
const VENDOR_CONTROL: (u32, u32) = (30, 0);
/// In the vendor's control: it saves power and does nothing else.
const LOW_POWER: u16 = 1 << 11;
/// Addresses that a PHY may have.
const ADDRESSES: u32 = 32;

/// Gives the PHY its power, which a driver that went away may have taken from it.
///
/// # Errors
/// [`IxgbeError`] when the wires are not to be had, and [`IxgbeError::NoPhy`].
pub(super) fn power_up<B: Mmio>(registers: &Registers<B>, port: u32) -> Result<(), IxgbeError> {
    let _taken = Taken::take(registers, "way to the PHY", SYNC_PHY0 << port)?;
    for phy in 0..ADDRESSES {
        if matches!(read(registers, phy, PMA)?, 0 | 0xffff) {
            continue;
        }
        let control = read(registers, phy, VENDOR_CONTROL)?;
        if control & LOW_POWER != 0 {
            write(registers, phy, VENDOR_CONTROL, control & !LOW_POWER)?;
        }
        return Ok(());
    }
    Err(IxgbeError::NoPhy)
}

fn read<B: Mmio>(registers: &Registers<B>, phy: u32, place: (u32, u32)) -> Result<u16, IxgbeError> {
    command(registers, phy, place, 0)?;
    command(registers, phy, place, MSCA_READ)?;
    Ok((registers.read(MSRWD) >> 16) as u16)
}

fn write<B: Mmio>(
    registers: &Registers<B>,
    phy: u32,
    place: (u32, u32),
    value: u16,
) -> Result<(), IxgbeError> {
    registers.write(MSRWD, value.into());
    command(registers, phy, place, 0)?;
    command(registers, phy, place, MSCA_WRITE)
}

/// One of the two cycles of a command: the address, then the word.
fn command<B: Mmio>(
    registers: &Registers<B>,
    phy: u32,
    (device, register): (u32, u32),
    kind: u32,
) -> Result<(), IxgbeError> {
    let command = register | device << MSCA_DEVICE_SHIFT | phy << MSCA_PHY_SHIFT | kind | MSCA_COMMAND;
    registers.write(MSCA, command);
    registers.wait("a word of the PHY", MSCA, MSCA_COMMAND, 0, WORD_TIME).map(|_| ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use super::super::chip::Family;
    use super::super::registers::{LEN, SW_FW_SYNC, SYNC_REGSMP};
    use super::*;

    /// Registers of an X540 with PHYs, by their address, device and register.
    #[derive(Debug, Default)]
    struct Device(Mutex<State>);

    #[derive(Debug, Default)]
    struct State {
        words: HashMap<(u32, u32, u32), u16>,
        registers: HashMap<usize, u32>,
        /// Commands without the semaphore, and its holders at the end.
        wrong: u32,
    }

    impl Mmio for Device {
        fn len(&self) -> usize {
            LEN
        }
        fn read8(&self, _: usize) -> u8 {
            0
        }
        fn read16(&self, _: usize) -> u16 {
            0
        }
        fn read32(&self, offset: usize) -> u32 {
            let mut state = self.0.lock().unwrap();
            let value = state.registers.get(&offset).copied().unwrap_or(0);
            if offset == SW_FW_SYNC {
                state.registers.insert(offset, value | SYNC_REGSMP);
            }
            value
        }
        fn write8(&self, _: usize, _: u8) {}
        fn write16(&self, _: usize, _: u16) {}
        fn write32(&self, offset: usize, value: u32) {
            let mut state = self.0.lock().unwrap();
            state.registers.insert(offset, value);
            if offset != MSCA {
                return;
            }
            let place = (value >> MSCA_PHY_SHIFT & 31, value >> MSCA_DEVICE_SHIFT & 31, value & 0xffff);
            let is_taken = state.registers.get(&SW_FW_SYNC).is_some_and(|sync| sync & SYNC_PHY0 << 1 != 0);
            state.wrong += u32::from(!is_taken);
            match value & MSCA_READ {
                0 => {}
                MSCA_WRITE => {
                    let word = state.registers.get(&MSRWD).copied().unwrap_or(0) as u16;
                    state.words.insert(place, word);
                }
                _ => {
                    let word = state.words.get(&place).copied().unwrap_or(0xffff);
                    state.registers.insert(MSRWD, u32::from(word) << 16);
                }
            }
            state.registers.insert(MSCA, value & !MSCA_COMMAND);
        }
    }

    #[test]
    fn a_phy_that_saves_power_is_woken_and_nothing_else_of_it_changes() {
        for (before, after) in [(0x2840, 0x2040), (0x2040, 0x2040)] {
            let device = Arc::new(Device::default());
            device.0.lock().unwrap().words.extend([((5, 1, 2), 0x0154), ((5, 30, 0), before)]);
            let registers = Registers::new(Arc::clone(&device), LEN, Family::X540).unwrap();
            power_up(&registers, 1).unwrap();
            let state = device.0.lock().unwrap();
            assert_eq!((state.words[&(5, 30, 0)], state.words.len(), state.wrong), (after, 2, 0));
            assert_eq!(state.registers[&SW_FW_SYNC], 0, "all was given back");
        }
    }

    #[test]
    fn where_there_is_no_phy_that_is_told() {
        let registers = Registers::new(Arc::new(Device::default()), LEN, Family::X540).unwrap();
        assert!(matches!(power_up(&registers, 0), Err(IxgbeError::NoPhy)));
    }
}
