//! Taking turns, in one run and between runs at the same time.
//!
//! Tests whose figures or pace suffer when others use the processors hold [`processors`]; tests that count the
//! machine's huge pages hold [`hugepages`]. Between runs a lock on a file does it, as far as the file can be
//! had: without it a test may take longer, and no result changes.

use std::fs::{File, OpenOptions, TryLockError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait for another run before going on beside it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A turn; it ends with the value.
#[derive(Debug)]
pub struct Turn {
    // In this order: the next run may begin before the next test of this one does.
    _file: Option<File>,
    _process: MutexGuard<'static, ()>,
}

/// A turn at having all processors.
#[must_use]
pub fn processors() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    turn(&TURN, || {
        let path = std::env::temp_dir().join("wirerate-tests-processors.lock");
        // Another user's file in a sticky directory can be opened to read, not to create.
        let create = |_| OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        File::open(&path).or_else(create).ok()
    })
}

/// A turn at reserving and counting huge pages. The tests of `wirerate-eal` lock the same folder for that.
#[must_use]
pub fn hugepages() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    turn(&TURN, || File::open("/sys/kernel/mm/hugepages").ok())
}

fn turn(mutex: &'static Mutex<()>, open: impl Fn() -> Option<File>) -> Turn {
    // A test that failed while it held the turn says so itself.
    let process = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    Turn { _file: open().and_then(lock), _process: process }
}

/// Locks `file`; nothing when another run keeps it for too long.
fn lock(file: File) -> Option<File> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_keeps_others_out_until_it_ends() {
        let path = std::env::temp_dir().join("wirerate-tests-processors.lock");
        let turn = processors();
        assert!(turn._file.is_some());
        assert!(matches!(File::open(&path).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        drop(turn);
        let again = processors();
        assert!(again._file.is_some());
    }
}
