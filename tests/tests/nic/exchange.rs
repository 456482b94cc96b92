//! An ordinary exchange of frames between a driver and a device, and all that there is to notice of it when one of them is
//! broken: errors, faults, frames, bytes, counts, and what is left behind. No thread keeps the model going, so it is the
//! same each time.

use std::sync::Arc;

use wirerate_eal::Eal;
use wirerate_nic::{CableEnd, Settings, Wire, cable};
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::{Burst, Mbuf, MbufPool, MbufPoolConfig, Port};

use super::function::Machine;
use super::lab::{SOMEBODY, frame};
use super::meddler::Meddler;
use super::{config, open};

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];
/// Queues each way, and descriptors in each.
const QUEUES: usize = 2;
const SIZE: usize = 128;
/// Frames of each queue, and of the wire, before the others have a turn; and turns. Rings go round more than once.
const FRAMES: usize = 20;
const TURNS: usize = 20;
/// Rounds without anything that happens after which nothing will.
const PATIENCE: usize = 100;

/// What was noticed, if anything: a fault before its consequences.
pub(crate) fn exchange(eal: &Eal, settings: Settings, meddler: Meddler) -> Result<(), String> {
    let is_virtual = settings.is_virtual;
    let machine = Machine::with(Settings { cable: false, ..settings }, meddler);
    let pool = MbufPool::new(eal, &MbufPoolConfig::new("packets", 2048)).unwrap();
    let result = run(eal, &machine, &pool, is_virtual);
    machine.fault().map_or(result, |fault| Err(format!("fault: {fault}")))?;
    // Only what went well is to leave nothing behind here: a broken device may keep what it has, and a fault is one.
    check(machine.is_released() && machine.mapped() == 0, "the function or memory of it is still held")?;
    check(pool.counts().in_use == 0, "buffers are not home")
}

fn check(good: bool, problem: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(problem.to_owned()) }
}

fn run(eal: &Eal, machine: &Arc<Machine>, pool: &MbufPool, is_virtual: bool) -> Result<(), String> {
    let (near, far) = cable();
    machine.model().set_wire(machine.wire(near));
    let port = open(eal, machine, &format!(",queue_size={SIZE}")).map_err(|error| error.to_string())?;
    // A virtual function has no semaphores, and its reset leaves its rings' addresses.
    if !is_virtual {
        nothing_is_taken(machine)?;
    }
    check(port.mac() == MacAddress(OURS), &format!("its address is {}", port.mac()))?;
    let config = config(pool, QUEUES as u16).promiscuous(false).mtu(4000);
    let port = port.configure(&config).map_err(|error| error.to_string())?;
    let (port, queues) = port.start().map_err(|error| error.to_string())?;
    if !is_virtual {
        nothing_is_taken(machine)?;
    }
    let mut ends = Ends { machine, pool, port, queues, far };
    let is_up = |ends: &Ends<'_>| (0..PATIENCE).any(|_| ends.port.link().up);
    check(!is_up(&ends), "the link is up without a cable")?;
    machine.model().set_cable(true);
    check(is_up(&ends), "the link stays down")?;
    for turn in 0..TURNS {
        ends.turn(turn)?;
    }
    ends.counts()?;
    let Ends { port, queues, .. } = ends;
    drop(queues);
    let port = port.stop().map_err(|error| error.to_string())?;
    let read = |register| machine.read(register);
    let is_reset = is_virtual || read(0x1000) | read(0x6000) | read(0x3000) == 0;
    check(is_reset && !machine.troubles().bus_master, "the device is not at rest after a stop")?;
    check(pool.counts().in_use == 0, "buffers are not home after a stop")?;
    drop(port);
    Ok(())
}

/// Nobody else waits for what the driver is done with: SW_FW_SYNC and SWSM.
fn nothing_is_taken(machine: &Machine) -> Result<(), String> {
    let mut model = machine.model();
    let (sync, gate) = (model.read32(0x10160), model.read32(0x10140));
    model.write32(0x10140, gate);
    check(sync & 0x1f == 0 && gate == 0, "a semaphore was not given back")
}

/// Both ends of the exchange.
struct Ends<'a> {
    machine: &'a Arc<Machine>,
    pool: &'a MbufPool,
    port: Port<Started>,
    queues: Queues,
    far: CableEnd,
}

/// Frame number `at` that queue `queue` sends, or that comes from the wire.
fn number(to: [u8; 6], queue: usize, at: usize) -> Vec<u8> {
    let mut frame = frame(to, at, 60 + at * 97 % 3900);
    frame[14] = queue as u8;
    frame
}

impl Ends<'_> {
    fn packet(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut chunks = bytes.chunks(1800);
        let mut packet = self.pool.alloc_from(chunks.next()?)?;
        for chunk in chunks {
            packet.chain(self.pool.alloc_from(chunk)?).ok()?;
        }
        Some(packet)
    }

    /// Some frames of each queue, and as many from the wire.
    fn turn(&mut self, turn: usize) -> Result<(), String> {
        let numbers = || turn * FRAMES..(turn + 1) * FRAMES;
        let mut bursts: Vec<Burst> = (0..QUEUES).map(|_| Burst::new(FRAMES)).collect();
        for (queue, burst) in bursts.iter_mut().enumerate() {
            for at in numbers() {
                let packet = self.packet(&number(SOMEBODY, queue, at)).ok_or("the pool is empty")?;
                burst.push(packet).map_err(|_| "a burst is full")?;
            }
        }
        numbers().for_each(|at| self.far.send(number(OURS, 0xff, at)));
        let (mut came, mut left) = (Vec::new(), vec![Vec::new(); QUEUES]);
        let mut idle = 0;
        let mut burst = Burst::new(8);
        while idle < PATIENCE {
            idle += 1;
            for (queue, burst) in self.queues.tx.iter_mut().zip(&mut bursts) {
                if queue.tx_burst(burst) > 0 {
                    idle = 0;
                }
            }
            self.machine.model().step();
            for queue in &mut self.queues.rx {
                queue.rx_burst(&mut burst);
                came.extend(
                    burst.iter().map(|packet| packet.segments().flatten().copied().collect::<Vec<u8>>()),
                );
                if !burst.is_empty() {
                    idle = 0;
                }
                burst.free();
            }
            while let Some(frame) = self.far.receive() {
                let queue = usize::from(frame[14]);
                left.get_mut(queue).ok_or("a frame of nobody left")?.push(frame);
                idle = 0;
            }
        }
        check(bursts.iter().all(|burst| burst.is_empty()), "a transmit queue stays full")?;
        let expected: Vec<_> = numbers().map(|at| number(OURS, 0xff, at)).collect();
        compare("that came", &came, &expected)?;
        for (queue, left) in left.iter().enumerate() {
            let expected: Vec<_> = numbers().map(|at| number(SOMEBODY, queue, at)).collect();
            compare(&format!("that queue {queue} sent"), left, &expected)?;
        }
        Ok(())
    }

    /// What the port and the device have counted, asked twice.
    fn counts(&self) -> Result<(), String> {
        let (sent, came) = ((QUEUES * TURNS * FRAMES) as u64, (TURNS * FRAMES) as u64);
        for _ in 0..2 {
            let stats = self.port.stats();
            let found = (stats.opackets, stats.ipackets, stats.imissed);
            check(found == (sent, came, 0), &format!("the port counted {found:?}"))?;
            let xstats = self.port.xstats();
            for (name, expected) in [("tx_good_packets_of_device", sent), ("rx_good_packets_of_device", came)]
            {
                let found = xstats.iter().find(|(other, _)| other == name).map(|(_, count)| *count);
                check(
                    found == Some(expected),
                    &format!("the device counted {found:?} {name}, and not {expected}"),
                )?;
            }
        }
        Ok(())
    }
}

/// Frames are as many as they should be, and each the same.
fn compare(which: &str, found: &[Vec<u8>], expected: &[Vec<u8>]) -> Result<(), String> {
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        Some(at) => Err(format!("frame {at} of those {which} is another")),
        None => check(
            found.len() == expected.len(),
            &format!("{} of {} frames {which} are there", found.len(), expected.len()),
        ),
    }
}
