//! The chain: hugetlb pages, then transparent huge pages, then ordinary ones.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{MemfdFlags, memfd_create};

use super::hugefile::HugeDirectory;
use super::hugetlb::{self, HugetlbPool};
use super::ledger::Ledger;
use super::mapping::{BackingFile, Mapping};
use super::numa::Policy;
use super::region::Place;
use super::segment::{Carved, Segment};
use super::transparent::{self, TransparentMode};
use super::{Attempt, Bytes, MemoryError, MemoryReport, MemoryRequest, PageKind, Region, meminfo};
use crate::cpulist;
use crate::options::{EalOptions, HugeUnlink};
use crate::system::SystemRoot;

/// Pages of this many bytes and more are cut up, because a region seldom needs one of its own.
const GIGANTIC: usize = 1 << 30;
/// A region takes a gigantic page of its own if it fills at least this part of it.
const WORTH: usize = 4;
const LARGEST_ALIGN: usize = 1 << 30;

/// What of the options concerns memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryConfig {
    no_huge: bool,
    in_memory: bool,
    huge_dir: Option<PathBuf>,
    unlink: HugeUnlink,
    prefix: String,
    memory_mib: Option<u64>,
    node_mib: Vec<u64>,
}

impl From<&EalOptions> for MemoryConfig {
    fn from(options: &EalOptions) -> Self {
        Self {
            no_huge: options.no_huge,
            in_memory: options.in_memory,
            huge_dir: options.huge_dir.clone(),
            unlink: options.huge_unlink,
            prefix: options.file_prefix.clone(),
            memory_mib: options.memory_mib,
            node_mib: options.numa_mem_mib.clone(),
        }
    }
}

/// Makes regions, and knows how much of what it made is still there.
#[derive(Debug)]
pub(crate) struct MemoryManager {
    config: MemoryConfig,
    root: SystemRoot,
    nodes: Vec<u32>,
    directory: Option<HugeDirectory>,
    ledger: Arc<Ledger>,
    /// Gigantic pages that may have room. Regions keep them.
    segments: Mutex<Vec<Weak<Segment>>>,
}

/// Pages for a region, or why not.
type Tried<T> = Result<T, String>;

impl MemoryManager {
    pub(crate) fn new(config: MemoryConfig, root: SystemRoot, nodes: &[u32]) -> Result<Self, MemoryError> {
        let directory = match &config.huge_dir {
            Some(path) if !config.no_huge && !config.in_memory => Some(HugeDirectory::open(path)?),
            _ => None,
        };
        if let Some(directory) = &directory
            && config.unlink != HugeUnlink::Never
        {
            let removed = directory.remove_left(&config.prefix);
            if removed > 0 {
                tracing::info!(
                    "removed {removed} hugepage files that earlier runs left in {}",
                    directory.path.display()
                );
            }
        }
        let ledger = Arc::new(Ledger::new(config.memory_mib, &config.node_mib));
        Ok(Self { config, root, nodes: nodes.to_vec(), directory, ledger, segments: Mutex::default() })
    }

    pub(crate) fn reserve(&self, request: MemoryRequest) -> Result<Region, MemoryError> {
        let MemoryRequest { len, align, numa, shared, mut name } = request;
        if name.is_empty() {
            name.push_str("a region");
        }
        if len == 0 || isize::try_from(len).is_err() || !align.is_power_of_two() || align > LARGEST_ALIGN {
            return Err(MemoryError::Layout { len, align });
        }
        let numa = match numa {
            // A kernel without NUMA has one node, which needs no binding.
            Some(0) if self.nodes.is_empty() => None,
            Some(node) if !self.nodes.contains(&node) => {
                let nodes = if self.nodes.is_empty() { "0".to_owned() } else { cpulist::format(&self.nodes) };
                return Err(MemoryError::NoSuchNode { node, nodes });
            }
            numa => numa,
        };
        let entry = self.ledger.enter(&name, len as u64, numa)?;

        let wish = Wish { len, align, numa, shared, name: &name };
        let mut attempts = Vec::new();
        match self.obtain(&wish, &mut attempts) {
            Some((place, kind)) => {
                for Attempt { kind: other, reason } in &attempts {
                    tracing::debug!("{name}: not in {other}: {reason}");
                }
                tracing::debug!("{name}: {} in {kind}", Bytes(len as u64));
                Ok(Region::new(place, len, kind, shared, name, entry))
            }
            None => Err(MemoryError::Exhausted { name, len: len as u64, node: numa, attempts }),
        }
    }

    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport {
            obtained: self.ledger.kinds(),
            pools: hugetlb::pools_in(&self.root),
            transparent: transparent::mode_in(&self.root),
            no_huge: self.config.no_huge,
        }
    }

    /// Goes down the chain, noting what could not be had.
    fn obtain(&self, wish: &Wish<'_>, attempts: &mut Vec<Attempt>) -> Option<(Place, PageKind)> {
        let mut note = |kind, reason| attempts.push(Attempt { kind, reason });
        if !self.config.no_huge {
            for pool in hugetlb::pools_in(&self.root) {
                let kind = PageKind::Hugetlb(pool.page_size);
                let place = match pool.page_size {
                    GIGANTIC.. => self.gigantic(wish, &pool).map(Place::Carved),
                    _ => self.hugetlb(wish, &pool).map(Place::Own),
                };
                match place {
                    Ok(place) => return Some((place, kind)),
                    Err(reason) => note(kind, reason),
                }
            }
            if let Some(size) = transparent::page_size(&self.root) {
                match self.transparent(wish, size) {
                    Ok(mapping) => {
                        let huge = transparent::huge_bytes(
                            &self.root,
                            mapping.base().as_ptr().addr(),
                            mapping.len(),
                        );
                        let kind = match huge {
                            0 => PageKind::Base(meminfo::page_size()),
                            _ => PageKind::Transparent(size),
                        };
                        return Some((Place::Own(mapping), kind));
                    }
                    Err(reason) => note(PageKind::Transparent(size), reason),
                }
            }
        }
        let kind = PageKind::Base(meminfo::page_size());
        match self.base(wish) {
            Ok(mapping) => Some((Place::Own(mapping), kind)),
            Err(reason) => {
                note(kind, reason);
                None
            }
        }
    }

    /// A part of a gigantic page: of one that has room, or of a new one.
    fn gigantic(&self, wish: &Wish<'_>, pool: &HugetlbPool) -> Tried<Carved> {
        // Held over both steps, so that two reservations at once do not take a page each.
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.retain(|segment| segment.strong_count() > 0);
        let suitable =
            segments.iter().filter_map(Weak::upgrade).filter(|segment| segment.suits(wish.numa, wish.shared));
        for segment in suitable {
            if let Some(carved) = segment.carve(wish.len, wish.align) {
                return Ok(carved);
            }
        }
        if wish.len < pool.page_size / WORTH {
            let least = Bytes((pool.page_size / WORTH) as u64);
            return Err(format!("used from {least} on, or where one has room"));
        }
        if pool.counts(wish.numa).0 == 0 {
            return Err(lacking(pool, wish));
        }
        let mapping = self.hugetlb(wish, pool)?;
        let segment = Segment::new(mapping, wish.shared);
        segments.push(Arc::downgrade(&segment));
        segment.carve(wish.len, wish.align).ok_or_else(|| "the new page has no room".into())
    }

    /// Whole hugetlb pages.
    fn hugetlb(&self, wish: &Wish<'_>, pool: &HugetlbPool) -> Tried<Mapping> {
        let page = pool.page_size;
        let len = wish.len.checked_next_multiple_of(page).ok_or("the length overflows")?;
        let file = self.huge_file(wish, page)?;
        let mut mapping =
            Mapping::shared(file, len, wish.align, page).map_err(|error| match error.raw_os_error() {
                Some(libc::ENOMEM) => lacking(pool, wish),
                _ => format!("mapping them failed: {error}"),
            })?;
        wish.bind(&mut mapping, Policy::Bind)?;
        mapping.populate(false).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => "populating them needs Linux 5.14".to_owned(),
            // EFAULT: touching a page would have been answered by SIGBUS, because there is none.
            Some(libc::EFAULT | libc::ENOMEM) => lacking(pool, wish),
            _ => format!("populating them failed: {error}"),
        })?;
        Ok(mapping)
    }

    /// A file whose pages have `page` bytes: in the directory that was named, without a name, or in a directory
    /// that is mounted.
    fn huge_file(&self, wish: &Wish<'_>, page: usize) -> Tried<BackingFile> {
        let MemoryConfig { prefix, unlink, .. } = &self.config;
        if let Some(directory) = &self.directory {
            if directory.page_size != page {
                let (path, size) = (directory.path.display(), directory.page_size / 1024);
                return Err(format!("the pages of {path} have {size} kB"));
            }
            let made = directory.create(prefix, *unlink);
            return made
                .map_err(|error| format!("making a file in {} failed: {error}", directory.path.display()));
        }
        // MFD_HUGE_*: the binary logarithm of the size from bit 26 on (include/uapi/linux/memfd.h).
        let size = MemfdFlags::from_bits_retain(page.trailing_zeros() << 26);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | size;
        let refused = match memfd_create(wish.label().as_str(), flags) {
            Ok(file) => return Ok(BackingFile::new(file, None)),
            Err(error) => format!("memfd_create failed: {error}"),
        };
        if self.config.in_memory {
            return Err(refused);
        }
        let mounts = hugetlb::mounts_in(&self.root).into_iter().filter(|mount| mount.page_size == page);
        mounts
            .map(|mount| HugeDirectory { path: mount.path, page_size: page })
            .find_map(|directory| directory.create(prefix, *unlink).ok())
            .ok_or_else(|| format!("{refused}, and no hugetlbfs of this size can be written to"))
    }

    /// Private memory that the kernel is asked to make huge.
    fn transparent(&self, wish: &Wish<'_>, size: usize) -> Tried<Mapping> {
        if wish.shared {
            return Err("they cannot be shared".into());
        }
        if transparent::mode_in(&self.root) == TransparentMode::Never {
            return Err("the kernel gives none (/sys/kernel/mm/transparent_hugepage/enabled)".into());
        }
        if wish.len < size {
            return Err(format!("used from {} on", Bytes(size as u64)));
        }
        self.ordinary(wish, |len| {
            let mapping = Mapping::anonymous(len, wish.align.max(size))?;
            mapping.advise_huge()?;
            Ok(mapping)
        })
    }

    /// Ordinary pages: anonymous, or in a memfd for those who share them.
    fn base(&self, wish: &Wish<'_>) -> Tried<Mapping> {
        self.ordinary(wish, |len| {
            if !wish.shared {
                return Mapping::anonymous(len, wish.align);
            }
            let file = memfd_create(wish.label().as_str(), MemfdFlags::CLOEXEC)?;
            Mapping::shared(BackingFile::new(file, None), len, wish.align, meminfo::page_size())
        })
    }

    /// Maps by `map` and populates, if there is so much.
    fn ordinary(&self, wish: &Wish<'_>, map: impl FnOnce(usize) -> io::Result<Mapping>) -> Tried<Mapping> {
        let len = wish.len.checked_next_multiple_of(meminfo::page_size()).ok_or("the length overflows")?;
        // Populating more than there is would call the out-of-memory killer instead of failing.
        if let Some(available) = meminfo::available(&self.root)
            && available < len as u64
        {
            return Err(format!("{} available", Bytes(available)));
        }
        let mut mapping = map(len).map_err(|error| format!("mapping them failed: {error}"))?;
        wish.bind(&mut mapping, Policy::Prefer)?;
        mapping.populate(true).map_err(|error| format!("populating them failed: {error}"))?;
        Ok(mapping)
    }
}

/// A checked request.
struct Wish<'a> {
    len: usize,
    align: usize,
    numa: Option<u32>,
    shared: bool,
    name: &'a str,
}

impl Wish<'_> {
    /// The name of a memfd, which `/proc/<pid>/maps` shows: at most 249 bytes and no zero among them.
    fn label(&self) -> String {
        let name: String = self.name.chars().filter(|letter| *letter != '\0').take(50).collect();
        format!("wirerate:{name}")
    }

    /// Binds the mapping to the node that was asked for, if any.
    fn bind(&self, mapping: &mut Mapping, policy: Policy) -> Tried<()> {
        let Some(node) = self.numa else { return Ok(()) };
        match mapping.bind(node, policy) {
            Ok(()) => Ok(()),
            // Not a lack of memory: the kernel has no NUMA, or a container forbids the call.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                tracing::warn!("{}: not bound to NUMA node {node}: mbind failed: {error}", self.name);
                Ok(())
            }
            Err(error) => Err(format!("binding them to NUMA node {node} failed: {error}")),
        }
    }
}

/// `0 of 512 free on NUMA node 1, 24 needed`.
fn lacking(pool: &HugetlbPool, wish: &Wish<'_>) -> String {
    let (free, total) = pool.counts(wish.numa);
    let node = wish.numa.map_or(String::new(), |node| format!(" on NUMA node {node}"));
    format!("{free} of {total} free{node}, {} needed", wish.len.div_ceil(pool.page_size))
}
