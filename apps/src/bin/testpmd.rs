//! testpmd: moves packets between ports in one of several ways, and says how fast.
//!
//! It takes the options of DPDK's `dpdk-testpmd` in its non-interactive form and prints what that prints, so
//! that the two can be run on the same devices and compared.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use wirerate_apps::engines::{self, Boxed};
use wirerate_apps::sizing::Plan;
use wirerate_apps::traffic::Generator;
use wirerate_apps::work::Work;
use wirerate_apps::{program, report, say};
use wirerate_eal::{Eal, IdlePolicy};
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::pipeline::Part;
use wirerate_pmd::port::{Queues, registry};
use wirerate_pmd::{Burst, PortConfig, RxQueue, TxQueue};

/// Mbufs in the pool, unless more are needed: enough for rings, caches and bursts of a few ports.
const MBUFS: usize = 8192;
/// Source addresses that `flowgen` takes turns with (DPDK's default).
const FLOWS: u32 = 1024;

/// Options of testpmd, DPDK's and a few more.
#[derive(Debug, Args)]
struct Options {
    /// What to do with packets; several, with commas, take turns over the streams
    #[arg(long, value_name = "MODE", default_value = "io", value_delimiter = ',')]
    forward_mode: Vec<Mode>,
    /// Packets in a burst
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512))]
    burst: u16,
    /// Receive queues of each port
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    rxq: u16,
    /// Transmit queues of each port
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    txq: u16,
    /// Descriptors in each receive ring
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    rxd: u16,
    /// Descriptors in each transmit ring
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    txd: u16,
    /// Lcores that forward
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    nb_cores: u16,
    /// Bytes in each segment of the packets that txonly and flowgen make
    #[arg(long, value_name = "LEN[,LEN]", default_value = "64", value_delimiter = ',')]
    txpkts: Vec<u16>,
    /// Seconds between reports; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    stats_period: u64,
    /// Send so many bursts by every port first
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", require_equals = true)]
    tx_first: Option<u32>,
    /// Which port sends what a port receives
    #[arg(long, value_enum, default_value_t = Topology::Paired)]
    port_topology: Topology,
    /// Mbufs in the pool
    #[arg(long, value_name = "N")]
    total_num_mbufs: Option<usize>,
    /// Mbufs that each lcore keeps at hand
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u16).range(0..=512))]
    mbcache: u16,
    /// Bytes in an mbuf, with 128 of headroom
    #[arg(long, value_name = "BYTES", default_value_t = 2176, value_parser = clap::value_parser!(u16).range(129..))]
    mbuf_size: u16,
    /// Liberties that ports may take with received packets, by DPDK's bits: 0x1 VLAN tags taken out, 0x4 UDP and 0x8 TCP
    /// checksums left to be filled in (both or none), 0x10 large TCP packets
    #[arg(long, value_name = "0xMASK", default_value = "0", value_parser = program::rx_offloads)]
    rx_offloads: Offload,
    /// What sending may leave to the device, by DPDK's bits: 0x1 VLAN tags, 0x2 IPv4, 0x4 UDP and 0x8 TCP checksums, 0x20
    /// TCP segmentation; the rest is done in software where a packet asks for it
    #[arg(long, value_name = "0xMASK", default_value = "0", value_parser = program::tx_offloads)]
    tx_offloads: Offload,
    /// Report the cycles that a packet costs
    #[arg(long)]
    record_core_cycles: bool,
    /// Hexadecimal mask of the ports to use; all unless given
    #[arg(long, value_name = "MASK", value_parser = program::hex_mask)]
    portmask: Option<u64>,
    /// Print the registers of each port's device once it works, as `read reg` and `ethtool -d` do
    #[arg(long)]
    dump_registers: bool,
    /// End after so many seconds; at a signal unless given
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Start at once (always so; accepted for DPDK's scripts)
    #[arg(short = 'a', long)]
    auto_start: bool,
    /// What an lcore does while nothing comes: spin, pause, or sleep[=TIME], where TIME (200us unless given) is how
    /// long a packet may wait in a queue that cannot wake it
    #[arg(long, value_name = "POLICY", default_value_t)]
    idle_policy: IdlePolicy,
    /// Leave memory unlocked (always so; accepted for DPDK's scripts)
    #[arg(long)]
    no_mlockall: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Send packets as they came in
    Io,
    /// Send them with new MAC addresses
    Mac,
    /// Send them with their MAC addresses swapped
    Macswap,
    /// Receive and drop
    Rxonly,
    /// Make packets and send them
    Txonly,
    /// Receive and drop, make packets of many flows and send them
    Flowgen,
    /// Answer ARP requests and pings
    Icmpecho,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Topology {
    /// 0 with 1, 2 with 3
    Paired,
    /// 0 to 1, 1 to 2, the last to 0
    Chained,
    /// Each with itself
    Loop,
}

fn main() -> ExitCode {
    program::main("testpmd", testpmd)
}

fn testpmd(eal: &Eal, options: &Options) -> Result<()> {
    let ports = program::choose_ports(registry::open_all(eal)?, options.portmask)?;
    ensure!(
        !ports.is_empty(),
        "there are no ports: give each as --vdev, before --; for instance --vdev net_null0"
    );
    let lcores = usize::from(options.nb_cores);
    ensure!(
        lcores <= eal.lcores().len(),
        "--nb-cores={lcores} asked, and there are {} lcores: name more with -l",
        eal.lcores().len()
    );
    let plan = Plan {
        queues: (options.rxq, options.txq),
        descriptors: (options.rxd, options.txd),
        threads: lcores,
        cache: usize::from(options.mbcache),
        burst: usize::from(options.burst),
    };
    let data_room = usize::from(options.mbuf_size) - wirerate_pmd::packet::HEADROOM;
    let pool = plan.pool(eal, &ports, options.total_num_mbufs, MBUFS, data_room)?;
    let segments: Vec<usize> = options.txpkts.iter().map(|&len| usize::from(len)).collect();
    ensure!(
        segments.iter().all(|len| (1..=data_room).contains(len)),
        "--txpkts: each segment has 1 to {data_room} bytes: what an mbuf of --mbuf-size={} holds",
        options.mbuf_size
    );

    let mut started = Vec::new();
    let mut queues = Vec::new();
    for port in ports {
        let config = PortConfig::new(pool.clone())
            .rx_queues(options.rxq)
            .tx_queues(options.txq)
            .descriptors(options.rxd, options.txd)
            .rx_offloads(options.rx_offloads)
            .tx_offloads(options.tx_offloads);
        let (port, Queues { rx, tx }) = port.configure(&config)?.start()?;
        say!("Port {}: {}, MAC {}, link {}", port.id(), port.name(), port.mac(), port.link());
        if options.dump_registers {
            report::print_registers(&port);
        }
        queues.push(Ends {
            rx: rx.into_iter().map(Some).collect(),
            tx: tx.into_iter().map(Some).collect(),
            mac: port.mac(),
        });
        started.push(port);
    }
    say!("{}", eal.memory_report());

    let make =
        |ends: &Ends, flows| Generator::new(pool.clone(), &segments, MacAddress::local(0), ends.mac, flows);
    if let Some(bursts) = options.tx_first {
        send_first(&mut queues, &make, bursts, options.burst);
    }
    let mut streams = streams(&mut queues, options, &make)?;
    ensure!(
        streams.len() >= lcores,
        "{lcores} lcores for {} streams: lower --nb-cores, or give more ports or queues",
        streams.len()
    );
    let parts: Vec<Part> = streams.iter().flat_map(|stream| stream.parts()).collect();

    let mut watch = report::Watch::new(report::Style::NicStatistics, &started);
    let mut shares = Vec::new();
    eal.scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        let (each, more) = (streams.len() / lcores, streams.len() % lcores);
        for (index, lcore) in eal.lcores().iter().take(lcores).enumerate() {
            let mine: Vec<Boxed> = streams.drain(..each + usize::from(index < more)).collect();
            let mut work = Work::new(mine, options.idle_policy, *eal.clock())?;
            shares.push((lcore.id(), work.share()));
            running.push(scope.launch(lcore.id(), move |lcore| work.run(lcore, || false))?);
        }
        let done = || running.iter().all(|lcore| lcore.is_finished());
        watch.run(&started, eal.stop(), options.stats_period, options.duration, done);
        Ok(())
    })??;

    let elapsed = watch.elapsed();
    report::print_forward_statistics(&started, &parts, elapsed);
    report::print_shares(&shares, eal.clock(), elapsed);
    if options.record_core_cycles {
        report::print_cycles(&started, &parts, eal.clock());
    }
    drop((started, queues));
    report::print_balance(&pool)?;
    Ok(())
}

/// The queues of a port that no stream has yet.
struct Ends {
    rx: Vec<Option<RxQueue>>,
    tx: Vec<Option<TxQueue>>,
    mac: MacAddress,
}

/// Sends `bursts` bursts by every transmit queue, to have something that goes round.
fn send_first(queues: &mut [Ends], make: &impl Fn(&Ends, u32) -> Generator, bursts: u32, size: u16) {
    for ends in queues {
        let mut generator = make(ends, 1);
        for tx in ends.tx.iter_mut().flatten() {
            for _ in 0..bursts {
                let mut burst = Burst::new(usize::from(size));
                generator.fill(&mut burst);
                tx.send_or_drop(&mut burst);
            }
        }
    }
}

/// One stream for each receive queue (and transmit queue, if those are more): the queues go to the engines.
fn streams(
    queues: &mut [Ends],
    options: &Options,
    make: &impl Fn(&Ends, u32) -> Generator,
) -> Result<Vec<Boxed>> {
    let burst = usize::from(options.burst);
    let mut streams: Vec<Boxed> = Vec::new();
    let mut modes = options.forward_mode.iter().copied().cycle();
    let single = options.forward_mode.len() == 1;
    for queue in 0..usize::from(options.rxq.max(options.txq)) {
        for port in 0..queues.len() {
            // With several modes each gets the port's queues as far as they go, so that one stream can send
            // into a port and another receive from it.
            for _ in 0..if single { 1 } else { options.forward_mode.len() } {
                let Some(mode) = modes.next() else { bail!("--forward-mode names no mode") };
                // Answers go back where the questions came from, whatever the topology, as in DPDK.
                let to = match mode {
                    Mode::Icmpecho => port,
                    _ => partner(options.port_topology, port, queues.len()),
                };
                let (station, peer) = (queues[to].mac, MacAddress::local(to as u32));
                let needs_rx = mode != Mode::Txonly;
                let needs_tx = mode != Mode::Rxonly;
                let made = make(&queues[to], if mode == Mode::Flowgen { FLOWS } else { 1 });
                let rx = queues[port].rx.get_mut(queue).filter(|_| needs_rx).and_then(Option::take);
                let tx = queues[to].tx.get_mut(queue).filter(|_| needs_tx).and_then(Option::take);
                streams.push(match (mode, rx, tx) {
                    (Mode::Io, Some(rx), Some(tx)) => engines::io(rx, tx, burst),
                    (Mode::Mac, Some(rx), Some(tx)) => engines::mac(rx, tx, burst, peer, station),
                    (Mode::Macswap, Some(rx), Some(tx)) => engines::macswap(rx, tx, burst),
                    (Mode::Rxonly, Some(rx), None) => engines::rxonly(rx, burst),
                    (Mode::Txonly, None, Some(tx)) => engines::txonly(made, tx, burst),
                    (Mode::Flowgen, Some(rx), Some(tx)) => engines::flowgen(rx, made, tx, burst),
                    (Mode::Icmpecho, Some(rx), Some(tx)) => engines::icmpecho(rx, tx, burst, station),
                    _ => bail!(
                        "{mode:?} on port {port} needs a queue {queue} that port {to} or {port} has not: \
                                --rxq={} --txq={} --port-topology",
                        options.rxq,
                        options.txq
                    ),
                });
            }
        }
    }
    Ok(streams)
}

/// The port that sends what `port` receives, of `count`.
fn partner(topology: Topology, port: usize, count: usize) -> usize {
    match topology {
        Topology::Paired if port ^ 1 < count => port ^ 1,
        Topology::Chained => (port + 1) % count,
        Topology::Paired | Topology::Loop => port,
    }
}
