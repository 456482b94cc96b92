//! `net_null`: receives frames without end and sends into nothing.
//!
//! It does all that a driver does with mbufs and nothing with a device, so it measures what the framework
//! itself costs.
//!
//! | parameter | |
//! |---|---|
//! | `size` | bytes in each received frame, 64 unless given |
//! | `copy` | 1: bytes are really written on receive and read on send; 0 unless given |
//! | `no-rx` | 1: nothing is ever received; 0 unless given |

use wirerate_eal::Eal;

use crate::net::MacAddress;
use crate::packet::{Burst, MbufPool, Offload};
use crate::port::{
    Counters, DevArgs, Device, DeviceInfo, DeviceQueues, DropReason, Link, PortConfig, PortError, RxDriver,
    TxDriver,
};

const MAX_QUEUES: u16 = 1024;

#[derive(Debug)]
struct Null {
    name: String,
    size: usize,
    copy: bool,
    receives: bool,
    config: Option<PortConfig>,
}

/// Opens a `net_null` device.
///
/// # Errors
/// [`PortError`] when a parameter is unknown or out of range.
pub fn open(_eal: &Eal, mut args: DevArgs) -> Result<Box<dyn Device>, PortError> {
    let size = usize::from(args.take::<u16>("size", "bytes in a frame, 1 to 65535")?.unwrap_or(64));
    if size == 0 {
        return Err(args.bad("size", "0", "expected bytes in a frame, 1 to 65535"));
    }
    let copy = args.take_flag("copy")?;
    let receives = !args.take_flag("no-rx")?;
    let name = args.finish()?;
    Ok(Box::new(Null { name, size, copy, receives, config: None }))
}

impl Device for Null {
    fn info(&self) -> DeviceInfo {
        let mut info = DeviceInfo::new("net_null", MAX_QUEUES, MAX_QUEUES);
        info.tx_offloads = Offload::TX_ALL;
        info
    }

    fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        if let Some(pool) = config.pool.as_ref().filter(|pool| pool.data_room() < self.size) {
            let problem = format!(
                "frames of size={} do not fit the {} bytes of an mbuf of pool \"{}\"",
                self.size,
                pool.data_room(),
                pool.name()
            );
            return Err(PortError::Configuration { device: self.name.clone(), problem });
        }
        self.config = Some(config.clone());
        Ok(())
    }

    fn start(&mut self) -> Result<DeviceQueues, PortError> {
        let mut queues = DeviceQueues { rx: Vec::new(), tx: Vec::new() };
        if let Some(config) = &self.config {
            for _ in 0..config.rx_queues {
                let pool = config.pool.clone().filter(|_| self.receives);
                queues.rx.push(Box::new(NullRx { pool, size: self.size, copy: self.copy }));
            }
            for _ in 0..config.tx_queues {
                queues.tx.push(Box::new(NullTx { copy: self.copy, scratch: vec![0; 65_536].into() }));
            }
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
        MacAddress::default()
    }
}

#[derive(Debug)]
struct NullRx {
    pool: Option<MbufPool>,
    size: usize,
    copy: bool,
}

impl RxDriver for NullRx {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        let Some(pool) = &self.pool else { return };
        let (before, room) = (burst.len(), burst.room());
        if !pool.alloc_bulk(burst, room) {
            counters.dropped(DropReason::NoMbuf, room as u64);
            return;
        }
        for packet in &mut burst[before..] {
            packet.resize(self.size);
            if self.copy
                && let Some(bytes) = packet.data_mut()
            {
                bytes.fill(0);
            }
        }
    }
}

#[derive(Debug)]
struct NullTx {
    copy: bool,
    scratch: Box<[u8]>,
}

impl TxDriver for NullTx {
    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst, counters: &Counters) {
        if self.copy {
            for segment in burst.iter().flat_map(|packet| packet.segments()) {
                if let Some(room) = self.scratch.get_mut(..segment.len()) {
                    room.copy_from_slice(segment);
                }
            }
            core::hint::black_box(&mut self.scratch);
        }
        counters.passed(burst.len() as u64, burst.bytes());
        burst.free();
    }

    /// Nothing comes of a packet, so nothing is to be done to it.
    fn offloads(&self) -> Offload {
        Offload::TX_ALL
    }
}
