//! The untyped pool.
//!
//! `core` has what a pool is made of and the way of a get and a put; `reclaim` finds objects in other
//! threads' slots; `lifetime` ends a pool when its last handle and its last object are gone; `audit` looks at
//! a pool as a whole.

mod audit;
mod config;
mod core;
mod handle;
mod lifetime;
#[cfg(all(test, loom))]
mod models;
mod notes;
mod reclaim;

pub use audit::Outstanding;
pub use config::PoolConfig;
pub use core::Counts;
pub use handle::{ObjectInfo, RawHandle, RawPool};
