//! A model of Intel's 82599 10 GbE controller at the level of its registers, after its datasheet (331520), for drivers
//! to be run against. It knows no driver.
//!
//! | file | |
//! |---|---|
//! | [`registers`] | which registers there are, and what may be done with each |
//! | [`Model`] (`model`), `values` | the device: its registers, read and written, and what they keep |
//! | [`Fault`] (`fault`) | what a driver did that it may not do |
//! | [`Eeprom`] (`eeprom`), [`Module`] (`sfp`) | the board: its EEPROM, and the module in its cage |
//! | `interrupts` | causes, masks, vectors |
//! | `link` | when the link is up |
//! | [`Card`], [`Function`] (`function`), `config` | the model as a PCI function, its configuration space |
//! | [`Dma`], [`Mapped`] (`memory`) | the memory that it reaches |
//! | `packet` | what is in a frame: headers and checksums |
//! | `filters`, `rss` | which frames are received, and into which queue |
//! | `rings`, `receive`, `transmit` | descriptors, and the frames that they carry |
//! | [`Wire`] (`wire`) | the other end of the cable |
//! | `statistics` | counters |
//! | [`Physical`] (`vf`) | a virtual function's view of the device, and the physical function that it talks to |
//! | [`Random`] (`random`) | what a seed decides |
//!
//! The model is strict: each rule that a driver breaks is kept as a [`Fault`], and the device goes on as the hardware
//! would, or does nothing where that is not known. Time is counted in accesses and in steps, never by a clock, so that the
//! same seed and the same accesses give the same run.

// A device reaches the memory that was mapped for it (`memory`); nothing else is unsafe.
#![deny(unsafe_code)]

mod config;
mod eeprom;
mod fault;
mod filters;
mod function;
mod interrupts;
mod link;
mod memory;
mod model;
mod packet;
mod random;
mod receive;
pub mod registers;
mod rings;
mod rss;
mod sfp;
mod statistics;
#[cfg(test)]
mod tests;
mod transmit;
mod values;
mod vf;
mod wire;

pub use eeprom::Eeprom;
pub use fault::{Fault, Faults};
pub use function::{Card, Function, ModelBar};
pub use interrupts::{Mode, Signals};
pub use memory::{Dma, Mapped, Unreachable};
pub use model::{Model, Settings};
pub use random::Random;
pub use sfp::Module;
pub use vf::{Manner, Physical};
pub use wire::{CableEnd, Wire, cable};
