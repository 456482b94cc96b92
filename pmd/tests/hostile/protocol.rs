//! A front end that breaks the protocol in the middle of traffic: messages, descriptors, memory, and when it comes and goes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use wirerate_pmd::drivers::vhost;
use wirerate_pmd::{Burst, Port, PortConfig};

use crate::from_driver::{against_a_port, passes, session};
use crate::peer::{ASK, Memory, Peer, REPLY, TELL, code, event, event_fds, halves, wait_for, words};
use crate::rings::*;
use crate::target::{Target, eal, frame, pool};

const FAILURES: &str = "vhost_session_failures";

/// Says something that cannot be, in a session of its own unless the one that goes on is good for it. Either an answer says
/// no, and frames pass as before, or the session ends as a failure.
fn refused(
    target: &Target,
    front: &mut Option<Front>,
    packed: bool,
    what: &str,
    message: (u32, u32, &[u8]),
    fds: &[BorrowedFd<'_>],
) {
    let one = front.get_or_insert_with(|| session(target, packed, 0));
    let failures = target.count(FAILURES);
    let (request, flags, payload) = message;
    assert!(one.peer.tell(request, flags, payload, fds), "{what}");
    match one.peer.hear() {
        Some((_, answer, _)) => {
            assert!(answer.len() != 8 || answer == 1u64.to_ne_bytes(), "{what} was done");
            passes(one, target);
        }
        None => {
            wait_for(what, || target.count(FAILURES) == failures + 1);
            assert!(!target.port().link().up);
            *front = None;
        }
    }
}

/// Looks that nothing of these is left but what the test has itself.
fn nothing_is_left(memory: &Memory, events: &[&OwnedFd]) {
    wait_for("descriptors and mappings to be gone", || {
        memory.fds() == 1 && memory.mappings() == 1 && events.iter().all(|fd| event_fds(fd) == 1)
    });
}

#[test]
fn cve_2019_14818_cve_2020_10726_cve_2022_0669_descriptors_come_and_go_with_their_messages() {
    against_a_port(|_, target, packed| {
        // Messages are the same for any rings.
        if packed {
            return;
        }
        let (memory, bell) = (Memory::new(0x10_0000), event());
        let mut front = None;
        let mut say = |what: &str, message: (u32, u32, &[u8]), fds: &[BorrowedFd<'_>]| {
            refused(target, &mut front, packed, what, message, fds);
        };
        for count in [1, 2, 8, 9, 40] {
            let fds = vec![bell.as_fd(); count];
            say("descriptors with a request of none", (code::SET_VRING_NUM, ASK, &halves(&[0, 512])), &fds);
        }
        for count in [0, 2, 8, 40] {
            let fds = vec![bell.as_fd(); count];
            say("another number of kicks", (code::SET_VRING_KICK, ASK, &words(&[0])), &fds);
            say("another number of calls", (code::SET_VRING_CALL, ASK, &words(&[1])), &fds);
        }
        for count in [0, 1, 3, 8, 30] {
            let fds = vec![memory.as_fd(); count];
            say("another number of regions", (code::SET_MEM_TABLE, ASK, &memory_table()), &fds);
        }
        for count in [0, 1, 8] {
            let fds = vec![memory.as_fd(); count];
            let inflight = [words(&[4096, 0]), halves(&[0x0002_0001])].concat();
            say("memory for what is in work", (code::SET_INFLIGHT_FD, ASK, &inflight), &fds);
            say("memory for what is in work, please", (code::GET_INFLIGHT_FD, ASK, &inflight), &fds);
            say("a log", (code::SET_LOG_BASE, ASK, &words(&[4096, u64::MAX])), &fds);
            say("a channel", (code::SET_BACKEND_REQ_FD, ASK, &[]), &fds);
        }
        drop(front);
        nothing_is_left(&memory, &[&bell]);
    });
}

#[test]
fn cve_2020_10723_cve_2021_3839_messages_that_cannot_be_are_refused() {
    against_a_port(|_, target, packed| {
        // Messages are the same for any rings.
        if packed {
            return;
        }
        let bell = event();
        let mut front = None;
        let mut say = |what: &str, message: (u32, u32, &[u8]), fds: &[BorrowedFd<'_>]| {
            refused(target, &mut front, packed, what, message, fds);
        };
        for ring in [2, 255, 256, 257, 0x1_0000, 0x1_0001, 0x8000_0000, u32::MAX] {
            for request in [code::SET_VRING_NUM, code::SET_VRING_BASE, code::SET_VRING_ENABLE] {
                say("a ring that is not there", (request, ASK, &halves(&[ring, 1])), &[]);
            }
            say("a kick of none", (code::SET_VRING_KICK, ASK, &words(&[ring.into()])), &[bell.as_fd()]);
            say(
                "addresses of none",
                (code::SET_VRING_ADDR, ASK, &addresses(ring as usize, USER, USER, USER)),
                &[],
            );
        }
        say("where none is", (code::GET_VRING_BASE, TELL, &halves(&[2, 0])), &[]);
        for features in [1 << 63, 1 << 33, u64::MAX, 1 << 20, 1 << 36] {
            say("features that were not offered", (code::SET_FEATURES, ASK, &words(&[features])), &[]);
            say("protocol features likewise", (code::SET_PROTOCOL_FEATURES, ASK, &words(&[features])), &[]);
        }
        for size in [0, 3, 32_769, 0x1_0200, u32::MAX] {
            say("a size", (code::SET_VRING_NUM, ASK, &halves(&[0, size])), &[]);
        }
        for base in [0x1_0000, u32::MAX] {
            say("a base while it runs", (code::SET_VRING_BASE, ASK, &halves(&[0, base])), &[]);
        }
        for request in [0, 41, 0x1_0001, u32::MAX] {
            say("an unknown request", (request, ASK, &[]), &[]);
        }
        for flags in [0, 2, 3, REPLY, ASK | 4] {
            say("flags", (code::SET_STATUS, flags, &words(&[1])), &[]);
        }
        for len in [0, 1, 7, 9, 255, 4096] {
            say("another length", (code::SET_FEATURES, ASK, &vec![0; len]), &[]);
            say("another length", (code::SET_VRING_ADDR, ASK, &vec![0; len]), &[]);
            say("another length", (code::SET_MEM_TABLE, ASK, &vec![0; len]), &[]);
        }
        say("a table of 2^32 regions", (code::SET_MEM_TABLE, ASK, &halves(&[u32::MAX, 0])), &[]);
        say("config beyond all", (code::GET_CONFIG, TELL, &halves(&[u32::MAX, u32::MAX, 0])), &[]);
        drop(front);
        nothing_is_left(&Memory::new(4096), &[&bell]);
    });
}

#[test]
fn messages_that_end_at_any_byte_leave_nothing() {
    let eal = eal();
    let pool = pool(&eal, "truncated");
    let memory = Memory::new(LEN);
    let bell = event();
    let mut table = halves(&[code::SET_MEM_TABLE, ASK, 72]);
    table.extend(memory_table());
    let mut kick = halves(&[code::SET_VRING_KICK, ASK, 8]);
    kick.extend(words(&[0]));
    for (message, fds) in [(table, vec![memory.as_fd(); 2]), (kick, vec![bell.as_fd()])] {
        for end in 1..message.len() {
            let (here, there) = UnixStream::pair().unwrap();
            let port = Port::new(vhost::with_stream("net_vhost0", there, 1), "net_vhost0", 0);
            let (port, mut queues) = port.configure(&PortConfig::new(pool.clone())).unwrap().start().unwrap();
            assert!(Peer::over(here).send(&message[..end], &fds));
            let count = || {
                let all = port.xstats();
                all.iter().find(|(name, _)| name == FAILURES).unwrap().1
            };
            wait_for("the failure", || count() == 1);
            let mut burst = Burst::new(32);
            assert_eq!(queues.rx[0].rx_burst(&mut burst), 0);
            drop(queues);
            drop(port.stop().unwrap());
        }
    }
    nothing_is_left(&memory, &[&bell]);
    assert_eq!(pool.counts().in_use, 0);
}

#[test]
fn cve_2018_1059_cve_2020_10722_memory_that_changes_in_the_middle_of_traffic() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, MERGEABLE);
        let memory = std::sync::Arc::clone(&front.memory);
        let (pipe, _write) = std::io::pipe().unwrap();
        let short = Memory::new(4096);
        let endless = rustix::fs::memfd_create("endless", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&endless, 1 << 46).unwrap();
        let len = LEN as u64;
        let region = |guest: u64, len: u64, user: u64, offset: u64| words(&[guest, len, user, offset]);
        target.flood(true);
        for (what, regions, fd) in [
            (
                "guest addresses twice",
                vec![region(GUEST, len, USER, 0), region(GUEST + 4096, 4096, USER + 2 * len, 0)],
                memory.as_fd(),
            ),
            (
                "user addresses twice",
                vec![region(GUEST, len, USER, 0), region(GUEST + len, 4096, USER, 0)],
                memory.as_fd(),
            ),
            ("no region", vec![], memory.as_fd()),
            (
                "nine regions",
                (0..9).map(|at| region(GUEST + at * 4096, 4096, USER + at * 4096, 0)).collect(),
                memory.as_fd(),
            ),
            ("a region of nothing", vec![region(GUEST, 0, USER, 0)], memory.as_fd()),
            ("a file that is too short", vec![region(GUEST, len, USER, 0)], short.as_fd()),
            ("an offset behind the end", vec![region(GUEST, 4096, USER, len)], memory.as_fd()),
            ("an offset that overflows", vec![region(GUEST, 4096, USER, u64::MAX - 4095)], memory.as_fd()),
            ("addresses that overflow", vec![region(u64::MAX - 4095, 8192, USER, 0)], memory.as_fd()),
            (
                "more than there are addresses",
                (0..8).map(|at| region(at << 44, 1 << 44, at << 44, 0)).collect(),
                endless.as_fd(),
            ),
            ("a pipe", vec![region(GUEST, 4096, USER, 0)], pipe.as_fd()),
        ] {
            let mut table = halves(&[regions.len() as u32, 0]);
            regions.iter().for_each(|region| table.extend(region));
            let fds = vec![fd; regions.len()];
            match front.peer.done(code::SET_MEM_TABLE, &table, &fds) {
                Some(done) => assert!(!done, "{what} was taken"),
                None => {
                    // The frame that shows that it works again has the port for itself.
                    target.flood(false);
                    target.polled();
                    drop(front);
                    front = session(target, packed, MERGEABLE);
                    target.flood(true);
                }
            }
            target.polled();
            assert!(target.port().link().up, "{what}");
        }
        target.flood(false);
        target.polled();
        drop((front, memory));
        let mut front = session(target, packed, MERGEABLE);
        let memory = std::sync::Arc::clone(&front.memory);
        // Memory in which the rings are not any more: they stop, and go on when they are there again.
        let elsewhere = [halves(&[1, 0]), region(GUEST, 4096, USER + 16 * len, 0)].concat();
        for _ in 0..5 {
            assert_eq!(front.peer.done(code::SET_MEM_TABLE, &elsewhere, &[short.as_fd()]), Some(true));
            assert!(!target.port().link().up);
            target.polled();
            let fds = [memory.as_fd(); 2];
            assert_eq!(front.peer.done(code::SET_MEM_TABLE, &memory_table(), &fds), Some(true));
            passes(&mut front, target);
        }
        // While frames go through, again and again.
        target.flood(true);
        for _ in 0..50 {
            let fds = [memory.as_fd(); 2];
            assert_eq!(front.peer.done(code::SET_MEM_TABLE, &memory_table(), &fds), Some(true));
        }
        target.flood(false);
        drop((front, memory));
        nothing_is_left(&short, &[]);
    });
}

#[test]
fn rings_are_set_up_in_any_order_and_at_places_that_cannot_be() {
    against_a_port(|_, target, packed| {
        let mut front = session(target, packed, 0);
        let at = |offset: usize| USER + (TX * 0x1_0000 + offset) as u64;
        let good = (at(0), at(0x4000), at(0x8000));
        let size = if packed { 500 } else { 512 };
        for (what, (descriptors, driver, device)) in [
            ("descriptors at an odd address", (good.0 + 8, good.1, good.2)),
            ("a driver area at an odd address", (good.0, good.1 + 1, good.2)),
            ("a device area at an odd address", (good.0, good.1, good.2 + 2)),
            ("descriptors nowhere", (0, good.1, good.2)),
            ("a driver area nowhere", (good.0, u64::MAX - 1, good.2)),
            ("a device area nowhere", (good.0, good.1, USER - 4)),
            ("descriptors across the end", (USER + BORDER as u64 - 16, good.1, good.2)),
            ("a device area across the end", (good.0, good.1, USER + BORDER as u64)),
        ] {
            front.stop(TX);
            let index = halves(&[TX as u32, size]);
            assert_eq!(front.peer.done(code::SET_VRING_NUM, &index, &[]), Some(true));
            let places = addresses(TX, descriptors, driver, device);
            let kick = event_payload(TX);
            let told = front.peer.done(code::SET_VRING_ADDR, &places, &[]).unwrap();
            let kicked = front.peer.done(code::SET_VRING_KICK, &kick, &[front.kick.as_fd()]).unwrap();
            assert!(!(told && kicked), "{what}");
            assert!(!target.port().link().up, "{what}");
            target.polled();
        }
        for base in if packed { [500u32, 0x8000_01f4, 0x7fff] } else { [0x1_0000, u32::MAX, 0x8000_0000] } {
            front.stop(TX);
            let base = halves(&[TX as u32, base]);
            let places = addresses(TX, good.0, good.1, good.2);
            assert!(front.peer.done(code::SET_VRING_ADDR, &places, &[]).is_some());
            let based = front.peer.done(code::SET_VRING_BASE, &base, &[]).unwrap();
            let kick = event_payload(TX);
            let kicked = front.peer.done(code::SET_VRING_KICK, &kick, &[front.kick.as_fd()]).unwrap();
            assert!(!(based && kicked), "a base of {base:?}");
        }
        front.stop(TX);
        front.start(TX);
        passes(&mut front, target);
        // Where it stops it stays, however often it is asked.
        let base = front.stop(TX);
        assert_eq!((front.stop(TX), front.stop(TX)), (base, base));
        drop(front);

        // What comes first need not come last: kicks before memory, enabling before features.
        for turn in 0..8 {
            let peer = Peer::connect(&target.path);
            let memory = Memory::new(LEN);
            let (kick, call) = (event(), event());
            let features = VERSION_1 | PROTOCOL | if packed { PACKED } else { 0 };
            let mut messages: Vec<(u32, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
                (code::SET_FEATURES, words(&[features]), vec![]),
                (code::SET_MEM_TABLE, memory_table(), vec![memory.as_fd(); 2]),
            ];
            for ring in [RX, TX] {
                let index = ring as u32;
                let at = |offset: usize| USER + offset as u64;
                let places = (at(descriptors_of(ring)), at(driver_area_of(ring)), at(device_area_of(ring)));
                messages.push((code::SET_VRING_KICK, event_payload(ring), vec![kick.as_fd()]));
                messages.push((code::SET_VRING_ENABLE, halves(&[index, 1]), vec![]));
                messages.push((code::SET_VRING_NUM, halves(&[index, SIZE.into()]), vec![]));
                messages.push((code::SET_VRING_CALL, event_payload(ring), vec![call.as_fd()]));
                messages.push((code::SET_VRING_ADDR, addresses(ring, places.0, places.1, places.2), vec![]));
            }
            assert_eq!(
                peer.done(code::SET_PROTOCOL_FEATURES, &words(&[1 | 1 << 3]), &[]),
                None.or(Some(true))
            );
            let count = messages.len();
            messages.rotate_left(turn * 5 % count);
            if turn % 2 == 1 {
                messages.reverse();
            }
            for (request, payload, fds) in &messages {
                assert!(peer.done(*request, payload, fds).is_some(), "request {request} in turn {turn}");
            }
            wait_for("the link", || target.port().link().up);
            drop(peer);
            wait_for("the end of the session", || !target.port().link().up);
            nothing_is_left(&memory, &[&kick, &call]);
        }
    });
}

#[test]
fn kicks_and_calls_that_are_none_are_refused_and_a_full_counter_is_not_waited_for() {
    against_a_port(|_, target, packed| {
        let file = tempfile::tempfile().unwrap();
        let (pipe_read, pipe_write) = std::io::pipe().unwrap();
        let memory = Memory::new(4096);
        let (socket, _other) = UnixStream::pair().unwrap();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut front = session(target, packed, 0);
        let all: [BorrowedFd<'_>; 6] = [
            file.as_fd(),
            pipe_read.as_fd(),
            pipe_write.as_fd(),
            memory.as_fd(),
            socket.as_fd(),
            null.as_fd(),
        ];
        for fd in all {
            for request in [code::SET_VRING_KICK, code::SET_VRING_CALL] {
                assert_eq!(front.peer.done(request, &event_payload(TX), &[fd]), Some(false));
                passes(&mut front, target);
            }
        }
        // A counter that is full, of one who would be kept by the next write.
        let full = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        for ring in [RX, TX] {
            assert_eq!(
                front.peer.done(code::SET_VRING_CALL, &event_payload(ring), &[full.as_fd()]),
                Some(true)
            );
        }
        for _ in 0..3 {
            passes(&mut front, target);
        }
        drop(front);
        nothing_is_left(&memory, &[&full]);
    });
}

#[test]
fn a_front_end_that_goes_in_the_middle_of_a_burst_leaves_nothing() {
    against_a_port(|_, target, packed| {
        for turn in 0..8 {
            let mut front = session(target, packed, MERGEABLE);
            target.flood(true);
            for _ in 0..300 {
                front.post(RX, &[desc(GUEST + BUFFERS as u64, 4096, WRITE)]);
                front.post(TX, &[desc(GUEST + BUFFERS as u64, 4096, 0)]);
            }
            std::thread::sleep(Duration::from_micros(200 * turn));
            let (memory, kick, call) = (front.memory, front.kick, front.call);
            drop(front.peer);
            wait_for("the end of the session", || !target.port().link().up);
            nothing_is_left(&memory, &[&kick, &call]);
            target.flood(false);
        }
        target.received();
    });
}

#[test]
fn many_peers_at_once_are_served_one_after_the_other() {
    against_a_port(|_, target, packed| {
        // A hundred that come and go.
        let begun = Instant::now();
        for _ in 0..100 {
            drop(UnixStream::connect(&target.path));
        }
        let mut front = session(target, packed, 0);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "the next peer had to wait {took:?}");
        // A second one waits, and does not disturb the first.
        let second = Peer::connect(&target.path);
        assert!(second.tell(code::GET_FEATURES, TELL, &[], &[]));
        passes(&mut front, target);
        drop(front);
        assert!(second.hear().is_some());
    });
}

#[test]
fn a_peer_that_stalls_within_a_message_keeps_nobody_from_stopping_the_port() {
    let eal = eal();
    let bystander = crate::target::Bystander::start(&eal);
    let target = Target::vhost(&eal);
    let mut front = session(&target, false, 0);
    assert!(front.peer.send(&halves(&[code::SET_FEATURES, ASK])[..6], &[]));
    // The rings work on meanwhile.
    let bytes = frame(1, 100);
    for _ in 0..100 {
        passes(&mut front, &target);
    }
    assert_eq!(bytes.len(), 100);
    let begun = Instant::now();
    target.end();
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?} to stop", begun.elapsed());
    bystander.end();
}
