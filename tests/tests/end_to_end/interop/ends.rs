//! The two ends of a device: ours in this process, and DPDK's testpmd, which sends back what it receives.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use wirerate_eal::Eal;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::port::{Configured, Queues, Started, registry};
use wirerate_pmd::virtqueue::Features;
use wirerate_pmd::{MbufPool, MbufPoolConfig, Port, PortConfig};
use wirerate_tests::dpdk::Dpdk;
use wirerate_tests::program::Running;
use wirerate_tests::wait;

use super::variant::{Role, Variant};
use crate::support::text;

/// For what takes a moment, on a machine that does other things too.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Which end listens at the socket, and which connects to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    Ours,
    Theirs,
}

/// Our port: started, or configured and at rest.
#[derive(Debug)]
pub(super) struct Ours {
    variant: Variant,
    pub(super) pool: MbufPool,
    state: State,
    _eal: Eal,
}

#[derive(Debug)]
enum State {
    Started(Port<Started>, Queues),
    Stopped(Port<Configured>),
    /// Within a change.
    Neither,
}

impl Ours {
    /// A port by its devargs, which is started, and may take `liberties` with what it receives.
    pub(super) fn start(
        variant: Variant,
        socket: &Path,
        listener: Listener,
        liberties: Offload,
    ) -> Result<Self> {
        let eal = Eal::builder().no_huge(true).build()?;
        // All that both kinds of rings can hold at a time, and some on the way.
        let count = 2 * usize::from(variant.size) * usize::from(variant.pairs) + 1024;
        let config =
            MbufPoolConfig::new("interop", count).data_room(variant.data_room()).cache(64).shared(true);
        let pool = MbufPool::new(&eal, &config)?;
        let socket = text(socket)?;
        let listens = listener == Listener::Ours;
        let pairs = variant.pairs;
        let devargs = match variant.role {
            Role::Driver => format!(
                "net_virtio_user0,path={socket},server={},queues={pairs},queue_size={},mrg_rxbuf={},in_order={},packed_vq={}",
                u8::from(listens),
                variant.size,
                u8::from(variant.mergeable),
                u8::from(variant.in_order),
                u8::from(variant.packed),
            ),
            Role::Device => format!("net_vhost0,iface={socket},client={},queues={pairs}", u8::from(!listens)),
        };
        let config = PortConfig::new(pool.clone()).rx_queues(pairs).tx_queues(pairs).rx_offloads(liberties);
        let port = registry::open(&eal, 0, &devargs)?.configure(&config)?;
        let mut ours = Self { variant, pool, state: State::Stopped(port), _eal: eal };
        ours.start_again()?;
        Ok(ours)
    }

    /// Starts the port, which is at rest.
    pub(super) fn start_again(&mut self) -> Result<()> {
        let State::Stopped(port) = std::mem::replace(&mut self.state, State::Neither) else {
            anyhow::bail!("the port is not at rest");
        };
        let (port, queues) = port.start()?;
        self.state = State::Started(port, queues);
        Ok(())
    }

    /// Gives the queues back and stops the port. Nothing of the pool is in use then.
    pub(super) fn stop(&mut self) -> Result<()> {
        let State::Started(port, queues) = std::mem::replace(&mut self.state, State::Neither) else {
            anyhow::bail!("the port is not started");
        };
        drop(queues);
        let port = port.stop().map_err(|held| anyhow::anyhow!("{held}"))?;
        self.state = State::Stopped(port);
        self.check_home()
    }

    /// Checks that all of the pool's mbufs are home.
    pub(super) fn check_home(&self) -> Result<()> {
        let counts = self.pool.counts();
        ensure!(counts.in_use == 0, "{} mbufs are in use: {counts:?}", counts.in_use);
        self.pool.audit()?;
        Ok(())
    }

    pub(super) const fn variant(&self) -> Variant {
        self.variant
    }

    /// The port, which is started, and its queues.
    pub(super) fn parts(&mut self) -> Result<(&Port<Started>, &mut Queues)> {
        match &mut self.state {
            State::Started(port, queues) => Ok((port, queues)),
            _ => anyhow::bail!("the port is not started"),
        }
    }

    /// Waits until the link is as it is to be. The queues are polled meanwhile, as an application does it; what comes is
    /// dropped.
    pub(super) fn wait_for_link(&mut self, up: bool) -> Result<()> {
        let (port, queues) = self.parts()?;
        let mut burst = wirerate_pmd::Burst::new(32);
        let what = if up { "the link to come up" } else { "the link to go down" };
        wait::until(what, LIMIT, || {
            for queue in &mut queues.rx {
                queue.rx_burst(&mut burst);
                burst.free();
            }
            Ok(port.link().up == up)
        })
        .with_context(|| format!("{:?}", port.xstats()))
    }

    /// Checks that the two ends have agreed on what the variant says.
    pub(super) fn check_features(&mut self) -> Result<()> {
        let variant = self.variant;
        let name = match variant.role {
            Role::Driver => "virtio_features",
            Role::Device => "vhost_features",
        };
        let features = Features::from_bits_retain(self.count(name)?);
        for (feature, wanted) in [
            (Features::RING_PACKED, variant.packed),
            (Features::MRG_RXBUF, variant.mergeable),
            (Features::IN_ORDER, variant.in_order),
            (Features::VERSION_1, true),
        ] {
            ensure!(features.contains(feature) == wanted, "{feature:?} is {}: {features:?}", !wanted);
        }
        Ok(())
    }

    /// A count of the extended statistics.
    pub(super) fn count(&mut self, name: &str) -> Result<u64> {
        let (port, _) = self.parts()?;
        let found = port.xstats().into_iter().find(|(other, _)| other == name);
        found.map(|(_, count)| count).with_context(|| format!("no count of {name}"))
    }

    /// Checks that nothing was dropped, and no ring or session went wrong.
    pub(super) fn check_counts(&mut self) -> Result<()> {
        let (port, _) = self.parts()?;
        let all = port.xstats();
        let bad = |name: &str| {
            ["_drop_", "_failures", "_broken_rings", "_copied"].iter().any(|part| name.contains(part))
        };
        let found: Vec<_> = all.iter().filter(|(name, count)| *count > 0 && bad(name)).collect();
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    }
}

/// DPDK's testpmd with the other end.
#[derive(Debug)]
pub(super) struct Theirs {
    running: Running,
    // After the process: it removes what that has left.
    _dpdk: Dpdk,
}

impl Theirs {
    /// Starts it, with parameters of its device and options beside those of the variant. It sends what it receives by a
    /// queue back by the queue of the same number.
    pub(super) fn start(
        variant: Variant,
        socket: &Path,
        listener: Listener,
        device: &str,
        options: &[&str],
    ) -> Result<Self> {
        let (socket, pairs, size) = (text(socket)?, variant.pairs, variant.size.to_string());
        let listens = listener == Listener::Theirs;
        // Its buffers have the same headroom as ours within the size that is given.
        let (mbuf, queues) = ((variant.data_room() + 128).to_string(), pairs.to_string());
        let mbuf = format!("--mbuf-size={mbuf}");
        let (rxq, txq) = (format!("--rxq={queues}"), format!("--txq={queues}"));
        let mut all = vec!["--forward-mode=io", "--port-topology=loop", &mbuf, &rxq, &txq];
        // Packets stay in its transmit rings until it sends more, so all rings full must leave some.
        all.push("--total-num-mbufs=8192");
        let devargs;
        let (rxd, txd) = (format!("--rxd={size}"), format!("--txd={size}"));
        let devices = match variant.role {
            Role::Driver => {
                devargs = format!(
                    "--vdev=net_vhost0,iface={socket},client={},queues={pairs}{device}",
                    u8::from(!listens)
                );
                vec![devargs.as_str()]
            }
            Role::Device => {
                // Its control queue is what sets the number of pairs in use. The usual threshold of receive queues is a
                // quarter of the ring, which has to be a multiple of four.
                devargs = format!(
                    "--vdev=net_virtio_user0,path={socket},server={},queues={pairs},queue_size={size},mrg_rxbuf={},\
                     in_order={},packed_vq={},cq=1{device}",
                    u8::from(listens),
                    u8::from(variant.mergeable),
                    u8::from(variant.in_order),
                    u8::from(variant.packed),
                );
                all.extend([rxd.as_str(), &txd, "--rxfreet=16"]);
                match (variant.large, variant.mergeable) {
                    (true, _) => all.push("--max-pkt-len=9018"),
                    (false, true) => all.extend(["--max-pkt-len=9018", "--enable-scatter"]),
                    (false, false) => {}
                }
                vec!["--single-file-segments", devargs.as_str()]
            }
        };
        all.extend(options);
        let dpdk = Dpdk::new();
        let running = Running::start(dpdk.command_here(&devices, &all)?)?;
        Ok(Self { running, _dpdk: dpdk })
    }

    /// Waits until it forwards.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.running.wait_for("Port statistics", LIMIT)
    }

    /// Ends it as a user does; it has to end well, so that nothing of ours has upset it.
    pub(super) fn end(self) -> Result<()> {
        self.running.end(Signal::INT, LIMIT)?.expect_code(0)?;
        Ok(())
    }

    /// Stops it where it is: it takes nothing from the rings any more.
    pub(super) fn freeze(&mut self) -> Result<()> {
        self.running.signal(Signal::STOP)
    }

    /// Kills it.
    pub(super) fn kill(self) -> Result<()> {
        self.running.end(Signal::KILL, LIMIT)?;
        Ok(())
    }

    /// What it has printed, to be read by people.
    pub(super) fn describe(&self) -> String {
        self.running.describe()
    }
}
