//! A value of a pool, while it is in use.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::RawHandle;

/// A value of a pool, which goes back on drop, and may outlive the pool's handles.
///
/// It is two words long for a type with a size, and three for a `[u8]`.
#[must_use = "it goes back at once"]
pub struct Pooled<T: ?Sized + Send> {
    pub(crate) value: NonNull<T>,
    pub(crate) pool: RawHandle,
}

// SAFETY: it owns its value as a box does; to put it back is safe from any thread.
unsafe impl<T: ?Sized + Send> Send for Pooled<T> {}
// SAFETY: a shared reference gives a shared reference to the value and nothing else.
unsafe impl<T: ?Sized + Send + Sync> Sync for Pooled<T> {}

impl<T: ?Sized + Send> Deref for Pooled<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value was made with the pool, which lives while this object is in use, and is this
        // one's own.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized + Send> DerefMut for Pooled<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.value.as_mut() }
    }
}

impl<T: ?Sized + Send> AsRef<T> for Pooled<T> {
    #[inline]
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized + Send> AsMut<T> for Pooled<T> {
    #[inline]
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + Send> Drop for Pooled<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the object was got from this pool, and nobody uses it after this.
        unsafe { self.pool.put(self.value.cast()) };
    }
}

impl<T: ?Sized + Send + fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

const _: () = assert!(size_of::<Pooled<u8>>() == 2 * size_of::<usize>(), "no word more than it needs");
