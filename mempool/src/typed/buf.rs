//! A buffer that is filled bit by bit, for programs that use the crate `bytes`.

use core::fmt;
use core::ops::{Deref, DerefMut, Range};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

use crate::Pooled;

/// A pool's buffer with a filled part: [`BufMut`] adds to its end, [`Buf`] takes from its front, and
/// [`freeze`](Self::freeze) shares it without copying.
///
/// It never grows: what does not fit makes the methods of [`BufMut`] panic, as they say they do, and
/// [`remaining_mut`](BufMut::remaining_mut) tells exactly how much fits. As a slice it is its filled part.
///
/// ```
/// use bytes::{Buf, BufMut, Bytes};
/// use wirerate_mempool::{Pool, PooledBuf};
///
/// let pool = Pool::buffers("messages", 16, 512)?;
/// let mut message = PooledBuf::new(pool.get().expect("16 are free"));
/// message.put_u16(5);
/// message.put_slice(b"hello");
/// assert_eq!(message.remaining_mut(), 505);
///
/// let message: Bytes = message.freeze();
/// let text = message.slice(2..);
/// std::thread::spawn(move || assert_eq!(&text[..], b"hello")).join().expect("it is equal");
/// assert_eq!(pool.counts().in_use, 1);
/// drop(message); // The last one that has it: the buffer goes home.
/// assert_eq!(pool.counts().in_use, 0);
/// # Ok::<(), wirerate_mempool::PoolError>(())
/// ```
#[must_use = "its buffer goes back at once"]
pub struct PooledBuf {
    buffer: Pooled<[u8]>,
    /// In order, and within the buffer.
    filled: Range<usize>,
}

impl PooledBuf {
    /// An empty one, with room for as much as the buffer is long.
    pub fn new(buffer: Pooled<[u8]>) -> Self {
        Self { buffer, filled: 0..0 }
    }

    /// One whose first `len` bytes are filled: what a read into the buffer returned.
    ///
    /// # Panics
    /// If the buffer has fewer bytes.
    pub fn with_filled(buffer: Pooled<[u8]>, len: usize) -> Self {
        assert!(len <= buffer.len(), "{len} bytes filled of a buffer of {}", buffer.len());
        Self { buffer, filled: 0..len }
    }

    /// Bytes of the buffer: filled, taken from the front, and still free.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Forgets what it is filled with: all of the buffer is free again.
    pub fn clear(&mut self) {
        self.filled = 0..0;
    }

    /// Keeps the first `len` bytes of the filled part; does nothing if it has no more.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.filled.end = self.filled.start + len;
        }
    }

    /// The filled part as [`Bytes`], which share the buffer. It goes home when the last of them is dropped,
    /// by whichever thread that is. The one allocation is that of their reference count.
    #[must_use = "its buffer goes back at once"]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The buffer, with all that is in it.
    pub fn into_inner(self) -> Pooled<[u8]> {
        self.buffer
    }
}

impl From<Pooled<[u8]>> for PooledBuf {
    fn from(buffer: Pooled<[u8]>) -> Self {
        Self::new(buffer)
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }
}

impl DerefMut for PooledBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled.clone()]
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for PooledBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for PooledBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuf").field("capacity", &self.capacity()).field("filled", &&**self).finish()
    }
}

impl Buf for PooledBuf {
    #[inline]
    fn remaining(&self) -> usize {
        self.filled.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self
    }

    #[inline]
    fn advance(&mut self, cnt: usize) {
        let available = self.remaining();
        assert!(cnt <= available, "advance by {cnt} bytes, and {available} are filled");
        self.filled.start += cnt;
    }
}

// SAFETY: `chunk_mut` is the free part of the buffer, of `remaining_mut` bytes, and the same one until
// `advance_mut`, which goes no further than its end.
unsafe impl BufMut for PooledBuf {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.buffer.len() - self.filled.end
    }

    #[inline]
    unsafe fn advance_mut(&mut self, cnt: usize) {
        let available = self.remaining_mut();
        assert!(cnt <= available, "advance by {cnt} bytes, and {available} are free");
        self.filled.end += cnt;
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::new(&mut self.buffer[self.filled.end..])
    }
}
