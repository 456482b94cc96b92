//! What the bundled programs share: how they start and end, what they report, and the traffic that they make
//! themselves. The programs are in `src/bin`, short, and meant to be read as examples.
#![forbid(unsafe_code)]

pub mod demo;
pub mod engines;
pub mod program;
pub mod report;
pub mod sizing;
pub mod traffic;
pub mod work;
