//! Transparent huge pages: whether the kernel gives them, and how many it gave.
//!
//! Documented in the kernel's `Documentation/admin-guide/mm/transhuge.rst`.

use super::meminfo;
use crate::system::SystemRoot;

const DIRECTORY: &str = "sys/kernel/mm/transparent_hugepage";

/// When the kernel backs ordinary memory by huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransparentMode {
    /// Wherever it can.
    Always,
    /// Where a program asks for it, as a reservation does.
    Advised,
    /// Nowhere, or the kernel does not know them.
    Never,
}

/// What this kernel does.
#[must_use]
pub fn mode() -> TransparentMode {
    mode_in(&SystemRoot::default())
}

/// What the kernel described under `root` does.
#[must_use]
pub fn mode_in(root: &SystemRoot) -> TransparentMode {
    let text = root.text(format!("{DIRECTORY}/enabled")).unwrap_or_default();
    let chosen = text.split('[').nth(1).and_then(|rest| rest.split(']').next());
    match chosen {
        Some("always") => TransparentMode::Always,
        Some("madvise") => TransparentMode::Advised,
        _ => TransparentMode::Never,
    }
}

/// Bytes of a transparent huge page; none when the kernel does not know them.
pub(super) fn page_size(root: &SystemRoot) -> Option<usize> {
    let size = root.number(format!("{DIRECTORY}/hpage_pmd_size"))?;
    usize::try_from(size).ok().filter(|size| size.is_power_of_two())
}

/// How many of the `len` bytes at `address` are in transparent huge pages, as `/proc/self/smaps` tells. The kernel may
/// tell of neighbours in the same entry, so it is an upper bound.
pub(super) fn huge_bytes(root: &SystemRoot, address: usize, len: usize) -> usize {
    let smaps = root.text("proc/self/smaps").unwrap_or_default();
    let mut huge = 0;
    let mut inside = false;
    for line in smaps.lines() {
        if let Some((from, to)) = range_of(line) {
            inside = from < address.saturating_add(len) && address < to;
        } else if inside && let Some(bytes) = meminfo::field(line, "AnonHugePages:") {
            huge += usize::try_from(bytes).unwrap_or(usize::MAX);
        }
    }
    huge.min(len)
}

/// The addresses in the first line of an entry: `7f0000000000-7f0000200000 rw-p ...`.
fn range_of(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;

    use super::*;

    #[test]
    fn the_mode_is_the_one_in_brackets() {
        let root = tempfile::tempdir().unwrap();
        let system = SystemRoot::at(root.path());
        assert_eq!(mode_in(&system), TransparentMode::Never);
        fs::create_dir_all(root.path().join(DIRECTORY)).unwrap();
        for (text, mode) in [
            ("always [madvise] never\n", TransparentMode::Advised),
            ("[always] madvise never\n", TransparentMode::Always),
            ("always madvise [never]\n", TransparentMode::Never),
        ] {
            fs::write(root.path().join(DIRECTORY).join("enabled"), text).unwrap();
            assert_eq!(mode_in(&system), mode);
        }
        fs::write(root.path().join(DIRECTORY).join("hpage_pmd_size"), "2097152\n").unwrap();
        assert_eq!(page_size(&system), Some(2 << 20));
    }

    #[test]
    fn huge_bytes_are_counted_in_the_entries_that_overlap() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let entry = |from: usize, to: usize, huge: usize| {
            format!(
                "{from:x}-{to:x} rw-p 00000000 00:00 0 [heap]\nSize: 1 kB\nAnonHugePages: {huge} kB\nVmFlags: rd wr\n"
            )
        };
        let text = entry(0x1000_0000, 0x1040_0000, 4096) + &entry(0x2000_0000, 0x2080_0000, 6144);
        fs::write(root.path().join("proc/self/smaps"), text).unwrap();
        let system = SystemRoot::at(root.path());
        assert_eq!(huge_bytes(&system, 0x2000_0000, 8 << 20), 6 << 20);
        assert_eq!(huge_bytes(&system, 0x2000_0000, 2 << 20), 2 << 20);
        assert_eq!(huge_bytes(&system, 0x1040_0000, 4096), 0);
        assert_eq!(huge_bytes(&system, 0x103f_f000, 4096), 4096);
    }
}
