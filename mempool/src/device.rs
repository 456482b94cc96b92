//! Memory on its way to a device and back: who owns a buffer, processor or device, is its type.
//!
//! A buffer that a device may read or write must not be touched, and must not go back to its pool, until the
//! device is done with it. [`Pooled::into_device`] moves it out of reach; what remains, an [`OnDevice`], tells
//! addresses and nothing else; and [`OnDevice::reclaim`], where the caller vouches that the device is done,
//! moves it back. A driver whose objects are its own types (as mbufs are) has the same two steps as
//! [`hand_over`] and [`take_back`], and addresses from [`RawPool::device_address`].
//!
//! "Device" is whoever accesses memory behind the compiler's back: a network card, or a kernel that carries
//! out I/O after the call that asked for it (`io_uring`; see the example `copy_file`).
//!
//! # Ordering
//! The memory is coherent: devices snoop the caches, as on every x86 machine and on the aarch64 servers that
//! PCI cards are put into; nothing has to be flushed. What remains is order.
//!
//! - On the way out, all loads and stores of the buffer come before the store that shows it to the device (a
//!   descriptor, a tail index, a doorbell), which follows [`hand_over`]. A load counts as well: the device
//!   may write as soon as it sees the descriptor.
//! - On the way back, all loads and stores of the buffer come after the load that saw the device's completion
//!   (a flag in a descriptor, a used index), which came before [`take_back`].
//!
//! On x86 the processor keeps this order in memory that is cached by itself (stores neither pass earlier
//! stores nor earlier loads, loads do not pass earlier loads), so that only the compiler must be held; Linux
//! has `barrier()` for its `dma_wmb` and `dma_rmb` there, too. On aarch64 it does not, and a Rust fence
//! (`dmb ish`) orders for the processors' inner shareable domain only, in which a device need not be: it takes
//! `dmb osh` on the way out (Linux's `dma_wmb`, `dmb oshst`, would let loads pass) and `dmb oshld` on the way
//! back. On others a full fence is the best that there is.
//!
//! The order between a descriptor and the doorbell that is rung after it is the driver's.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::typed::Poolable;
use crate::{Pooled, RawHandle, RawPool};

/// To be called after the last access to memory that a device is to have, and before it is told.
#[inline(always)]
pub fn hand_over() {
    #[cfg(target_arch = "x86_64")]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier; without `nomem` the compiler keeps all accesses on their side, too.
    unsafe {
        core::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// To be called after a device has told that it is done with some memory, and before the first access to it.
#[inline(always)]
pub fn take_back() {
    #[cfg(target_arch = "x86_64")]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier; without `nomem` the compiler keeps all accesses on their side, too.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

impl RawPool {
    /// The address by which a device reaches the byte at `address`, by what the pool's memory says
    /// ([`Memory::device_address`](crate::Memory::device_address)); an object goes on from there to its end.
    /// None if no device can, or it is not in the pool's memory.
    ///
    /// It looks through the pieces of memory: a driver that needs it for each packet keeps it in the object,
    /// from [`ObjectInfo`](crate::ObjectInfo).
    #[must_use]
    pub fn device_address(&self, address: NonNull<u8>) -> Option<u64> {
        let address = address.as_ptr() as usize;
        self.memories().find_map(|piece| {
            let offset = address.checked_sub(piece.base().as_ptr() as usize)?;
            if offset < piece.len() { piece.device_address(offset) } else { None }
        })
    }
}

impl<T: ?Sized + Send> Pooled<T> {
    /// Gives the value to a device. It cannot be touched until it is [reclaimed](OnDevice::reclaim).
    ///
    /// ```
    /// use wirerate_mempool::Pool;
    ///
    /// let pool = Pool::buffers("received", 64, 2048)?;
    /// let buffer = pool.get().expect("64 are free").into_device();
    /// // A driver puts `pool.device_address(&buffer)` and `buffer.len()` into a descriptor here, keeps the
    /// // buffer by the descriptor's number, and waits until the device says that it has filled it.
    /// assert_eq!((pool.device_address(&buffer), buffer.len()), (None, 2048), "no device reaches the heap");
    /// // SAFETY: no device was told of it.
    /// let buffer = unsafe { buffer.reclaim() };
    /// assert_eq!(buffer[0], 0);
    /// # Ok::<(), wirerate_mempool::PoolError>(())
    /// ```
    ///
    /// What is on the device has no bytes to read:
    ///
    /// ```compile_fail,E0608
    /// # let pool = wirerate_mempool::Pool::buffers("received", 64, 2048).unwrap();
    /// let on_device = pool.get().unwrap().into_device();
    /// let first = on_device[0];
    /// ```
    ///
    /// nor can the buffer be used by its old name:
    ///
    /// ```compile_fail,E0382
    /// # let pool = wirerate_mempool::Pool::buffers("received", 64, 2048).unwrap();
    /// let mut buffer = pool.get().unwrap();
    /// let on_device = buffer.into_device();
    /// buffer[0] = 1;
    /// ```
    ///
    /// nor can it be taken back without vouching for the device:
    ///
    /// ```compile_fail,E0133
    /// # let pool = wirerate_mempool::Pool::buffers("received", 64, 2048).unwrap();
    /// let buffer = pool.get().unwrap().into_device().reclaim();
    /// ```
    #[inline]
    pub fn into_device(self) -> OnDevice<T> {
        hand_over();
        let this = ManuallyDrop::new(self);
        OnDevice { value: this.value, pool: this.pool }
    }
}

/// A value of a pool that a device has: nobody else may touch it, and it is not put back on drop.
///
/// To drop it while the device may still write to it loses the value, and loses it safely: it stays in use for
/// ever, so that it is never handed out again, and its pool's memory is never freed. Such a loss is seen in
/// the pool's [`counts`](crate::Pool::counts), and [`outstanding`](crate::Pool::outstanding) names the value,
/// in debug builds with the place where it was got.
#[must_use = "it is lost to its pool unless it is reclaimed"]
pub struct OnDevice<T: ?Sized + Send> {
    value: NonNull<T>,
    pool: RawHandle,
}

// SAFETY: as a `Pooled` it may go to another thread, and be put back there.
unsafe impl<T: ?Sized + Send> Send for OnDevice<T> {}
// SAFETY: a shared reference tells the address and the length, and gives no access to the value.
unsafe impl<T: ?Sized + Send> Sync for OnDevice<T> {}

impl<T: ?Sized + Send> OnDevice<T> {
    /// Takes the value back.
    ///
    /// # Safety
    /// - No device reads or writes it any more, nor will: it has said that it is done, or was reset.
    /// - What the device has left there is a value of type `T`. For bytes and other plain figures it always
    ///   is; a value with pointers in it must not have been written to.
    #[inline]
    pub unsafe fn reclaim(self) -> Pooled<T> {
        take_back();
        Pooled { value: self.value, pool: self.pool }
    }

    /// The address in this process, for the kernel as a device. For an address that a card understands, see
    /// [`Pool::device_address`](crate::Pool::device_address).
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.object().as_ptr()
    }

    #[inline]
    pub(crate) fn object(&self) -> NonNull<u8> {
        self.value.cast()
    }
}

impl<T: Poolable + ?Sized> OnDevice<T> {
    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        T::bytes(self.value)
    }

    /// Whether it has no byte at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Poolable + ?Sized> fmt::Debug for OnDevice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDevice").field("at", &self.as_ptr()).field("len", &self.len()).finish()
    }
}
