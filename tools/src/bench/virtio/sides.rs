//! `wirerate bench virtio --sides`: what a packet costs the driver and the device, each by itself.
//!
//! One thread has both ends of a link in its hands. A few bursts go in on one side and come out on the other, a step at a
//! time, and the clock is looked at before and after each step; packets are made and freed outside of the steps. So
//! nobody waits for anybody, and all is in the caches of one core. `peers/virtio.c` does the same with DPDK's.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use tempfile::TempDir;
use wirerate_eal::{Clock, Eal};
use wirerate_pmd::drivers::vhost;
use wirerate_pmd::drivers::virtio::user;
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig, RxQueue, TxQueue};
use wirerate_tools::paired::median;

use super::super::dpdk::{self, Program};
use super::side::{MEMORY_MIB, QUEUE_SIZE, Rings, vhost_parameters};

const SOURCE: &str = include_str!("../../../peers/virtio.c");

/// The steps, in their order.
pub(super) const STEPS: [&str; 4] = ["driver sends", "device receives", "device sends", "driver receives"];
/// Most packets of a step: half a ring.
const STEP: usize = 128;
/// Steps of each kind in a run.
const MOST_STEPS: usize = 65_536;
/// Turns before the measured ones.
const WARM_UP: usize = 1000;
/// Calls without a packet after which a step has failed.
const VAIN: usize = 100_000;
/// Time for the two ends to agree.
const AGREE: Duration = Duration::from_secs(10);

/// Cycles a packet of each step.
pub(super) type Costs = [f64; 4];

/// Both ends of a link of ours, in this process.
pub(super) struct Ours {
    eal: Eal,
    pool: MbufPool,
    burst: usize,
    /// Of the driver and of the device.
    queues: [Queues; 2],
    /// Kept so that both stay started.
    _ports: [Port<Started>; 2],
}

impl Ours {
    pub(super) fn open(rings: Rings, burst: u16, huge: bool, cpu: u32) -> Result<Self> {
        let eal = Eal::builder().lcores([cpu]).no_huge(!huge).in_memory(huge).build()?;
        let pool = MbufPool::new(&eal, &MbufPoolConfig::new("mbufs", 16384).cache(250).shared(true))?;
        let (here, there) = UnixStream::pair().context("making a pair of sockets")?;
        let mut options = user::Options::default();
        options.queue_size = QUEUE_SIZE;
        options.packed = rings.packed;
        options.mergeable = rings.mergeable;
        options.in_order = rings.in_order;
        let config = PortConfig::new(pool.clone()).descriptors(QUEUE_SIZE, QUEUE_SIZE);
        let start = |device, name, id| Port::new(device, name, id).configure(&config)?.start();
        // The driver waits for what the device answers, so the device is first.
        let (device, device_queues) = start(vhost::with_stream("device", there, 1), "device", 0)?;
        let (driver, driver_queues) = start(user::with_stream(&eal, "driver", here, options)?, "driver", 1)?;
        let begun = Instant::now();
        while !(driver.link().up && device.link().up) {
            ensure!(begun.elapsed() < AGREE, "driver and device did not agree in {} s", AGREE.as_secs());
            std::thread::sleep(Duration::from_millis(1));
        }
        let queues = [driver_queues, device_queues];
        Ok(Self { eal, pool, burst: burst.into(), queues, _ports: [driver, device] })
    }

    /// Measures for `time`.
    pub(super) fn run(&mut self, time: Duration) -> Result<Costs> {
        let Self { eal, pool, burst, queues: [driver, device], .. } = self;
        let ends = "a port without queues";
        let mut turns = Turns {
            clock: *eal.clock(),
            pool,
            bursts: (0..STEP / *burst).map(|_| Burst::new(*burst)).collect(),
            received: (0..STEP).map(|_| Burst::new(*burst)).collect(),
            driver: (driver.rx.first_mut().context(ends)?, driver.tx.first_mut().context(ends)?),
            device: (device.rx.first_mut().context(ends)?, device.tx.first_mut().context(ends)?),
        };
        let lcore = eal.main_lcore().id();
        eal.scope(|scope| scope.launch(lcore, move |_| turns.run(time))?.join())??
    }
}

/// What the measuring thread has.
struct Turns<'a> {
    clock: Clock,
    pool: &'a MbufPool,
    /// What goes in.
    bursts: Vec<Burst>,
    /// What comes out, in bursts as it came.
    received: Vec<Burst>,
    driver: (&'a mut RxQueue, &'a mut TxQueue),
    device: (&'a mut RxQueue, &'a mut TxQueue),
}

impl Turns<'_> {
    fn run(&mut self, time: Duration) -> Result<Costs> {
        for _ in 0..WARM_UP {
            self.turn()?;
        }
        let packets = self.bursts.iter().map(Burst::limit).sum::<usize>();
        let mut steps: [Vec<u64>; 4] = std::array::from_fn(|_| Vec::with_capacity(MOST_STEPS));
        let end = self.clock.cycles() + self.clock.from_duration(time);
        while steps[0].is_empty() || (steps[0].len() < MOST_STEPS && self.clock.cycles() < end) {
            for (steps, took) in steps.iter_mut().zip(self.turn()?) {
                steps.push(took);
            }
        }
        Ok(steps.map(|steps| fastest(steps) / packets as f64))
    }

    /// A step there and one back; the cycles of sending and receiving there, and back.
    fn turn(&mut self) -> Result<[u64; 4]> {
        let Self { clock, pool, bursts, received, driver, device } = self;
        fill(pool, bursts)?;
        let there = send(clock, driver.1, bursts)?;
        let arrived = receive(clock, device.0, bursts, received)?;
        received.iter_mut().for_each(Burst::free);
        fill(pool, bursts)?;
        let back = send(clock, device.1, bursts)?;
        let returned = receive(clock, driver.0, bursts, received)?;
        received.iter_mut().for_each(Burst::free);
        Ok([there, arrived, back, returned])
    }
}

/// Fills all bursts with packets of 64 bytes.
fn fill(pool: &MbufPool, bursts: &mut [Burst]) -> Result<()> {
    for burst in bursts {
        let room = burst.room();
        ensure!(pool.alloc_bulk(burst, room), "the pool ran dry");
        for packet in burst.iter_mut() {
            packet.append_slice(&[0x5a; 64]);
        }
    }
    Ok(())
}

/// Sends all bursts; the cycles that it took.
fn send(clock: &Clock, tx: &mut TxQueue, bursts: &mut [Burst]) -> Result<u64> {
    let begun = clock.cycles();
    let mut vain = 0;
    for burst in bursts {
        while !burst.is_empty() {
            if tx.tx_burst(burst) == 0 {
                vain += 1;
                ensure!(vain < VAIN, "packets are not taken");
            }
        }
    }
    Ok(clock.cycles().saturating_sub(begun))
}

/// Receives as many packets as the bursts of `sent` take, likewise.
fn receive(clock: &Clock, rx: &mut RxQueue, sent: &[Burst], received: &mut [Burst]) -> Result<u64> {
    let all = sent.iter().map(Burst::limit).sum::<usize>();
    let begun = clock.cycles();
    let (mut count, mut used, mut vain) = (0, 0, 0);
    while count < all {
        // A call that brings something uses a burst up, and brings a packet at least.
        let burst = received.get_mut(used).context("more packets came than were sent")?;
        let came = rx.rx_burst(burst);
        count += came;
        used += usize::from(came > 0);
        vain += usize::from(came == 0);
        ensure!(vain < VAIN, "packets do not arrive");
    }
    Ok(clock.cycles().saturating_sub(begun))
}

/// The mean of the fastest 95 %: others interrupted the rest.
fn fastest(mut steps: Vec<u64>) -> f64 {
    steps.sort_unstable();
    let kept = (steps.len() - steps.len() / 20).max(1);
    steps.iter().take(kept).sum::<u64>() as f64 / kept as f64
}

/// DPDK's side, compiled.
pub(super) struct Compiled {
    program: std::path::PathBuf,
    folder: Rc<TempDir>,
}

impl Compiled {
    /// Compiles it; or says what is missing.
    ///
    /// # Errors
    /// When DPDK is there, but this does not compile.
    pub(super) fn new() -> Result<Result<Self, String>> {
        let flags = match dpdk::flags() {
            Ok(flags) => flags,
            Err(missing) => return Ok(Err(missing)),
        };
        let prefix = format!("wirerate-{}-sides-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        let folder = Rc::new(folder.context("making a folder for DPDK's side")?);
        let program = folder.path().join("sides");
        dpdk::compile(&program, SOURCE, &flags, &[])?;
        Ok(Ok(Self { program, folder }))
    }

    /// Starts it with such rings, on one processor.
    pub(super) fn open(&self, rings: Rings, huge: bool, cpu: u32) -> Result<Theirs> {
        let socket = self.folder.path().join("vhost.sock");
        // The program before has been killed, and DPDK does not listen where there is a file.
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", socket.display()));
            }
            _ => {}
        }
        let mut command = Command::new(&self.program);
        command.env("RUNTIME_DIRECTORY", self.folder.path());
        command.args([if huge { "--in-memory" } else { "--no-huge" }, "-m", &MEMORY_MIB.to_string()]);
        command.args(["--no-pci", "--no-telemetry", "--no-shconf", "--single-file-segments"]);
        command.args(["--log-level=error", &format!("--lcores=0@{cpu}")]);
        let mut program = Program::spawn(command, Rc::clone(&self.folder))?;
        program.ask(&open_line(rings, &socket), 0)?;
        Ok(Theirs(program))
    }
}

fn open_line(rings: Rings, socket: &Path) -> String {
    format!("open {} {}", vhost_parameters(socket), rings.parameters(socket))
}

/// DPDK's side, running.
pub(super) struct Theirs(Program);

impl Theirs {
    pub(super) fn version(&mut self) -> Result<String> {
        self.0.ask("version", 0)
    }

    pub(super) fn run(&mut self, burst: u16, ms: u32) -> Result<Costs> {
        let answer = self.0.ask(&format!("run {burst} {ms}"), ms)?;
        costs(&answer).with_context(|| format!("DPDK's side answered \"{answer}\""))
    }
}

fn costs(answer: &str) -> Option<Costs> {
    let costs: Vec<f64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    costs.try_into().ok().filter(|costs: &Costs| costs.iter().all(|cost| cost.is_finite() && *cost > 0.0))
}

/// The runs over one form of rings.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) rings: Rings,
    pub(super) ours: Vec<Costs>,
    /// Each next to the run of the same number; empty without DPDK.
    pub(super) theirs: Vec<Costs>,
}

impl Sides {
    fn cost(runs: &[Costs], step: usize) -> Option<f64> {
        median(runs.iter().filter_map(|costs| costs.get(step).copied()))
    }

    /// DPDK's cycles over ours, in ascending order.
    fn ratios(&self, step: usize) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.theirs);
        let mut ratios: Vec<f64> =
            pairs.filter_map(|(ours, theirs)| Some(theirs.get(step)? / ours.get(step)?)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        let steps = STEPS.iter().enumerate().map(|(step, name)| {
            let ratios = self.ratios(step);
            let runs = |runs: &[Costs]| runs.iter().map(|costs| costs[step]).collect::<Vec<_>>();
            serde_json::json!({
                "name": name,
                "unit": "cycles/packet",
                "wirerate": { "median": Self::cost(&self.ours, step), "runs": runs(&self.ours) },
                "peer": { "median": Self::cost(&self.theirs, step), "runs": runs(&self.theirs) },
                "ratio": median(ratios.iter().copied()),
                "spread": [ratios.first(), ratios.last()],
            })
        });
        serde_json::json!({
            "rings": self.rings.to_string(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

/// A row for each step.
pub(super) fn table(all: &[Sides]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["cycles/packet", "wirerate", "DPDK", "DPDK / wirerate", "pairs"]);
    let number =
        |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    for sides in all {
        for (step, name) in STEPS.iter().enumerate() {
            let ratios = sides.ratios(step);
            let spread = match ratios[..] {
                [least, .., most] => format!("{least:.2} to {most:.2}"),
                _ => "-".into(),
            };
            table.add_row([
                format!("{}: {name}", sides.rings),
                number(Sides::cost(&sides.ours, step), 1),
                number(Sides::cost(&sides.theirs, step), 1),
                number(median(ratios.into_iter()), 2),
                spread,
            ]);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use wirerate_eal::Topology;

    use super::*;

    #[test]
    fn all_rings_are_measured_on_our_side() {
        let cpu = Topology::discover().cpus()[0].id;
        for form in 0..8 {
            let rings = Rings { packed: form & 1 > 0, mergeable: form & 2 > 0, in_order: form & 4 > 0 };
            let mut ours = Ours::open(rings, 32, false, cpu).unwrap();
            let costs = ours.run(Duration::from_millis(5)).unwrap();
            assert!(costs.iter().all(|cost| cost.is_finite() && *cost > 0.0), "{rings}: {costs:?}");
            let Ours { queues, pool, _ports, .. } = ours;
            drop((queues, _ports));
            assert_eq!(pool.counts().in_use, 0, "{rings}: all packets went home");
        }
    }

    #[test]
    fn interrupted_steps_do_not_count() {
        let mut steps = vec![10; 95];
        steps.extend([1_000_000; 5]);
        assert!((fastest(steps) - 10.0).abs() < 1e-9);
        assert!((fastest(vec![7]) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn answers_of_the_peer_are_read() {
        assert_eq!(costs("1.5 2 3 4.25"), Some([1.5, 2.0, 3.0, 4.25]));
        for wrong in ["1 2 3", "1 2 3 x", "1 2 3 0", "1 2 3 inf", ""] {
            assert_eq!(costs(wrong), None, "{wrong}");
        }
        let rings = Rings { packed: true, mergeable: false, in_order: false };
        let line = open_line(rings, Path::new("/x"));
        assert!(
            line.starts_with("open iface=/x,queues=1 path=/x,") && line.contains("packed_vq=1"),
            "{line}"
        );
    }

    #[test]
    fn steps_are_compared_with_their_neighbours() {
        let rings = Rings { packed: false, mergeable: false, in_order: false };
        let ours = vec![[10.0, 20.0, 30.0, 40.0], [20.0, 20.0, 30.0, 40.0], [10.0, 20.0, 30.0, 40.0]];
        let theirs = vec![[20.0, 20.0, 30.0, 40.0], [20.0, 20.0, 30.0, 40.0], [30.0, 20.0, 30.0, 40.0]];
        let json = Sides { rings, ours, theirs }.to_json();
        let first = &json["steps"][0];
        assert_eq!((&first["ratio"], &first["spread"]), (&2.0.into(), &serde_json::json!([1.0, 3.0])));
    }
}
