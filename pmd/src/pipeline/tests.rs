//! Pipelines over queues and rings: nothing is lost, nothing is counted twice, everything ends.

use super::*;
use crate::drivers::ring;
use crate::port::{Port, PortConfig, Queues, RxQueue, TxQueue};
use crate::{MbufPool, MbufPoolConfig};

fn pool(count: usize) -> MbufPool {
    MbufPool::on_heap(&MbufPoolConfig::new("test", count).data_room(128)).unwrap()
}

/// A wire: what goes into the queue comes out of the other.
fn wire(pool: &MbufPool) -> (TxQueue, RxQueue) {
    let (near, far) = ring::pair(256);
    let queues = [near, far].map(|device| {
        let port = Port::new(device, "test", 0).configure(&PortConfig::new(pool.clone())).unwrap();
        let (_port, Queues { mut rx, mut tx }) = port.start().unwrap();
        (rx.remove(0), tx.remove(0))
    });
    let [(_, tx), (rx, _)] = queues;
    (tx, rx)
}

fn send(pool: &MbufPool, tx: &mut TxQueue, packets: std::ops::Range<u8>) {
    let mut burst = Burst::new(512);
    for byte in packets {
        burst.push(pool.alloc_from(&[byte]).unwrap()).unwrap();
    }
    let count = burst.len();
    assert_eq!(tx.tx_burst(&mut burst), count);
}

fn received(rx: &mut RxQueue) -> Vec<u8> {
    let mut burst = Burst::new(512);
    rx.rx_burst(&mut burst);
    burst.iter().map(|packet| packet.data()[0]).collect()
}

#[test]
fn packets_go_through_the_stages_in_order_and_are_counted() {
    let pool = pool(512);
    let (mut tx, rx) = wire(&pool);
    let (out, mut end) = wire(&pool);
    let mut pipeline = Pipeline::from(rx)
        .burst(8)
        .each("add", |packet| packet.data_mut().unwrap()[0] += 1)
        .filter("even", |packet| if packet.data()[0] % 2 == 0 { Ok(()) } else { Err(DropReason::Filtered) })
        .to(out);
    send(&pool, &mut tx, 0..20);
    assert_eq!([pipeline.poll(), pipeline.poll(), pipeline.poll(), pipeline.poll()], [8, 8, 4, 0]);
    assert_eq!(received(&mut end), (1..=20).filter(|byte| byte % 2 == 0).collect::<Vec<u8>>());
    let parts = pipeline.parts();
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["source", "add", "even", "sink"]);
    let packets: Vec<u64> = parts.iter().map(|part| part.counters.packets()).collect();
    assert_eq!(packets, [20, 20, 10, 10]);
    assert_eq!(parts[2].counters.drops(DropReason::Filtered), 10);
    assert!(busy_cycles(&parts) > 0);
    drop((pipeline, tx, end));
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn a_cut_pipeline_passes_everything_on_and_ends_after_it() {
    let pool = pool(4096);
    let (mut tx, rx) = wire(&pool);
    let (first, second) = Pipeline::from(rx).each("first", |_| {}).cut(64);
    let mut first = first;
    let mut seen = Vec::new();
    let mut second = second.each("second", |packet| seen.push(packet.data()[0])).to(Discard);
    std::thread::scope(|scope| {
        let stop = StopToken::new();
        scope.spawn(move || second.run(&stop));
        for round in 0..50 {
            send(&pool, &mut tx, round * 4..round * 4 + 4);
            while first.poll() > 0 {}
            // The ring holds 64: let the other side keep up, so that nothing is dropped here.
            while pool.counts().in_use > 32 {
                std::thread::yield_now();
            }
        }
        assert_eq!(first.parts().last().unwrap().counters.all_drops().count(), 0);
        drop(first);
    });
    assert_eq!(seen, (0..200).collect::<Vec<u8>>());
    drop(tx);
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn what_a_full_ring_does_not_take_is_dropped_by_name() {
    let pool = pool(256);
    let (mut tx, rx) = wire(&pool);
    let (mut first, second) = Pipeline::from(rx).cut(10);
    send(&pool, &mut tx, 0..32);
    first.poll();
    assert_eq!(first.parts()[1].counters.drops(DropReason::RingFull), 22);
    drop((first, second, tx));
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn a_full_queue_is_offered_the_rest_again_or_drops_it_by_name() {
    let pool = pool(1024);
    let (mut tx, rx) = wire(&pool);
    let (out, end) = wire(&pool);
    let counters = Arc::clone(out.counters());
    let mut pipeline = Pipeline::from(rx).burst(200).to(Retry { queue: out, attempts: 3 });
    for _ in 0..2 {
        send(&pool, &mut tx, 0..200);
        pipeline.poll();
    }
    assert_eq!((counters.packets(), counters.drops(DropReason::TxFull)), (256, 144));
    drop((pipeline, tx, end));
    assert_eq!(pool.counts().in_use, 0);
}
