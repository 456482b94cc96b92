//! The kernel's pools of hugetlb pages: what they hold, and how many pages they should hold.
//!
//! Documented in the kernel's `Documentation/admin-guide/mm/hugetlbpage.rst`.

use std::io;
use std::path::PathBuf;

use super::meminfo;
use crate::system::SystemRoot;

const POOLS: &str = "sys/kernel/mm/hugepages";

/// Hugetlb pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugetlbPool {
    /// Bytes of a page.
    pub page_size: usize,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody has touched yet.
    pub free: u64,
    /// Free pages that are promised to a mapping.
    pub reserved: u64,
    /// Pages of `total` that go back to ordinary memory as soon as they are free: the pool was made smaller, or
    /// the kernel lent them.
    pub surplus: u64,
    /// The share of each NUMA node, by ascending number; empty where the kernel has no NUMA.
    pub nodes: Vec<NodePool>,
}

/// A NUMA node's share of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePool {
    /// The node.
    pub node: u32,
    /// Pages on it.
    pub total: u64,
    /// Those that nobody has touched yet.
    pub free: u64,
}

impl HugetlbPool {
    /// Pages that a new mapping can have.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }

    /// Free pages and all pages, of the pool or of a node of it.
    #[must_use]
    pub fn counts(&self, node: Option<u32>) -> (u64, u64) {
        match node.and_then(|node| self.nodes.iter().find(|share| share.node == node)) {
            Some(share) => (share.free.min(self.available()), share.total),
            None => (self.available(), self.total),
        }
    }
}

/// Why a pool could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HugetlbError {
    /// The processor or the kernel has no such pages.
    #[error("there are no hugepages of {} kB: this kernel has {sizes}", .page_size / 1024)]
    NoSuchSize {
        /// Bytes of a page.
        page_size: usize,
        /// The sizes that there are, for people.
        sizes: String,
    },
    /// There is no such NUMA node.
    #[error("there is no NUMA node {node} with hugepages of {} kB", .page_size / 1024)]
    NoSuchNode {
        /// The node.
        node: u32,
        /// Bytes of a page.
        page_size: usize,
    },
    /// Only root may.
    #[error("writing {path} is not permitted: run it as root")]
    Denied {
        /// The file that says how many pages there should be.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("writing {pages} to {path} failed: {source}")]
    Write {
        /// The number of pages.
        pages: u64,
        /// The file that says how many pages there should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The pools of this machine, the largest pages first; empty when the kernel has none.
#[must_use]
pub fn pools() -> Vec<HugetlbPool> {
    pools_in(&SystemRoot::default())
}

/// The pools described under `root`.
#[must_use]
pub fn pools_in(root: &SystemRoot) -> Vec<HugetlbPool> {
    let nodes: Vec<u32> = root.numbered("sys/devices/system/node", "node", "");
    let sizes: Vec<usize> = root.numbered(POOLS, "hugepages-", "kB");
    let pool = |kilobytes: &usize| {
        let told = |file: &str| root.number(format!("{}/{file}", pool_path(*kilobytes, None)));
        let share = |&node: &u32| {
            let told = |file: &str| root.number(format!("{}/{file}", pool_path(*kilobytes, Some(node))));
            Some(NodePool { node, total: told("nr_hugepages")?, free: told("free_hugepages")? })
        };
        Some(HugetlbPool {
            page_size: kilobytes.checked_mul(1024)?,
            total: told("nr_hugepages")?,
            free: told("free_hugepages")?,
            reserved: told("resv_hugepages").unwrap_or(0),
            surplus: told("surplus_hugepages").unwrap_or(0),
            nodes: nodes.iter().filter_map(share).collect(),
        })
    };
    sizes.iter().rev().filter_map(pool).collect()
}

/// Asks the kernel to keep `pages` pages of `page_size` bytes in its pool, or on one NUMA node. Returns how many it
/// keeps now: fewer when memory is short or fragmented, more when pages are in use.
///
/// # Errors
/// [`HugetlbError`] when there is no such size or node, or the kernel does not let this user.
pub fn set_reserved(page_size: usize, node: Option<u32>, pages: u64) -> Result<u64, HugetlbError> {
    set_reserved_in(&SystemRoot::default(), page_size, node, pages)
}

/// [`set_reserved`] under `root`.
///
/// # Errors
/// As there.
pub fn set_reserved_in(
    root: &SystemRoot,
    page_size: usize,
    node: Option<u32>,
    pages: u64,
) -> Result<u64, HugetlbError> {
    let pools = pools_in(root);
    let Some(pool) = pools.iter().find(|pool| pool.page_size == page_size) else {
        let sizes: Vec<String> = pools.iter().map(|pool| format!("{} kB", pool.page_size / 1024)).collect();
        let sizes = if sizes.is_empty() { "none".to_owned() } else { sizes.join(" and ") };
        return Err(HugetlbError::NoSuchSize { page_size, sizes });
    };
    if let Some(node) = node
        && pool.nodes.iter().all(|share| share.node != node)
    {
        return Err(HugetlbError::NoSuchNode { node, page_size });
    }
    let file = format!("{}/nr_hugepages", pool_path(page_size / 1024, node));
    let path = root.path(&file);
    match root.write(&file, &pages.to_string()) {
        Ok(()) => Ok(root.number(&file).unwrap_or(0)),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => Err(HugetlbError::Denied { path }),
        Err(source) => Err(HugetlbError::Write { pages, path, source }),
    }
}

fn pool_path(kilobytes: usize, node: Option<u32>) -> String {
    match node {
        None => format!("{POOLS}/hugepages-{kilobytes}kB"),
        Some(node) => format!("sys/devices/system/node/node{node}/hugepages/hugepages-{kilobytes}kB"),
    }
}

/// A mounted hugetlbfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugetlbMount {
    /// Where.
    pub path: PathBuf,
    /// Bytes of its pages.
    pub page_size: usize,
}

/// The hugetlbfs that are mounted for this process.
#[must_use]
pub fn mounts() -> Vec<HugetlbMount> {
    mounts_in(&SystemRoot::default())
}

/// The hugetlbfs mounts described under `root`.
#[must_use]
pub fn mounts_in(root: &SystemRoot) -> Vec<HugetlbMount> {
    let meminfo = root.text("proc/meminfo").unwrap_or_default();
    let usual = meminfo::field(&meminfo, "Hugepagesize:").and_then(|size| usize::try_from(size).ok());
    let mounts = root.text("proc/self/mounts").unwrap_or_default();
    let read = |line: &str| {
        let mut fields = line.split(' ');
        let (_, path, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if kind != "hugetlbfs" {
            return None;
        }
        let told = options.split(',').find_map(|option| option.strip_prefix("pagesize=")).and_then(size_of);
        Some(HugetlbMount { path: PathBuf::from(unescape(path)), page_size: told.or(usual)? })
    };
    mounts.lines().filter_map(read).collect()
}

/// Reads `2M` or `1024M` or `1G`.
fn size_of(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// Undoes the octal escapes (`\040` for a space) of the mount table.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                plain.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::path::Path;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pool(root: &Path, kilobytes: usize, node: Option<u32>, counts: [u64; 3]) {
        for (file, count) in ["nr_hugepages", "free_hugepages", "resv_hugepages"].iter().zip(counts) {
            write(root, &format!("{}/{file}", pool_path(kilobytes, node)), &format!("{count}\n"));
        }
    }

    fn two_nodes() -> (tempfile::TempDir, SystemRoot) {
        let root = tempfile::tempdir().unwrap();
        pool(root.path(), 2048, None, [512, 100, 30]);
        pool(root.path(), 2048, Some(0), [500, 99, 0]);
        pool(root.path(), 2048, Some(1), [12, 1, 0]);
        pool(root.path(), 1_048_576, None, [2, 2, 0]);
        pool(root.path(), 1_048_576, Some(0), [2, 2, 0]);
        let system = SystemRoot::at(root.path());
        (root, system)
    }

    #[test]
    fn pools_are_listed_the_largest_first() {
        let (_root, system) = two_nodes();
        let pools = pools_in(&system);
        assert_eq!(pools.iter().map(|pool| pool.page_size).collect::<Vec<_>>(), [1 << 30, 2 << 20]);
        assert_eq!(pools[0].nodes, [NodePool { node: 0, total: 2, free: 2 }]);
        assert_eq!((pools[1].available(), pools[1].counts(None)), (70, (70, 512)));
        assert_eq!(pools[1].counts(Some(0)), (70, 500));
        assert_eq!(pools[1].counts(Some(1)), (1, 12));
        assert!(pools_in(&SystemRoot::at("/nowhere")).is_empty());
    }

    #[test]
    fn the_number_of_pages_is_set_for_all_or_one_node() {
        let (root, system) = two_nodes();
        assert_eq!(set_reserved_in(&system, 2 << 20, None, 600).unwrap(), 600);
        assert_eq!(set_reserved_in(&system, 2 << 20, Some(1), 3).unwrap(), 3);
        let read = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(read("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "600");
        assert_eq!(read("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"), "3");

        let error = set_reserved_in(&system, 4 << 20, None, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there are no hugepages of 4096 kB: this kernel has 1048576 kB and 2048 kB"
        );
        let error = set_reserved_in(&system, 1 << 30, Some(1), 1).unwrap_err();
        assert!(matches!(error, HugetlbError::NoSuchNode { node: 1, .. }), "{error}");
    }

    #[test]
    fn mounts_are_read_with_their_page_size() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/meminfo", "MemTotal: 1 kB\nHugepagesize:       2048 kB\n");
        let table = "proc /proc proc rw 0 0\n\
                     none /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n\
                     none /mnt/huge\\0401G hugetlbfs rw,pagesize=1024M 0 0\n\
                     none /old hugetlbfs rw,relatime 0 0\n";
        write(root.path(), "proc/self/mounts", table);
        let found: Vec<_> = mounts_in(&SystemRoot::at(root.path()))
            .into_iter()
            .map(|mount| (mount.path.to_str().unwrap().to_owned(), mount.page_size))
            .collect();
        let expected = [("/dev/hugepages", 2 << 20), ("/mnt/huge 1G", 1 << 30), ("/old", 2 << 20)];
        assert_eq!(found, expected.map(|(path, size)| (path.to_owned(), size)));
    }
}
