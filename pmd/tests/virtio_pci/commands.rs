//! Commands to the device, and what it is told again after a reset.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wirerate_pmd::net::MacAddress;
use wirerate_pmd::port::{PortError, RssConfig, registry};
use wirerate_pmd::virtqueue::Features;

use super::model::{MAC, Machine, Settings};
use super::{Lab, NAME, config, eal, open, pool};

#[test]
fn commands_reach_the_device_and_are_told_again_after_a_start() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    let mut settings = Settings::default();
    settings.offered -= Features::RSS;
    let machine = Machine::new(settings);
    let config = config(&pool, 2).vlan_filter(true);
    let port = open(&eal, &machine, "").unwrap().configure(&config).unwrap();
    let (mut port, queues) = port.start().unwrap();
    let taken = || std::mem::take(&mut machine.lock().commands);
    // Two pairs; promiscuous.
    assert_eq!(taken(), [(4, 0, vec![2, 0]), (0, 0, vec![1])]);
    let (mac, group) = (MacAddress([2, 0, 0, 0, 0, 9]), MacAddress([1, 0, 0x5e, 0, 0, 1]));
    port.set_promiscuous(false).unwrap();
    port.set_all_multicast(true).unwrap();
    port.set_mac(mac).unwrap();
    port.set_mac_filter(&[group]).unwrap();
    port.set_vlan(5, true).unwrap();
    port.set_vlan(6, true).unwrap();
    port.set_vlan(5, false).unwrap();
    let filter = [&[0, 0, 0, 0, 1, 0, 0, 0][..], &group.0].concat();
    let expected = [
        (0, 0, vec![0]),
        (0, 1, vec![1]),
        (1, 1, mac.0.to_vec()),
        (1, 0, filter.clone()),
        (2, 0, vec![5, 0]),
        (2, 0, vec![6, 0]),
        (2, 1, vec![5, 0]),
    ];
    assert_eq!(taken(), expected);
    assert_eq!(port.mac(), mac);
    assert!(port.set_vlan(4096, true).is_err());
    assert!(port.set_mac_filter(&[mac; 65]).is_err());

    drop(queues);
    let (port, queues) = port.stop().unwrap().start().unwrap();
    let expected = BTreeSet::from([
        (4, 0, vec![2, 0]),
        (0, 0, vec![0]),
        (0, 1, vec![1]),
        (1, 0, filter),
        (1, 1, mac.0.to_vec()),
        (2, 0, vec![6, 0]),
    ]);
    assert_eq!(BTreeSet::from_iter(taken()), expected);
    drop((queues, port));
    machine.assert_released();
}

#[test]
fn without_a_vlan_filter_or_a_feature_there_are_no_such_commands() {
    let mut settings = Settings::default();
    settings.offered -= Features::CTRL_RX | Features::CTRL_MAC_ADDR | Features::RSS;
    let mut lab = Lab::with(settings, "", 1);
    assert!(lab.machine.lock().commands.is_empty());
    let error = lab.port().set_vlan(5, true).unwrap_err().to_string();
    assert!(error.contains("vlan_filter(true)"), "{error}");
    for refused in [
        lab.port().set_promiscuous(true),
        lab.port().set_all_multicast(true),
        lab.port().set_mac(MacAddress([2; 6])),
    ] {
        assert!(matches!(refused, Err(PortError::Unsupported { .. })), "{refused:?}");
    }
    assert_eq!(lab.port().mac(), MacAddress(MAC));
    lab.end();
}

#[test]
fn packets_are_spread_as_the_application_says() {
    let mut lab = Lab::new();
    let info = lab.port().info().rss.unwrap();
    let mut rss = RssConfig::even(info, 2);
    let first = lab.machine.lock().commands.remove(0);
    assert_eq!((first.0, first.1, first.2.len()), (4, 1, 8 + 2 * 128 + 3 + 40));
    assert_eq!(first.2[..12], [0x3f, 0, 0, 0, 127, 0, 0, 0, 0, 0, 1, 0]);
    rss.table = vec![1, 1];
    lab.port().set_rss(&rss).unwrap();
    let last = lab.machine.lock().commands.pop().unwrap();
    assert_eq!(last.2[..15], [0x3f, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 2, 0, 40]);
    rss.table = vec![2];
    assert!(lab.port().set_rss(&rss).unwrap_err().to_string().contains("rx queue 2"));
    lab.end();
}

#[test]
fn a_refused_command_is_an_error_and_one_without_an_answer_the_last() {
    let mut lab = Lab::new();
    lab.machine.lock().settings.refuses = Some((0, 1));
    let error = lab.port().set_all_multicast(true).unwrap_err().to_string();
    assert_eq!(error, format!("{NAME}: it refuses a change of all-multicast mode"));
    lab.machine.lock().settings.silent = true;
    let begun = Instant::now();
    assert!(lab.port().set_promiscuous(false).unwrap_err().to_string().contains("does not answer"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    lab.machine.lock().settings.silent = false;
    let begun = Instant::now();
    assert!(lab.port().set_promiscuous(false).is_err(), "the buffer is still the device's");
    assert!(begun.elapsed() < Duration::from_millis(500));
    lab.exchange(0, &[60]);
    lab.end();
}

#[test]
fn a_port_without_vlan_filter_or_rss_says_so() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    let null = || registry::open(&eal, 0, "net_null0").unwrap();
    let refused = null().configure(&config(&pool, 1).vlan_filter(true)).map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "this driver does not support a VLAN filter");
    let mut port = null().configure(&config(&pool, 1)).unwrap();
    let rss = RssConfig { hash: Default::default(), key: vec![0; 40], table: vec![0] };
    assert_eq!(port.set_rss(&rss).unwrap_err().to_string(), "this driver does not support RSS");
    assert!(port.set_all_multicast(true).is_err() && port.set_mac_filter(&[]).is_err());
}
