//! The virtual function by its registers alone, as a driver talks to the physical one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::trouble::Write;
use crate::{Settings, Troubles};

const MAILBOX: u32 = 0x2fc;
const MEMORY: u32 = 0x200;

fn model(seed: u64) -> Model {
    Model::new(Settings { seed, is_virtual: true, ..Settings::default() })
}

/// Waits for bits of VFMAILBOX; none came if it takes long.
fn wait(model: &mut Model, bit: u32) -> bool {
    (0..50).any(|_| model.read32(MAILBOX) & bit != 0)
}

/// Says something, and hears the answer.
fn ask(model: &mut Model, words: &[u32]) -> Option<Vec<u32>> {
    model.write32(MAILBOX, mailbox::VF_HAS_IT);
    (MEMORY..).step_by(4).zip(words).for_each(|(at, word)| model.write32(at, *word));
    model.write32(MAILBOX, mailbox::REQUEST);
    if !wait(model, mailbox::PF_ACK) || !wait(model, mailbox::PF_MESSAGE) {
        return None;
    }
    let answer = (0..5).map(|at| model.read32(MEMORY + 4 * at)).collect();
    model.write32(MAILBOX, mailbox::ACK);
    Some(answer)
}

fn faults(model: &Model) -> Vec<String> {
    model.faults().list().iter().map(ToString::to_string).collect()
}

#[test]
fn a_function_is_reset_and_told_of_its_address_and_queues() {
    for seed in 0..20 {
        let mut model = model(seed);
        assert_eq!(ask(&mut model, &[8, 6]).unwrap()[0], 0x4000_0008, "it has not reset itself");
        model.write32(0, 1 << 26);
        let answer = ask(&mut model, &[1]).unwrap();
        assert_eq!(answer, [0x8000_0001, 0x12ba_e290, 0x5634, 0, 0]);
        assert_eq!(ask(&mut model, &[9, 0, 0, 0, 0]).unwrap()[0], 0x6000_0009, "that is of version 1.1");
        for (api, good) in [(7, false), (1, false), (6, true)] {
            assert_eq!(
                ask(&mut model, &[8, api, 0]).unwrap()[0] >> 28,
                if good { 0xa } else { 0x6 },
                "{api}"
            );
        }
        assert_eq!(ask(&mut model, &[9, 0, 0, 0, 0]).unwrap(), [0xa000_0009, 4, 4, 0, 0]);
        assert_eq!(ask(&mut model, &[0x10, 0]).unwrap()[..2], [0xa000_0010, 1]);
        assert_eq!(ask(&mut model, &[0x0a]).unwrap()[0], 0x6000_000a);
        assert_eq!(ask(&mut model, &[0x02, 0x0302_0101, 0x0504]).unwrap()[0], 0x6000_0002, "of a group");
        assert_eq!(faults(&model), [] as [String; 0]);
    }
}

#[test]
fn rules_of_the_mailbox_and_the_registers_are_kept() {
    let mut model = model(1);
    model.write32(MEMORY, 1);
    model.write32(MAILBOX, mailbox::REQUEST);
    ask(&mut model, &[2, 5]);
    ask(&mut model, &[0x77]);
    model.read32(0x3000);
    model.write32(0x101c, 0);
    model.write32(0x110, 0xff);
    model.write32(0x1008, 0x10);
    let found = faults(&model);
    for (at, expected) in [
        "VFMBMEM[0] 0x1: the mailbox is to be taken",
        "VFMAILBOX 0x1: a request is made by who has not taken the mailbox",
        "VFMBMEM 0x2: a request of a kind that there is not, or with words that were not written",
        "VFMBMEM 0x77: a request of a kind",
        "0x03000 0x0: a virtual function has no such register",
        "VFGPRC 0x0: it can only be read",
        "VTEIAC 0xff: reserved bits 0xf8 are to be written as 0",
        "RDLEN[0] 0x10: reserved bits 0x10",
    ]
    .iter()
    .enumerate()
    {
        assert!(found[at].starts_with(expected), "{}", found[at]);
    }
    assert_eq!(found.len(), 8);
}

#[test]
fn manners_are_as_they_are_called() {
    let mut model = model(1);
    let mut with = |manner, words: &[u32]| {
        model.physical().unwrap().manner = manner;
        ask(&mut model, words).map(|answer| answer[0])
    };
    assert_eq!(with(Manner::Deaf, &[1]), None);
    assert_eq!(with(Manner::Mute, &[1]), None);
    assert_eq!(with(Manner::NoAddress, &[1]), Some(0x4000_0001));
    assert_eq!(with(Manner::Old, &[8, 6]), Some(0x6000_0008));
    assert_eq!(with(Manner::Old, &[8, 0]), Some(0xa000_0008));
    assert_eq!(with(Manner::Refusing, &[8, 6]), Some(0x6000_0008));
    assert_eq!(with(Manner::Beside, &[8, 6]), Some(0xa000_0007));
}

#[test]
fn a_reset_of_the_physical_function_is_told_and_undoes_all() {
    let mut model = model(1);
    ask(&mut model, &[1]);
    model.reset_physical(false);
    assert_eq!(model.read32(MAILBOX) & mailbox::RESET_NOW, mailbox::RESET_NOW);
    assert_eq!(model.read32(MAILBOX) & mailbox::RESET_NOW, mailbox::RESET_NOW);
    model.reset_physical(true);
    let told = (0..20).fold(0, |told, _| told | model.read32(MAILBOX));
    assert_eq!(told, mailbox::RESET_DONE | mailbox::PF_MESSAGE);
    assert_eq!(model.read32(MEMORY), 0x100);
    // Whoever hears it without having reset itself is told to.
    model.write32(MAILBOX, mailbox::ACK);
    assert!(wait(&mut model, mailbox::PF_MESSAGE));
    assert_eq!(model.read32(MEMORY), 0x4000_0000);
    assert_eq!(faults(&model), [] as [String; 0]);
}

#[test]
fn counters_go_round_and_reading_leaves_them() {
    let mut model = model(1);
    model.fill_vf_counters();
    let read = |model: &mut Model| [0x101c, 0x1020, 0x1024].map(|at| model.read32(at));
    assert_eq!(read(&mut model), [u32::MAX - 1, u32::MAX - 10, 0xf]);
    model.count_queue(1, 60, false);
    assert_eq!((read(&mut model), read(&mut model)), ([u32::MAX, 49, 0], [u32::MAX, 49, 0]));
    model.count_queue(1, 60, false);
    assert_eq!(read(&mut model)[0], 0);
    assert_eq!(model.read32(0x201c), u32::MAX - 1);
}

#[test]
fn the_mailbox_and_queues_have_vectors() {
    #[derive(Debug, Default, Clone)]
    struct Told(std::sync::Arc<std::sync::Mutex<Vec<u16>>>);
    impl crate::Signals for Told {
        fn message(&mut self, vector: u16) {
            self.0.lock().unwrap().push(vector);
        }
        fn line(&mut self, _: bool) {}
    }
    let (mut model, told) = (model(1), Told::default());
    model.set_signals(Box::new(told.clone()));
    model.set_interrupt_mode(crate::Mode::Msix);
    model.write32(0x120, 0x0000_8180);
    model.write32(0x140, 0x82);
    model.write32(0x110, 7);
    model.write32(0x108, 7);
    model.raise_queue(0, false);
    model.raise_queue(0, true);
    model.raise_queue(1, true);
    ask(&mut model, &[1]);
    assert_eq!(*told.0.lock().unwrap(), [0, 1, 2, 2]);
    assert_eq!((model.read32(0x100), model.read32(0x108)), (0, 7));
    model.write32(0x10c, 2);
    model.raise_queue(0, true);
    assert_eq!((model.read32(0x100), model.read32(0x108), told.0.lock().unwrap().len()), (2, 5, 4));
    assert_eq!(faults(&model), [] as [String; 0]);
}

#[test]
fn nothing_of_before_a_reset_comes_after_it() {
    let resets: [fn(&mut Model); 2] =
        [|model| model.reset_physical(false), |model| model.write32(0, 1 << 26)];
    for reset in resets {
        // Memory is not reached, so a write-back that comes is a fault.
        let mut model = model(1);
        model.set_troubles(Troubles { withheld: 1000, ..Troubles::default() });
        assert!(ask(&mut model, &[1]).is_some());
        assert_eq!(ask(&mut model, &[8, 6]).unwrap()[0], 0xa000_0008);
        assert_eq!(ask(&mut model, &[5, 1518]).unwrap()[0], 0xa000_0005);
        model.link.up = true;
        model.hear([&[0xff; 6], &[2; 94][..]].concat());
        let write = Write { register: "RDBAL", address: 0, bytes: [0; 16], len: 16 };
        model.put_back(false, 0, &[write]).unwrap();
        assert_eq!((model.buffered(), model.tally().held_back), (100, 1));
        reset(&mut model);
        model.end_troubles();
        assert_eq!((model.buffered(), faults(&model)), (0, Vec::new()));
    }
}

#[test]
fn descriptors_wait_as_long_as_the_functions_own_vector_says() {
    let mut model = model(1);
    // The first queue's sending has vector 1, the second's vector 0, and both are throttled.
    model.write32(0x120, 0x8000_8100);
    model.write32(0x820, 0x80);
    model.write32(0x824, 0x3e8);
    assert_eq!([0, 1, 2].map(|queue| model.throttle_of(queue)), [0x3e8, 0x80, 0]);
    assert_eq!(faults(&model), [] as [String; 0]);
}
