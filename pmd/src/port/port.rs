//! A port: the control side of a device, in one of three states that are types.
//!
//! ```text
//! Port<Opened> --configure--> Port<Configured> --start--> Port<Started> + Queues
//!                                    ^                          |
//!                                    +---------- stop ----------+   (all queues given back)
//! ```

use core::fmt;
use std::sync::Arc;

use super::counters::PortStats;
use super::queue::Lease;
use super::{Counters, Device, DeviceInfo, Link, PortError, RegisterValue, RssConfig, RxQueue, TxQueue};
use crate::net::MacAddress;
use crate::packet::{MbufPool, Offload};

/// How a port is to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors in each receive queue's ring.
    pub rx_descriptors: u16,
    /// Descriptors in each transmit queue's ring.
    pub tx_descriptors: u16,
    /// Where received packets are put. A port that only sends needs none.
    pub pool: Option<MbufPool>,
    /// Whether frames for other stations are received too; on, as forwarders need it.
    pub promiscuous: bool,
    /// Whether only frames without a VLAN tag, and those of VLANs that [`Port::set_vlan`] names, are received; all are,
    /// unless the application says otherwise.
    pub vlan_filter: bool,
    /// The largest payload in bytes; none leaves it as it is.
    pub mtu: Option<usize>,
    /// The liberties that the device may take with received packets, of [`Offload::RX_LIBERTIES`]; none, unless the
    /// application says that it understands such packets. Without, packets are whole, as on a wire.
    pub rx_offloads: Offload,
    /// What the queues may leave to the device while sending, of [`Offload::TX_ALL`]; all that it does, unless the
    /// application says otherwise. Software does what is asked of a packet and not left to the device.
    pub tx_offloads: Offload,
}

impl PortConfig {
    /// Descriptors in a ring by default, as in DPDK's l2fwd.
    pub const DEFAULT_DESCRIPTORS: u16 = 1024;

    /// One queue each way, which receives into `pool`.
    #[must_use]
    pub fn new(pool: MbufPool) -> Self {
        Self { pool: Some(pool), ..Self::send_only() }.rx_queues(1)
    }

    /// One transmit queue and nothing to receive.
    #[must_use]
    pub fn send_only() -> Self {
        Self {
            rx_queues: 0,
            tx_queues: 1,
            rx_descriptors: Self::DEFAULT_DESCRIPTORS,
            tx_descriptors: Self::DEFAULT_DESCRIPTORS,
            pool: None,
            promiscuous: true,
            vlan_filter: false,
            mtu: None,
            rx_offloads: Offload::empty(),
            tx_offloads: Offload::TX_ALL,
        }
    }

    /// Sets the number of receive queues.
    #[must_use]
    pub fn rx_queues(mut self, count: u16) -> Self {
        self.rx_queues = count;
        self
    }

    /// Sets the number of transmit queues.
    #[must_use]
    pub fn tx_queues(mut self, count: u16) -> Self {
        self.tx_queues = count;
        self
    }

    /// Sets the descriptors of each receive and each transmit ring.
    #[must_use]
    pub fn descriptors(mut self, rx: u16, tx: u16) -> Self {
        (self.rx_descriptors, self.tx_descriptors) = (rx, tx);
        self
    }

    /// Sets whether frames for other stations are received.
    #[must_use]
    pub fn promiscuous(mut self, on: bool) -> Self {
        self.promiscuous = on;
        self
    }

    /// Sets whether frames of VLANs are received only if [`Port::set_vlan`] names these.
    #[must_use]
    pub fn vlan_filter(mut self, on: bool) -> Self {
        self.vlan_filter = on;
        self
    }

    /// Sets the largest payload, in bytes.
    #[must_use]
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Sets the liberties that the device may take with received packets, of [`Offload::RX_LIBERTIES`]: a VLAN tag
    /// taken out (`RX_VLAN_STRIPPED`), a checksum that is still to be filled in (`TX_TCP_CHECKSUM`,
    /// `TX_UDP_CHECKSUM`), a TCP packet that is still to be cut (`TX_TCP_SEGMENTATION`). None by default.
    ///
    /// A forwarder that sends what it receives can allow all: the transmit queue, its device or its software,
    /// completes what is not finished. A program that looks at checksums or lengths, or whose packets must not be
    /// longer than the MTU, allows what it understands. The device need not make use of it.
    #[must_use]
    pub fn rx_offloads(mut self, flags: Offload) -> Self {
        self.rx_offloads = flags;
        self
    }

    /// Sets what the queues may leave to the device while sending, of [`Offload::TX_ALL`]; all by default. A device of
    /// another program may take longer for each packet, asked or not, once it has agreed to do something with some.
    #[must_use]
    pub fn tx_offloads(mut self, flags: Offload) -> Self {
        self.tx_offloads = flags;
        self
    }
}

/// A port as it was found: its device is known and nothing is set up.
#[derive(Debug)]
pub struct Opened(());

/// A port whose device has a configuration and is at rest.
#[derive(Debug)]
pub struct Configured {
    config: PortConfig,
    rx: Vec<Arc<Counters>>,
    tx: Vec<Arc<Counters>>,
}

/// A port whose queues are given out.
#[derive(Debug)]
pub struct Started {
    configured: Configured,
    lease: Lease,
}

/// The queues of a started port, in the order of their numbers.
#[derive(Debug)]
pub struct Queues {
    /// Receive queues.
    pub rx: Vec<RxQueue>,
    /// Transmit queues.
    pub tx: Vec<TxQueue>,
}

/// A port that cannot stop because some of its queues still have owners. Drop those and stop it again.
#[derive(Debug)]
pub struct StillHeld {
    /// The port, still running.
    pub port: Port<Started>,
    /// How many of its queues are not given back.
    pub queues: usize,
}

impl fmt::Display for StillHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot stop: {} of its queues are still held", self.port.name(), self.queues)
    }
}

impl std::error::Error for StillHeld {}

/// A port in state `S`: [`Opened`], [`Configured`] or [`Started`]. What a state does not allow does not
/// compile; a port that is not started has no queue to poll:
///
/// ```compile_fail
/// fn poll(port: wirerate_pmd::Port<wirerate_pmd::port::Configured>) {
///     port.rx_queues[0].rx_burst(&mut Default::default());
/// }
/// ```
///
/// Dropping a port gives up its control side. Queues that are still held keep what they need and go on until
/// they are dropped, too.
pub struct Port<S> {
    device: Box<dyn Device>,
    name: String,
    id: u16,
    state: S,
}

impl Port<Opened> {
    /// A port over `device`, called `name`, with the number `id` in its packets.
    #[must_use]
    pub fn new(device: Box<dyn Device>, name: impl Into<String>, id: u16) -> Self {
        Self { device, name: name.into(), id, state: Opened(()) }
    }

    /// Gives the device a configuration.
    ///
    /// # Errors
    /// [`PortError`] says what the device cannot do.
    pub fn configure(mut self, config: &PortConfig) -> Result<Port<Configured>, PortError> {
        self.check(config)?;
        self.device.configure(config)?;
        let state = Configured::new(config);
        Ok(Port { device: self.device, name: self.name, id: self.id, state })
    }
}

impl Configured {
    fn new(config: &PortConfig) -> Self {
        let counters = |count: u16| (0..count).map(|_| Arc::new(Counters::new())).collect();
        Self { config: config.clone(), rx: counters(config.rx_queues), tx: counters(config.tx_queues) }
    }
}

impl Port<Configured> {
    /// Gives the device another configuration; counters start anew.
    ///
    /// # Errors
    /// [`PortError`] says what the device cannot do. The port is gone then: open it again.
    pub fn reconfigure(mut self, config: &PortConfig) -> Result<Self, PortError> {
        self.check(config)?;
        self.device.configure(config)?;
        self.state = Configured::new(config);
        Ok(self)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &PortConfig {
        &self.state.config
    }

    /// Starts the device and gives out its queues.
    ///
    /// # Errors
    /// [`PortError`] says why the device did not start. The port is gone then: open it again.
    pub fn start(mut self) -> Result<(Port<Started>, Queues), PortError> {
        let queues = self.device.start()?;
        let lease = Lease::new(());
        let mut rx = Vec::new();
        for ((index, driver), counters) in (0..).zip(queues.rx).zip(&self.state.rx) {
            rx.push(RxQueue::new(driver, Arc::clone(counters), self.id, index, Arc::clone(&lease)));
        }
        let mut tx = Vec::new();
        for ((index, driver), counters) in (0..).zip(queues.tx).zip(&self.state.tx) {
            tx.push(TxQueue::new(driver, Arc::clone(counters), self.id, index, Arc::clone(&lease)));
        }
        let state = Started { configured: self.state, lease };
        let port = Port { device: self.device, name: self.name, id: self.id, state };
        Ok((port, Queues { rx, tx }))
    }
}

impl Port<Started> {
    /// Stops the device, once all queues are dropped.
    ///
    /// # Errors
    /// [`StillHeld`] gives the running port back while a queue is held. A device that cannot stop says so in
    /// the log, and is as good as stopped: it has no queues.
    pub fn stop(mut self) -> Result<Port<Configured>, Box<StillHeld>> {
        let queues = Arc::strong_count(&self.state.lease) - 1;
        if queues > 0 {
            return Err(Box::new(StillHeld { port: self, queues }));
        }
        if let Err(error) = self.device.stop() {
            tracing::warn!("{}: {error}", self.name);
        }
        Ok(Port { device: self.device, name: self.name, id: self.id, state: self.state.configured })
    }

    /// The eight basic statistics.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        self.state.configured.stats(&*self.device)
    }

    /// The extended statistics: each queue's counts, each drop by its reason, and what the device counts.
    #[must_use]
    pub fn xstats(&self) -> Vec<(String, u64)> {
        self.state.configured.xstats(&*self.device)
    }

    /// Packets that the device itself lost before any queue saw them; part of `imissed`.
    #[must_use]
    pub fn device_missed(&self) -> u64 {
        self.device.stats().missed
    }

    /// Sets all statistics back to zero.
    pub fn reset_stats(&mut self) {
        let configured = &self.state.configured;
        configured.rx.iter().chain(&configured.tx).for_each(|queue| queue.reset());
        self.device.reset_stats();
    }

    /// The counters of each receive queue.
    #[must_use]
    pub fn rx_counters(&self) -> &[Arc<Counters>] {
        &self.state.configured.rx
    }

    /// The counters of each transmit queue.
    #[must_use]
    pub fn tx_counters(&self) -> &[Arc<Counters>] {
        &self.state.configured.tx
    }
}

impl Configured {
    fn stats(&self, device: &dyn Device) -> PortStats {
        let mut stats = PortStats::default();
        self.rx.iter().for_each(|queue| stats.add_rx(queue));
        self.tx.iter().for_each(|queue| stats.add_tx(queue));
        stats.imissed += device.stats().missed;
        stats
    }

    fn xstats(&self, device: &dyn Device) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for (direction, queues) in [("rx", &self.rx), ("tx", &self.tx)] {
            for (index, queue) in queues.iter().enumerate() {
                all.push((format!("{direction}_q{index}_packets"), queue.packets()));
                all.push((format!("{direction}_q{index}_bytes"), queue.bytes()));
                all.push((format!("{direction}_q{index}_bursts"), queue.bursts()));
                for (reason, count) in queue.all_drops() {
                    all.push((format!("{direction}_q{index}_drop_{}", reason.name()), count));
                }
            }
        }
        all.extend(device.stats().extended);
        all
    }
}

impl<S> Port<S> {
    fn check(&self, config: &PortConfig) -> Result<(), PortError> {
        let info = self.device.info();
        for (direction, asked, most) in
            [("rx", config.rx_queues, info.max_rx_queues), ("tx", config.tx_queues, info.max_tx_queues)]
        {
            if asked > most {
                return Err(PortError::QueueCount { device: self.name.clone(), direction, asked, most });
            }
        }
        if config.vlan_filter && !info.vlan_filter {
            return Err(PortError::Unsupported { what: "a VLAN filter" });
        }
        if config.rx_queues > 0 && config.pool.is_none() {
            return Err(PortError::NoPool { device: self.name.clone(), rx_queues: config.rx_queues });
        }
        Ok(())
    }

    /// The port's name, `net_ring0` for instance.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port's number.
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// What is fixed about the device.
    #[must_use]
    pub fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    /// The state of the link.
    #[must_use]
    pub fn link(&self) -> Link {
        self.device.link()
    }

    /// The station address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.device.mac()
    }

    /// The largest payload of a frame, in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.device.mtu()
    }

    /// Changes the station address.
    ///
    /// # Errors
    /// [`PortError`] when the driver or the system refuses.
    pub fn set_mac(&mut self, mac: MacAddress) -> Result<(), PortError> {
        self.device.set_mac(mac)
    }

    /// Changes the largest payload.
    ///
    /// # Errors
    /// [`PortError`] when the driver or the system refuses.
    pub fn set_mtu(&mut self, mtu: usize) -> Result<(), PortError> {
        self.device.set_mtu(mtu)
    }

    /// Switches reception of frames for other stations on or off.
    ///
    /// # Errors
    /// [`PortError`] when the driver or the system refuses.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        self.device.set_promiscuous(on)
    }

    /// Switches reception of all frames for several stations on or off.
    ///
    /// # Errors
    /// [`PortError`] when the driver or the device refuses.
    pub fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        self.device.set_all_multicast(on)
    }

    /// Receives frames for these stations and groups, beside the port's own, instead of those named before.
    ///
    /// # Errors
    /// [`PortError`] when the driver or the device refuses.
    pub fn set_mac_filter(&mut self, addresses: &[MacAddress]) -> Result<(), PortError> {
        self.device.set_mac_filter(addresses)
    }

    /// The device's registers, as they are now; none of a device that has none to show.
    #[must_use]
    pub fn registers(&self) -> Vec<RegisterValue> {
        self.device.registers()
    }

    /// How received packets are spread over queues; none when they are not, or the device does not tell.
    #[must_use]
    pub fn rss_config(&self) -> Option<RssConfig> {
        self.device.rss()
    }

    fn vlan(&mut self, config: &PortConfig, vlan: u16, on: bool) -> Result<(), PortError> {
        let problem = match vlan {
            4096.. => format!("VLAN {vlan} cannot be; the highest is 4095"),
            _ if !config.vlan_filter => {
                "all VLANs are received: configure it with vlan_filter(true)".to_owned()
            }
            _ => return self.device.set_vlan(vlan, on),
        };
        Err(PortError::Configuration { device: self.name.clone(), problem })
    }

    fn rss(&mut self, config: &PortConfig, rss: &RssConfig) -> Result<(), PortError> {
        let info = self.device.info().rss.ok_or(PortError::Unsupported { what: "RSS" })?;
        if let Some(problem) = rss.problem(info, config.rx_queues) {
            return Err(PortError::Configuration { device: self.name.clone(), problem });
        }
        self.device.set_rss(rss)
    }
}

impl Port<Configured> {
    /// Receives frames of a VLAN, or not any more, where [`PortConfig::vlan_filter`] is set.
    ///
    /// # Errors
    /// [`PortError`] when it is not, or the driver or the device refuses.
    pub fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        let config = self.state.config.clone();
        self.vlan(&config, vlan, on)
    }

    /// Spreads received packets over the queues by a hash of their headers.
    ///
    /// # Errors
    /// [`PortError`] when the device cannot so ([`DeviceInfo::rss`]), or refuses.
    pub fn set_rss(&mut self, rss: &RssConfig) -> Result<(), PortError> {
        let config = self.state.config.clone();
        self.rss(&config, rss)
    }
}

impl Port<Started> {
    /// Receives frames of a VLAN, or not any more, where [`PortConfig::vlan_filter`] is set.
    ///
    /// # Errors
    /// [`PortError`] when it is not, or the driver or the device refuses.
    pub fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        let config = self.state.configured.config.clone();
        self.vlan(&config, vlan, on)
    }

    /// Spreads received packets over the queues by a hash of their headers.
    ///
    /// # Errors
    /// [`PortError`] when the device cannot so ([`DeviceInfo::rss`]), or refuses.
    pub fn set_rss(&mut self, rss: &RssConfig) -> Result<(), PortError> {
        let config = self.state.configured.config.clone();
        self.rss(&config, rss)
    }
}

impl<S: fmt::Debug> fmt::Debug for Port<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("name", &self.name)
            .field("id", &self.id)
            .field("device", &self.device)
            .field("state", &self.state)
            .finish()
    }
}
