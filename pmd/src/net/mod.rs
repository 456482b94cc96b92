//! What is inside a packet: addresses, headers and checksums. No `unsafe` here.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod headers;
mod mac;
pub mod transport;

pub use mac::{MacAddress, ParseMacError};
