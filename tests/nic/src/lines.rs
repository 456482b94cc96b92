//! Where a card's interrupts go: events of whoever drives it, with masks.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::interrupts::Signals;

/// The ends of a card's interrupts. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
pub(crate) struct Ends {
    vectors: Vec<Vector>,
    line: Option<OwnedFd>,
    /// The device asks for INTx.
    up: bool,
    /// It was told of, and is not again until it is unmasked.
    masked: bool,
}

/// A message's end.
#[derive(Debug, Default)]
struct Vector {
    event: Option<OwnedFd>,
    masked: bool,
    /// A message came that could not be told.
    pending: bool,
}

impl Vector {
    fn tell(&mut self) {
        if let (true, false, Some(event)) = (self.pending, self.masked, &self.event) {
            tell(event);
            self.pending = false;
        }
    }
}

impl Lines {
    /// The ends, which do not change while this is held. What another thread left after a panic is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    /// Messages and the line have nobody to be told any more.
    pub(crate) fn clear(&mut self) {
        let up = self.up;
        *self = Self { up, ..Self::default() };
    }

    /// Messages from vector `first` on are told by these events; where there is none they wait for one.
    pub(crate) fn set_vectors(&mut self, first: usize, events: impl IntoIterator<Item = Option<OwnedFd>>) {
        for (at, event) in (first..).zip(events) {
            if at >= self.vectors.len() {
                self.vectors.resize_with(at + 1, Vector::default);
            }
            let vector = &mut self.vectors[at];
            vector.event = event;
            vector.tell();
        }
    }

    /// Messages of a vector wait while it is masked.
    pub(crate) fn mask_vector(&mut self, at: usize, masked: bool) {
        if let Some(vector) = self.vectors.get_mut(at) {
            vector.masked = masked;
            vector.tell();
        }
    }

    /// INTx is told by this event from now on, and is not masked.
    pub(crate) fn set_line(&mut self, event: Option<OwnedFd>) {
        self.line = event;
        self.mask_line(false);
    }

    /// Masks INTx, which being told does too; or tells of it again, if it is up.
    pub(crate) fn mask_line(&mut self, masked: bool) {
        self.masked = masked;
        self.tell_line();
    }

    pub(crate) fn line(&self) -> Option<&OwnedFd> {
        self.line.as_ref()
    }

    fn tell_line(&mut self) {
        if let (true, false, Some(line)) = (self.up, self.masked, &self.line) {
            self.masked = true;
            tell(line);
        }
    }
}

fn tell(event: &OwnedFd) {
    // It fails only when nobody has read for 2^64 events, and it is readable then.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

impl Signals for Lines {
    fn message(&mut self, vector: u16) {
        if let Some(vector) = self.lock().vectors.get_mut(usize::from(vector)) {
            vector.pending = true;
            vector.tell();
        }
    }

    fn line(&mut self, up: bool) {
        let mut ends = self.lock();
        ends.up = up;
        ends.tell_line();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn event() -> (OwnedFd, Option<OwnedFd>) {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let other = event.try_clone().unwrap();
        (event, Some(other))
    }

    fn told(event: &OwnedFd) -> bool {
        rustix::io::read(event, &mut [0; 8]).is_ok()
    }

    #[test]
    fn a_message_waits_for_its_mask_and_its_event() {
        let mut lines = Lines::default();
        let (event, other) = event();
        lines.message(1);
        lines.lock().set_vectors(1, [other]);
        assert!(!told(&event), "there was no such vector yet");
        lines.message(1);
        assert!(told(&event));
        lines.lock().mask_vector(1, true);
        lines.message(1);
        lines.message(0);
        assert!(!told(&event));
        lines.lock().mask_vector(1, false);
        assert!(told(&event));
        lines.lock().set_vectors(1, [None]);
        lines.message(1);
        let (again, other) = self::event();
        lines.lock().set_vectors(1, [other]);
        assert!(told(&again) && !told(&event));
        lines.lock().clear();
        lines.message(1);
        assert!(!told(&again));
    }

    #[test]
    fn the_line_is_told_once_until_it_is_unmasked() {
        let mut lines = Lines::default();
        let (event, other) = event();
        lines.line(true);
        lines.lock().set_line(other);
        assert!(told(&event));
        lines.line(false);
        lines.line(true);
        assert!(!told(&event));
        lines.lock().mask_line(false);
        assert!(told(&event));
        lines.line(false);
        lines.lock().mask_line(false);
        assert!(!told(&event));
    }
}
