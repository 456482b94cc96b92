//! How many objects a pool needs, and why.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

/// How many objects a pool needs so that it never runs dry: the sum of all places that can hold one at a
/// time.
///
/// ```
/// use wirerate_mempool::PoolSize;
///
/// let size = PoolSize::new().rings(2, 1024).caches(2, 256).bursts(4, 32);
/// assert_eq!(size.objects(), 2688);
/// assert_eq!(size.to_string(), "2 rings x 1024 + 2 threads x 256 cached + 4 bursts x 32 = 2688");
/// assert!(size.check(2048).is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSize {
    terms: Vec<Term>,
}

/// The queues of a port, and what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortQueues {
    /// Receive queues.
    pub rx_queues: usize,
    /// Objects that the ring of each receive queue can hold: its descriptors, or 0 where frames are copied.
    pub rx_descriptors: usize,
    /// Transmit queues.
    pub tx_queues: usize,
    /// Objects that the ring of each transmit queue can hold: its descriptors, or 0 where frames are copied.
    pub tx_descriptors: usize,
}

/// The lcores that work on ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// How many there are.
    pub lcores: usize,
    /// Objects that each may keep at hand.
    pub cache: usize,
    /// Objects that travel together, at most.
    pub burst: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    /// Ports that have `count` each; else 1.
    ports: usize,
    count: usize,
    each: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rings,
    RxQueues,
    TxQueues,
    Caches,
    LcoreCaches,
    Bursts,
    QueueBursts,
    Spare,
}

impl PoolSize {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What forwarding between `ports` needs: all rings full, all caches full, and of each port one burst in
    /// flight for each of its queues. Ports alike are one term.
    ///
    /// DPDK's l2fwd makes the same sum, but for the caches, which it counts for each port, and its rule of
    /// thumb that 8,192 are the least: `objects().max(8192)`.
    ///
    /// ```
    /// use wirerate_mempool::{PoolSize, PortQueues, Workers};
    ///
    /// let port = PortQueues { rx_queues: 1, rx_descriptors: 1024, tx_queues: 2, tx_descriptors: 512 };
    /// let size = PoolSize::for_ports([port; 4], Workers { lcores: 2, cache: 256, burst: 32 });
    /// assert_eq!(
    ///     size.to_string(),
    ///     "4 ports x 1 rx queue x 1024 descriptors + 4 ports x 2 tx queues x 512 descriptors \
    ///      + 4 ports x 2 queues x a burst of 32 in flight + 2 lcores x 256 cached = 8960"
    /// );
    /// ```
    #[must_use]
    pub fn for_ports(ports: impl IntoIterator<Item = PortQueues>, workers: Workers) -> Self {
        let mut kinds: Vec<(PortQueues, usize)> = Vec::new();
        for port in ports {
            match kinds.iter_mut().find(|(known, _)| *known == port) {
                Some((_, count)) => *count += 1,
                None => kinds.push((port, 1)),
            }
        }
        let mut size = Self::new();
        for (port, count) in kinds {
            size = size
                .with_ports(count, port.rx_queues, port.rx_descriptors, Kind::RxQueues)
                .with_ports(count, port.tx_queues, port.tx_descriptors, Kind::TxQueues)
                .with_ports(count, port.rx_queues.max(port.tx_queues), workers.burst, Kind::QueueBursts);
        }
        size.with(workers.lcores, workers.cache, Kind::LcoreCaches)
    }

    /// `count` rings of `descriptors` each, which may all hold an object.
    #[must_use]
    pub fn rings(self, count: usize, descriptors: usize) -> Self {
        self.with(count, descriptors, Kind::Rings)
    }

    /// `threads` threads with a cache of `objects` each. A cache may come to hold twice its size
    /// ([`PoolConfig::cache`](crate::PoolConfig::cache)); what idles there above the sum is not lost, as a pool
    /// that runs dry reclaims it, which takes a system call.
    #[must_use]
    pub fn caches(self, threads: usize, objects: usize) -> Self {
        self.with(threads, objects, Kind::Caches)
    }

    /// `count` bursts in flight, of up to `objects` each.
    #[must_use]
    pub fn bursts(self, count: usize, objects: usize) -> Self {
        self.with(count, objects, Kind::Bursts)
    }

    /// `objects` more, for whatever the program keeps.
    #[must_use]
    pub fn spare(self, objects: usize) -> Self {
        self.with(1, objects, Kind::Spare)
    }

    fn with(self, count: usize, each: usize, kind: Kind) -> Self {
        self.with_ports(1, count, each, kind)
    }

    fn with_ports(mut self, ports: usize, count: usize, each: usize, kind: Kind) -> Self {
        if ports > 0 && count > 0 && each > 0 {
            self.terms.push(Term { ports, count, each, kind });
        }
        self
    }

    /// The sum; `usize::MAX` if it is more than that.
    #[must_use]
    pub fn objects(&self) -> usize {
        let terms = self.terms.iter();
        let objects = terms.map(|term| term.ports.saturating_mul(term.count).saturating_mul(term.each));
        objects.fold(0, usize::saturating_add)
    }

    /// Whether a pool of `count` objects is large enough.
    ///
    /// # Errors
    /// [`TooSmall`], which tells the sum, when it is not.
    pub fn check(&self, count: usize) -> Result<(), TooSmall> {
        let needed = self.objects();
        if count >= needed { Ok(()) } else { Err(TooSmall { found: count, needed, sum: self.to_string() }) }
    }
}

impl fmt::Display for PoolSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Term { ports, count, each, kind }) in self.terms.iter().enumerate() {
            if nth > 0 {
                f.write_str(" + ")?;
            }
            let plural = |count: usize| if count == 1 { "" } else { "s" };
            let s = plural(*count);
            if matches!(kind, Kind::RxQueues | Kind::TxQueues | Kind::QueueBursts) {
                write!(f, "{ports} port{} x ", plural(*ports))?;
            }
            match kind {
                Kind::RxQueues => write!(f, "{count} rx queue{s} x {each} descriptor{}", plural(*each))?,
                Kind::TxQueues => write!(f, "{count} tx queue{s} x {each} descriptor{}", plural(*each))?,
                Kind::QueueBursts => write!(f, "{count} queue{s} x a burst of {each} in flight")?,
                Kind::LcoreCaches => write!(f, "{count} lcore{s} x {each} cached")?,
                Kind::Rings => write!(f, "{count} ring{s} x {each}")?,
                Kind::Caches => write!(f, "{count} thread{s} x {each} cached")?,
                Kind::Bursts => write!(f, "{count} burst{s} x {each}")?,
                Kind::Spare => write!(f, "{each} spare")?,
            }
        }
        if self.terms.is_empty() { f.write_str("0") } else { write!(f, " = {}", self.objects()) }
    }
}

/// A pool has fewer objects than its use needs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a pool of {found} objects is too small: {sum}; make it {needed} objects or more")]
pub struct TooSmall {
    /// Objects that the pool has.
    pub found: usize,
    /// Objects that it needs.
    pub needed: usize,
    /// The sum, explained.
    pub sum: String,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_explained() {
        let size = PoolSize::new().rings(1, 512).bursts(0, 32).caches(3, 64).spare(100);
        assert_eq!(size.to_string(), "1 ring x 512 + 3 threads x 64 cached + 100 spare = 804");
        assert_eq!(PoolSize::new().to_string(), "0");
        assert_eq!(PoolSize::new().objects(), 0);
    }

    #[test]
    fn ports_that_differ_are_told_apart_and_those_alike_are_one() {
        let near = PortQueues { rx_queues: 2, rx_descriptors: 512, tx_queues: 1, tx_descriptors: 256 };
        let copying = PortQueues { rx_queues: 1, rx_descriptors: 0, tx_queues: 1, tx_descriptors: 1 };
        let size = PoolSize::for_ports([near, copying, near], Workers { lcores: 1, cache: 64, burst: 8 });
        assert_eq!(
            size.to_string(),
            "2 ports x 2 rx queues x 512 descriptors + 2 ports x 1 tx queue x 256 descriptors \
             + 2 ports x 2 queues x a burst of 8 in flight + 1 port x 1 tx queue x 1 descriptor \
             + 1 port x 1 queue x a burst of 8 in flight + 1 lcore x 64 cached = 2665"
        );
        assert_eq!(size.objects(), 2 * 2 * 512 + 2 * 256 + 2 * 2 * 8 + 1 + 8 + 64);
        assert_eq!(PoolSize::for_ports([], Workers { lcores: 0, cache: 64, burst: 8 }), PoolSize::new());
    }

    /// DPDK 24.11, `examples/l2fwd/main.c`:
    /// `nb_ports * (nb_rxd + nb_txd + MAX_PKT_BURST + nb_lcores * MEMPOOL_CACHE_SIZE)`.
    #[test]
    fn forwarding_needs_what_l2fwd_counts_less_the_caches_that_it_counts_twice() {
        for (ports, rxd, txd, lcores, cache, burst) in
            [(2, 1024, 1024, 2, 256, 32), (1, 512, 128, 1, 0, 64), (8, 4096, 4096, 4, 512, 32)]
        {
            let port = PortQueues { rx_queues: 1, rx_descriptors: rxd, tx_queues: 1, tx_descriptors: txd };
            let size =
                PoolSize::for_ports(core::iter::repeat_n(port, ports), Workers { lcores, cache, burst });
            let l2fwd = ports * (rxd + txd + burst + lcores * cache);
            assert_eq!(size.objects(), l2fwd - (ports - 1) * lcores * cache);
        }
    }

    #[test]
    fn a_pool_that_is_too_small_is_told_the_sum() {
        let size = PoolSize::new().rings(2, 1024).spare(1);
        assert!(size.check(2049).is_ok());
        let error = size.check(2048).unwrap_err();
        assert_eq!((error.found, error.needed), (2048, 2049));
        assert_eq!(
            error.to_string(),
            "a pool of 2048 objects is too small: 2 rings x 1024 + 1 spare = 2049; make it 2049 objects or more"
        );
    }

    #[test]
    fn a_sum_that_cannot_be_saturates() {
        let size = PoolSize::new().rings(usize::MAX, 2).spare(1);
        assert_eq!(size.objects(), usize::MAX);
        assert!(size.check(1 << 30).is_err());
    }
}
