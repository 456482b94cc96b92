//! What a transmit queue's device does not do, done in software before the device gets the packet.
//!
//! Only packets that ask for something come here. Those that become one packet again stay in the application's
//! burst until the device takes them. A packet that is cut leaves it: segments that the device has no room for wait
//! in the queue, and go before anything else.

use super::{Counters, DropReason, TxDriver};
use crate::net::complete::{OffloadError, complete_some_checksums, insert_vlan_tag, own};
use crate::net::gso::segment_alike;
use crate::packet::{Burst, MAX_BURST, Mbuf, Offload};

/// The software side of a transmit queue.
#[derive(Debug)]
pub(super) struct Mender {
    /// Segments of packets that the queue has taken, for which the device had no room yet.
    waiting: Box<Burst>,
}

impl Mender {
    pub(super) fn new() -> Self {
        Self { waiting: Box::new(Burst::new(MAX_BURST)) }
    }

    /// Segments that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what waits, as far as the device takes it; says whether that is all.
    pub(super) fn flush(&mut self, driver: &mut dyn TxDriver, counters: &Counters) -> bool {
        if !self.waiting.is_empty() {
            driver.tx_burst(&mut self.waiting, counters);
        }
        self.waiting.is_empty()
    }

    /// Does what `driver`'s device does not do with the packets of `burst`, and sends them. What the device has
    /// no room for stays in the burst.
    #[cold]
    #[inline(never)]
    pub(super) fn send(&mut self, driver: &mut dyn TxDriver, burst: &mut Burst, counters: &Counters) {
        if !self.flush(driver, counters) {
            return;
        }
        let can = driver.offloads();
        burst.retain(|packet| match mend(packet, can) {
            Ok(()) => true,
            Err(error) => {
                counters.dropped(error.drop_reason(), 1);
                false
            }
        });
        let cuts = |packet: &Mbuf| (packet.offload() - can).contains(Offload::TX_TCP_SEGMENTATION);
        while let Some(at) = burst.iter().position(cuts) {
            if at > 0 {
                // `waiting` is empty, and has room for any burst.
                self.waiting.take_front(burst, at);
                if !self.flush(driver, counters) {
                    burst.put_front(&mut self.waiting);
                    return;
                }
            }
            if let Some(packet) = burst.first()
                && let Err(error) = self.cut(packet)
            {
                counters.dropped(error.drop_reason(), 1);
            }
            burst.free_front(1);
            if !self.flush(driver, counters) {
                return;
            }
        }
        if !burst.is_empty() {
            driver.tx_burst(burst, counters);
        }
    }

    /// Cuts a packet into segments that wait, all or none.
    fn cut(&mut self, packet: &Mbuf) -> Result<(), OffloadError> {
        let waiting = &mut self.waiting;
        segment_alike(packet, |segment| {
            // There is room: nothing waits, and there are at most as many segments as a burst holds.
            let pushed = waiting.push(segment);
            debug_assert!(pushed.is_ok(), "more segments than a burst holds");
        })
        .map(|_| ())
    }

    /// Gives the device a last chance to take what waits, and drops the rest.
    pub(super) fn stop(&mut self, driver: &mut dyn TxDriver, counters: &Counters) {
        if !self.flush(driver, counters) {
            counters.dropped(DropReason::TxStopped, self.waiting.len() as u64);
            self.waiting.free();
        }
    }
}

/// Does to one packet what the device, which does `can`, does not, except that it is not cut.
fn mend(packet: &mut Mbuf, can: Offload) -> Result<(), OffloadError> {
    let missing = (packet.offload() & Offload::TX_ALL) - can;
    if missing.is_empty() {
        return Ok(());
    }
    if missing.contains(Offload::TX_VLAN_INSERT) {
        insert_vlan_tag(packet)?;
    }
    if missing.contains(Offload::TX_TCP_SEGMENTATION) {
        // Its segments get checksums of their own.
        return Ok(());
    }
    match complete_some_checksums(packet, missing) {
        Err(OffloadError::Shared) => {
            own(packet)?;
            complete_some_checksums(packet, missing)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;
