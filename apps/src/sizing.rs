//! How many mbufs a program needs, and the pool that has them.

use anyhow::{Result, ensure};
use wirerate_eal::Eal;
use wirerate_mempool::{PoolSize, PortQueues, Workers};
use wirerate_pmd::port::Opened;
use wirerate_pmd::{MbufPool, MbufPoolConfig, Port};

/// What a program will do with its mbufs.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Receive and transmit queues of each port.
    pub queues: (u16, u16),
    /// Descriptors in each receive and transmit ring.
    pub descriptors: (u16, u16),
    /// Threads that take and give back mbufs.
    pub threads: usize,
    /// Mbufs that each of them may keep at hand.
    pub cache: usize,
    /// Packets that travel together.
    pub burst: usize,
}

impl Plan {
    /// What `ports` hold in their rings, the threads in their caches and the bursts under way, summed up.
    #[must_use]
    pub fn size(&self, ports: &[Port<Opened>]) -> PoolSize {
        let queues = ports.iter().map(|port| {
            let info = port.info();
            PortQueues {
                rx_queues: usize::from(self.queues.0),
                rx_descriptors: info.rx_held.mbufs(self.descriptors.0),
                tx_queues: usize::from(self.queues.1),
                tx_descriptors: info.tx_held.mbufs(self.descriptors.1),
            }
        });
        PoolSize::for_ports(queues, Workers { lcores: self.threads, cache: self.cache, burst: self.burst })
    }

    /// The pool: of `asked` mbufs, which must be enough, or of as many as needed and at least `usual`.
    ///
    /// # Errors
    /// When `asked` is less than what the ports, threads and bursts need (the message has the sum), or there is
    /// not enough memory.
    pub fn pool(
        &self,
        eal: &Eal,
        ports: &[Port<Opened>],
        asked: Option<usize>,
        usual: usize,
        data_room: usize,
    ) -> Result<MbufPool> {
        let size = self.size(ports);
        if let Some(asked) = asked {
            size.check(asked)?;
        }
        let count = asked.unwrap_or_else(|| size.objects().max(usual));
        ensure!(count > 0, "a pool needs at least one mbuf");
        let shared = ports.iter().any(|port| port.info().shared_pool);
        let config =
            MbufPoolConfig::new("mbufs", count).cache(self.cache).data_room(data_room).shared(shared);
        Ok(MbufPool::new(eal, &config)?)
    }
}
