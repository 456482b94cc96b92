//! Pause frames, both ways.

use super::*;

const FCTTV: usize = 0x3200;
const FCRTL: usize = 0x3220;
const FCRTH: usize = 0x3260;
const FCRTV: usize = 0x32a0;
const FCCFG: usize = 0x3d00;
const MFLCN: usize = 0x4294;
const LXONTXC: usize = 0x3f60;
const LXOFFTXC: usize = 0x3f68;
const LXONRXCNT: usize = 0x41a4;
const LXOFFRXCNT: usize = 0x41a8;
/// Quanta that go by in 500 steps.
const LONG: u16 = 500 * 39;
const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];
const GROUP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 1];

fn pause(to: [u8; 6], operation: u8, quanta: u16) -> Vec<u8> {
    let [a, b] = quanta.to_be_bytes();
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 1, 0x88, 8, 0, operation, a, b]].concat();
    frame.resize(60, 0);
    frame
}

#[test]
fn a_pause_stops_transmission_for_its_time() {
    for to in [GROUP, OURS] {
        let (port, mut far) = Port::running(1, ADVANCED);
        let short = frame(60, 1);
        far.send(pause(to, 1, 100));
        port.work();
        port.send(0, &[&short]);
        port.work();
        assert_eq!(far.receive().unwrap(), short, "flow control is off");
        // All that comes is received, control or not.
        assert_eq!((port.r(RDH), port.r(LXOFFRXCNT)), (1, 1));
        port.w(MFLCN, 0b1010);
        far.send(pause(to, 1, 200 * 39));
        port.card.model().step();
        port.send(1, &[&short]);
        port.work();
        assert!(far.receive().is_none());
        port.work();
        assert_eq!(far.receive().unwrap(), short);
        far.send(pause(to, 1, 0xffff));
        port.card.model().step();
        port.send(2, &[&short]);
        port.work();
        assert!(far.receive().is_none());
        far.send(pause(to, 1, 0));
        port.work();
        assert_eq!(far.receive().unwrap(), short, "it was called off");
        assert_eq!((port.r(LXOFFRXCNT), port.r(LXONRXCNT), port.r(RDH)), (2, 1, 1));
        // Not for us; another operation, which passes only where asked.
        far.send(pause([2; 6], 1, 1));
        far.send(pause(to, 2, 1));
        port.work();
        assert_eq!((port.r(RDH), port.r(LXOFFRXCNT)), (2, 0));
        port.w(MFLCN, 0b1001);
        far.send(pause(to, 2, 1));
        far.send(pause(to, 1, 0));
        port.work();
        assert_eq!(port.r(RDH), 4);
        port.check();
    }
}

#[test]
fn a_buffer_that_fills_up_stops_the_other_end_until_it_is_empty_again() {
    let (port, mut far) = Port::new(3);
    port.set_up_ring(RDBAL, RX_RING);
    port.w(SRRCTL, ADVANCED);
    port.w(RXDCTL, ENABLE);
    port.poll(RXDCTL, ENABLE);
    port.open_rx();
    port.w(FCTTV, LONG.into());
    port.w(FCRTL, 0x8000_0000 | 1024);
    port.w(FCRTH, 0x8000_0000 | 4096);
    let full = |far: &mut CableEnd, count: u8| {
        (0..count).for_each(|at| far.send(frame(1024, at)));
        port.work();
    };
    full(&mut far, 3);
    port.w(FCCFG, 1 << 3);
    port.work();
    assert!(far.receive().is_none());
    full(&mut far, 1);
    let sent = far.receive().unwrap();
    let mut expected = pause(GROUP, 1, LONG);
    expected[6..12].copy_from_slice(&OURS);
    assert_eq!(sent, expected);
    full(&mut far, 1);
    assert!(far.receive().is_none(), "it was told already");
    // Told again when 400 of the 500 steps are over.
    port.w(FCRTV, 100 * 39);
    (0..3).for_each(|_| port.work());
    assert_eq!(far.receive().unwrap(), expected);
    assert!(far.receive().is_none());
    port.w(FCRTV, 0);
    (0..7).for_each(|at| port.fill(at));
    port.w(RDT, 7);
    port.work();
    expected[16..18].fill(0);
    assert_eq!((far.receive().unwrap(), far.receive()), (expected.clone(), None));
    assert_eq!((port.r(LXOFFTXC), port.r(LXONTXC)), (2, 1));
    assert_eq!((port.r(0x4080), port.r(0x40f0)), (3, 3), "they are counted among the others, too");
    // Without XONE the pause runs out by itself.
    port.w(FCRTL, 1024);
    full(&mut far, 6);
    assert_eq!(far.receive().unwrap()[16..18], LONG.to_be_bytes());
    (0..6).for_each(|at| port.fill((at + 7) % 8));
    port.w(RDT, 5);
    port.work();
    assert!(far.receive().is_none());
    port.check();
}

#[test]
fn classes_are_a_fault() {
    let (port, _far) = Port::new(1);
    port.w(FCCFG, 1 << 4);
    port.only("FCCFG", "classes");
    let (port, _far) = Port::new(1);
    port.w(MFLCN, 1 << 2);
    port.only("MFLCN", "classes");
}
