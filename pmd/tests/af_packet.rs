//! `net_af_packet` over real interfaces: a veth pair in a network namespace that each test makes for itself.
//!
//! That takes root (or CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN) and `ip` of iproute2. Where one is missing
//! the tests report themselves ignored, with the reason; with `WIRERATE_REQUIRE=all` that is a failure.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

#[path = "af_packet/lan.rs"]
mod lan;
#[path = "af_packet/socket.rs"]
mod socket;

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wirerate_pmd::net::MacAddress;
use wirerate_pmd::net::transport::{Transport, ip_header_at};
use wirerate_pmd::port::{DropReason, PortError};

use self::lan::{FAR, Lan, NEAR, frame, in_own_namespace, ip, mixed_frames};
use self::socket::PlainSocket;

/// Interfaces that the tests make, by what makes them.
const VETH: &str = "link add probe0 type veth peer name probe1";
const TUN: &str = "tuntap add probe0 mode tun";

/// Each test by its name, with the interface that it needs.
const TRIALS: &[(&str, &str, fn())] = &[
    ("frames_pass_both_ways_byte_for_byte", VETH, frames_pass_both_ways_byte_for_byte),
    ("a_plain_socket_sees_what_is_sent_and_is_seen", VETH, a_plain_socket_sees_what_is_sent_and_is_seen),
    ("tags_stay_in_their_frames", VETH, tags_stay_in_their_frames),
    ("the_queueing_discipline_can_be_kept", VETH, the_queueing_discipline_can_be_kept),
    (
        "jumbo_frames_pass_in_larger_slots_and_in_chains",
        VETH,
        jumbo_frames_pass_in_larger_slots_and_in_chains,
    ),
    ("checksums_of_local_senders_are_finished", VETH, checksums_of_local_senders_are_finished),
    ("frames_longer_than_a_slot_are_counted", VETH, frames_longer_than_a_slot_are_counted),
    ("frames_that_the_interface_refuses_are_counted", VETH, frames_that_the_interface_refuses_are_counted),
    (
        "frames_that_find_the_ring_full_are_counted_as_missed",
        VETH,
        frames_that_find_the_ring_full_are_counted,
    ),
    ("two_queues_share_flows_and_lose_nothing", VETH, two_queues_share_flows_and_lose_nothing),
    ("queues_may_be_fewer_than_pairs_and_unequal", VETH, queues_may_be_fewer_than_pairs_and_unequal),
    (
        "a_link_without_carrier_drops_by_name_and_comes_back",
        VETH,
        a_link_without_carrier_drops_and_comes_back,
    ),
    ("an_interface_that_goes_away_stops_nothing", VETH, an_interface_that_goes_away_stops_nothing),
    ("a_port_stops_and_starts_again", VETH, a_port_stops_and_starts_again),
    ("a_sleeper_wakes_for_a_frame", VETH, a_sleeper_wakes_for_a_frame),
    ("promiscuous_mode_ends_with_the_port", VETH, promiscuous_mode_ends_with_the_port),
    ("address_and_mtu_are_the_interfaces", VETH, address_and_mtu_are_the_interfaces),
    ("what_cannot_be_opened_says_why", VETH, what_cannot_be_opened_says_why),
    ("an_interface_that_is_no_ethernet_is_refused", TUN, an_interface_that_is_no_ethernet_is_refused),
];

fn main() {
    let arguments = Arguments::from_args();
    let missing = [VETH, TUN].map(|interface| (interface, missing_here(interface)));
    let required = std::env::var_os("WIRERATE_REQUIRE").is_some_and(|value| value == "all");
    let trials = TRIALS
        .iter()
        .map(|&(name, need, test)| {
            let missing = missing.iter().filter(|(interface, _)| *interface == need || *interface == VETH);
            let missing: Vec<_> = missing.filter_map(|(_, reason)| reason.clone()).collect();
            Trial::ignorable_test(name, move || match missing.first() {
                Some(reason) if required => Err(Failed::from(reason)),
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => {
                    in_own_namespace(test);
                    Ok(Completion::Completed)
                }
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Why this machine cannot have a namespace with this interface and a packet socket on it, if it cannot.
fn missing_here(interface: &'static str) -> Option<String> {
    thread::spawn(move || {
        lan::unshare_network()
            .and_then(|()| lan::try_ip(interface))
            .and_then(|()| PlainSocket::on("probe0").map(|_| ()))
            .err()
            .map(|error| format!("needs a network namespace, packet sockets and `ip {interface}`: {error}"))
    })
    .join()
    .unwrap()
}

fn frames_pass_both_ways_byte_for_byte() {
    let lan = Lan::new();
    let (mut near, mut far) = lan.two_ports("", "");
    let (there, back) = (mixed_frames(1, 1000), mixed_frames(2, 1000));
    assert_eq!(near.send_to(&mut far, &there), there);
    assert_eq!(far.send_to(&mut near, &back), back);
    let bytes: usize = there.iter().map(Vec::len).sum();
    let (sent, received) = (near.stats(), far.stats());
    assert_eq!((sent.opackets, sent.obytes, sent.oerrors), (1000, bytes as u64, 0));
    assert!(received.ipackets >= 1000 && received.ibytes >= bytes as u64);
    assert_eq!((received.imissed, received.ierrors, received.rx_nombuf), (0, 0, 0));
    lan.assert_home(vec![near, far]);
}

fn a_plain_socket_sees_what_is_sent_and_is_seen() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, "", &lan.config());
    let plain = PlainSocket::on(FAR).unwrap();
    for frame in mixed_frames(3, 300) {
        near.send(std::slice::from_ref(&frame));
        assert_eq!(plain.receive(), frame);
    }
    let there = mixed_frames(4, 300);
    there.iter().for_each(|frame| plain.send(frame).unwrap());
    assert_eq!(near.receive(there.len()), there);
    // What leaves by this port's own interface, from whatever socket, has not come in by it.
    PlainSocket::on(NEAR).unwrap().send(&frame(9, 100)).unwrap();
    plain.send(&frame(10, 100)).unwrap();
    assert_eq!(near.receive(1), [frame(10, 100)]);
    lan.assert_home(vec![near]);
}

fn tags_stay_in_their_frames() {
    let lan = Lan::new();
    let (mut near, mut far) = lan.two_ports("", "");
    let tags: [&[u8]; 4] = [
        &[0x81, 0x00, 0x00, 0x2a],
        &[0x81, 0x00, 0xef, 0xff],
        &[0x88, 0xa8, 0x20, 0x01],
        &[0x88, 0xa8, 0x00, 0x02, 0x81, 0x00, 0x00, 0x03],
    ];
    let frames: Vec<_> = (0..200)
        .map(|number| {
            let mut frame = frame(number, 60 + number * 7);
            frame.splice(12..12, tags[number % tags.len()].iter().copied());
            frame
        })
        .collect();
    assert_eq!(near.send_to(&mut far, &frames), frames);
    // With a tag, and only an 802.1Q tag, a frame may be longer by its four bytes.
    let mut longest = frame(1, 1514);
    longest.splice(12..12, tags[0].iter().copied());
    let mut too_long = frame(2, 1515);
    too_long.splice(12..12, tags[2].iter().copied());
    assert_eq!(near.send_to(&mut far, std::slice::from_ref(&longest)), [longest]);
    near.send(&[too_long]);
    assert_eq!(near.dropped_tx(), [(DropReason::TxTooLong, 1)]);
    lan.assert_home(vec![near, far]);
}

fn the_queueing_discipline_can_be_kept() {
    let lan = Lan::new();
    let (mut near, mut far) = lan.two_ports(",qdisc_bypass=0", "");
    let there = mixed_frames(5, 500);
    assert_eq!(near.send_to(&mut far, &there), there);
    lan.assert_home(vec![near, far]);
}

fn jumbo_frames_pass_in_larger_slots_and_in_chains() {
    let lan = Lan::new();
    let config = lan.config().mtu(9000);
    let (mut near, mut far) = (lan.port(NEAR, "", &config), lan.port(FAR, "", &config));
    let frames: Vec<_> = (0..20).map(|number| frame(number, 9014 - number * 300)).collect();
    assert_eq!(near.send_to(&mut far, &frames), frames);
    assert_eq!(near.mtu(), 9000);
    lan.assert_home(vec![near, far]);
}

/// The kernel's own stack sends by the far end, whose `tx-checksumming` is on as it is found.
fn checksums_of_local_senders_are_finished() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, "", &lan.config());
    for (family, address, peer) in
        [("-4", "192.0.2.1/24", "192.0.2.2"), ("-6", "2001:db8::1/64", "2001:db8::2")]
    {
        let nodad = if family == "-6" { " nodad" } else { "" };
        ip(&format!("{family} addr add {address} dev {FAR}{nodad}"));
        ip(&format!("{family} neigh add {peer} lladdr 02:00:00:00:00:99 dev {FAR}"));
        let any = if family == "-6" { "[::]:0" } else { "0.0.0.0:0" };
        let udp = UdpSocket::bind(any).unwrap();
        udp.connect((peer, 4242)).unwrap();
        for len in [0, 1, 2, 3, 700, 1451, 1452] {
            udp.send(&vec![len as u8; len]).unwrap();
        }
        // Nobody answers: what is wanted are the SYNs.
        let address = format!("{}:4242", if family == "-6" { format!("[{peer}]") } else { peer.to_owned() });
        let _ = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(20));
        let found = near.receive_while(Duration::from_secs(5), 8, |frame| {
            ip_header_at(frame).and_then(|at| Transport::find(frame, at)).is_some_and(|transport| {
                frame[transport.start + 2..transport.start + 4] == 4242_u16.to_be_bytes()
            })
        });
        assert_eq!(found.len(), 8, "{family}: 7 datagrams and a SYN");
        for frame in found {
            let transport = Transport::find(&frame, 14).unwrap();
            let sum = transport.pseudo.bytes(&frame[transport.start..transport.end]).finish();
            assert_eq!(sum, 0, "{family}: the checksum of {frame:02x?}");
        }
    }
    lan.assert_home(vec![near]);
}

fn frames_longer_than_a_slot_are_counted() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, "", &lan.config());
    // Behind the port's back.
    ip(&format!("link set {NEAR} mtu 9000"));
    ip(&format!("link set {FAR} mtu 9000"));
    let plain = PlainSocket::on(FAR).unwrap();
    for number in 0..10 {
        plain.send(&frame(number, 5000)).unwrap();
        plain.send(&frame(number, 1000)).unwrap();
    }
    let expected: Vec<_> = (0..10).map(|number| frame(number, 1000)).collect();
    assert_eq!(near.receive(10), expected);
    assert_eq!(near.dropped_rx(), [(DropReason::RxTooLong, 10)]);
    lan.assert_home(vec![near]);
}

fn frames_that_the_interface_refuses_are_counted() {
    let lan = Lan::new();
    let (mut near, mut far) = lan.two_ports("", "");
    ip(&format!("link set {NEAR} mtu 500"));
    let mut frames: Vec<_> = (0..30).map(|number| frame(number, 400)).collect();
    for at in [3, 4, 17, 29] {
        frames[at] = frame(at, 1000);
    }
    let expected: Vec<_> = frames.iter().filter(|frame| frame.len() == 400).cloned().collect();
    assert_eq!(near.send_to(&mut far, &frames), expected);
    assert_eq!(near.dropped_tx(), [(DropReason::TxTooLong, 3), (DropReason::TxRefused, 1)]);
    lan.assert_home(vec![near, far]);
}

fn frames_that_find_the_ring_full_are_counted() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, ",framecnt=8", &lan.config());
    let plain = PlainSocket::on(FAR).unwrap();
    (0..100).for_each(|number| plain.send(&frame(number, 100)).unwrap());
    let deadline = Instant::now() + Duration::from_secs(5);
    while near.stats().imissed < 92 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(near.receive(8), (0..8).map(|number| frame(number, 100)).collect::<Vec<_>>());
    let missed = near.stats().imissed;
    // The kernel's stack may have a word on the link too, which then counts as well.
    assert!((92..=100).contains(&missed), "{missed} missed");
    near.port.reset_stats();
    assert_eq!(near.stats().imissed, 0);
    lan.assert_home(vec![near]);
}

fn two_queues_share_flows_and_lose_nothing() {
    const FLOWS: usize = 64;
    let lan = Lan::new();
    let mut near = lan.port(NEAR, "", &lan.config());
    let mut far = lan.port(FAR, ",qpairs=2", &lan.config().rx_queues(2).tx_queues(2));
    let frames: Vec<_> = (0..1000).map(|number| lan::udp_frame(number, (number % FLOWS) as u16)).collect();
    let mut received = near.send_to(&mut far, &frames);
    let shares: Vec<_> = far.rx.iter().map(|queue| queue.counters().packets()).collect();
    assert!(shares.iter().all(|&share| share > 100), "shared out as {shares:?}");
    // Within a flow the order is kept; each flow has one queue.
    for flow in 0..FLOWS {
        let of_flow = |frames: &[Vec<u8>]| -> Vec<_> {
            frames.iter().filter(|frame| lan::flow_of(frame) == flow as u16).cloned().collect()
        };
        assert_eq!(of_flow(&received), of_flow(&frames), "flow {flow}");
    }
    received.sort();
    let mut sent = frames.clone();
    sent.sort();
    assert_eq!(received, sent);
    lan.assert_home(vec![near, far]);

    // In turns: one flow goes to both.
    let mut near = lan.port(NEAR, "", &lan.config());
    let mut far = lan.port(FAR, ",qpairs=2,fanout_mode=lb", &lan.config().rx_queues(2));
    assert_eq!(near.send_to(&mut far, &frames[..100]).len(), 100);
    let shares: Vec<_> = far.rx.iter().map(|queue| queue.counters().packets()).collect();
    assert!(shares.iter().all(|share| (50..70).contains(share)), "shared out as {shares:?}");
    lan.assert_home(vec![near, far]);
}

fn queues_may_be_fewer_than_pairs_and_unequal() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, ",qpairs=4", &lan.config().rx_queues(1).tx_queues(3));
    let mut far = lan.port(FAR, ",qpairs=4", &lan.config().rx_queues(3).tx_queues(1));
    assert_eq!((near.rx.len(), near.tx.len(), far.rx.len(), far.tx.len()), (1, 3, 3, 1));
    let frames = mixed_frames(6, 90);
    let mut received = Vec::new();
    for (queue, part) in frames.chunks(30).enumerate() {
        near.send_by(queue, part);
        received.extend(far.receive(30));
    }
    received.sort();
    let mut sent = frames.clone();
    sent.sort();
    assert_eq!(received, sent);
    // Only one socket receives on the near side: nothing comes twice.
    assert_eq!(far.send_to(&mut near, &frames), frames);
    lan.assert_home(vec![near, far]);
}

fn a_link_without_carrier_drops_and_comes_back() {
    let lan = Lan::new();
    let (mut near, mut far) = lan.two_ports("", "");
    let frames = mixed_frames(7, 40);
    assert_eq!(near.send_to(&mut far, &frames), frames);
    assert!(near.port.link().up);
    for (down, up) in [(FAR, FAR), (NEAR, NEAR)] {
        ip(&format!("link set {down} down"));
        // The kernel tells of a peer's carrier a moment later, at most a second.
        let deadline = Instant::now() + Duration::from_secs(10);
        while near.port.link().up {
            assert!(Instant::now() < deadline, "the link stays up without carrier");
            thread::sleep(Duration::from_millis(5));
        }
        let before: u64 = near.dropped_tx().iter().map(|(_, count)| count).sum();
        near.send(&frames);
        assert_eq!(near.dropped_tx(), [(DropReason::TxLinkDown, before + 40)]);
        ip(&format!("link set {up} up"));
        near.await_link();
        assert_eq!(near.send_to(&mut far, &frames), frames, "nothing of before, and all of now");
    }
    lan.assert_home(vec![near, far]);
}

fn an_interface_that_goes_away_stops_nothing() {
    let lan = Lan::new();
    let (mut near, mut far) = lan.two_ports("", "");
    let frames = mixed_frames(8, 40);
    assert_eq!(near.send_to(&mut far, &frames), frames);
    let deleter = thread::spawn(|| {
        thread::sleep(Duration::from_millis(50));
        ip(&format!("link del {NEAR}"));
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while near.dropped_tx().is_empty() || far.dropped_tx().is_empty() {
        assert!(Instant::now() < deadline, "sending by an interface that is gone is counted");
        for side in [&mut near, &mut far] {
            side.send(&frames);
            side.poll();
        }
    }
    deleter.join().unwrap();
    assert!(near.dropped_tx().iter().all(|&(reason, _)| reason == DropReason::TxLinkDown));
    assert!(!near.port.link().up);
    // What came in before is still there; behind it there is nothing, however often it is asked for.
    while near.poll() > 0 {
        assert!(Instant::now() < deadline, "frames without end");
    }
    assert_eq!((0..1000).map(|_| near.poll()).sum::<usize>(), 0);
    let error = near.port.set_mtu(1000).unwrap_err();
    assert!(matches!(error, PortError::System { .. }), "{error}");
    lan.assert_home(vec![near, far]);
}

fn a_port_stops_and_starts_again() {
    let lan = Lan::new();
    let mut far = lan.port(FAR, "", &lan.config());
    let mut near = lan.port(NEAR, "", &lan.config());
    let frames = mixed_frames(9, 50);
    for _ in 0..3 {
        assert_eq!(near.send_to(&mut far, &frames), frames);
        // What comes in while the port is stopped is not received when it runs again.
        near = near.restart(|| far.send(&frames[..5]));
        assert_eq!(far.send_to(&mut near, &frames), frames);
    }
    lan.assert_home(vec![near, far]);
}

fn a_sleeper_wakes_for_a_frame() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, "", &lan.config());
    let plain = PlainSocket::on(FAR).unwrap();
    while near.poll() > 0 {}
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        plain.send(&frame(1, 100)).unwrap();
    });
    socket::wait_readable(near.rx[0].wait_fd().unwrap(), Duration::from_secs(10));
    assert_eq!(near.receive(1), [frame(1, 100)]);
    sender.join().unwrap();
    lan.assert_home(vec![near]);
}

fn promiscuous_mode_ends_with_the_port() {
    let lan = Lan::new();
    let promiscuity = |expected: &str| {
        let shown = ip(&format!("-d link show {NEAR}"));
        assert!(shown.contains(&format!("promiscuity {expected} ")), "{shown}");
        assert!(!shown.contains("PROMISC"), "the interface's own flag is left alone: {shown}");
    };
    promiscuity("0");
    let mut near = lan.port(NEAR, "", &lan.config());
    promiscuity("1");
    near.port.set_promiscuous(false).unwrap();
    promiscuity("0");
    near.port.set_promiscuous(true).unwrap();
    near.port.set_promiscuous(true).unwrap();
    promiscuity("1");
    lan.assert_home(vec![near]);
    promiscuity("0");
}

fn address_and_mtu_are_the_interfaces() {
    let lan = Lan::new();
    let mut near = lan.port(NEAR, "", &lan.config());
    let mac: MacAddress = "02:11:22:33:44:55".parse().unwrap();
    near.port.set_mac(mac).unwrap();
    near.port.set_mtu(1400).unwrap();
    let shown = ip(&format!("link show {NEAR}"));
    assert!(shown.contains("mtu 1400") && shown.contains("02:11:22:33:44:55"), "{shown}");
    assert_eq!((near.port.mac(), near.mtu()), (mac, 1400));
    assert_eq!(near.port.info().max_frame, 1418);
    near.send(&[frame(0, 1415)]);
    assert_eq!(near.dropped_tx(), [(DropReason::TxTooLong, 1)]);
    let error = near.port.set_mtu(9000).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}: the slots of the running port hold no frames of MTU 9000; stop it, set the MTU, start it",
            near.port.name()
        )
    );
    lan.assert_home(vec![near]);
}

fn an_interface_that_is_no_ethernet_is_refused() {
    let lan = Lan::new();
    ip("tuntap add tun7 mode tun");
    let error = lan.open("net_af_packet0,iface=tun7").unwrap_err().to_string();
    assert_eq!(error, "net_af_packet0: interface \"tun7\" is no Ethernet (its link type is 65534)");
}

fn what_cannot_be_opened_says_why() {
    let lan = Lan::new();
    let error = lan.open("net_af_packet0,iface=vethX").unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "net_af_packet0: no interface is called \"vethX\" in this network namespace; there are lo, {FAR}, \
             {NEAR}"
        )
    );
    let port = lan.open(&format!("net_af_packet0,iface={NEAR}")).unwrap();
    let error = port.configure(&lan.config().rx_queues(4)).unwrap_err().to_string();
    assert_eq!(error, "net_af_packet0: 4 rx queues asked, 1 possible");
    // Of this thread alone, which ends with the test.
    lan::become_nobody().unwrap();
    let error = lan.open(&format!("net_af_packet0,iface={NEAR}")).unwrap_err();
    assert!(
        matches!(&error, PortError::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    );
    let error = error.to_string();
    assert!(error.contains("it needs CAP_NET_RAW: run as root, or") && !error.contains('\n'), "{error}");
}
