//! What a packet promises: bytes, bounds, sharing, and that everything comes home.

use std::sync::Arc;

use super::*;

fn pool(count: usize) -> MbufPool {
    MbufPool::on_heap(&MbufPoolConfig::new("test", count).data_room(256).cache(32)).unwrap()
}

/// Everything is home, once each.
#[track_caller]
fn assert_home(pool: &MbufPool) {
    let counts = pool.counts();
    assert_eq!(counts.in_use, 0, "{counts:?}");
    assert_eq!(counts.free + counts.cached, counts.size, "{counts:?}");
    pool.audit().unwrap();
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn whole(packet: &Mbuf) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

#[test]
fn the_handle_is_a_pointer_and_the_header_a_cache_line() {
    assert_eq!(size_of::<Mbuf>(), 8);
    assert_eq!(size_of::<Option<Mbuf>>(), 8);
    assert_eq!(size_of::<header::Header>(), 64);
}

#[test]
fn a_fresh_packet_is_empty_with_head_and_tailroom() {
    let pool = pool(4);
    let mut packet = pool.alloc().unwrap();
    assert!(packet.is_empty() && packet.is_contiguous() && packet.is_writable());
    assert_eq!((packet.headroom(), packet.tailroom()), (HEADROOM, 256));
    assert_eq!((packet.port(), packet.offload()), (Mbuf::NO_PORT, Offload::empty()));
    packet.set_port(3);
    packet.set_rss_hash(7);
    packet.append(10).unwrap();
    drop(packet);
    let again: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(again.len(), 4);
    for packet in &again {
        assert_eq!((packet.len(), packet.port(), packet.rss_hash()), (0, Mbuf::NO_PORT, None));
    }
    drop(again);
    assert_home(&pool);
}

#[test]
fn data_grows_and_shrinks_at_both_ends_and_not_beyond() {
    let pool = pool(1);
    let mut packet = pool.alloc().unwrap();
    assert!(packet.append_slice(&numbered(100)));
    packet.prepend(14).unwrap().fill(0xee);
    assert_eq!((packet.len(), packet.headroom(), packet.tailroom()), (114, HEADROOM - 14, 156));
    packet.trim_front(4).unwrap();
    packet.trim(10).unwrap();
    assert_eq!(packet.data()[..10], [0xee; 10]);
    assert_eq!(packet.data()[10..], numbered(100)[..90]);
    assert_eq!(packet.trim_front(101), Err(TooShort { asked: 101, found: 100 }));
    assert_eq!(packet.trim(101), Err(TooShort { asked: 101, found: 100 }));
    assert!(packet.prepend(HEADROOM).is_none());
    assert!(packet.append(packet.tailroom() + 1).is_none());
    assert!(packet.append(packet.tailroom()).is_some());
    assert!(packet.prepend(packet.headroom()).is_some());
    assert_eq!(packet.len(), HEADROOM + 256);
    assert!(packet.prepend(usize::MAX).is_none() && packet.append(usize::MAX).is_none());
    drop(packet);
    assert_home(&pool);
}

#[test]
fn resize_stays_in_the_buffer() {
    let pool = pool(2);
    let mut packet = pool.alloc().unwrap();
    assert!(packet.resize(256) && !packet.resize(257) && !packet.resize(usize::MAX));
    assert_eq!(packet.len(), 256);
    packet.chain(pool.alloc().unwrap()).unwrap();
    assert!(!packet.resize(10));
    drop(packet);
    assert_home(&pool);
}

#[test]
fn long_packets_are_chains_that_read_as_one() {
    let pool = pool(8);
    let bytes = numbered(1000);
    let mut packet = pool.alloc_from(&bytes).unwrap();
    assert_eq!((packet.len(), packet.segment_count()), (1000, 4));
    assert_eq!(whole(&packet), bytes);
    let mut scratch = [0; 64];
    assert_eq!(packet.read(10, 20, &mut scratch).unwrap(), &bytes[10..30]);
    assert_eq!(packet.read(250, 20, &mut scratch).unwrap(), &bytes[250..270]);
    assert_eq!(packet.read(990, 10, &mut scratch).unwrap(), &bytes[990..]);
    assert!(packet.read(990, 11, &mut scratch).is_none());
    assert!(packet.read(usize::MAX, 2, &mut scratch).is_none());
    assert!(packet.read(250, 65, &mut scratch).is_none());
    assert!(!packet.linearise(), "1000 bytes do not fit one mbuf of 256");
    assert_eq!(whole(&packet), bytes);
    packet.trim(232).unwrap();
    assert_eq!(packet.trim(1), Err(TooShort { asked: 1, found: 0 }));
    drop(packet);
    assert_home(&pool);
}

#[test]
fn linearise_moves_all_bytes_to_the_front_and_frees_the_rest() {
    let pool = pool(4);
    let mut packet = pool.alloc_from(&numbered(100)).unwrap();
    for _ in 0..2 {
        packet.chain(pool.alloc_from(&numbered(60)).unwrap()).unwrap();
    }
    let before = whole(&packet);
    assert!(packet.linearise());
    assert_eq!((packet.segment_count(), packet.data()), (1, &before[..]));
    assert_eq!(pool.counts().in_use, 1);
    drop(packet);
    assert_home(&pool);
}

#[test]
fn a_pool_that_runs_dry_gives_nothing_and_loses_nothing() {
    let pool = pool(3);
    assert!(pool.alloc_from(&numbered(1000)).is_none());
    assert_home(&pool);
    let mut burst = Burst::new(8);
    assert!(!pool.alloc_bulk(&mut burst, 4) && burst.is_empty());
    assert!(pool.alloc_bulk(&mut burst, 3) && burst.len() == 3);
    assert!(pool.alloc().is_none());
    drop(burst);
    assert_home(&pool);
}

#[test]
fn clones_share_bytes_and_forbid_writing_until_they_are_gone() {
    let pool = pool(16);
    let bytes = numbered(600);
    let mut packet = pool.alloc_from(&bytes).unwrap();
    packet.set_port(5);
    packet.set_timestamp(42);
    let clone = packet.clone_shared(&pool).unwrap();
    let second = clone.clone_shared(&pool).unwrap();
    assert_eq!((whole(&clone), whole(&second)), (bytes.clone(), bytes.clone()));
    assert_eq!((clone.port(), clone.timestamp()), (5, Some(42)));
    assert_eq!(clone.data().as_ptr(), packet.data().as_ptr(), "no byte was copied");
    assert!(packet.data_mut().is_none() && packet.append(1).is_none() && packet.prepend(1).is_none());
    assert!(!packet.resize(1) && !packet.linearise());
    drop(clone);
    assert!(packet.data_mut().is_none());
    drop(second);
    assert!(packet.data_mut().is_some() && packet.append(1).is_some());
    drop(packet);
    assert_home(&pool);
}

#[test]
fn clones_outlive_the_original_on_any_thread() {
    let pool = pool(64);
    for round in 0..200 {
        let bytes = numbered(300 + round);
        let packet = pool.alloc_from(&bytes).unwrap();
        let clones: Vec<Mbuf> = (0..3).map(|_| packet.clone_shared(&pool).unwrap()).collect();
        std::thread::scope(|scope| {
            for clone in clones {
                let bytes = &bytes;
                scope.spawn(move || assert_eq!(&whole(&clone), bytes));
            }
            drop(packet);
        });
    }
    assert_home(&pool);
}

#[test]
fn a_clone_can_be_narrowed_on_its_own() {
    let pool = pool(4);
    let packet = pool.alloc_from(&numbered(100)).unwrap();
    let mut clone = packet.clone_shared(&pool).unwrap();
    clone.trim_front(14).unwrap();
    clone.trim(6).unwrap();
    assert_eq!(clone.data(), &numbered(100)[14..94]);
    assert_eq!(packet.len(), 100);
    drop((packet, clone));
    assert_home(&pool);
    // What went home is as good as new.
    for packet in std::iter::from_fn(|| pool.alloc()).collect::<Vec<_>>() {
        assert_eq!((packet.tailroom(), packet.headroom()), (256, HEADROOM));
    }
}

#[test]
fn external_memory_lives_as_long_as_its_last_reader() {
    let pool = pool(4);
    let memory = Arc::new(numbered(2000));
    let mut packet = Mbuf::from_external(&pool, Arc::clone(&memory)).unwrap();
    assert_eq!(packet.data(), &memory[..]);
    assert!(packet.data_mut().is_none() && packet.append(1).is_none());
    assert_eq!((packet.headroom(), packet.tailroom(), packet.device_address()), (0, 0, None));
    let clone = packet.clone_shared(&pool).unwrap();
    assert_eq!(Arc::strong_count(&memory), 3);
    drop(packet);
    assert_eq!(clone.data(), &memory[..]);
    drop(clone);
    assert_eq!(Arc::strong_count(&memory), 1);
    assert!(Mbuf::from_external(&pool, Arc::new(vec![0; 65_536])).is_none());
    assert_home(&pool);
}

#[test]
fn a_copy_is_a_packet_of_its_own() {
    let pool = pool(8);
    let mut packet = pool.alloc_from(&numbered(500)).unwrap();
    packet.set_vlan_tci(100);
    packet.set_offload(Offload::TX_VLAN_INSERT);
    let mut copy = packet.clone_shared(&pool).unwrap().copy(&pool).unwrap();
    assert_eq!((whole(&copy), copy.vlan_tci()), (numbered(500), 100));
    assert_eq!(copy.offload(), Offload::TX_VLAN_INSERT);
    copy.data_mut().unwrap().fill(0);
    assert_eq!(whole(&packet), numbered(500));
    drop((packet, copy));
    assert_home(&pool);
}

#[test]
fn packets_outlive_the_pool_handle() {
    let pool = pool(4);
    let packet = pool.alloc_from(&numbered(200)).unwrap();
    let clone = packet.clone_shared(&pool).unwrap();
    drop(pool);
    drop(packet);
    assert_eq!(clone.data(), &numbered(200)[..]);
    std::thread::spawn(move || drop(clone)).join().unwrap();
}

#[test]
fn dynamic_fields_have_places_of_their_own() {
    let mut layout = DynLayout::new();
    let flow = layout.field::<u64>().unwrap();
    let colour = layout.field::<[u8; 3]>().unwrap();
    assert!(layout.field::<[u64; 3]>().is_none(), "22 bytes are shared by all");
    let pool = pool(1);
    let mut packet = pool.alloc().unwrap();
    packet.set_dynamic(flow, &0x1122_3344_5566_7788);
    packet.set_dynamic(colour, &[1, 2, 3]);
    assert_eq!(packet.dynamic(flow), Some(0x1122_3344_5566_7788));
    assert_eq!(packet.dynamic(colour), Some([1, 2, 3]));
}

#[test]
fn bursts_keep_their_order_and_their_limit() {
    let pool = pool(64);
    let mut burst = Burst::new(8);
    for byte in 0..8 {
        burst.push(pool.alloc_from(&[byte]).unwrap()).unwrap();
    }
    assert!(burst.push(pool.alloc().unwrap()).is_err());
    burst.free_front(3);
    let mut other = Burst::new(2);
    assert_eq!(other.take_front(&mut burst, 4), 2);
    let firsts = |burst: &Burst| burst.iter().map(|packet| packet.data()[0]).collect::<Vec<_>>();
    assert_eq!((firsts(&other), firsts(&burst)), (vec![3, 4], vec![5, 6, 7]));
    burst.retain(|packet| packet.data()[0] != 6);
    assert_eq!(firsts(&burst), [5, 7]);
    burst.free_front(100);
    assert!(burst.is_empty());
    drop((burst, other));
    assert_home(&pool);
}

#[test]
fn a_mixed_burst_goes_home_to_each_pool() {
    let (small, large) = (pool(32), pool(32));
    let mut burst = Burst::new(64);
    for index in 0..20 {
        let packet = match index % 4 {
            0 => small.alloc_from(&numbered(10)).unwrap(),
            1 => large.alloc_from(&numbered(400)).unwrap(),
            2 => large.alloc_from(&numbered(20)).unwrap().clone_shared(&small).unwrap(),
            _ => Mbuf::from_external(&small, Arc::new(numbered(9))).unwrap(),
        };
        burst.push(packet).unwrap();
    }
    burst.free();
    assert_home(&small);
    assert_home(&large);
}

#[test]
fn bytes_are_written_over_in_all_segments_or_in_none() {
    let pool = pool(8);
    let mut packet = pool.alloc_from(&numbered(600)).unwrap();
    let mut expected = numbered(600);
    for (offset, len) in [(0, 0), (0, 10), (250, 12), (256, 256), (100, 500), (599, 1), (600, 0)] {
        let bytes: Vec<u8> = (0..len).map(|at| (at + offset) as u8 ^ 0x5a).collect();
        assert!(packet.write(offset, &bytes), "{len} bytes at {offset}");
        expected[offset..offset + len].copy_from_slice(&bytes);
        assert_eq!(whole(&packet), expected);
    }
    assert!(!packet.write(600, &[1]) && !packet.write(599, &[1; 2]) && !packet.write(usize::MAX, &[1; 2]));
    // The middle one of three segments is shared.
    let tail = pool.alloc_from(&[7; 10]).unwrap();
    let mut chain = pool.alloc_from(&[6; 10]).unwrap();
    chain.chain(tail.clone_shared(&pool).unwrap()).unwrap();
    chain.chain(pool.alloc_from(&[8; 10]).unwrap()).unwrap();
    let before = whole(&chain);
    assert!(!chain.write(5, &[0; 10]) && !chain.write(15, &[0; 10]) && !chain.write(12, &[0]));
    assert_eq!(whole(&chain), before);
    assert!(chain.write(5, &[0; 5]) && chain.write(20, &[0; 10]));
    assert_eq!(whole(&tail), [7; 10]);
    drop((packet, chain, tail));
    assert_home(&pool);
}

#[test]
fn a_packet_gives_others_of_its_pool_as_long_as_it_has_handles() {
    let (near, far) = (pool(3), pool(3));
    let packet = near.alloc_from(&numbered(10)).unwrap();
    let clone = packet.clone_shared(&far).unwrap();
    let mut alike = packet.alloc_alike().unwrap();
    assert_eq!((alike.len(), alike.offload(), alike.tailroom()), (0, Offload::empty(), 256));
    assert!(alike.append_slice(&numbered(256)));
    assert_eq!((near.counts().in_use, far.counts().in_use), (2, 1));
    let other = clone.alloc_alike().unwrap();
    assert_eq!((near.counts().in_use, far.counts().in_use), (2, 2));
    let last = packet.alloc_alike().unwrap();
    assert!(packet.alloc_alike().is_none(), "three of three are in use");
    drop((clone, other, last, alike));
    assert_eq!((near.counts().in_use, far.counts().in_use), (1, 0));
    drop(near);
    assert!(packet.alloc_alike().is_none());
    assert_eq!(whole(&packet), numbered(10));
}

#[test]
fn wrong_sizes_are_refused_with_the_range() {
    for room in [0, 65_408] {
        let error = MbufPool::on_heap(&MbufPoolConfig::new("p", 1).data_room(room)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("a data room of {room} bytes cannot be: 1 to 65407 are possible")
        );
    }
    assert!(MbufPool::on_heap(&MbufPoolConfig::new("p", 1).data_room(65_407)).is_ok());
}
