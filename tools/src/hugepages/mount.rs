//! Mounts and unmounts hugetlbfs (kernel `Documentation/admin-guide/mm/hugetlbpage.rst`, "Using Huge Pages").

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use rustix::mount::{MountFlags, UnmountFlags};
use wirerate_eal::SystemRoot;
use wirerate_eal::hugetlb;

use super::USUAL;
use crate::{Refused, size_text};

/// Mounts: a seam for tests, which cannot.
pub(super) trait Mounter {
    fn mount(&self, directory: &Path, page_size: u64) -> io::Result<()>;
    fn unmount(&self, directory: &Path) -> io::Result<()>;
}

/// Asks the kernel.
pub(super) struct Kernel;

impl Mounter for Kernel {
    fn mount(&self, directory: &Path, page_size: u64) -> io::Result<()> {
        let options = CString::new(format!("pagesize={page_size}"))?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        Ok(rustix::mount::mount("hugetlbfs", directory, "hugetlbfs", flags, options.as_c_str())?)
    }

    fn unmount(&self, directory: &Path) -> io::Result<()> {
        Ok(rustix::mount::unmount(directory, UnmountFlags::NOFOLLOW)?)
    }
}

/// Mounts it, with pages of a size that there is, and returns what is to be told of it, if anything.
pub(super) fn mount(
    root: &SystemRoot,
    mounter: &dyn Mounter,
    directory: &Path,
    page_size: Option<u64>,
) -> Result<Option<String>> {
    let known: Vec<u64> = hugetlb::pools_in(root).iter().map(|pool| pool.page_size as u64).collect();
    let size = match page_size {
        None if known.contains(&USUAL) => USUAL,
        // The largest come first.
        None => *known.last().ok_or_else(|| anyhow!("this kernel has no hugepages to mount"))?,
        Some(size) => size,
    };
    let refused = |doing: &str, error: &io::Error| {
        Refused(format!("{doing} {} failed: {}", directory.display(), said(error)))
    };
    std::fs::create_dir_all(directory).map_err(|error| refused("making the directory", &error))?;
    let place = resolved(directory);
    if let Some(there) = mounted(root, &place) {
        if page_size.is_none_or(|size| size == there) {
            return Ok(Some(format!("hugetlbfs is mounted on {} already\n", place.display())));
        }
        let line = format!(
            "hugetlbfs is mounted on {0} with pages of {1}: wirerate hugepages --unmount --directory {0}",
            place.display(),
            size_text(there)
        );
        return Err(Refused(line).into());
    }
    mounter.mount(&place, size).map_err(|error| refused("mounting hugetlbfs on", &error))?;
    Ok(None)
}

/// Unmounts it, and returns what is to be told of it, if anything.
pub(super) fn unmount(root: &SystemRoot, mounter: &dyn Mounter, directory: &Path) -> Result<Option<String>> {
    let place = resolved(directory);
    if mounted(root, &place).is_none() {
        return Ok(Some(format!("no hugetlbfs is mounted on {}\n", place.display())));
    }
    mounter.unmount(&place).map_err(|error| {
        Refused(format!("unmounting hugetlbfs from {} failed: {}", place.display(), said(&error)))
    })?;
    Ok(None)
}

/// Bytes of the pages of what is mounted there; the topmost counts.
fn mounted(root: &SystemRoot, place: &Path) -> Option<u64> {
    let mounts = hugetlb::mounts_in(root);
    mounts.iter().rfind(|mount| mount.path == place).map(|mount| mount.page_size as u64)
}

/// As the table of mounts names it.
fn resolved(directory: &Path) -> PathBuf {
    directory.canonicalize().unwrap_or_else(|_| directory.to_owned())
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{error}; run it as root"),
        io::ErrorKind::ResourceBusy => format!("{error}; a program uses it"),
        _ => error.to_string(),
    }
}
