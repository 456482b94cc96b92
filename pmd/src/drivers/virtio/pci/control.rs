//! The control queue (virtio 1.2, 5.1.6.5): commands to the device, one at a time, each waited for.

use core::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;

use super::common::Registers;
use super::error::VirtioPciError;
use crate::drivers::virtio::tx::{SIDE, Side};
use crate::net::MacAddress;
use crate::port::RssConfig;
use crate::virtqueue::{AnyDriverRing, Buffer, DriverRing, Kick};

/// How long a command may take.
const COMMAND_TIME: Duration = Duration::from_secs(2);
/// How often the answer is looked for.
const PAUSE: Duration = Duration::from_micros(50);

/// Descriptors of a command: its number, its data, the answer.
pub(super) const LEAST_SIZE: u16 = 3;
/// Where in the buffer the data are, and the answer.
const DATA: usize = 2;
const ANSWER: usize = SIDE - 1;
/// The answer that a command was carried out.
const OK: u8 = 0;
/// As many addresses of each kind as a filter has room for.
pub(super) const MOST_ADDRESSES: usize = 64;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// Receive frames for other stations, too.
    Promiscuous(bool),
    /// Receive all frames for several stations.
    AllMulticast(bool),
    /// Receive frames for these stations, beside our own.
    Filter(&'a [MacAddress]),
    /// Our own address.
    Address(MacAddress),
    /// Receive frames of this VLAN, or not any more.
    Vlan(u16, bool),
    /// Use so many pairs of queues.
    Pairs(u16),
    /// Spread packets so, over so many pairs of queues.
    Rss(&'a RssConfig, u16),
    /// We have announced ourselves.
    Announced,
}

impl Command<'_> {
    /// What it is, for messages.
    fn name(self) -> &'static str {
        match self {
            Self::Promiscuous(_) => "a change of promiscuous mode",
            Self::AllMulticast(_) => "a change of all-multicast mode",
            Self::Filter(_) => "a filter of addresses",
            Self::Address(_) => "a change of the MAC address",
            Self::Vlan(..) => "a VLAN filter",
            Self::Pairs(_) => "a number of queue pairs",
            Self::Rss(..) => "an RSS configuration",
            Self::Announced => "an announcement",
        }
    }

    /// Class and number (5.1.6.5.1 and following), and its data.
    fn bytes(self) -> ([u8; 2], Vec<u8>) {
        match self {
            Self::Promiscuous(on) => ([0, 0], vec![on.into()]),
            Self::AllMulticast(on) => ([0, 1], vec![on.into()]),
            Self::Filter(addresses) => {
                let mut data = Vec::new();
                // Two tables, each with the number of its entries in front: stations, then groups.
                for multicast in [false, true] {
                    let table = addresses.iter().filter(|address| address.is_multicast() == multicast);
                    data.extend((table.clone().count() as u32).to_le_bytes());
                    table.for_each(|address| data.extend(address.0));
                }
                ([1, 0], data)
            }
            Self::Address(address) => ([1, 1], address.0.to_vec()),
            Self::Vlan(vlan, on) => ([2, u8::from(!on)], vlan.to_le_bytes().to_vec()),
            Self::Announced => ([3, 0], Vec::new()),
            Self::Pairs(pairs) => ([4, 0], pairs.to_le_bytes().to_vec()),
            Self::Rss(rss, pairs) => {
                // `struct virtio_net_rss_config`: packets without a hash go to queue 0.
                let mut data = rss.hash.bits().to_le_bytes().to_vec();
                let mask = (rss.table.len() as u16).wrapping_sub(1);
                data.extend(mask.to_le_bytes());
                data.extend(0u16.to_le_bytes());
                rss.table.iter().for_each(|queue| data.extend(queue.to_le_bytes()));
                data.extend(pairs.to_le_bytes());
                data.push(rss.key.len() as u8);
                data.extend(&rss.key);
                ([4, 1], data)
            }
        }
    }
}

/// The control queue of a device that works.
#[derive(Debug)]
pub(super) struct ControlQueue {
    ring: AnyDriverRing,
    side: Side,
    kick: Kick,
    /// A command was not answered: the device may still read and write its buffer.
    silent: bool,
}

impl ControlQueue {
    /// Commands by `ring`, in the memory beside it.
    pub(super) fn new(ring: AnyDriverRing, side: Side, kick: Kick) -> Self {
        Self { ring, side, kick, silent: false }
    }

    /// Has the device carry out a command.
    ///
    /// # Errors
    /// [`VirtioPciError::Refused`] by the device, [`VirtioPciError::Silent`] when it does not answer in two seconds, or
    /// did not answer the command before, and [`VirtioPciError::Gone`].
    pub(super) fn run<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        command: Command<'_>,
    ) -> Result<(), VirtioPciError> {
        let what = command.name();
        if self.silent {
            return Err(VirtioPciError::Silent { what });
        }
        let (head, data) = command.bytes();
        let Some((place, address)) = self.side.place(0).filter(|_| DATA + data.len() < ANSWER) else {
            return Err(VirtioPciError::Refused { what });
        };
        // SAFETY: the place has `SIDE` bytes, all parts lie in it one after the other, and the device has no buffer there: each
        // command is waited for, and after one that was not answered there is no other.
        let answer: NonNull<u8> = unsafe {
            place.cast::<[u8; 2]>().write(head);
            place.add(DATA).copy_from_nonoverlapping(NonNull::from(&*data).cast(), data.len());
            place.add(ANSWER).write(u8::MAX);
            place.add(ANSWER)
        };
        let part =
            |at: usize, len: usize| Buffer { address: address.wrapping_add(at as u64), len: len as u32 };
        let read = [part(0, DATA), part(DATA, data.len())];
        let read = if data.is_empty() { &read[..1] } else { &read[..] };
        let done = match &mut self.ring {
            AnyDriverRing::Split(ring) => exchange(ring, read, part(ANSWER, 1), &self.kick, registers),
            AnyDriverRing::Packed(ring) => exchange(ring, read, part(ANSWER, 1), &self.kick, registers),
        };
        if !done {
            self.silent = true;
            return Err(match registers.is_gone() {
                true => VirtioPciError::Gone,
                false => VirtioPciError::Silent { what },
            });
        }
        // SAFETY: in the place. The device has given the buffer back, but may be lying, so the byte is read once.
        match unsafe { answer.as_ptr().read_volatile() } {
            OK => Ok(()),
            _ => Err(VirtioPciError::Refused { what }),
        }
    }
}

/// Makes a command available and waits until it is used; false when it is not.
fn exchange<R: DriverRing, B: Mmio>(
    ring: &mut R,
    read: &[Buffer],
    answer: Buffer,
    kick: &Kick,
    registers: &Registers<B>,
) -> bool {
    if ring.offer_chain(read, &[answer], None).is_none() {
        return false;
    }
    if ring.publish() {
        kick.ring();
    }
    let begun = Instant::now();
    loop {
        match ring.reap(1, |_, _| {}) {
            Ok(0) => {}
            Ok(_) => return true,
            Err(broken) => {
                tracing::error!("a virtio device broke the rules of its control queue: {broken}");
                return false;
            }
        }
        if begun.elapsed() >= COMMAND_TIME || registers.is_gone() {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::RssHash;

    #[test]
    fn commands_are_written_as_the_specification_has_them() {
        let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
        let group = MacAddress([1, 0, 0x5e, 0, 0, 9]);
        assert_eq!(Command::Promiscuous(true).bytes(), ([0, 0], vec![1]));
        assert_eq!(Command::AllMulticast(false).bytes(), ([0, 1], vec![0]));
        let filter = [mac(7), group];
        let expected = [&[1, 0, 0, 0][..], &mac(7).0, &[1, 0, 0, 0], &group.0].concat();
        assert_eq!(Command::Filter(&filter).bytes(), ([1, 0], expected));
        assert_eq!(Command::Address(mac(1)).bytes(), ([1, 1], vec![2, 0, 0, 0, 0, 1]));
        assert_eq!(Command::Vlan(0x102, true).bytes(), ([2, 0], vec![2, 1]));
        assert_eq!(Command::Vlan(0x102, false).bytes(), ([2, 1], vec![2, 1]));
        assert_eq!(Command::Announced.bytes(), ([3, 0], vec![]));
        assert_eq!(Command::Pairs(3).bytes(), ([4, 0], vec![3, 0]));
        let rss =
            RssConfig { hash: RssHash::IPV4 | RssHash::UDPV6, key: vec![9, 8], table: vec![0, 1, 2, 1] };
        let expected =
            vec![0x21, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 0, /* max_tx_vq */ 3, 0, 2, 9, 8];
        assert_eq!(Command::Rss(&rss, 3).bytes(), ([4, 1], expected));
    }
}
