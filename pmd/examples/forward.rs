//! The smallest forwarder: what comes in by either of two ports goes out by the other.
//!
//! `cargo run --release --example forward -- --vdev net_null0 --vdev net_null1` (any two devices), for two
//! seconds.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use wirerate_eal::Eal;
use wirerate_pmd::pipeline::Pipeline;
use wirerate_pmd::port::registry;
use wirerate_pmd::{MbufPool, MbufPoolConfig, PortConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let (eal, _) = Eal::from_args(std::env::args_os().skip(1))?;
    let pool = MbufPool::new(&eal, &MbufPoolConfig::new("packets", 8192))?;
    let (mut started, mut receivers, mut senders) = (Vec::new(), Vec::new(), Vec::new());
    for port in registry::open_all(&eal)? {
        let (port, queues) = port.configure(&PortConfig::new(pool.clone()))?.start()?;
        started.push(port);
        receivers.extend(queues.rx);
        senders.extend(queues.tx);
    }
    if started.len() != 2 {
        return Err("give two ports, for instance --vdev net_null0 --vdev net_null1".into());
    }
    senders.reverse();

    eal.scope(|scope| {
        let mut pipelines: Vec<_> =
            receivers.into_iter().zip(senders).map(|(rx, tx)| Pipeline::from(rx).to(tx)).collect();
        scope.launch(eal.main_lcore().id(), move |lcore| {
            while !lcore.stop().requested() {
                for pipeline in &mut pipelines {
                    pipeline.poll();
                }
            }
        })?;
        let _stopped = eal.stop().wait_timeout(Duration::from_secs(2));
        eal.stop().request();
        Ok::<(), wirerate_eal::LcoreError>(())
    })??;

    for port in &started {
        println!("{}: {:?}", port.name(), port.stats());
    }
    Ok(())
}
