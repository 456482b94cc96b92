//! Drivers of virtio-net devices.

pub(crate) mod reach;
pub(crate) mod rx;
pub(crate) mod tx;
