//! A model of Intel's 82599 10 GbE controller at the level of its registers, after its datasheet (331520), for drivers
//! to be run against. It knows no driver.
//!
//! | file | |
//! |---|---|
//! | [`registers`] | which registers there are, and what may be done with each |
//! | [`Model`] (`model`), `values` | the device: its registers, read and written, and what they keep |
//! | [`Fault`] (`fault`) | what a driver did that it may not do |
//! | [`Eeprom`] (`eeprom`), [`Module`] (`sfp`) | the board: its EEPROM, and the module in its cage |
//! | `interrupts`, `lines` | causes, masks, vectors; whom they tell |
//! | `link` | when the link is up |
//! | [`Card`], [`Function`] (`function`), `slot`, `config` | the model as a PCI function, for this process and for others; its configuration space |
//! | [`Dma`], [`Mapped`] (`memory`) | the memory that it reaches |
//! | `packet` | what is in a frame: headers and checksums |
//! | `filters`, `classify`, `rss` | which frames are received, and into which queue |
//! | `flow` | flow control |
//! | `offload` | what is done with frames that are sent |
//! | `rings`, `receive`, `transmit` | descriptors, and the frames that they carry |
//! | [`Wire`] (`wire`), [`Station`] (`station`), [`traffic`] | the other end of the cable, somebody there, and frames |
//! | `statistics` | counters |
//! | [`Physical`] (`vf`) | a virtual function's view of the device, and the physical function that it talks to |
//! | [`Troubles`] (`trouble`) | what goes wrong with the device |
//! | [`Random`] (`random`) | what a seed decides |
//!
//! It has not: headers apart (packet split), coalesced segments (RSC), fragments' checksums, flow director and five-tuple
//! filters, traffic classes, pools of the physical function, two tags, LinkSec, IPsec, FCoE, time stamps, low-latency
//! interrupts, and wake-up. What of that would change a packet or its queue is a fault when a driver asks for it; the rest is
//! kept in its registers.
//!
//! The model is strict: each rule that a driver breaks is kept as a [`Fault`], and the device goes on as the hardware
//! would, or does nothing where that is not known. Time is counted in accesses and in steps, never by a clock, so that the
//! same seed and the same accesses give the same run.

// A device reaches the memory that was mapped for it (`memory`); nothing else is unsafe.
#![deny(unsafe_code)]

mod classify;
mod config;
mod eeprom;
mod fault;
mod filters;
mod flow;
mod function;
mod interrupts;
mod lines;
mod link;
mod memory;
mod model;
mod offload;
mod packet;
mod random;
mod receive;
pub mod registers;
mod rings;
mod rss;
mod sfp;
mod slot;
mod station;
mod statistics;
#[cfg(test)]
mod tests;
pub mod traffic;
mod transmit;
mod trouble;
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
pub use station::{Inbox, Station};
pub use trouble::{Semaphore, Tally, Troubles};
pub use vf::{Manner, Physical};
pub use wire::{CableEnd, Wire, cable};
