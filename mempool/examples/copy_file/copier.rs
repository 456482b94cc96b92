//! The copying itself: which buffer is read into or written from where, and what to do when a part of it is
//! done. Who carries the operations out is a trait, so that the tests can do it in the most awkward way.

use std::io;

use wirerate_mempool::{OnDevice, Pool, Pooled};

/// Whether a buffer is filled or emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// What the kernel is asked to do: to move `len` bytes between the file at `offset` and the memory at `at`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) at: *mut u8,
    pub(crate) len: u32,
    pub(crate) offset: u64,
}

/// Carries out operations, in any order.
///
/// # Safety
/// [`finished`](Self::finished) returns the number of an operation only once its memory is accessed no more.
pub(crate) unsafe trait Kernel {
    /// Begins an operation.
    ///
    /// # Safety
    /// Until it is finished the memory is valid and nobody else accesses it.
    unsafe fn begin(&mut self, operation: Operation) -> io::Result<()>;

    /// Waits until some operation is finished; its number, and how many bytes it has moved.
    fn finished(&mut self) -> io::Result<(u64, io::Result<usize>)>;
}

/// A part of the file, on its way.
struct Part {
    direction: Direction,
    /// Where it begins in the file.
    offset: u64,
    len: usize,
    /// Bytes of it that were read, or written, so far.
    done: usize,
}

/// The operations in flight. It owns their buffers: should it go before the kernel is done with them, they
/// are lost to the pool, and nobody else gets them while the kernel writes there.
struct Flights<'a, K> {
    kernel: &'a mut K,
    /// By number of the operation.
    table: Vec<Option<(Part, OnDevice<[u8]>)>>,
    free: Vec<usize>,
}

impl<K: Kernel> Flights<'_, K> {
    fn begin(&mut self, part: Part, buffer: Pooled<[u8]>) -> io::Result<()> {
        let id = self.free.pop().ok_or_else(|| io::Error::other("more buffers than the pool has"))?;
        let buffer = buffer.into_device();
        let operation = Operation {
            id: id as u64,
            direction: part.direction,
            at: buffer.as_ptr().wrapping_add(part.done),
            len: u32::try_from(part.len - part.done).unwrap_or(u32::MAX),
            offset: part.offset + part.done as u64,
        };
        self.table[id] = Some((part, buffer));
        // SAFETY: the rest of the part is within the buffer, which is in the table until the operation is
        // finished; should it be dropped before, its memory stays.
        unsafe { self.kernel.begin(operation) }
    }

    fn finished(&mut self) -> io::Result<(Part, Pooled<[u8]>, io::Result<usize>)> {
        let (id, moved) = self.kernel.finished()?;
        let flight = usize::try_from(id).ok().and_then(|id| self.table.get_mut(id)).and_then(Option::take);
        let (part, buffer) =
            flight.ok_or_else(|| io::Error::other(format!("no operation has number {id}")))?;
        self.free.push(id as usize);
        // SAFETY: the kernel says that it is done with it; what it leaves there are bytes.
        Ok((part, unsafe { buffer.reclaim() }, moved))
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.table.len()
    }
}

/// Copies `len` bytes, with as many operations in flight as the pool has buffers; returns how many were
/// copied, which is `len`.
///
/// # Errors
/// The first error of an operation, after those in flight have ended; or the kernel's, at once.
pub(crate) fn copy(kernel: &mut impl Kernel, pool: &Pool<[u8]>, len: u64) -> io::Result<u64> {
    let size = pool.counts().size;
    let mut flights = Flights { kernel, table: (0..size).map(|_| None).collect(), free: (0..size).collect() };
    let (mut next, mut copied, mut failed) = (0, 0, None);
    loop {
        while failed.is_none()
            && next < len
            && let Some(buffer) = pool.get()
        {
            let part = Part {
                direction: Direction::Read,
                offset: next,
                len: usize::try_from(len - next).unwrap_or(usize::MAX).min(buffer.len()),
                done: 0,
            };
            next += part.len as u64;
            flights.begin(part, buffer)?;
        }
        if flights.is_idle() {
            return failed.map_or(Ok(copied), Err);
        }
        let (mut part, buffer, moved) = flights.finished()?;
        match moved {
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => {
                failed.get_or_insert(error);
            }
            Ok(0) => {
                failed.get_or_insert(match part.direction {
                    Direction::Read => io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!(
                            "the file ends at byte {}, {len} were expected",
                            part.offset + part.done as u64
                        ),
                    ),
                    Direction::Write => {
                        io::Error::new(io::ErrorKind::WriteZero, "nothing more can be written")
                    }
                });
            }
            Ok(moved) => part.done += moved,
        }
        if failed.is_some() {
            continue; // The buffer goes home here.
        }
        if part.done < part.len {
            flights.begin(part, buffer)?;
        } else if part.direction == Direction::Read {
            flights.begin(Part { direction: Direction::Write, done: 0, ..part }, buffer)?;
        } else {
            copied += part.len as u64;
        }
    }
}
