//! Devices that do not keep to the rules: each is an error that says what is wrong, in time, and nothing is left over.

use std::time::{Duration, Instant};

use wirerate_pmd::PortConfig;
use wirerate_pmd::port::registry;
use wirerate_pmd::virtqueue::Features;

use super::model::{BAR, BAR_LEN, COMMON, DEVICE, ISR, Machine, NOTIFY, Settings};
use super::{Lab, NAME, eal, open, pool};

/// Opens, configures and starts a device that is like `settings`, and looks that this fails with `problem`.
#[track_caller]
fn refused(settings: Settings, parameters: &str, problem: &str) {
    refused_with_pairs(settings, parameters, 1, problem);
}

/// The same with so many pairs of queues.
#[track_caller]
fn refused_with_pairs(settings: Settings, parameters: &str, pairs: u16, problem: &str) {
    let eal = eal();
    let packets = pool(&eal, "packets");
    let machine = Machine::new(settings);
    let begun = Instant::now();
    let config = PortConfig::new(packets.clone()).rx_queues(pairs).tx_queues(pairs);
    let result = open(&eal, &machine, parameters).and_then(|port| port.configure(&config)?.start());
    let error = result.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(problem), "{error}");
    assert!(!error.contains('\n'), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{error} took {:?}", begun.elapsed());
    {
        let mut device = machine.lock();
        assert!(device.released && device.mapped.is_empty() && !device.bus_master, "{error}");
        assert!(device.faults.is_empty(), "{error}: {:?}", device.faults);
        if device.settings.never_resets {
            device.status = 0;
        }
    }
    machine.assert_released();
    assert_eq!(packets.counts().in_use, 0, "{error}");
}

fn capability(kind: u8, bar: u8, offset: u32, len: u32) -> Settings {
    let mut settings = Settings::default();
    let place = settings.capabilities.iter().position(|capability| capability.0 == kind).unwrap();
    let size = settings.capabilities[place].4;
    settings.capabilities[place] = (kind, bar, offset, len, size);
    settings
}

#[test]
fn structures_outside_of_their_registers() {
    for (kind, what) in [
        (1, "common configuration"),
        (2, "notification registers"),
        (3, "interrupt status"),
        (4, "device configuration"),
    ] {
        refused(capability(kind, BAR, BAR_LEN - 0x10, 0x1000), "", what);
        refused(capability(kind, BAR, u32::MAX - 3, 8), "", what);
        refused(capability(kind, BAR, 0x8000_0000, 0x8000_0000), "", what);
        refused(capability(kind, 6, 0, 0x1000), "", "BAR 6");
        refused(capability(kind, 0, 0, 0x1000), "", "there is no BAR 0");
        refused(capability(kind, BAR, 0, 0), "", what);
        let mut settings = Settings::default();
        settings.capabilities.retain(|capability| capability.0 != kind);
        refused(settings, "", &format!("its {what} cannot be used: no capability tells"));
    }
    refused(capability(1, BAR, COMMON + 2, 0x38), "", "aligned to 4");
    refused(capability(1, BAR, COMMON, 0x37), "", "56 are needed");
    refused(capability(4, BAR, DEVICE, 8), "", "shorter than the device's features say");
}

#[test]
fn a_structure_that_cannot_be_used_before_one_that_can() {
    let mut settings = Settings::default();
    settings.capabilities.insert(0, (1, 7, 0, 0x38, 16));
    settings.capabilities.insert(0, (3, BAR, BAR_LEN, 1, 16));
    settings.capabilities.insert(0, (99, BAR, ISR, 1, 16));
    let eal = eal();
    let machine = Machine::new(settings);
    drop(open(&eal, &machine, "").unwrap());
    machine.assert_released();
}

#[test]
fn a_list_of_capabilities_without_end() {
    let mut settings = Settings { loops: true, ..Settings::default() };
    settings.capabilities.retain(|capability| capability.0 != 2);
    refused(settings, "", "notification registers");
}

#[test]
fn devices_of_other_kinds() {
    let legacy = Settings { id: 0x1000, capabilities: Vec::new(), ..Settings::default() };
    refused(legacy, "", "no virtio 1.0 interface");
    let mut legacy = Settings { id: 0x1000, ..Settings::default() };
    legacy.offered -= Features::VERSION_1;
    refused(legacy, "", "no virtio 1.0 interface");
    refused(Settings { id: 0x1042, ..Settings::default() }, "", "no driver knows PCI device 1af4:1042");
    let eal = eal();
    let transitional = Machine::new(Settings { id: 0x1000, ..Settings::default() });
    drop(open(&eal, &transitional, "").unwrap());
    transitional.assert_released();
}

#[test]
fn queues_that_cannot_be() {
    for (queue_size, problem) in [(0, "not made it available"), (32769, "32769"), (u16::MAX, "65535")] {
        refused(Settings { queue_size, ..Settings::default() }, "", problem);
    }
    // No power of two where the ring must have one: less is used.
    let eal = eal();
    let packets = pool(&eal, "packets");
    let machine = Machine::new(Settings { queue_size: 100, ..Settings::default() });
    let config = PortConfig::new(packets);
    let port = open(&eal, &machine, "").unwrap().configure(&config).unwrap().start().unwrap();
    assert_eq!(machine.lock().queues[0].size, 64);
    drop(port);
    machine.assert_released();

    refused(Settings { queue_size: 2, ..Settings::default() }, "", "a command takes 3");
    refused(Settings { refuses_vectors: true, ..Settings::default() }, "", "takes no interrupt vector");
    refused(Settings { pairs: 0, ..Settings::default() }, "", "its queue 1 cannot be used");
    // The control queue is behind all pairs that the device says it has.
    for (told_pairs, problem) in [(65_535, "65535 pairs of queues"), (300, "its queue 600 cannot be used")] {
        let settings = Settings { told_pairs: Some(told_pairs), ..Settings::default() };
        refused_with_pairs(settings, "", 2, problem);
    }
    refused_with_pairs(
        Settings { told_pairs: Some(0), ..Settings::default() },
        "",
        2,
        "2 rx queues asked, 1 possible",
    );
}

#[test]
fn doorbells_outside_of_their_registers() {
    refused(
        Settings { notify_off: Some(0x400), ..Settings::default() },
        "",
        "doorbell is said to be at 0x1000",
    );
    refused(Settings { notify_off: Some(u16::MAX), ..Settings::default() }, "", "doorbell");
    let far = Settings { notify_off: Some(u16::MAX), multiplier: 1 << 31, ..Settings::default() };
    refused(far, "", "doorbell");
    for multiplier in [1, 3, 6, u32::MAX] {
        refused(Settings { multiplier, ..Settings::default() }, "", "power of two");
    }
    refused(capability(2, BAR, NOTIFY + 1, 0x100), "", "aligned to 2");
}

#[test]
fn a_reset_that_is_never_done() {
    let eal = eal();
    let machine = Machine::new(Settings { never_resets: true, ..Settings::default() });
    machine.lock().status = 4;
    let begun = Instant::now();
    let error = open(&eal, &machine, "").map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("does not finish its reset") && error.contains("0x04"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(machine.lock().released);

    // One that stops to answer while it works loses its way to memory, and is reset by PCI.
    let packets = pool(&eal, "packets");
    let machine = Machine::new(Settings::default());
    let config = PortConfig::new(packets.clone());
    let port = open(&eal, &machine, "").unwrap().configure(&config).unwrap().start().unwrap();
    machine.lock().settings.never_resets = true;
    drop(port);
    machine.assert_released();
    assert_eq!(machine.lock().function_resets, 1);
    assert_eq!(packets.counts().in_use, 0);
}

#[test]
fn features_that_are_offered_and_then_refused() {
    refused(Settings { refuses_features: true, ..Settings::default() }, "", "does not accept features");
    refused(Settings::default(), ",packed_vq=1", "does not offer packed rings");
}

#[test]
fn a_device_that_goes_past_the_iommu() {
    let mut settings = Settings::default();
    settings.offered -= Features::ACCESS_PLATFORM;
    refused(settings.clone(), "", "iommu_platform=on");
    settings.translated = false;
    Lab::with(settings, "", 1).end();
}

#[test]
fn a_configuration_that_never_stands_still() {
    refused(Settings { restless: true, ..Settings::default() }, "", "does not stand still");
}

#[test]
fn a_device_that_is_not_there() {
    let eal = eal();
    let machine = Machine::new(Settings::default());
    machine.lock().gone = true;
    let error = open(&eal, &machine, "").map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("all ones"), "{error}");
    assert!(machine.lock().released);
    // Gone between open and start.
    let machine = Machine::new(Settings::default());
    let packets = pool(&eal, "packets");
    let port = open(&eal, &machine, "").unwrap().configure(&PortConfig::new(packets.clone())).unwrap();
    machine.pull_out();
    let error = port.start().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
    machine.assert_released();
    assert_eq!(packets.counts().in_use, 0);
}

#[test]
fn commands_at_the_start_that_are_refused_or_not_answered() {
    let eal = eal();
    let packets = pool(&eal, "packets");
    let mut settings = Settings { refuses: Some((4, 0)), ..Settings::default() };
    settings.offered -= Features::RSS;
    let machine = Machine::new(settings);
    let config = PortConfig::new(packets.clone()).rx_queues(2).tx_queues(2);
    let start = |machine: &Machine| {
        let port = open(&eal, machine, "").unwrap().configure(&config).unwrap();
        port.start().map(|_| ()).unwrap_err().to_string()
    };
    assert!(start(&machine).contains("refuses a number of queue pairs"));
    machine.assert_released();
    refused(Settings { silent: true, ..Settings::default() }, "", "does not answer");
    // One that only keeps its filter closed can be used all the same.
    let machine = Machine::new(Settings { refuses: Some((0, 0)), ..Settings::default() });
    let port = open(&eal, &machine, "").unwrap().configure(&config).unwrap().start().unwrap();
    drop(port);
    machine.assert_released();
    assert_eq!(packets.counts().in_use, 0);
}

#[test]
fn rings_that_the_device_does_not_reach_in_one_piece() {
    refused(Settings { ring_piece: Some(4096), ..Settings::default() }, "", "in one piece");
}

#[test]
fn devargs_of_the_registry() {
    let eal = eal();
    let machine = Machine::new(Settings::default());
    let error =
        registry::open_pci(&eal, 0, machine.function(), &format!("{NAME},size=1")).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no parameter is called \"size\""), "{error}");
    assert!(machine.lock().released);
    let name = |vendor, device| registry::pci_driver(vendor, device).map(|driver| driver.name);
    assert_eq!(
        [(0x1af4, 0x1000), (0x1af4, 0x1041), (0x8086, 0x1000)].map(|(vendor, device)| name(vendor, device)),
        [Some("net_virtio"), Some("net_virtio"), None]
    );
}
