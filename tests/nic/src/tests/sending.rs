//! What goes out: contexts, tags, checksums, segments, and how descriptors come back.

use super::super::packet::{Headers, L4};
use super::super::traffic::{Kind, TCP4, frame as packet, mend};
use super::*;

const VLE: u32 = 1 << 30;
const TSE: u32 = 1 << 31;
const IXSM: u32 = 1 << 8;
const TXSM: u32 = 1 << 9;
const CC: u32 = 1 << 7;
const IDX1: u32 = 1 << 4;

/// A context descriptor.
#[derive(Clone, Copy)]
struct Setup {
    place: u64,
    tag: u16,
    mac: u64,
    ip: u64,
    l4: u64,
    mss: u64,
    /// TUCMD: SNAP, IPV4, L4T.
    command: u64,
}

const PLAIN: Setup = Setup { place: 0, tag: 0, mac: 14, ip: 20, l4: 20, mss: 0, command: 0b0110 };

impl Port {
    fn set_context(&self, at: u64, setup: Setup) {
        let low = setup.ip | setup.mac << 9 | u64::from(setup.tag) << 16;
        let high =
            setup.command << 9 | 2 << 20 | 1 << 29 | setup.place << 36 | setup.l4 << 40 | setup.mss << 48;
        self.put(TX_RING + 16 * at, &(u128::from(low) | u128::from(high) << 64).to_le_bytes());
    }

    /// Sends data in one buffer, by the descriptor after a context: with commands, and with what is beside PAYLEN.
    fn send_with(&self, setup: Setup, data: &[u8], command: u32, options: u32, payload: usize) {
        self.set_context(0, setup);
        self.put(TX_BUFFERS, data);
        let command = DATA | EOP | RS | command | data.len() as u32;
        self.describe(1, self.device(TX_BUFFERS), command, options | (payload as u32) << 14);
        self.w(TDT, 2);
        self.work();
    }
}

/// A frame without the checksums that the device puts in: IP's is wrong, and L4's has the pseudo header's sum.
fn unfinished(kind: Kind, without_len: bool) -> Vec<u8> {
    let mut frame = packet(kind);
    let ip = Headers::of(&frame, 0x8100).ip.unwrap();
    if !ip.v6 {
        frame[ip.at + 10..ip.at + 12].copy_from_slice(&[0xab, 0xcd]);
    }
    if let Some(l4) = kind.l4.filter(|l4| *l4 != L4::Sctp) {
        let len = if without_len { 0 } else { ip.end - ip.l4_at() };
        let sum = !super::super::packet::finished(ip.pseudo_header(&frame, l4.protocol(), len));
        let place = ip.l4_at() + l4.checksum_at();
        frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn context_of(kind: Kind) -> Setup {
    let l4 = match kind.l4 {
        Some(L4::Tcp) => (1, 20),
        Some(L4::Sctp) => (2, 12),
        _ => (0, 8),
    };
    let mac = if kind.tag.is_some() { 18 } else { 14 };
    let (ip, v4) = if kind.v6 { (40, 0) } else { (20, 2) };
    Setup { mac, ip, l4: l4.1, command: v4 | l4.0 << 2, ..PLAIN }
}

#[test]
fn checksums_and_tags_are_put_in() {
    for tag in [None, Some(9)] {
        for v6 in [false, true] {
            for l4 in [L4::Tcp, L4::Udp, L4::Sctp] {
                let kind = Kind { tag, v6, l4: Some(l4), payload: 51, ..TCP4 };
                let data = unfinished(kind, false);
                let (port, mut far) = Port::running(1, ADVANCED);
                let options = TXSM | if v6 { 0 } else { IXSM };
                port.send_with(context_of(kind), &data, 0, options, data.len());
                assert!(far.receive().unwrap() == packet(kind), "{kind:?}");
                assert_eq!(port.get(TX_RING + 28, 4), [1, 0, 0, 0]);
                port.check();
            }
        }
    }
    // The tag of the second context, in front of what there is, and room for a short frame.
    let (port, mut far) = Port::running(1, ADVANCED);
    let short = frame(30, 1);
    let setup = Setup { place: 1, tag: 0x6005, ..PLAIN };
    port.send_with(setup, &short, VLE, IDX1 | CC, 30);
    let mut expected = [&short[..12], &[0x81, 0, 0x60, 5], &short[12..]].concat();
    expected.resize(60, 0);
    assert!(far.receive().unwrap() == expected);
    // A sum of zero means in UDP that there is none.
    let mut zero = packet(Kind { l4: Some(L4::Udp), payload: 2, ..TCP4 });
    let sum = u16::from_be_bytes([zero[40], zero[41]]);
    let bytes = u16::from_be_bytes([zero[42], zero[43]]);
    zero[42..44].copy_from_slice(&(bytes + sum).to_be_bytes());
    mend(&mut zero, 14);
    assert_eq!(zero[40..42], [0, 0]);
    let pseudo = Headers::of(&zero, 0x8100).ip.unwrap().pseudo_header(&zero, 17, 10);
    let mut data = zero.clone();
    data[40..42].copy_from_slice(&(!super::super::packet::finished(pseudo)).to_be_bytes());
    port.set_context(2, Setup { l4: 8, command: 2, ..PLAIN });
    port.put(TX_BUFFERS, &data);
    port.describe(
        3,
        port.device(TX_BUFFERS),
        DATA | EOP | RS | data.len() as u32,
        TXSM | (data.len() as u32) << 14,
    );
    port.w(TDT, 4);
    port.work();
    assert_eq!(far.receive().unwrap()[40..42], [0xff, 0xff]);
    port.check();
}

#[test]
fn packets_are_cut_into_segments() {
    for (tag, v6, l4) in [
        (None, false, L4::Tcp),
        (None, true, L4::Tcp),
        (Some(7), false, L4::Tcp),
        (None, false, L4::Udp),
        (Some(7), true, L4::Udp),
    ] {
        let kind = Kind { tag, v6, l4: Some(l4), payload: 2500, ..TCP4 };
        let mut data = unfinished(kind, true);
        let mut setup = Setup { mss: 1000, tag: 0x0042, ..context_of(kind) };
        let (ip, start) = (setup.mac as usize, (setup.mac + setup.ip) as usize);
        if l4 == L4::Tcp {
            // FIN, PSH, ACK and CWR.
            data[start + 13] = 0x99;
        }
        let headers = start + setup.l4 as usize;
        let (port, mut far) = Port::running(1, ADVANCED);
        setup.place = 0;
        let options = TXSM | if v6 { 0 } else { IXSM };
        port.send_with(setup, &data, TSE | VLE, options, 2500);
        for (index, len) in [1000, 1000, 500].into_iter().enumerate() {
            let sent = far.receive().unwrap();
            assert_eq!(sent[12..16], [0x81, 0, 0, 0x42]);
            let frame = [&sent[..12], &sent[16..]].concat();
            let found = Headers::of(&frame, 0x8100).ip.unwrap();
            assert_eq!((found.l4_at(), found.end, frame.len()), (start, headers + len, headers + len));
            assert!(found.is_right(&frame) && found.l4_is_right(&frame) == Some(true), "{kind:?} {index}");
            assert!(frame[headers..] == data[headers + 1000 * index..headers + 1000 * index + len]);
            if !v6 {
                assert_eq!(frame[ip + 4..ip + 6], (0x1234 + index as u16).to_be_bytes());
            }
            if l4 == L4::Tcp {
                assert_eq!(frame[start + 4..start + 8], (0x0102_0304 + 1000 * index as u32).to_be_bytes());
                assert_eq!(
                    frame[start + 13],
                    [0x90, 0x90, 0x19][index],
                    "the first and the last have their flags"
                );
            }
        }
        assert!(far.receive().is_none());
        assert_eq!((port.r(0x4080), port.r(0x8680)), (3, 3));
        port.check();
    }
}

#[test]
fn one_that_is_no_longer_than_a_segment_is_sent_once() {
    let kind = Kind { payload: 100, ..TCP4 };
    let data = unfinished(kind, true);
    let (port, mut far) = Port::running(1, ADVANCED);
    port.send_with(Setup { mss: 1000, ..PLAIN }, &data, TSE, TXSM | IXSM, 100);
    assert!(far.receive().unwrap() == packet(kind));
    assert!(far.receive().is_none());
    port.check();
}

#[test]
fn the_checksum_of_l4_alone_takes_no_version_of_ip() {
    for kind in [TCP4, Kind { v6: true, ..TCP4 }] {
        let (port, mut far) = Port::running(1, ADVANCED);
        let mut data = unfinished(kind, false);
        let ip = if kind.v6 { 40 } else { 20 };
        let len = data.len();
        if !kind.v6 {
            // Its own checksum is the driver's.
            data[24..26].copy_from_slice(&packet(kind)[24..26]);
        }
        // TUCMD has L4T only.
        port.send_with(Setup { command: 0b0100, ip, ..PLAIN }, &data, 0, TXSM, len);
        assert!(far.receive().unwrap() == packet(kind));
        port.check();
    }
}

#[test]
fn what_is_asked_for_wrongly_is_a_fault_and_nothing_goes_out() {
    let cut = Setup { mss: 1000, ..PLAIN };
    let both = TXSM | IXSM;
    let len = 54 + 50;
    let cases: [(&str, Setup, u32, u32, usize); 17] = [
        ("IDX is of a context", PLAIN, 0, IDX1 | TXSM, len),
        ("IDX is of a context", PLAIN, 0, IDX1 | CC, len),
        ("STA or reserved", PLAIN, 0, 2 << 4, len),
        ("STA or reserved", PLAIN, 0, 1, len),
        ("STA or reserved", PLAIN, 1 << 26, 0, len),
        ("MACLEN is not 14", Setup { mac: 13, ..PLAIN }, 0, both, len),
        ("MACLEN or IPV4 is not", Setup { mac: 18, ..PLAIN }, 0, both, len),
        ("IPLEN is shorter", Setup { ip: 19, ..PLAIN }, 0, both, len),
        ("IPLEN or L4T is not", Setup { ip: 24, ..PLAIN }, 0, both, len),
        ("IPLEN or L4T is not", Setup { command: 2, ..PLAIN }, 0, both, len),
        ("L4T is reserved", Setup { command: 0b1110, ..PLAIN }, 0, both, len),
        ("IXSM is set for IPv6", Setup { command: 0b0100, ip: 40, ..PLAIN }, 0, both, len),
        ("without TXSM", cut, TSE, IXSM, 50),
        ("without IXSM", cut, TSE, TXSM, 50),
        ("MSS is 0", PLAIN, TSE, both, 50),
        ("L4LEN is shorter", Setup { l4: 16, ..cut }, TSE, both, 54),
        ("PAYLEN is not what follows", cut, TSE, both, len),
    ];
    for (words, setup, command, options, payload) in cases {
        let (port, mut far) = Port::running(1, ADVANCED);
        port.send_with(setup, &unfinished(TCP4, command & TSE != 0), command, options, payload);
        port.only("TDT[0]", words);
        assert!(far.receive().is_none(), "{words}");
    }
    for (words, broken) in [("L4LEN is not", 46), ("pseudo header", 50), ("MACLEN or IPV4", 14)] {
        let mut data = unfinished(TCP4, true);
        data[broken] ^= 0x20;
        let (port, mut far) = Port::running(1, ADVANCED);
        port.send_with(cut, &data, TSE, both, 50);
        // A header that is not known is not compared, and its checksum not either.
        if broken == 14 {
            port.check();
        } else {
            port.only("TDT[0]", words);
            assert!(far.receive().is_none(), "{words}");
        }
    }
    // Contexts themselves.
    for (words, high) in
        [("EOP, RS", 1 << 24), ("EOP, RS", 1 << 27), ("EOP, RS", 1 << 13), ("EOP, RS", 2_u64 << 36)]
    {
        let (port, _far) = Port::running(1, ADVANCED);
        let high = 2 << 20 | 1 << 29 | high;
        port.put(TX_RING, &(u128::from(PLAIN.ip) | u128::from(high) << 64).to_le_bytes());
        port.w(TDT, 1);
        port.work();
        port.only("TDT[0]", words);
    }
    let (port, _far) = Port::running(1, ADVANCED);
    port.describe(0, port.device(TX_BUFFERS), DATA | 30, 60 << 14);
    port.set_context(1, PLAIN);
    port.w(TDT, 2);
    port.work();
    port.only("TDT[0]", "within a frame");
}

#[test]
fn legacy_descriptors_have_tags_checksums_and_may_be_empty() {
    let (port, mut far) = Port::running(1, ADVANCED);
    let kind = Kind { l4: Some(L4::Udp), ..TCP4 };
    let mut data = unfinished(kind, false);
    data[24..26].copy_from_slice(&packet(kind)[24..26]);
    port.put(TX_BUFFERS, &data);
    let ifcs = 1 << 25;
    // An empty one between frames; then with VLE and IC, of which CSO is 40 and CSS is 34.
    port.describe(0, 0, EOP | RS | ifcs, 0);
    let command = EOP | RS | ifcs | VLE | 1 << 26 | 40 << 16 | data.len() as u32;
    port.describe(1, port.device(TX_BUFFERS), command, 0x2009 << 16 | 34 << 8);
    port.w(TDT, 2);
    port.work();
    assert!(far.receive().unwrap() == packet(Kind { tag: Some(0x2009), ..kind }));
    assert_eq!(port.get(TX_RING + 12, 4), [1, 0, 0, 0]);
    assert_eq!(port.get(TX_RING + 28, 4), [1, 34, 9, 0x20], "the rest is as it was");
    port.check();
    let cases: [(&str, u32, u32); 5] = [
        ("CSO or CSS", 1 << 26 | 103 << 16, 0),
        ("CSO or CSS", 1 << 26, 104 << 8),
        ("STA or reserved", 1 << 28, 0),
        ("STA or reserved", 0, 1),
        ("both kinds", DATA & !(1 << 25), 0),
    ];
    for (words, command, last) in cases {
        let (port, mut far) = Port::running(1, ADVANCED);
        let mixed = words == "both kinds";
        port.describe(0, port.device(TX_BUFFERS), ifcs | 60 | if mixed { 0 } else { EOP } | 44, 0);
        let second = ifcs | EOP | RS | command | if mixed { 60 } else { 104 };
        port.describe(if mixed { 1 } else { 0 }, port.device(TX_BUFFERS), second, last);
        port.w(TDT, if mixed { 2 } else { 1 });
        port.work();
        port.only("TDT[0]", words);
        assert!(far.receive().is_none());
    }
}

#[test]
fn descriptors_go_back_when_enough_have_gathered_or_by_the_timer_or_when_flushed() {
    let done = |port: &Port| (0..8).map(|at| port.get(TX_RING + 16 * at + 12, 1)[0] & 1).collect::<Vec<_>>();
    let (port, mut far) = Port::new(1);
    let control = port.r(0x4a80);
    port.w(0x4a80, control | 1);
    port.set_up_ring(TDBAL, TX_RING);
    port.w(TXDCTL, ENABLE | 3 << 16);
    port.poll(TXDCTL, ENABLE);
    let short = frame(60, 1);
    port.send(0, &[&short]);
    port.send(1, &[&short]);
    port.work();
    assert_eq!((done(&port), port.r(TDH)), (vec![0; 8], 2));
    port.send(2, &[&short]);
    port.work();
    assert_eq!(done(&port), [1, 1, 1, 0, 0, 0, 0, 0]);
    port.send(3, &[&short]);
    port.work();
    assert_eq!(done(&port)[3], 0, "there is no timer");
    port.w(TXDCTL, ENABLE | 3 << 16 | 1 << 26);
    assert_eq!(done(&port)[3], 1);
    assert_eq!(port.r(TXDCTL) >> 26 & 1, 0);
    // With a vector whose interval is 5 steps.
    port.w(0x900, 0x0000_8000);
    port.w(0x820, 5 << 3);
    port.send(4, &[&short]);
    port.card.model().step();
    assert_eq!((done(&port)[4], far.receive().is_some()), (0, true));
    (0..3).for_each(|_| _ = port.card.model().step());
    assert_eq!(done(&port)[4], 0);
    (0..3).for_each(|_| _ = port.card.model().step());
    assert_eq!(done(&port)[4], 1);
    port.check();
}

#[test]
fn a_frame_has_no_more_buffers_than_the_device_gathers() {
    let (port, mut far) = Port::new(1);
    let control = port.r(0x4a80);
    port.w(0x4a80, control | 1);
    port.set_up_ring(TDBAL, 0x4000);
    port.w(0x6008, 64 * 16);
    port.w(TXDCTL, ENABLE);
    port.poll(TXDCTL, ENABLE);
    let put = |at: u64, end: u32, total: u32| {
        let command = DATA | end | 10;
        let words =
            u128::from(port.device(TX_BUFFERS)) | u128::from(command) << 64 | u128::from(total << 14) << 96;
        port.put(0x4000 + 16 * at, &words.to_le_bytes());
    };
    (0..40).for_each(|at| put(at, if at == 39 { EOP | RS } else { 0 }, 400));
    port.w(TDT, 40);
    port.work();
    assert_eq!(far.receive().unwrap().len(), 400);
    port.check();
    (40..64).chain(0..18).for_each(|at| put(at, 0, 410));
    port.w(TDT, 39);
    port.work();
    port.only("TDT[0]", "40 buffers");
}
