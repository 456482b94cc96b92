//! The kernel's io_uring, between two files.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode, types};

use crate::copier::{Direction, Kernel, Operation};

/// An io_uring with room for some operations.
pub(crate) struct Uring(IoUring);

/// Why io_uring cannot be used, and what would help.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring cannot be used here: {}", self.0)
    }
}

impl Error for Unavailable {}

impl Uring {
    /// With room for `operations` at a time.
    pub(crate) fn new(operations: u32) -> Result<Self, Unavailable> {
        let ring = IoUring::new(operations).map_err(|error| Unavailable(why(&error)))?;
        let mut probe = Probe::new();
        let asked = ring.submitter().register_probe(&mut probe);
        if asked.is_err()
            || !probe.is_supported(opcode::Read::CODE)
            || !probe.is_supported(opcode::Write::CODE)
        {
            return Err(Unavailable(
                "this kernel's has no plain read and write; Linux 5.6 or later has".into(),
            ));
        }
        Ok(Self(ring))
    }

    /// To copy from one file to another.
    pub(crate) fn between(self, from: File, to: File) -> Between {
        Between { ring: self.0, from, to }
    }
}

/// What the kernel's refusal means.
fn why(error: &io::Error) -> String {
    let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let help = match (error.kind(), switch.as_deref().map(str::trim)) {
        (io::ErrorKind::PermissionDenied, Ok("2")) => {
            "it is switched off: `sysctl kernel.io_uring_disabled=0` as root switches it on"
        }
        (io::ErrorKind::PermissionDenied, Ok("1")) => {
            "it is for privileged processes only: run this as root, in the group of kernel.io_uring_group, or \
             after `sysctl kernel.io_uring_disabled=0`"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "a container's seccomp profile forbids it, as Docker's does: allow io_uring_setup, io_uring_enter and \
             io_uring_register, or use `--security-opt seccomp=unconfined`"
        }
        (io::ErrorKind::Unsupported, _) => {
            "the kernel is older than Linux 5.6 or was built without it, or a sandbox hides it"
        }
        (io::ErrorKind::OutOfMemory, _) => "the limit of locked memory is too low: raise it (`ulimit -l`)",
        _ => "the kernel did not say more",
    };
    format!("{error}: {help}")
}

/// An io_uring that reads from one file and writes to another.
pub(crate) struct Between {
    ring: IoUring,
    from: File,
    to: File,
}

// SAFETY: a completion is posted when an operation is done with its memory, and each operation has one.
unsafe impl Kernel for Between {
    unsafe fn begin(&mut self, operation: Operation) -> io::Result<()> {
        let Operation { id, direction, at, len, offset } = operation;
        let entry = match direction {
            Direction::Read => {
                opcode::Read::new(types::Fd(self.from.as_raw_fd()), at, len).offset(offset).build()
            }
            Direction::Write => {
                opcode::Write::new(types::Fd(self.to.as_raw_fd()), at, len).offset(offset).build()
            }
        };
        // SAFETY: the memory is valid until the operation is finished, as the caller says; the files are open
        // as long as the ring.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(id)) };
        pushed.map_err(|_| io::Error::other("more operations than the ring was made for"))
    }

    fn finished(&mut self) -> io::Result<(u64, io::Result<usize>)> {
        loop {
            if let Some(entry) = self.ring.completion().next() {
                let result = entry.result();
                let moved = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
                return Ok((entry.user_data(), moved));
            }
            // All that has begun since the last time goes to the kernel in one call.
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => drop(other?),
            }
        }
    }
}
