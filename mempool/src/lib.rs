//! Fixed-size objects, got and put back in bulk by any thread, and a bulk ring.
//!
//! - [`RawPool`] hands out untyped objects from memory that the caller brings ([`Memory`]).
//! - [`Pool<T>`] is the same for values of one type, which come home on drop ([`Pooled`]), and, as
//!   `Pool<[u8]>`, for byte buffers of a length chosen at run time ([`Pool::buffers`]).
//! - [`device`] hands them to devices: what a device has cannot be touched ([`OnDevice`]).
//! - [`RawCache`] is a cache that belongs to a value, not to a thread; [`RawPool::elastic`] makes a pool whose
//!   memory can go and come back.
//! - [`ring`] moves values between threads, in bulk.
//! - [`PoolSize`] computes how many objects a pool needs, and explains the sum.
//!
//! Each thread has a cache of two *magazines*, arrays of free objects; a full or an empty magazine changes
//! hands with the pool's *depot* by one compare-and-swap (Bonwick and Adams, "Magazines and Vmem", USENIX
//! 2001). While its cache serves it, a thread writes nothing that another thread reads in a loop, takes no
//! lock and executes no atomic read-modify-write instruction. A pool is exhausted only when no object is free
//! anywhere: what lies idle in the caches of other threads is reclaimed first.
//!
//! ```
//! use wirerate_mempool::Pool;
//!
//! let pool = Pool::on_heap(1024, || [0u8; 2048])?;
//! let mut buffer = pool.get().expect("1,024 are free");
//! buffer[0] = 1;
//! assert_eq!(pool.counts().in_use, 1);
//! drop(buffer);
//! assert_eq!(pool.counts().in_use, 0);
//! # Ok::<(), wirerate_mempool::PoolError>(())
//! ```
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod barrier;
mod batch;
mod copy;
mod debug;
mod depot;
pub mod device;
mod error;
mod magazine;
pub mod memory;
mod placement;
mod pool;
#[cfg(all(feature = "psi", target_os = "linux"))]
pub mod pressure;
pub mod ring;
mod sizing;
mod slot;
mod sync;
mod thread;
mod typed;

pub use batch::Batch;
pub use debug::{LeakPlace, LeakReport};
pub use device::OnDevice;
pub use error::{AuditError, Exhausted, MemoryError, PoolError};
#[cfg(all(feature = "std", target_os = "linux"))]
pub use memory::MmapMemory;
pub use memory::{HeapMemory, Memory};
pub use pool::{Counts, ObjectInfo, Outstanding, PoolConfig, RawCache, RawHandle, RawPool, Shrunk};
pub use sizing::{PoolSize, PortQueues, TooSmall, Workers};
#[cfg(feature = "bytes")]
pub use typed::PooledBuf;
pub use typed::{Pool, Poolable, Pooled};

/// The README's example, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
