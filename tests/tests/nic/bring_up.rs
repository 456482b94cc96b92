//! Bringing the device up and putting it to rest, by its registers alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wirerate_nic::Settings;
use wirerate_pmd::net::MacAddress;

use super::function::Machine;
use super::{config, eal, eventually, open, pool};

/// Registers by their offsets (82599 datasheet, 8.2.3).
const CTRL: usize = 0x0;
const STATUS: usize = 0x8;
const EEC: usize = 0x10010;
const SWSM: usize = 0x10140;
const SW_FW_SYNC: usize = 0x10160;
const RDRXCTL: usize = 0x2f00;
const RXDCTL_2: usize = 0x1028 + 2 * 0x40;
const TXDCTL_1: usize = 0x6028 + 0x40;

#[test]
fn a_device_comes_up_and_goes_to_rest_whatever_the_datasheet_leaves_open() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    for seed in 0..20 {
        let machine = Machine::new(Settings { seed, ..Settings::default() });
        let port = open(&eal, &machine, "").unwrap();
        machine.assert_good();
        assert_eq!(port.mac(), MacAddress([0x90, 0xe2, 0xba, 0x12, 0x34, 0x56]));
        assert!(!machine.troubles().bus_master);
        let (port, queues) = port.configure(&config(&pool, 4)).unwrap().start().unwrap();
        machine.assert_good();
        eventually("the link stays down", || port.link().up);
        assert_eq!(port.link().speed, Some(10_000));
        {
            assert!(machine.troubles().bus_master);
            // Receive and transmit are on, the queues are, all of them have buffers, and the firmware knows of a driver.
            let read = |register| machine.read(register);
            assert_eq!((read(0x3000), read(0x4a80) & 1, read(0x18) >> 28 & 1), (1, 1, 1));
            for queue in 0..4 {
                assert_eq!((read(0x1028 + 0x40 * queue) >> 25, read(0x6028 + 0x40 * queue) >> 25), (1, 1));
                assert_eq!((read(0x1018 + 0x40 * queue), read(0x1008 + 0x40 * queue)), (1023, 16 * 1024));
            }
            // Promiscuous, as the configuration is unless it says otherwise; broadcast.
            assert_eq!(read(0x5080), 0x700);
        }
        drop(queues);
        let port = port.stop().unwrap();
        assert_eq!(
            (machine.troubles().bus_master, machine.read(0x3000), machine.read(0x18) >> 28),
            (false, 0, 0)
        );
        assert_eq!(pool.counts().in_use, 0);
        drop(port);
        machine.assert_released();
    }
}

#[test]
fn what_the_application_asks_for_is_in_the_registers_and_again_after_a_start() {
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    let pool = pool(&eal, "packets");
    let configured =
        open(&eal, &machine, "").unwrap().configure(&config(&pool, 1).promiscuous(false).mtu(9000));
    let (mut port, queues) = configured.unwrap().start().unwrap();
    let read = |register| machine.read(register);
    assert_eq!((read(0x5080), read(0x4268) >> 16, read(0x4240) & 7), (0x400, 9018, 7));
    port.set_mac(MacAddress([2, 3, 4, 5, 6, 7])).unwrap();
    port.set_all_multicast(true).unwrap();
    port.set_mtu(1500).unwrap();
    let groups = [MacAddress([1, 0, 0x5e, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 9])];
    port.set_mac_filter(&groups).unwrap();
    let check = |filter| {
        assert_eq!((read(0x5080), read(0x4268) >> 16), (filter, 1518));
        assert_eq!((read(0xa200), read(0xa204)), (0x0504_0302, 0x8000_0706));
        assert_eq!((read(0xa208), read(0xa20c)), (0x005e_0001, 0x8000_0100));
        assert_eq!((read(0xa210), read(0xa214)), (0x0000_0002, 0x8000_0900));
        machine.assert_good();
    };
    check(0x500);
    drop(queues);
    let (mut port, queues) = port.stop().unwrap().start().unwrap();
    check(0x500);
    port.set_promiscuous(true).unwrap();
    check(0x700);
    port.set_mac_filter(&groups[..1]).unwrap();
    assert_eq!((read(0xa208), read(0xa210), read(0xa214)), (0x005e_0001, 0, 0));
    for (mtu, good) in [(67, false), (68, true), (15_854, true), (15_855, false)] {
        assert_eq!(port.set_mtu(mtu).is_ok(), good, "{mtu}");
    }
    assert!(port.set_mac(MacAddress([1, 0, 0, 0, 0, 0])).is_err());
    assert!(port.set_mac_filter(&[groups[0]; 128]).is_err());
    drop((port, queues));
    machine.assert_released();
}

#[test]
fn a_port_that_is_dropped_leaves_its_device_at_rest_whatever_its_state() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    let machine = Machine::new(Settings::default());
    drop(open(&eal, &machine, "").unwrap());
    machine.assert_released();
    drop(open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap());
    machine.assert_released();
    let started = open(&eal, &machine, "").unwrap().configure(&config(&pool, 2)).unwrap().start().unwrap();
    drop(started.0);
    machine.assert_good();
    drop(started.1);
    assert_eq!(pool.counts().in_use, 0);
    // Queues that somebody still has keep the registers, and nothing else.
    machine.assert_released();
}

/// Looks that a device of which registers are stuck is refused in one line, soon, and left at rest.
fn refused(stuck: &[(usize, u32, u32)], at_start: bool, expected: &str) {
    refused_on(&Machine::new(Settings::default()), stuck, at_start, expected);
}

fn refused_on(machine: &Arc<Machine>, stuck: &[(usize, u32, u32)], at_start: bool, expected: &str) {
    let eal = eal();
    let pool = pool(&eal, "packets");
    let stick = || machine.troubles().stuck.extend_from_slice(stuck);
    if !at_start {
        stick();
    }
    let begun = Instant::now();
    let opened = open(&eal, machine, "");
    let result = opened.and_then(|port| port.configure(&config(&pool, 3))).and_then(|port| {
        stick();
        port.start().map(|_| ())
    });
    let error = result.unwrap_err().to_string();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    machine.assert_released();
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn whatever_is_waited_for_has_a_limit() {
    refused(&[(CTRL, 1 << 26, 1 << 26)], false, "a reset is not done after 100 ms: the register at 0x00000");
    refused(&[(EEC, 1 << 9, 0)], false, "reading the EEPROM's settings is not done after 500 ms");
    refused(&[(EEC, 1 << 8, 0)], false, "it has no EEPROM");
    refused(&[(RDRXCTL, 1 << 3, 0)], false, "the set-up of DMA is not done");
    refused(&[(0x10014, 1 << 1, 0)], false, "reading a word of the EEPROM is not done");
    refused(&[(0x10014, 0xff << 24, 0)], false, "the checksum of its EEPROM");
    refused(&[(SWSM, 1, 1)], false, "semaphore between drivers is held by others");
    refused(&[(SWSM, 2, 0)], false, "firmware's semaphore is held by others");
    refused(&[(SW_FW_SYNC, 1 << 5, 1 << 5)], false, "the EEPROM is held by others for 1000 ms");
    refused(&[(SW_FW_SYNC, 1 << 6, 1 << 6)], true, "the pair of wires to the module is held by others");
    let backplane = Machine::new(Settings::default());
    backplane.troubles().identity = Some(0x10f7_8086);
    let held = (SW_FW_SYNC, 1 << 8, 1 << 8);
    refused_on(&backplane, &[held], true, "the set-up of the link is held by others");
    refused(&[(RXDCTL_2, 1 << 25, 0)], true, "enabling a receive queue is not done after 100 ms");
    refused(&[(TXDCTL_1, 1 << 25, 0)], true, "enabling a transmit queue is not done");
    refused(&[(0x8d04, 1, 0)], true, "halting reception is not done");
    refused(&[(0xa200, u32::MAX, 0), (0xa204, u32::MAX, 0)], false, "the address 00:00:00:00:00:00");
}

#[test]
fn requests_that_do_not_end_and_firmware_that_does_not_answer_are_lived_with() {
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    let pool = pool(&eal, "packets");
    machine.troubles().stuck.extend([(STATUS, 1 << 19, 1 << 19), (0x10110, u32::MAX, 0)]);
    drop(open(&eal, &machine, "").unwrap().configure(&config(&pool, 1)).unwrap().start().unwrap());
    machine.assert_released();
}

#[test]
fn a_device_that_is_gone_or_another_is_said_to_be_so() {
    let (eal, machine) = (eal(), Machine::new(Settings::default()));
    machine.troubles().identity = Some(0x15ab_8086);
    let error = open(&eal, &machine, "").unwrap_err().to_string();
    assert_eq!(error, "0000:03:00.0: no driver knows PCI device 8086:15ab");
    machine.troubles().gone = true;
    let error = open(&eal, &machine, "").unwrap_err().to_string();
    assert_eq!(error, "0000:03:00.0: the device is gone: its registers read as all ones");
    machine.assert_released();
}

#[test]
fn a_link_is_set_up_as_the_port_is_made() {
    let eal = eal();
    let pool = pool(&eal, "packets");
    // A cage gets the serial interface of SFP+, whatever the EEPROM says; a backplane gets what that says.
    for (identity, mode) in [(0x10fb_8086, 3), (0x154d_8086, 3), (0x10f8_8086, 6)] {
        let machine = Machine::new(Settings::default());
        machine.troubles().identity = Some(identity);
        machine.troubles().stuck.push((0x42a0, 7 << 13, 6 << 13));
        let started =
            open(&eal, &machine, "").unwrap().configure(&config(&pool, 1)).unwrap().start().unwrap();
        assert_eq!(machine.read(0x42a0) >> 13 & 7, mode, "{identity:#x}");
        drop(started);
        machine.assert_released();
    }
}

#[test]
fn an_x540_is_brought_up_as_far_as_a_model_of_the_82599_can_tell() {
    for device in [0x1528, 0x1563_u32] {
        let (eal, machine) = (eal(), Machine::new(Settings::default()));
        machine.troubles().identity = Some(device << 16 | 0x8086);
        let pool = pool(&eal, "packets");
        let port = open(&eal, &machine, "").unwrap();
        let entries = port.info().rss.unwrap().table_len;
        assert_eq!(entries, if device == 0x1528 { 128 } else { 512 });
        // An X550's table goes on where an 82599 has nothing: it is looked at with one queue only.
        let queues = if device == 0x1528 { 2 } else { 1 };
        let (port, queues) = port.configure(&config(&pool, queues)).unwrap().start().unwrap();
        assert_eq!(machine.read(0x3c00), 384 << 10, "its packet buffer");
        assert!(queues.rx.iter().all(|rx| rx.wait_fd().is_some()));
        drop((port, queues));
        assert_eq!(pool.counts().in_use, 0);
        // It has its semaphore in SW_FW_SYNC, where the 82599 asks for another first.
        let model = machine.model();
        let others: Vec<String> = model.faults().list().iter().map(ToString::to_string).collect();
        assert!(others.iter().all(|fault| fault.starts_with("SW_FW_SYNC")), "{others:#?}");
    }
}
