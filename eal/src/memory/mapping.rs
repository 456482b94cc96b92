//! One mapping in this process's address space, and the file behind it.

use std::ffi::c_void;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use rustix::fs::ftruncate;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::meminfo;
use super::numa::{self, Policy};

/// A file that has memory for its content.
#[derive(Debug)]
pub(super) struct BackingFile {
    fd: OwnedFd,
    /// Its name, if it has one; removed on drop.
    path: Option<PathBuf>,
}

impl BackingFile {
    pub(super) fn new(fd: OwnedFd, path: Option<PathBuf>) -> Self {
        Self { fd, path }
    }
}

impl Drop for BackingFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("hugepages stay in use: removing {} failed: {error}", path.display());
        }
    }
}

/// Readable, writable memory from the kernel, given back on drop. New memory is zeroed.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    file: Option<BackingFile>,
    /// The NUMA node that its pages come from, if they were bound to one.
    node: Option<u32>,
}

impl Mapping {
    /// Private memory. `len` is a multiple of the page size.
    pub(super) fn anonymous(len: usize, align: usize) -> io::Result<Self> {
        let base = map(len, align, meminfo::page_size(), None)?;
        Ok(Self { base, len, file: None, node: None })
    }

    /// `file`, made `len` bytes long. Its pages have `page` bytes, and the length is a multiple of that.
    pub(super) fn shared(file: BackingFile, len: usize, align: usize, page: usize) -> io::Result<Self> {
        ftruncate(&file.fd, len as u64)?;
        let base = map(len, align, page, Some(file.fd.as_fd()))?;
        Ok(Self { base, len, file: Some(file), node: None })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.fd.as_fd())
    }

    pub(super) fn node(&self) -> Option<u32> {
        self.node
    }

    /// Makes pages that are not there yet come from `node`.
    pub(super) fn bind(&mut self, node: u32, policy: Policy) -> io::Result<()> {
        numa::apply(self, node, policy)?;
        self.node = Some(node);
        Ok(())
    }

    /// Asks for transparent huge pages.
    pub(super) fn advise_huge(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping, and the advice changes the size of its pages and not what is in them.
        unsafe { madvise(self.address(), self.len, Advice::LinuxHugepage) }.map_err(Into::into)
    }

    /// Makes the kernel find all pages now. A kernel before 5.14 does not know the call; then every page is
    /// touched if `may_touch`, which is to be true only where a lack of pages cannot become a signal.
    pub(super) fn populate(&self, may_touch: bool) -> io::Result<()> {
        loop {
            // SAFETY: the range is this mapping, which is writable, and populating changes no byte of it.
            match unsafe { madvise(self.address(), self.len, Advice::LinuxPopulateWrite) } {
                Ok(()) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::INVAL) if may_touch => {
                    self.touch();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes the zero that is there already into every page.
    fn touch(&self) {
        for offset in (0..self.len).step_by(meminfo::page_size()) {
            // SAFETY: the offset is below the length, the memory is writable, and before `populate` has
            // returned nobody else knows of it.
            unsafe { self.base.add(offset).write_volatile(0) };
        }
    }

    fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` made exactly this mapping for this value, and it is unmapped only here.
        let unmapped = unsafe { munmap(self.address(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of {} bytes failed: {unmapped:?}", self.len);
    }
}

// SAFETY: a mapping belongs to the process, not to a thread, and is reached by a raw pointer only.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out the address and no access.
unsafe impl Sync for Mapping {}

/// Maps `len` bytes at an address that is a multiple of `align` and of the page size.
fn map(len: usize, align: usize, page: usize, file: Option<BorrowedFd<'_>>) -> io::Result<NonNull<u8>> {
    if align <= page {
        return map_at(ptr::null_mut(), len, MapFlags::empty(), file);
    }
    // The kernel aligns to a page only. Room for the worst case shows where an aligned range is free; another thread
    // may be faster to take it, and then the search begins anew.
    for _ in 0..16 {
        let room = len.checked_add(align).ok_or(Errno::NOMEM)?;
        // SAFETY: with a null address the kernel chooses one where nothing is mapped.
        let free = unsafe {
            mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        }?;
        // SAFETY: the range was mapped by the line before and nobody else knows of it.
        unsafe { munmap(free, room) }?;
        let aligned = free.map_addr(|address| address.next_multiple_of(align));
        match map_at(aligned, len, MapFlags::FIXED_NOREPLACE, file) {
            Ok(base) if base.as_ptr().cast() == aligned => return Ok(base),
            // A kernel before 4.17 takes the address as a hint.
            // SAFETY: the range was mapped by the line before and nobody else knows of it.
            Ok(elsewhere) => unsafe { munmap(elsewhere.as_ptr().cast(), len) }?,
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("no free address is a multiple of {align}")))
}

fn map_at(
    address: *mut c_void,
    len: usize,
    flags: MapFlags,
    file: Option<BorrowedFd<'_>>,
) -> io::Result<NonNull<u8>> {
    debug_assert!(!flags.contains(MapFlags::FIXED), "it would replace what is mapped there");
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let base = match file {
        // SAFETY: without MAP_FIXED the kernel maps only where nothing is mapped, so nobody's memory changes.
        Some(file) => unsafe { mmap(address, len, access, flags | MapFlags::SHARED, file, 0) },
        // SAFETY: as above.
        None => unsafe { mmap_anonymous(address, len, access, flags | MapFlags::PRIVATE) },
    }?;
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped it at the null address"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn any_alignment_is_kept() {
        for align in [1, 4096, 1 << 16, 2 << 20, 1 << 30] {
            let mapping = Mapping::anonymous(3 * 4096, align).unwrap();
            assert_eq!(mapping.base().as_ptr().addr() % align, 0);
            mapping.populate(true).unwrap();
            // SAFETY: it is as long as it says and nobody else uses it.
            let bytes = unsafe { std::slice::from_raw_parts(mapping.base().as_ptr(), mapping.len()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn touching_finds_every_page_and_changes_none() {
        let mapping = Mapping::anonymous(64 * 4096, 1).unwrap();
        mapping.touch();
        let mut present = vec![0u8; 64];
        // SAFETY: the range is a mapping and the vector has a byte for each of its 64 pages.
        let told = unsafe { libc::mincore(mapping.address(), mapping.len(), present.as_mut_ptr()) };
        assert_eq!(told, 0);
        assert!(present.iter().all(|page| page & 1 == 1));
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        assert!(Mapping::anonymous(1 << 60, 1).is_err());
        assert!(Mapping::anonymous(usize::MAX & !4095, 2 << 20).is_err());
    }
}
