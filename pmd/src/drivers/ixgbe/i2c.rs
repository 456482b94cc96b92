//! The two wires to the module in the cage (datasheet 8.2.3.1.5), driven bit by bit, as SFF-8472 and I2C ask.

use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;

use super::error::IxgbeError;
use super::registers::{
    I2CCTL, I2CCTL_CLK_IN, I2CCTL_CLK_OUT, I2CCTL_DATA_IN, I2CCTL_DATA_OUT, Registers, SYNC_PHY0,
};
use super::semaphore::Taken;

/// Half a clock: 100 kHz, which all modules have (SFF-8472, 4.1).
const HALF: Duration = Duration::from_micros(5);
/// How long a module may hold the clock (500 µs; SFF-8431, 4.2).
const STRETCH: Duration = Duration::from_millis(2);
/// The address of a module's identification, to be written to; one more to be read from.
const IDENTITY: u8 = 0xa0;

/// Reads bytes of a module's identification from `start` on. None when nobody answers.
///
/// # Errors
/// [`IxgbeError`] when the wires are not to be had, or are held.
pub(super) fn read<B: Mmio>(
    registers: &Registers<B>,
    port: u32,
    start: u8,
    bytes: &mut [u8],
) -> Result<Option<()>, IxgbeError> {
    let _taken = Taken::take(registers, "pair of wires to the module", SYNC_PHY0 << port)?;
    let wires = Wires { registers };
    // Whatever was under way is over after nine clocks and a stop (I2C, 3.1.16).
    wires.set(false, true);
    for _ in 0..9 {
        wires.clock(true)?;
    }
    wires.stop()?;
    let found = wires.read(start, bytes);
    wires.stop()?;
    found
}

struct Wires<'a, B: Mmio> {
    registers: &'a Registers<B>,
}

impl<B: Mmio> Wires<'_, B> {
    /// Pulls each wire down or lets it go, and waits for half a clock.
    fn set(&self, clock: bool, data: bool) {
        self.write(clock, data);
        // The write has reached the wires when this comes back.
        let _ = self.registers.read(I2CCTL);
        pause();
    }

    fn write(&self, clock: bool, data: bool) {
        let on = |on, bit| if on { bit } else { 0 };
        self.registers.write(I2CCTL, on(clock, I2CCTL_CLK_OUT) | on(data, I2CCTL_DATA_OUT));
    }

    /// A clock with a bit; what the data wire is at its height. The clock is down before and afterwards.
    fn clock(&self, data: bool) -> Result<bool, IxgbeError> {
        self.set(false, data);
        self.write(true, data);
        let begun = Instant::now();
        loop {
            let over = begun.elapsed() >= STRETCH;
            let value = self.registers.read(I2CCTL);
            if value == u32::MAX {
                self.registers.here()?;
            }
            if value & I2CCTL_CLK_IN != 0 {
                pause();
                self.write(false, data);
                return Ok(value & I2CCTL_DATA_IN != 0);
            }
            if over {
                let milliseconds = STRETCH.as_millis();
                return Err(IxgbeError::Held {
                    what: "clock of the module's wires",
                    register: I2CCTL,
                    value,
                    milliseconds,
                });
            }
        }
    }

    fn start(&self) {
        self.set(false, true);
        self.set(true, true);
        self.set(true, false);
        self.set(false, false);
    }

    fn stop(&self) -> Result<(), IxgbeError> {
        self.set(false, false);
        self.set(true, false);
        self.set(true, true);
        self.registers.here()
    }

    /// Sends a byte; whether it was acknowledged.
    fn send(&self, byte: u8) -> Result<bool, IxgbeError> {
        for bit in (0..8).rev() {
            self.clock(byte >> bit & 1 == 1)?;
        }
        Ok(!self.clock(true)?)
    }

    fn read(&self, start: u8, bytes: &mut [u8]) -> Result<Option<()>, IxgbeError> {
        self.start();
        if !(self.send(IDENTITY)? && self.send(start)?) {
            return Ok(None);
        }
        self.start();
        if !self.send(IDENTITY | 1)? {
            return Ok(None);
        }
        let last = bytes.len().saturating_sub(1);
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = 0;
            for _ in 0..8 {
                *byte = *byte << 1 | u8::from(self.clock(true)?);
            }
            // The last one is not acknowledged: no more are wanted.
            self.clock(at == last)?;
        }
        Ok(Some(()))
    }
}

/// Half a clock goes by. It is too short to sleep, but others may have the processor meanwhile.
fn pause() {
    let begun = Instant::now();
    while begun.elapsed() < HALF {
        std::thread::yield_now();
    }
}
