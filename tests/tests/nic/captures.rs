//! A capture file that is played to the driver, which sends all of it back, and is recorded.

use std::time::{Duration, Instant};

use wirerate_nic::{Settings, Station};
use wirerate_pmd::Burst;
use wirerate_tests::capture::{self, Format};
use wirerate_tests::{frames, scratch};

use super::function::Machine;
use super::{config, eal, open, pool};

#[test]
fn what_is_played_from_a_capture_comes_back_into_another() {
    let folder = scratch::directory("nic-captures").unwrap();
    let (played, recorded) = (folder.path().join("played.pcap"), folder.path().join("recorded.pcap"));
    capture::write(&played, Format::Nano, frames::mixed(1000, 3)).unwrap();
    let packets = capture::read(&played).unwrap();
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    let pool = pool(&eal, "packets");
    let station = Station::new(7, packets.clone().into_iter().map(|packet| packet.bytes), 8);
    let inbox = station.inbox();
    let (port, mut queues) =
        open(&eal, &machine, "").unwrap().configure(&config(&pool, 1)).unwrap().start().unwrap();
    while !port.link().up {
        machine.model().step();
    }
    machine.model().set_wire(Box::new(station));
    let (mut burst, mut back, begun) = (Burst::new(32), Vec::new(), Instant::now());
    while back.len() < packets.len() {
        machine.model().step();
        queues.rx[0].rx_burst(&mut burst);
        let _ = queues.tx[0].tx_burst(&mut burst);
        back.extend(inbox.take());
        assert!(begun.elapsed() < Duration::from_secs(20), "{} frames came back", back.len());
    }
    capture::write(&recorded, Format::Nano, &back).unwrap();
    assert!(std::fs::read(&played).unwrap() == std::fs::read(&recorded).unwrap());
    drop((port, queues, burst));
    machine.assert_released();
}
