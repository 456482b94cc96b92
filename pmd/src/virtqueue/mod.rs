//! Virtqueues: rings in memory that two sides share (virtio 1.2, 2.6 to 2.8).

pub mod shared_memory;
