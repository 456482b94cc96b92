//! Packets that ask for something, sent into a file: what is in it has to be whole.

use std::fs::File;

use wirerate_eal::Eal;

use crate::drivers::pcap::CaptureReader;
use crate::net::testing::{Spec, assert_home, check_segments, numbered, pool, receive};
use crate::packet::{Burst, Mbuf, MbufPool, Offload};
use crate::port::{PortConfig, registry};

fn packet(pool: &MbufPool, spec: &Spec, flags: Offload, most: u16) -> Mbuf {
    let mut packet = pool.alloc_from(&spec.frame()).unwrap();
    packet.set_offload(flags);
    packet.set_tx_lengths(spec.lengths(most));
    packet
}

/// Sends packets by a `net_pcap` port and reads the file.
fn written(packets: impl IntoIterator<Item = Mbuf>) -> Vec<Vec<u8>> {
    let eal = Eal::builder().no_huge(true).build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sent.pcap");
    let port = registry::open(&eal, 0, &format!("net_pcap0,tx_pcap={}", path.display())).unwrap();
    let (_port, mut queues) = port.configure(&PortConfig::send_only()).unwrap().start().unwrap();
    let mut burst = Burst::default();
    packets.into_iter().for_each(|packet| burst.push(packet).unwrap());
    let offered = burst.len();
    assert_eq!(queues.tx[0].tx_burst(&mut burst), offered);
    assert_eq!(queues.tx[0].counters().all_drops().count(), 0);
    drop(queues);
    let mut reader = CaptureReader::new(File::open(&path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(record) = reader.peek().unwrap() {
        frames.push(record.data.to_vec());
        reader.advance();
    }
    frames
}

#[test]
fn checksums_in_the_file_are_right() {
    let pool = pool(64, 512);
    let mut specs = Vec::new();
    for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let spec = Spec { v6, tcp, tags: 1, extra: 1, payload: numbered(999), ..Spec::default() };
        specs.push((spec, if tcp { Offload::TX_TCP_CHECKSUM } else { Offload::TX_UDP_CHECKSUM }));
    }
    let frames = written(specs.iter().map(|(spec, flag)| {
        let ip = if spec.v6 { Offload::empty() } else { Offload::TX_IP_CHECKSUM };
        packet(&pool, spec, *flag | ip, 0)
    }));
    assert_eq!(frames.len(), specs.len());
    for (frame, (spec, _)) in frames.iter().zip(&specs) {
        let received = receive(frame);
        assert_eq!((received.tags, &received.payload), (1, &spec.payload));
    }
    assert_home(&pool);
}

#[test]
fn large_packets_are_in_the_file_as_frames_of_the_wire() {
    let pool = pool(512, 2048);
    for v6 in [false, true] {
        for len in [9000, 20_001, 64_000] {
            let spec = Spec { v6, flags: 0x19, payload: numbered(len), ..Spec::default() };
            let frames = written([packet(&pool, &spec, Offload::TX_TCP_SEGMENTATION, 1428)]);
            assert!(frames.iter().all(|frame| frame.len() <= 1514));
            check_segments(&spec, 1428, &frames);
        }
    }
    assert_home(&pool);
}
