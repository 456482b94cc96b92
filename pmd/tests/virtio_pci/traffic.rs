//! Packets pass, whatever was agreed on.

use wirerate_pmd::net::MacAddress;
use wirerate_pmd::virtqueue::Features;
use wirerate_pmd::{MbufPool, MbufPoolConfig};

use super::Lab;
use super::model::{MAC, Settings};

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
