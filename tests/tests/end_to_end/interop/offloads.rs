//! Packets whose checksum the other end completes, or that are still to be cut.
//!
//! DPDK's `net_vhost` completes what it receives in software, unless `legacy-ol-flags=1` has it pass on what the header
//! says. Its `virtio_user` does what the forwarding engine `csum` asks for.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_pmd::net::checksum::checksum;
use wirerate_pmd::net::complete::complete_some_checksums;
use wirerate_pmd::packet::{Offload, TxLengths};
use wirerate_pmd::{Burst, Mbuf};
use wirerate_tests::frames::Random;
use wirerate_tests::needs::trial;
use wirerate_tests::{exclusive, scratch};

use super::ends::{LIMIT, Listener, Ours};
use super::variant::{Role, Variant};
use super::{NEEDS, connected_with};

/// What a port can be allowed that understands all.
const ALL: Offload =
    Offload::TX_TCP_CHECKSUM.union(Offload::TX_UDP_CHECKSUM).union(Offload::TX_TCP_SEGMENTATION);

/// Bytes before the payload: Ethernet, IPv4 and TCP.
const HEADERS: usize = 14 + 20 + 20;
const PACKETS: usize = 200;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("interop::their_net_vhost_completes_our_checksums", NEEDS, || {
            each(Role::Driver, Offload::empty(), "", &[], None, Offload::empty())
        }),
        trial("interop::their_net_vhost_passes_our_checksums_on", NEEDS, || {
            each(Role::Driver, ALL, ",legacy-ol-flags=1", &[], None, Offload::TX_TCP_CHECKSUM)
        }),
        trial("interop::their_net_vhost_passes_our_large_packets_on", NEEDS, || {
            let large = Offload::TX_TCP_CHECKSUM | Offload::TX_TCP_SEGMENTATION;
            each(Role::Driver, ALL, ",legacy-ol-flags=1,tso=1", &[], Some(1000), large)
        }),
        trial("interop::their_virtio_user_leaves_checksums_to_our_net_vhost", NEEDS, || {
            let options = ["--forward-mode=csum", "--tx-offloads=0x8", "--rx-offloads=0x200c"];
            each(Role::Device, ALL, "", &options, None, Offload::TX_TCP_CHECKSUM)
        }),
        trial("interop::our_net_vhost_completes_what_their_virtio_user_does_not_take", NEEDS, || {
            each(Role::Device, Offload::empty(), "", &[], None, Offload::empty())
        }),
    ]
}

/// Sends TCP packets with unfinished checksums, in both formats of rings, and looks that they come back with `flags` alone of
/// what can be asked for, and right.
fn each(
    role: Role,
    liberties: Offload,
    device: &str,
    options: &[&str],
    segment: Option<u16>,
    flags: Offload,
) -> Result<()> {
    let _turn = exclusive::processors();
    for packed in [false, true] {
        let variant = Variant { packed, ..Variant::usual(role) };
        let scratch = scratch::directory("interop")?;
        let socket = scratch.path().join("vhost.sock");
        let listener = if role == Role::Driver { Listener::Theirs } else { Listener::Ours };
        let (mut ours, theirs) = connected_with(variant, &socket, listener, liberties, device, options)?;
        forth_and_back(&mut ours, segment, flags)
            .with_context(|| format!("{variant}\n{}", theirs.describe()))?;
        ours.check_counts()?;
        theirs.end()?;
        ours.stop()?;
    }
    Ok(())
}

fn forth_and_back(ours: &mut Ours, segment: Option<u16>, flags: Offload) -> Result<()> {
    let pool = ours.pool.clone();
    let (port, queues) = ours.parts()?;
    let (rx, tx) = (queues.rx.first_mut().context("no queue")?, queues.tx.first_mut().context("no queue")?);
    let (mut waiting, mut received) = (Burst::new(16), Burst::new(32));
    let (mut sent, mut came) = (0, 0);
    let begun = Instant::now();
    while came < PACKETS {
        // At most 16 are out.
        while sent < PACKETS && sent - came < 16 {
            let mut packet = pool.alloc_from(&tcp(sent, segment)).context("the pool is empty")?;
            packet.set_tx_lengths(TxLengths { l2: 14, l3: 20, l4: 20, tso_segment: segment.unwrap_or(0) });
            let cut = if segment.is_some() { Offload::TX_TCP_SEGMENTATION } else { Offload::empty() };
            packet.set_offload(Offload::TX_TCP_CHECKSUM | cut);
            waiting.push(packet).ok().context("the burst is full")?;
            sent += 1;
        }
        let _ = tx.tx_burst(&mut waiting);
        rx.rx_burst(&mut received);
        for packet in received.drain() {
            check(packet, came, segment, flags).with_context(|| format!("packet {came}"))?;
            came += 1;
        }
        ensure!(begun.elapsed() < LIMIT, "{came} of {sent} came: {:?}", port.xstats());
    }
    Ok(())
}

/// A TCP packet over IPv4 whose checksum field has the sum of the pseudo header.
fn tcp(number: usize, segment: Option<u16>) -> Vec<u8> {
    let mut random = Random::new(number as u64 + 1);
    // Odd lengths, too; what is to be cut is longer than a segment.
    let payload = if segment.is_some() { 2000 + random.below(7000) } else { 6 + random.below(1400) };
    let mut bytes = vec![0; HEADERS + payload];
    random.fill(&mut bytes[HEADERS..]);
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let len = (20 + 20 + payload) as u16;
    bytes[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[16..18].copy_from_slice(&len.to_be_bytes());
    let sum = checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34..38].copy_from_slice(&[0x10, 0, 0x20, 0]);
    bytes[38..42].copy_from_slice(&(number as u32).to_be_bytes());
    // The length of the header, an acknowledgement, and a window.
    bytes[46..50].copy_from_slice(&[0x50, 0x10, 0x10, 0]);
    let partial = !checksum(&pseudo_header(&bytes));
    bytes[50..52].copy_from_slice(&partial.to_be_bytes());
    bytes
}

/// Addresses, protocol and length of the TCP part (RFC 9293, 3.1).
fn pseudo_header(bytes: &[u8]) -> Vec<u8> {
    let mut pseudo = bytes[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(((bytes.len() - 34) as u16).to_be_bytes());
    pseudo
}

fn check(mut packet: Mbuf, number: usize, segment: Option<u16>, flags: Offload) -> Result<()> {
    let asked = packet.offload() & Offload::TX_ALL;
    ensure!(asked == flags, "it came with {asked:?} and not {flags:?}");
    if let Some(segment) = segment {
        ensure!(packet.tx_lengths().tso_segment == segment, "{:?}", packet.tx_lengths());
        // A packet that is to be cut keeps its checksum for its segments.
        packet.set_offload(Offload::TX_TCP_CHECKSUM);
    }
    complete_some_checksums(&mut packet, Offload::TX_TCP_CHECKSUM)?;
    let came: Vec<u8> = packet.segments().flatten().copied().collect();
    let sent = tcp(number, segment);
    // Their engine for checksums writes stations' addresses, and checksums.
    ensure!(came.len() == sent.len(), "{} bytes came instead of {}", came.len(), sent.len());
    ensure!(came[12..50] == sent[12..50] && came[52..] == sent[52..], "it was changed on the way");
    // A sum that is right makes the sum of all nothing.
    let mut all = pseudo_header(&came);
    all.extend(&came[34..]);
    ensure!(checksum(&all) == 0, "the TCP checksum is wrong by {:#x}", checksum(&all));
    Ok(())
}
