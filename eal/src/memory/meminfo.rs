//! What the kernel tells of ordinary memory.

use crate::system::SystemRoot;

/// Bytes that can be used without swapping; none when the kernel does not say.
pub(super) fn available(root: &SystemRoot) -> Option<u64> {
    field(&root.text("proc/meminfo")?, "MemAvailable:")
}

/// Bytes of an ordinary page of this process.
pub(super) fn page_size() -> usize {
    rustix::param::page_size()
}

/// A line `Name:  123 kB`, in bytes.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
