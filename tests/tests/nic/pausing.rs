//! Flow control: the port pauses when it is asked to, and asks when nobody takes what it receives.

use wirerate_nic::Wire;

use super::eventually;
use super::lab::{Lab, SOMEBODY, frame};

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];

/// A pause of so many quanta.
fn pause(quanta: u16) -> Vec<u8> {
    let mut frame = vec![1, 0x80, 0xc2, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x88, 0x08, 0, 1];
    frame.extend(quanta.to_be_bytes());
    frame.resize(60, 0);
    frame
}

#[test]
fn pauses_are_obeyed_if_the_configuration_says_so_and_not_received_then() {
    for (parameters, obeys) in
        [("", false), (",flow_ctrl=tx", false), (",flow_ctrl=rx", true), (",flow_ctrl=full", true)]
    {
        let mut lab = Lab::with(1, parameters, |config| config);
        lab.far.send(pause(0xffff));
        lab.far.send(frame(OURS, 0, 60));
        // Where they mean nothing they are frames like others, and this port receives all.
        let mut expected = vec![pause(0xffff), frame(OURS, 0, 60)];
        if obeys {
            expected.remove(0);
        }
        assert!(lab.received(expected.len()) == expected);
        assert_eq!(lab.count("rx_xoff_packets"), 1);
        lab.send(0, &[frame(SOMEBODY, 1, 60)]);
        if obeys {
            lab.far.send(pause(0));
        }
        // RFCE: that nothing is sent in a pause then is for the model's own tests, which count its steps.
        assert_eq!(lab.machine.model().kept("MFLCN", 0) & 1 << 3 != 0, obeys, "{parameters}");
        assert!(lab.arrived(1) == [frame(SOMEBODY, 1, 60)], "{parameters}");
        assert_eq!(lab.count("rx_xon_packets"), u64::from(obeys));
        lab.end();
    }
}

#[test]
fn the_other_end_is_asked_to_pause_and_nothing_is_lost() {
    let mut lab = Lab::with(1, ",flow_ctrl=full,queue_size=128", |config| config);
    // More than there are buffers, and than the packet buffer holds below its threshold.
    let frames: Vec<_> = (0..330).map(|at| frame(OURS, at, 1500)).collect();
    frames.iter().for_each(|frame| lab.far.send(frame.clone()));
    eventually("nobody is asked to pause", || lab.count("tx_xoff_packets") > 0);
    assert!(lab.arrived(1)[0].starts_with(&pause(0xffff)[..6]));
    assert!(lab.received(330) == frames);
    eventually("nobody is told to go on", || lab.count("tx_xon_packets") > 0);
    assert_eq!(lab.port().stats().imissed, 0);
    lab.end();
}
