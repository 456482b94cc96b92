//! What is at the other end of the cable.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One end of a cable. Frames are without their checksum.
pub trait Wire: Send + fmt::Debug {
    /// A frame goes out.
    fn send(&mut self, frame: Vec<u8>);
    /// The next frame that came in, if any.
    fn receive(&mut self) -> Option<Vec<u8>>;
}

/// Frames that a direction of a cable holds; those after them are lost.
const MOST: usize = 4096;

/// An end of a cable whose other end is in this process, too: of another port's model, or of a test.
#[derive(Debug)]
pub struct CableEnd {
    outward: Arc<Mutex<VecDeque<Vec<u8>>>>,
    inward: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

/// Both ends of a new cable.
#[must_use]
pub fn cable() -> (CableEnd, CableEnd) {
    let (one, other) = (Arc::default(), Arc::default());
    let first = CableEnd { outward: Arc::clone(&one), inward: Arc::clone(&other) };
    (first, CableEnd { outward: other, inward: one })
}

fn lock(queue: &Mutex<VecDeque<Vec<u8>>>) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire for CableEnd {
    fn send(&mut self, frame: Vec<u8>) {
        let mut queue = lock(&self.outward);
        if queue.len() < MOST {
            queue.push_back(frame);
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        lock(&self.inward).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_both_ways_and_too_many_are_lost() {
        let (mut one, mut other) = cable();
        one.send(vec![1]);
        other.send(vec![2]);
        assert_eq!((one.receive(), other.receive()), (Some(vec![2]), Some(vec![1])));
        (0..MOST + 5).for_each(|_| one.send(Vec::new()));
        assert_eq!(std::iter::from_fn(|| other.receive()).count(), MOST);
    }
}
