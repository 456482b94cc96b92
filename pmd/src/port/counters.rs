//! What a queue or a stage counts, and why packets are dropped.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// Why a packet went no further. Every drop in Wirerate has one of these, and is counted by it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name under which the reason is shown.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Received, but the pool had no mbuf to put it in.
    NoMbuf => "rx_nombuf",
    /// The device or the kernel had no room for it before it was polled.
    Missed => "rx_missed",
    /// Received, but longer than what the port can hand on.
    RxTooLong => "rx_too_long",
    /// Received with an error, or from a record that is damaged.
    RxMalformed => "rx_malformed",
    /// The transmit queue was full, and the application did not keep the packet.
    TxFull => "tx_full",
    /// Longer than the port or its peer can take.
    TxTooLong => "tx_too_long",
    /// Shorter than an Ethernet header.
    TxTooShort => "tx_too_short",
    /// The link was down.
    TxLinkDown => "tx_link_down",
    /// The device, the kernel or the file refused it.
    TxRefused => "tx_refused",
    /// It asks for what software has to do, and its pool has too few mbufs for that.
    TxNoMbuf => "tx_nombuf",
    /// Taken by the queue, which was dropped before its device had room for it.
    TxStopped => "tx_stopped",
    /// Its bytes are shared with another packet, and had to be written.
    Shared => "shared_bytes",
    /// Its headers are not what they should be.
    BadHeader => "bad_header",
    /// Nobody here wants it.
    NotForUs => "not_for_us",
    /// There is no way to where it is going.
    NoRoute => "no_route",
    /// The next lcore's ring was full.
    RingFull => "ring_full",
    /// The application filters it.
    Filtered => "filtered",
}

/// Counters with one writer, which any thread may read.
///
/// The writer pays a plain load, add and store for each; a reader sees each counter's value of some moment,
/// not all of one moment.
#[repr(align(128))]
pub struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    bursts: AtomicU64,
    polls: AtomicU64,
    cycles: AtomicU64,
    drops: [AtomicU64; DropReason::ALL.len()],
}

/// Adds without a locked instruction: there is one writer.
#[inline]
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bursts: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            cycles: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
        }
    }

    /// Counts a burst of `packets` packets with `bytes` bytes that went through.
    #[inline]
    pub fn passed(&self, packets: u64, bytes: u64) {
        add(&self.packets, packets);
        add(&self.bytes, bytes);
        add(&self.bursts, 1);
    }

    /// Counts a look at the queue, whether it found something or not.
    #[inline]
    pub fn polled(&self) {
        add(&self.polls, 1);
    }

    /// Counts the time that work took, in cycles of the eal's clock.
    #[inline]
    pub fn spent(&self, cycles: u64) {
        add(&self.cycles, cycles);
    }

    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn dropped(&self, reason: DropReason, packets: u64) {
        if packets > 0 {
            add(&self.drops[reason as usize], packets);
        }
    }

    /// Packets that went through.
    #[inline]
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Bytes that went through.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bursts with at least one packet.
    pub fn bursts(&self) -> u64 {
        self.bursts.load(Ordering::Relaxed)
    }

    /// Looks at the queue, with and without packets.
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Cycles spent, where somebody counts them.
    pub fn cycles(&self) -> u64 {
        self.cycles.load(Ordering::Relaxed)
    }

    /// Packets dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// The reasons for which anything was dropped, and how much.
    pub fn all_drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.drops(reason))).filter(|&(_, count)| count > 0)
    }

    /// Sets everything back to zero. To be called by the writer, or while there is none.
    pub fn reset(&self) {
        for counter in [&self.packets, &self.bytes, &self.bursts, &self.polls, &self.cycles] {
            counter.store(0, Ordering::Relaxed);
        }
        for counter in &self.drops {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Counters");
        shown.field("packets", &self.packets()).field("bytes", &self.bytes());
        for (reason, count) in self.all_drops() {
            shown.field(reason.name(), &count);
        }
        shown.finish_non_exhaustive()
    }
}

/// The eight basic statistics of a port, named as DPDK names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Packets that were lost before they were polled, because the queue was full.
    pub imissed: u64,
    /// Packets received with errors.
    pub ierrors: u64,
    /// Packets that could not be sent.
    pub oerrors: u64,
    /// Packets lost because the pool was empty.
    pub rx_nombuf: u64,
}

impl PortStats {
    /// Adds a receive queue's counters.
    pub(super) fn add_rx(&mut self, queue: &Counters) {
        self.ipackets += queue.packets();
        self.ibytes += queue.bytes();
        self.rx_nombuf += queue.drops(DropReason::NoMbuf);
        self.imissed += queue.drops(DropReason::Missed);
        self.ierrors += queue.drops(DropReason::RxTooLong) + queue.drops(DropReason::RxMalformed);
    }

    /// Adds a transmit queue's counters. What the application gave up because the queue was full is its own
    /// drop, and no error of the port.
    pub(super) fn add_tx(&mut self, queue: &Counters) {
        self.opackets += queue.packets();
        self.obytes += queue.bytes();
        self.oerrors += queue
            .all_drops()
            .filter(|&(reason, _)| reason != DropReason::TxFull)
            .map(|(_, count)| count)
            .sum::<u64>();
    }
}
