//! `net_ixgbe_vf` against the model's virtual function: brought up, passing frames, and with a physical function that does
//! what it should not.

use std::time::{Duration, Instant};

use wirerate_nic::{Manner, Settings, Troubles, Wire, cable};
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::{Burst, MbufPool, MbufPoolConfig, PortConfig};

use super::function::Machine;
use super::lab::{Lab, SOMEBODY, frame};
use super::packets::{Kind, TCP};
use super::troubles::for_seeds;
use super::{config, eal, eventually, open, pool};

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];
const VFMAILBOX: usize = 0x2fc;

fn settings(seed: u64) -> Settings {
    Settings { seed, is_virtual: true, ..Settings::default() }
}

fn lab(queues: u16, change: impl FnOnce(PortConfig) -> PortConfig) -> Lab {
    Lab::of(settings(1), queues, "", change)
}

#[test]
fn a_function_comes_up_and_goes_to_rest_whatever_is_left_open() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    for seed in 0..20 {
        let machine = Machine::new(settings(seed));
        let port = open(&eal, &machine, "").unwrap();
        assert_eq!((port.mac(), port.info().max_rx_queues), (MacAddress(OURS), 4));
        let (port, queues) = port.configure(&config(&pool, 4)).unwrap().start().unwrap();
        machine.assert_good();
        eventually("the link stays down", || port.link().up);
        assert_eq!(port.link().speed, Some(10_000));
        let read = |register| machine.read(register);
        for queue in 0..4 {
            assert_eq!((read(0x1028 + 0x40 * queue) >> 25, read(0x2028 + 0x40 * queue) >> 25), (1, 1));
            assert_eq!((read(0x1018 + 0x40 * queue), read(0x1008 + 0x40 * queue)), (1023, 16 * 1024));
        }
        // Hashes are spread over all four.
        assert_eq!(read(0x300) >> 29, 2);
        drop(queues);
        let port = port.stop().unwrap();
        assert!(!machine.troubles().bus_master);
        eventually("its queues stay enabled", || (read(0x1028) | read(0x2028)) >> 25 == 0);
        assert_eq!(pool.counts().in_use, 0);
        drop(port);
        machine.assert_released();
    }
}

#[test]
fn frames_pass_whole_and_in_order_both_ways_and_are_counted() {
    let mut lab = lab(4, |config| config.mtu(9000));
    lab.machine.model().fill_vf_counters();
    lab.port.as_mut().unwrap().reset_stats();
    for round in 0..3 {
        for queue in 0..4 {
            let frames: Vec<_> =
                (0..200).map(|at| frame(SOMEBODY, at + queue, 60 + at * 43 % 8955)).collect();
            lab.send(queue, &frames);
            assert!(lab.arrived(200) == frames, "queue {queue}");
        }
        let frames: Vec<_> = (0..800).map(|at| frame(OURS, at + round, 60 + at * 17 % 8955)).collect();
        for some in frames.chunks(50) {
            some.iter().for_each(|frame| lab.far.send(frame.clone()));
            assert!(lab.received(some.len()) == some, "round {round}");
        }
        lab.machine.assert_good();
    }
    let stats = lab.port().stats();
    assert_eq!((stats.opackets, stats.ipackets), (2400, 2400));
    for _ in 0..2 {
        let names = ["tx_good_packets_of_device", "rx_good_packets_of_device", "rx_multicast_packets"];
        assert_eq!(names.map(|name| lab.count(name)), [2400, 2400, 0]);
        assert_eq!(lab.count("rx_good_bytes_of_device"), stats.ibytes);
        assert_eq!(lab.count("tx_good_bytes_of_device"), stats.obytes);
    }
    // They outlive a stop.
    lab.restart();
    assert_eq!(lab.count("rx_good_packets_of_device"), 2400);
    lab.port.as_mut().unwrap().reset_stats();
    assert_eq!((lab.count("rx_good_packets_of_device"), lab.count("rx_good_bytes_of_device")), (0, 0));
    lab.end();
}

#[test]
fn packets_are_spread_over_the_queues_that_there_are() {
    for queues in [1, 2, 4] {
        let mut lab = lab(queues, |config| config);
        (0..200).for_each(|flow| lab.far.send(Kind { udp: true, flow, ..TCP }.frame(OURS)));
        let mut counts = vec![0; queues.into()];
        let mut burst = Burst::new(32);
        let begun = Instant::now();
        while counts.iter().sum::<usize>() < 200 {
            for (queue, count) in lab.queues.rx.iter_mut().zip(&mut counts) {
                *count += queue.rx_burst(&mut burst);
                burst.free();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{counts:?}");
        }
        assert!(counts.iter().all(|count| *count > 100 / usize::from(queues)), "{counts:?}");
        lab.end();
    }
}

/// Sends frames to all of these and one more to us, and looks which come.
fn pass(lab: &mut Lab, to: &[[u8; 6]], expected: &[[u8; 6]]) {
    to.iter().chain([&OURS]).enumerate().for_each(|(at, to)| lab.far.send(frame(*to, at, 99)));
    let found: Vec<[u8; 6]> =
        lab.received(expected.len() + 1).iter().map(|frame| frame[..6].try_into().unwrap()).collect();
    assert_eq!(found[..expected.len()], *expected);
    assert_eq!(found[expected.len()], OURS, "the last one");
}

#[test]
fn what_is_asked_for_is_received_and_again_after_a_start() {
    let mut lab = lab(1, |config| config.promiscuous(false));
    let (group, other) = ([1, 0, 0x5e, 0, 0x12, 7], [1, 0, 0x5e, 0, 0x34, 8]);
    let (third, fourth) = ([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]);
    let all = [OURS, SOMEBODY, [0xff; 6], group, other, third, fourth];
    pass(&mut lab, &all, &[OURS, [0xff; 6]]);
    let list = [group, third].map(MacAddress);
    lab.port.as_mut().unwrap().set_mac_filter(&list).unwrap();
    pass(&mut lab, &all, &[OURS, [0xff; 6], group, third]);
    lab.restart();
    pass(&mut lab, &all, &[OURS, [0xff; 6], group, third]);
    let port = lab.port.as_mut().unwrap();
    port.set_mac_filter(&[MacAddress(fourth)]).unwrap();
    pass(&mut lab, &all, &[OURS, [0xff; 6], fourth]);
    let port = lab.port.as_mut().unwrap();
    port.set_mac_filter(&[]).unwrap();
    port.set_all_multicast(true).unwrap();
    pass(&mut lab, &all, &[OURS, [0xff; 6], group, other]);
    let error = lab.port.as_mut().unwrap().set_promiscuous(true).unwrap_err().to_string();
    assert!(error.contains("refuses to receive frames for others"), "{error}");
    pass(&mut lab, &all, &[OURS, [0xff; 6], group, other]);
    lab.machine.model().physical().unwrap().lets_receive_all = true;
    lab.port.as_mut().unwrap().set_promiscuous(true).unwrap();
    pass(&mut lab, &all, &all);
    lab.restart();
    pass(&mut lab, &all, &all);
    lab.port.as_mut().unwrap().set_all_multicast(false).unwrap();
    // It does with less where it starts, as much as it can: groups.
    lab.machine.model().physical().unwrap().lets_receive_all = false;
    lab.restart();
    pass(&mut lab, &all, &[OURS, [0xff; 6], group, other]);
    lab.port.as_mut().unwrap().set_promiscuous(false).unwrap();
    lab.port.as_mut().unwrap().set_all_multicast(false).unwrap();
    // Of 31 groups there is no room for one; nothing of them is taken.
    let groups: Vec<_> = (0..31).map(|at| MacAddress([1, 0, 0x5e, 0, 0, at])).collect();
    assert!(lab.port.as_mut().unwrap().set_mac_filter(&groups).is_err());
    lab.port.as_mut().unwrap().set_mac_filter(&groups[..30]).unwrap();
    pass(&mut lab, &[groups[29].0, groups[30].0], &[groups[29].0]);
    // Another address, which the frames that come at the end of each pass are not for any more.
    lab.port.as_mut().unwrap().set_mac(MacAddress(third)).unwrap();
    [OURS, third].iter().for_each(|to| lab.far.send(frame(*to, 1, 60)));
    assert_eq!(lab.received(1), [frame(third, 1, 60)]);
    lab.end();
}

#[test]
fn frames_of_vlans_come_in_if_they_were_asked_for() {
    let mut lab = lab(1, |config| config.vlan_filter(true));
    let tagged = |vlan: u16| Kind { tag: Some(vlan), ..TCP }.frame(OURS);
    lab.port.as_mut().unwrap().set_vlan(7, true).unwrap();
    lab.port.as_mut().unwrap().set_vlan(4095, true).unwrap();
    for _ in 0..2 {
        [7, 8, 4095, 9].iter().for_each(|vlan| lab.far.send(tagged(*vlan)));
        assert!(lab.received(2) == [tagged(7), tagged(4095)]);
        lab.restart();
    }
    lab.port.as_mut().unwrap().set_vlan(7, false).unwrap();
    [7, 4095].iter().for_each(|vlan| lab.far.send(tagged(*vlan)));
    assert!(lab.received(1) == [tagged(4095)]);
    lab.end();
}

#[test]
fn tags_and_checksums_are_told_where_that_is_wanted() {
    let mut lab = lab(1, |config| config.vlan_filter(true).rx_offloads(Offload::RX_VLAN_STRIPPED));
    lab.port.as_mut().unwrap().set_vlan(7, true).unwrap();
    let frame = Kind { tag: Some(7), ..TCP }.frame(OURS);
    lab.far.send(frame.clone());
    let mut burst = Burst::new(1);
    super::eventually_mut("it does not come", || lab.queues.rx[0].rx_burst(&mut burst) == 1);
    assert!(burst[0].data() == [&frame[..12], &frame[16..]].concat());
    let sums = Offload::RX_IP_CHECKSUM_GOOD | Offload::RX_L4_CHECKSUM_GOOD;
    assert!(burst[0].offload().contains(Offload::RX_VLAN_STRIPPED | sums), "{:?}", burst[0].offload());
    assert_eq!(burst[0].vlan_tci(), 7);
    burst.free();
    lab.end();
}

#[test]
fn longer_frames_come_in_when_the_mtu_says_so() {
    let mut lab = lab(1, |config| config);
    let send = |lab: &mut Lab| [2000, 60].iter().for_each(|len| lab.far.send(frame(OURS, 3, *len)));
    send(&mut lab);
    assert_eq!(lab.received(1), [frame(OURS, 3, 60)]);
    for (mtu, good) in [(67, false), (68, true), (9711, false), (9710, true)] {
        assert_eq!(lab.port.as_mut().unwrap().set_mtu(mtu).is_ok(), good, "{mtu}");
    }
    send(&mut lab);
    assert!(lab.received(2) == [frame(OURS, 3, 2000), frame(OURS, 3, 60)]);
    lab.end();
}

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

#[test]
fn a_function_that_is_pulled_out_at_any_access_is_given_up_soon() {
    for_seeds(100, |seed| {
        let (eal, machine) = (eal(), Machine::new(settings(seed)));
        let pool = MbufPool::new(&eal, &MbufPoolConfig::new("packets", 512)).unwrap();
        let removed_after = Some(seed * 11);
        machine.model().set_troubles(Troubles { removed_after, ..Troubles::default() });
        let begun = Instant::now();
        let opened = open(&eal, &machine, ",queue_size=128");
        let started = opened.and_then(|port| port.configure(&config(&pool, 2))).and_then(|port| port.start());
        match started {
            // It was up before it was pulled out; a look at it gives it up.
            Ok((port, queues)) => {
                eventually("it does not go", || {
                    let _ = port.link();
                    machine.model().is_removed()
                });
                eventually("it is not given up", || machine.is_released());
                drop((port, queues));
            }
            Err(error) => assert!(error.to_string().contains("the device is gone"), "{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        machine.assert_released();
        assert_eq!(pool.counts().in_use, 0);
    });
}

#[test]
fn what_the_datasheet_lets_a_device_do_is_lived_with_for_each_seed() {
    for_seeds(60, |seed| {
        let (eal, machine) = (eal(), Machine::new(settings(seed)));
        machine.model().set_troubles(Troubles { late: 30, ..Troubles::default() });
        let pool = MbufPool::new(&eal, &MbufPoolConfig::new("packets", 1024)).unwrap();
        let (near, mut far) = cable();
        machine.model().set_wire(Box::new(near));
        let port = open(&eal, &machine, ",queue_size=128").unwrap();
        let (port, mut queues) = port.configure(&config(&pool, 1)).unwrap().start().unwrap();
        let (mut out, mut back, mut sent, mut got) = (Burst::new(32), Burst::new(32), 0, 0);
        let len = |at: usize| 60 + (at * 29 + seed as usize) % 1454;
        let mut rounds = 0;
        while got < 400 {
            while out.len() < 16 && sent < 400 && sent - got < 32 {
                out.push(pool.alloc_from(&frame(OURS, sent, len(sent))).unwrap()).unwrap();
                sent += 1;
            }
            let _ = queues.tx[0].tx_burst(&mut out);
            machine.model().step();
            // What goes out comes in again.
            while let Some(frame) = far.receive() {
                far.send(frame);
            }
            queues.rx[0].rx_burst(&mut back);
            for packet in back.drain() {
                assert!(packet.data() == frame(OURS, got, len(got)), "frame {got}");
                got += 1;
            }
            let _ = port.link();
            rounds += 1;
            assert!(rounds < 100_000, "{got} came, {sent} were sent");
        }
        drop((port, queues));
        machine.assert_released();
        assert_eq!(pool.counts().in_use, 0);
    });
}
