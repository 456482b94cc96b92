//! The link: how it is set up (datasheet 4.6.4) and how it is.

use wirerate_eal::mmio::Mmio;

use super::error::IxgbeError;
use super::registers::{
    AUTOC, AUTOC_LMS, AUTOC_LMS_10G_SERIAL, AUTOC_RESTART_AN, AUTOC2, AUTOC2_SERIAL_PMA, AUTOC2_SERIAL_SFI,
    LINKS, LINKS_SPEED_SHIFT, LINKS_UP, Registers, SYNC_MAC_CSR,
};
use super::semaphore::Taken;
use crate::port::Link;

/// What a port is joined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// A cage for SFP+ modules of 10 Gb/s.
    Sfp,
    /// A backplane or CX4, of which the EEPROM says how the link is to be.
    Backplane,
}

/// Sets the link up. It comes up by itself, when there is somebody on the other side.
///
/// # Errors
/// [`IxgbeError`] when the registers of the link are not to be had.
pub(super) fn set_up<B: Mmio>(registers: &Registers<B>, media: Media) -> Result<(), IxgbeError> {
    // The firmware may change the link's mode, too (4.6.4.2).
    let _taken = Taken::take(registers, "set-up of the link", SYNC_MAC_CSR)?;
    let mut mode = registers.read(AUTOC);
    if media == Media::Sfp {
        registers.change(AUTOC2, AUTOC2_SERIAL_PMA, AUTOC2_SERIAL_SFI);
        mode = mode & !AUTOC_LMS | AUTOC_LMS_10G_SERIAL;
    }
    registers.write(AUTOC, mode | AUTOC_RESTART_AN);
    registers.flush();
    Ok(())
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
    Ok(decode(links))
}

/// What LINKS says (8.2.3.22.20).
pub(super) fn decode(links: u32) -> Link {
    let up = links & LINKS_UP != 0;
    let speed = match links >> LINKS_SPEED_SHIFT & 3 {
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
        assert_eq!(decode(0x7000_0000), Link { up: true, speed: Some(10_000) });
        assert_eq!(decode(0x6000_0000), Link { up: true, speed: Some(1000) });
        assert_eq!(decode(0x5000_0000), Link { up: true, speed: Some(100) });
        assert_eq!(decode(0x3000_0000), Link { up: false, speed: None });
    }
}
