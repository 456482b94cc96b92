//! Packets that the programs make themselves.

use wirerate_pmd::net::MacAddress;
use wirerate_pmd::net::checksum::{checksum, mended};
use wirerate_pmd::net::headers::{Ethernet, Ipv4, Udp, ether_type, ip_protocol};
use wirerate_pmd::{Burst, Mbuf, MbufPool};
use zerocopy::IntoBytes;

/// Bytes of the headers that a made packet begins with.
const HEADERS: usize = size_of::<Ethernet>() + size_of::<Ipv4>() + size_of::<Udp>();

/// Makes UDP packets from a template (testpmd's `txonly` and `flowgen`).
///
/// Addresses are those of RFC 2544's benchmark network, ports are DPDK's: 198.18.0.1 to 198.18.0.2, port 9.
#[derive(Debug)]
pub struct Generator {
    pool: MbufPool,
    template: Box<[u8]>,
    segments: Box<[usize]>,
    flows: u32,
    next_flow: u32,
}

impl Generator {
    /// Makes packets whose segments have these lengths; the whole is filled up with zeroes behind the headers,
    /// or cut where it is shorter than they are. `flows` is how many source addresses take turns, 1 for always
    /// the same.
    #[must_use]
    pub fn new(
        pool: MbufPool,
        segments: &[usize],
        destination: MacAddress,
        source: MacAddress,
        flows: u32,
    ) -> Self {
        let len = segments.iter().sum::<usize>();
        let mut template = headers(len.max(HEADERS), destination, source);
        template.resize(len, 0);
        Self { pool, template: template.into(), segments: segments.into(), flows: flows.max(1), next_flow: 0 }
    }

    /// Fills `burst` up to its limit. False when the pool had too few mbufs for that; the burst then has fewer,
    /// or none.
    #[inline]
    pub fn fill(&mut self, burst: &mut Burst) -> bool {
        let before = burst.len();
        let (&first, more) = self.segments.split_first().unwrap_or((&0, &[]));
        if !self.pool.alloc_bulk(burst, burst.room()) {
            return false;
        }
        let mut whole = true;
        // Whoever got the mbufs' last packets may have read them on another processor.
        burst[before..].iter().for_each(Mbuf::prefetch_write);
        for packet in &mut burst[before..] {
            packet.append_slice(&self.template[..first]);
            if self.flows > 1 {
                set_flow(packet, self.next_flow);
                self.next_flow = (self.next_flow + 1) % self.flows;
            }
            let mut from = first;
            for &len in more {
                whole &= chain(&self.pool, packet, &self.template[from..from + len]);
                from += len;
            }
        }
        whole
    }
}

/// Adds a segment of its own to `packet`; false when the pool is empty.
fn chain(pool: &MbufPool, packet: &mut Mbuf, bytes: &[u8]) -> bool {
    let Some(mut segment) = pool.alloc() else { return false };
    segment.append_slice(bytes) && packet.chain(segment).is_ok()
}

/// Makes the low 16 bits of the IPv4 source address say the flow, and mends the checksum.
fn set_flow(packet: &mut Mbuf, flow: u32) {
    let at = size_of::<Ethernet>();
    let Some(header) = packet.data_mut().and_then(|data| data.get_mut(at..at + size_of::<Ipv4>())) else {
        return;
    };
    let (old, new) = (u16::from_be_bytes([header[14], header[15]]), flow as u16);
    let sum = u16::from_be_bytes([header[10], header[11]]);
    header[14..16].copy_from_slice(&new.to_be_bytes());
    header[10..12].copy_from_slice(&mended(sum, old, new).to_be_bytes());
}

/// Ethernet, IPv4 and UDP headers for a frame of `len` bytes, at least [`HEADERS`].
fn headers(len: usize, destination: MacAddress, source: MacAddress) -> Vec<u8> {
    let ip_len = (len - size_of::<Ethernet>()) as u16;
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: ip_len.into(),
        identification: 0.into(),
        fragment: 0.into(),
        ttl: 64,
        protocol: ip_protocol::UDP,
        checksum: 0.into(),
        source: [198, 18, 0, 1],
        destination: [198, 18, 0, 2],
    };
    ip.checksum = checksum(ip.as_bytes()).into();
    let ethernet = Ethernet { destination, source, ether_type: ether_type::IPV4.into() };
    let udp = Udp {
        source: 9.into(),
        destination: 9.into(),
        len: (ip_len - size_of::<Ipv4>() as u16).into(),
        checksum: 0.into(),
    };
    [ethernet.as_bytes(), ip.as_bytes(), udp.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wirerate_pmd::MbufPoolConfig;

    fn generator(segments: &[usize], flows: u32) -> Generator {
        let pool = MbufPool::on_heap(&MbufPoolConfig::new("test", 64)).unwrap();
        Generator::new(pool, segments, MacAddress::local(1), MacAddress::local(2), flows)
    }

    #[test]
    fn packets_have_the_lengths_asked_and_a_right_checksum() {
        let mut generator = generator(&[64, 100], 0);
        let mut burst = Burst::new(4);
        assert!(generator.fill(&mut burst));
        for packet in &burst {
            assert_eq!((packet.len(), packet.segment_count()), (164, 2));
            assert_eq!(checksum(&packet.data()[14..34]), 0);
        }
    }

    #[test]
    fn flows_take_turns_and_stay_valid() {
        let mut generator = generator(&[64], 3);
        let mut burst = Burst::new(7);
        assert!(generator.fill(&mut burst));
        let flows: Vec<u8> = burst.iter().map(|packet| packet.data()[29]).collect();
        assert_eq!(flows, [0, 1, 2, 0, 1, 2, 0]);
        assert!(burst.iter().all(|packet| checksum(&packet.data()[14..34]) == 0));
    }

    #[test]
    fn tiny_packets_are_cut_and_an_empty_pool_is_told() {
        let mut generator = generator(&[20], 2);
        let mut burst = Burst::new(64);
        assert!(generator.fill(&mut burst) && burst[0].len() == 20);
        assert!(!generator.fill(&mut Burst::new(1)));
    }
}
