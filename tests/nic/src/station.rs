//! Somebody at the other end of the cable who sends frames by a list and keeps what comes: a generator, or a file that is
//! played back and recorded.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use super::wire::Wire;

/// What a station has got. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Inbox(Arc<Mutex<Vec<Vec<u8>>>>);

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all frames that have come, the first first.
    #[must_use]
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lock())
    }
}

/// A station that sends the frames of an iterator, some at a time, as a seed says.
pub struct Station<I> {
    frames: I,
    random: Random,
    /// Frames that come at a time, at most, and how many of these are left.
    most: usize,
    left: usize,
    inbox: Inbox,
}

impl<I> fmt::Debug for Station<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Station").field("most", &self.most).field("left", &self.left).finish_non_exhaustive()
    }
}

impl<I: Iterator<Item = Vec<u8>> + Send> Station<I> {
    /// One that sends `frames`, up to `most` at a time, which is in a step of the model.
    #[must_use]
    pub fn new(seed: u64, frames: I, most: usize) -> Self {
        Self { frames, random: Random::new(seed), most, left: 0, inbox: Inbox::default() }
    }

    /// What it gets.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }
}

impl<I: Iterator<Item = Vec<u8>> + Send> Wire for Station<I> {
    fn send(&mut self, frame: Vec<u8>) {
        self.inbox.lock().push(frame);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        if self.left == 0 {
            self.left = 1 + self.random.below(self.most + 1);
        }
        self.left -= 1;
        if self.left == 0 { None } else { self.frames.next() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Flows;
    use super::*;

    #[test]
    fn frames_come_some_at_a_time_and_what_is_sent_is_kept() {
        let mut station = Station::new(5, Flows::new(1, 4).take(100), 3);
        let mut all = Vec::new();
        for _ in 0..200 {
            let some: Vec<_> = std::iter::from_fn(|| station.receive()).collect();
            assert!(some.len() <= 3);
            all.extend(some);
        }
        assert!(all.into_iter().eq(Flows::new(1, 4).take(100)));
        let inbox = station.inbox();
        (0..3).for_each(|at| station.send(vec![at]));
        assert_eq!((inbox.take(), inbox.take()), (vec![vec![0], vec![1], vec![2]], Vec::new()));
    }
}
