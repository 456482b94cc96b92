//! What a back end serves: a virtio network device whose rings are somewhere else.

use std::os::fd::OwnedFd;

use super::ring::RingSetup;

/// A device behind a back end. All calls come from the thread that serves the session, one at a time.
pub trait Device: Send {
    /// The virtio features that it offers (virtio 1.2, 5.1.3 and 6). The back end adds what the protocol needs.
    fn features(&self) -> u64;

    /// How many rings may exist: two for each pair of queues, at most 256.
    fn rings(&self) -> u16;

    /// What `struct virtio_net_config` holds (virtio 1.2, 5.1.4), at most 256 bytes. Zeros follow it.
    fn config(&self) -> Vec<u8>;

    /// The features that both sides know, before any ring starts.
    fn negotiated(&mut self, features: u64);

    /// A ring starts, disabled until [`enable_ring`](Self::enable_ring) says otherwise.
    ///
    /// # Errors
    /// Why it cannot; it then stays stopped.
    fn start_ring(&mut self, index: u16, ring: RingSetup) -> Result<(), String>;

    /// A started ring stops. When this returns, nobody may touch the ring or the memory that came with it.
    /// Returns where the ring would go on, as [`RingSetup::base`].
    fn stop_ring(&mut self, index: u16) -> u32;

    /// A started ring may do its work, or not.
    fn enable_ring(&mut self, index: u16, on: bool);

    /// A started ring calls by another descriptor, or not at all.
    fn set_call(&mut self, index: u16, call: Option<OwnedFd>);

    /// The driver set the device status (virtio 1.2, 2.1). At 0 all rings have been stopped before.
    fn set_status(&mut self, status: u8);

    /// The front end tells the MTU, 68 to 65535 bytes.
    ///
    /// # Errors
    /// Why the device cannot have it.
    fn set_mtu(&mut self, mtu: u16) -> Result<(), String> {
        let _ = mtu;
        Ok(())
    }

    /// The front end asks for a broadcast in the name of this MAC address, after a migration. Nothing by default:
    /// the feature is not offered, so that nobody relies on it.
    fn announce(&mut self, mac: [u8; 6]) {
        let _ = mac;
    }

    /// The session is over. All rings have been stopped before.
    fn disconnected(&mut self);
}

/// A device that is lent for one session.
impl<D: Device + ?Sized> Device for &mut D {
    fn features(&self) -> u64 {
        (**self).features()
    }
    fn rings(&self) -> u16 {
        (**self).rings()
    }
    fn config(&self) -> Vec<u8> {
        (**self).config()
    }
    fn negotiated(&mut self, features: u64) {
        (**self).negotiated(features);
    }
    fn start_ring(&mut self, index: u16, ring: RingSetup) -> Result<(), String> {
        (**self).start_ring(index, ring)
    }
    fn stop_ring(&mut self, index: u16) -> u32 {
        (**self).stop_ring(index)
    }
    fn enable_ring(&mut self, index: u16, on: bool) {
        (**self).enable_ring(index, on);
    }
    fn set_call(&mut self, index: u16, call: Option<OwnedFd>) {
        (**self).set_call(index, call);
    }
    fn set_status(&mut self, status: u8) {
        (**self).set_status(status);
    }
    fn set_mtu(&mut self, mtu: u16) -> Result<(), String> {
        (**self).set_mtu(mtu)
    }
    fn announce(&mut self, mac: [u8; 6]) {
        (**self).announce(mac);
    }
    fn disconnected(&mut self) {
        (**self).disconnected();
    }
}
