//! `net_ring`: ports over rings in memory.
//!
//! A port made from devargs is looped: what its transmit queue *n* sends, its receive queue *n* gets. Two
//! ports made by [`pair`] are wired to each other. No packet is copied: mbufs change hands.
//!
//! | parameter | |
//! |---|---|
//! | `size` | packets that each ring holds, 1024 unless given |

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirerate_eal::Eal;
use wirerate_mempool::ring::{Consumer, Producer, Single, ring};

use crate::net::MacAddress;
use crate::packet::{Burst, Mbuf};
use crate::port::{
    Counters, DevArgs, Device, DeviceInfo, DeviceQueues, Link, PortConfig, PortError, RxDriver, TxDriver,
};

/// As many as DPDK's has.
const MAX_QUEUES: u16 = 16;

/// Packets in a ring unless given.
pub const DEFAULT_SIZE: usize = 1024;

/// One direction between two ports: a ring for each queue, made when first used. The ends are here while no
/// queue has them.
#[derive(Debug)]
struct Wire {
    size: usize,
    ends: Mutex<Vec<Ends>>,
}

#[derive(Debug)]
struct Ends {
    to: Option<Producer<Mbuf, Single, Single>>,
    from: Option<Consumer<Mbuf, Single, Single>>,
}

impl Wire {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, ends: Mutex::new(Vec::new()) })
    }

    /// The ends of rings 0 to `count - 1`, at least.
    fn ends(&self, count: usize) -> MutexGuard<'_, Vec<Ends>> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        while ends.len() < count {
            let (to, from) = ring(self.size);
            ends.push(Ends { to: Some(to), from: Some(from) });
        }
        ends
    }
}

/// A port's device over a wire each way.
#[derive(Debug)]
struct RingDevice {
    rx: Arc<Wire>,
    tx: Arc<Wire>,
    mac: MacAddress,
    queues: (u16, u16),
}

/// Opens a looped `net_ring` device.
///
/// # Errors
/// [`PortError`] when a parameter is unknown or out of range.
pub fn open(_eal: &Eal, mut args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    const SIZE: &str = "packets in a ring, 1 to 1048576";
    let size = args.take::<usize>("size", SIZE)?.unwrap_or(DEFAULT_SIZE);
    if !(1..=1 << 20).contains(&size) {
        return Err(args.bad("size", &size.to_string(), &format!("expected {SIZE}")));
    }
    args.finish()?;
    let wire = Wire::new(size);
    Ok(Box::new(RingDevice::new(Arc::clone(&wire), wire, 0)))
}

/// Two devices wired to each other, with rings of `size` packets each way: what one sends the other receives,
/// queue by queue.
#[must_use]
pub fn pair(size: usize) -> (Box<dyn Device>, Box<dyn Device>) {
    let (there, back) = (Wire::new(size.max(1)), Wire::new(size.max(1)));
    let near = RingDevice::new(Arc::clone(&back), Arc::clone(&there), 0);
    let far = RingDevice::new(there, back, 1);
    (Box::new(near), Box::new(far))
}

impl RingDevice {
    fn new(rx: Arc<Wire>, tx: Arc<Wire>, number: u32) -> Self {
        Self { rx, tx, mac: MacAddress::local(number), queues: (0, 0) }
    }
}

impl Device for RingDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo::new("net_ring", MAX_QUEUES, MAX_QUEUES)
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        self.queues = (config.rx_queues, config.tx_queues);
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let (rx, tx) = (usize::from(self.queues.0), usize::from(self.queues.1));
        let mut queues = DeviceQueues { rx: Vec::new(), tx: Vec::new() };
        for (index, ends) in self.rx.ends(rx).iter_mut().take(rx).enumerate() {
            queues.rx.push(Box::new(RingRx { end: ends.from.take(), wire: Arc::clone(&self.rx), index }));
        }
        for (index, ends) in self.tx.ends(tx).iter_mut().take(tx).enumerate() {
            queues.tx.push(Box::new(RingTx { end: ends.to.take(), wire: Arc::clone(&self.tx), index }));
        }
        Ok(queues)
    }

    fn stop(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn link(&self) -> Link {
        Link { up: true, speed: None }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        self.mac = mac;
        Ok(())
    }

    fn set_promiscuous(&mut self, _on: bool) -> Result<(), PortError> {
        // A ring hands over every packet whatever its address: it is promiscuous, and nothing asks it not to be.
        Ok(())
    }
}

/// A receive queue; its end goes back to the wire when the queue is dropped, so that the port can start again.
#[derive(Debug)]
struct RingRx {
    end: Option<Consumer<Mbuf, Single, Single>>,
    wire: Arc<Wire>,
    index: usize,
}

impl RxDriver for RingRx {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Burst, _counters: &Counters) {
        if let Some(end) = &mut self.end {
            let room = burst.room();
            end.dequeue_burst(burst.as_batch(), room);
        }
    }
}

impl Drop for RingRx {
    fn drop(&mut self) {
        if let Some(ends) = self.wire.ends(0).get_mut(self.index) {
            ends.from = self.end.take();
        }
    }
}

/// A transmit queue.
#[derive(Debug)]
struct RingTx {
    end: Option<Producer<Mbuf, Single, Single>>,
    wire: Arc<Wire>,
    index: usize,
}

impl TxDriver for RingTx {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        if let Some(end) = &mut self.end {
            let offered = burst.bytes();
            let sent = end.enqueue_burst(burst.as_batch());
            if sent > 0 {
                counters.passed(sent as u64, offered - burst.bytes());
            }
        }
    }
}

impl Drop for RingTx {
    fn drop(&mut self) {
        if let Some(ends) = self.wire.ends(0).get_mut(self.index) {
            ends.to = self.end.take();
        }
    }
}
