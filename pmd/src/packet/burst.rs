//! The unit that everything passes: a fixed array of mbufs.

use core::fmt;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::{Mbuf, MbufPool, Offload};

/// The most packets that a burst can hold (testpmd's own limit for `--burst`).
pub const MAX_BURST: usize = 512;

/// Packets that travel together, at most [`limit`](Self::limit) of them.
///
/// A queue fills a burst up to its limit, or takes packets off its front. Dropping a burst, or calling
/// [`free`](Self::free), puts all its packets home in bulk.
pub struct Burst {
    items: ArrayVec<Mbuf, MAX_BURST>,
    limit: usize,
}

impl Burst {
    /// The usual limit, DPDK's too.
    pub const DEFAULT_LIMIT: usize = 32;

    /// An empty burst for `limit` packets; brought into 1..=[`MAX_BURST`].
    #[inline]
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { items: ArrayVec::new_const(), limit: limit.clamp(1, MAX_BURST) }
    }

    /// The most packets that a queue puts into this burst.
    #[inline]
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Packets that still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.items.len())
    }

    /// Adds a packet at the end, or gives it back when the burst is at its limit.
    ///
    /// # Errors
    /// The packet, when there is no room.
    #[inline]
    pub fn push(&mut self, packet: Mbuf) -> Result<(), Mbuf> {
        if self.room() == 0 {
            return Err(packet);
        }
        self.items.try_push(packet).map_err(|error| error.element())
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.items.pop()
    }

    /// Puts all packets home.
    #[inline]
    pub fn free(&mut self) {
        free_all(&mut self.items);
    }

    /// Puts the first `count` packets home; the rest moves up. All of them when there are fewer.
    #[inline]
    pub fn free_front(&mut self, count: usize) {
        let count = count.min(self.items.len());
        let kept = self.items.len() - count;
        if count == 0 {
            return;
        }
        let items = self.items.as_mut_ptr();
        // SAFETY: the first `count` items are taken out by value, once; the length is 0 meanwhile, so that a
        // panic on the way leaks instead of freeing twice; then the rest, which nobody touched, moves up.
        unsafe {
            self.items.set_len(0);
            free_raw(items, count);
            core::ptr::copy(items.add(count), items, kept);
            self.items.set_len(kept);
        }
    }

    /// Moves the first `count` packets of `from` to the end of this burst, as many as fit, and returns how
    /// many those were.
    #[inline]
    pub fn take_front(&mut self, from: &mut Self, count: usize) -> usize {
        let count = count.min(from.items.len()).min(self.room());
        let (here, left) = (self.items.len(), from.items.len() - count);
        // SAFETY: `count` items move out of `from`'s front into free space of `self` (room() <= capacity -
        // len, because limit <= MAX_BURST), and `from`'s rest moves up; no item is in both after the lengths
        // are set.
        unsafe {
            core::ptr::copy_nonoverlapping(from.items.as_ptr(), self.items.as_mut_ptr().add(here), count);
            let rest = from.items.as_mut_ptr();
            core::ptr::copy(rest.add(count), rest, left);
            self.items.set_len(here + count);
            from.items.set_len(left);
        }
        count
    }

    /// Takes the first `count` packets out one by one; fewer when there are fewer. What the iterator did not give goes
    /// home with it.
    #[inline]
    pub(crate) fn drain_front(&mut self, count: usize) -> impl Iterator<Item = Mbuf> + '_ {
        self.items.drain(..count.min(self.items.len()))
    }

    /// Gives the packets to `take`, first to last, until it gives one back; that and the rest move up. Returns how many it
    /// took.
    #[inline(always)]
    pub(crate) fn give(&mut self, mut take: impl FnMut(Mbuf) -> Result<(), Mbuf>) -> usize {
        let (count, items) = (self.items.len(), self.items.as_mut_ptr());
        let mut given = 0;
        // SAFETY: each packet is moved out by value, once, and written back when it was not taken; the length is 0 meanwhile, so
        // that a panic on the way leaks instead of freeing twice; then the rest, which nobody touched, moves up.
        unsafe {
            self.items.set_len(0);
            while given < count {
                if let Err(packet) = take(items.add(given).read()) {
                    items.add(given).write(packet);
                    break;
                }
                given += 1;
            }
            if given > 0 && given < count {
                core::ptr::copy(items.add(given), items, count - given);
            }
            self.items.set_len(count - given);
        }
        given
    }

    /// Keeps the packets for which `keep` is true, in their order, and puts the others home.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Mbuf) -> bool) {
        self.items.retain(|packet| keep(packet));
    }

    /// Takes the packets out one by one, first to last.
    pub fn drain(&mut self) -> impl Iterator<Item = Mbuf> + '_ {
        self.items.drain(..)
    }

    /// The packets as a batch for a ring.
    #[inline]
    pub fn as_batch(&mut self) -> &mut ArrayVec<Mbuf, MAX_BURST> {
        &mut self.items
    }

    /// Bytes of all packets together.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|packet| packet.len() as u64).sum()
    }

    /// Puts the packets of `front` before those that are here, as many as fit; the rest stays there, at its end.
    pub(crate) fn put_front(&mut self, front: &mut Self) {
        let count = self.take_front(front, front.len());
        self.items.rotate_right(count);
    }

    /// The offload flags of all packets, in one.
    #[inline]
    pub(crate) fn offloads(&self) -> Offload {
        Offload::from_bits_truncate(self.items.iter().fold(0, |flags, packet| flags | packet.header().flags))
    }

    /// Adds up to `count` objects that `get` takes out of a pool in bulk, as empty packets.
    #[inline]
    pub(super) fn fill(&mut self, pool: &MbufPool, count: usize) -> bool {
        let count = count.min(self.room());
        let here = self.items.len();
        // SAFETY: `here + count <= MAX_BURST`; `Mbuf` is a transparent pointer, and the pool writes all
        // `count` places before it returns Ok, so they are mbufs when the length says so. On error nothing
        // was taken and the length stays.
        unsafe {
            let free = self.items.as_mut_ptr().add(here).cast::<MaybeUninit<NonNull<u8>>>();
            let places = core::slice::from_raw_parts_mut(free, count);
            if pool.raw().get_bulk(places).is_err() {
                return false;
            }
            self.items.set_len(here + count);
        }
        for packet in &mut self.items[here..] {
            packet.reset();
        }
        true
    }
}

/// Adds packets to a burst one by one, up to its limit, without a look at its length for each.
pub(crate) struct Filler<'a> {
    items: &'a mut ArrayVec<Mbuf, MAX_BURST>,
    next: *mut Mbuf,
    end: *mut Mbuf,
}

impl Burst {
    /// Packets are added through the filler, and are in the burst when it is dropped.
    #[inline(always)]
    pub(crate) fn filler(&mut self) -> Filler<'_> {
        let (here, room) = (self.items.len(), self.room());
        // SAFETY: the length is within the array, and the limit never above its capacity.
        let next = unsafe { self.items.as_mut_ptr().add(here) };
        // SAFETY: as above.
        let end = unsafe { next.add(room) };
        Filler { items: &mut self.items, next, end }
    }
}

impl Filler<'_> {
    /// Adds a packet, or gives it back when the burst is at its limit.
    #[inline(always)]
    pub(crate) fn push(&mut self, packet: Mbuf) -> Result<(), Mbuf> {
        if self.next == self.end {
            return Err(packet);
        }
        // SAFETY: before the end there is room for a packet, which nobody else writes.
        unsafe {
            self.next.write(packet);
            self.next = self.next.add(1);
        }
        Ok(())
    }
}

impl Drop for Filler<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `next` went on from the first free place only behind packets that were written.
        unsafe {
            let start = self.items.as_mut_ptr();
            let count = self.next.offset_from(start) as usize;
            self.items.set_len(count);
        }
    }
}

/// Puts all items home, in bulk.
#[inline]
fn free_all(items: &mut ArrayVec<Mbuf, MAX_BURST>) {
    let count = items.len();
    // SAFETY: the length is 0 before the items are freed by value, so they are freed once.
    unsafe {
        items.set_len(0);
        free_raw(items.as_mut_ptr(), count);
    }
}

/// Frees `count` mbufs by value: those that are simple and of one pool by a single bulk put, which is all of
/// them in the common case.
///
/// # Safety
/// `items` points to `count` mbufs that the caller owns and does not use again.
#[inline]
unsafe fn free_raw(items: *mut Mbuf, count: usize) {
    let mut start = 0;
    while start < count {
        // SAFETY: `start < count`, and this mbuf was not freed yet.
        let pool = unsafe { &*items.add(start) }.pool_handle();
        let mut end = start;
        while end < count {
            // SAFETY: `end < count`, and this mbuf was not freed yet.
            let packet = unsafe { &*items.add(end) };
            if !packet.is_simple() || packet.pool_handle() != pool {
                break;
            }
            end += 1;
        }
        if end > start {
            // SAFETY: an `Mbuf` is a transparent pointer to its object; these are simple, in use and of this
            // pool, and the caller gives them up.
            unsafe {
                let objects = items.add(start).cast::<NonNull<u8>>();
                pool.put_bulk(core::slice::from_raw_parts(objects, end - start));
            }
            start = end;
        } else {
            // SAFETY: the caller gives up this mbuf; its own drop frees chains, clones and attachments.
            unsafe { core::ptr::drop_in_place(items.add(start)) };
            start += 1;
        }
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LIMIT)
    }
}

impl Drop for Burst {
    #[inline]
    fn drop(&mut self) {
        self.free();
    }
}

impl Deref for Burst {
    type Target = [Mbuf];

    #[inline]
    fn deref(&self) -> &[Mbuf] {
        &self.items
    }
}

impl DerefMut for Burst {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        &mut self.items
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Mbuf;
    type IntoIter = core::slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Mbuf;
    type IntoIter = core::slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter_mut()
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Burst({} of {})", self.items.len(), self.limit)
    }
}
