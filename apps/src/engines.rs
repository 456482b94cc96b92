//! What testpmd can do with packets. Each engine is a pipeline, or two, behind one call a burst.

use std::os::fd::BorrowedFd;

use wirerate_pmd::net::MacAddress;
use wirerate_pmd::net::checksum::mended;
use wirerate_pmd::net::headers::{Arp, Ethernet, IcmpEcho, Ipv4, ether_type, ip_protocol};
use wirerate_pmd::pipeline::{Discard, Part, Pipeline, Sink, Source, Stages};
use wirerate_pmd::port::DropReason;
use wirerate_pmd::{Burst, Mbuf, RxQueue, TxQueue};
use zerocopy::FromBytes;

use crate::traffic::Generator;

/// Work that an lcore does again and again.
pub trait Engine: Send {
    /// Does one burst's worth and returns how many packets it moved.
    fn poll(&mut self) -> usize;

    /// Whether there will never be anything to do again.
    fn ended(&self) -> bool;

    /// Its parts and what they counted.
    fn parts(&self) -> Vec<Part>;

    /// Adds for each of its sources the descriptor that tells of packets, or none where one has to look.
    fn wait_fds<'a>(&'a self, fds: &mut Vec<Option<BorrowedFd<'a>>>);

    /// Asks its sources to tell of packets, and says whether some wait already.
    fn arm_wait(&mut self) -> bool;

    /// Takes that back.
    fn disarm_wait(&mut self);
}

impl<S: Source + Send, C: Stages + Send, K: Sink + Send> Engine for Pipeline<S, C, K> {
    fn poll(&mut self) -> usize {
        Pipeline::poll(self)
    }

    fn ended(&self) -> bool {
        Pipeline::ended(self)
    }

    fn parts(&self) -> Vec<Part> {
        Pipeline::parts(self)
    }

    fn wait_fds<'a>(&'a self, fds: &mut Vec<Option<BorrowedFd<'a>>>) {
        fds.push(self.source().wait_fd());
    }

    fn arm_wait(&mut self) -> bool {
        self.source_mut().arm_wait()
    }

    fn disarm_wait(&mut self) {
        self.source_mut().disarm_wait();
    }
}

/// Packets made on the spot, as a source.
impl Source for Generator {
    #[inline]
    fn pull(&mut self, burst: &mut Burst) -> usize {
        self.fill(burst);
        burst.len()
    }
}

/// Swallows what comes in and sends what is made: testpmd's `flowgen`.
struct Both<A, B>(A, B);

impl<A: Engine, B: Engine> Engine for Both<A, B> {
    fn poll(&mut self) -> usize {
        self.0.poll() + self.1.poll()
    }

    fn ended(&self) -> bool {
        self.0.ended() && self.1.ended()
    }

    fn parts(&self) -> Vec<Part> {
        [self.0.parts(), self.1.parts()].concat()
    }

    fn wait_fds<'a>(&'a self, fds: &mut Vec<Option<BorrowedFd<'a>>>) {
        self.0.wait_fds(fds);
        self.1.wait_fds(fds);
    }

    fn arm_wait(&mut self) -> bool {
        // Both are armed, whatever the first one says.
        self.0.arm_wait() | self.1.arm_wait()
    }

    fn disarm_wait(&mut self) {
        self.0.disarm_wait();
        self.1.disarm_wait();
    }
}

/// An engine in a box.
pub type Boxed = Box<dyn Engine>;

impl Engine for Boxed {
    fn poll(&mut self) -> usize {
        (**self).poll()
    }

    fn ended(&self) -> bool {
        (**self).ended()
    }

    fn parts(&self) -> Vec<Part> {
        (**self).parts()
    }

    fn wait_fds<'a>(&'a self, fds: &mut Vec<Option<BorrowedFd<'a>>>) {
        (**self).wait_fds(fds);
    }

    fn arm_wait(&mut self) -> bool {
        (**self).arm_wait()
    }

    fn disarm_wait(&mut self) {
        (**self).disarm_wait();
    }
}

/// Sends what comes in as it is.
#[must_use]
pub fn io(rx: RxQueue, tx: TxQueue, burst: usize) -> Boxed {
    Box::new(Pipeline::from(rx).burst(burst).to(tx))
}

/// Sends what comes in with these addresses.
#[must_use]
pub fn mac(rx: RxQueue, tx: TxQueue, burst: usize, destination: MacAddress, source: MacAddress) -> Boxed {
    let rewrite = move |packet: &mut Mbuf| rewrite_addresses(packet, destination, source);
    Box::new(Pipeline::from(rx).burst(burst).filter("mac", rewrite).to(tx))
}

/// Sends what comes in with its two addresses swapped.
#[must_use]
pub fn macswap(rx: RxQueue, tx: TxQueue, burst: usize) -> Boxed {
    let swap = |packet: &mut Mbuf| {
        let ethernet = ethernet_of(packet)?;
        core::mem::swap(&mut ethernet.destination, &mut ethernet.source);
        Ok(())
    };
    Box::new(Pipeline::from(rx).burst(burst).filter("macswap", swap).to(tx))
}

/// Swallows what comes in.
#[must_use]
pub fn rxonly(rx: RxQueue, burst: usize) -> Boxed {
    Box::new(Pipeline::from(rx).burst(burst).to(Discard))
}

/// Sends what is made.
#[must_use]
pub fn txonly(made: Generator, tx: TxQueue, burst: usize) -> Boxed {
    Box::new(Pipeline::from(made).burst(burst).to(tx))
}

/// Swallows what comes in and sends what is made.
#[must_use]
pub fn flowgen(rx: RxQueue, made: Generator, tx: TxQueue, burst: usize) -> Boxed {
    let swallow = Pipeline::from(rx).burst(burst).to(Discard);
    Box::new(Both(swallow, Pipeline::from(made).burst(burst).to(tx)))
}

/// Answers ARP requests and pings for any address, and drops the rest.
#[must_use]
pub fn icmpecho(rx: RxQueue, tx: TxQueue, burst: usize, station: MacAddress) -> Boxed {
    let answer = move |packet: &mut Mbuf| echo(packet, station);
    Box::new(Pipeline::from(rx).burst(burst).filter("icmpecho", answer).to(tx))
}

/// Gives a frame new addresses.
///
/// # Errors
/// The reason to drop it, when it is too short or its bytes are shared.
#[inline]
pub fn rewrite_addresses(
    packet: &mut Mbuf,
    destination: MacAddress,
    source: MacAddress,
) -> Result<(), DropReason> {
    let ethernet = ethernet_of(packet)?;
    ethernet.destination = destination;
    ethernet.source = source;
    Ok(())
}

#[inline]
fn ethernet_of(packet: &mut Mbuf) -> Result<&mut Ethernet, DropReason> {
    let bytes = packet.data_mut().ok_or(DropReason::Shared)?;
    Ethernet::mut_from_prefix(bytes).map(|(header, _)| header).map_err(|_| DropReason::BadHeader)
}

/// Turns an ARP request or an ICMP echo request into its answer, in place.
fn echo(packet: &mut Mbuf, station: MacAddress) -> Result<(), DropReason> {
    let bytes = packet.data_mut().ok_or(DropReason::Shared)?;
    let (ethernet, payload) = Ethernet::mut_from_prefix(bytes).map_err(|_| DropReason::BadHeader)?;
    match ethernet.ether_type.get() {
        ether_type::ARP => answer_arp(payload, station)?,
        ether_type::IPV4 => answer_ping(payload)?,
        _ => return Err(DropReason::NotForUs),
    }
    ethernet.destination = ethernet.source;
    ethernet.source = station;
    Ok(())
}

fn answer_arp(payload: &mut [u8], station: MacAddress) -> Result<(), DropReason> {
    let (arp, _) = Arp::mut_from_prefix(payload).map_err(|_| DropReason::BadHeader)?;
    if (arp.hardware.get(), arp.protocol.get(), arp.operation.get()) != (1, ether_type::IPV4, 1) {
        return Err(DropReason::NotForUs);
    }
    arp.operation.set(2);
    (arp.target_mac, arp.sender_mac) = (arp.sender_mac, station);
    core::mem::swap(&mut arp.target_ip, &mut arp.sender_ip);
    Ok(())
}

fn answer_ping(payload: &mut [u8]) -> Result<(), DropReason> {
    const REQUEST: u8 = 8;
    let (ip, _) = Ipv4::mut_from_prefix(payload).map_err(|_| DropReason::BadHeader)?;
    let len = ip.header_len().ok_or(DropReason::BadHeader)?;
    // The upper bits are flags; a fragment has an offset, or more to come.
    if ip.protocol != ip_protocol::ICMP || ip.fragment.get() & 0x3fff != 0 {
        return Err(DropReason::NotForUs);
    }
    core::mem::swap(&mut ip.source, &mut ip.destination);
    let message = payload.get_mut(len..).ok_or(DropReason::BadHeader)?;
    let (icmp, _) = IcmpEcho::mut_from_prefix(message).map_err(|_| DropReason::BadHeader)?;
    if icmp.kind != REQUEST || icmp.code != 0 {
        return Err(DropReason::NotForUs);
    }
    icmp.kind = 0;
    icmp.checksum.set(mended(icmp.checksum.get(), u16::from(REQUEST) << 8, 0));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wirerate_pmd::net::checksum::checksum;
    use wirerate_pmd::{MbufPool, MbufPoolConfig};

    fn packet(bytes: &[u8]) -> Mbuf {
        let pool = MbufPool::on_heap(&MbufPoolConfig::new("test", 2)).unwrap();
        pool.alloc_from(bytes).unwrap()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    #[test]
    fn a_ping_is_answered_with_valid_checksums() {
        // As Linux's ping sends it: 10.0.0.1 to 10.0.0.2, identifier 0x1234, sequence 1, eight bytes.
        let mut bytes = hex("020000000002 020000000001 0800
            4500 0024 abcd 4000 4001 0000 0a000001 0a000002
            0800 0000 1234 0001 0001020304050607");
        let sum = checksum(&bytes[14..34]).to_be_bytes();
        bytes[24..26].copy_from_slice(&sum);
        let sum = checksum(&bytes[34..]).to_be_bytes();
        bytes[36..38].copy_from_slice(&sum);
        let mut packet = packet(&bytes);
        echo(&mut packet, MacAddress::local(2)).unwrap();
        let answer = packet.data();
        assert_eq!(answer[..14], hex("020000000001 020000000002 0800"));
        assert_eq!(answer[26..34], hex("0a000002 0a000001"));
        assert_eq!((answer[34], checksum(&answer[34..]), checksum(&answer[14..34])), (0, 0, 0));
        assert_eq!(answer[42..], bytes[42..]);
    }

    #[test]
    fn an_arp_request_is_answered_for_the_address_asked() {
        let mut packet = packet(&hex("ffffffffffff 020000000001 0806
            0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000009"));
        echo(&mut packet, MacAddress::local(7)).unwrap();
        assert_eq!(
            packet.data(),
            hex("020000000001 020000000007 0806
                 0001 0800 06 04 0002 020000000007 0a000009 020000000001 0a000001")
        );
    }

    #[test]
    fn anything_else_is_dropped_by_a_reason_and_short_frames_are_no_harm() {
        let ping = hex("020000000002 020000000001 0800 4500 0024 abcd 4000 4001 0000 0a000001 0a000002 0800");
        for len in 0..ping.len() {
            assert!(echo(&mut packet(&ping[..len]), MacAddress::local(1)).is_err(), "{len} bytes");
        }
        let mut options = ping.clone();
        options[14] = 0x4f;
        assert_eq!(echo(&mut packet(&options), MacAddress::local(1)), Err(DropReason::BadHeader));
        let ipv6 = hex("020000000002 020000000001 86dd 60");
        assert_eq!(echo(&mut packet(&ipv6), MacAddress::local(1)), Err(DropReason::NotForUs));
    }

    #[test]
    fn addresses_of_a_shared_packet_are_not_written() {
        let pool = MbufPool::on_heap(&MbufPoolConfig::new("test", 2)).unwrap();
        let mut packet = pool.alloc_from(&[1; 60]).unwrap();
        let clone = packet.clone_shared(&pool).unwrap();
        let (a, b) = (MacAddress::local(1), MacAddress::local(2));
        assert_eq!(rewrite_addresses(&mut packet, a, b), Err(DropReason::Shared));
        drop(clone);
        assert_eq!(rewrite_addresses(&mut packet, a, b), Ok(()));
        assert_eq!(packet.data()[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    }
}
