//! Typed fields that an application adds to its packets.
//!
//! A [`DynLayout`] gives out places in the mbuf's cold cache line; a [`DynField`] is such a place with its
//! type. Any plain-data type is allowed, so a field that is read from a packet on which it was never set
//! gives zeroes or what another layout wrote there, and never a wild value.

use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::header::DYNAMIC_LEN;

/// Gives out the bytes for dynamic fields; an application has one.
#[derive(Debug, Default, Clone)]
pub struct DynLayout {
    used: usize,
}

impl DynLayout {
    /// Bytes that all fields of a layout share.
    pub const CAPACITY: usize = DYNAMIC_LEN;

    /// An empty layout.
    #[must_use]
    pub const fn new() -> Self {
        Self { used: 0 }
    }

    /// Sets a place aside for a `T`, or returns none when less than `size_of::<T>()` bytes are left.
    pub fn field<T: FromBytes + IntoBytes + Immutable>(&mut self) -> Option<DynField<T>> {
        let end = self.used.checked_add(size_of::<T>())?;
        if end > Self::CAPACITY {
            return None;
        }
        let offset = core::mem::replace(&mut self.used, end);
        Some(DynField { offset, value: PhantomData })
    }
}

/// The place of a `T` in every packet's dynamic fields. Use it with
/// [`Mbuf::dynamic`](super::Mbuf::dynamic) and [`Mbuf::set_dynamic`](super::Mbuf::set_dynamic).
#[derive(Debug)]
pub struct DynField<T> {
    offset: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for DynField<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DynField<T> {}

impl<T: FromBytes + IntoBytes + Immutable> DynField<T> {
    pub(super) fn read(self, bytes: &[u8; DYNAMIC_LEN]) -> Option<T> {
        T::read_from_prefix(bytes.get(self.offset..)?).ok().map(|(value, _)| value)
    }

    pub(super) fn write(self, bytes: &mut [u8; DYNAMIC_LEN], value: &T) {
        if let Some(place) = bytes.get_mut(self.offset..self.offset + size_of::<T>()) {
            place.copy_from_slice(value.as_bytes());
        }
    }
}
