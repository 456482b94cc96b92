//! What the port, the control thread and the queues of a virtio-net device know of it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::rx::DriverRx;
use super::tx::DriverTx;
use crate::lane::Lanes;
use crate::net::MacAddress;
use crate::port::{Link, PortConfig};
use crate::virtqueue::{Features, net_offload};

/// The smallest MTU that is believed (RFC 791).
const LEAST_MTU: u16 = 68;

/// The lanes of a started port.
pub(super) type VirtioLanes = Lanes<DriverRx, DriverTx>;

/// The features to ask for: those of the rings and of the control queue that every transport has, and the offloads that
/// `config` asks for.
pub(super) fn wanted(config: &PortConfig, mergeable: bool, in_order: bool) -> Features {
    let mut wanted = Features::VERSION_1
        | Features::ANY_LAYOUT
        | Features::INDIRECT
        | Features::MAC
        | Features::STATUS
        | Features::MTU
        | Features::MQ
        | Features::CTRL_VQ
        | net_offload::host_features(config.tx_offloads)
        | net_offload::guest_features(config.rx_offloads);
    wanted.set(Features::MRG_RXBUF, mergeable);
    wanted.set(Features::IN_ORDER, in_order);
    if !mergeable {
        // A large packet does not fit one buffer.
        wanted -= Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::GUEST_ECN;
    }
    wanted
}

/// What is known of a device at the moment.
#[derive(Debug)]
pub(super) struct State {
    mac: Mutex<MacAddress>,
    mtu: AtomicU32,
    /// `Offload` bits that the device does.
    can: Arc<AtomicU32>,
    features: AtomicU64,
    /// The device works, and says that the link is up.
    up: AtomicBool,
    /// Packets that were copied. The queues count here themselves: a look into a lane would keep its owner from work.
    copied: Arc<AtomicU64>,
    lanes: Mutex<VirtioLanes>,
}

/// Rings that were taken out of their lanes.
#[derive(Debug, Default)]
pub(super) struct Taken {
    _rx: Vec<DriverRx>,
    _tx: Vec<DriverTx>,
}

impl State {
    /// Nothing is known yet but the station address to begin with.
    pub(super) fn new(mac: MacAddress) -> Self {
        Self {
            mac: Mutex::new(mac),
            mtu: AtomicU32::new(1500),
            can: Arc::default(),
            features: AtomicU64::new(0),
            up: AtomicBool::new(false),
            copied: Arc::default(),
            lanes: Mutex::default(),
        }
    }

    pub(super) fn mac(&self) -> MacAddress {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mac(&self, mac: MacAddress) {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner) = mac;
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }

    /// Takes over the address and the MTU that the device says it has, as far as the features say that they mean
    /// something; not an address if ours `is_given`.
    pub(super) fn learn(&self, features: Features, mac: [u8; 6], mtu: u16, is_given: bool) {
        let mac = MacAddress(mac);
        // The address of a group is nobody's.
        let is_one = mac.0 != [0; 6] && !mac.is_multicast();
        if features.contains(Features::MAC) && !is_given && is_one {
            self.set_mac(mac);
        }
        if features.contains(Features::MTU) && mtu >= LEAST_MTU {
            self.mtu.store(mtu.into(), Ordering::Relaxed);
        }
    }

    /// What was agreed on last.
    pub(super) fn features(&self) -> Features {
        Features::from_bits_retain(self.features.load(Ordering::Relaxed))
    }

    /// `Offload` bits that the device does, for the queues.
    pub(super) fn can(&self) -> &Arc<AtomicU32> {
        &self.can
    }

    pub(super) fn lanes(&self) -> VirtioLanes {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_lanes(&self, lanes: VirtioLanes) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }

    /// Says whether the link is up, and returns whether it was.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed)
    }

    /// The device works with these features: lets the rings in `lanes` work.
    pub(super) fn begin(&self, features: Features, lanes: &VirtioLanes) {
        self.features.store(features.bits(), Ordering::Relaxed);
        self.can.store(net_offload::to_device(features).bits(), Ordering::Relaxed);
        lanes.rx.iter().for_each(|lane| lane.enable(true));
        lanes.tx.iter().for_each(|lane| lane.enable(true));
    }

    /// The link is down, and the rings come out of `lanes`: nobody uses them any more. What they hold goes home when they
    /// are dropped, which must not be before the device has let go of it.
    #[must_use]
    pub(super) fn end(&self, lanes: &VirtioLanes) -> Taken {
        self.set_up(false);
        self.can.store(0, Ordering::Relaxed);
        let rx = lanes.rx.iter().filter_map(|lane| lane.remove()).collect();
        let tx = lanes.tx.iter().filter_map(|lane| lane.remove()).collect();
        Taken { _rx: rx, _tx: tx }
    }

    /// The link: down when a ring is broken, too.
    pub(super) fn link(&self, speed: Option<u32>) -> Link {
        let lanes = self.lanes();
        let rx = lanes.rx.iter().all(|lane| lane.broken() == 0 || lane.is_working());
        let tx = lanes.tx.iter().all(|lane| lane.broken() == 0 || lane.is_working());
        Link { up: self.up.load(Ordering::Relaxed) && rx && tx, speed }
    }

    /// Where queues count packets that they copy.
    pub(super) fn copied(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.copied)
    }

    /// Counts that every transport has.
    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let lanes = self.lanes();
        vec![
            ("virtio_broken_rings".to_owned(), lanes.broken()),
            ("virtio_features".to_owned(), self.features().bits()),
            ("virtio_tx_copied".to_owned(), self.copied.load(Ordering::Relaxed)),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::lane::Lanes;

    #[test]
    fn counts_are_told_while_queues_work() {
        let state = Arc::new(State::new(MacAddress::local(1)));
        let lanes = Lanes::new("port", 2).unwrap();
        state.set_lanes(lanes.clone());
        let (told, tells) = mpsc::channel();
        // As long as somebody works on a lane, others would wait for it, and the worker for them.
        lanes.tx[1].with(|_| {
            thread::spawn(move || told.send(state.counts().len()));
            assert_eq!(tells.recv_timeout(Duration::from_secs(20)), Ok(3));
        });
    }
}
