//! Receive side scaling (datasheet, 7.1.2.8): a hash of a packet's addresses and ports, and the queue that it leads to.

use super::model::Model;
use super::packet::{Headers, L4};
use super::registers::Found;
use super::rings::RX_ENABLE;

/// MRQC.MRQE (8.2.3.7.12).
const MODE: u32 = 0xf;
const MODE_OFF: u32 = 0;
const MODE_RSS: u32 = 1;
/// Fields of MRQC that say which headers are hashed, and what descriptors call the hash then (7.1.6.2): ports with TCP and
/// UDP, addresses only with all else.
const TCP4: (u32, u8) = (1 << 16, 1);
const IP4: (u32, u8) = (1 << 17, 2);
const IP6: (u32, u8) = (1 << 20, 5);
const TCP6: (u32, u8) = (1 << 21, 3);
const UDP4: (u32, u8) = (1 << 22, 7);
const UDP6: (u32, u8) = (1 << 23, 8);

/// A packet's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hash {
    /// Of what; 0 if there is none.
    pub(crate) kind: u8,
    pub(crate) value: u32,
}

impl Model {
    /// Whether MRQC can be so now. That RSS is switched only after a reset is what DPDK's driver has from the datasheet.
    pub(crate) fn mrqc_is_wrong(&self, value: u32) -> Option<&'static str> {
        if !matches!(value & MODE, MODE_OFF | MODE_RSS) {
            return Some("MRQE asks for traffic classes or pools, which the model has not");
        }
        (value & MODE != self.value("MRQC") & MODE && self.value("RXCTRL") & RX_ENABLE != 0)
            .then_some("RSS is not to be switched while the receiver is on (7.1.2.8)")
    }

    /// The hash of a packet, if it is one of those that MRQC has on.
    pub(crate) fn hash(&self, frame: &[u8], headers: &Headers) -> Hash {
        let mrqc = self.value("MRQC");
        let Some(ip) = headers.ip.filter(|_| mrqc & MODE == MODE_RSS) else { return Hash::default() };
        let (tcp, udp, other) = if ip.v6 { (TCP6, UDP6, IP6) } else { (TCP4, UDP4, IP4) };
        let (kind, ports) = match ip.l4 {
            Some(L4::Tcp) if mrqc & tcp.0 != 0 => (tcp.1, 4),
            Some(L4::Udp) if mrqc & udp.0 != 0 => (udp.1, 4),
            _ if mrqc & other.0 != 0 => (other.1, 0),
            _ => return Hash::default(),
        };
        let mut input = frame[ip.addresses()].to_vec();
        input.extend(&frame[ip.l4_at()..ip.l4_at() + ports]);
        let key: Vec<u8> = self.values_of("RSSRK").flat_map(u32::to_le_bytes).collect();
        Hash { kind, value: toeplitz(&key, &input) }
    }

    /// The queue that RETA has for a hash; the first for what has none (7.1.2.8).
    pub(crate) fn queue_of(&self, hash: Hash) -> u32 {
        if hash.kind == 0 {
            return 0;
        }
        let entry = hash.value & 0x7f;
        self.value_of("RETA", entry / 4) >> (8 * (entry % 4)) & 0xf
    }

    /// What says which queue a frame goes to and is not in the model.
    pub(crate) fn classifier_is_missing(found: &Found, value: u32) -> Option<&'static str> {
        let enable = match found.register.name {
            "FTQF" => 1 << 31,
            "SYNQF" => 1 << 0,
            _ => return None,
        };
        (value & enable != 0).then_some("it enables a filter of queues that the model has not")
    }
}

/// Toeplitz's hash (7.1.2.8.1): each bit of the input that is set takes the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).is_some_and(|byte| byte << (at % 8) & 0x80 != 0);
    let mut window = key.iter().take(4).fold(0, |window, byte| window << 8 | u32::from(*byte));
    (0..8 * input.len()).fold(0, |hash, at| {
        let hash = if bit(input, at) { hash ^ window } else { hash };
        window = window << 1 | u32::from(bit(key, at + 32));
        hash
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::model;
    use super::super::traffic::{Kind, TCP4 as KIND, frame};
    use super::*;

    /// The key and the results that Microsoft's "Verifying the RSS Hash Calculation" has for these addresses.
    const KEY: [u32; 10] = [
        0xda56_5a6d,
        0xc20e_5b25,
        0x3d25_6741,
        0xb08f_a343,
        0xcb2b_cad0,
        0xb430_7bae,
        0xa32d_cb77,
        0x0cf2_3080,
        0x3bb7_426a,
        0xfa01_acbe,
    ];

    #[test]
    fn hashes_are_those_that_are_published() {
        let mut model = model(1);
        (0..10).for_each(|at| model.write32(0x5c80 + 4 * at, KEY[at as usize]));
        let mut hash = |kind: Kind, mrqc: u32| {
            model.write32(0x5818, mrqc);
            let frame = frame(kind);
            model.hash(&frame, &Headers::of(&frame, 0x8100))
        };
        let tcp6 = Kind { v6: true, ..KIND };
        let udp = |kind| Kind { l4: Some(L4::Udp), ..kind };
        let none = Hash::default();
        for (kind, bit, expected) in [
            (KIND, TCP4.0, Hash { kind: 1, value: 0x51cc_c178 }),
            (KIND, IP4.0, Hash { kind: 2, value: 0x323e_8fc2 }),
            (udp(KIND), UDP4.0, Hash { kind: 7, value: 0x51cc_c178 }),
            (udp(KIND), TCP4.0, none),
            (udp(KIND), TCP4.0 | IP4.0, Hash { kind: 2, value: 0x323e_8fc2 }),
            (tcp6, TCP6.0, Hash { kind: 3, value: 0x4020_7d3d }),
            (tcp6, IP6.0, Hash { kind: 5, value: 0x2cc1_8cd5 }),
            (udp(tcp6), UDP6.0, Hash { kind: 8, value: 0x4020_7d3d }),
            (Kind { tag: Some(7), ..tcp6 }, IP6.0 | TCP6.0 | UDP6.0, Hash { kind: 3, value: 0x4020_7d3d }),
            (tcp6, IP4.0 | TCP4.0 | UDP4.0, none),
        ] {
            assert_eq!(hash(kind, bit | 1), expected, "{kind:?} {bit:#x}");
            assert_eq!(hash(kind, bit), none);
        }
    }

    #[test]
    fn hashes_lead_to_the_queues_of_the_table() {
        let mut model = model(1);
        for at in 0..32_u32 {
            model.write32(0x5c00 + 4 * at, 0x0f0e_0d0c ^ ((at & 0xf) * 0x0101_0101));
        }
        let queue = |value| model.queue_of(Hash { kind: 1, value });
        assert_eq!([0, 1, 2, 3, 4, 0x7f, 0xab80].map(queue), [0xc, 0xd, 0xe, 0xf, 0xd, 0, 0xc]);
        assert_eq!(model.queue_of(Hash::default()), 0);
        assert!(model.faults().list().is_empty(), "{:?}", model.faults());
    }

    #[test]
    fn what_is_not_in_the_model_is_a_fault() {
        let mut model = model(1);
        for (register, value) in [(0x5818, 2), (0xe600, 1 << 31), (0xec30, 1)] {
            model.write32(register, value);
        }
        let told: Vec<_> = model.faults().list().iter().map(|fault| fault.register.clone()).collect();
        assert_eq!(told, ["MRQC", "FTQF[0]", "SYNQF"]);
    }
}
