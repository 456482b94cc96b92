//! The example `copy_file`: its way with short, interrupted and failing operations that end in any order,
//! carried out by a model; and the same by io_uring, where the machine allows it. Where it does not, that test
//! is reported ignored, with the reason; `WIRERATE_REQUIRE=all` makes that a failure.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};
use wirerate_mempool::Pool;

use self::copier::{Direction, Kernel, Operation, copy};

#[path = "../examples/copy_file/copier.rs"]
mod copier;
#[cfg(target_os = "linux")]
#[path = "../examples/copy_file/uring.rs"]
mod uring;

const BUFFERS: usize = 5;
const BUFFER: usize = 1000;
const LENGTHS: [usize; 8] = [0, 1, 999, 1000, 1001, 5000, 12_345, 100_000];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let plain: [(&str, fn()); 5] = [
        ("parts_that_end_in_any_order_make_the_file", parts_that_end_in_any_order_make_the_file),
        ("all_buffers_are_in_flight", all_buffers_are_in_flight),
        ("a_failed_operation_ends_the_copy_and_loses_no_buffer", a_failed_operation_ends_the_copy),
        ("a_file_that_got_shorter_is_an_error", a_file_that_got_shorter_is_an_error),
        ("what_the_kernel_has_is_not_given_to_others", what_the_kernel_has_is_not_given_to_others),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let mut trials: Vec<Trial> = plain.into_iter().map(trial).collect();
    #[cfg(target_os = "linux")]
    trials.push(Trial::ignorable_test("by_io_uring", by_io_uring::run));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A kernel that keeps operations for as long as it likes, moves a part of what it was asked for, and spoils
/// what is in the memory that it has.
struct Model {
    from: Vec<u8>,
    to: Vec<u8>,
    pending: Vec<Operation>,
    most: usize,
    seed: u64,
    /// Operations that go well, before all fail.
    good: usize,
    /// Waits that go well, before it does not answer any more.
    answers: usize,
}

impl Model {
    fn new(len: usize, seed: u64) -> Self {
        let from = (0..len).map(|at| (at ^ (at >> 8)) as u8).collect();
        let (good, answers) = (usize::MAX, usize::MAX);
        Self { from, to: Vec::new(), pending: Vec::new(), most: 0, seed, good, answers }
    }

    /// Less than `bound`, at random.
    fn below(&mut self, bound: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % bound as u64) as usize
    }
}

// SAFETY: memory is accessed in `begin` and in `finished` only, there before the operation is returned.
unsafe impl Kernel for Model {
    unsafe fn begin(&mut self, operation: Operation) -> io::Result<()> {
        assert!(operation.len > 0 && operation.len as usize <= BUFFER);
        let disjoint = |other: &Operation| {
            let (one, other) = (operation.at as usize, (other.at as usize, other.len as usize));
            one + operation.len as usize <= other.0 || other.0 + other.1 <= one
        };
        assert!(self.pending.iter().all(disjoint), "two operations on the same memory");
        if operation.direction == Direction::Read {
            // SAFETY: valid, and ours until it is finished.
            unsafe { operation.at.write_bytes(0xee, operation.len as usize) };
        }
        self.pending.push(operation);
        self.most = self.most.max(self.pending.len());
        Ok(())
    }

    fn finished(&mut self) -> io::Result<(u64, io::Result<usize>)> {
        self.answers = self.answers.checked_sub(1).ok_or_else(|| io::Error::other("no answer"))?;
        let which = self.below(self.pending.len());
        let Operation { id, direction, at, len, offset } = self.pending.swap_remove(which);
        if self.below(8) == 0 {
            return Ok((id, Err(io::ErrorKind::Interrupted.into())));
        }
        if self.good == 0 {
            return Ok((id, Err(io::ErrorKind::StorageFull.into())));
        }
        self.good -= 1;
        let part = 1 + self.below(len as usize);
        let offset = offset as usize;
        let moved = match direction {
            Direction::Read => {
                let moved = part.min(self.from.len().saturating_sub(offset));
                if moved > 0 {
                    // SAFETY: valid for `len` bytes, and ours.
                    unsafe { at.copy_from_nonoverlapping(self.from[offset..].as_ptr(), moved) };
                }
                moved
            }
            Direction::Write => {
                let end = offset + part;
                self.to.resize(self.to.len().max(end), 0);
                // SAFETY: as above.
                unsafe { self.to[offset..end].as_mut_ptr().copy_from_nonoverlapping(at, part) };
                part
            }
        };
        Ok((id, Ok(moved)))
    }
}

fn buffers() -> Pool<[u8]> {
    Pool::buffers("copy", BUFFERS, BUFFER).unwrap()
}

fn parts_that_end_in_any_order_make_the_file() {
    let pool = buffers();
    for len in LENGTHS {
        for seed in 1..=20 {
            let mut kernel = Model::new(len, seed);
            assert_eq!(copy(&mut kernel, &pool, len as u64).unwrap(), len as u64);
            assert!(kernel.from == kernel.to, "{len} bytes, seed {seed}");
            assert_eq!(pool.counts().in_use, 0);
        }
    }
}

fn all_buffers_are_in_flight() {
    let mut kernel = Model::new(100 * BUFFER, 1);
    copy(&mut kernel, &buffers(), 100 * BUFFER as u64).unwrap();
    assert_eq!(kernel.most, BUFFERS);
}

fn a_failed_operation_ends_the_copy() {
    let pool = buffers();
    for good in 0..40 {
        let mut kernel = Model::new(20 * BUFFER, 3);
        kernel.good = good;
        let error = copy(&mut kernel, &pool, 20 * BUFFER as u64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(kernel.pending.is_empty(), "those in flight were waited for");
        assert_eq!(pool.counts().in_use, 0);
    }
}

fn a_file_that_got_shorter_is_an_error() {
    let error = copy(&mut Model::new(4500, 9), &buffers(), 6000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

static LOST: OnceLock<Pool<[u8]>> = OnceLock::new();

fn what_the_kernel_has_is_not_given_to_others() {
    let pool = buffers();
    let mut kernel = Model::new(20 * BUFFER, 5);
    kernel.answers = 7;
    assert_eq!(copy(&mut kernel, &pool, 20 * BUFFER as u64).unwrap_err().to_string(), "no answer");
    assert_eq!(pool.counts().in_use, kernel.pending.len());
    let mut rest: Vec<_> = std::iter::from_fn(|| pool.get()).collect();
    assert_eq!(rest.len() + kernel.pending.len(), BUFFERS);
    for buffer in &mut rest {
        buffer.fill(7);
    }
    for late in &kernel.pending {
        // SAFETY: the memory stays, for the buffers were lost while the kernel had them.
        unsafe { late.at.write_bytes(0xee, late.len as usize) };
    }
    assert!(rest.iter().all(|buffer| buffer.iter().all(|byte| *byte == 7)));
    // So that leak checkers find what is lost here on purpose.
    LOST.set(pool).unwrap();
}

#[cfg(target_os = "linux")]
mod by_io_uring {
    use std::fs::{self, File};

    use libtest_mimic::{Completion, Failed};

    use super::uring::Uring;
    use super::{BUFFERS, LENGTHS, Model, buffers, copy};

    pub(super) fn run() -> Result<Completion, Failed> {
        if let Err(reason) = Uring::new(1) {
            if std::env::var("WIRERATE_REQUIRE").is_ok_and(|required| required == "all") {
                return Err(format!("WIRERATE_REQUIRE=all, but {reason}").into());
            }
            return Ok(Completion::ignored_with(reason.to_string()));
        }
        let directory = tempfile::tempdir()?;
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let pool = buffers();
        for len in LENGTHS {
            let bytes = Model::new(len, 1).from;
            fs::write(&from, &bytes)?;
            let uring = Uring::new(BUFFERS as u32)?;
            let copied = copy(&mut uring.between(File::open(&from)?, File::create(&to)?), &pool, len as u64)?;
            assert_eq!(copied, len as u64);
            assert!(fs::read(&to)? == bytes, "{len} bytes");
            assert_eq!(pool.counts().in_use, 0);
        }
        // A file that cannot be written to: the kernel's error comes back, and the buffers with it.
        let uring = Uring::new(BUFFERS as u32)?;
        let refused = copy(&mut uring.between(File::open(&from)?, File::open(&to)?), &pool, 5000);
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(pool.counts().in_use, 0);
        Ok(Completion::Completed)
    }
}
