//! Frames through the port, both ways, and what is counted of them.

use std::time::{Duration, Instant};

use wirerate_nic::Wire;
use wirerate_pmd::Burst;
use wirerate_pmd::packet::MAX_BURST;

use super::eventually;
use super::lab::{Lab, SOMEBODY, frame};

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];

#[test]
fn frames_go_out_whole_and_in_order_from_each_queue() {
    let mut lab = Lab::new(4);
    for queue in 0..4 {
        let frames: Vec<_> = (0..600).map(|at| frame(SOMEBODY, at + queue, 60 + at * 13 % 1455)).collect();
        lab.send(queue, &frames);
        assert!(lab.arrived(600) == frames, "queue {queue}");
    }
    // A short one is padded, and the long ones are of several segments.
    lab.send(1, &[frame(SOMEBODY, 1, 20)]);
    let short = lab.arrived(1).remove(0);
    assert_eq!((short.len(), &short[..20], &short[20..]), (60, &frame(SOMEBODY, 1, 20)[..], &[0; 40][..]));
    let long: Vec<_> = [9014, 15_868, 1801].map(|len| frame(SOMEBODY, 2, len)).to_vec();
    lab.send(3, &long);
    assert!(lab.arrived(3) == long);
    assert_eq!(lab.count("ixgbe_tx_copied"), 0);
    lab.end();
}

#[test]
fn frames_come_in_whole_and_in_order() {
    let mut lab = Lab::with(1, "", |config| config.mtu(9000));
    for round in 0..5 {
        let frames: Vec<_> = (0..900).map(|at| frame(OURS, at + round, 60 + at * 17 % 8955)).collect();
        // As many as the device's packet buffer of 512 KiB has room for, at least.
        for some in frames.chunks(50) {
            some.iter().for_each(|frame| lab.far.send(frame.clone()));
            assert!(lab.received(some.len()) == some, "round {round}");
        }
        lab.machine.assert_good();
    }
    assert_eq!(lab.port().stats().ipackets, 4500);
    lab.end();
}

#[test]
fn all_that_is_sent_comes_back_from_an_echo() {
    for parameters in ["", ",queue_size=128", ",queue_size=4096"] {
        let mut lab = Lab::with(1, parameters, |config| config.mtu(4000));
        let (mut sent, mut got) = (0_usize, 0_usize);
        let len = |at: usize| 60 + at * 29 % 3940;
        let (mut out, mut back) = (Burst::new(MAX_BURST), Burst::new(64));
        let begun = Instant::now();
        while got < 10_000 {
            // The smallest ring has 127 buffers, up to 31 of which are not there yet, and each frame takes one or two.
            while out.len() < 24 && sent < 10_000 && sent - got < 48 {
                out.push(lab.packet(&frame(SOMEBODY, sent, len(sent)))).unwrap();
                sent += 1;
            }
            let _ = lab.queues.tx[0].tx_burst(&mut out);
            while let Some(frame) = lab.far.receive() {
                lab.far.send(frame);
            }
            lab.queues.rx[0].rx_burst(&mut back);
            for packet in back.drain() {
                let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
                assert!(
                    bytes == frame(SOMEBODY, got, len(got)),
                    "frame {got}, {} missed",
                    lab.port().stats().imissed
                );
                got += 1;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{got} came, {:?}",
                lab.machine.model().faults()
            );
        }
        lab.end();
    }
}

#[test]
fn only_frames_for_us_are_received_unless_all_are_asked_for() {
    let mut lab = Lab::with(1, "", |config| config.promiscuous(false));
    let (group, other_group) = ([1, 0, 0x5e, 0, 0, 7], [1, 0, 0x5e, 0, 0, 8]);
    lab.port.as_mut().unwrap().set_mac_filter(&[wirerate_pmd::net::MacAddress(group)]).unwrap();
    let all = [OURS, SOMEBODY, [0xff; 6], group, other_group];
    let pass = |expected: &[[u8; 6]], lab: &mut Lab| {
        all.iter().chain([&OURS]).enumerate().for_each(|(at, to)| lab.far.send(frame(*to, at, 99)));
        let found: Vec<[u8; 6]> =
            lab.received(expected.len() + 1).iter().map(|frame| frame[..6].try_into().unwrap()).collect();
        assert_eq!(found[..expected.len()], *expected);
        assert_eq!(found[expected.len()], OURS, "the last one");
    };
    pass(&[OURS, [0xff; 6], group], &mut lab);
    lab.port.as_mut().unwrap().set_all_multicast(true).unwrap();
    pass(&[OURS, [0xff; 6], group, other_group], &mut lab);
    lab.port.as_mut().unwrap().set_promiscuous(true).unwrap();
    pass(&all, &mut lab);
    lab.end();
}

#[test]
fn what_the_device_counts_is_summed_up_and_can_be_set_to_zero() {
    let mut lab = Lab::new(2);
    let frames: Vec<_> = (0..100).map(|at| frame(SOMEBODY, at, 100)).collect();
    for _ in 0..3 {
        lab.send(1, &frames);
        lab.arrived(100);
        frames.iter().for_each(|frame| lab.far.send(frame.clone()));
        lab.received(100);
        // Reading clears the registers, and must not what is told.
        let _ = lab.port().xstats();
    }
    for (name, count) in [
        ("tx_good_packets_of_device", 300),
        ("rx_good_packets_of_device", 300),
        ("tx_good_bytes_of_device", 300 * 104),
        ("rx_good_bytes_of_device", 300 * 104),
        ("rx_size_65_to_127_packets", 300),
        ("rx_no_descriptor_packets", 0),
    ] {
        assert_eq!(lab.count(name), count, "{name}");
    }
    // They outlive a stop, which resets the device.
    lab.restart();
    assert_eq!(lab.count("tx_good_packets_of_device"), 300);
    lab.port.as_mut().unwrap().reset_stats();
    assert_eq!((lab.count("tx_good_packets_of_device"), lab.count("rx_good_bytes_of_device")), (0, 0));
    lab.end();
}

#[test]
fn frames_that_nobody_takes_are_missed_and_counted_and_then_it_goes_on() {
    let mut lab = Lab::with(1, ",queue_size=128", |config| config);
    let frames: Vec<_> = (0..400).map(|at| frame(OURS, at, 200)).collect();
    frames.iter().for_each(|frame| lab.far.send(frame.clone()));
    eventually("they are not missed", || lab.port().stats().imissed == 400 - 127);
    assert!(lab.received(127) == frames[..127]);
    lab.far.send(frame(OURS, 1, 60));
    assert!(lab.received(1) == [frame(OURS, 1, 60)]);
    assert_eq!(lab.count("rx_no_descriptor_packets"), 400 - 127);
    lab.end();
}

#[test]
fn a_pool_that_runs_dry_holds_reception_up_only_as_long_as_it_is() {
    let mut lab = Lab::new(1);
    let mut kept = Vec::new();
    while let Some(packet) = lab.pool.alloc() {
        kept.push(packet);
    }
    let frames: Vec<_> = (0..2000).map(|at| frame(OURS, at, 200)).collect();
    frames.iter().for_each(|frame| lab.far.send(frame.clone()));
    eventually("they are not missed", || lab.port().stats().imissed == 2000 - 1023);
    let mut held = Burst::new(MAX_BURST);
    lab.queues.rx[0].rx_burst(&mut held);
    assert_eq!(held.len(), MAX_BURST);
    drop(kept);
    assert_eq!(lab.received(1023 - MAX_BURST).len(), 1023 - MAX_BURST);
    held.free();
    for at in 0..2000 {
        lab.far.send(frame(OURS, at, 60));
        assert!(lab.received(1) == [frame(OURS, at, 60)]);
    }
    lab.end();
}

#[test]
fn a_port_stops_and_starts_under_traffic() {
    let mut lab = Lab::new(2);
    for _ in 0..5 {
        let frames: Vec<_> = (0..50).map(|at| frame(SOMEBODY, at, 700)).collect();
        lab.send(1, &frames);
        frames.iter().for_each(|frame| lab.far.send(frame.clone()));
        lab.restart();
        while lab.far.receive().is_some() {}
        lab.send(0, &frames);
        lab.arrived(1);
        lab.machine.assert_good();
        // What the device had taken before it was stopped does not come any more.
        while lab.far.receive().is_some() {}
    }
    lab.end();
}

#[test]
fn a_cable_that_is_pulled_out_is_a_link_that_is_down_and_frames_wait() {
    let mut lab = Lab::new(1);
    lab.machine.model().set_cable(false);
    eventually("the link stays up", || !lab.port().link().up);
    assert_eq!(lab.port().link().speed, None);
    let mut burst = Burst::new(MAX_BURST);
    let mut taken = 0;
    for at in 0..3 {
        while burst.room() > 0 {
            burst.push(lab.packet(&frame(SOMEBODY, at, 60))).unwrap();
        }
        taken += lab.queues.tx[0].tx_burst(&mut burst);
    }
    assert_eq!(taken, 1023, "the ring is full");
    burst.free();
    lab.machine.model().set_cable(true);
    eventually("the link stays down", || lab.port().link().up);
    assert_eq!(lab.arrived(1023).len(), 1023);
    lab.end();
}
