//! The drivers, by DPDK's names. They know nothing of each other; [`registry`](crate::port::registry) opens
//! them by devargs.

pub mod af_packet;
mod interrupts;
pub mod ixgbe;
pub mod null;
pub mod pcap;
mod reach;
pub mod ring;
pub mod vhost;
pub mod virtio;
