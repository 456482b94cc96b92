//! What the two ports of a chip and its firmware share, taken in turns (datasheet 10.5.4).

use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;

use super::error::IxgbeError;
use super::registers::{
    Registers, SW_FW_SYNC, SWSM, SWSM_SMBI, SWSM_SWESMBI, SYNC_EEPROM, SYNC_FIRMWARE_SHIFT, SYNC_FLASH,
    SYNC_REGSMP,
};

/// How long the semaphores of SWSM are waited for. 10.5.4 gives software 10 ms to let go of them.
const SWSM_TIME: Duration = Duration::from_millis(100);
/// How long a resource is waited for. 10.5.4 gives its holder 1 s.
const SYNC_TIME: Duration = Duration::from_secs(1);

/// A resource that is this port's until it is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a, B: Mmio> {
    registers: &'a Registers<B>,
    resource: u32,
}

impl<'a, B: Mmio> Taken<'a, B> {
    /// Takes `resource`, a software bit of SW_FW_SYNC which `what` names.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`], and [`IxgbeError::Held`] when others do not let go of it.
    pub(super) fn take(
        registers: &'a Registers<B>,
        what: &'static str,
        resource: u32,
    ) -> Result<Self, IxgbeError> {
        let begun = Instant::now();
        loop {
            let over = begun.elapsed() >= SYNC_TIME;
            let gate = Gate::enter(registers)?;
            let value = registers.read(SW_FW_SYNC);
            // The flash of those that have one is the device's, too.
            let flash = registers.family().has_one_semaphore() && resource & SYNC_EEPROM != 0;
            let others = if flash { SYNC_FLASH } else { 0 };
            if value & (resource | resource << SYNC_FIRMWARE_SHIFT | others) == 0 {
                registers.write(SW_FW_SYNC, value | resource);
                return Ok(Self { registers, resource });
            }
            drop(gate);
            registers.here()?;
            if over {
                let milliseconds = SYNC_TIME.as_millis();
                return Err(IxgbeError::Held { what, register: SW_FW_SYNC, value, milliseconds });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl<B: Mmio> Drop for Taken<'_, B> {
    fn drop(&mut self) {
        match Gate::enter(self.registers) {
            Ok(_gate) => self.registers.clear(SW_FW_SYNC, self.resource),
            // Nobody could take it then either, and a reset gives it back.
            Err(error) => tracing::debug!("a resource was not given back: {error}"),
        }
    }
}

/// The right to look at SW_FW_SYNC and change it, until it is dropped.
struct Gate<'a, B: Mmio> {
    registers: &'a Registers<B>,
}

impl<'a, B: Mmio> Gate<'a, B> {
    fn enter(registers: &'a Registers<B>) -> Result<Self, IxgbeError> {
        if let Err(error) = take_smbi(registers) {
            let IxgbeError::Held { .. } = error else { return Err(error) };
            // Whoever held it so long has died with it (10.5.4).
            registers.clear(SWSM, SWSM_SMBI | SWSM_SWESMBI);
            take_smbi(registers)?;
        }
        // From here on it is let go of.
        let gate = Self { registers };
        if registers.family().has_one_semaphore() {
            take_regsmp(registers)?;
            return Ok(gate);
        }
        let begun = Instant::now();
        loop {
            let over = begun.elapsed() >= SWSM_TIME;
            registers.set(SWSM, SWSM_SWESMBI);
            let value = registers.read(SWSM);
            if value == u32::MAX {
                registers.here()?;
            }
            if value & SWSM_SWESMBI != 0 {
                return Ok(gate);
            }
            if over {
                return Err(held("firmware's semaphore", value));
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
}

impl<B: Mmio> Drop for Gate<'_, B> {
    fn drop(&mut self) {
        if self.registers.family().has_one_semaphore() {
            self.registers.clear(SW_FW_SYNC, SYNC_REGSMP);
        }
        self.registers.clear(SWSM, SWSM_SMBI | SWSM_SWESMBI);
        self.registers.flush();
    }
}

/// Takes the semaphore between drivers: who reads it as 0 has set it.
fn take_smbi<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    let begun = Instant::now();
    loop {
        let over = begun.elapsed() >= SWSM_TIME;
        let value = registers.read(SWSM);
        if value == u32::MAX {
            registers.here()?;
        }
        if value & SWSM_SMBI == 0 {
            return Ok(());
        }
        if over {
            return Err(held("semaphore between drivers", value));
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// Takes the semaphore against the firmware on devices that have it in SW_FW_SYNC: who reads it as 0 has set it.
fn take_regsmp<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    let begun = Instant::now();
    loop {
        let over = begun.elapsed() >= SWSM_TIME;
        let value = registers.read(SW_FW_SYNC);
        if value == u32::MAX {
            registers.here()?;
        }
        if value & SYNC_REGSMP == 0 {
            return Ok(());
        }
        if over {
            let milliseconds = SWSM_TIME.as_millis();
            return Err(IxgbeError::Held {
                what: "firmware's semaphore",
                register: SW_FW_SYNC,
                value,
                milliseconds,
            });
        }
        thread::sleep(Duration::from_micros(50));
    }
}

fn held(what: &'static str, value: u32) -> IxgbeError {
    IxgbeError::Held { what, register: SWSM, value, milliseconds: SWSM_TIME.as_millis() }
}
