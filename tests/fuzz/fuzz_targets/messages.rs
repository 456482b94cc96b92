//! Any bytes as a message: parsed or refused, and what was parsed is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirerate_pmd::vhost_user::message::{parse, parse_back_end, parse_reply};

fuzz_target!(|input: (u8, &[u8])| {
    let (fds, bytes) = input;
    let fds = usize::from(fds % 10);
    if let Ok(request) = parse(bytes, fds) {
        let again = request.encode(bytes[4] & 8 != 0);
        assert_eq!(parse(&again, fds).as_ref().ok(), Some(&request));
    }
    let _ = parse_back_end(bytes, fds);
    for code in [1, 11, 24] {
        let _ = parse_reply(bytes, fds, code);
    }
});
