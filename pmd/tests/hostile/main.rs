//! Hostile peers at the socket of a port: whatever a driver or a device does, the port says so by an error or a counter, its
//! link goes down at worst, ports beside it go on without a loss, nothing leaks, and the next peer finds it as it was.
//!
//! The peers here speak vhost-user by code of their own ([`peer`], [`rings`]), so that they can say what ours would not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod from_device;
mod from_driver;
mod into_driver;
mod peer;
mod protocol;
mod racing;
mod rings;
mod target;
