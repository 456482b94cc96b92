//! What is inside a packet: addresses, headers and checksums, and what can be done in software where a device does
//! not do it. No `unsafe` here.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod complete;
pub mod gso;
pub mod headers;
mod mac;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;

pub use mac::{MacAddress, ParseMacError};
