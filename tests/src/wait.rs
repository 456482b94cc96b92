//! Waiting with a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `ready` is true.
///
/// # Errors
/// When that takes longer than `limit` (the message says `what` was waited for), or `ready` fails.
pub fn until(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !ready()? {
        if begun.elapsed() >= limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        sleep(PAUSE);
    }
    Ok(())
}
