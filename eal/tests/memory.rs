//! Reservations as any user can make them; those that need hugepages are in `hugepages.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use wirerate_eal::memory::transparent::{self, TransparentMode};
use wirerate_eal::{Eal, MemoryError, MemoryRequest, PageKind, Region};
use wirerate_mempool::Memory;

fn eal() -> Eal {
    Eal::builder().build().unwrap()
}

fn ordinary() -> Eal {
    Eal::builder().no_huge(true).build().unwrap()
}

fn bytes(region: &mut Region) -> &mut [u8] {
    // SAFETY: the region is as long as it says, and the exclusive borrow keeps others out.
    unsafe { std::slice::from_raw_parts_mut(region.base().as_ptr(), region.len()) }
}

fn mapped(name: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(name)).count()
}

#[test]
fn regions_are_zeroed_writable_and_aligned() {
    for eal in [eal(), ordinary()] {
        for (len, align, shared) in [
            (1, 1, false),
            (4097, 64, true),
            (3 << 20, 4096, false),
            (5 << 20, 2 << 20, true),
            (100, 1 << 30, false),
        ] {
            let request = MemoryRequest::new(len).align(align).shared(shared).name("table");
            let mut region = eal.reserve(request).unwrap();
            assert_eq!(region.len(), len);
            assert_eq!(region.base().as_ptr().addr() % align.max(4096), 0, "{len} at {align}");
            assert_eq!(region.name(), "table");
            assert!(bytes(&mut region).iter().all(|byte| *byte == 0));
            bytes(&mut region).fill(0xa5);
            assert_eq!(bytes(&mut region)[len - 1], 0xa5);
            assert_eq!(region.device_address(0), None);
        }
        assert_eq!(eal.memory_report().total(), 0);
    }
}

#[test]
fn a_shared_region_is_the_same_bytes_in_another_mapping() {
    let eal = eal();
    let mut region = eal.reserve(MemoryRequest::new(10_000).shared(true)).unwrap();
    bytes(&mut region)[9_999] = 42;
    let (file, offset) = region.shared_fd().unwrap();
    let len = region.len().next_multiple_of(region.page_size());
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null address the kernel chooses one where nothing is mapped.
    let other =
        unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file, offset) }.unwrap().cast::<u8>();
    // SAFETY: the mapping is longer than 9,999 bytes; volatile, because the region's pointer reaches the same bytes.
    unsafe {
        assert_eq!(other.add(9_999).read_volatile(), 42);
        other.add(3).write_volatile(7);
    }
    assert_eq!(bytes(&mut region)[3], 7);
    drop(region);
    // SAFETY: the mapping keeps the bytes although the region is gone; then it is unmapped, once.
    unsafe {
        assert_eq!(other.add(3).read_volatile(), 7);
        munmap(other.cast(), len).unwrap();
    }
}

#[test]
fn a_private_region_has_no_descriptor() {
    for eal in [eal(), ordinary()] {
        assert!(eal.reserve(MemoryRequest::new(4 << 20)).unwrap().shared_fd().is_none());
    }
}

#[test]
fn a_dropped_region_is_unmapped_also_after_its_environment() {
    let eal = ordinary();
    let name = format!("drop-{}", std::process::id());
    let region = eal.reserve(MemoryRequest::new(1 << 20).shared(true).name(name.as_str())).unwrap();
    assert_eq!(mapped(&name), 1);
    drop(eal);
    assert_eq!(mapped(&name), 1);
    drop(region);
    assert_eq!(mapped(&name), 0);
}

#[test]
fn private_memory_is_given_back() {
    let size = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    // Tests beside this one look for aligned addresses in large ranges, for a moment each.
    let size = || (0..20).map(|_| (size(), thread::sleep(Duration::from_millis(1))).0).min().unwrap();
    let eal = eal();
    let before = size();
    for _ in 0..300 {
        eal.reserve(MemoryRequest::new(4 << 20).align(8 << 20)).unwrap();
    }
    // 1,200 MiB went by. Tests beside this one have some tens, and a thread's arena of malloc 64.
    let after = size();
    assert!(after < before + 600, "{before} MiB before, {after} MiB after");
}

#[test]
fn transparent_huge_pages_are_used_where_the_kernel_gives_them() {
    let eal = eal();
    let region = eal.reserve(MemoryRequest::new(8 << 20)).unwrap();
    let report = eal.memory_report();
    assert_eq!(report.obtained(), [(region.kind(), 8 << 20)]);
    if let PageKind::Transparent(size) = region.kind() {
        assert_ne!(transparent::mode(), TransparentMode::Never);
        assert_eq!(region.base().as_ptr().addr() % size, 0);
        assert_eq!(region.page_size(), 4096, "the kernel may split them");
        assert!(report.to_string().starts_with("memory: 8 MiB in transparent huge pages"), "{report}");
    }
    let region = ordinary().reserve(MemoryRequest::new(8 << 20)).unwrap();
    assert!(matches!(region.kind(), PageKind::Base(_)), "--no-huge gave {}", region.kind());
}

#[test]
fn what_cannot_be_is_refused() {
    let eal = eal();
    for (len, align) in [(0, 1), (usize::MAX, 1), (1 << 63, 1), (1, 0), (1, 3), (1, 2 << 30)] {
        let error = eal.reserve(MemoryRequest::new(len).align(align)).unwrap_err();
        assert!(matches!(error, MemoryError::Layout { .. }), "{len} at {align}: {error}");
    }
    let node = eal.numa_nodes().last().unwrap_or(&0) + 1;
    let error = eal.reserve(MemoryRequest::new(1).numa(Some(node))).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("there is no NUMA node {node}: this machine has 0")),
        "{error}"
    );
}

#[test]
fn too_much_is_an_error_that_says_what_was_tried() {
    for (eal, shared) in [(eal(), true), (eal(), false), (ordinary(), true), (ordinary(), false)] {
        let error = eal.reserve(MemoryRequest::new(1 << 50).shared(shared).name("mbufs")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("no 1024 TiB for mbufs: ") && text.lines().count() == 1, "{text}");
        assert!(text.contains("kB pages: ") && text.contains(" available"), "{text}");
        assert!(matches!(error, MemoryError::Exhausted { attempts, .. } if !attempts.is_empty()));
        assert_eq!(eal.memory_report().total(), 0);
    }
}

#[test]
fn the_limit_holds_also_when_threads_reserve_at_once() {
    let eal = Eal::builder().no_huge(true).memory_mib(2).build().unwrap();
    let (given, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|threads| {
        let reserve = || {
            let mut kept = Vec::new();
            for _ in 0..4 {
                match eal.reserve(MemoryRequest::new(256 << 10)) {
                    Ok(region) => {
                        given.fetch_add(1, Ordering::Relaxed);
                        kept.push(region);
                    }
                    Err(error) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                        assert!(error.to_string().contains("2 MiB of the 2 MiB that -m allows"), "{error}");
                    }
                }
            }
            kept
        };
        let kept: Vec<_> =
            [0; 4].map(|_| threads.spawn(reserve)).into_iter().map(|it| it.join().unwrap()).collect();
        assert_eq!(eal.memory_report().total(), 2 << 20);
        drop(kept);
    });
    assert_eq!((given.into_inner(), refused.into_inner()), (8, 8));
    assert_eq!(eal.memory_report().total(), 0);
    eal.reserve(MemoryRequest::new(2 << 20)).unwrap();
}

#[test]
fn memory_of_a_node_is_bound_to_it() {
    let eal = ordinary();
    let Some(&node) = eal.numa_nodes().first() else {
        eprintln!("this kernel has no NUMA: node 0 is taken as no wish");
        assert_eq!(eal.reserve(MemoryRequest::new(1).numa(Some(0))).unwrap().numa(), None);
        return;
    };
    let region = eal.reserve(MemoryRequest::new(1 << 20).numa(Some(node)).shared(true)).unwrap();
    assert_eq!(region.numa(), Some(node));
    let maps = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let address = format!("{:x} ", region.base().as_ptr().addr());
    if let Some(line) = maps.lines().find(|line| line.starts_with(&address)) {
        assert!(line.contains(&format!("prefer:{node}")) && line.contains(&format!("N{node}=256")), "{line}");
    }
}
