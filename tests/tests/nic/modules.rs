//! The module in the cage: which are used, and which are not.

use wirerate_nic::{Module, Settings, Wire};

use super::eventually;
use super::function::Machine;
use super::lab::{Lab, SOMEBODY, frame};
use super::{config, eal, open, pool};

const CORECTL: u32 = 0x14f00;

/// A module with these bytes changed.
fn module(changes: &[(u8, u8)]) -> Option<Module> {
    let mut module = Module::default();
    changes.iter().for_each(|(at, value)| module.set(*at, *value));
    Some(module)
}

/// Starts a port; what goes wrong.
fn start(
    module: Option<Module>,
    parameters: &str,
    change: impl FnOnce(&mut Settings),
) -> Result<u32, String> {
    let mut settings = Settings { module, ..Settings::default() };
    change(&mut settings);
    let (eal, machine) = (eal(), Machine::new(settings));
    let pool = pool(&eal, "packets");
    let port = open(&eal, &machine, parameters).unwrap().configure(&config(&pool, 1)).unwrap();
    let started = port.start();
    let core = machine.read(CORECTL);
    let result = started.map(|(port, queues)| drop((port, queues))).map_err(|error| error.to_string());
    machine.assert_released();
    assert_eq!(pool.counts().in_use, 0);
    result.map(|()| core)
}

#[test]
fn modules_that_work_get_the_settings_of_the_eeprom() {
    const SETTINGS: u32 = 0x1234;
    // Optics of both kinds; cables of whoever made them.
    for changes in
        [&[][..], &[(3, 0x20)], &[(3, 0), (8, 4), (37, 9)], &[(3, 0), (8, 8), (37, 9)], &[(3, 0x10), (6, 1)]]
    {
        assert_eq!(start(module(changes), "", |_| ()), Ok(SETTINGS), "{changes:?}");
    }
    assert_eq!(start(module(&[]), "", |settings| settings.port = 1), Ok(SETTINGS));
    // Optics of others, where the EEPROM or the user says so.
    let other = module(&[(37, 9)]);
    assert_eq!(start(other.clone(), ",allow_unsupported_sfp=1", |_| ()), Ok(SETTINGS));
    let any = |settings: &mut Settings| {
        settings.eeprom.set(0x2c, 1);
        settings.eeprom.mend();
    };
    assert_eq!(start(other, "", any), Ok(SETTINGS));
}

#[test]
fn modules_that_may_not_work_are_refused_by_name() {
    let eeprom = |settings: &mut Settings| {
        settings.eeprom.set(0x2b, 0xffff);
        settings.eeprom.mend();
    };
    for (changes, problem) in [
        (
            &[(37, 9)][..],
            "Intel Corp  (10GBASE-SR), is not one that Intel has tried: allow_unsupported_sfp=1",
        ),
        (&[(3, 0)], "is of no kind for 10 Gb/s that is known here"),
        (&[(0, 13)], "is no SFP+"),
        (&[(63, 0)], "the checksum of the module in the cage is 0x00"),
    ] {
        let error = start(module(changes), "", |_| ()).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    let error = start(module(&[]), "", eeprom).unwrap_err();
    assert!(error.contains("no settings for modules of kind 5"), "{error}");
}

#[test]
fn a_module_that_is_put_in_later_is_used() {
    let machine = Machine::new(Settings { module: None, ..Settings::default() });
    let mut lab = Lab::on(machine, 1, "", |config| config);
    assert!(!lab.port().link().up);
    lab.machine.model().set_module(module(&[(3, 0), (8, 4)]));
    eventually("the link stays down", || lab.port().link().up);
    lab.send(0, &[frame(SOMEBODY, 0, 100)]);
    assert!(lab.arrived(1) == [frame(SOMEBODY, 0, 100)]);
    lab.machine.assert_good();
    lab.far.send(frame(SOMEBODY, 0, 100));
    lab.received(1);
    lab.end();
}

#[test]
fn registers_can_be_shown_and_that_changes_nothing() {
    let mut lab = Lab::new(2);
    lab.send(1, &[frame(SOMEBODY, 0, 100)]);
    lab.arrived(1);
    for _ in 0..3 {
        let registers = lab.port().registers();
        let value = |name: &str| registers.iter().find(|register| register.name == name).unwrap().value;
        assert_eq!(
            (value("TDT[1]"), value("RDLEN[1]"), value("RXCTRL"), value("LINKS")),
            (1, 16384, 1, 0x7000_0000)
        );
        assert!(
            registers
                .iter()
                .any(|register| (register.name.as_str(), register.offset) == ("RETA[31]", 0x5c7c))
        );
        let mut names: Vec<_> = registers.iter().map(|register| &register.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), registers.len());
        assert!(names.len() > 150 && !registers.iter().any(|register| register.name == "TDT[2]"));
    }
    assert_eq!(lab.count("tx_good_packets_of_device"), 1);
    assert_eq!((lab.count("device_q1_tx_packets"), lab.count("device_q1_tx_bytes")), (1, 100));
    lab.machine.assert_good();
    lab.end();
}
