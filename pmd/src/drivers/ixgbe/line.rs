//! What the device has of ours, in the order in which it got it: each value at the place of its descriptor.

use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};

/// Values first in, first out, at places that go round like a ring's descriptors. One place always stays empty, as in the
/// ring: a full one would look like an empty one there.
pub(super) struct Line<T> {
    slots: Box<[MaybeUninit<T>]>,
    /// The place of the oldest.
    first: u16,
    /// The places from `first` on, around the end, that have a value. Below the number of slots.
    len: u16,
}

impl<T> Line<T> {
    /// An empty one for a ring of `size` descriptors.
    pub(super) fn new(size: u16) -> Self {
        Self { slots: Box::new_uninit_slice(size.into()), first: 0, len: 0 }
    }

    /// Places.
    #[inline(always)]
    pub(super) fn size(&self) -> u16 {
        // Made of 16 bits.
        self.slots.len() as u16
    }

    /// Values.
    #[inline(always)]
    pub(super) fn len(&self) -> u16 {
        self.len
    }

    /// Values that find room.
    #[inline(always)]
    pub(super) fn room(&self) -> u16 {
        self.size().saturating_sub(1 + self.len)
    }

    /// The place of the oldest value, or of the next when there is none.
    #[inline(always)]
    pub(super) fn first(&self) -> u16 {
        self.first
    }

    /// The place of the next value.
    #[inline(always)]
    pub(super) fn end(&self) -> u16 {
        let end = usize::from(self.first) + usize::from(self.len);
        (if end >= self.slots.len() { end - self.slots.len() } else { end }) as u16
    }

    /// The oldest value.
    #[inline(always)]
    pub(super) fn oldest(&self) -> Option<&T> {
        let slot = self.slots.get(usize::from(self.first)).filter(|_| self.len > 0)?;
        // SAFETY: there is a value, and that is where the oldest is.
        Some(unsafe { slot.assume_init_ref() })
    }

    /// How many values there are up to the one at `place`, that one included; none if it has none.
    #[inline(always)]
    pub(super) fn up_to(&self, place: u16) -> Option<u16> {
        let before =
            if place >= self.first { place - self.first } else { place + (self.size() - self.first) };
        (place < self.size() && before < self.len).then(|| before + 1)
    }

    /// Values are added through it; they are in the line when it is dropped.
    #[inline(always)]
    pub(super) fn filler(&mut self) -> LineFiller<'_, T> {
        LineFiller { place: self.end(), room: self.room(), line: self }
    }

    /// Takes values off the front, `most` at most: `ask` says of each, by its place, whether it comes and with what, and
    /// `each` gets it.
    #[inline(always)]
    pub(super) fn take<A>(
        &mut self,
        most: usize,
        mut ask: impl FnMut(u16) -> Option<A>,
        mut each: impl FnMut(T, A),
    ) {
        let mut taker = Taker { first: self.first, left: self.len, line: self };
        for _ in 0..most.min(taker.left.into()) {
            let Some(answer) = ask(taker.first) else { break };
            each(taker.next(), answer);
        }
    }

    /// Takes `count` values off the front, or all if there are fewer, in up to two pieces. Who does not take them out of a
    /// piece leaks them.
    #[inline(always)]
    pub(super) fn take_pieces(&mut self, count: u16, mut each: impl FnMut(&mut [ManuallyDrop<T>])) {
        let mut left = count.min(self.len);
        while left > 0 {
            let piece = left.min(self.size() - self.first);
            let start = usize::from(self.first);
            self.first = if self.first + piece >= self.size() { 0 } else { self.first + piece };
            (self.len, left) = (self.len - piece, left - piece);
            if let Some(values) = self.slots.get_mut(start..start + usize::from(piece)) {
                let values: *mut [MaybeUninit<T>] = values;
                // SAFETY: the places from `first` on, `len` of them, have values, and these were `piece` of those that do not
                // go around the end. They are not the line's any more, so it does not use them again.
                each(unsafe { &mut *(values as *mut [ManuallyDrop<T>]) });
            }
        }
    }
}

/// Takes values off the front, and says so to the line at last.
struct Taker<'a, T> {
    first: u16,
    left: u16,
    line: &'a mut Line<T>,
}

impl<T> Taker<'_, T> {
    /// The oldest value; there has to be one, or the result is not defined: only called while `left` is not 0.
    #[inline(always)]
    fn next(&mut self) -> T {
        debug_assert!(self.left > 0);
        // SAFETY: `take` calls this no more often than there are values, whose places are below the number of slots. The line
        // is told of that when the taker is dropped, also by a panic, so that the value is read once.
        let value = unsafe { self.line.slots.get_unchecked(usize::from(self.first)).assume_init_read() };
        self.first = if self.first + 1 >= self.line.size() { 0 } else { self.first + 1 };
        self.left -= 1;
        value
    }
}

impl<T> Drop for Taker<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        (self.line.first, self.line.len) = (self.first, self.left);
    }
}

/// Adds values to a line.
pub(super) struct LineFiller<'a, T> {
    place: u16,
    room: u16,
    line: &'a mut Line<T>,
}

impl<T> LineFiller<'_, T> {
    /// Values that still find room.
    #[inline(always)]
    pub(super) fn room(&self) -> u16 {
        self.room
    }

    /// The place of the next value.
    #[inline(always)]
    pub(super) fn place(&self) -> u16 {
        self.place
    }

    /// Adds a value at [`place`](Self::place), or gives it back when there is no room.
    #[inline(always)]
    pub(super) fn push(&mut self, value: T) -> Result<(), T> {
        if self.room == 0 {
            return Err(value);
        }
        let Some(slot) = self.line.slots.get_mut(usize::from(self.place)) else { return Err(value) };
        slot.write(value);
        self.place = if self.place + 1 >= self.line.size() { 0 } else { self.place + 1 };
        self.room -= 1;
        Ok(())
    }
}

impl<T> Drop for LineFiller<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.line.len = self.line.size() - 1 - self.room;
    }
}

impl<T> Drop for Line<T> {
    fn drop(&mut self) {
        self.take(usize::MAX, |_| Some(()), |value, ()| drop(value));
    }
}

impl<T> fmt::Debug for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} of {} from {})", self.len, self.slots.len(), self.first)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::rc::Rc;

    use super::*;

    fn fill(line: &mut Line<Rc<usize>>, values: &[Rc<usize>]) -> usize {
        let mut filler = line.filler();
        values.iter().take_while(|value| filler.push(Rc::clone(value)).is_ok()).count()
    }

    #[test]
    fn values_go_round_and_come_out_in_their_order_and_none_is_lost() {
        let values: Vec<Rc<usize>> = (0..64).map(Rc::new).collect();
        let mut line = Line::new(8);
        let (mut entered, mut left) = (0, 0);
        for round in 0..40 {
            let here = entered % 64;
            let most = (1 + round % 5).min(64 - here);
            entered += fill(&mut line, &values[here..here + most]);
            assert_eq!(usize::from(line.len()), entered - left);
            assert_eq!((usize::from(line.first), usize::from(line.end())), (left % 8, entered % 8));
            assert_eq!(line.room(), 7 - line.len());
            if round % 3 == 0 {
                let mut places = Vec::new();
                let stop = usize::from(line.len()) / 2;
                line.take(
                    100,
                    |place| (places.len() < stop).then(|| places.push(place)),
                    |value, ()| {
                        assert_eq!(*value, left % 64);
                        left += 1;
                    },
                );
            } else {
                let count = 1 + round as u16 % 4;
                line.take_pieces(count, |piece| {
                    for value in piece {
                        // SAFETY: it is taken out once.
                        assert_eq!(*unsafe { ManuallyDrop::take(value) }, left % 64);
                        left += 1;
                    }
                });
            }
        }
        assert!(entered > 64 && line.len() > 0);
        drop(line);
        assert!(values.iter().all(|value| Rc::strong_count(value) == 1));
    }

    #[test]
    fn a_full_line_takes_nothing_and_a_panic_drops_nothing_twice() {
        let value = Rc::new(7);
        let mut line = Line::new(4);
        assert_eq!(fill(&mut line, &vec![Rc::clone(&value); 4]), 3);
        assert_eq!([0, 1, 2, 3, 9].map(|place| line.up_to(place)), [Some(1), Some(2), Some(3), None, None]);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            line.take(3, Some, |_, place| assert!(place == 0));
        }));
        assert!(panicked.is_err());
        assert_eq!((line.len(), line.first, Rc::strong_count(&value)), (1, 2, 2));
        drop(line);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
