//! The heavy half of an asymmetric memory barrier.
//!
//! Two threads that each write one flag and then read the other's (Dekker's pattern) need a full fence
//! between the two steps, or both may miss what the other wrote. One of our two sides runs for every burst of
//! packets and the other hardly ever. So the frequent side has a compiler fence only, which costs no
//! instruction, and the rare side calls `membarrier(2)`: the kernel makes each running thread of this process
//! execute a full fence at some point of its program during the call. Wherever that point falls in the
//! frequent side:
//!
//! - before its write (the flag is not set yet): its read comes after the rare side's write and sees it;
//! - after its write: the write is visible to the rare side, which reads after the call;
//!
//! and a point between its write and its read is both. So never do both sides miss. A thread that does not
//! run during the call has passed, or will pass, through the scheduler, which is a full fence too.
//!
//! Where the call is not there (another system, a seccomp filter, no std, a loom model), the frequent side
//! executes a fence: `Mode::Fenced`.

use crate::sync::{Ordering, fence};

/// Which barrier a pool uses; decided when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The kernel executes the owner's fence.
    #[cfg_attr(
        not(all(feature = "std", target_os = "linux", not(loom))),
        allow(dead_code, reason = "there is no membarrier(2) in this configuration")
    )]
    Kernel,
    /// Owners execute a fence each time.
    Fenced,
}

impl Mode {
    /// Asks for the kernel's help, which has to be announced once in a process. To announce it again is
    /// cheap.
    pub(crate) fn obtain() -> Self {
        #[cfg(all(feature = "std", target_os = "linux", not(loom)))]
        {
            use rustix::thread::{MembarrierCommand, membarrier};
            if membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() {
                return Self::Kernel;
            }
        }
        Self::Fenced
    }

    /// The heavy half. False if the kernel refused, which it can only when a filter came between: then
    /// nothing is known of what other threads see.
    #[must_use]
    pub(crate) fn heavy(self) -> bool {
        fence(Ordering::SeqCst);
        match self {
            Self::Fenced => true,
            Self::Kernel => kernel(),
        }
    }
}

#[cfg(all(feature = "std", target_os = "linux", not(loom)))]
fn kernel() -> bool {
    use rustix::thread::{MembarrierCommand, membarrier};
    membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

#[cfg(not(all(feature = "std", target_os = "linux", not(loom))))]
fn kernel() -> bool {
    false
}
