//! Where a PCI function is.

use std::fmt;
use std::str::FromStr;

/// A PCI function's place: `0000:00:03.0` is domain 0, bus 0, device 3, function 0. All but the function are hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The function at this place; none unless `device` is below 32 and `function` below 8.
    #[must_use]
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 { Some(Self { domain, bus, device, function }) } else { None }
    }

    /// The domain, 0 on most machines.
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device on its bus, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function of its device, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no PCI address: expected DOMAIN:BUS:DEVICE.FUNCTION, as in 0000:00:03.0 or 00:03.0")]
pub struct PciAddressError {
    text: String,
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    /// Reads `0000:00:03.0`, or `00:03.0` for domain 0.
    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        let hex = |part: &str, most: usize| {
            let is_hex =
                (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let read = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            let small = |number: u32| u8::try_from(number).ok();
            Self::new(
                hex(domain, 8)?,
                small(hex(bus, 2)?)?,
                small(hex(device, 2)?)?,
                small(hex(function, 1)?)?,
            )
        };
        read().ok_or_else(|| PciAddressError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, whole) in [
            ("0000:00:03.0", "0000:00:03.0"),
            ("00:03.0", "0000:00:03.0"),
            ("0:1f.7", "0000:00:1f.7"),
            ("10000:E1:00.1", "10000:e1:00.1"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), whole);
        }
        for text in [
            "",
            "00:03",
            "00:20.0",
            "00:03.8",
            "0000:00:00:03.0",
            "00:+3.0",
            "g0:03.0",
            "100:03.0",
            "00:03.0 ",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
        assert!(PciAddress::new(0, 0, 32, 0).is_none() && PciAddress::new(0, 0, 0, 8).is_none());
    }
}
