//! The unit by itself.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use super::*;

#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Signals for Told {
    fn message(&mut self, vector: u16) {
        self.0.lock().unwrap().push(vector.to_string());
    }
    fn line(&mut self, up: bool) {
        self.0.lock().unwrap().push(if up { "up".into() } else { "down".into() });
    }
}

fn unit(mode: Mode) -> (Interrupts, Told) {
    let told = Told::default();
    let mut unit = Interrupts::new();
    unit.mode = mode;
    unit.signals = Some(Box::new(told.clone()));
    (unit, told)
}

const PLAIN: Setup = Setup { gpie: 0, auto_clear: 0, auto_mask: Bits { queues: 0, other: 0 }, ivar_misc: 0 };

#[test]
fn the_line_is_up_while_something_is_not_masked() {
    let (mut unit, told) = unit(Mode::Line);
    unit.raise(Bits::of(LINK_CHANGE), &PLAIN);
    assert!(told.take().is_empty());
    unit.unmask(Bits::of(LINK_CHANGE | 1), &PLAIN);
    unit.raise(Bits::of(1), &PLAIN);
    assert_eq!(told.take(), ["up"]);
    unit.clear(Bits::of(1));
    assert!(told.take().is_empty());
    assert_eq!(unit.read(&PLAIN), LINK_CHANGE);
    assert_eq!((told.take(), unit.read(&PLAIN)), (vec!["down".to_owned()], 0));
    let auto = Setup { auto_mask: Bits::of(1), ..PLAIN };
    unit.raise(Bits::of(1), &auto);
    unit.read(&auto);
    unit.raise(Bits::of(1), &auto);
    assert_eq!((told.take(), unit.mask.register()), (vec!["up".into(), "down".into()], LINK_CHANGE));
}

#[test]
fn vectors_clear_and_mask_themselves_where_told() {
    let (mut unit, told) = unit(Mode::Msix);
    let setup = Setup {
        gpie: GPIE_MULTIPLE_MSIX | GPIE_OTHER_CLEAR_DISABLE,
        auto_clear: 0b10,
        ivar_misc: 0x8300,
        ..PLAIN
    };
    unit.unmask(Bits { queues: u64::MAX, other: LINK_CHANGE }, &setup);
    for _ in 0..2 {
        unit.raise(Bits { queues: 1 << 40 | 0b111, other: LINK_CHANGE }, &setup);
    }
    // Vectors 0 and 2 are still causes, and so is the link.
    assert_eq!(told.take(), ["0", "1", "2", "3", "40", "1", "40"]);
    assert_eq!(unit.read(&setup), LINK_CHANGE | 0b101);
    assert_eq!(unit.read(&setup), 0b101);
    let auto = Setup { gpie: setup.gpie | GPIE_AUTO_MASK, auto_mask: Bits::of(0b10), ..setup };
    unit.raise(Bits::of(0b10), &auto);
    unit.raise(Bits::of(0b10), &auto);
    assert_eq!(told.take(), ["1"]);
    unit.unmask(Bits::of(0b10), &auto);
    assert_eq!(told.take(), ["1"], "what came while it was masked");
}

#[test]
fn one_message_does_for_all_without_gpie() {
    for mode in [Mode::Msi, Mode::Msix] {
        let (mut unit, told) = unit(mode);
        unit.unmask(Bits::of(u32::MAX), &PLAIN);
        unit.raise(Bits::of(0b1000 | LINK_CHANGE), &PLAIN);
        assert_eq!(told.take(), ["0"]);
    }
}

#[test]
fn a_vector_interrupts_no_more_often_than_its_interval_says() {
    let (mut unit, told) = unit(Mode::Msix);
    let setup = Setup { gpie: GPIE_MULTIPLE_MSIX, auto_clear: 0b11, ivar_misc: 0x8300, ..PLAIN };
    let bits = |queues| Bits { queues, other: 0 };
    unit.unmask(Bits { queues: 0b11, other: LINK_CHANGE }, &setup);
    unit.set_interval(1, 3 << INTERVAL_SHIFT, &setup);
    unit.set_interval(3, 2 << INTERVAL_SHIFT, &setup);
    (0..3).for_each(|_| unit.raise(bits(0b11), &setup));
    assert_eq!(told.take(), ["0", "1", "0", "0"]);
    (0..2).for_each(|_| unit.time(&setup));
    assert!(unit.waits() && told.take().is_empty());
    unit.time(&setup);
    assert_eq!(told.take(), ["1"], "what came meanwhile is told of once");
    (0..2).for_each(|_| unit.time(&setup));
    assert!(unit.waits());
    unit.time(&setup);
    assert!(!unit.waits() && told.take().is_empty());
    // What is masked or cleared meanwhile does not come.
    unit.raise(bits(0b10), &setup);
    unit.raise(bits(0b10), &setup);
    unit.mask(bits(0b10));
    (0..4).for_each(|_| unit.time(&setup));
    assert_eq!(told.take(), ["1"]);
    unit.unmask(bits(0b10), &setup);
    assert_eq!(told.take(), ["1"]);
    unit.raise(bits(0b10), &setup);
    unit.clear(bits(0b10));
    (0..4).for_each(|_| unit.time(&setup));
    assert!(told.take().is_empty());
    // The others' vector.
    unit.raise(Bits::of(LINK_CHANGE), &setup);
    unit.clear(Bits::of(LINK_CHANGE));
    unit.raise(Bits::of(LINK_CHANGE), &setup);
    assert_eq!(told.take(), ["3"]);
    (0..2).for_each(|_| unit.time(&setup));
    assert_eq!(told.take(), ["3"]);
    // A write that does not keep the counter ends the wait.
    unit.raise(bits(0b10), &setup);
    unit.raise(bits(0b10), &setup);
    unit.set_interval(1, 9 << INTERVAL_SHIFT | COUNTER_KEPT, &setup);
    assert_eq!(told.take(), ["1"]);
    unit.set_interval(1, 9 << INTERVAL_SHIFT, &setup);
    assert_eq!(told.take(), ["1"]);
}

#[test]
fn the_line_and_the_one_message_are_held_back_by_the_first_interval() {
    let (mut unit, told) = unit(Mode::Line);
    unit.unmask(Bits::of(1), &PLAIN);
    unit.set_interval(0, 2 << INTERVAL_SHIFT, &PLAIN);
    for _ in 0..2 {
        unit.raise(Bits::of(1), &PLAIN);
        unit.read(&PLAIN);
    }
    unit.raise(Bits::of(1), &PLAIN);
    assert_eq!(told.take(), ["up", "down"]);
    (0..2).for_each(|_| unit.time(&PLAIN));
    assert_eq!(told.take(), ["up"]);
    unit.switch(Mode::Msi);
    unit.read(&PLAIN);
    (0..3).for_each(|_| unit.time(&PLAIN));
    told.take();
    for _ in 0..2 {
        unit.raise(Bits::of(1), &PLAIN);
        unit.clear(Bits::of(1));
    }
    unit.raise(Bits::of(1), &PLAIN);
    assert_eq!(told.take(), ["0"]);
    (0..2).for_each(|_| unit.time(&PLAIN));
    assert_eq!(told.take(), ["0"]);
}

#[test]
fn queues_have_entries() {
    let ivar = 0x83_82_05_80u32;
    assert_eq!(allocation(ivar, 4, false), Some(0));
    assert_eq!(allocation(ivar, 4, true), None);
    assert_eq!(allocation(ivar, 5, false), Some(2));
    assert_eq!(allocation(ivar, 5, true), Some(3));
}
