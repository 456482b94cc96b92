//! Has QEMU's teaching device (`-device edu,dma_mask=0xffffffff`, docs/specs/edu in QEMU) copy memory from a page to
//! another: what is mapped is what the device reaches.
//!
//! `cargo run -p wirerate-eal --example pci_dma` says how it is used. The device's registers are written by 32 bits here,
//! so the IOMMU has to be a narrow one (`-device intel-iommu,aw-bits=39`), or there is none.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wirerate_eal::dma::{self, DmaMapping};
use wirerate_eal::mmio::{Bar, Mmio};
use wirerate_eal::pci::{self, OpenOptions, PciFunction};
use wirerate_eal::{Eal, MemoryRequest};
use wirerate_mempool::Memory;

const PAGE: usize = 4096;
/// Bytes to copy: QEMU 7.2 takes less than all of the device's page.
const LEN: usize = PAGE - 8;
/// The device's own memory, and its registers.
const BUFFER: u32 = 0x4_0000;
const CAUSES: usize = 0x24;
const ACKNOWLEDGE: usize = 0x64;
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
/// Of the command: begin, to memory instead of from it, and interrupt at the end.
const BEGIN: u32 = 1;
const TO_MEMORY: u32 = 2;
const INTERRUPT: u32 = 4;

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
    let Some(address) = std::env::args().nth(1) else {
        println!("usage: pci_dma ADDRESS");
        return Ok(());
    };
    let address = address.parse()?;
    // Pages that are reached by a file too, so that what is in them can be looked at without a reference to them.
    let eal = Eal::builder().no_huge(true).build()?;
    let memory = eal.reserve(MemoryRequest::new(16 * PAGE).shared(true))?;
    let base = memory.base().addr().get();
    let (fd, offset) = memory.shared_fd().ok_or("the memory has no descriptor")?;
    let file = File::from(fd.try_clone_to_owned()?);
    let pattern: Vec<u8> = (0..LEN).map(|at| (at * 7 + at / 256) as u8).collect();
    file.write_all_at(&pattern, offset + 3 * PAGE as u64)?;

    let function = pci::open(&eal, address, &OpenOptions::default())?;
    let registers = function.bar(0)?;
    let mapping = dma::map_owned(&*function.dma(), memory)?;
    println!("{} ranges, the first at {:#x}", mapping.ranges().len(), mapping.ranges()[0].device);
    function.set_bus_master(true)?;

    let from = place(&mapping, base + 3 * PAGE)?;
    let to = place(&mapping, base + 10 * PAGE)?;
    copy(&registers, from, BUFFER, BEGIN)?;
    let event = function.enable_intx()?;
    copy(&registers, BUFFER, to, BEGIN | TO_MEMORY | INTERRUPT)?;
    let mut fds = [PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN)];
    let told = poll(&mut fds, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }))? == 1;
    registers.write32(ACKNOWLEDGE, registers.read32(CAUSES));
    function.unmask_intx();
    println!("the device told of its end: {told}");

    let mut copied = vec![0; 16 * PAGE];
    file.read_exact_at(&mut copied, offset)?;
    let right = copied[10 * PAGE..10 * PAGE + LEN] == pattern;
    // The pattern stands there twice, and all else is zeroes as before.
    let alone = copied.iter().filter(|byte| **byte != 0).count()
        == 2 * pattern.iter().filter(|byte| **byte != 0).count();
    println!("it was copied: {right}, and nothing else was written: {alone}");
    if told && right && alone { Ok(()) } else { Err("it did not work".into()) }
}

/// Where the device finds a page.
fn place(mapping: &DmaMapping, address: usize) -> Result<u32, Box<dyn Error>> {
    let holds = |base: usize, len: usize| base <= address && address + PAGE <= base + len;
    let range =
        mapping.ranges().iter().find(|range| holds(range.base, range.len)).ok_or("it is not mapped")?;
    let device = range.device + (address - range.base) as u64;
    Ok(u32::try_from(device).map_err(|_| format!("{device:#x} does not fit in 32 bits"))?)
}

fn copy(registers: &Bar, from: u32, to: u32, command: u32) -> Result<(), Box<dyn Error>> {
    registers.write32(SOURCE, from);
    registers.write32(DESTINATION, to);
    registers.write32(COUNT, LEN as u32);
    registers.write32(COMMAND, command);
    let begun = Instant::now();
    while registers.read32(COMMAND) & BEGIN != 0 {
        if begun.elapsed() > Duration::from_secs(5) {
            return Err("the device did not end".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
