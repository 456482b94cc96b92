//! Who sleeps is woken: by packets, and by the link's changes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wirerate_nic::{Settings, Wire};
use wirerate_pmd::Burst;

use super::eventually;
use super::function::Machine;
use super::lab::{Lab, frame};
use super::packets::Kind;

const OURS: [u8; 6] = [0x90, 0xe2, 0xba, 0x12, 0x34, 0x56];

/// Whether a descriptor is readable within so many milliseconds.
fn is_readable(fd: BorrowedFd<'_>, milliseconds: i64) -> bool {
    let time = Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
    poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// A ring that comes into a queue wakes its sleeper, too.
fn forget_the_start(lab: &mut Lab) {
    lab.queues.rx.iter_mut().for_each(|rx| rx.disarm_wait());
}

#[test]
fn a_sleeping_queue_is_woken_once_by_what_comes_after_it_was_armed() {
    for is_virtual in [false, true] {
        is_woken(Lab::of(Settings { is_virtual, ..Settings::default() }, 2, "", |config| config));
    }
}

fn is_woken(mut lab: Lab) {
    forget_the_start(&mut lab);
    let mut burst = Burst::new(64);
    for round in 0..50 {
        let rx = &mut lab.queues.rx[0];
        assert!(!rx.arm_wait(), "nothing is there");
        assert!(!is_readable(rx.wait_fd().unwrap(), 0), "round {round}: what was polled wakes nobody");
        (0..3).for_each(|at| lab.far.send(frame(OURS, at, 60)));
        assert!(is_readable(rx.wait_fd().unwrap(), 10_000), "round {round}");
        rx.disarm_wait();
        let begun = Instant::now();
        let mut count = 0;
        while count < 3 {
            count += rx.rx_burst(&mut burst);
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        burst.free();
        // Packets for a queue that is polled cause nothing.
        lab.far.send(frame(OURS, 0, 60));
        super::eventually_mut("it does not come", || lab.queues.rx[0].rx_burst(&mut burst) == 1);
        burst.free();
    }
    // What is there already is told by the call.
    lab.far.send(frame(OURS, 0, 60));
    eventually("it does not come", || lab.machine.model().read32(0x01010) == 50 * 4 + 1);
    assert!(lab.queues.rx[0].arm_wait());
    lab.queues.rx[0].disarm_wait();
    lab.machine.assert_good();
    lab.end();
}

#[test]
fn each_queue_wakes_its_own_sleeper() {
    let mut lab = Lab::new(4);
    forget_the_start(&mut lab);
    let kinds: Vec<Kind> = (0..200).map(|flow| Kind { flow, ..super::packets::TCP }).collect();
    let rss = lab.port().rss_config().unwrap();
    for target in 0..4_u16 {
        let to_target = |kind: &&Kind| {
            let hash = super::packets::toeplitz(&rss.key, &kind.hashed(true));
            rss.table[hash as usize % 128] == target
        };
        let kind = kinds.iter().find(to_target).unwrap();
        assert!(lab.queues.rx.iter_mut().all(|rx| !rx.arm_wait()));
        lab.far.send(kind.frame(OURS));
        assert!(is_readable(lab.queues.rx[usize::from(target)].wait_fd().unwrap(), 10_000));
        for (queue, rx) in lab.queues.rx.iter_mut().enumerate() {
            assert_eq!(is_readable(rx.wait_fd().unwrap(), 0), queue == usize::from(target), "queue {queue}");
            rx.disarm_wait();
        }
        let mut burst = Burst::new(1);
        assert_eq!(lab.queues.rx[usize::from(target)].rx_burst(&mut burst), 1);
    }
    lab.end();
}

#[test]
fn nothing_is_lost_between_the_arming_and_the_sleep() {
    let mut lab = Lab::new(1);
    let mut burst = Burst::new(64);
    let (mut sent, mut got) = (0, 0);
    let begun = Instant::now();
    let mut slept = 0;
    while got < 3000 {
        // Frames come at any moment: the model runs beside this.
        if sent < 3000 {
            lab.far.send(frame(OURS, sent, 60));
            sent += 1;
        }
        let rx = &mut lab.queues.rx[0];
        if !rx.arm_wait() {
            assert!(is_readable(rx.wait_fd().unwrap(), 10_000), "{got} of {sent} came");
            slept += 1;
        }
        rx.disarm_wait();
        got += rx.rx_burst(&mut burst);
        burst.free();
        assert!(begun.elapsed() < Duration::from_secs(60), "{got} of {sent} came");
    }
    assert!(slept > 10, "{slept}");
    lab.machine.assert_good();
    lab.end();
}

#[test]
fn a_change_of_the_link_is_told_at_once() {
    told_at_once(false);
}

#[test]
fn a_change_of_the_link_is_told_at_once_by_a_line() {
    told_at_once(true);
}

fn told_at_once(by_line: bool) {
    let machine = Machine::new(Settings::default());
    machine.troubles().only_line = by_line;
    let lab = Lab::on(machine, 1, "", |config| config);
    // By a line packets would come one by one.
    assert_eq!(lab.queues.rx[0].wait_fd().is_none(), by_line);
    eventually("the link's change was not noted", || lab.count("ixgbe_link_changes") == 1);
    for change in 0..6 {
        let begun = Instant::now();
        lab.machine.model().set_cable(change % 2 == 1);
        eventually("the link's change was not noted", || lab.count("ixgbe_link_changes") == 2 + change);
        assert!(
            begun.elapsed() < Duration::from_millis(700),
            "by the look once a second: {:?}",
            begun.elapsed()
        );
    }
    lab.machine.assert_good();
    lab.end();
}
