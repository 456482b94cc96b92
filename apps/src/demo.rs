//! Traffic without a wire: ports in this process, and what is on their other side.

use anyhow::Result;
use wirerate_pmd::drivers::ring;
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::port::{Opened, Queues, Started};
use wirerate_pmd::{Burst, MbufPool, Port, PortConfig};

use crate::traffic::Generator;

/// Bytes in each packet of the demonstration, as testpmd's `txonly` sends them.
const PACKET: usize = 64;

/// The other side of in-process ports: on each it sends packets without end and swallows what comes back.
#[derive(Debug)]
pub struct FarSide {
    sides: Vec<Side>,
    received: Burst,
}

/// The far side of one port.
#[derive(Debug)]
struct Side {
    /// The control side, kept so that the device stays started.
    _port: Port<Started>,
    queues: Queues,
    generator: Generator,
    waiting: Burst,
}

/// `count` ports, and the far sides of them.
#[must_use]
pub fn ports(count: u16) -> (Vec<Port<Opened>>, Vec<Port<Opened>>) {
    (0..count)
        .map(|id| {
            let (near, far) = ring::pair(ring::DEFAULT_SIZE);
            (Port::new(near, format!("demo{id}"), id), Port::new(far, format!("far{id}"), id))
        })
        .unzip()
}

impl FarSide {
    /// Starts the far sides; they take their packets out of `pool`.
    ///
    /// # Errors
    /// When a port does not start.
    pub fn start(far: Vec<Port<Opened>>, pool: &MbufPool) -> Result<Self> {
        let mut sides = Vec::new();
        for port in far {
            let (port, queues) = port.configure(&PortConfig::new(pool.clone()))?.start()?;
            let station = MacAddress::local(0x0100 + u32::from(port.id()));
            let generator = Generator::new(pool.clone(), &[PACKET], MacAddress::BROADCAST, station, 1);
            sides.push(Side { _port: port, queues, generator, waiting: Burst::default() });
        }
        Ok(Self { sides, received: Burst::default() })
    }

    /// Sends and swallows a burst on each port.
    #[inline]
    pub fn poll(&mut self) {
        for side in &mut self.sides {
            if side.waiting.is_empty() {
                side.generator.fill(&mut side.waiting);
            }
            for tx in &mut side.queues.tx {
                // What does not fit now is offered again on the next round.
                let _ = tx.tx_burst(&mut side.waiting);
            }
            for rx in &mut side.queues.rx {
                rx.rx_burst(&mut self.received);
                self.received.free();
            }
        }
    }
}
