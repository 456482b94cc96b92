//! Which queue receives a frame, and whether any does: RSS and VLANs.

use std::time::{Duration, Instant};

use wirerate_nic::{Settings, Wire};
use wirerate_pmd::Burst;
use wirerate_pmd::port::{RssConfig, RssHash};

use super::function::Machine;
use super::lab::Lab;
use super::packets::{Kind, TCP, toeplitz};
use super::{config, eal, open, pool};

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];

/// The queue and the hash of each of `frames`, in their order.
fn spread(lab: &mut Lab, frames: &[Vec<u8>]) -> Vec<(usize, Option<u32>)> {
    frames.iter().for_each(|frame| lab.far.send(frame.clone()));
    let mut found = vec![None; frames.len()];
    let begun = Instant::now();
    let mut burst = Burst::new(64);
    while found.contains(&None) {
        for (queue, rx) in lab.queues.rx.iter_mut().enumerate() {
            rx.rx_burst(&mut burst);
            for packet in burst.drain() {
                let at = frames.iter().position(|frame| packet.data() == frame).unwrap();
                assert!(found[at].replace((queue, packet.rss_hash())).is_none());
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{found:?}");
    }
    found.into_iter().flatten().collect()
}

fn flows() -> Vec<Kind> {
    let kinds = Kind::all().into_iter().flat_map(|kind| [None, Some(9)].map(|tag| Kind { tag, ..kind }));
    kinds.flat_map(|kind| (0..20).map(move |flow| Kind { flow: flow * 37, ..kind })).collect()
}

#[test]
fn frames_are_spread_by_the_hash_that_the_configuration_says() {
    let mut lab = Lab::new(4);
    let flows = flows();
    let frames: Vec<_> = flows.iter().map(|kind| kind.frame(OURS)).collect();
    let info = lab.port().info().rss.unwrap();
    let even = RssConfig::even(info, 4);
    let only_addresses = RssConfig {
        hash: RssHash::IPV4 | RssHash::IPV6,
        key: (0..40).map(|at| (at * 13 + 5) as u8).collect(),
        table: (0..64).map(|at| at / 16 % 4).collect(),
    };
    let half = RssConfig {
        hash: RssHash::TCPV4 | RssHash::UDPV6 | RssHash::IPV6,
        table: vec![3, 1],
        ..even.clone()
    };
    for (round, rss) in [even, only_addresses, half].into_iter().enumerate() {
        if round > 0 {
            lab.port.as_mut().unwrap().set_rss(&rss).unwrap();
        }
        let told = lab.port().rss_config().unwrap();
        assert_eq!((told.hash, &told.key, told.table.len()), (rss.hash, &rss.key, 128));
        assert!(told.table.iter().zip(rss.table.iter().cycle()).all(|(told, asked)| told == asked));
        for again in 0..2 {
            let mut queues = [0; 4];
            for (kind, found) in flows.iter().zip(spread(&mut lab, &frames)) {
                let (ports, addresses) = match (kind.v6, kind.udp) {
                    (false, false) => (RssHash::TCPV4, RssHash::IPV4),
                    (false, true) => (RssHash::UDPV4, RssHash::IPV4),
                    (true, false) => (RssHash::TCPV6, RssHash::IPV6),
                    (true, true) => (RssHash::UDPV6, RssHash::IPV6),
                };
                let hash = (rss.hash.intersects(ports | addresses))
                    .then(|| toeplitz(&rss.key, &kind.hashed(rss.hash.contains(ports))));
                let queue = hash.map_or(0, |hash| rss.table[hash as usize % rss.table.len()]);
                assert_eq!(found, (usize::from(queue), hash), "{kind:?}");
                queues[usize::from(queue)] += 1;
            }
            assert!(queues.iter().filter(|count| **count > 10).count() >= 2, "{queues:?}");
            if again == 0 {
                // The device forgets it by its reset.
                lab.restart();
            }
        }
    }
    lab.end();
}

#[test]
fn one_queue_gets_all_and_what_cannot_be_is_refused() {
    let mut lab = Lab::new(1);
    assert_eq!(lab.port().rss_config(), None);
    let frames: Vec<_> = flows().iter().map(|kind| kind.frame(OURS)).collect();
    assert!(spread(&mut lab, &frames).iter().all(|found| *found == (0, None)));
    let info = lab.port().info().rss.unwrap();
    let error = lab.port.as_mut().unwrap().set_rss(&RssConfig::even(info, 2)).unwrap_err().to_string();
    assert!(error.contains("rx queue 1 of 1"), "{error}");
    lab.end();
}

#[test]
fn before_the_start_what_will_be_is_told() {
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    let pool = pool(&eal, "packets");
    let mut port = open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap();
    let info = port.info().rss.unwrap();
    assert_eq!(port.rss_config(), Some(RssConfig::even(info, 2)));
    let all_to_one = RssConfig { table: vec![1; 128], ..RssConfig::even(info, 2) };
    port.set_rss(&all_to_one).unwrap();
    let (port, queues) = port.start().unwrap();
    assert_eq!(port.rss_config(), Some(all_to_one));
    machine.assert_good();
    drop((port, queues));
    machine.assert_released();
}

#[test]
fn only_frames_of_chosen_vlans_are_received_if_asked() {
    let mut lab = Lab::with(1, "", |config| config.vlan_filter(true));
    let frames: Vec<_> =
        [None, Some(5), Some(0x6fff), Some(4094), None].map(|tag| Kind { tag, ..TCP }.frame(OURS)).to_vec();
    let pass = |lab: &mut Lab, expected: &[usize]| {
        frames.iter().for_each(|frame| lab.far.send(frame.clone()));
        let found = lab.received(expected.len());
        assert!(found.iter().eq(expected.iter().map(|at| &frames[*at])), "{expected:?}");
    };
    pass(&mut lab, &[0, 4]);
    lab.port.as_mut().unwrap().set_vlan(5, true).unwrap();
    lab.port.as_mut().unwrap().set_vlan(4095, true).unwrap();
    pass(&mut lab, &[0, 1, 2, 4]);
    lab.restart();
    pass(&mut lab, &[0, 1, 2, 4]);
    lab.port.as_mut().unwrap().set_vlan(5, false).unwrap();
    pass(&mut lab, &[0, 2, 4]);
    lab.end();
    let mut open = Lab::new(1);
    frames.iter().for_each(|frame| open.far.send(frame.clone()));
    assert!(open.received(5) == frames);
    open.end();
}
