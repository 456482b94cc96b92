//! `net_virtio` against a model of its device.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a model in a test")]

mod hostile;
mod model;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wirerate_eal::Eal;
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::packet::MAX_BURST;
use wirerate_pmd::port::{Opened, PortError, Queues, RssConfig, Started, registry};
use wirerate_pmd::virtqueue::Features;
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, Port, PortConfig};

use model::{MAC, Machine, Settings};

pub(crate) const NAME: &str = "0000:00:03.0";

pub(crate) fn eal() -> Eal {
    Eal::builder().no_huge(true).build().unwrap()
}

pub(crate) fn pool(eal: &Eal, name: &str) -> MbufPool {
    MbufPool::new(eal, &MbufPoolConfig::new(name, 4096)).unwrap()
}

pub(crate) fn open(eal: &Eal, machine: &Machine, parameters: &str) -> Result<Port<Opened>, PortError> {
    registry::open_pci(eal, 0, machine.function(), &format!("{NAME},queues=2{parameters}"))
}

fn config(pool: &MbufPool, pairs: u16) -> PortConfig {
    PortConfig::new(pool.clone()).rx_queues(pairs).tx_queues(pairs)
}

/// A device, and the port that drives it.
struct Lab {
    machine: Arc<Machine>,
    pool: MbufPool,
    port: Option<Port<Started>>,
    queues: Queues,
    _eal: Eal,
}

impl Lab {
    fn with(settings: Settings, parameters: &str, pairs: u16) -> Self {
        let eal = eal();
        let pool = pool(&eal, "packets");
        let machine = Machine::new(settings);
        let port = open(&eal, &machine, parameters).unwrap().configure(&config(&pool, pairs)).unwrap();
        let (port, queues) = port.start().unwrap();
        Self { machine, pool, port: Some(port), queues, _eal: eal }
    }

    fn new() -> Self {
        Self::with(Settings::default(), "", 2)
    }

    fn port(&mut self) -> &mut Port<Started> {
        self.port.as_mut().unwrap()
    }

    fn count(&mut self, name: &str) -> u64 {
        self.port().xstats().into_iter().find(|(other, _)| other == name).unwrap().1
    }

    /// Sends frames of these lengths out of `from`, and looks that they come back as they were.
    fn exchange_from(&mut self, from: &MbufPool, queue: usize, lens: &[usize]) {
        let mut waiting = Burst::new(MAX_BURST);
        let mut received = Burst::new(32);
        let (mut sent, mut got) = (0, 0);
        let begun = Instant::now();
        while got < lens.len() {
            while waiting.len() < 32 && sent < lens.len() {
                waiting.push(from.alloc_from(&frame(sent, lens[sent])).unwrap()).unwrap();
                sent += 1;
            }
            let _ = self.queues.tx[queue].tx_burst(&mut waiting);
            self.queues.rx[queue].rx_burst(&mut received);
            for packet in received.drain() {
                let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
                assert!(bytes == frame(got, lens[got]), "frame {got} of {}", lens[got]);
                got += 1;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{got} of {} came", lens.len());
            self.machine.assert_good();
        }
    }

    fn exchange(&mut self, queue: usize, lens: &[usize]) {
        let pool = self.pool.clone();
        self.exchange_from(&pool, queue, lens);
    }

    /// Drops all, and looks that all came home.
    fn end(self) {
        let Self { machine, pool, port, queues, .. } = self;
        drop((queues, port));
        machine.assert_released();
        assert_eq!(pool.counts().in_use, 0);
        pool.audit().unwrap();
    }
}

/// A frame that tells its number and length in every byte.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 7 + at * 3 + len) as u8).collect()
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn frames_of_all_lengths_pass_whatever_was_agreed_on() {
    for features in 0..16 {
        let mut settings = Settings::default();
        let mut parameters = String::new();
        for (bit, feature) in
            [Features::RING_PACKED, Features::IN_ORDER, Features::MRG_RXBUF, Features::INDIRECT]
                .into_iter()
                .enumerate()
        {
            settings.offered.set(feature, features & (1 << bit) != 0);
        }
        let mergeable = settings.offered.contains(Features::MRG_RXBUF);
        let packed = settings.offered.contains(Features::RING_PACKED);
        settings.queue_size = if packed { 100 } else { 128 };
        if packed {
            parameters.push_str(",packed_vq=1");
        }
        let mut lab = Lab::with(settings, &parameters, 2);
        assert_eq!(lab.machine.lock().features().contains(Features::RING_PACKED), packed);
        let most = if mergeable { 9000 } else { 2048 };
        let lens: Vec<usize> = (0..600).map(|at| 60 + at * 7919 % (most - 59)).collect();
        for queue in 0..2 {
            lab.exchange(queue, &lens);
        }
        let stats = lab.port().stats();
        assert_eq!((stats.ipackets, stats.opackets), (1200, 1200), "{features:#x}");
        for (name, count) in lab.port().xstats() {
            assert!(!name.contains("_drop_") || count == 0, "{features:#x}: {name} {count}");
        }
        lab.end();
    }
}

#[test]
fn what_devargs_refuse_is_not_agreed_on() {
    let mut settings = Settings::default();
    settings.offered |= Features::RING_PACKED | Features::IN_ORDER;
    let mut lab = Lab::with(settings, ",packed_vq=0,mrg_rxbuf=0,in_order=0,queue_size=100,speed=10000", 1);
    let features = lab.machine.lock().features();
    let refused = Features::RING_PACKED | Features::IN_ORDER | Features::MRG_RXBUF;
    assert!(!features.intersects(refused), "{features:?}");
    let platform = Features::ACCESS_PLATFORM | Features::ORDER_PLATFORM;
    assert!(features.contains(platform) && !features.intersects(Features::MQ | Features::CTRL_VLAN));
    // A split ring has a power of two.
    assert_eq!(lab.machine.lock().queues[0].size, 64);
    assert_eq!(lab.port().link().to_string(), "up, 10 Gb/s");
    lab.exchange(0, &[60, 1500]);
    lab.end();
}

#[test]
fn a_device_tells_its_address_mtu_and_speed() {
    let mut lab = Lab::new();
    let port = lab.port();
    assert_eq!((port.mac(), port.mtu()), (MacAddress(MAC), 1500));
    assert_eq!(port.link().to_string(), "up, 25 Gb/s");
    assert_eq!((port.info().max_rx_queues, port.info().rx_held.mbufs(1)), (2, 256));
    lab.end();
}

#[test]
fn packets_of_other_pools_are_copied() {
    let mut lab = Lab::new();
    let elsewhere = MbufPool::on_heap(&MbufPoolConfig::new("elsewhere", 256)).unwrap();
    lab.exchange_from(&elsewhere, 0, &[64, 1500, 5000, 60]);
    assert_eq!(lab.count("virtio_tx_copied"), 4);
    lab.end();
}

#[test]
fn packets_that_lie_in_several_pieces_pass_without_a_copy() {
    for indirect in [true, false] {
        let mut settings = Settings { pool_piece: Some(4096), ..Settings::default() };
        settings.offered.set(Features::INDIRECT, indirect);
        let mut lab = Lab::with(settings, "", 1);
        let lens: Vec<usize> = (0..3000).map(|at| 60 + at * 7919 % 1900).collect();
        lab.exchange(0, &lens);
        assert_eq!(lab.count("virtio_tx_copied"), 0);
        assert!(lab.machine.lock().split > 0, "no packet crosses a page");
        lab.end();
    }
}

#[test]
fn commands_reach_the_device_and_are_told_again_after_a_start() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    let mut settings = Settings::default();
    settings.offered -= Features::RSS;
    let machine = Machine::new(settings);
    let config = config(&pool, 2).vlan_filter(true);
    let port = open(&eal, &machine, "").unwrap().configure(&config).unwrap();
    let (mut port, queues) = port.start().unwrap();
    let taken = || std::mem::take(&mut machine.lock().commands);
    // Two pairs; promiscuous.
    assert_eq!(taken(), [(4, 0, vec![2, 0]), (0, 0, vec![1])]);
    let (mac, group) = (MacAddress([2, 0, 0, 0, 0, 9]), MacAddress([1, 0, 0x5e, 0, 0, 1]));
    port.set_promiscuous(false).unwrap();
    port.set_all_multicast(true).unwrap();
    port.set_mac(mac).unwrap();
    port.set_mac_filter(&[group]).unwrap();
    port.set_vlan(5, true).unwrap();
    port.set_vlan(6, true).unwrap();
    port.set_vlan(5, false).unwrap();
    let filter = [&[0, 0, 0, 0, 1, 0, 0, 0][..], &group.0].concat();
    let expected = [
        (0, 0, vec![0]),
        (0, 1, vec![1]),
        (1, 1, mac.0.to_vec()),
        (1, 0, filter.clone()),
        (2, 0, vec![5, 0]),
        (2, 0, vec![6, 0]),
        (2, 1, vec![5, 0]),
    ];
    assert_eq!(taken(), expected);
    assert_eq!(port.mac(), mac);
    assert!(port.set_vlan(4096, true).is_err());
    assert!(port.set_mac_filter(&[mac; 65]).is_err());

    drop(queues);
    let (port, queues) = port.stop().unwrap().start().unwrap();
    let expected = BTreeSet::from([
        (4, 0, vec![2, 0]),
        (0, 0, vec![0]),
        (0, 1, vec![1]),
        (1, 0, filter),
        (1, 1, mac.0.to_vec()),
        (2, 0, vec![6, 0]),
    ]);
    assert_eq!(BTreeSet::from_iter(taken()), expected);
    drop((queues, port));
    machine.assert_released();
}

#[test]
fn without_a_vlan_filter_or_a_feature_there_are_no_such_commands() {
    let mut settings = Settings::default();
    settings.offered -= Features::CTRL_RX | Features::CTRL_MAC_ADDR | Features::RSS;
    let mut lab = Lab::with(settings, "", 1);
    assert!(lab.machine.lock().commands.is_empty());
    let error = lab.port().set_vlan(5, true).unwrap_err().to_string();
    assert!(error.contains("vlan_filter(true)"), "{error}");
    for refused in [
        lab.port().set_promiscuous(true),
        lab.port().set_all_multicast(true),
        lab.port().set_mac(MacAddress([2; 6])),
    ] {
        assert!(matches!(refused, Err(PortError::Unsupported { .. })), "{refused:?}");
    }
    assert_eq!(lab.port().mac(), MacAddress(MAC));
    lab.end();
}

#[test]
fn packets_are_spread_as_the_application_says() {
    let mut lab = Lab::new();
    let info = lab.port().info().rss.unwrap();
    let mut rss = RssConfig::even(info, 2);
    let first = lab.machine.lock().commands.remove(0);
    assert_eq!((first.0, first.1, first.2.len()), (4, 1, 8 + 2 * 128 + 3 + 40));
    assert_eq!(first.2[..12], [0x3f, 0, 0, 0, 127, 0, 0, 0, 0, 0, 1, 0]);
    rss.table = vec![1, 1];
    lab.port().set_rss(&rss).unwrap();
    let last = lab.machine.lock().commands.pop().unwrap();
    assert_eq!(last.2[..15], [0x3f, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 2, 0, 40]);
    rss.table = vec![2];
    assert!(lab.port().set_rss(&rss).unwrap_err().to_string().contains("rx queue 2"));
    lab.end();
}

#[test]
fn a_refused_command_is_an_error_and_one_without_an_answer_the_last() {
    let mut lab = Lab::new();
    lab.machine.lock().settings.refuses = Some((0, 1));
    let error = lab.port().set_all_multicast(true).unwrap_err().to_string();
    assert_eq!(error, format!("{NAME}: it refuses a change of all-multicast mode"));
    lab.machine.lock().settings.silent = true;
    let begun = Instant::now();
    assert!(lab.port().set_promiscuous(false).unwrap_err().to_string().contains("does not answer"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    lab.machine.lock().settings.silent = false;
    let begun = Instant::now();
    assert!(lab.port().set_promiscuous(false).is_err(), "the buffer is still the device's");
    assert!(begun.elapsed() < Duration::from_millis(500));
    lab.exchange(0, &[60]);
    lab.end();
}

#[test]
fn the_link_follows_the_device_by_any_interrupt_or_none() {
    for (msix, intx) in [(16, true), (1, true), (0, true), (0, false)] {
        let mut lab = Lab::with(Settings { msix, intx, ..Settings::default() }, "", 2);
        assert!(lab.port().link().up);
        for up in [false, true, false] {
            let begun = Instant::now();
            lab.machine.change(|device| device.link = up.into());
            eventually("the link does not follow", || lab.port().link().up == up);
            assert!(!(msix > 0 || intx) || begun.elapsed() < Duration::from_millis(900), "nobody told");
        }
        assert_eq!(lab.count("virtio_link_changes"), 3);
        lab.exchange(1, &[60, 70, 80]);
        lab.end();
    }
}

fn is_readable(queues: &Queues, queue: usize) -> bool {
    let fd = queues.rx[queue].wait_fd().unwrap();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() > 0
}

#[test]
fn a_sleeper_is_woken_by_its_queue() {
    // A vector for each queue, and one for both.
    for msix in [16, 2] {
        let mut lab = Lab::with(Settings { msix, ..Settings::default() }, "", 2);
        lab.exchange(1, &[60, 60]);
        lab.queues.rx[0].disarm_wait();
        for queue in [1, 1, 1] {
            lab.queues.rx[queue].disarm_wait();
            assert!(!lab.queues.rx[queue].arm_wait() && !is_readable(&lab.queues, queue));
            let mut burst = Burst::new(1);
            burst.push(lab.pool.alloc_from(&frame(1, 100)).unwrap()).unwrap();
            assert_eq!(lab.queues.tx[queue].tx_burst(&mut burst), 1);
            assert!(is_readable(&lab.queues, queue), "nobody was told");
            assert!(msix == 2 || !is_readable(&lab.queues, 0), "the other queue was told");
            assert_eq!(lab.queues.rx[queue].rx_burst(&mut burst), 1);
        }
        lab.end();
    }
    let mut lab = Lab::with(Settings { msix: 1, ..Settings::default() }, "", 2);
    assert!(lab.queues.rx[0].wait_fd().is_none(), "it can only be polled");
    assert!(!lab.queues.rx[0].arm_wait());
    lab.exchange(0, &[60]);
    assert_eq!(lab.machine.lock().isr, 0, "a queue that is polled interrupts");
    lab.end();
}

#[test]
fn a_port_stops_and_starts_again() {
    let mut settings = Settings::default();
    settings.offered |= Features::RING_PACKED;
    let mut lab = Lab::with(settings, "", 2);
    for _ in 0..3 {
        lab.exchange(0, &[60, 1500, 9000]);
        // Some are on their way when it stops.
        let mut burst = Burst::new(8);
        (0..8).for_each(|at| burst.push(lab.pool.alloc_from(&frame(at, 99)).unwrap()).unwrap());
        let _ = lab.queues.tx[1].tx_burst(&mut burst);
        drop(burst);
        (lab.queues.rx, lab.queues.tx) = (Vec::new(), Vec::new());
        let port = lab.port.take().unwrap().stop().unwrap();
        {
            let device = lab.machine.lock();
            assert_eq!((device.status, device.bus_master), (0, false));
            assert!(!device.mapped.is_empty(), "memory stays mapped while the port is configured");
        }
        assert_eq!(lab.pool.counts().in_use, 0);
        let (port, queues) = port.start().unwrap();
        (lab.port, lab.queues) = (Some(port), queues);
    }
    let port = lab.port.take().unwrap();
    (lab.queues.rx, lab.queues.tx) = (Vec::new(), Vec::new());
    let port = port.stop().unwrap().reconfigure(&config(&lab.pool, 1)).unwrap();
    let (port, queues) = port.start().unwrap();
    (lab.port, lab.queues) = (Some(port), queues);
    lab.exchange(0, &[60, 1500]);
    lab.end();
}

#[test]
fn a_port_that_is_dropped_leaves_its_device_at_rest_whatever_its_state() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    let machine = Machine::new(Settings::default());
    let port = open(&eal, &machine, "").unwrap();
    assert_eq!(machine.lock().status, 0);
    drop(port);
    machine.assert_released();
    let machine = Machine::new(Settings::default());
    drop(open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap());
    machine.assert_released();
    let machine = Machine::new(Settings::default());
    let (port, mut queues) =
        open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap().start().unwrap();
    drop(port);
    machine.assert_released();
    assert_eq!(pool.counts().in_use, 0);
    // Queues that somebody still has find nothing, and lose what they are given.
    let mut burst = Burst::new(4);
    assert_eq!(queues.rx[0].rx_burst(&mut burst), 0);
    burst.push(pool.alloc_from(&frame(0, 60)).unwrap()).unwrap();
    let _ = queues.tx[0].tx_burst(&mut burst);
    assert_eq!((burst.len(), pool.counts().in_use), (0, 0));
}

/// Traffic on both queues until `take` has taken the device away; afterwards the queues have ended and all is given back.
fn taken_away(take: impl Fn(&Machine), patience: Duration) {
    let lab = Lab::new();
    let Lab { machine, pool, port, queues, _eal } = lab;
    let port = port.unwrap();
    let passed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (mut rx, mut tx) in queues.rx.into_iter().zip(queues.tx) {
            let (pool, passed) = (&pool, &passed);
            scope.spawn(move || {
                let (mut out, mut back) = (Burst::new(32), Burst::new(32));
                let begun = Instant::now();
                while !rx.ended() {
                    while let Some(packet) = pool.alloc_from(&frame(1, 200)).filter(|_| out.len() < 32) {
                        out.push(packet).unwrap();
                    }
                    let _ = tx.tx_burst(&mut out);
                    if rx.rx_burst(&mut back) > 0 {
                        passed.store(true, Ordering::Relaxed);
                    }
                    back.free();
                    assert!(begun.elapsed() < Duration::from_secs(20), "it never ends");
                }
                // What is sent now is lost, by name.
                out.free();
                out.push(pool.alloc_from(&frame(1, 60)).unwrap()).unwrap();
                let _ = tx.tx_burst(&mut out);
                assert!(out.is_empty());
            });
        }
        eventually("no traffic", || passed.load(Ordering::Relaxed));
        let begun = Instant::now();
        take(&machine);
        // Before anybody has stopped or dropped the port.
        eventually("the function is still held", || machine.lock().released);
        assert!(begun.elapsed() < patience, "{:?}", begun.elapsed());
    });
    machine.assert_released();
    assert!(!port.link().up);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    let error = port.stop().unwrap().start().unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
}

#[test]
fn a_device_that_the_system_wants_back_is_given_back_under_traffic() {
    taken_away(Machine::want_back, Duration::from_millis(800));
}

#[test]
fn a_device_that_is_pulled_out_is_noticed_and_all_comes_home() {
    taken_away(Machine::pull_out, Duration::from_secs(5));
}

#[test]
fn a_device_at_rest_is_given_back_too() {
    let eal = eal();
    let machine = Machine::new(Settings::default());
    let port = open(&eal, &machine, "").unwrap();
    machine.want_back();
    eventually("the function is still held", || machine.lock().released);
    machine.assert_released();
    let pool = pool(&eal, "packets");
    assert!(port.configure(&config(&pool, 1)).unwrap_err().to_string().contains("gone"));
}

#[test]
fn a_device_that_asks_to_be_reset_rests_until_it_is_started_anew() {
    for msix in [16, 0] {
        rests_until_it_is_started_anew(Settings { msix, ..Settings::default() });
    }
}

fn rests_until_it_is_started_anew(settings: Settings) {
    let mut lab = Lab::with(settings, "", 2);
    lab.exchange(0, &[60, 1000]);
    lab.machine.change(|device| device.status |= model::NEEDS_RESET);
    eventually("the link stays up", || !lab.port().link().up);
    eventually("it is not reset", || lab.machine.lock().status == 0);
    assert_eq!(lab.count("virtio_needs_reset"), 1);
    eventually("mbufs stay out", || lab.pool.counts().in_use == 0);
    assert!(!lab.queues.rx[0].ended());
    (lab.queues.rx, lab.queues.tx) = (Vec::new(), Vec::new());
    let (port, queues) = lab.port.take().unwrap().stop().unwrap().start().unwrap();
    (lab.port, lab.queues) = (Some(port), queues);
    lab.exchange(1, &[60, 1000]);
    lab.end();
}

#[test]
fn a_device_that_asks_for_it_is_announced() {
    let mut lab = Lab::new();
    lab.machine.change(|device| device.link |= 2);
    eventually("no answer", || lab.machine.lock().link & 2 == 0);
    let mut burst = Burst::new(4);
    assert_eq!(lab.queues.rx[0].rx_burst(&mut burst), 1);
    let frame = burst[0].data();
    assert_eq!((frame.len(), &frame[..6], &frame[6..12]), (60, &[0xff; 6][..], &MAC[..]));
    assert_eq!((&frame[12..14], &frame[22..28], &frame[32..38]), (&[0x80, 0x35][..], &MAC[..], &MAC[..]));
    drop(burst);
    eventually("it is not counted", || lab.count("virtio_announcements") == 1);
    assert!(lab.port().link().up);
    lab.end();
}
