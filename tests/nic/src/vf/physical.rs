//! The physical function of a virtual one, as drivers of it behave: what it sets up, and its answers by the mailbox (the
//! protocol is of Intel's drivers, whose names for its messages are used; the datasheet leaves it to software, 7.10.2.9).

use super::QUEUES;
use super::mailbox::{WORDS, Words};
use crate::fault::Fault;
use crate::model::Model;

/// Kinds of messages, in the lower half of the first word; the virtual function says these.
const RESET: u32 = 0x01;
const SET_MAC: u32 = 0x02;
const SET_MULTICAST: u32 = 0x03;
const SET_VLAN: u32 = 0x04;
const SET_LONGEST: u32 = 0x05;
const SET_MORE_MACS: u32 = 0x06;
const NEGOTIATE: u32 = 0x08;
const GET_QUEUES: u32 = 0x09;
const GET_RETA: u32 = 0x0a;
const GET_RSS_KEY: u32 = 0x0b;
const SET_MODE: u32 = 0x0c;
const GET_LINK: u32 = 0x10;
/// What the physical function says by itself.
const PF_SAYS: u32 = 0x0100;
/// Bits of the first word: it was done, it was not, the virtual function may say more.
const SUCCESS: u32 = 1 << 31;
const FAILURE: u32 = 1 << 30;
const CLEAR_TO_SEND: u32 = 1 << 29;
/// Where the first word has a number.
const INFO_SHIFT: u32 = 16;
const INFO: u32 = 0xff;

/// Versions of the protocol as messages have them: 1.0, 2.0, 1.1 to 1.5. This one knows all but 2.0.
const API_1_0: u32 = 0;
const API_2_0: u32 = 1;
const API_1_1: u32 = 2;
const API_1_2: u32 = 3;
const API_1_3: u32 = 4;
const API_1_5: u32 = 6;

/// The longest frame that it allows, and the longest that are not jumbo frames, with their checksums.
const LONGEST: u32 = 9728;
const USUAL: u32 = 1518;
/// Addresses beside the first.
const MORE_MACS: u32 = 15;
/// Groups that a message has.
const GROUPS: usize = 30;

/// FCTRL (8.2.3.7.1), RAH.AV (8.2.3.7.9), VLNCTRL.VFE (8.2.3.7.2), MCSTCTRL.MFE (8.2.3.7.3).
const ALL_MULTICAST: u32 = 1 << 8;
const ALL_UNICAST: u32 = 1 << 9;
const BROADCAST: u32 = 1 << 10;
const ADDRESS_VALID: u32 = 1 << 31;
const VLAN_FILTER: u32 = 1 << 30;
const MULTICAST_FILTER: u32 = 1 << 2;
/// MRQC (8.2.3.7.12): RSS by addresses and by ports of TCP and UDP.
const RSS: u32 = 0x00f3_0001;
/// RXCSUM.PCSD (8.2.3.7.5).
const HASH_TOLD: u32 = 1 << 13;
/// PSRTYPE.RQPL (8.2.3.7.4).
const QUEUE_BITS_SHIFT: u32 = 29;

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// As it should.
    #[default]
    Proper,
    /// It does not look at requests.
    Deaf,
    /// It looks at them, and says nothing.
    Mute,
    /// It refuses all but a reset.
    Refusing,
    /// It refuses a reset, too: it has no address for the function.
    NoAddress,
    /// It answers with what the seed says.
    Garbage,
    /// It answers another request than was made.
    Beside,
    /// What it says of queues and addresses cannot be.
    Absurd,
    /// It knows only the first version of the protocol.
    Old,
}

/// The physical function.
#[derive(Debug)]
pub struct Physical {
    /// How it behaves.
    pub manner: Manner,
    /// Whether it lets the function receive all frames. An 82599 has nothing for that (8.2.3.27.14), and Linux's and DPDK's
    /// drivers refuse it; those of its successors do not, if the administrator trusts the function.
    pub lets_receive_all: bool,
    /// The function's station address, as its administrator chose it.
    mac: [u8; 6],
    /// The function has reset itself since the physical one was.
    clear_to_send: bool,
    api: u32,
    more_macs: u32,
}

impl Physical {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        Self {
            manner: Manner::Proper,
            lets_receive_all: false,
            mac,
            clear_to_send: false,
            api: API_1_0,
            more_macs: 0,
        }
    }
}

/// The least words of a request, by its kind.
fn least_words(kind: u32) -> Option<usize> {
    match kind {
        RESET | GET_RETA | GET_RSS_KEY => Some(1),
        SET_VLAN | SET_LONGEST | SET_MODE | GET_LINK | NEGOTIATE => Some(2),
        SET_MAC | SET_MORE_MACS => Some(3),
        SET_MULTICAST | GET_QUEUES => Some(1),
        _ => None,
    }
}

fn mac_of(words: &Words) -> [u8; 6] {
    let ([a, b, c, d], [e, f, ..]) = (words[1].to_le_bytes(), words[2].to_le_bytes());
    [a, b, c, d, e, f]
}

fn is_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

impl Model {
    /// The physical function; none where this is one itself.
    pub fn physical(&mut self) -> Option<&mut Physical> {
        self.vf.as_mut().map(|vf| &mut vf.physical)
    }

    /// The physical function sets the device up, as its driver does. Nothing is received for the virtual one yet.
    pub(crate) fn set_up_as_physical(&mut self) {
        for (name, set) in
            [("DMATXCTL", 1), ("HLREG0", 0b110), ("RDRXCTL", 0b10), ("MRQC", RSS), ("RXCSUM", HASH_TOLD)]
        {
            let value = self.value(name) | set;
            self.set_value_of(name, 0, value);
        }
        for index in 0..10 {
            let word = self.random.bits() as u32;
            self.set_value_of("RSSRK", index, word);
        }
        self.spread();
        self.vf_was_reset();
    }

    /// Hashes are spread over as many queues as VFPSRTYPE says (8.3.5.3).
    pub(super) fn spread(&mut self) {
        let queues = 1 << (self.value_of("PSRTYPE", 0) >> QUEUE_BITS_SHIFT).min(QUEUES.ilog2());
        for index in 0..32 {
            let entry = |at: u32| ((4 * index + at) % queues) << (8 * at);
            self.set_value_of("RETA", index, (0..4).map(entry).sum());
        }
    }

    /// The virtual function was reset: nothing is received for it, and its filters are gone.
    pub(super) fn vf_was_reset(&mut self) {
        if let Some(vf) = &mut self.vf {
            (vf.physical.api, vf.physical.more_macs) = (API_1_0, 0);
        }
        self.receives(false);
        self.set_filters(0, MULTICAST_FILTER, VLAN_FILTER);
        for index in 0..=MORE_MACS {
            self.set_value_of("RAH", index, 0);
        }
        for index in 0..128 {
            self.set_value_of("MTA", index, 0);
            self.set_value_of("VFTA", index, 0);
        }
    }

    fn receives(&mut self, on: bool) {
        self.set_value_of("RXCTRL", 0, u32::from(on));
    }

    /// The physical function goes down and is reset: its functions have to be reset, too, when it is up again.
    pub fn reset_physical(&mut self, done: bool) {
        if let Some(vf) = &mut self.vf {
            vf.physical.clear_to_send = false;
            vf.mailbox.set_reset(done);
        }
        if done {
            self.ping();
        } else {
            self.vf_was_reset();
            self.stop_queues();
            self.raise_mailbox();
        }
    }

    /// The physical function tells the virtual one that something has changed: the link, or that it is up again.
    pub fn ping(&mut self) {
        let Some(vf) = &mut self.vf else { return };
        let mut words = [0; WORDS];
        words[0] = PF_SAYS | if vf.physical.clear_to_send { CLEAR_TO_SEND } else { 0 };
        let delay = self.random.below(4) as u32;
        vf.mailbox.say(delay, words);
    }

    /// The virtual function has heard a message. One that has to reset itself is told so.
    pub(super) fn physical_was_heard(&mut self) {
        let Some(vf) = self.vf.as_mut().filter(|vf| !vf.physical.clear_to_send) else { return };
        let mut words = [0; WORDS];
        words[0] = FAILURE;
        vf.mailbox.say(self.random.below(4) as u32, words);
    }

    /// Looks at a request, and answers it. `written` has a bit for each word that was written for it.
    pub(super) fn answer(&mut self, words: Words, written: u32) {
        let kind = words[0] & 0xffff;
        let found = (written.trailing_ones() as usize, least_words(kind));
        if found.1.is_none_or(|least| found.0 < least) {
            let what = "a request of a kind that there is not, or with words that were not written";
            self.add_fault(Fault {
                register: "VFMBMEM".into(),
                value: words[0].into(),
                section: "7.10.2.9",
                what: what.into(),
            });
        }
        let Some(manner) = self.physical().map(|physical| physical.manner) else { return };
        if manner == Manner::Deaf {
            return;
        }
        if let Some(vf) = &mut self.vf {
            vf.mailbox.acknowledge();
        }
        self.raise_mailbox();
        if manner == Manner::Mute {
            return;
        }
        let (mut answer, good) = self.does(kind, words);
        let clear = self.vf.as_ref().is_some_and(|vf| vf.physical.clear_to_send);
        // An answer to a reset does not say that more may be said.
        answer[0] |= if good { SUCCESS } else { FAILURE };
        answer[0] |= if clear && kind != RESET { CLEAR_TO_SEND } else { 0 };
        match manner {
            Manner::Garbage => answer.fill_with(|| self.random.bits() as u32),
            Manner::Beside => answer[0] ^= 0x0f,
            Manner::Absurd => answer[1..].fill(u32::MAX),
            _ => {}
        }
        let delay = self.random.below(4) as u32;
        if let Some(vf) = &mut self.vf {
            vf.mailbox.say(delay, answer);
        }
    }

    /// Does what is asked for; the answer, and whether it was done.
    fn does(&mut self, kind: u32, words: Words) -> (Words, bool) {
        let Some((clear, api, manner)) = self.physical().map(|it| (it.clear_to_send, it.api, it.manner))
        else {
            return (words, false);
        };
        let mut answer = words;
        let is_refused = kind != RESET && (!clear || manner == Manner::Refusing);
        let good = match kind {
            _ if is_refused => false,
            RESET => return self.reset_is_asked(words),
            NEGOTIATE => {
                let known = words[1] <= API_1_5 && words[1] != API_2_0;
                let good = known && (manner != Manner::Old || words[1] == API_1_0);
                if let (true, Some(physical)) = (good, self.physical()) {
                    physical.api = words[1];
                }
                good
            }
            SET_MAC => self.set_station(0, mac_of(&words)),
            SET_MORE_MACS => self.set_more(words[0] >> INFO_SHIFT & INFO, mac_of(&words)),
            SET_MULTICAST => self.set_groups(&words),
            SET_VLAN => self.set_vlan(words[1], words[0] >> INFO_SHIFT & INFO != 0),
            SET_LONGEST => self.set_longest(words[1], api),
            GET_QUEUES if api >= API_1_1 => {
                // Queues each way, no VLAN of the port's own, the default queue.
                answer[1..5].copy_from_slice(&[QUEUES, QUEUES, 0, 0]);
                true
            }
            SET_MODE if api >= API_1_2 => self.set_mode(words[1], api),
            GET_LINK if api >= API_1_5 => {
                answer[1] = 1;
                true
            }
            // Its administrator has not allowed to look at the table and the key, as is usual.
            _ => false,
        };
        (answer, good)
    }

    fn reset_is_asked(&mut self, words: Words) -> (Words, bool) {
        self.vf_was_reset();
        let Some(physical) = self.physical() else { return (words, false) };
        physical.clear_to_send = true;
        let (mac, has_address) = (physical.mac, physical.manner != Manner::NoAddress);
        let mut answer = words;
        // The address, and which bits of groups are hashed: MCSTCTRL.MO.
        answer[1..4].fill(0);
        if has_address {
            self.set_station(0, mac);
            answer[1] = u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]);
            answer[2] = u32::from(u16::from_le_bytes([mac[4], mac[5]]));
        }
        (answer, has_address)
    }

    fn set_station(&mut self, index: u32, mac: [u8; 6]) -> bool {
        if !is_station(mac) {
            return false;
        }
        self.set_value_of("RAL", index, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        self.set_value_of("RAH", index, ADDRESS_VALID | u32::from(u16::from_le_bytes([mac[4], mac[5]])));
        true
    }

    /// Index 0 takes all of them away, 1 begins anew, others add.
    fn set_more(&mut self, index: u32, mac: [u8; 6]) -> bool {
        if index <= 1 {
            (1..=MORE_MACS).for_each(|at| self.set_value_of("RAH", at, 0));
        }
        let Some(physical) = self.physical() else { return false };
        physical.more_macs = if index <= 1 { 0 } else { physical.more_macs };
        if index == 0 {
            return true;
        }
        let at = physical.more_macs + 1;
        if at > MORE_MACS {
            return false;
        }
        physical.more_macs = at;
        self.set_station(at, mac)
    }

    fn set_groups(&mut self, words: &Words) -> bool {
        let count = ((words[0] >> INFO_SHIFT & INFO) as usize).min(GROUPS);
        (0..128).for_each(|index| self.set_value_of("MTA", index, 0));
        for at in 0..count {
            let hash = words[1 + at / 2] >> (16 * (at % 2)) & 0xfff;
            let word = self.value_of("MTA", hash >> 5) | 1 << (hash & 0x1f);
            self.set_value_of("MTA", hash >> 5, word);
        }
        true
    }

    fn set_vlan(&mut self, id: u32, on: bool) -> bool {
        if id > 0xfff {
            return false;
        }
        let word = self.value_of("VFTA", id / 32) & !(1 << (id % 32)) | u32::from(on) << (id % 32);
        self.set_value_of("VFTA", id / 32, word);
        true
    }

    /// It takes jumbo frames itself, so a function that speaks the first version of the protocol only receives nothing, and
    /// others receive when they have said how long their frames are.
    fn set_longest(&mut self, bytes: u32, api: u32) -> bool {
        let good = api >= API_1_1 && (64..=LONGEST).contains(&bytes);
        self.receives(good);
        if good {
            self.set_value_of("MAXFRS", 0, bytes.max(USUAL) << 16);
        }
        good
    }

    /// Which frames are received beside those for its addresses: none, its groups, all groups, all.
    fn set_mode(&mut self, mode: u32, api: u32) -> bool {
        let lets_all = api >= API_1_3 && self.physical().is_some_and(|physical| physical.lets_receive_all);
        match mode {
            0 => self.set_filters(0, 0, VLAN_FILTER),
            1 => self.set_filters(0, MULTICAST_FILTER, VLAN_FILTER),
            2 => self.set_filters(ALL_MULTICAST, MULTICAST_FILTER, VLAN_FILTER),
            // Of whatever VLAN.
            3 if lets_all => self.set_filters(ALL_MULTICAST | ALL_UNICAST, MULTICAST_FILTER, 0),
            _ => return false,
        }
        true
    }

    fn set_filters(&mut self, all: u32, hashes: u32, vlans: u32) {
        self.set_value_of("FCTRL", 0, BROADCAST | all);
        self.set_value_of("MCSTCTRL", 0, hashes);
        let control = self.value("VLNCTRL") & !VLAN_FILTER | vlans;
        self.set_value_of("VLNCTRL", 0, control);
    }
}
