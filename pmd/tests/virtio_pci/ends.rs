//! How a port and its device part: the port stops or is dropped, the device is taken away or breaks down. All memory comes
//! home, and nothing can be written to it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wirerate_pmd::Burst;
use wirerate_pmd::virtqueue::Features;

use super::model::{Machine, NEEDS_RESET, Settings};
use super::{Lab, config, eal, eventually, frame, open, pool};

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
    lab.machine.change(|device| device.status |= NEEDS_RESET);
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
