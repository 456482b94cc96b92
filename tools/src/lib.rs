//! What the `wirerate` program shares with other programs of this repository that measure: two sides that take
//! turns, and what comes of it.
#![forbid(unsafe_code)]

pub mod paired;
