//! A driver or a device that is broken in one way, and what notices it. The breaks are made between a sound driver and a
//! sound model, so neither of them knows of tests; an exchange that passes without them fails with each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use wirerate_nic::Settings;

use super::eal;
use super::exchange::exchange;
use super::meddler::{Meddler, Way};

/// Registers by their offsets (82599 datasheet, 8.2.3).
const CTRL: usize = 0x0;
const CTRL_RESETS: u32 = 1 << 26 | 1 << 3;
const CTRL_EXT: usize = 0x18;
const DRIVER_LOADED: u32 = 1 << 28;
const RDLEN_0: usize = 0x1008;
const RDT_0: usize = 0x1018;
const RXDCTL_0: usize = 0x1028;
const RXCTRL: usize = 0x3000;
const GPRC: usize = 0x4074;
const GPTC: usize = 0x4080;
const HLREG0: usize = 0x4240;
const MAXFRS: usize = 0x4268;
const LINKS: usize = 0x42a4;
const DMATXCTL: usize = 0x4a80;
const FCTRL: usize = 0x5080;
const TDT_0: usize = 0x6018;
const TDT_1: usize = 0x6058;
const SECRXCTRL: usize = 0x8d00;
const SECRXSTAT: usize = 0x8d04;
const RAL_0: usize = 0xa200;
const RAH_0: usize = 0xa204;
const EERD: usize = 0x10014;
const SWSM: usize = 0x10140;
const SW_FW_SYNC: usize = 0x10160;
const ENABLE: u32 = 1 << 25;
/// A virtual function's (8.3.5).
const VFLINKS: usize = 0x10;
const VFMBMEM: usize = 0x200;
const VFMAILBOX: usize = 0x2fc;
const MAILBOX_TAKEN: u32 = 1 << 2;
const VFGPRC: usize = 0x101c;

/// Bits of a descriptor's second word: of one that is sent (7.2.3.2.4), and of one that was received (7.1.6.2).
const TX_END: u64 = 1 << 24;
const TX_INSERT_FCS: u64 = 1 << 25;
const TX_REPORT: u64 = 1 << 27;
const TX_DONE: u64 = 1 << 32;
const TX_ONE_BYTE_OF_ALL: u64 = 1 << 46;
const RX_DONE: u64 = 1 << 0;
const RX_END: u64 = 1 << 1;
const RX_DAMAGED: u64 = 1 << 29;
const RX_ONE_BYTE: u64 = 1 << 32;

/// What is broken, a part of what is noticed first, and how it is broken.
type Mutation = (&'static str, &'static str, fn() -> Meddler);

const DRIVERS: &[Mutation] = &[
    ("it writes the receive tail one too far", "fault: RDT[0] 0x80", || {
        writes(RDT_0, |value| if value > 0 { value + 1 } else { 0 })
    }),
    ("it writes the transmit tail one too far", "fault: TDT[0]", || {
        writes(TDT_0, |value| if value > 0 { (value + 1) % 128 } else { 0 })
    }),
    ("it writes another queue's tail", "0 of 20 frames that queue 0 sent", || {
        Meddler::on_write(|at, value| vec![(if at == TDT_0 { TDT_1 } else { at }, value)])
    }),
    ("it tells of no receive buffers after the first", "frames that came are there", || {
        let first = AtomicBool::new(true);
        forgets(RDT_0, move |value| value > 0 && !first.swap(false, Relaxed))
    }),
    ("it does not give a resource back", "a semaphore was not given back", || {
        forgets(SW_FW_SYNC, |value| value & 0x1f == 0)
    }),
    ("it does not give a semaphore back", "a semaphore was not given back", || {
        forgets(SWSM, |value| value == 0)
    }),
    ("it takes a resource without the semaphore", "fault: SW_FW_SYNC", || {
        forgets(SWSM, |value| value & 2 != 0).and_on_read(|at, value| value | if at == SWSM { 2 } else { 0 })
    }),
    ("its ring has a length that cannot be", "fault: RDLEN[0]", || writes(RDLEN_0, |value| value | 0x10)),
    ("it enables a queue before sending", "fault: TXDCTL[0]", || forgets(DMATXCTL, |_| true)),
    ("it enables receiving while data pass", "fault: RXCTRL", || {
        forgets(SECRXCTRL, |_| true).and_on_read(|at, value| if at == SECRXSTAT { 1 } else { value })
    }),
    ("it forgets to enable receiving", "frames that came are there", || forgets(RXCTRL, |value| value == 1)),
    ("it sets a reserved bit", "fault: FCTRL", || writes(FCTRL, |value| value | 1)),
    ("it has checksums cut off by one of two registers", "fault: RXCTRL", || {
        writes(HLREG0, |value| value & !2)
    }),
    ("it does not tell how long frames may be", "frames that came are there", || forgets(MAXFRS, |_| true)),
    ("its address is not valid", "frames that came are there", || writes(RAH_0, |value| value & 0xffff)),
    ("a frame's length is one short", "PAYLEN", || {
        fetched(Way::Transmit, |[_, word]| *word -= TX_ONE_BYTE_OF_ALL)
    }),
    ("frames have no end", "fault: TDT[", || fetched(Way::Transmit, |[_, word]| *word &= !TX_END)),
    ("frames get no checksum", "IFCS", || fetched(Way::Transmit, |[_, word]| *word &= !TX_INSERT_FCS)),
    ("it asks for no reports", "a transmit queue stays full", || {
        fetched(Way::Transmit, |[_, word]| *word &= !TX_REPORT)
    }),
    ("it sends from a page further on", "a frame of nobody left", || {
        fetched(Way::Transmit, |[address, _]| *address += 4096)
    }),
    ("it has buffers at addresses of its own", "memory that is not mapped", || {
        fetched(Way::Receive, |[address, _]| *address &= (1 << 40) - 1)
    }),
    ("it goes without a reset", "not at rest", || {
        let goes = AtomicBool::new(false);
        Meddler::on_write(move |at, value| {
            if at == CTRL_EXT {
                goes.store(value & DRIVER_LOADED == 0, Relaxed);
            }
            vec![(at, if at == CTRL && goes.load(Relaxed) { value & !CTRL_RESETS } else { value })]
        })
    }),
    ("it unmaps memory while the device has the bus", "memory was unmapped while", Meddler::keeps_bus),
];

const DEVICES: &[Mutation] = &[
    ("a word of its EEPROM is another", "checksum of its EEPROM", || {
        reads(EERD, |value| value ^ if value >> 2 & 0x3fff == 0x15 { 1 << 20 } else { 0 })
    }),
    ("its address has its bytes in the wrong order", "its address is", || reads(RAL_0, u32::swap_bytes)),
    ("a reset does not end", "a reset is not done", || reads(CTRL, |value| value | CTRL_RESETS)),
    ("a queue does not get enabled", "enabling a receive queue", || reads(RXDCTL_0, |value| value & !ENABLE)),
    ("its link is up without a cable", "the link is up without a cable", || reads(LINKS, |_| 0x7000_0000)),
    ("its link does not come up", "the link stays down", || reads(LINKS, |_| 0)),
    ("it does not say that buffers are full", "frames that came are there", || {
        written_back(Way::Receive, |[_, word]| *word &= !RX_DONE)
    }),
    ("it does not say that frames are sent", "a transmit queue stays full", || {
        written_back(Way::Transmit, |[_, word]| *word &= !TX_DONE)
    }),
    ("it says that buffers are full before they are", "is another", Meddler::data_comes_late),
    ("frames come one byte too long", "is another", || {
        written_back(Way::Receive, |[_, word]| *word += RX_ONE_BYTE)
    }),
    ("frames come longer than buffers", "frames that came are there", || {
        written_back(Way::Receive, |[_, word]| *word |= 0xffff * RX_ONE_BYTE)
    }),
    ("frames come without end", "frames that came are there", || {
        written_back(Way::Receive, |[_, word]| *word &= !RX_END)
    }),
    ("each buffer is a frame", "is another", || written_back(Way::Receive, |[_, word]| *word |= RX_END)),
    ("sound frames come as damaged ones", "frames that came are there", || {
        written_back(Way::Receive, |[_, word]| *word |= RX_DAMAGED)
    }),
    ("it flips a bit of a frame", "is another", || {
        let frames = AtomicU32::new(0);
        Meddler::on_data(move |data| {
            if let (Some(last), 70) = (data.last_mut(), frames.fetch_add(1, Relaxed)) {
                *last ^= 0x40;
            }
        })
    }),
    ("it sends frames of a queue in the wrong order", "is another", || {
        let waiting = Mutex::new(None);
        Meddler::on_departure(move |frame| {
            if frame[14] != 0 {
                return vec![frame];
            }
            let mut waiting = waiting.lock().unwrap();
            match waiting.take() {
                Some(before) => vec![frame, before],
                None => {
                    *waiting = Some(frame);
                    Vec::new()
                }
            }
        })
    }),
    ("it sends a frame twice", "is another", || {
        let frames = AtomicU32::new(0);
        Meddler::on_departure(move |frame| match frames.fetch_add(1, Relaxed) {
            33 => vec![frame.clone(), frame],
            _ => vec![frame],
        })
    }),
    ("it loses a frame that it sends", "frames that queue", || {
        let frames = AtomicU32::new(0);
        Meddler::on_departure(move |frame| match frames.fetch_add(1, Relaxed) {
            39 => Vec::new(),
            _ => vec![frame],
        })
    }),
    ("it loses a frame that comes", "frames that came are there", || {
        let frames = AtomicU32::new(0);
        Meddler::on_arrival(move |frame| match frames.fetch_add(1, Relaxed) {
            39 => Vec::new(),
            _ => vec![frame],
        })
    }),
    ("reading a counter does not clear it", "rx_good_packets_of_device", || {
        let counted = AtomicU32::new(0);
        reads(GPRC, move |value| counted.fetch_add(value, Relaxed) + value)
    }),
    ("it does not count what it sends", "tx_good_packets_of_device", || reads(GPTC, |_| 0)),
];

/// Of a virtual function: first drivers, then what is beyond its registers.
const VIRTUAL: &[Mutation] = &[
    ("it writes the mailbox without taking it", "fault: VFMBMEM[0]", || {
        writes(VFMAILBOX, |value| value & !MAILBOX_TAKEN)
            .and_on_read(|at, value| if at == VFMAILBOX { value | MAILBOX_TAKEN } else { value })
    }),
    ("it says that frames are short", "frames that came are there", || {
        Meddler::on_write(|at, value| {
            vec![(at, if at == VFMBMEM + 4 && value == 4018 { 1518 } else { value })]
        })
    }),
    ("it asks for what there is not", "fault: VFMBMEM 0x77", || says(0x05, |_| 0x77)),
    ("it writes a physical function's transmit tail", "0 of 20 frames that queue 0 sent", || {
        Meddler::on_write(|at, value| vec![(if at == 0x2018 { TDT_0 } else { at }, value)])
    }),
    ("its receive tail is one too far", "fault: RDT[0] 0x80", || {
        writes(RDT_0, |value| if value > 0 { value + 1 } else { 0 })
    }),
    ("it has buffers at addresses of its own", "memory that is not mapped", || {
        fetched(Way::Receive, |[address, _]| *address &= (1 << 40) - 1)
    }),
    ("it unmaps memory while the device has the bus", "memory was unmapped while", Meddler::keeps_bus),
    ("its address comes in the wrong order", "its address is", || {
        reads(VFMBMEM + 4, |value| if value == 0x12ba_e290 { value.swap_bytes() } else { value })
    }),
    ("an answer is another request's", "which is no answer to it", || reads(VFMBMEM, |value| value ^ 0xf)),
    ("no acknowledgement comes", "does not answer a reset", || reads(VFMAILBOX, |value| value & !(1 << 5))),
    ("it is in a reset for ever", "the end of its reset", || reads(VFMAILBOX, |value| value | 1 << 6)),
    ("its link is up without a cable", "the link is up without a cable", || reads(VFLINKS, |_| 0x7000_0000)),
    ("a counter goes back", "rx_good_packets_of_device", || {
        let reads_of_it = AtomicU32::new(0);
        reads(VFGPRC, move |value| value.wrapping_sub(reads_of_it.fetch_add(1, Relaxed)))
    }),
];

fn writes(register: usize, alter: fn(u32) -> u32) -> Meddler {
    Meddler::on_write(move |at, value| vec![(at, if at == register { alter(value) } else { value })])
}

fn forgets(register: usize, which: impl Fn(u32) -> bool + Send + Sync + 'static) -> Meddler {
    Meddler::on_write(
        move |at, value| if at == register && which(value) { Vec::new() } else { vec![(at, value)] },
    )
}

fn reads(register: usize, alter: impl Fn(u32) -> u32 + Send + Sync + 'static) -> Meddler {
    Meddler::on_read(move |at, value| if at == register { alter(value) } else { value })
}

fn fetched(which: Way, alter: fn(&mut [u64; 2])) -> Meddler {
    Meddler::on_fetch(move |way, words| {
        if way == which {
            alter(words);
        }
    })
}

fn written_back(which: Way, alter: fn(&mut [u64; 2])) -> Meddler {
    Meddler::on_write_back(move |way, words| {
        if way == which {
            alter(words);
        }
    })
}

/// A virtual function's request of this kind begins with another word.
fn says(kind: u32, alter: fn(u32) -> u32) -> Meddler {
    Meddler::on_write(move |at, value| {
        vec![(at, if at == VFMBMEM && value & 0xffff == kind { alter(value) } else { value })]
    })
}

/// Looks that each is noticed by what should notice it.
fn are_noticed(is_virtual: bool, mutations: &[Mutation]) {
    let (eal, mut wrong) = (eal(), Vec::new());
    for (what, noticed, meddler) in mutations {
        match exchange(&eal, Settings { is_virtual, ..Settings::default() }, meddler()) {
            Err(found) if found.contains(noticed) => {}
            other => wrong.push(format!("\"{what}\": expected \"{noticed}\": {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_exchange_between_sound_ones_passes() {
    let eal = eal();
    for seed in 0..20 {
        for is_virtual in [false, true] {
            let settings = Settings { seed, is_virtual, ..Settings::default() };
            assert_eq!(exchange(&eal, settings.clone(), Meddler::default()), Ok(()), "{settings:?}");
            // Somebody in the middle who alters nothing.
            let idle = written_back(Way::Receive, |_| ());
            assert_eq!(exchange(&eal, settings.clone(), idle), Ok(()), "{settings:?}");
        }
    }
}

#[test]
fn a_driver_that_is_broken_is_noticed() {
    are_noticed(false, DRIVERS);
}

#[test]
fn a_device_that_is_broken_is_noticed() {
    are_noticed(false, DEVICES);
}

#[test]
fn a_virtual_functions_driver_or_its_physical_function_that_is_broken_is_noticed() {
    are_noticed(true, VIRTUAL);
}
