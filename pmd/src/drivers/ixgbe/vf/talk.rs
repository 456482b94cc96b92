//! What the physical function is asked for, and what its answers may be.

use wirerate_eal::mmio::Mmio;

use super::mailbox::{Mailbox, Words};
use crate::drivers::ixgbe::error::IxgbeError;
use crate::drivers::ixgbe::init::Filter;
use crate::drivers::ixgbe::registers::Registers;
use crate::net::MacAddress;

/// Kinds of requests.
const RESET: u32 = 0x01;
const SET_MAC: u32 = 0x02;
const SET_MULTICAST: u32 = 0x03;
const SET_VLAN: u32 = 0x04;
const SET_LONGEST: u32 = 0x05;
const SET_MORE_MACS: u32 = 0x06;
const NEGOTIATE: u32 = 0x08;
const GET_QUEUES: u32 = 0x09;
const SET_MODE: u32 = 0x0c;
const GET_LINK: u32 = 0x10;
/// Where the first word has a number.
const INFO_SHIFT: u32 = 16;

/// Versions of the protocol, as they are asked for, the best first: 1.5, 1.4, 1.3, 1.2, 1.1.
const VERSIONS: [u32; 5] = [6, 5, 4, 3, 2];
const VERSION_1_0: u32 = 0;
const VERSION_1_1: u32 = 2;
const VERSION_1_2: u32 = 3;
const VERSION_1_5: u32 = 6;

/// Queues that a function has at most.
const MOST_QUEUES: u32 = 8;
/// Groups that a message has room for.
pub(super) const MOST_GROUPS: usize = 30;
/// Modes of reception: groups whose hashes were told, all groups, all frames.
const MODE_GROUPS: u32 = 1;
const MODE_ALL_GROUPS: u32 = 2;
const MODE_ALL: u32 = 3;

/// What the physical function has agreed to since the function was reset.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) mailbox: Mailbox,
    version: u32,
    /// Which bits of a group's address are hashed (MCSTCTRL.MO).
    hashed: u32,
}

fn words_of(kind: u32, mac: MacAddress) -> [u32; 3] {
    let [a, b, c, d, e, f] = mac.0;
    [kind, u32::from_le_bytes([a, b, c, d]), u32::from(u16::from_le_bytes([e, f]))]
}

/// A station's address, in the second and third word of an answer.
fn mac_of(words: &Words) -> Option<MacAddress> {
    let ([a, b, c, d], [e, f, ..]) = (words[1].to_le_bytes(), words[2].to_le_bytes());
    let mac = MacAddress([a, b, c, d, e, f]);
    (mac.0 != [0; 6] && !mac.is_multicast()).then_some(mac)
}

/// The 12 bits of a group's address that are looked up, for each of the choices that there are (8.2.3.7.3).
fn hash(hashed: u32, group: MacAddress) -> u32 {
    let [.., e, f] = group.0;
    let bits = u32::from(u16::from_le_bytes([e, f]));
    let shift = [4, 3, 2, 0][(hashed & 3) as usize];
    bits >> shift & 0xfff
}

impl Talk {
    /// Says that the function was reset, and agrees on a version of the protocol. The address that the port's administrator
    /// has for the function, if any.
    ///
    /// # Errors
    /// [`IxgbeError`] when the physical function does not answer, or not as it should.
    pub(super) fn begin<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
    ) -> Result<Option<MacAddress>, IxgbeError> {
        self.mailbox.begin_anew(registers)?;
        let mac = match self.mailbox.ask(registers, "a reset", &[RESET]) {
            Ok(answer) => {
                self.hashed = answer[3] & 3;
                let found = answer[1];
                Some(mac_of(&answer).ok_or(IxgbeError::Nonsense { what: "a reset", found })?)
            }
            // It has no address for this function, and all else is well.
            Err(IxgbeError::Refused { .. }) => {
                self.hashed = 0;
                None
            }
            Err(error) => return Err(error),
        };
        self.version = VERSION_1_0;
        for version in VERSIONS {
            match self.mailbox.ask(registers, "a version of the protocol", &[NEGOTIATE, version]) {
                Ok(_) => {
                    self.version = version;
                    break;
                }
                Err(IxgbeError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(mac)
    }

    /// How many queues the function has, each way.
    ///
    /// # Errors
    /// [`IxgbeError`].
    pub(super) fn queues<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<u16, IxgbeError> {
        if self.version < VERSION_1_1 {
            return Ok(1);
        }
        let answer = self.mailbox.ask(registers, "how many queues there are", &[GET_QUEUES])?;
        let (sends, receives) = (answer[1], answer[2]);
        match sends.min(receives) {
            queues @ 1..=MOST_QUEUES if sends.max(receives) <= MOST_QUEUES => Ok(queues as u16),
            found => Err(IxgbeError::Nonsense { what: "how many queues there are", found }),
        }
    }

    /// Whether the port's administrator lets the function have a link; older physical functions do not tell.
    ///
    /// # Errors
    /// [`IxgbeError`].
    pub(super) fn may_have_link<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<bool, IxgbeError> {
        if self.version < VERSION_1_5 {
            return Ok(true);
        }
        match self.mailbox.ask(registers, "for its link", &[GET_LINK, 0]) {
            Ok(answer) => Ok(answer[1] != 0),
            Err(IxgbeError::Refused { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Receives for this address, and sends from it.
    ///
    /// # Errors
    /// [`IxgbeError`].
    pub(super) fn set_mac<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        mac: MacAddress,
    ) -> Result<(), IxgbeError> {
        self.mailbox.ask(registers, "another station address", &words_of(SET_MAC, mac)).map(|_| ())
    }

    /// Receives frames of up to `bytes` bytes, frame check sequence included.
    ///
    /// # Errors
    /// [`IxgbeError`].
    pub(super) fn set_longest_frame<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        bytes: u32,
    ) -> Result<(), IxgbeError> {
        self.mailbox.ask(registers, "frames of such a length", &[SET_LONGEST, bytes]).map(|_| ())
    }

    /// Chooses which frames are received beside those for the function's addresses.
    ///
    /// # Errors
    /// [`IxgbeError::Refused`] when the port's administrator does not let it; some physical functions grant less then.
    pub(super) fn set_filter<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        filter: Filter,
    ) -> Result<(), IxgbeError> {
        let mode = match filter {
            Filter { promiscuous: true, .. } => MODE_ALL,
            Filter { all_multicast: true, .. } => MODE_ALL_GROUPS,
            _ => MODE_GROUPS,
        };
        let what = "to receive frames for others";
        if self.version < VERSION_1_2 {
            return if mode == MODE_GROUPS { Ok(()) } else { Err(IxgbeError::Refused { what }) };
        }
        let answer = self.mailbox.ask(registers, what, &[SET_MODE, mode])?;
        if answer[1] < mode { Err(IxgbeError::Refused { what }) } else { Ok(()) }
    }

    /// Receives frames for these stations and groups, too, instead of those named before.
    ///
    /// # Errors
    /// [`IxgbeError`].
    pub(super) fn set_addresses<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        addresses: &[MacAddress],
    ) -> Result<(), IxgbeError> {
        let groups: Vec<_> = addresses.iter().copied().filter(|mac| mac.is_multicast()).collect();
        let mut words = [0; 16];
        words[0] = SET_MULTICAST | (groups.len().min(MOST_GROUPS) as u32) << INFO_SHIFT;
        for (at, group) in groups.iter().take(MOST_GROUPS).enumerate() {
            words[1 + at / 2] |= hash(self.hashed, *group) << (16 * (at % 2));
        }
        self.mailbox.ask(registers, "groups", &words)?;
        let stations: Vec<_> = addresses.iter().copied().filter(|mac| !mac.is_multicast()).collect();
        if stations.is_empty() {
            // Number 0 takes all of them away. Where there can be none, there are none.
            return match self.mailbox.ask(registers, "addresses", &[SET_MORE_MACS, 0, 0]) {
                Ok(_) | Err(IxgbeError::Refused { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        for (number, mac) in (1..).zip(stations) {
            let words = words_of(SET_MORE_MACS | number << INFO_SHIFT, mac);
            self.mailbox.ask(registers, "more addresses", &words)?;
        }
        Ok(())
    }

    /// Receives frames of a VLAN, or not any more.
    ///
    /// # Errors
    /// [`IxgbeError`].
    pub(super) fn set_vlan<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        vlan: u16,
        on: bool,
    ) -> Result<(), IxgbeError> {
        let words = [SET_VLAN | u32::from(on) << INFO_SHIFT, vlan.into()];
        self.mailbox.ask(registers, "a VLAN", &words).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_hashed_by_the_bits_that_were_agreed_on() {
        let group = MacAddress([1, 0, 0x5e, 0, 0xab, 0xcd]);
        assert_eq!([0, 1, 2, 3, 7].map(|hashed| hash(hashed, group)), [0xcda, 0x9b5, 0x36a, 0xdab, 0xdab]);
    }

    #[test]
    fn addresses_are_in_the_order_of_the_wire() {
        let mac = MacAddress([2, 3, 4, 5, 6, 7]);
        let mut words = [0; 16];
        words[..3].copy_from_slice(&words_of(9, mac));
        assert_eq!((words[..3].to_vec(), mac_of(&words)), (vec![9, 0x0504_0302, 0x0706], Some(mac)));
        words[1] |= 1;
        assert_eq!(mac_of(&words), None);
        assert_eq!(mac_of(&[0; 16]), None);
    }
}
