//! What a device tells by its interrupts.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wirerate_pmd::Burst;
use wirerate_pmd::port::Queues;

use super::model::{MAC, Settings};
use super::{Lab, eventually, frame};

#[test]
fn the_link_follows_the_device_by_any_interrupt_or_none() {
    for (msix, system_vectors, intx) in
        [(16, 16, true), (16, 1, true), (1, 16, true), (16, 0, true), (0, 0, true), (0, 0, false)]
    {
        let mut lab = Lab::with(Settings { msix, system_vectors, intx, ..Settings::default() }, "", 2);
        assert!(lab.port().link().up);
        for up in [false, true, false] {
            let begun = Instant::now();
            lab.machine.change(|device| device.link = up.into());
            eventually("the link does not follow", || lab.port().link().up == up);
            assert!(!intx || begun.elapsed() < Duration::from_millis(900), "nobody told");
        }
        assert_eq!(lab.count("virtio_link_changes"), 3);
        lab.exchange(1, &[60, 70, 80]);
        lab.end();
    }
}

fn is_readable(queues: &Queues, queue: usize) -> bool {
    let fd = queues.rx[queue].wait_fd().unwrap();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() > 0
}

#[test]
fn a_sleeper_is_woken_by_its_queue() {
    // A vector for each queue, and one for both.
    for msix in [16, 2] {
        let mut lab = Lab::with(Settings { msix, ..Settings::default() }, "", 2);
        lab.exchange(1, &[60, 60]);
        lab.queues.rx[0].disarm_wait();
        for queue in [1, 1, 1] {
            lab.queues.rx[queue].disarm_wait();
            assert!(!lab.queues.rx[queue].arm_wait() && !is_readable(&lab.queues, queue));
            let mut burst = Burst::new(1);
            burst.push(lab.pool.alloc_from(&frame(1, 100)).unwrap()).unwrap();
            assert_eq!(lab.queues.tx[queue].tx_burst(&mut burst), 1);
            assert!(is_readable(&lab.queues, queue), "nobody was told");
            assert!(msix == 2 || !is_readable(&lab.queues, 0), "the other queue was told");
            assert_eq!(lab.queues.rx[queue].rx_burst(&mut burst), 1);
        }
        lab.end();
    }
    // One vector, or a line, is for the configuration: queues can only be polled.
    for msix in [1, 0] {
        let mut lab = Lab::with(Settings { msix, ..Settings::default() }, "", 2);
        assert!(lab.queues.rx[0].wait_fd().is_none());
        assert!(!lab.queues.rx[0].arm_wait());
        lab.exchange(0, &[60]);
        assert_eq!(lab.machine.lock().interrupts, 0, "a queue that is polled interrupts");
        lab.end();
    }
}

#[test]
fn a_device_that_asks_for_it_is_announced() {
    let mut lab = Lab::new();
    lab.machine.change(|device| device.link |= 2);
    eventually("no answer", || lab.machine.lock().link & 2 == 0);
    let mut burst = Burst::new(4);
    assert_eq!(lab.queues.rx[0].rx_burst(&mut burst), 1);
    let frame = burst[0].data();
    assert_eq!((frame.len(), &frame[..6], &frame[6..12]), (60, &[0xff; 6][..], &MAC[..]));
    assert_eq!((&frame[12..14], &frame[22..28], &frame[32..38]), (&[0x80, 0x35][..], &MAC[..], &MAC[..]));
    drop(burst);
    eventually("it is not counted", || lab.count("virtio_announcements") == 1);
    assert!(lab.port().link().up);
    lab.end();
}
