//! Sessions as they should be.

use std::time::Instant;

use super::*;

const USER: u64 = 0x7f00_0000_0000;

fn front(stream: UnixStream) -> FrontEnd {
    let connection = Connection::new(stream).with_time_limit(PATIENCE);
    FrontEnd::negotiate(connection, u64::MAX, ProtocolFeatures::all()).unwrap()
}

fn start(front: &mut FrontEnd, index: u16, base: u32, events: &(OwnedFd, OwnedFd)) {
    let VringAddresses { descriptors, driver_area, device_area, .. } = addresses(index.into(), USER);
    let (kick, call) = (events.0.as_fd(), events.1.as_fd());
    let ring = RingAddresses { size: 256, descriptors, driver_area, device_area, base, kick, call };
    front.start_ring(index, &ring).unwrap();
}

fn started(ring: u16, base: u32, marker: u8) -> Told {
    Told::Start { ring, size: 256, base, marker, kick: true, call: true }
}

#[test]
fn a_device_is_brought_up_stopped_and_goes_on_where_it_was() {
    let memory = Memory::new("up", USER, 0x10000, 7);
    let (stream, back) = serve(4, PATIENCE);
    let mut front = front(stream);
    assert_eq!(front.device_features(), FEATURES);
    assert_eq!(front.queue_pairs(), 2);
    assert_eq!(front.protocol_features(), frontend::WANTED);
    let config = front.config().unwrap().unwrap();
    assert_eq!((config.mac, config.mtu.get(), config.status.get()), ([2, 0, 0, 0, 0, 7], 1500, 1));

    front.set_status(3).unwrap();
    front.set_features(F_VERSION_1).unwrap();
    front.set_mtu(1400).unwrap();
    assert!(matches!(front.set_mtu(9001), Err(VhostUserError::Failed { code: Code::NetSetMtu, answer: 1 })));
    front.set_memory(&[memory.region()]).unwrap();
    let events = (event(), event());
    start(&mut front, 0, 0, &events);
    start(&mut front, 1, 65530, &events);
    front.enable_ring(1, true).unwrap();
    front.set_status(15).unwrap();
    assert_eq!(
        back.news(),
        [
            Told::Status(3),
            Told::Negotiated(F_VERSION_1),
            Told::Mtu(1400),
            Told::Mtu(9001),
            started(0, 0, 7),
            Told::Enable(0, false),
            started(1, 65530, 7),
            Told::Enable(1, false),
            Told::Enable(1, true),
            Told::Status(15),
        ]
    );
    assert_eq!((memory.fds(), memory.mappings()), (1, 1));

    let base = front.stop_ring(1).unwrap();
    assert_eq!(base, 65530 + WORK);
    // Asked again, it says the same and stops nothing.
    assert_eq!(front.stop_ring(1).unwrap(), base);
    start(&mut front, 1, base, &events);
    assert_eq!(back.news(), [Told::Stop(1), started(1, base, 7), Told::Enable(1, true)]);

    drop(front);
    assert_eq!(back.end().unwrap(), Ended::Closed);
    assert_eq!((memory.fds(), memory.mappings()), (1, 0));
}

#[test]
fn memory_changes_under_rings_that_run() {
    let (first, second) = (Memory::new("a", USER, 0x10000, 1), Memory::new("b", USER, 0x10000, 2));
    let (stream, back) = serve(2, PATIENCE);
    let mut front = front(stream);
    front.set_features(F_VERSION_1).unwrap();
    front.set_memory(&[first.region()]).unwrap();
    let events = (event(), event());
    start(&mut front, 0, 100, &events);
    start(&mut front, 1, 200, &events);
    front.enable_ring(0, true).unwrap();
    back.news();
    front.set_memory(&[second.region()]).unwrap();
    assert_eq!(
        back.news(),
        [
            Told::Stop(0),
            Told::Stop(1),
            started(0, 100 + WORK, 2),
            Told::Enable(0, true),
            started(1, 200 + WORK, 2),
            Told::Enable(1, false),
        ]
    );
    assert_eq!((first.mappings(), second.mappings()), (0, 1));

    // Memory that cannot be had changes nothing.
    let region = MemoryRegion { len: 0x10001, ..first.region() };
    assert!(matches!(front.set_memory(&[region]), Err(VhostUserError::Failed { .. })));
    assert_eq!(back.news(), []);

    // Memory in which only one ring lies: the other stays stopped, and its place is not forgotten.
    front.set_memory(&[MemoryRegion { len: 0x4000, ..first.region() }]).unwrap();
    assert_eq!(
        back.news(),
        [Told::Stop(0), Told::Stop(1), started(0, 100 + 2 * WORK, 1), Told::Enable(0, true)]
    );
    assert_eq!(front.stop_ring(1).unwrap(), 200 + 2 * WORK);
    drop(front);
    back.end().unwrap();
}

#[test]
fn packed_rings_begin_with_both_wrap_counters_set() {
    let memory = Memory::new("packed", USER, 0x10000, 0);
    let (stream, back) = serve(2, PATIENCE);
    let mut front = Raw::new(stream);
    front.open();
    let features = F_VERSION_1 | F_RING_PACKED | F_PROTOCOL_FEATURES;
    assert_eq!(front.done(&Request::SetFeatures(features), &[]), Some(true));
    assert_eq!(front.done(&memory.table(), &[memory.fd.as_fd()]), Some(true));
    // Any size will do, and four bytes are enough for the areas at the end of memory.
    assert_eq!(front.done(&Request::SetVringNum { ring: 0, size: 255 }, &[]), Some(true));
    let at = VringAddresses { driver_area: USER + 0xfff8, device_area: USER + 0xfffc, ..addresses(0, USER) };
    assert_eq!(front.done(&Request::SetVringAddr(at), &[]), Some(true));
    assert_eq!(front.base(0), Some(PACKED_START));
    assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(true));
    let start = Told::Start { ring: 0, size: 255, base: PACKED_START, marker: 0, kick: false, call: false };
    assert_eq!(back.news()[1..], [start, Told::Enable(0, false)]);
    assert_eq!(front.base(0), Some(PACKED_START + WORK));
    // DPDK's way to say where to begin.
    assert_eq!(front.done(&Request::SetVringBase { ring: 0, base: 0x8000 }, &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(true));
    assert!(matches!(back.news()[..], [Told::Stop(0), Told::Start { base: PACKED_START, .. }, _]));
    drop(front);
    back.end().unwrap();
}

#[test]
fn without_protocol_features_a_ring_works_from_its_start() {
    let memory = Memory::new("old", USER, 0x10000, 0);
    let (stream, back) = serve(2, PATIENCE);
    let mut front = Raw::new(stream);
    let kick = event();
    front.tell(&Request::SetOwner, &[]);
    front.tell(&Request::SetFeatures(F_VERSION_1), &[]);
    // The kick first, and the addresses last.
    front.tell(&Request::SetVringKick { ring: 0, fd: true }, &[kick.as_fd()]);
    front.tell(&memory.table(), &[memory.fd.as_fd()]);
    front.tell(&Request::SetVringNum { ring: 0, size: 256 }, &[]);
    front.tell(&Request::SetVringAddr(addresses(0, USER)), &[]);
    assert_eq!(front.base(0), Some(WORK));
    let start = Told::Start { ring: 0, size: 256, base: 0, marker: 0, kick: true, call: false };
    assert_eq!(back.told(), [Told::Negotiated(F_VERSION_1), start, Told::Enable(0, true), Told::Stop(0)]);
    drop(front);
    back.end().unwrap();
}

#[test]
fn kick_call_and_addresses_change_while_a_ring_runs_and_its_size_does_not() {
    let memory = Memory::new("change", USER, 0x10000, 0);
    let (stream, back) = serve(2, PATIENCE);
    let mut front = Raw::new(stream);
    let fd = event();
    front.open();
    front.prepare(1, &memory);
    assert_eq!(front.done(&Request::SetVringEnable { ring: 1, on: true }, &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringKick { ring: 1, fd: true }, &[fd.as_fd()]), Some(true));
    back.news();
    assert_eq!(front.done(&Request::SetVringCall { ring: 1, fd: true }, &[fd.as_fd()]), Some(true));
    assert_eq!(front.done(&Request::SetVringKick { ring: 1, fd: false }, &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringCall { ring: 1, fd: false }, &[]), Some(true));
    let again = |base, call| Told::Start { ring: 1, size: 256, base, marker: 0, kick: false, call };
    let on = Told::Enable(1, true);
    assert_eq!(
        back.news(),
        [Told::Call(1, true), Told::Stop(1), again(WORK, true), on.clone(), Told::Call(1, false)]
    );
    // The same addresses again change nothing.
    assert_eq!(front.done(&Request::SetVringAddr(addresses(1, USER)), &[]), Some(true));
    assert_eq!(back.news(), []);
    let moved = VringAddresses { index: 1, ..addresses(0, USER) };
    assert_eq!(front.done(&Request::SetVringAddr(moved), &[]), Some(true));
    assert_eq!(back.news(), [Told::Stop(1), again(2 * WORK, false), on]);

    assert_eq!(front.done(&Request::SetVringNum { ring: 1, size: 256 }, &[]), Some(true));
    assert_eq!(front.done(&Request::SetVringNum { ring: 1, size: 128 }, &[]), Some(false));
    assert_eq!(front.done(&Request::SetVringBase { ring: 1, base: 0 }, &[]), Some(false));
    let (same, other) = (F_VERSION_1 | F_PROTOCOL_FEATURES, F_PROTOCOL_FEATURES);
    assert_eq!(front.done(&Request::SetFeatures(same), &[]), Some(true));
    assert_eq!(front.done(&Request::SetFeatures(other), &[]), Some(false));
    assert_eq!(back.news(), []);
    drop(front);
    back.end().unwrap();
}

#[test]
fn a_reset_stops_rings_and_their_bases_can_still_be_asked_for() {
    // QEMU 7.2 sets the status to 0 before it asks for the bases.
    for reset in [Request::SetStatus(0), Request::ResetDevice, Request::ResetOwner] {
        let memory = Memory::new("reset", USER, 0x10000, 0);
        let (stream, back) = serve(2, PATIENCE);
        let mut front = Raw::new(stream);
        front.open();
        front.prepare(0, &memory);
        assert_eq!(front.done(&Request::SetVringBase { ring: 0, base: 40 }, &[]), Some(true));
        assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(true));
        assert_eq!(front.done(&Request::SetStatus(7), &[]), Some(true));
        assert_eq!(front.ask(&Request::GetStatus, &[]), Some(7_u64.to_ne_bytes().to_vec()));
        back.news();
        front.tell(&reset, &[]);
        let owner = reset == Request::ResetOwner;
        assert_eq!(front.base(0), Some(if owner { 0 } else { 40 + WORK }), "{reset:?}");
        assert_eq!(back.news(), [Told::Stop(0), Told::Status(0)]);
        assert_eq!(memory.mappings(), usize::from(!owner));
        if owner {
            front.open();
        }
        // Nothing of the ring is left: it starts from its beginning, when all is told again.
        front.prepare(0, &memory);
        assert_eq!(front.done(&Request::SetVringKick { ring: 0, fd: false }, &[]), Some(true));
        assert!(matches!(back.news()[..], [Told::Negotiated(_), Told::Start { base: 0, .. }, _]));
        drop(front);
        back.end().unwrap();
    }
}

#[test]
fn the_back_end_tells_of_changes_of_its_configuration() {
    let (stream, back) = serve(2, PATIENCE);
    assert!(!back.channel.config_changed());
    let mut front = front(stream);
    assert_eq!(front.events().unwrap(), Events::default());
    let watch = front.watch().unwrap();
    let wake = Wake::new().unwrap();
    assert_eq!(watch.wait(&wake, Some(Duration::ZERO)).unwrap(), Waited::TimedOut);
    assert!(back.channel.config_changed());
    assert_eq!(watch.wait(&wake, Some(PATIENCE)).unwrap(), Waited::Ready(1));
    assert_eq!(front.events().unwrap(), Events { config_changed: true, closed: false });
    assert_eq!(front.events().unwrap(), Events::default());
    // Nobody reads: it is told as often as there is room, and never waits.
    let begun = Instant::now();
    while back.channel.config_changed() {}
    assert!(begun.elapsed() < PATIENCE);
    // Requests are answered in between.
    front.set_features(F_VERSION_1).unwrap();
    wake.raise();
    assert_eq!(watch.wait(&wake, None).unwrap(), Waited::Woken);

    back.wake.raise();
    assert_eq!(back.end().unwrap(), Ended::Stopped);
    let calm = Wake::new().unwrap();
    watch.wait(&calm, Some(PATIENCE)).unwrap();
    assert!(front.events().unwrap().closed);
}

#[test]
fn a_front_end_may_leave_at_any_time() {
    let steps = 12;
    for leave in 0..=steps {
        let memory = Memory::new("leave", USER, 0x10000, 0);
        let (stream, back) = serve(2, PATIENCE);
        let mut front = Raw::new(stream);
        let (fd, (here, there)) = (event(), UnixStream::pair().unwrap());
        for step in 0..leave {
            let (request, fds): (Request, &[BorrowedFd<'_>]) = match step {
                0 => (Request::SetOwner, &[]),
                1 => (Request::SetProtocolFeatures(backend::OFFERED.bits()), &[]),
                2 => (Request::SetBackendReqFd, &[there.as_fd()]),
                3 => (Request::SetVringCall { ring: 0, fd: true }, &[fd.as_fd()]),
                4 => (Request::SetFeatures(F_VERSION_1 | F_PROTOCOL_FEATURES), &[]),
                5 => (memory.table(), &[memory.fd.as_fd()]),
                6 => (Request::SetVringNum { ring: 0, size: 256 }, &[]),
                7 => (Request::SetVringBase { ring: 0, base: 1 }, &[]),
                8 => (Request::SetVringAddr(addresses(0, USER)), &[]),
                9 => (Request::SetVringErr { ring: 0, fd: true }, &[fd.as_fd()]),
                10 => (Request::SetVringKick { ring: 0, fd: true }, &[fd.as_fd()]),
                _ => (Request::SetVringEnable { ring: 0, on: true }, &[]),
            };
            front.tell(&request, fds);
        }
        drop((front, there));
        let log = Arc::clone(&back.log);
        assert_eq!(back.end().unwrap(), Ended::Closed);
        let log = log.lock().unwrap();
        let was_started = log.iter().any(|told| matches!(told, Told::Start { .. }));
        assert_eq!(was_started, leave > 10);
        assert_eq!(log.contains(&Told::Stop(0)), was_started);
        assert_eq!((memory.fds(), memory.mappings()), (1, 0), "left after {leave} steps");
        // The other end of the second socket is closed as well.
        let mut byte = [0];
        assert_eq!(std::io::Read::read(&mut &here, &mut byte).unwrap(), 0);
    }
}
