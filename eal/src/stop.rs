//! The request to end: one flag that every lcore polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How late a waiting thread may notice a flag that a signal handler set, which can wake nobody.
const LOOK: Duration = Duration::from_millis(10);

/// A request to end, shared by the threads of an [`Eal`](crate::Eal). Clones are the same token.
///
/// Polling costs one ordinary load. The token orders nothing else: what a thread did before its request is
/// handed over by joining it.
#[derive(Debug, Clone, Default)]
pub struct StopToken {
    flag: Arc<AtomicBool>,
}

impl StopToken {
    /// A token of its own, not yet requested.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the end was requested.
    #[inline]
    #[must_use]
    pub fn requested(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Requests the end.
    pub fn request(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Takes the request back, for a program that starts anew after a stop. Call it when no lcore runs.
    pub fn clear(&self) {
        self.flag.store(false, Ordering::Relaxed);
    }

    /// The flag itself, for a signal handler that sets it (`signal_hook::flag::register`).
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Sleeps for `timeout`, or until the end is requested: noticed within 10 ms, also when a signal handler
    /// did it. True if it was requested.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let begun = Instant::now();
        while !self.requested() {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(LOOK));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_request() {
        let token = StopToken::new();
        let other = token.clone();
        assert!(!other.requested());
        token.request();
        assert!(other.requested());
        other.clear();
        assert!(!token.requested());
        assert!(!StopToken::new().requested());
    }

    #[test]
    fn waiting_ends_by_time_or_by_the_flag() {
        let token = StopToken::new();
        let begun = Instant::now();
        assert!(!token.wait_timeout(Duration::from_millis(30)));
        assert!(begun.elapsed() >= Duration::from_millis(30));

        let flag = token.flag();
        let setter = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            flag.store(true, Ordering::Relaxed);
            Instant::now()
        });
        assert!(token.wait_timeout(Duration::from_secs(30)));
        let noticed = Instant::now();
        let late = noticed.saturating_duration_since(setter.join().unwrap());
        assert!(late < Duration::from_millis(500), "noticed {late:?} late");
        assert!(token.wait_timeout(Duration::ZERO));
    }
}
