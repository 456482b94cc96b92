//! The untyped pool.
//!
//! `core` has what a pool is made of and the way of a get and a put; `cache` is a cache without a thread;
//! `reclaim` finds objects in the slots of others; `lifetime` ends a pool when its last handle and its last
//! object are gone; `audit` looks at a pool as a whole.

mod audit;
mod cache;
mod config;
mod core;
mod handle;
mod lifetime;
#[cfg(all(test, loom))]
mod models;
mod notes;
mod reclaim;

pub use audit::Outstanding;
pub use cache::RawCache;
pub use config::PoolConfig;
pub use core::Counts;
pub use handle::{ObjectInfo, RawHandle, RawPool};
