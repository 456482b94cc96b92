//! The driver while its device has troubles: packets are whole and in order, each one is accounted for, all memory comes
//! home, no rule is broken, and nothing takes for ever. The model is stepped by who sends and receives, so that a seed
//! decides all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wirerate_eal::Eal;
use wirerate_nic::traffic::Flows;
use wirerate_nic::{CableEnd, Random, Semaphore, Settings, Station, Tally, Troubles, Wire, cable};
use wirerate_pmd::net::transport;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::port::{Queues, Started};
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port};

use super::function::Machine;
use super::lab::{SOMEBODY, frame};
use super::packets::{Kind, TCP};
use super::{config, eal, open};

/// Seeds at a time: they sleep more than they work.
const THREADS: u64 = 6;
/// The longest that one may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test for each seed, several at a time.
pub(crate) fn for_seeds(count: u64, test: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(count) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let begun = Instant::now();
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
                    assert!(result.is_ok(), "seed {seed}");
                    assert!(begun.elapsed() < PATIENCE, "seed {seed}: {:?}", begun.elapsed());
                }
            });
        }
    });
}

/// A machine, and a driver for it.
struct Bench {
    machine: Arc<Machine>,
    pool: MbufPool,
    eal: Eal,
    far: CableEnd,
    random: Random,
}

/// A port at work, and what went through it.
struct Traffic<'a> {
    bench: &'a mut Bench,
    port: Port<Started>,
    queues: Queues,
    /// Frames for the port that have not come out of it, and how many there ever were.
    coming: std::collections::VecDeque<Vec<u8>>,
    sent: u64,
    received: u64,
    /// Frames that the port took and that have not come out at the far end.
    going: std::collections::VecDeque<Vec<u8>>,
    out: Burst,
    written: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let (eal, machine) = (eal(), Machine::new(Settings { seed, ..Settings::default() }));
        let pool = MbufPool::new(&eal, &MbufPoolConfig::new("packets", 1024)).unwrap();
        let (near, far) = cable();
        machine.model().set_wire(Box::new(near));
        Self { machine, pool, eal, far, random: Random::new(seed ^ 0x5eed) }
    }

    /// A port of two queues that works.
    fn start(&mut self) -> Result<Traffic<'_>, String> {
        self.start_with(2)
    }

    fn start_with(&mut self, queues: u16) -> Result<Traffic<'_>, String> {
        let opened = open(&self.eal, &self.machine, ",queue_size=128");
        let started = opened
            .and_then(|port| {
                port.configure(&config(&self.pool, queues).mtu(3000).tx_offloads(Offload::TX_ALL))
            })
            .and_then(|port| port.start());
        let (port, queues) = started.map_err(|error| error.to_string())?;
        Ok(Traffic {
            bench: self,
            port,
            queues,
            coming: [].into(),
            sent: 0,
            received: 0,
            going: [].into(),
            out: Burst::new(64),
            written: 0,
        })
    }

    fn trouble(&self, troubles: Troubles) {
        self.machine.model().set_troubles(troubles);
    }

    fn tally(&self) -> Tally {
        self.machine.model().tally()
    }

    /// All is given back, and the driver has broken no rule.
    fn check(&self) {
        self.machine.assert_released();
        assert_eq!(self.pool.counts().in_use, 0);
        self.pool.audit().unwrap();
    }
}

/// Whether a frame is what was sent, but for so many bytes that the wire has changed.
fn is_like(found: &[u8], sent: &[u8], changed: usize) -> bool {
    found.len() == sent.len() && found.iter().zip(sent).filter(|(a, b)| a != b).count() <= changed
}

impl Traffic<'_> {
    /// Lets the link come up.
    fn link_up(&self) {
        assert!((0..200).any(|_| {
            self.bench.machine.model().step();
            self.port.link().up
        }));
    }

    fn a_frame(&mut self, at: u64) -> Vec<u8> {
        let len = if self.bench.random.below(8) == 0 { 3014 } else { 1514 };
        frame(SOMEBODY, at as usize, 60 + self.bench.random.below(len - 59))
    }

    /// The far end asks for a pause, or calls it off.
    fn pause(&mut self) {
        let [high, low] = (self.bench.random.below(60) as u16).to_be_bytes();
        let mut frame = vec![1, 0x80, 0xc2, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x88, 8, 0, 1, high, low];
        frame.resize(60, 0);
        self.bench.far.send(frame);
    }

    /// Some frames both ways, some time, and a look at what has come out. `changed` bytes of a frame may be others.
    fn round(&mut self, most: usize, changed: usize) {
        for _ in 0..self.bench.random.below(most + 1) {
            self.come();
        }
        for _ in 0..self.bench.random.below(most + 1).min(self.out.room()) {
            let frame = self.a_frame(self.written);
            let mut chunks = frame.chunks(1500);
            let Some(packet) = chunks.next().and_then(|chunk| self.bench.pool.alloc_from(chunk)) else {
                break;
            };
            let mut packet = packet;
            if chunks.any(|chunk| match self.bench.pool.alloc_from(chunk) {
                Some(segment) => packet.chain(segment).is_err(),
                None => true,
            }) {
                break;
            }
            self.written += 1;
            self.out.push(packet).unwrap();
        }
        let waiting: Vec<Vec<u8>> =
            self.out.iter().map(|packet| packet.segments().flatten().copied().collect()).collect();
        let taken = self.queues.tx[1].tx_burst(&mut self.out);
        self.going.extend(waiting.into_iter().take(taken));
        for _ in 0..self.bench.random.below(6) {
            self.bench.machine.model().step();
        }
        self.look(changed);
    }

    /// A frame for the port.
    fn come(&mut self) {
        let frame = self.a_frame(self.sent);
        self.sent += 1;
        self.bench.far.send(frame.clone());
        self.coming.push_back(frame);
    }

    fn look(&mut self, changed: usize) {
        let mut burst = Burst::new(32);
        self.queues.rx[0].rx_burst(&mut burst);
        for packet in burst.iter() {
            let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
            // Those before it were lost.
            let at = self.coming.iter().position(|sent| is_like(&bytes, sent, changed));
            let at = at.unwrap_or_else(|| panic!("a frame of {} bytes that nobody sent", bytes.len()));
            self.coming.drain(..=at);
            self.received += 1;
        }
        burst.free();
        self.queues.rx[1].rx_burst(&mut burst);
        assert!(burst.is_empty(), "nothing is for the second queue");
        while let Some(frame) = self.bench.far.receive() {
            assert!(self.going.pop_front().is_some_and(|sent| sent == frame), "a frame that nobody sent");
        }
    }

    /// What comes in while there are no troubles any more, and no time passes but for this.
    fn settle(&mut self, changed: usize) {
        self.bench.machine.model().end_troubles();
        for _ in 0..200 {
            self.bench.machine.model().step();
            self.look(changed);
        }
    }

    /// Everything that was sent either came, or something has counted it.
    fn account(&self, tally: Tally) {
        assert_eq!(self.going.len(), 0, "frames that were taken and did not go out");
        let stats = self.port.stats();
        let malformed = self.counted("rx_malformed");
        assert_eq!((stats.ipackets, malformed), (self.received, 0));
        assert_eq!(self.counted("rx_crc_errors"), tally.damaged);
        assert_eq!(
            self.sent,
            self.received + stats.imissed + tally.damaged + tally.lost,
            "{stats:?} {tally:?}"
        );
    }

    fn counted(&self, name: &str) -> u64 {
        self.port.xstats().iter().filter(|(other, _)| other.ends_with(name)).map(|(_, count)| count).sum()
    }
}

/// A plan of troubles that a device lives with.
fn some_troubles(random: &mut Random) -> Troubles {
    let mut rate = |most: usize| if random.below(2) == 0 { random.below(most) as u16 } else { 0 };
    Troubles {
        late: rate(40).into(),
        withheld: rate(500),
        flaps: rate(20),
        damaged: rate(100),
        spoilt: rate(100),
        spurious: rate(1000),
        ..Troubles::default()
    }
}

#[test]
fn every_packet_is_accounted_for_whatever_the_device_goes_through() {
    let sum = std::sync::Mutex::new(Tally::default());
    for_seeds(120, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        let troubles = some_troubles(&mut traffic.bench.random);
        let changed = usize::from(troubles.spoilt > 0);
        traffic.bench.trouble(troubles);
        (0..200).for_each(|_| traffic.round(12, changed));
        traffic.settle(changed);
        let tally = traffic.bench.tally();
        traffic.account(tally);
        assert!(traffic.received > 100 && traffic.written > 100);
        drop(traffic);
        bench.check();
        let mut sum = sum.lock().unwrap();
        sum.held_back += tally.held_back;
        sum.flaps += tally.flaps;
        sum.damaged += tally.damaged;
        sum.spoilt += tally.spoilt;
        sum.spurious += tally.spurious;
        sum.lost += tally.lost;
    });
    let sum = *sum.lock().unwrap();
    for count in [sum.held_back, sum.flaps, sum.damaged, sum.spoilt, sum.spurious, sum.lost] {
        assert!(count > 100, "{sum:?}");
    }
}

/// Takes note of a frame of a flow: none comes twice, or after a later one.
fn note(frame: &[u8], next: &mut [u32]) -> usize {
    let (flow, number) = Flows::stamp_of(frame).unwrap();
    let expected = &mut next[flow as usize];
    assert!(number >= *expected, "frame {number} of flow {flow} came after {expected}");
    *expected = number + 1;
    flow as usize
}

#[test]
fn flows_stay_in_order_over_queues_whose_write_backs_do_not() {
    const FRAMES: usize = 1500;
    const FLOWS: usize = 24;
    for_seeds(60, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start_with(4).unwrap();
        traffic.link_up();
        let station = Station::new(seed, Flows::new(seed, FLOWS as u16).take(FRAMES), 5);
        let inbox = station.inbox();
        traffic.bench.machine.model().set_wire(Box::new(station));
        let troubles = Troubles { late: 30, withheld: 200, spurious: 200, ..Troubles::default() };
        traffic.bench.trouble(troubles);
        let (mut received, mut returned) = ([0; FLOWS], [0; FLOWS]);
        let (mut queue_of, mut count, mut back, mut steps, mut quiet) = ([None; FLOWS], 0, 0, 0, 0);
        let mut bursts: Vec<Burst> = (0..4).map(|_| Burst::new(32)).collect();
        while steps < 600 || quiet < 100 {
            traffic.bench.machine.model().step();
            (steps, quiet) = (steps + 1, quiet + 1);
            let queue = traffic.bench.random.below(4);
            let burst = &mut bursts[queue];
            let before = burst.len();
            traffic.queues.rx[queue].rx_burst(burst);
            for packet in burst.iter().skip(before) {
                let flow = note(packet.data(), &mut received);
                assert_eq!(*queue_of[flow].get_or_insert(queue), queue, "flow {flow}");
                (count, quiet) = (count + 1, 0);
            }
            let _ = traffic.queues.tx[queue].tx_burst(burst);
            for frame in inbox.take() {
                note(&frame, &mut returned);
                back += 1;
            }
            // Frames still come then.
            if steps == 500 {
                traffic.bench.machine.model().end_troubles();
            }
        }
        let stats = traffic.port.stats();
        assert_eq!((count as u64 + stats.imissed, back), (FRAMES as u64, count), "{stats:?}");
        let queues = (0..4).filter(|queue| queue_of.contains(&Some(*queue)));
        assert!(count > FRAMES / 2 && queues.count() > 1, "{stats:?} {queue_of:?}");
        assert!(traffic.bench.tally().held_back > 100);
        drop((traffic, bursts));
        bench.check();
    });
}

#[test]
fn a_far_end_that_pauses_gets_everything_later() {
    for_seeds(20, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        // Pauses are obeyed, and not passed on: behind the driver's back.
        traffic.bench.machine.model().write32(0x4294, 0b1010);
        traffic.bench.trouble(Troubles { late: 5, ..Troubles::default() });
        for _ in 0..150 {
            if traffic.bench.random.below(3) == 0 {
                traffic.pause();
            }
            traffic.round(12, 0);
        }
        traffic.settle(0);
        let paused = traffic.counted("rx_xoff_packets");
        assert!(paused > 20 && traffic.written > 100, "{paused}");
        traffic.account(traffic.bench.tally());
        drop(traffic);
        bench.check();
    });
}

/// A packet of TCP that the port has taken: its flow, which is its number, and the bytes that have not come out.
type Going = std::collections::VecDeque<(u16, Vec<u8>)>;

/// Takes note of a frame that came out: the next piece of the first packet, with checksums that are right.
fn note_segment(frame: &[u8], going: &mut Going) {
    let mut again = frame.to_vec();
    transport::fill_ipv4_checksum(&mut again, 14).unwrap();
    transport::fill_transport_checksum(&mut again, 14).unwrap();
    assert!(again == frame, "a wrong checksum");
    let (flow, left) = going.front_mut().expect("nobody sent it");
    assert_eq!(frame[34..36], (1000 + *flow).to_be_bytes());
    let (header, total) =
        (usize::from(frame[46] >> 4) * 4, usize::from(frame[16]) << 8 | usize::from(frame[17]));
    let payload = &frame[34 + header..14 + total];
    assert!(left.starts_with(payload) && !payload.is_empty());
    left.drain(..payload.len());
    if left.is_empty() {
        going.pop_front();
    }
}

#[test]
fn segments_come_out_whole_and_in_order() {
    for_seeds(40, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        let random = &mut traffic.bench.random;
        let troubles = Troubles { late: random.below(30) as u32, flaps: 10, ..some_troubles(random) };
        traffic.bench.trouble(troubles);
        let (mut going, mut flow, mut frames) = (Going::new(), 0, 0);
        for round in 0..400 {
            if round == 300 {
                traffic.bench.machine.model().end_troubles();
            }
            while traffic.out.room() > 0 && round < 330 && traffic.bench.random.below(3) > 0 {
                let (flags, segment) = match traffic.bench.random.below(3) {
                    0 => (Offload::TX_TCP_CHECKSUM | Offload::TX_IP_CHECKSUM, 0),
                    _ => (Offload::TX_TCP_SEGMENTATION, 500 + traffic.bench.random.below(900) as u16),
                };
                let most = if segment == 0 { 1400 } else { 9000 };
                let payload = 1 + traffic.bench.random.below(most);
                let kind = Kind { payload, flow, ..TCP };
                traffic.out.push(kind.packet(&traffic.bench.pool, SOMEBODY, flags, segment)).unwrap();
                going.push_back((flow, kind.frame(SOMEBODY)[54..].to_vec()));
                flow += 1;
            }
            let _ = traffic.queues.tx[0].tx_burst(&mut traffic.out);
            (0..8).for_each(|_| _ = traffic.bench.machine.model().step());
            while let Some(frame) = traffic.bench.far.receive() {
                note_segment(&frame, &mut going);
                frames += 1;
            }
            traffic.bench.machine.assert_good();
        }
        assert_eq!((going.len(), traffic.out.len()), (0, 0));
        assert!(flow > 100 && frames > 3 * flow, "{flow} {frames}");
        drop(traffic);
        bench.check();
    });
}

#[test]
fn frames_that_a_device_marks_as_damaged_are_dropped_by_name() {
    for_seeds(30, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        {
            // The device is told to store them, behind the driver's back.
            let mut model = traffic.bench.machine.model();
            let filter = model.read32(0x5080);
            model.write32(0x5080, filter | 1 << 1);
        }
        traffic.bench.trouble(Troubles { damaged: 300, late: seed as u32 % 5, ..Troubles::default() });
        (0..100).for_each(|_| traffic.round(8, 0));
        traffic.settle(0);
        let (stats, damaged) = (traffic.port.stats(), traffic.bench.tally().damaged);
        let malformed = traffic.counted("rx_malformed");
        assert!(damaged > 50 && malformed > 50 && malformed <= damaged);
        assert_eq!(traffic.sent, traffic.received + stats.imissed + malformed);
        drop(traffic);
        bench.check();
    });
}

#[test]
fn a_device_that_is_pulled_out_at_any_access_is_let_go_of() {
    // How many accesses a whole life has.
    let life = |bench: &mut Bench| {
        let mut traffic = bench.start()?;
        for _ in 0..30 {
            traffic.round(8, 0);
        }
        let Traffic { port, queues, .. } = traffic;
        drop(queues);
        port.stop().map(drop).map_err(|error| error.to_string())
    };
    let mut whole = Bench::new(0);
    life(&mut whole).unwrap();
    let accesses = whole.tally().accesses;
    assert!(accesses > 1000);
    let said = std::sync::Mutex::new(Vec::new());
    for_seeds(200, |seed| {
        let mut bench = Bench::new(seed);
        // All of the life, which is bringing up for the most part, and its end.
        let begin = if seed % 4 == 0 { accesses - 500 } else { 0 };
        let after = begin + bench.random.below((accesses - begin) as usize) as u64;
        bench.trouble(Troubles { removed_after: Some(after), ..Troubles::default() });
        if let Err(error) = life(&mut bench) {
            assert!(error.contains("gone") && !error.contains('\n'), "{error}");
            said.lock().unwrap().push(seed);
        }
        bench.check();
    });
    let said = said.lock().unwrap().len();
    assert!((20..200).contains(&said), "{said}");
}

#[test]
fn a_device_that_gets_stuck_is_brought_down_and_up_again() {
    for_seeds(60, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        let stuck_after = Some(traffic.bench.random.below(300) as u32);
        let master_stays = seed % 3 == 0;
        traffic.bench.trouble(Troubles { stuck_after, master_stays, late: 3, ..Troubles::default() });
        (0..80).for_each(|_| traffic.round(12, 0));
        // The ring is full, and it does not matter.
        let received = traffic.received;
        (0..20).for_each(|_| traffic.round(12, 0));
        assert_eq!(traffic.received, received);
        let Traffic { port, queues, out, .. } = traffic;
        drop((queues, out));
        let port = port.stop().unwrap();
        assert_eq!(bench.pool.counts().in_use, 0);
        bench.machine.assert_good();
        while bench.far.receive().is_some() {}
        bench.trouble(Troubles::default());
        drop(port);
        // What is still on the wire is lost.
        bench.machine.model().step();
        let before = bench.tally();
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        (0..20).for_each(|_| traffic.round(12, 0));
        traffic.settle(0);
        let after = traffic.bench.tally();
        traffic.account(Tally { lost: after.lost - before.lost, damaged: 0, ..after });
        drop(traffic);
        bench.check();
    });
}

#[test]
fn a_reset_that_does_not_end_is_done_by_pci() {
    for_seeds(12, |seed| {
        let mut bench = Bench::new(seed);
        let mut traffic = bench.start().unwrap();
        traffic.link_up();
        (0..20).for_each(|_| traffic.round(12, 0));
        traffic.bench.trouble(Troubles { reset_hangs: true, ..Troubles::default() });
        let begun = Instant::now();
        drop(traffic);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        bench.check();
        assert_eq!(bench.machine.troubles().function_resets, 1);
    });
}

#[test]
fn a_device_that_cannot_be_opened_says_why() {
    let refused = |troubles: Troubles, words: &str| {
        let mut bench = Bench::new(1);
        bench.trouble(troubles);
        let error = bench.start().map(drop).unwrap_err();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
        bench.check();
    };
    for_seeds(0x40, |word| {
        let eeprom_word = Some(word as u16);
        refused(Troubles { eeprom_word, ..Troubles::default() }, "the checksum of its EEPROM");
    });
    for_seeds(3, |at| {
        let semaphore = [Semaphore::Drivers, Semaphore::Firmware, Semaphore::Resources][at as usize];
        refused(Troubles { semaphore: Some(semaphore), ..Troubles::default() }, "held by others");
    });
    refused(Troubles { reset_hangs: true, ..Troubles::default() }, "a reset is not done");
}
