//! `net_ixgbe_vf` and a physical function that does what it should not, or is reset.

use std::time::{Duration, Instant};

use wirerate_nic::{Manner, Wire};
use wirerate_pmd::Burst;
use wirerate_pmd::net::MacAddress;

use super::function::Machine;
use super::lab::{SOMEBODY, frame};
use super::vf::{OURS, lab, pass, settings};
use super::{config, eal, eventually, open, pool};

const VFMAILBOX: usize = 0x2fc;

/// What becomes of a function whose physical one has such manners, at its opening or its start.
fn with(manner: Manner, at_start: bool) -> Result<MacAddress, String> {
    with_queues(2, manner, at_start)
}

fn with_queues(queues: u16, manner: Manner, at_start: bool) -> Result<MacAddress, String> {
    let (eal, machine) = (eal(), Machine::new(settings(3)));
    let pool = pool(&eal, "packets");
    let behave = |now: bool| {
        if now {
            machine.model().physical().unwrap().manner = manner;
        }
    };
    behave(!at_start);
    let begun = Instant::now();
    let opened = open(&eal, &machine, "").map_err(|error| error.to_string());
    let result = opened.and_then(|port| {
        let mac = port.mac();
        behave(true);
        let port = port.configure(&config(&pool, queues)).map_err(|error| error.to_string())?;
        let started = port.start().map_err(|error| error.to_string())?;
        let mac = if mac == started.0.mac() { mac } else { MacAddress::default() };
        drop(started);
        Ok(mac)
    });
    assert!(begun.elapsed() < Duration::from_secs(6), "{manner:?}: {:?}", begun.elapsed());
    assert_eq!(pool.counts().in_use, 0);
    // Whatever it heard, it has kept the rules.
    machine.assert_released();
    result
}

#[test]
fn a_physical_function_that_does_what_it_should_not_is_told_in_one_line() {
    for at_start in [false, true] {
        let refused = |manner, expected: &str| {
            let error = with(manner, at_start).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{manner:?}: {error}");
        };
        refused(Manner::Deaf, "does not answer a reset after 1000 ms");
        refused(Manner::Mute, "does not answer a reset after 1000 ms");
        refused(Manner::Garbage, "answers a reset by 0x");
        refused(Manner::Beside, "which is no answer to it");
        refused(Manner::Absurd, "which is no answer to it");
        // The first version of the protocol, without another, has one queue only.
        let queues =
            if at_start { "refuses as many queues as before" } else { "2 rx queues asked, 1 possible" };
        refused(Manner::Refusing, queues);
        refused(Manner::Old, queues);
    }
    let error = with_queues(1, Manner::Old, false).unwrap_err();
    // It takes jumbo frames, so with the first version of the protocol nothing is received.
    assert!(error.contains("refuses frames of such a length"), "{error}");
    assert_eq!(with(Manner::Proper, false), Ok(MacAddress(OURS)));
    // An address is made up where there is none, and another where there is none any more.
    let made_up = with(Manner::NoAddress, false).unwrap();
    assert!(made_up != MacAddress(OURS) && made_up.0[..2] == [2, 0], "{made_up}");
    assert_eq!(with(Manner::NoAddress, true), Ok(MacAddress(OURS)));
}

#[test]
fn a_mailbox_that_is_stuck_is_waited_for_with_a_limit() {
    for (bits, value, expected) in [
        (1 << 6, 1 << 6, "does not answer for the end of its reset"),
        (1 << 2, 0, "does not answer for its mailbox"),
        (1 << 5, 0, "does not answer a reset"),
    ] {
        let (eal, machine) = (eal(), Machine::new(settings(1)));
        machine.troubles().stuck.push((VFMAILBOX, bits, value));
        let begun = Instant::now();
        let error = open(&eal, &machine, "").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(3));
        machine.assert_released();
    }
}

#[test]
fn wishes_that_are_refused_leave_the_port_as_it_was() {
    let mut lab = lab(1, |config| config.promiscuous(false));
    lab.machine.model().physical().unwrap().manner = Manner::Refusing;
    let port = lab.port.as_mut().unwrap();
    assert!(
        port.set_promiscuous(true).unwrap_err().to_string().contains("refuses to receive frames for others")
    );
    assert!(
        port.set_mac(MacAddress([2, 0, 0, 0, 0, 1])).unwrap_err().to_string().contains("refuses another")
    );
    assert!(port.set_mtu(3000).is_err() && port.set_mac_filter(&[]).is_err());
    assert_eq!((port.mac(), port.mtu()), (MacAddress(OURS), 1500));
    lab.machine.model().physical().unwrap().manner = Manner::Proper;
    pass(&mut lab, &[SOMEBODY], &[]);
    lab.end();
}

#[test]
fn a_reset_of_the_physical_function_under_traffic_is_survived() {
    let mut lab = lab(2, |config| config.promiscuous(false).mtu(4000));
    lab.port.as_mut().unwrap().set_mac_filter(&[MacAddress(SOMEBODY)]).unwrap();
    for round in 0..3_u64 {
        let frames: Vec<_> = (0..100).map(|at| frame(SOMEBODY, at, 3000)).collect();
        lab.send(1, &frames);
        frames.iter().for_each(|frame| lab.far.send(frame.clone()));
        lab.machine.model().reset_physical(false);
        // What is still on the wire comes to nobody.
        lab.machine.model().step();
        eventually("the link stays up", || !lab.port().link().up);
        let queues = &mut lab.queues;
        let mut burst = Burst::new(32);
        // Meanwhile nothing passes, and nobody notices but by that.
        while queues.rx[0].rx_burst(&mut burst) > 0 {
            burst.free();
        }
        assert!(!queues.rx[0].ended());
        if round == 1 {
            std::thread::sleep(Duration::from_millis(1500));
        }
        lab.machine.model().reset_physical(true);
        eventually("it does not come up again", || lab.count("ixgbe_recoveries") == round + 1);
        eventually("the link stays down", || lab.port().link().up);
        // What was taken before the reset is lost, and the filters are as they were.
        while lab.far.receive().is_some() {}
        lab.send(0, &frames);
        assert!(lab.arrived(100) == frames);
        frames.iter().for_each(|frame| lab.far.send(frame.clone()));
        assert!(lab.received(100) == frames);
        lab.machine.assert_good();
    }
    lab.end();
}

#[test]
fn a_reset_of_the_physical_function_is_told_by_the_mailboxs_interrupt() {
    let lab = lab(4, |config| config);
    for round in 1..=5 {
        // Longer than the machine is busy with others, and shorter than the time between looks.
        let begun = Instant::now();
        lab.machine.model().reset_physical(false);
        lab.machine.model().reset_physical(true);
        while lab.count("ixgbe_recoveries") < round {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        if begun.elapsed() < Duration::from_millis(600) {
            return lab.end();
        }
    }
    panic!("it takes as long as without one");
}

#[test]
fn a_physical_function_that_stays_away_does_not_hold_the_port() {
    let lab = lab(1, |config| config);
    lab.machine.model().physical().unwrap().manner = Manner::Deaf;
    lab.machine.model().reset_physical(false);
    eventually("the link stays up", || !lab.port().link().up);
    lab.machine.model().reset_physical(true);
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!lab.port().link().up);
    let begun = Instant::now();
    lab.end();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_cable_that_is_pulled_out_is_a_link_that_is_down() {
    let lab = lab(1, |config| config);
    lab.machine.model().set_cable(false);
    lab.machine.model().ping();
    eventually("the link stays up", || !lab.port().link().up);
    lab.machine.model().set_cable(true);
    eventually("the link stays down", || lab.port().link().up);
    assert_eq!(lab.count("ixgbe_recoveries"), 0);
    lab.end();
}
