//! How a port and its device part: the device is taken away or pulled out. All memory comes home, and nothing can be
//! written to it any more.

use std::time::{Duration, Instant};

use wirerate_nic::Settings;
use wirerate_pmd::Burst;

use super::function::Machine;
use super::{config, eal, eventually, open, pool};

/// Queues that work until `take` has taken the device away; afterwards they have ended and all is given back.
fn taken_away(is_virtual: bool, take: impl Fn(&Machine), patience: Duration) {
    let (eal, machine) = (eal(), Machine::new(Settings { is_virtual, ..Settings::default() }));
    let pool = pool(&eal, "packets");
    let (port, queues) =
        open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap().start().unwrap();
    let begun = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        for (mut rx, mut tx) in queues.rx.into_iter().zip(queues.tx) {
            let (pool, begun) = (&pool, &begun);
            scope.spawn(move || {
                let (mut out, mut back) = (Burst::new(32), Burst::new(32));
                begun.wait();
                let begun = Instant::now();
                while !rx.ended() {
                    while let Some(packet) = pool.alloc_from(&[0xff; 200]).filter(|_| out.len() < 32) {
                        out.push(packet).unwrap();
                    }
                    let _ = tx.tx_burst(&mut out);
                    rx.rx_burst(&mut back);
                    back.free();
                    assert!(begun.elapsed() < Duration::from_secs(20), "it never ends");
                    std::thread::yield_now();
                }
                // What is sent now is lost, by name.
                out.free();
                out.push(pool.alloc_from(&[0xff; 60]).unwrap()).unwrap();
                let _ = tx.tx_burst(&mut out);
                assert!(out.is_empty());
            });
        }
        begun.wait();
        let begun = Instant::now();
        take(&machine);
        // Before anybody has stopped or dropped the port; the queues keep the registers.
        eventually("the function is still held", || machine.is_released());
        assert!(begun.elapsed() < patience, "{:?}", begun.elapsed());
    });
    machine.assert_released();
    assert!(!port.link().up);
    assert_eq!(pool.counts().in_use, 0);
    pool.audit().unwrap();
    let error = port.stop().unwrap().start().unwrap_err().to_string();
    assert!(error.contains("the device is gone"), "{error}");
}

#[test]
fn a_device_that_the_system_wants_back_is_given_back_at_once() {
    taken_away(false, Machine::want_back, Duration::from_secs(2));
    taken_away(true, Machine::want_back, Duration::from_secs(2));
}

#[test]
fn a_device_that_is_pulled_out_is_noticed_and_all_comes_home() {
    taken_away(false, |machine| machine.troubles().gone = true, Duration::from_secs(5));
    taken_away(true, |machine| machine.troubles().gone = true, Duration::from_secs(5));
}

#[test]
fn a_device_at_rest_is_given_back_too() {
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    let port = open(&eal, &machine, "").unwrap();
    machine.want_back();
    eventually("the function is still held", || machine.is_released());
    machine.assert_released();
    let pool = pool(&eal, "packets");
    assert!(port.configure(&config(&pool, 1)).unwrap_err().to_string().contains("gone"));
}

#[test]
fn a_device_that_is_not_to_be_reset_loses_its_way_to_memory() {
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    let pool = pool(&eal, "packets");
    let started = open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap().start().unwrap();
    machine.troubles().stuck.push((0, 1 << 26, 1 << 26));
    drop(started);
    machine.assert_released();
    assert_eq!((machine.troubles().function_resets, pool.counts().in_use), (1, 0));
}
