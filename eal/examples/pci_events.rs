//! Has an Intel 82574 (QEMU's e1000e) interrupt this process, by each MSI-X vector and by INTx, and waits then for the
//! system to want it back if `--removal` is given.
//!
//! `cargo run -p wirerate-eal --example pci_events -- 0000:00:03.0`
#![forbid(unsafe_code)]

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wirerate_eal::mmio::{Bar, Mmio};
use wirerate_eal::pci::{self, Function, OpenOptions, PciFunction};
use wirerate_eal::{Eal, EalOptions};

/// Registers of the 82574 (datasheet, 10.2.4): causes of interrupts, and which cause has which vector.
const READ_CAUSES: usize = 0xc0;
const SET_CAUSES: usize = 0xc8;
const SET_MASK: usize = 0xd0;
const CLEAR_MASK: usize = 0xd8;
const VECTORS: usize = 0xe4;
/// The link changed; and what INTx is for, with MSI-X.
const LINK_CHANGED: u32 = 1 << 2;
const OTHER: u32 = 1 << 24;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("expected a PCI address")?.parse()?;
    let wait = arguments.next().is_some_and(|argument| argument == "--removal");
    let eal = Eal::new(EalOptions::default())?;
    let function = pci::open(&eal, address, &OpenOptions::default())?;
    if function.config_read(0) != 0x10d3_8086 {
        return Err(format!("{address} is no 82574").into());
    }
    function.set_bus_master(true)?;
    let registers = function.bar(0)?;
    msix(&function, &registers)?;
    intx(&function, &registers)?;
    drop(registers);
    if wait {
        let removal = function.removal().ok_or("the system does not tell of removals")?;
        println!("waiting for removal");
        println!("to be removed: {}", readable(removal, 30)?);
    }
    Ok(())
}

fn msix(function: &Function, registers: &Bar) -> Result<(), Box<dyn Error>> {
    let events = function.enable_msix(function.msix_vectors())?;
    for (vector, _) in events.iter().enumerate() {
        registers.write32(CLEAR_MASK, u32::MAX);
        registers.read32(READ_CAUSES);
        registers.write32(VECTORS, (8 | vector as u32) << 16);
        registers.write32(SET_MASK, OTHER);
        registers.write32(SET_CAUSES, OTHER);
        let mut told = Vec::new();
        for (other, event) in events.iter().enumerate() {
            if readable(event.as_fd(), if other == vector { 2 } else { 0 })? {
                rustix::io::read(event, &mut [0; 8])?;
                told.push(other);
            }
        }
        println!("MSI-X vector {vector}: told by {told:?}");
    }
    calm(registers);
    Ok(())
}

fn intx(function: &Function, registers: &Bar) -> Result<(), Box<dyn Error>> {
    let event = function.enable_intx()?;
    for turn in 0..3 {
        let before = readable(event.as_fd(), 0)?;
        registers.write32(SET_MASK, LINK_CHANGED);
        registers.write32(SET_CAUSES, LINK_CHANGED);
        let after = readable(event.as_fd(), 2)?;
        // Or it comes again at once.
        registers.read32(READ_CAUSES);
        function.unmask_intx();
        println!("INTx {turn}: before {before}, after {after}");
    }
    function.disable_interrupts();
    registers.write32(SET_CAUSES, LINK_CHANGED);
    println!("INTx when off: {}", readable(event.as_fd(), 0)?);
    calm(registers);
    Ok(())
}

/// Ends what is pending, and waits until the device throttles no longer: QEMU 7.2 ends by an assertion when the kind of
/// interrupts changes before that.
fn calm(registers: &Bar) {
    registers.write32(CLEAR_MASK, u32::MAX);
    registers.read32(READ_CAUSES);
    std::thread::sleep(Duration::from_millis(100));
}

/// Whether the descriptor becomes readable within so many seconds.
fn readable(fd: BorrowedFd<'_>, seconds: i64) -> Result<bool, Box<dyn Error>> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 }))? > 0)
}
