//! Opens a PCI function and tells what it is: numbers, registers, capabilities, and by which addresses it reaches memory.
//!
//! `cargo run -p wirerate-eal --example pci -- 0000:00:03.0`, after vfio-pci or uio_pci_generic got it. `--no-iommu` lets
//! it be used by VFIO although no IOMMU watches it, `--reset` resets it, and `--twice` does all of it again with the same
//! environment.
#![forbid(unsafe_code)]

use std::error::Error;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use wirerate_eal::dma::{self, DmaError, DmaMapping};
use wirerate_eal::mmio::Mmio;
use wirerate_eal::pci::{self, Function, OpenOptions, PciAddress, PciFunction, capability};
use wirerate_eal::{Eal, EalOptions, MemoryRequest, Region};

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<(), Box<dyn Error>> {
    let mut options = OpenOptions::default();
    let mut addresses: Vec<PciAddress> = Vec::new();
    let (mut reset, mut turns) = (false, 1);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--no-iommu" => options.no_iommu = true,
            "--reset" => reset = true,
            "--twice" => turns = 2,
            address => addresses.push(address.parse()?),
        }
    }
    let eal = Eal::new(EalOptions::default())?;
    // What is mapped outlives the functions that it was mapped for.
    let mut mappings = Vec::new();
    for turn in 0..turns {
        let functions: Vec<Function> =
            addresses.iter().map(|&address| pci::open(&eal, address, &options)).collect::<Result<_, _>>()?;
        for function in &functions {
            tell(function)?;
            if reset {
                println!("reset: {}", function.reset()?);
            }
            interrupts(function)?;
            let memory = eal.reserve(MemoryRequest::new(2 << 20).name("for the device"))?;
            mappings.push(map(function, memory)?);
            let shared = Arc::ptr_eq(&functions[0].dma(), &function.dma());
            println!("its memory is that of the first function: {shared}");
            function.set_bus_master(true)?;
            println!("command with bus master: {:#06x}", function.config_read(4) & 0xffff);
        }
        println!("turn {turn} is done, with {} mappings", mappings.len());
    }
    println!("{}", eal.memory_report());
    Ok(())
}

fn map(function: &Function, memory: Region) -> Result<DmaMapping, DmaError> {
    let space = function.dma();
    for window in space.windows() {
        println!("window {:#x} to {:#x}", window.start(), window.end());
    }
    let mapping = dma::map_owned(&*space, memory)?;
    for range in mapping.ranges() {
        println!("{} bytes at {:#x} are at {:#x} for the device", range.len, range.base, range.device);
    }
    Ok(mapping)
}

fn tell(function: &Function) -> Result<(), Box<dyn Error>> {
    let id = function.config_read(0);
    println!("{}: vendor {:04x}, device {:04x}", function.address(), id & 0xffff, id >> 16);
    for index in 0..6 {
        match function.bar(index) {
            Ok(bar) => println!("BAR {index}: {} bytes, the first are {:#010x}", bar.len(), bar.read32(0)),
            Err(error) => println!("BAR {index}: {error}"),
        }
    }
    for capability in capability::capabilities(function) {
        println!("capability {:#04x} at {:#x}", capability.id, capability.offset);
    }
    for capability in capability::extended_capabilities(function) {
        println!("extended capability {:#06x} at {:#x}", capability.id, capability.offset);
    }
    Ok(())
}

fn interrupts(function: &Function) -> Result<(), Box<dyn Error>> {
    println!("MSI-X vectors: {}", function.msix_vectors());
    let events = function.enable_msix(function.msix_vectors())?;
    println!("MSI-X on: {}", events.len());
    match function.enable_intx() {
        Ok(event) => println!("INTx on: {:?}", event.as_fd()),
        Err(error) => println!("INTx: {error}"),
    }
    function.unmask_intx();
    function.disable_interrupts();
    println!("tells of removal: {}", function.removal().is_some());
    Ok(())
}
