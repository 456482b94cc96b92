//! The server as QEMU speaks to it, by the other side of the crate that it is made of.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio;
use vfio_user::{Client, ServerBackend};

use super::*;

const BAR: u32 = vfio::VFIO_PCI_BAR0_REGION_INDEX;
const CONFIG: u32 = vfio::VFIO_PCI_CONFIG_REGION_INDEX;
const BY_EVENTS: u32 = vfio::VFIO_IRQ_SET_ACTION_TRIGGER | vfio::VFIO_IRQ_SET_DATA_EVENTFD;
const OFF: u32 = vfio::VFIO_IRQ_SET_ACTION_TRIGGER | vfio::VFIO_IRQ_SET_DATA_NONE;

const SEED: Manner = Manner { seed: 7, has_msix: true, is_virtual: false };

fn read(client: &mut Client, region: u32, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(region, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn write(client: &mut Client, region: u32, offset: u64, value: u32) {
    client.region_write(region, offset, &value.to_le_bytes()).unwrap();
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Whether an event comes.
fn comes(event: &OwnedFd) -> bool {
    wait::until("an event", Duration::from_secs(5), || Ok(rustix::io::read(event, &mut [0; 8]).is_ok()))
        .is_ok()
}

/// Whether something becomes true.
fn becomes(mut what: impl FnMut() -> bool) -> bool {
    wait::until("a change", Duration::from_secs(5), || Ok(what())).is_ok()
}

#[test]
fn a_card_is_there_for_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = NicServer::start(folder.path(), SEED, vec![Cable::Next, Cable::None]).unwrap();
    for _ in 0..2 {
        let mut client = Client::new(server.socket(0).unwrap()).unwrap();
        assert_eq!(read(&mut client, CONFIG, 0), 0x10fb_8086);
        assert_eq!(read(&mut client, CONFIG, 4) & 4, 0, "it is as it was before the first");
        write(&mut client, CONFIG, 4, 4);
        // Registers, and an interrupt of the link's, by the vector that IVAR_MISC names.
        let events = [event(), event()];
        let fds = events.each_ref().map(AsRawFd::as_raw_fd);
        client.set_irqs(vfio::VFIO_PCI_MSIX_IRQ_INDEX, BY_EVENTS, 0, 2, &fds).unwrap();
        for (register, value) in [(0x898, 1 << 4), (0xa00, 0x8100), (0x880, 1 << 20), (0x808, 1 << 20)] {
            write(&mut client, BAR, register, value);
        }
        assert!(comes(&events[1]) && rustix::io::read(&events[0], &mut [0; 8]).is_err());
        client.set_irqs(vfio::VFIO_PCI_MSIX_IRQ_INDEX, OFF, 0, 0, &[]).unwrap();
        // The link comes up by itself.
        assert!(becomes(|| read(&mut client, BAR, 0x42a4) == 0x7000_0000));
        client.reset().unwrap();
        assert_eq!((read(&mut client, BAR, 0x898), read(&mut client, CONFIG, 4) & 4), (0, 0));
        write(&mut client, CONFIG, 4, 4);
        client.shutdown().unwrap();
    }
    server.expect_no_fault().unwrap();
    assert!(NicServer::start(folder.path(), SEED, vec![Cable::Next]).is_err(), "there is nothing at its end");
}

#[test]
fn a_card_without_msix_has_the_other_capabilities() {
    let folder = tempfile::tempdir().unwrap();
    for has_msix in [true, false] {
        let manner = Manner { has_msix, ..SEED };
        let server = NicServer::start(folder.path(), manner, vec![Cable::None]).unwrap();
        let mut client = Client::new(server.socket(0).unwrap()).unwrap();
        let (mut at, mut kinds) = (read(&mut client, CONFIG, 0x34) & 0xff, Vec::new());
        while at != 0 {
            let head = read(&mut client, CONFIG, at.into());
            kinds.push(head & 0xff);
            at = head >> 8 & 0xff;
        }
        let msix = kinds.iter().position(|kind| *kind == 0x11);
        assert_eq!((msix.is_some(), kinds.len()), (has_msix, if has_msix { 4 } else { 3 }), "{kinds:x?}");
        let mut byte = [0];
        client.region_read(CONFIG, 0x51, &mut byte).unwrap();
        assert_eq!(byte, [if has_msix { 0x70 } else { 0xa0 }]);
    }
}

#[test]
fn memory_is_there_until_it_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let server = NicServer::start(folder.path(), SEED, vec![Cable::None]).unwrap();
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(0x2000).unwrap();
    memory.write_all_at(b"there", 0x1000).unwrap();
    let mut client = Client::new(server.socket(0).unwrap()).unwrap();
    client.dma_map(0x1000, 0x10_0000, 0x1000, memory.as_raw_fd()).unwrap();
    write(&mut client, CONFIG, 4, 4);
    let card = server.card(0).unwrap();
    let reads = || {
        let mut bytes = [0; 5];
        wirerate_nic::Dma::read(card.memory(), 0x10_0000, &mut bytes).map(|()| bytes)
    };
    assert_eq!(reads().unwrap(), *b"there");
    // Past the file: that client does not look at what the answer says.
    client.dma_map(0x1000, 0x20_0000, 0x2000, memory.as_raw_fd()).unwrap();
    assert_eq!(card.memory().pieces(), 1);
    client.dma_unmap(0x10_0000, 0x1000).unwrap();
    assert!(reads().is_err());
    client.dma_map(0, 0x10_0000, 0x2000, memory.as_raw_fd()).unwrap();
    assert!(reads().is_ok());
    client.shutdown().unwrap();
    drop(client);
    assert!(becomes(|| card.memory().pieces() == 0), "it went with the other side");
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = NicServer::start(folder.path(), SEED, vec![Cable::None]).unwrap();
    let card = Arc::clone(server.card(0).unwrap());
    let mut backend = Backend::new(card, server.pump.as_ref().unwrap().work(), SEED);
    let (msix, none) = (vfio::VFIO_PCI_MSIX_IRQ_INDEX, vfio::VFIO_IRQ_SET_DATA_NONE);
    let mut answer = |index, flags, start, count| {
        let events = vec![File::from(event())];
        backend.set_irqs(index, flags, start, count, events).is_ok()
    };
    for (index, flags, start, count) in [
        (msix, BY_EVENTS, 64, 1),
        (msix, BY_EVENTS, u32::MAX, 2),
        (vfio::VFIO_PCI_MSI_IRQ_INDEX, BY_EVENTS, 1, 1),
        (msix, BY_EVENTS, 0, 2),
        (msix, vfio::VFIO_IRQ_SET_ACTION_TRIGGER | none, 0, 1),
        (msix, vfio::VFIO_IRQ_SET_ACTION_MASK | vfio::VFIO_IRQ_SET_DATA_BOOL, 0, 1),
        (9, BY_EVENTS, 0, 1),
    ] {
        assert!(!answer(index, flags, start, count), "{index} {flags:#x} {start} {count}");
    }
    assert!(answer(msix, BY_EVENTS, 63, 1) && answer(msix, vfio::VFIO_IRQ_SET_ACTION_MASK | none, 63, 1));
    let mut client = Client::new(server.socket(0).unwrap()).unwrap();
    // It is there still, and what it has no register for is told.
    assert_eq!(read(&mut client, BAR, 0x1_fffc), 0);
    write(&mut client, BAR, 0x8, 1);
    let faults = server.faults();
    assert!(faults.len() == 2 && faults[1].starts_with("card 0: fault: STATUS 0x1"), "{faults:?}");
    assert!(server.expect_no_fault().is_err() && server.forgive(&["STATUS"]).is_err());
    write(&mut client, BAR, 0x8, 1);
    server.forgive(&["STATUS"]).unwrap();
    server.expect_no_fault().unwrap();
}

#[test]
fn frames_go_between_a_wire_and_a_card() {
    let folder = tempfile::tempdir().unwrap();
    let wire = crate::guest::Wire::new(folder.path(), "wire").unwrap();
    let server = NicServer::start(folder.path(), SEED, vec![Cable::Wires(Wires::to(&wire))]).unwrap();
    let mut client = Client::new(server.socket(0).unwrap()).unwrap();
    // A receiver that counts: 4.6.7, without a queue.
    assert!(becomes(|| read(&mut client, BAR, 0x42a4) == 0x7000_0000));
    for (register, value) in [(0x5080, 0x700), (0x2f00, 0x0010_000a), (0x8d00, 2)] {
        write(&mut client, BAR, register, value);
    }
    assert!(becomes(|| read(&mut client, BAR, 0x8d04) == 1));
    write(&mut client, BAR, 0x3000, 1);
    write(&mut client, BAR, 0x8d00, 0);
    wire.send(&[0xff; 60]).unwrap();
    assert!(becomes(|| !server.counters().is_empty()));
    assert!(server.counters().contains(&"card 0: BPRC 1".to_owned()), "{:?}", server.counters());
    server.expect_no_fault().unwrap();
}
