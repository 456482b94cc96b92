//! `wirerate hugepages`: shows the kernel's hugepages, reserves some or gives them back, and mounts hugetlbfs.

mod mount;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use wirerate_eal::SystemRoot;
use wirerate_eal::hugetlb::{self, HugetlbError, HugetlbPool};

use crate::{Refused, print, size_text};

/// Show, reserve or give back hugepages, and mount hugetlbfs
///
/// Without an option, shows what there is. Takes the options of dpdk-hugepages.py.
#[derive(Debug, Args)]
#[command(after_help = "All but showing needs root. Pages that are reserved now are gone at the next boot; \
                        hugepages=N on the kernel command line reserves them each time, and before memory \
                        is fragmented.")]
pub(crate) struct Options {
    /// Show what there is; the default
    #[arg(value_enum, conflicts_with_all = ["reserve", "clear", "mount", "unmount", "setup"])]
    action: Option<Action>,
    /// Make the pool this large, for instance 512M or 4G; rounded up to whole pages
    #[arg(long, short, value_name = "SIZE", value_parser = parse_size, conflicts_with = "clear")]
    reserve: Option<u64>,
    /// Give all pages back that are not in use
    #[arg(long, short)]
    clear: bool,
    /// Mount hugetlbfs, with pages of --page-size; only --huge-dir and DPDK programs need it
    #[arg(long, short, conflicts_with_all = ["clear", "unmount"])]
    mount: bool,
    /// Unmount hugetlbfs
    #[arg(long, short, conflicts_with = "reserve")]
    unmount: bool,
    /// All in one: clear, unmount, reserve so much, and mount
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with_all = ["reserve", "clear", "mount", "unmount"])]
    setup: Option<u64>,
    /// Where to mount and unmount
    #[arg(long, short, value_name = "DIRECTORY", default_value = "/dev/hugepages")]
    directory: PathBuf,
    /// Bytes of a page, 2M or 1G for instance; 2M unless given
    #[arg(long, short, value_name = "SIZE", value_parser = parse_size)]
    page_size: Option<u64>,
    /// Only on this NUMA node; all together unless given
    #[arg(long, short, value_name = "N")]
    node: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    Show,
}

/// The page size when nobody asks for another.
const USUAL: u64 = 2 << 20;

pub(crate) fn run(options: &Options) -> Result<()> {
    print(&run_in(&SystemRoot::default(), &mount::Kernel, options)?)
}

/// Does what is asked on the machine under `root`, and returns what is shown.
fn run_in(root: &SystemRoot, mounter: &dyn mount::Mounter, options: &Options) -> Result<String> {
    let Options { page_size, node, directory, .. } = options;
    let (page_size, node) = (*page_size, *node);
    // Before anything is changed.
    match page_size {
        Some(0) => bail!("--page-size 0: expected the size of a page, 2M or 1G for instance"),
        Some(size) if hugetlb::pools_in(root).iter().all(|pool| pool.page_size as u64 != size) => {
            bail!("there are no hugepages of {}: this kernel has {}", size_text(size), sizes(root));
        }
        _ => {}
    }
    let mut told = String::new();
    if options.clear || options.setup.is_some() {
        clear(root, if options.setup.is_some() { None } else { page_size }, node)?;
    }
    if options.unmount || options.setup.is_some() {
        let line = mount::unmount(root, mounter, directory)?;
        // That there was nothing to unmount is news only to who asked for it.
        told.extend(line.filter(|_| options.unmount));
    }
    if let Some(bytes) = options.reserve.or(options.setup) {
        reserve(root, bytes, page_size, node)?;
    }
    if options.mount || options.setup.is_some() {
        told.extend(mount::mount(root, mounter, directory, page_size)?);
    }
    let shown = |pool: &HugetlbPool| page_size.is_none_or(|size| size == pool.page_size as u64);
    let pools: Vec<_> = hugetlb::pools_in(root).into_iter().filter(shown).collect();
    Ok(told + &table(&pools, node, &hugetlb::mounts_in(root)))
}

/// Makes a pool so large that it holds `bytes`.
fn reserve(root: &SystemRoot, bytes: u64, page_size: Option<u64>, node: Option<u32>) -> Result<()> {
    let pools = hugetlb::pools_in(root);
    let size = match page_size {
        Some(size) => size,
        None if pools.iter().any(|pool| pool.page_size as u64 == USUAL) => USUAL,
        None => pools.last().map_or(USUAL, |pool| pool.page_size as u64),
    };
    let asked = bytes.div_ceil(size);
    let got = set(root, size, node, asked)?;
    enough(asked, got, size, node)
}

/// Makes pools empty: one, or those of all sizes.
fn clear(root: &SystemRoot, page_size: Option<u64>, node: Option<u32>) -> Result<()> {
    let sizes = match page_size {
        Some(size) => vec![size],
        None => hugetlb::pools_in(root)
            .into_iter()
            .filter(|pool| pool.total > 0)
            .map(|pool| pool.page_size as u64)
            .collect(),
    };
    let mut kept = Vec::new();
    for size in sizes {
        let left = set(root, size, node, 0)?;
        if left > 0 {
            kept.push(format!("{left} pages of {}", size_text(size)));
        }
    }
    if kept.is_empty() {
        return Ok(());
    }
    Err(Refused(format!("{} are in use and stay until their programs end", kept.join(" and "))).into())
}

fn set(root: &SystemRoot, size: u64, node: Option<u32>, pages: u64) -> Result<u64> {
    // No page is larger than the address space.
    let bytes = usize::try_from(size).unwrap_or(usize::MAX);
    hugetlb::set_reserved_in(root, bytes, node, pages).map_err(|error| match error {
        HugetlbError::NoSuchSize { .. } => {
            anyhow!("there are no hugepages of {}: this kernel has {}", size_text(size), sizes(root))
        }
        HugetlbError::NoSuchNode { .. } => anyhow!("{error}"),
        _ => Refused(error.to_string()).into(),
    })
}

/// Whether the kernel found all the pages that were asked for.
fn enough(asked: u64, got: u64, size: u64, node: Option<u32>) -> Result<()> {
    if got >= asked {
        return Ok(());
    }
    let place = node.map_or_else(String::new, |node| format!(" on node {node}"));
    let boot = if size == USUAL {
        format!("hugepages={asked}")
    } else {
        format!("hugepagesz={} hugepages={asked}", size_text(size))
    };
    Err(Refused(format!(
        "asked {asked} pages of {}{place}, got {got}: memory is short or fragmented; reserve at boot with {boot}",
        size_text(size)
    ))
    .into())
}

fn sizes(root: &SystemRoot) -> String {
    let sizes: Vec<_> = hugetlb::pools_in(root).iter().map(|pool| size_text(pool.page_size as u64)).collect();
    if sizes.is_empty() { "none".to_owned() } else { sizes.join(" and ") }
}

/// The columns of `dpdk-hugepages.py --show`, and how many pages nobody uses.
fn table(pools: &[HugetlbPool], node: Option<u32>, mounts: &[hugetlb::HugetlbMount]) -> String {
    let mut text = format!("{:<5}{:<9}{:<6}{:<8}{}\n", "Node", "Pages", "Size", "Total", "Free");
    let mut row = |node: &str, pages: u64, size: u64, free: u64| {
        let total = size_text(pages.saturating_mul(size));
        let size = size_text(size);
        let line = format!("{node:<5}{pages:<9}{size:<6}{total:<8}{free}\n");
        text.push_str(&line);
    };
    for pool in pools {
        let size = pool.page_size as u64;
        if pool.nodes.is_empty() && pool.total > 0 && node.is_none() {
            row("-", pool.total, size, pool.free);
        }
        for share in &pool.nodes {
            if share.total > 0 && node.is_none_or(|node| node == share.node) {
                row(&share.node.to_string(), share.total, size, share.free);
            }
        }
    }
    if text.lines().count() == 1 {
        text.push_str("\nNone are reserved; to reserve some, as root: wirerate hugepages --reserve 1G\n");
    }
    text.push('\n');
    if mounts.is_empty() {
        text.push_str("No hugetlbfs is mounted; Wirerate needs none\n");
    }
    for mount in mounts {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "hugetlbfs with pages of {} on {}",
            size_text(mount.page_size as u64),
            mount.path.display()
        );
    }
    text
}

/// Reads `512M`, `4G`, `4GB`, `4GiB` or plain bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size, for instance 512M or 4G".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more bytes than an address can reach".to_owned())
}

#[cfg(test)]
mod tests;
