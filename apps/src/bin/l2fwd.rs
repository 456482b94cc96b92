//! l2fwd: what comes in by one port goes out by its partner, with new MAC addresses.
//!
//! With `--vdev` devices it forwards between them. Without, it makes two virtio ports in this process with a generator in
//! the device behind each, and forwards for ten seconds: no root, no huge pages, no network card.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use wirerate_apps::sizing::Plan;
use wirerate_apps::work::Work;
use wirerate_apps::{demo, engines, program, report, say};
use wirerate_eal::{Eal, IdlePolicy};
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::pipeline::{Part, Pipeline, busy_cycles};
use wirerate_pmd::port::{Queues, registry};
use wirerate_pmd::{MbufPoolConfig, PortConfig};

/// Packets that travel together (DPDK's `MAX_PKT_BURST`).
const BURST: usize = 32;
/// Mbufs that each lcore keeps at hand (DPDK's `MEMPOOL_CACHE_SIZE`).
const CACHE: usize = 256;
/// Mbufs in the pool, unless the ports need more (DPDK's least).
const MBUFS: usize = 8192;

/// Options of l2fwd, DPDK's and a few more.
#[derive(Debug, Args)]
struct Options {
    /// Hexadecimal mask of the ports to use; all unless given
    #[arg(short = 'p', value_name = "PORTMASK", value_parser = program::hex_mask)]
    portmask: Option<u64>,
    /// Ports for each lcore; unless given they are spread over all lcores
    #[arg(short = 'q', value_name = "NQ", value_parser = clap::value_parser!(u16).range(1..))]
    ports_per_lcore: Option<u16>,
    /// Seconds between reports; 0 for none
    #[arg(short = 'T', value_name = "SECONDS", default_value_t = 1)]
    period: u64,
    /// Receive frames for all stations (they are received anyway; accepted for DPDK's scripts)
    #[arg(short = 'P')]
    promiscuous: bool,
    /// Pairs of ports that forward to each other: (0,2),(1,3)
    #[arg(long, value_name = "(PORT,PORT)[,(PORT,PORT)]", value_parser = program::port_pairs)]
    portmap: Option<program::Pairs>,
    /// Leave the MAC addresses as they are
    #[arg(long)]
    no_mac_updating: bool,
    /// Rewrite the MAC addresses (the default; accepted for DPDK's scripts)
    #[arg(long, conflicts_with = "no_mac_updating")]
    mac_updating: bool,
    /// End after so many seconds; 10 for the demonstration without devices, else none
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Mbufs in the pool
    #[arg(long, value_name = "N")]
    total_num_mbufs: Option<usize>,
    /// What an lcore does while nothing comes: spin, pause, or sleep[=TIME], where TIME (200us unless given) is how
    /// long a packet may wait in a queue that cannot wake it
    #[arg(long, value_name = "POLICY", default_value_t)]
    idle_policy: IdlePolicy,
}

fn main() -> ExitCode {
    program::main("l2fwd", l2fwd)
}

fn l2fwd(eal: &Eal, options: &Options) -> Result<()> {
    let opened = registry::open_all(eal)?;
    let demo = opened.is_empty();
    ensure!(
        !demo || options.portmask.is_none(),
        "-p names ports, and there are none: give each as --vdev or -a, before --"
    );
    let (near, far) = if demo { demo::ports(eal, 2)? } else { (opened, Vec::new()) };
    let near = program::choose_ports(near, options.portmask)?;
    let partners =
        program::partners(&near.iter().map(|port| port.id()).collect::<Vec<_>>(), options.portmap.as_ref())?;

    // The demonstration's far side has the last lcore for itself, if there are two.
    let (lcores, far_lcore) = match eal.lcores() {
        [first @ .., last] if demo && !first.is_empty() => (first, Some(last)),
        all => (all, None),
    };
    let per_lcore = options.ports_per_lcore.map_or_else(|| near.len().div_ceil(lcores.len()), usize::from);
    ensure!(
        lcores.len() * per_lcore >= near.len(),
        "{} ports at {per_lcore} for each lcore need {} lcores, and there are {}: raise -q, or name more with -l",
        near.len(),
        near.len().div_ceil(per_lcore),
        lcores.len()
    );

    let descriptors = (PortConfig::DEFAULT_DESCRIPTORS, PortConfig::DEFAULT_DESCRIPTORS);
    let plan = Plan { queues: (1, 1), descriptors, threads: lcores.len(), cache: CACHE, burst: BURST };
    let pool = plan.pool(eal, &near, options.total_num_mbufs, MBUFS, MbufPoolConfig::DEFAULT_DATA_ROOM)?;

    // Devices before their drivers.
    let mut far_side = if demo { Some(demo::FarSide::start(far, &pool)?) } else { None };
    let mut ports = Vec::new();
    let (mut receivers, mut senders) = (Vec::new(), Vec::new());
    // What is not finished is finished by whoever sends it.
    let config = PortConfig::new(pool.clone()).rx_offloads(Offload::RX_LIBERTIES);
    for port in near {
        let (port, Queues { rx, tx }) = port.configure(&config)?.start()?;
        say!("port {}: {}, MAC {}, link {}", port.id(), port.name(), port.mac(), port.link());
        receivers.extend(rx);
        senders.extend(tx.into_iter().map(Some));
        ports.push(port);
    }
    say!("{}", eal.memory_report());

    // One pipeline a port: receive, rewrite, send by the partner.
    let mut pipelines = Vec::new();
    for (rx, partner) in receivers.into_iter().zip(partners) {
        let tx = senders[partner].take().context("two ports send by the same partner")?;
        let destination = MacAddress::local(u32::from(tx.port()));
        let source = ports[partner].mac();
        let update = !options.no_mac_updating;
        let rewrite = move |packet: &mut _| match update {
            true => engines::rewrite_addresses(packet, destination, source),
            false => Ok(()),
        };
        pipelines.push(Pipeline::from(rx).burst(BURST).filter("mac", rewrite).to(tx));
    }
    let parts: Vec<Part> = pipelines.iter().flat_map(Pipeline::parts).collect();
    let mut watch = report::Watch::new(report::Style::Table, &ports);
    let mut shares = Vec::new();
    let limit = options.duration.or(demo.then_some(10.0));
    eal.scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        if let Some(lcore) = far_lcore
            && let Some(mut far_side) = far_side.take()
        {
            scope.launch(lcore.id(), move |lcore| {
                while !lcore.stop().requested() {
                    far_side.poll();
                }
            })?;
        }
        for lcore in lcores {
            let mine: Vec<_> = pipelines.drain(..per_lcore.min(pipelines.len())).collect();
            let mut work = Work::new(mine, options.idle_policy, *eal.clock())?;
            shares.push((lcore.id(), work.share()));
            let mut far_side = far_side.take();
            running.push(scope.launch(lcore.id(), move |lcore| {
                work.run(lcore, || {
                    if let Some(far_side) = &mut far_side {
                        far_side.poll();
                    }
                    far_side.is_some()
                });
            })?);
        }
        watch.run(&ports, eal.stop(), options.period, limit, || {
            running.iter().all(|lcore| lcore.is_finished())
        });
        Ok(())
    })??;

    let elapsed = watch.elapsed();
    let forwarded = ports.iter().map(|port| port.stats().opackets).sum();
    report::print_ports(&ports, &parts);
    report::print_shares(&shares, eal.clock(), elapsed);
    say!("{}", report::rate(forwarded, elapsed, busy_cycles(&parts)));
    drop(ports);
    report::print_balance(&pool)?;
    Ok(())
}
