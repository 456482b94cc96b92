//! Virtio-net devices for others to drive.

pub(crate) mod rx;
pub(crate) mod tx;
