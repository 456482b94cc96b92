//! What the `wirerate` program shares with other programs of this repository that measure: two sides that
//! take turns, and what comes of it; and the contests of pools and of rings, whose loops need `unsafe`, as
//! pools that hand out bare addresses do.

pub mod contest;
pub mod paired;
