//! Traffic without a wire: virtio ports in this process, and the devices on their other side.
//!
//! Each port is the driver of a virtio device, over real rings in shared memory, and the device is another port of this
//! process. It is what two processes or a virtual machine would have, without a socket's path.

use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use wirerate_eal::Eal;
use wirerate_pmd::drivers::vhost;
use wirerate_pmd::drivers::virtio::user;
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

/// Ports that are not set up yet.
type Ports = Vec<Port<Opened>>;

/// `count` ports, and the far sides of them.
///
/// # Errors
/// When the system gives no sockets, or no memory for rings.
pub fn ports(eal: &Eal, count: u16) -> Result<(Ports, Ports)> {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for id in 0..count {
        let (here, there) = UnixStream::pair().context("making a pair of sockets")?;
        let name = format!("demo{id}");
        let driver = user::with_stream(eal, &name, here, user::Options::default())?;
        near.push(Port::new(driver, name, id));
        let name = format!("far{id}");
        far.push(Port::new(vhost::with_stream(&name, there, 1), name, id));
    }
    Ok((near, far))
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
