//! The link: how it is set up (datasheet 4.6.4) and how it is.

use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;

use super::chip::Family;
use super::error::IxgbeError;
use super::registers::{
    ANLP1, ANLP1_AN_STATE, AUTOC, AUTOC_LMS, AUTOC_LMS_10G_SERIAL, AUTOC_RESTART_AN, AUTOC2,
    AUTOC2_LINK_DISABLE, AUTOC2_SERIAL_PMA, AUTOC2_SERIAL_SFI, LINKS, LINKS_IN_BETWEEN, LINKS_SPEED_SHIFT,
    LINKS_UP, Registers, SYNC_MAC_CSR,
};
use super::semaphore::Taken;
use crate::port::Link;

/// Turns the link's mode into another.
const OTHER_MODE: u32 = 4 << 13;
/// How long the analog side may take to start. Linux's driver gives it 40 ms.
const RESTART_TIME: Duration = Duration::from_millis(100);

/// What a port is joined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// A cage for SFP+ modules of 10 Gb/s.
    Sfp,
    /// A PHY for copper on the chip, whose firmware negotiates.
    Copper,
    /// A backplane or CX4, of which the EEPROM says how the link is to be.
    Backplane,
}

/// Sets the link up. It comes up by itself, when there is somebody on the other side.
///
/// # Errors
/// [`IxgbeError`] when the registers of the link are not to be had.
pub(super) fn set_up<B: Mmio>(registers: &Registers<B>, media: Media) -> Result<(), IxgbeError> {
    if media == Media::Copper {
        // The MAC follows the PHY.
        return Ok(());
    }
    // The firmware may change the link's mode, too (4.6.4.2).
    let _taken = Taken::take(registers, "set-up of the link", SYNC_MAC_CSR)?;
    let mut mode = registers.read(AUTOC) | AUTOC_RESTART_AN;
    if media == Media::Sfp {
        registers.change(AUTOC2, AUTOC2_SERIAL_PMA | AUTOC2_LINK_DISABLE, AUTOC2_SERIAL_SFI);
        mode = mode & !AUTOC_LMS | AUTOC_LMS_10G_SERIAL;
        // The analog side takes over what it was given when the mode changes, and tells of that by its state.
        registers.write(AUTOC, mode ^ OTHER_MODE);
        restarted(registers)?;
    }
    registers.write(AUTOC, mode);
    registers.flush();
    Ok(())
}

/// Waits until the analog side has started anew. It may come up later, too, so that is all.
fn restarted<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    let begun = Instant::now();
    while registers.read(ANLP1) & ANLP1_AN_STATE == 0 {
        if begun.elapsed() >= RESTART_TIME {
            tracing::warn!("the analog side of the link did not start in {} ms", RESTART_TIME.as_millis());
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    registers.here()
}

/// How the link is.
///
/// # Errors
/// [`IxgbeError::Gone`].
pub(super) fn now<B: Mmio>(registers: &Registers<B>) -> Result<Link, IxgbeError> {
    let links = registers.read(LINKS);
    if links == u32::MAX {
        registers.here()?;
    }
    Ok(decode(links, registers.family()))
}

/// What LINKS says (8.2.3.22.20).
pub(super) fn decode(links: u32, family: Family) -> Link {
    let up = links & LINKS_UP != 0;
    let in_between = family == Family::X550 && links & LINKS_IN_BETWEEN != 0;
    let speed = match links >> LINKS_SPEED_SHIFT & 3 {
        3 if in_between => Some(2500),
        1 if in_between => Some(5000),
        3 => Some(10_000),
        2 => Some(1000),
        1 => Some(100),
        _ => None,
    };
    Link { up, speed: speed.filter(|_| up) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_down_has_no_speed() {
        let of_82599 = |links| decode(links, Family::I82599);
        assert_eq!(of_82599(0x7000_0000), Link { up: true, speed: Some(10_000) });
        assert_eq!(of_82599(0x6000_0000), Link { up: true, speed: Some(1000) });
        assert_eq!(of_82599(0x5000_0000), Link { up: true, speed: Some(100) });
        assert_eq!(of_82599(0x3000_0000), Link { up: false, speed: None });
        assert_eq!(of_82599(0x7800_0000).speed, Some(10_000));
        let speeds = [0x7800_0000, 0x5800_0000, 0x7000_0000, 0x5000_0000]
            .map(|links| decode(links, Family::X550).speed);
        assert_eq!(speeds, [2500, 5000, 10_000, 100].map(Some));
    }
}
