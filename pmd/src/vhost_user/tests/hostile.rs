//! Peers that break the protocol, stall, or send what nobody asked for.

use std::io::{Read, Write};
use std::time::Instant;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

const USER: u64 = 0x10_0000;

/// A session in which answers can be had, and which nothing has ended yet.
fn open() -> (Raw, Serving) {
    let (stream, back) = serve(4, PATIENCE);
    let mut front = Raw::new(stream);
    front.open();
    (front, back)
}

#[test]
fn what_cannot_be_is_refused_and_the_session_goes_on_if_an_answer_was_asked_for() {
    let cannot = [
        Request::SetFeatures(1 << 63),
        Request::SetProtocolFeatures(1 << 12),
        Request::SetVringNum { ring: 4, size: 8 },
        Request::SetVringBase { ring: 0x1_0000, base: 8 },
        Request::SetVringEnable { ring: u32::MAX, on: true },
        Request::SetVringAddr(addresses(4, USER)),
        Request::SetVringKick { ring: 4, fd: false },
        Request::SetVringCall { ring: 255, fd: false },
        Request::SetVringErr { ring: 5, fd: false },
        Request::NetSetMtu(9001),
        Request::SetConfig { offset: 0, flags: 0, bytes: [0; 6].into_iter().collect() },
    ];
    let (mut front, back) = open();
    for request in &cannot {
        assert_eq!(front.done(request, &[]), Some(false), "{request:?}");
    }
    assert!(front.ask(&Request::GetFeatures, &[]).is_some());
    drop(front);
    assert_eq!(back.end().unwrap(), Ended::Closed);

    for request in cannot {
        let (mut front, back) = open();
        front.tell(&request, &[]);
        let ended = back.end();
        assert!(
            matches!(ended, Err(VhostUserError::Refused { code, .. }) if code == request.code()),
            "{ended:?}"
        );
        assert_eq!(front.reply(0), None);
    }
}

#[test]
fn requests_of_features_that_were_not_negotiated_are_refused() {
    for request in [
        Request::SetStatus(1),
        Request::GetStatus,
        Request::GetConfig { offset: 0, size: 6, flags: 0 },
        Request::ResetDevice,
        Request::NetSetMtu(1500),
    ] {
        let (stream, back) = serve(2, PATIENCE);
        let mut front = Raw::new(stream);
        front.tell(&request, &[]);
        assert!(matches!(back.end(), Err(VhostUserError::Refused { .. })), "{request:?}");
    }
}

#[test]
fn unknown_requests_and_those_not_offered_are_refused_or_end_the_session() {
    let (mut front, back) = open();
    for number in [6, 7, 22, 37, 38, 41, 1000] {
        front.0.send(&encode(number, NEED_REPLY, &[0; 32]), &[]).unwrap();
        assert_eq!(front.reply(number), Some(1_u64.to_ne_bytes().to_vec()), "{number}");
    }
    front.0.send(&encode(6, 0, &[0; 16]), &[]).unwrap();
    let refused = ProtocolError::NotOffered { code: Code::SetLogBase };
    assert!(matches!(back.end(), Err(VhostUserError::Protocol(error)) if error == refused));
}

#[test]
fn cve_2018_1059_rings_must_lie_in_memory_as_a_whole() {
    let memory = Memory::new("1059", USER, 0x10000, 0);
    let (mut front, back) = open();
    front.prepare(0, &memory);
    let end = USER + 0x10000;
    let good = addresses(0, USER);
    for bad in [
        // One byte beyond the end, each: 4096, 518 and 2054 bytes for 256 descriptors.
        VringAddresses { descriptors: end - 4096 + 16, ..good },
        VringAddresses { driver_area: end - 518 + 2, ..good },
        VringAddresses { device_area: end - 2054 + 2, ..good },
        VringAddresses { descriptors: USER - 16, ..good },
        VringAddresses { device_area: u64::MAX - 3, ..good },
        VringAddresses { descriptors: 0, driver_area: 0, device_area: 0, ..good },
        // Not aligned.
        VringAddresses { descriptors: USER + 8, ..good },
        VringAddresses { driver_area: USER + 1, ..good },
        VringAddresses { device_area: USER + 2, ..good },
    ] {
        assert_eq!(front.done(&Request::SetVringAddr(bad), &[]), Some(true));
        assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(false), "{bad:x?}");
        assert_eq!(front.base(0), Some(0));
    }
    let edge = VringAddresses { driver_area: end - 518, ..good };
    assert_eq!(front.done(&Request::SetVringAddr(edge), &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(true));
    assert_eq!(front.base(0), Some(WORK));

    // Sizes and bases that are none.
    for (size, base) in [(255, 0), (256, 0x1_0000)] {
        assert_eq!(front.done(&Request::SetVringNum { ring: 0, size }, &[]), Some(true));
        assert_eq!(front.done(&Request::SetVringBase { ring: 0, base }, &[]), Some(true));
        assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(false));
        front.base(0);
    }
    // Two regions that touch are two regions.
    let half =
        |n: u64| Region { guest: n * 0x8000, size: 0x8000, user: USER + n * 0x8000, offset: n * 0x8000 };
    let table = Request::SetMemTable([half(0), half(1)].into_iter().collect());
    assert_eq!(front.done(&table, &[memory.fd.as_fd(), memory.fd.as_fd()]), Some(true));
    assert_eq!(front.done(&Request::SetVringNum { ring: 0, size: 256 }, &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringBase { ring: 0, base: 0 }, &[]), Some(true));
    let across = VringAddresses { descriptors: USER + 0x8000 - 2048, ..good };
    assert_eq!(front.done(&Request::SetVringAddr(across), &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(false));
    drop(front);
    back.end().unwrap();
}

#[test]
fn cve_2020_10726_cve_2022_0669_descriptors_of_inflight_messages_are_closed() {
    let memory = Memory::new("inflight", USER, 0x10000, 0);
    let payload = [0xff; 24];
    // With descriptors and an answer asked for, over and over.
    let (mut front, back) = open();
    for _ in 0..200 {
        let fds = [memory.fd.as_fd(); 8];
        front.0.send(&encode(Code::SetInflightFd as u32, NEED_REPLY, &payload), &fds).unwrap();
        assert_eq!(front.reply(Code::SetInflightFd as u32), Some(1_u64.to_ne_bytes().to_vec()));
    }
    assert_eq!(memory.fds(), 1);
    front.0.send(&encode(Code::GetInflightFd as u32, NEED_REPLY, &payload), &[memory.fd.as_fd()]).unwrap();
    assert!(matches!(back.end(), Err(VhostUserError::Protocol(ProtocolError::NotOffered { .. }))));
    assert_eq!((memory.fds(), memory.mappings()), (1, 0));
}

#[test]
fn cve_2019_14818_descriptors_are_closed_however_their_message_ends() {
    let memory = Memory::new("14818", USER, 0x10000, 0);
    let one = memory.fd.as_fd();
    // One that blocks, at first.
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let (mut front, back) = open();
    front.prepare(0, &memory);
    // Again and again: the last of each kind is kept, and the memory needs no descriptor.
    for _ in 0..100 {
        for request in [
            Request::SetVringKick { ring: 0, fd: true },
            Request::SetVringCall { ring: 0, fd: true },
            Request::SetVringErr { ring: 0, fd: true },
        ] {
            assert_eq!(front.done(&request, &[event.as_fd()]), Some(true));
            assert_eq!(front.done(&request, &[one]), Some(false), "no eventfd");
        }
        assert_eq!(front.done(&memory.table(), &[one]), Some(true));
        // Refused: no such ring; no socket; memory beyond the end of its file.
        assert_eq!(front.done(&Request::SetVringKick { ring: 9, fd: true }, &[event.as_fd()]), Some(false));
        assert_eq!(front.done(&Request::SetBackendReqFd, &[one]), Some(false));
        let long = Region { guest: 0, size: 0x10000, user: USER, offset: 0x1000 };
        let long = Request::SetMemTable([long].into_iter().collect());
        assert_eq!(front.done(&long, &[one]), Some(false));
    }
    // Ours; kick, call and error; and the ring's own kick and call.
    assert_eq!(event_fds(&event), 1 + 3 + 2);
    assert_eq!((memory.fds(), memory.mappings()), (1, 1));
    assert!(rustix::fs::fcntl_getfl(&event).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    drop(front);
    back.end().unwrap();
    assert_eq!(event_fds(&event), 1);
    assert_eq!((memory.fds(), memory.mappings()), (1, 0));

    // Descriptors that no request has, too many of them, and a message that never ends.
    for (bytes, count) in [
        (Request::GetFeatures.encode(false), 1),
        (Request::SetVringKick { ring: 0, fd: true }.encode(false), 2),
        (Request::SetVringKick { ring: 0, fd: false }.encode(false), 1),
        (memory.table().encode(false), 8),
        (encode(500, 0, &[]), 3),
        (vec![1, 2, 3], 8),
    ] {
        let (mut front, back) = open();
        let fds = vec![one; count];
        front.0.send(&bytes, &fds).unwrap();
        drop(front);
        assert!(back.end().is_err());
        assert_eq!(memory.fds(), 1);
    }
    let (front, back) = open();
    let many = [one; 20];
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&many)));
    let bytes = Request::GetFeatures.encode(false);
    let flags = rustix::net::SendFlags::NOSIGNAL;
    rustix::net::sendmsg(&front.0, &[std::io::IoSlice::new(&bytes)], &mut control, flags).unwrap();
    assert!(matches!(back.end(), Err(VhostUserError::Protocol(ProtocolError::TooManyFds { .. }))));
    assert_eq!(memory.fds(), 1);
}

#[test]
fn a_peer_that_stalls_within_a_message_has_a_time_limit() {
    let bytes = Request::SetVringNum { ring: 0, size: 8 }.encode(false);
    for len in [1, 11, 12, 13, 19] {
        let limit = Duration::from_millis(50);
        let (mut stream, back) = serve(2, limit);
        // Between messages there is none.
        thread::sleep(limit * 2);
        stream.write_all(&bytes[..len]).unwrap();
        assert!(matches!(back.end(), Err(VhostUserError::Stalled { .. })), "after {len} bytes");
    }
    // A slow one, within the limit, is understood.
    let (mut stream, back) = serve(2, PATIENCE);
    for byte in Request::GetQueueNum.encode(false) {
        stream.write_all(&[byte]).unwrap();
    }
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..], 1_u64.to_ne_bytes());
    // One that is told to stop does so at once, between messages and within one.
    stream.write_all(&bytes[..5]).unwrap();
    let begun = Instant::now();
    back.wake.raise();
    assert_eq!(back.end().unwrap(), Ended::Stopped);
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn a_peer_that_never_reads_has_a_time_limit() {
    let (mut stream, back) = serve(2, Duration::from_millis(50));
    let question = Request::GetFeatures.encode(false);
    while stream.write_all(&question).is_ok() {}
    assert!(matches!(back.end(), Err(VhostUserError::Stalled { .. })));
}

/// Plays a back end that answers as the test says, and tells how the front end took it.
fn negotiate(
    limit: Duration,
    answer: impl Fn(&mut Connection, Request) -> bool + Send + 'static,
) -> Result<FrontEnd, VhostUserError> {
    let (front, back) = UnixStream::pair().unwrap();
    let playing = thread::spawn(move || {
        let mut back = Connection::new(back).with_time_limit(PATIENCE);
        while let Ok(Some(message)) = back.recv() {
            let request = parse(&message.bytes, message.fds.len()).unwrap();
            if !answer(&mut back, request) {
                break;
            }
        }
    });
    let connection = Connection::new(front).with_time_limit(limit);
    let mut result = FrontEnd::negotiate(connection, u64::MAX, ProtocolFeatures::all());
    if let Ok(front) = &mut result {
        let base = front.stop_ring(1);
        if base.is_err() {
            // The session is over, and every later request says so.
            assert!(matches!(front.set_features(0), Err(VhostUserError::Closed { .. })));
            assert!(front.events().unwrap().closed);
        }
        result = base.map_or_else(Err, |_| result);
    }
    // A front end that failed has closed the socket.
    if result.is_err() {
        playing.join().unwrap();
    }
    result
}

#[test]
fn answers_of_a_back_end_are_checked() {
    fn number(request: &Request) -> u64 {
        if *request == Request::GetFeatures { F_VERSION_1 } else { 0 }
    }
    fn good(back: &mut Connection, request: &Request) -> bool {
        let code = request.code();
        if !code.has_reply() {
            return true;
        }
        let payload = match request {
            Request::GetVringBase { ring } => VringState { index: *ring, num: 3 }.as_bytes().to_vec(),
            _ => number(request).to_ne_bytes().to_vec(),
        };
        back.send(&encode_reply(code as u32, &payload), &[]).is_ok()
    }
    let front = negotiate(PATIENCE, |back, request| good(back, &request)).unwrap();
    // An old back end, without protocol features.
    assert_eq!((front.device_features(), front.queue_pairs()), (F_VERSION_1, 1));
    drop(front);

    type Answer = fn(&mut Connection, &Request) -> bool;
    let bad: [(&str, Answer); 8] = [
        ("no answer", |_, _| true),
        ("the socket closed", |_, _| false),
        ("a request", |back, r| back.send(&encode(r.code() as u32, 0, &[0; 8]), &[]).is_ok()),
        ("another request's reply", |back, _| back.send(&encode_reply(2, &[0; 8]), &[]).is_ok()),
        ("a reply of no size", |back, r| back.send(&encode_reply(r.code() as u32, &[]), &[]).is_ok()),
        ("a reply of another size", |back, r| {
            back.send(&encode_reply(r.code() as u32, &[0; 9]), &[]).is_ok()
        }),
        ("descriptors", |back, r| {
            let fd = event();
            back.send(&encode_reply(r.code() as u32, &[0; 8]), &[fd.as_fd()]).is_ok()
        }),
        ("another ring", |back, r| match r {
            Request::GetVringBase { .. } => {
                let state = VringState { index: 7, num: 0 };
                back.send(&encode_reply(11, state.as_bytes()), &[]).is_ok()
            }
            _ => good(back, r),
        }),
    ];
    for (what, answer) in bad {
        let limit = if what == "no answer" { Duration::from_millis(100) } else { PATIENCE };
        // At once, and when all went well until a ring was stopped.
        let ended = negotiate(
            limit,
            move |back, request: Request| {
                if request.code().has_reply() { answer(back, &request) } else { true }
            },
        );
        assert!(ended.is_err(), "{what}");
        let ended = negotiate(limit, move |back, request| match request {
            Request::GetVringBase { .. } => answer(back, &request),
            _ => good(back, &request),
        });
        assert!(ended.is_err(), "{what}");
    }
}

#[test]
fn what_a_back_end_says_unasked_is_checked() {
    let (front, back) = UnixStream::pair().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let playing = thread::spawn(move || {
        let mut back = Connection::new(back).with_time_limit(PATIENCE);
        let wanted = (ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG).bits();
        while let Ok(Some(mut message)) = back.recv() {
            let answer = match parse(&message.bytes, message.fds.len()).unwrap() {
                Request::GetFeatures => F_PROTOCOL_FEATURES,
                Request::GetProtocolFeatures => wanted,
                Request::SetBackendReqFd => {
                    sender.send(UnixStream::from(message.fds.pop().unwrap())).unwrap();
                    continue;
                }
                // No configuration after all.
                Request::GetConfig { .. } => {
                    back.send(&encode_reply(24, &[0; 12]), &[]).unwrap();
                    continue;
                }
                Request::SetStatus(_) => break,
                _ => continue,
            };
            back.send(&encode_reply(message.header().request, &answer.to_ne_bytes()), &[]).unwrap();
        }
        // Something that nobody asked for.
        back.send(&encode_reply(1, &[0; 8]), &[]).unwrap();
        back
    });
    let connection = Connection::new(front).with_time_limit(PATIENCE);
    let mut front = FrontEnd::negotiate(connection, u64::MAX, ProtocolFeatures::all()).unwrap();
    let mut channel = Connection::new(receiver.recv().unwrap()).with_time_limit(PATIENCE);
    assert_eq!(front.config().unwrap(), None);
    // Asked for an answer, the front end gives one: 0 for what it knows, 1 for what was not negotiated.
    for (number, answer) in [(2_u32, 0_u64), (3, 1)] {
        channel.send(&encode(number, NEED_REPLY, &[]), &[]).unwrap();
        assert_eq!(front.events().unwrap(), Events { config_changed: number == 2, closed: false });
        let reply = channel.recv().unwrap().unwrap();
        assert_eq!(parse_reply(&reply.bytes, 0, number), Ok(answer.to_ne_bytes().as_slice()));
    }
    // One that breaks the protocol loses the channel, and not the session.
    let fd = event();
    channel.send(&encode(2, 0, &[]), &[fd.as_fd()]).unwrap();
    assert_eq!(front.events().unwrap(), Events::default());
    assert!(channel.recv().unwrap().is_none());
    assert_eq!(front.config().unwrap(), None);
    // A reply to nothing ends it.
    front.connection_for_tests().send(&Request::SetStatus(1).encode(false), &[]).unwrap();
    let _back = playing.join().unwrap();
    assert!(matches!(front.events(), Err(VhostUserError::Protocol(_))));
    assert!(front.set_features(0).is_err());
}

/// A request that may make sense at some time.
fn any_request() -> impl Strategy<Value = (Request, bool)> {
    let ring = prop_oneof![9 => 0_u32..2, 1 => Just(7_u32)];
    let base = prop_oneof![Just(0_u32), Just(77), Just(0x8000), Just(u32::MAX)];
    let features = prop_oneof![
        Just(F_VERSION_1 | F_PROTOCOL_FEATURES),
        Just(F_VERSION_1 | F_RING_PACKED),
        Just(0),
        Just(u64::MAX),
    ];
    let place = prop_oneof![4 => Just(USER), 1 => Just(USER + 0x7000), 1 => Just(u64::MAX - 0x4000)];
    let what = (0_u32..17, ring, base, features, place, any::<bool>(), 1_u16..300);
    (what, any::<bool>()).prop_map(|((kind, ring, base, features, place, on, size), same)| {
        let request = match kind {
            0 => Request::SetFeatures(features),
            1 | 2 => Request::SetVringNum { ring, size: if same { 128 } else { size } },
            3 | 4 => Request::SetVringAddr(VringAddresses { index: ring, ..addresses(ring & 1, place) }),
            5 => Request::SetVringBase { ring, base },
            6 | 7 => Request::GetVringBase { ring: ring & 1 },
            8..=10 => Request::SetVringKick { ring, fd: on },
            11 => Request::SetVringCall { ring, fd: on },
            12 => Request::SetVringEnable { ring, on },
            13 => Request::SetStatus(if on { 0 } else { 15 }),
            14 => Request::ResetDevice,
            _ => {
                let region =
                    Region { guest: 0, size: 0x8000, user: USER, offset: if on { 0 } else { 0x9000 } };
                Request::SetMemTable([region].into_iter().collect())
            }
        };
        (request, same)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The recorder checks that what it is told makes sense, whatever the front end says in whatever order.
    #[test]
    fn any_order_of_requests_makes_sense_to_the_device(requests in proptest::collection::vec(any_request(), 1..80)) {
        let memory = Memory::new("order", USER, 0x10000, 0);
        let event = event();
        let (mut front, back) = open();
        for (request, _) in &requests {
            let fd = match request {
                Request::SetVringKick { fd: true, .. } | Request::SetVringCall { fd: true, .. } => Some(event.as_fd()),
                Request::SetMemTable(_) => Some(memory.fd.as_fd()),
                _ => None,
            };
            prop_assert!(front.ask(request, fd.as_slice()).is_some(), "{request:?}");
        }
        drop(front);
        prop_assert_eq!(back.end().unwrap(), Ended::Closed);
        prop_assert_eq!((memory.fds(), memory.mappings(), event_fds(&event)), (1, 0, 1));
    }

    #[test]
    fn any_bytes_end_a_session_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        let (mut stream, back) = serve(2, Duration::from_millis(20));
        // The back end may have closed the socket already.
        let _ = stream.write_all(&bytes);
        drop(stream);
        let ended = back.end();
        prop_assert!(ended.is_err() || bytes.len() >= 12);
    }
}
