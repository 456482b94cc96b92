//! Messages there and back, and every kind of malformed one.

use proptest::prelude::*;

use super::*;

fn region(n: u64) -> Region {
    Region { guest: n << 20, size: 1 << 20, user: n << 21, offset: 4096 * n }
}

fn addresses() -> VringAddresses {
    VringAddresses {
        index: 1,
        flags: 0,
        descriptors: 0x1000,
        device_area: 0x3000,
        driver_area: 0x2000,
        log: 0,
    }
}

/// One of each request, with the descriptors that belong to it.
fn all() -> Vec<(Request, usize)> {
    vec![
        (Request::GetFeatures, 0),
        (Request::SetFeatures(0x1_4000_0000), 0),
        (Request::SetOwner, 0),
        (Request::ResetOwner, 0),
        (Request::SetMemTable((1..=8).map(region).collect()), 8),
        (Request::SetMemTable((1..=1).map(region).collect()), 1),
        (Request::SetVringNum { ring: 3, size: 32768 }, 0),
        (Request::SetVringAddr(addresses()), 0),
        (Request::SetVringBase { ring: 2, base: 0x8000_8000 }, 0),
        (Request::GetVringBase { ring: 0xffff_ffff }, 0),
        (Request::SetVringKick { ring: 255, fd: true }, 1),
        (Request::SetVringKick { ring: 0, fd: false }, 0),
        (Request::SetVringCall { ring: 1, fd: true }, 1),
        (Request::SetVringErr { ring: 1, fd: false }, 0),
        (Request::GetProtocolFeatures, 0),
        (Request::SetProtocolFeatures(0x1_0229), 0),
        (Request::GetQueueNum, 0),
        (Request::SetVringEnable { ring: 1, on: true }, 0),
        (Request::SendRarp([2, 0, 0, 0, 0, 1]), 0),
        (Request::NetSetMtu(9000), 0),
        (Request::SetBackendReqFd, 1),
        (Request::GetConfig { offset: 4, size: 252, flags: 1 }, 0),
        (Request::SetConfig { offset: 6, flags: 0, bytes: [1, 2].into_iter().collect() }, 0),
        (Request::ResetDevice, 0),
        (Request::SetStatus(15), 0),
        (Request::GetStatus, 0),
    ]
}

#[test]
fn requests_come_back_as_they_were() {
    for (request, fds) in all() {
        for need_reply in [false, true] {
            let bytes = request.encode(need_reply);
            assert_eq!(parse(&bytes, fds), Ok(request.clone()));
            let (header, _) = Header::read_from_prefix(&bytes).unwrap();
            assert_eq!(header.need_reply(), need_reply);
        }
    }
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let bytes = Request::SetVringBase { ring: 1, base: 0x0203 }.encode(true);
    let words: Vec<u32> =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [10, 0x9, 8, 1, 0x0203]);
    let bytes = Request::SetMemTable((1..=2).map(region).collect()).encode(false);
    assert_eq!(bytes.len(), 12 + 8 + 2 * 32);
    // The used ring comes before the available ring.
    let bytes = Request::SetVringAddr(addresses()).encode(false);
    assert_eq!(u64::from_ne_bytes(bytes[28..36].try_into().unwrap()), 0x3000);
}

#[test]
fn cve_2019_14818_another_number_of_descriptors_is_refused() {
    for (request, wanted) in all() {
        for fds in 0..=MAX_FDS + 1 {
            let parsed = parse(&request.encode(false), fds);
            if fds == wanted {
                assert!(parsed.is_ok(), "{request:?}");
            } else {
                let expected =
                    ProtocolError::Fds { request: request.code() as u32, found: fds, expected: wanted };
                assert_eq!(parsed, Err(expected), "{request:?}");
            }
        }
    }
}

#[test]
fn cve_2020_10724_a_payload_of_another_length_is_refused() {
    for (request, fds) in all() {
        let bytes = request.encode(false);
        for len in 0..bytes.len() {
            // Cut, and both with the header that says so and with the one that does not.
            let mut cut = bytes[..len].to_vec();
            assert!(parse(&cut, fds).is_err(), "{request:?} cut to {len}");
            if len >= HEADER_LEN {
                cut[8..12].copy_from_slice(&((len - HEADER_LEN) as u32).to_ne_bytes());
                assert!(
                    matches!(parse(&cut, fds), Err(ProtocolError::Size { .. })),
                    "{request:?} cut to {len}"
                );
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(parse(&longer, fds).is_err());
        let size = (longer.len() - HEADER_LEN) as u32;
        longer[8..12].copy_from_slice(&size.to_ne_bytes());
        assert!(matches!(parse(&longer, fds), Err(ProtocolError::Size { .. })), "{request:?} longer by one");
    }
    let too_long = Header { request: 1, flags: VERSION, size: u32::MAX };
    assert!(matches!(parse(too_long.as_bytes(), 0), Err(ProtocolError::TooLong { .. })));
}

#[test]
fn versions_directions_and_numbers_are_checked() {
    let with = |request: u32, flags: u32| parse(Header { request, flags, size: 0 }.as_bytes(), 0);
    assert_eq!(with(1, 1), Ok(Request::GetFeatures));
    for version in [0, 2, 3] {
        assert_eq!(with(1, version), Err(ProtocolError::Version { request: 1, flags: version }));
    }
    assert!(matches!(with(1, 1 | REPLY), Err(ProtocolError::Direction { .. })));
    for number in [0, 41, 1000, u32::MAX] {
        assert_eq!(with(number, 1), Err(ProtocolError::Unknown { request: number }));
    }
}

/// A table of memory whose header says `count`.
fn table(count: u32, regions: &[Region]) -> Vec<u8> {
    let header = MemoryHeader { regions: count, padding: 0 };
    encode(Code::SetMemTable as u32, 0, &[header.as_bytes(), regions.as_bytes()].concat())
}

#[test]
fn tables_of_memory_have_one_to_eight_regions_and_say_so() {
    let nine: Vec<Region> = (1..=9).map(region).collect();
    for count in [0, 9, u32::MAX] {
        assert!(matches!(parse(&table(count, &nine), 8), Err(ProtocolError::Value { .. })), "{count}");
    }
    assert!(matches!(parse(&table(8, &nine), 8), Err(ProtocolError::Size { .. })));
    assert!(matches!(parse(&table(2, &nine[..1]), 2), Err(ProtocolError::Size { .. })));
    assert!(parse(&table(8, &nine[..8]), 8).is_ok());
}

#[test]
fn cve_2020_10722_regions_that_wrap_around_are_refused() {
    let good = region(1);
    for bad in [
        Region { size: 0, ..good },
        Region { size: u64::MAX, ..good },
        Region { guest: u64::MAX - 4095, size: 4096, ..good },
        Region { user: u64::MAX, ..good },
        Region { offset: u64::MAX - good.size + 1, ..good },
    ] {
        assert!(matches!(parse(&table(1, &[bad]), 1), Err(ProtocolError::Value { .. })), "{bad:?}");
    }
}

#[test]
fn cve_2020_10723_a_ring_is_never_cut_to_fewer_bits() {
    for index in [0x1_0000_u32, 0x8000_0001, u32::MAX] {
        assert_eq!(
            parse(&Request::SetVringNum { ring: index, size: 8 }.encode(false), 0),
            Ok(Request::SetVringNum { ring: index, size: 8 })
        );
    }
    for payload in [0x1_0000_0000_u64 | NO_FD, 0x200 | NO_FD, u64::MAX] {
        for code in [Code::SetVringKick, Code::SetVringCall, Code::SetVringErr] {
            let bytes = encode(code as u32, 0, &payload.to_ne_bytes());
            assert!(matches!(parse(&bytes, 0), Err(ProtocolError::Value { .. })), "{code} {payload:#x}");
        }
    }
}

#[test]
fn numbers_out_of_their_range_are_refused() {
    let state = |code: Code, num: u32| encode(code as u32, 0, VringState { index: 0, num }.as_bytes());
    let number = |code: Code, value: u64| encode(code as u32, 0, &value.to_ne_bytes());
    let config = |offset: u32, size: u32, len: usize| {
        let header = ConfigHeader { offset, size, flags: 0 };
        encode(Code::GetConfig as u32, 0, &[header.as_bytes(), &vec![0; len]].concat())
    };
    let mut logged = addresses();
    logged.flags = 1;
    for bytes in [
        state(Code::SetVringNum, 0),
        state(Code::SetVringNum, 32769),
        state(Code::SetVringNum, 0x1_0001),
        state(Code::SetVringEnable, 2),
        number(Code::NetSetMtu, 67),
        number(Code::NetSetMtu, 65536),
        number(Code::SetStatus, 256),
        config(0, 257, 257),
        config(1, 256, 256),
        config(u32::MAX, 1, 1),
        config(0, 0, 0),
        encode(Code::SetVringAddr as u32, 0, logged.as_bytes()),
    ] {
        let refused = parse(&bytes, 0).unwrap_err();
        assert!(matches!(refused, ProtocolError::Value { .. }), "{refused}");
        assert!(refused.refusable());
    }
    assert!(matches!(parse(&config(0, 8, 9), 0), Err(ProtocolError::Size { .. })));
}

#[test]
fn cve_2021_3839_inflight_and_others_that_were_not_offered_are_refused() {
    // mmap size, mmap offset, number of queues 65535, queue size 65535.
    let inflight = [u64::MAX.to_ne_bytes(), u64::MAX.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat();
    for number in 1..=40 {
        let code = Code::of(number).unwrap();
        let served = all().iter().any(|(request, _)| request.code() == code);
        let parsed = parse(&encode(number, 0, &inflight), 1);
        assert!(parsed.is_err(), "{code}");
        assert_eq!(parsed == Err(ProtocolError::NotOffered { code }), !served, "{code}");
    }
}

#[test]
fn replies_answer_what_was_asked() {
    let reply = encode_reply(11, &[1; 8]);
    assert_eq!(parse_reply(&reply, 0, 11), Ok([1; 8].as_slice()));
    assert!(matches!(parse_reply(&reply, 0, 10), Err(ProtocolError::Reply { expected: 10, found: 11 })));
    assert!(matches!(parse_reply(&reply, 1, 11), Err(ProtocolError::Fds { .. })));
    assert!(matches!(parse_reply(&encode(11, 0, &[]), 0, 11), Err(ProtocolError::Direction { .. })));
    assert!(matches!(parse_reply(&reply[..19], 0, 11), Err(ProtocolError::Size { .. })));

    assert_eq!(parse_back_end(&encode(2, NEED_REPLY, &[]), 0), Ok(BackEndCode::ConfigChange));
    assert!(matches!(parse_back_end(&encode(2, 0, &[0]), 0), Err(ProtocolError::Size { .. })));
    assert!(matches!(parse_back_end(&encode(2, 0, &[]), 1), Err(ProtocolError::Fds { .. })));
    assert!(matches!(parse_back_end(&encode(9, 0, &[]), 0), Err(ProtocolError::Unknown { request: 9 })));
    assert!(matches!(parse_back_end(&encode_reply(2, &[]), 0), Err(ProtocolError::Direction { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), fds in 0_usize..10) {
        let _ = parse(&bytes, fds);
        let _ = parse_reply(&bytes, fds, 1);
        let _ = parse_back_end(&bytes, fds);
    }

    #[test]
    fn any_payload_is_read_and_what_is_taken_comes_back(
        number in 0_u32..42,
        payload in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..300),
        exact in any::<bool>(),
        fds in 0_usize..10,
    ) {
        let mut payload = payload;
        if exact {
            payload.truncate(if number == 9 { 40 } else { 8 });
        }
        if let Ok(request) = parse(&encode(number, 0, &payload), fds) {
            prop_assert_eq!(request.code() as u32, number);
            prop_assert_eq!(parse(&request.encode(true), fds), Ok(request));
        }
    }
}
