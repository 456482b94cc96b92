//! End-to-end tests of Wirerate: what they share.
//!
//! The tests themselves are in `tests/end_to_end`. They run the bundled programs as a user does, on files, on
//! network namespaces of their own, for Linux guests under QEMU, and beside DPDK. What a machine lacks makes the tests that need it report
//! themselves ignored, with the reason ([`needs`]); with `WIRERATE_REQUIRE=all` it makes them fail.
//!
//! Whatever a test makes outside of its process has a name with the process's id and goes away with a guard;
//! what a killed run left behind is removed by the next ([`scratch::remove_leftovers`]).

#![forbid(unsafe_code)]

pub mod capture;
pub mod cgroup;
pub mod dpdk;
pub mod exclusive;
pub mod frames;
pub mod guest;
pub mod hugepages;
pub mod namespace;
pub mod needs;
pub mod network;
pub mod nic_server;
pub mod output;
pub mod program;
pub mod repository;
pub mod scratch;
pub mod transfer;
pub mod wait;
