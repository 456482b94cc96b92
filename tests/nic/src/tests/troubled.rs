//! Each trouble does what it says, and nothing else.

use super::super::traffic::{TCP4, frame as packet};
use super::super::{Semaphore, Tally, Troubles};
use super::*;

impl Port {
    fn trouble(&self, troubles: Troubles) {
        self.card.model().set_troubles(troubles);
    }

    fn tally(&self) -> Tally {
        self.card.model().tally()
    }

    fn sent(&self) -> Vec<u8> {
        (0..8).map(|at| self.get(TX_RING + 16 * at + 12, 1)[0] & 1).collect()
    }

    fn received(&self) -> Vec<u8> {
        (0..8).map(|at| self.get(RX_RING + 16 * at + 8, 1)[0] & 1).collect()
    }
}

#[test]
fn late_write_backs_come_in_the_order_of_their_queue_and_no_other() {
    let mut orders = Vec::new();
    for seed in 0..40 {
        let (port, mut far) = Port::running(seed, ADVANCED);
        port.trouble(Troubles { late: 20, ..Troubles::default() });
        for at in 0..4 {
            port.send(at, &[&frame(60, at as u8)]);
            far.send(frame(60, at as u8));
        }
        let (mut first, mut partial) = (None, false);
        for _ in 0..30 {
            port.card.model().step();
            let (sent, received) = (port.sent(), port.received());
            for done in [&sent, &received] {
                assert!(done.is_sorted_by(|a, b| a >= b), "seed {seed}: {sent:?} {received:?}");
                partial |= (1..4).contains(&done.iter().filter(|done| **done == 1).count());
            }
            let sides = (sent[0] == 1, received[0] == 1);
            first = first.or((sides != (false, false)).then_some(sides));
        }
        assert_eq!(
            (port.sent(), port.received()),
            (vec![1, 1, 1, 1, 0, 0, 0, 0], vec![1, 1, 1, 1, 0, 0, 0, 0])
        );
        orders.push((first.unwrap(), partial));
        assert!(port.tally().held_back > 0);
        port.check();
    }
    // Either direction can be the first, and batches come in pieces.
    for order in [(true, false), (false, true)] {
        assert!(orders.iter().any(|(found, _)| *found == order), "{orders:?}");
    }
    assert!(orders.iter().any(|(_, partial)| *partial));
}

#[test]
fn what_is_withheld_comes_with_a_later_one_or_never() {
    let (port, mut far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { withheld: 1000, ..Troubles::default() });
    for at in 0..3 {
        port.send(at, &[&frame(60, at as u8)]);
        far.send(frame(60, at as u8));
    }
    (0..10).for_each(|_| port.work());
    assert_eq!((port.sent(), port.received(), port.r(RDH)), (vec![0; 8], vec![0; 8], 3));
    port.trouble(Troubles::default());
    port.work();
    assert_eq!(port.sent(), [0; 8]);
    port.send(3, &[&frame(60, 3)]);
    port.work();
    assert_eq!((port.sent(), port.received()), (vec![1, 1, 1, 1, 0, 0, 0, 0], vec![0; 8]));
    far.send(frame(60, 3));
    port.work();
    assert_eq!(port.received(), [1, 1, 1, 1, 0, 0, 0, 0]);
    assert_eq!(port.tally().held_back, 6);
    port.check();
    // A queue that is disabled is done with what it has.
    port.trouble(Troubles { withheld: 1000, ..Troubles::default() });
    far.send(frame(60, 4));
    port.work();
    assert_eq!(port.received()[4], 0);
    port.w(RXDCTL, 0);
    assert_eq!(port.received()[4], 1);
    port.check();
    // And all is over when it is said to be.
    port.send(4, &[&frame(60, 4)]);
    port.work();
    assert_eq!(port.sent()[4], 0);
    port.card.model().end_troubles();
    assert_eq!(port.sent()[4], 1);
    port.send(5, &[&frame(60, 5)]);
    port.work();
    assert_eq!(port.sent()[5], 1);
    port.check();
}

#[test]
fn a_link_that_flaps_comes_up_again_and_loses_what_comes_in_meanwhile() {
    let (port, mut far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { flaps: 100, ..Troubles::default() });
    let mut changes = 0;
    for _ in 0..300 {
        let was = port.card.model().link_is_up();
        far.send(frame(60, 1));
        port.card.model().step();
        changes += u64::from(was != port.card.model().link_is_up());
    }
    let tally = port.tally();
    assert!(tally.flaps > 3 && tally.lost > 3 && changes > 6, "{tally:?} {changes}");
    assert_eq!(u64::from(port.r(0x40d0)), 300 - tally.lost);
    port.trouble(Troubles::default());
    (0..2).for_each(|_| port.work());
    assert!(port.card.model().link_is_up());
    port.check();
}

#[test]
fn damaged_frames_are_dropped_or_marked_and_spoilt_ones_have_wrong_checksums() {
    let (port, mut far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { damaged: 1000, ..Troubles::default() });
    far.send(packet(TCP4));
    port.work();
    assert_eq!((port.r(0x4000), port.r(0x4074), port.r(RDH), port.tally().damaged), (1, 0, 0, 1));
    far.send(frame(40, 1));
    far.send(frame(1600, 1));
    port.work();
    assert_eq!((port.r(0x40a8), port.r(0x40b0), port.r(0x4000)), (1, 1, 0), "a fragment, and jabber");
    port.w(0x5080, 0x702);
    far.send(packet(TCP4));
    port.work();
    assert_eq!((port.r(RDH), port.get(RX_RING + 8, 4)), (1, vec![0x63, 0, 0, 0x20]));
    port.trouble(Troubles { spoilt: 1000, ..Troubles::default() });
    (0..6).for_each(|_| far.send(packet(TCP4)));
    port.work();
    for at in 1..7 {
        let found = port.get(RX_BUFFERS + 0x4000 * at, 104);
        assert_eq!(found.iter().zip(packet(TCP4)).filter(|(a, b)| **a != *b).count(), 1);
        // A header that is not one any more tells nothing.
        let [status, .., errors] = port.get(RX_RING + 16 * at + 8, 4)[..] else { panic!() };
        assert!(errors & 0xc0 != 0 || status & 0x20 == 0, "{status:#x} {errors:#x}");
    }
    assert_eq!(port.tally().spoilt, 6);
    port.check();
}

#[test]
fn interrupts_come_without_a_reason() {
    let (port, _far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { spurious: 1000, ..Troubles::default() });
    port.w(0x880, 0xffff);
    let causes = (0..500).fold(0, |causes, _| {
        port.card.model().step();
        causes | port.r(0x800)
    });
    assert_eq!((causes & 0xffff, causes & !0xffff), (0xffff, 1 << 17 | 1 << 20));
    assert_eq!(port.tally().spurious, 500);
    port.check();
}

#[test]
fn a_device_that_is_stuck_fetches_nothing_and_keeps_the_bus_until_it_is_reset() {
    let (port, mut far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { stuck_after: Some(3), ..Troubles::default() });
    for at in 0..4 {
        port.send(at, &[&frame(60, at as u8)]);
        far.send(frame(60, at as u8));
    }
    port.work();
    assert_eq!(port.r(RDH) + port.r(TDH), 3);
    port.w(0x0, 4);
    assert_eq!(port.r(0x8) >> 19 & 1, 1);
    port.w(0x0, 1 << 26);
    port.poll(0x10010, 1 << 9);
    port.w(0x0, 4);
    assert_eq!(port.r(0x8) >> 19 & 1, 0);
    port.check();
    let (port, _far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { master_stays: true, ..Troubles::default() });
    port.w(0x0, 4);
    assert_eq!(port.r(0x8) >> 19 & 1, 1);
    port.w(0x0, 1 << 26);
    port.w(0x0, 4);
    assert_eq!(port.r(0x8) >> 19 & 1, 0);
    port.check();
}

#[test]
fn a_reset_that_hangs_ends_with_the_functions() {
    let (port, mut far) = Port::running(1, ADVANCED);
    port.trouble(Troubles { reset_hangs: true, ..Troubles::default() });
    port.w(0x0, 1 << 26);
    far.send(frame(60, 1));
    (0..10).for_each(|_| port.work());
    assert_eq!((port.r(0x0) >> 26 & 1, port.r(RDH), port.r(0x5080)), (1, 0, 0x700));
    port.function.reset().unwrap();
    assert_eq!((port.r(0x0) >> 26 & 1, port.r(0x5080)), (0, 0));
    port.check();
}

#[test]
fn the_eeprom_reads_wrongly_and_semaphores_are_taken() {
    let (port, _far) = Port::new(1);
    let word = |at: u32| {
        port.w(0x10014, at << 2 | 1);
        port.poll(0x10014, 2);
        port.r(0x10014) >> 16
    };
    let before = word(0x3f);
    port.trouble(Troubles { eeprom_word: Some(0x3f), ..Troubles::default() });
    assert_eq!((word(0x3f), word(0x15)), (!before & 0xffff, 0xe66b));
    let hold = |semaphore| port.trouble(Troubles { semaphore: Some(semaphore), ..Troubles::default() });
    port.w(0x10140, 0);
    hold(Semaphore::Drivers);
    assert!((0..3).all(|_| port.r(0x10140) & 1 == 1));
    hold(Semaphore::Firmware);
    port.w(0x10140, 2);
    assert_eq!(port.r(0x10140) & 2, 0);
    hold(Semaphore::Resources);
    assert_eq!(port.r(0x10160) & 0x3e0, 0x3e0);
    port.trouble(Troubles::default());
    assert_eq!((port.r(0x10140) & 2, port.r(0x10160) & 0x3e0), (2, 0));
    port.check();
}

#[test]
fn a_device_that_was_pulled_out_answers_nothing() {
    let (port, mut far) = Port::running(1, ADVANCED);
    let accesses = port.tally().accesses;
    port.trouble(Troubles { removed_after: Some(accesses + 2), ..Troubles::default() });
    assert_eq!((port.r(RDT), port.function.config_read(0)), (7, 0x10fb_8086));
    port.w(0x5080, 0x400);
    assert_eq!((port.r(0x5080), port.function.config_read(0)), (u32::MAX, u32::MAX));
    port.w(0x104, 0);
    far.send(frame(60, 1));
    port.work();
    assert_eq!(port.received(), [0; 8]);
    assert!(!port.card.model().step());
    port.check();
}

#[test]
fn faults_are_obeyed_where_they_are_not_kept() {
    let settings = Settings { strict: false, ..Settings::default() };
    let mut model = super::super::Model::new(settings);
    model.write32(0x8, 1);
    model.write32(RXDCTL as u32, ENABLE);
    assert_eq!((model.read32(RXDCTL as u32), model.faults().count()), (0, 0));
}
