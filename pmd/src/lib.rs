//! Packets, ports, pipelines and poll-mode drivers.
//!
//! The way of a packet is straight: a driver fills a [`Burst`] of [`Mbuf`]s from its receive ring, the
//! application's [`pipeline`] works on it, another driver drains it, and what is left drops home to its pool
//! in bulk.
//!
//! | room | what is in it |
//! |---|---|
//! | [`packet`] | what travels: the mbuf, its pool, the burst |
//! | [`port`] | what it travels through: ports, queues, counters, devargs, the registry of drivers |
//! | [`net`] | what is inside it: headers, checksums, segmentation in software, without `unsafe` |
//! | [`pipeline`] | what is done with it: stages over bursts, on one lcore or cut over several |
//! | [`virtqueue`] | the rings of virtio devices, split and packed, both sides |
//! | [`vhost_user`] | how two processes agree on such rings, over a unix socket |
//! | [`drivers`] | the drivers, by DPDK's names |
//!
//! The smallest program that forwards is `examples/forward.rs`.

pub mod drivers;
mod lane;
pub mod net;
pub mod packet;
pub mod pipeline;
pub mod port;
pub mod vhost_user;
pub mod virtqueue;

pub use packet::{Burst, Mbuf, MbufPool, MbufPoolConfig};
pub use port::{Port, PortConfig, RxQueue, TxQueue};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
