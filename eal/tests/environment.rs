//! The environment as a whole: lcores, stop, panics, and several environments in one process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};
use wirerate_eal::{Eal, EalError, LcoreError, LcoreHandle, MemoryRequest, Topology};

/// `count` lcores that all run on the first CPU that may be used, so that one CPU is enough.
fn eal(count: u32) -> Eal {
    let cpu = Topology::discover().cpus()[0].id;
    let map = (0..count).map(|id| format!("{id}@{cpu}")).collect::<Vec<_>>().join(",");
    Eal::builder().lcore_map(map.parse().unwrap()).no_huge(true).build().unwrap()
}

/// As an lcore waits that has nothing to do.
fn until(stop: impl Fn() -> bool) {
    let begun = Instant::now();
    while !stop() {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody requested the stop");
        thread::yield_now();
    }
}

#[test]
fn an_environment_moves_between_threads_and_is_shared() {
    fn moves_and_is_shared<T: Send + Sync>() {}
    moves_and_is_shared::<Eal>();
    moves_and_is_shared::<wirerate_eal::Region>();
    moves_and_is_shared::<EalError>();
}

#[test]
fn there_is_an_lcore_on_each_cpu_that_may_be_used() {
    let eal = Eal::builder().no_huge(true).build().unwrap();
    let cpus: Vec<u32> = Topology::discover().cpus().iter().map(|cpu| cpu.id).collect();
    assert_eq!(eal.lcores().iter().map(|lcore| lcore.id()).collect::<Vec<_>>(), cpus);
    assert!(eal.lcores().iter().all(|lcore| lcore.cpus() == [lcore.id()]));
    assert_eq!(eal.main_lcore(), &eal.lcores()[0]);
}

#[test]
fn lcores_are_pinned_named_and_give_results() {
    let eal = eal(3);
    let cpu = eal.lcores()[0].cpus()[0];
    let seen = AtomicU32::new(0);
    let before = sched_getaffinity(None).unwrap();
    let names = eal
        .scope(|scope| {
            let launch = |id| {
                scope.launch(id, |context| {
                    assert!(context.pinned());
                    let mut only = CpuSet::new();
                    only.set(cpu as usize);
                    assert!(sched_getaffinity(None).unwrap() == only);
                    seen.fetch_add(context.lcore().id() + 1, Ordering::Relaxed);
                    thread::current().name().map(str::to_owned)
                })
            };
            let running: Vec<_> = [0, 1, 2].map(|id| launch(id).unwrap()).into();
            running.into_iter().map(|lcore| lcore.join().unwrap()).collect::<Vec<_>>()
        })
        .unwrap();
    assert_eq!(names, ["lcore-0", "lcore-1", "lcore-2"].map(|name| Some(name.to_owned())));
    assert_eq!(seen.into_inner(), 6);
    assert!(sched_getaffinity(None).unwrap() == before, "the calling thread is not bound");
}

#[test]
fn an_lcore_that_nobody_joins_is_waited_for() {
    let eal = eal(1);
    let mut done = false;
    eal.scope(|scope| {
        scope
            .launch(0, |_| {
                thread::sleep(Duration::from_millis(50));
                done = true;
            })
            .map(drop)
    })
    .unwrap()
    .unwrap();
    assert!(done);
}

#[test]
fn an_lcore_does_one_thing_at_a_time() {
    let eal = eal(2);
    let result = eal
        .scope(|scope| {
            let first = scope.launch(0, |context| until(|| context.stop().requested()))?;
            let second = scope.launch(0, |_| ()).map(LcoreHandle::join);
            assert!(matches!(second, Err(LcoreError::Busy { lcore: 0 })));
            // The failed launch requested the stop; otherwise this would not come back.
            first.join()
        })
        .unwrap();
    result.unwrap();

    eal.stop().clear();
    eal.scope(|scope| {
        scope.launch(0, |_| ())?.join()?;
        scope.launch(0, |_| ())?.join()
    })
    .unwrap()
    .unwrap();
}

#[test]
fn an_unknown_lcore_is_refused_with_those_that_there_are() {
    let eal = eal(2);
    let result = eal.scope(|scope| {
        let _running = scope.launch(1, |context| until(|| context.stop().requested()))?;
        scope.launch(7, |_| ()).map(drop)
    });
    let error = result.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "there is no lcore 7: there are 0-1; name more by -l");
}

#[test]
fn a_panic_stops_the_others_and_is_the_error() {
    let eal = eal(3);
    let stopped = AtomicU32::new(0);
    let result = eal.scope(|scope| {
        for id in [0, 1] {
            scope.launch(id, |context| {
                until(|| context.stop().requested());
                stopped.fetch_add(1, Ordering::Relaxed);
            })?;
        }
        let text = String::from("ring 3 is gone");
        let failing = scope.launch(2, move |_| -> u32 { panic!("{text}") })?;
        let joined = failing.join();
        assert!(matches!(joined, Err(LcoreError::Panicked { lcore: 2, .. })));
        Ok::<(), LcoreError>(())
    });
    assert_eq!(result.unwrap_err().to_string(), "lcore 2 panicked: ring 3 is gone");
    assert_eq!(stopped.into_inner(), 2);
    assert!(eal.stop().requested());

    eal.stop().clear();
    assert!(eal.scope(|scope| scope.launch(2, |_| 5).unwrap().join().unwrap()).is_ok_and(|five| five == 5));
}

#[test]
fn a_panic_of_the_controlling_thread_stops_the_lcores() {
    let eal = eal(1);
    let ended = AtomicBool::new(false);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        eal.scope(|scope| {
            scope
                .launch(0, |context| {
                    until(|| context.stop().requested());
                    ended.store(true, Ordering::Relaxed);
                })
                .unwrap();
            panic!("the control loop failed");
        })
    }));
    assert!(unwound.is_err());
    assert!(ended.into_inner());
}

#[test]
fn a_flag_set_as_by_a_signal_handler_ends_the_run() {
    let eal = eal(1);
    let flag = eal.stop().flag();
    eal.scope(|scope| {
        scope.launch(0, |context| until(|| context.stop().requested())).unwrap();
        thread::spawn(move || flag.store(true, Ordering::Relaxed));
        assert!(eal.stop().wait_timeout(Duration::from_secs(30)));
    })
    .unwrap();
}

#[test]
fn environments_live_side_by_side() {
    let meet = Barrier::new(4);
    thread::scope(|threads| {
        for (number, byte) in [(0, 0x11u8), (1, 0xee)] {
            let meet = &meet;
            threads.spawn(move || {
                let eal = eal(1);
                let request = MemoryRequest::new(1 << 20).name(format!("side {number}"));
                let region = eal.reserve(request).unwrap();
                eal.scope(|scope| {
                    let region = &region;
                    scope.launch(0, move |context| {
                        fill(region, byte);
                        meet.wait();
                        assert!(all(region, byte));
                        until(|| context.stop().requested());
                    })?;
                    meet.wait();
                    // Both lcores 0 run; only this environment's is stopped.
                    eal.stop().request();
                    Ok::<(), LcoreError>(())
                })
                .unwrap()
                .unwrap();
                assert_eq!(eal.memory_report().total(), 1 << 20);
            });
        }
    });
}

#[test]
fn environments_live_one_after_the_other_and_leave_nothing() {
    let count = |directory: &str| std::fs::read_dir(directory).unwrap().count();
    let before = count("/proc/self/fd");
    for _ in 0..100 {
        let eal = eal(2);
        let _region = eal.reserve(MemoryRequest::new(1 << 16).shared(true)).unwrap();
        eal.scope(|scope| scope.launch(1, |context| context.lcore().id()).unwrap().join().unwrap()).unwrap();
    }
    // Tests beside this one have descriptors too, but not so many.
    assert!(count("/proc/self/fd") < before + 50);
}

#[test]
fn what_is_asked_for_and_not_there_is_an_error_of_one_line() {
    let cpus = Topology::discover();
    let missing = (0..1024).find(|id| cpus.cpu(*id).is_none()).unwrap();
    let cpu = cpus.cpus()[0].id;
    for (line, part) in [
        (
            format!("-l {missing}"),
            format!("lcore {missing} cannot run on CPU {missing}: this process may use CPUs"),
        ),
        (format!("-l 0@{missing}"), format!("lcore 0 cannot run on CPU {missing}")),
        (format!("-l 5@{cpu} --main-lcore 6"), "the main lcore 6 is not one of the lcores 5".into()),
        ("--huge-dir /proc".into(), "--huge-dir /proc is no hugetlbfs".into()),
        ("--huge-dir /none".into(), "--huge-dir /none: No such file".into()),
        ("--no-hug".into(), "did you mean '--no-huge'?".into()),
    ] {
        let error = Eal::from_args(line.split(' ')).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&part) && text.lines().count() == 1, "{line}: {text}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn options_reach_the_environment() {
    let cpu = Topology::discover().cpus()[0].id;
    let line = format!(
        "-l 3@{cpu},9@{cpu} --main-lcore 9 --vdev net_null0 --vdev net_null1,size=64 --no-huge -- -p 3"
    );
    let (eal, rest) = Eal::from_args(line.split(' ')).unwrap();
    assert_eq!(eal.lcores().iter().map(|lcore| lcore.id()).collect::<Vec<_>>(), [3, 9]);
    assert_eq!(eal.main_lcore().id(), 9);
    assert_eq!(eal.vdevs(), ["net_null0", "net_null1,size=64"]);
    assert_eq!(rest, ["-p", "3"]);
    assert_eq!(eal.lcores()[0].numa(), eal.topology().cpu(cpu).unwrap().numa);
}

fn fill(region: &wirerate_eal::Region, byte: u8) {
    use wirerate_mempool::Memory;
    // SAFETY: the region is as long as it says, and only one lcore uses it.
    unsafe { region.base().as_ptr().write_bytes(byte, region.len()) };
}

fn all(region: &wirerate_eal::Region, byte: u8) -> bool {
    use wirerate_mempool::Memory;
    // SAFETY: the region is as long as it says, and nobody writes to it meanwhile.
    unsafe { std::slice::from_raw_parts(region.base().as_ptr(), region.len()) }
        .iter()
        .all(|found| *found == byte)
}

#[test]
fn pci_functions_are_those_that_were_asked_for() {
    // The last that can be: a machine has none there.
    let nowhere: wirerate_eal::pci::PciAddress = "ffff:ff:1f.7".parse().unwrap();
    let eal = Eal::builder().no_huge(true).allow(nowhere).build().unwrap();
    let error = eal.pci_devices().unwrap_err().to_string();
    assert!(error.contains("ffff:ff:1f.7"), "{error}");
    let without = Eal::builder().no_huge(true).allow(nowhere).no_pci(true).build().unwrap();
    assert!(without.pci_devices().unwrap().is_empty());
    let (idiom, _) = Eal::from_args(["--no-huge", "-a", "0000:00:00.0"]).unwrap();
    assert!(idiom.pci_devices().unwrap().iter().all(|selected| selected.device.is_network()));
    // What is found is found by sysfs, and what is blocked is not found.
    let found = Eal::builder().no_huge(true).build().unwrap().pci_devices().unwrap();
    assert!(found.iter().all(|selected| !selected.named && selected.device.is_handed_over()), "{found:?}");
    let blocking = found.iter().fold(Eal::builder(), |builder, one| builder.block(one.device.address));
    assert!(blocking.no_huge(true).build().unwrap().pci_devices().unwrap().is_empty());
}
