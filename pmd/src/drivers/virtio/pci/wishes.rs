//! What a port was asked for and its device forgets by each reset: given to it again at each start.

use std::collections::BTreeSet;

use super::control::{Command, MOST_ADDRESSES};
use crate::net::MacAddress;
use crate::port::RssConfig;
use crate::virtqueue::Features;

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) promiscuous: Option<bool>,
    pub(super) all_multicast: bool,
    pub(super) addresses: Vec<MacAddress>,
    pub(super) mac: Option<MacAddress>,
    pub(super) vlans: BTreeSet<u16>,
    pub(super) rss: Option<RssConfig>,
}

impl Wishes {
    /// The commands that say so to a device that was reset, with these features and so many pairs of queues; `rss` is how
    /// packets are spread where the device can.
    pub(super) fn commands<'a>(
        &'a self,
        features: Features,
        pairs: u16,
        rss: Option<&'a RssConfig>,
    ) -> Vec<Command<'a>> {
        let mut commands = Vec::new();
        match rss.filter(|_| features.contains(Features::RSS)) {
            Some(rss) => commands.push(Command::Rss(rss, pairs)),
            None if features.contains(Features::MQ) => commands.push(Command::Pairs(pairs)),
            None => {}
        }
        if features.contains(Features::CTRL_RX) {
            commands.extend(self.promiscuous.map(Command::Promiscuous));
            commands.extend(self.all_multicast.then_some(Command::AllMulticast(true)));
            if !self.addresses.is_empty() {
                commands.push(Command::Filter(&self.addresses));
            }
        }
        if features.contains(Features::CTRL_MAC_ADDR) {
            commands.extend(self.mac.map(Command::Address));
        }
        if features.contains(Features::CTRL_VLAN) {
            commands.extend(self.vlans.iter().map(|vlan| Command::Vlan(*vlan, true)));
        }
        commands
    }
}

/// Whether a filter has room for these addresses.
pub(super) fn has_room(addresses: &[MacAddress]) -> bool {
    let groups = addresses.iter().filter(|address| address.is_multicast()).count();
    groups <= MOST_ADDRESSES && addresses.len() - groups <= MOST_ADDRESSES
}
