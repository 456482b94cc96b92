//! The first inputs, from which a fuzzer goes on.

use wirerate_pmd::vhost_user::message::Request;
use wirerate_pmd::vhost_user::payload::{Region, VringAddresses};

/// Requests that set a pair of rings up, in order.
pub fn requests() -> Vec<Request> {
    let region = Region { guest: 0, size: 0x10_0000, user: 0, offset: 0 };
    let mut all = vec![
        Request::SetOwner,
        Request::GetFeatures,
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures(1 | 1 << 3 | 1 << 9 | 1 << 16),
        Request::GetQueueNum,
        Request::SetFeatures(1 << 32 | 1 << 30 | 1 << 15),
        Request::SetMemTable([region].into_iter().collect()),
    ];
    for ring in [0, 1] {
        let first = u64::from(ring) * 0x4000;
        let addresses = VringAddresses {
            index: ring,
            flags: 0,
            descriptors: first,
            driver_area: first + 0x1000,
            device_area: first + 0x2000,
            log: 0,
        };
        all.extend([
            Request::SetVringCall { ring, fd: true },
            Request::SetVringNum { ring, size: 64 },
            Request::SetVringBase { ring, base: 0 },
            Request::SetVringAddr(addresses),
            Request::SetVringKick { ring, fd: true },
            Request::SetVringEnable { ring, on: true },
        ]);
    }
    all.push(Request::GetConfig { offset: 0, size: 12, flags: 0 });
    all.push(Request::GetVringBase { ring: 1 });
    all
}

/// Whether a request takes descriptors: of memory, of events, or none.
pub fn kind(request: &Request) -> u8 {
    match request {
        Request::SetMemTable(_) => 1,
        Request::SetVringCall { .. } | Request::SetVringKick { .. } => 2,
        _ => 0,
    }
}

/// The first inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "messages" => {
            requests().iter().flat_map(|request| [request.encode(false), request.encode(true)]).collect()
        }
        "session" => {
            let mut all = Vec::new();
            for request in requests() {
                let bytes = request.encode(true);
                all.push(kind(&request));
                all.push(bytes.len() as u8);
                all.extend(bytes);
            }
            vec![all]
        }
        "device_ring" | "driver_ring" => {
            // Each kind of ring, with some writes that make something available or used, and some calls.
            let mut all = Vec::new();
            for kind in 0..16u8 {
                let mut input = vec![kind, 4];
                for at in 0..8u16 {
                    input.extend([0, 4 + at as u8]);
                    input.extend(at.to_le_bytes());
                    input.extend((0x1000u64 + 64 * u64::from(at)).to_le_bytes());
                    let flags = if kind & 1 == 0 {
                        u64::from(at % 2) << 32
                    } else {
                        u64::from(at) << 32 | 0x80 << 48
                    };
                    input.extend((64 | flags | u64::from(at + 1) << 48).to_le_bytes());
                }
                input.extend([0, 0x02, 0x80, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                input.extend([1, 1, 2, 3, 1, 4, 2, 5, 1, 3]);
                all.push(input);
            }
            all
        }
        _ => (0..8u8).map(|kind| [&[kind, 3][..], &[0x5a; 200], &[0; 100]].concat()).collect(),
    }
}
