//! The drivers, by DPDK's names. They know nothing of each other; [`registry`](crate::port::registry) opens
//! them by devargs.

pub mod af_packet;
pub mod null;
pub mod pcap;
pub mod ring;
pub mod vhost;
pub mod virtio;
