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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;
    use std::{fs, io};

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// Mounts by writing in the made-up machine's table of mounts.
    struct Table<'a>(&'a Path);

    impl Table<'_> {
        fn edit(&self, edit: impl FnOnce(&mut Vec<String>)) -> io::Result<()> {
            let file = self.0.join("proc/self/mounts");
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            edit(&mut lines);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, lines.join("\n") + "\n")
        }
    }

    impl mount::Mounter for Table<'_> {
        fn mount(&self, directory: &Path, page_size: u64) -> io::Result<()> {
            if directory.ends_with("denied") {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let line = format!("none {} hugetlbfs rw,pagesize={}M 0 0", directory.display(), page_size >> 20);
            self.edit(|lines| lines.push(line))
        }

        fn unmount(&self, directory: &Path) -> io::Result<()> {
            if directory.ends_with("busy") {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            self.edit(|lines| lines.retain(|line| !line.contains(&format!(" {} ", directory.display()))))
        }
    }

    fn run_line(root: &Path, line: &str) -> Result<String> {
        let words = std::iter::once("hugepages").chain(line.split_whitespace());
        run_in(&SystemRoot::at(root), &Table(root), &Line::try_parse_from(words)?.options)
    }

    fn pool(root: &Path, directory: &str, size: &str, total: u64, free: u64) {
        let directory = root.join(directory).join(format!("hugepages-{size}kB"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("nr_hugepages"), format!("{total}\n")).unwrap();
        fs::write(directory.join("free_hugepages"), format!("{free}\n")).unwrap();
    }

    fn two_nodes() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (size, shares) in [("2048", [(512, 100), (0, 0)]), ("1048576", [(0, 0), (2, 1)])] {
            let (total, free) = (shares[0].0 + shares[1].0, shares[0].1 + shares[1].1);
            pool(root.path(), "sys/kernel/mm/hugepages", size, total, free);
            for (node, (total, free)) in shares.into_iter().enumerate() {
                pool(
                    root.path(),
                    &format!("sys/devices/system/node/node{node}/hugepages"),
                    size,
                    total,
                    free,
                );
            }
        }
        root
    }

    fn reserved(root: &TempDir, file: &str) -> String {
        fs::read_to_string(root.path().join(file).join("nr_hugepages")).unwrap()
    }

    #[test]
    fn the_table_has_a_row_for_each_node_with_pages() {
        let root = two_nodes();
        let system = SystemRoot::at(root.path());
        let pools = hugetlb::pools_in(&system);
        let mounts = [hugetlb::HugetlbMount { path: "/dev/hugepages".into(), page_size: 2 << 20 }];
        assert_eq!(
            table(&pools, None, &mounts),
            "Node Pages    Size  Total   Free\n\
             1    2        1G    2G      1\n\
             0    512      2M    1G      100\n\
             \n\
             hugetlbfs with pages of 2M on /dev/hugepages\n"
        );
        assert!(table(&pools, Some(1), &mounts).contains("\n1    2        1G"));
        assert!(!table(&pools, Some(1), &mounts).contains("2M    "));
        assert!(table(&[], None, &[]).contains("None are reserved"));
    }

    #[test]
    fn reserving_sets_whole_pages_where_it_was_asked() {
        let root = two_nodes();
        let shown = run_line(root.path(), "--reserve 1025M").unwrap();
        assert!(shown.starts_with("Node Pages    Size  Total   Free\n"), "{shown}");
        assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-2048kB"), "513");
        run_line(root.path(), "--reserve 3G --page-size 1G --node 1").unwrap();
        assert_eq!(reserved(&root, "sys/devices/system/node/node1/hugepages/hugepages-1048576kB"), "3");
        run_line(root.path(), "--clear").unwrap();
        assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-2048kB"), "0");
        assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-1048576kB"), "0");
        run_line(root.path(), "show").unwrap();
    }

    #[test]
    fn hugetlbfs_is_mounted_and_unmounted() {
        let root = two_nodes();
        let place = root.path().join("deep/huge");
        let place = place.to_str().unwrap();
        let ask = |options: &str| run_line(root.path(), &format!("{options} -d {place}"));
        let line = |size: &str| format!("hugetlbfs with pages of {size} on {place}\n");
        let shown = ask("--mount --page-size 1G").unwrap();
        assert!(shown.starts_with("Node") && shown.ends_with(&line("1G")), "{shown}");
        // Once is enough, and of another size it cannot be.
        for again in ["-m", "-m -p 1G"] {
            let shown = ask(again).unwrap();
            assert!(shown.starts_with(&format!("hugetlbfs is mounted on {place} already\n")), "{shown}");
            assert_eq!(shown.matches(&line("1G")).count(), 1, "{shown}");
        }
        let error = ask("-m -p 2M").unwrap_err();
        assert!(error.is::<Refused>() && error.to_string().contains("with pages of 1G"), "{error}");
        assert!(error.to_string().contains(&format!("--unmount --directory {place}")), "{error}");
        assert!(!ask("--unmount").unwrap().contains(place));
        let shown = ask("-u").unwrap();
        assert!(shown.starts_with(&format!("no hugetlbfs is mounted on {place}\n")), "{shown}");
        // The usual size, where none is asked for.
        assert!(ask("--reserve 2M -m").unwrap().ends_with(&line("2M")));
        assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-2048kB"), "1");
    }

    #[test]
    fn setting_up_leaves_nothing_of_before() {
        let root = two_nodes();
        let place = root.path().join("huge");
        let place = place.to_str().unwrap();
        run_line(root.path(), &format!("-m -p 1G -d {place}")).unwrap();
        let shown = run_line(root.path(), &format!("--setup 64M -d {place}")).unwrap();
        assert!(shown.ends_with(&format!("\nhugetlbfs with pages of 2M on {place}\n")), "{shown}");
        assert!(!shown.contains("already") && shown.starts_with("Node"), "{shown}");
        assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-2048kB"), "32");
        assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-1048576kB"), "0");
    }

    #[test]
    fn what_the_system_refuses_to_mount_is_told() {
        let root = two_nodes();
        let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let error = run_line(root.path(), &format!("-m -d {}", at("denied"))).unwrap_err();
        assert!(error.is::<Refused>() && error.to_string().ends_with("run it as root"), "{error}");
        run_line(root.path(), &format!("-m -d {}", at("busy"))).unwrap();
        let error = run_line(root.path(), &format!("-u -d {}", at("busy"))).unwrap_err();
        assert!(error.is::<Refused>() && error.to_string().contains("a program uses it"), "{error}");
        fs::write(root.path().join("file"), "").unwrap();
        let error = run_line(root.path(), &format!("-m -d {}", at("file"))).unwrap_err();
        assert!(error.is::<Refused>() && error.to_string().contains("making the directory"), "{error}");
        for line in ["-m -u", "-m -c", "-r 2M -u", "--setup 2M -m", "show -m", "--setup x"] {
            assert!(run_line(root.path(), line).unwrap_err().is::<clap::Error>(), "{line}");
        }
        for line in ["-m -p 16M", "-m -p 0", "--setup 16M -p 16M"] {
            let error = run_line(root.path(), &format!("{line} -d {}", at("new"))).unwrap_err();
            assert!(!error.is::<Refused>(), "{line}: {error}");
            assert!(!root.path().join("new").exists(), "{line}");
            assert_eq!(reserved(&root, "sys/kernel/mm/hugepages/hugepages-2048kB").trim(), "512", "{line}");
        }
    }

    #[test]
    fn what_there_is_not_is_bad_input() {
        let root = two_nodes();
        for (line, expected) in [
            ("--reserve 16M --page-size 16M", "there are no hugepages of 16M: this kernel has 1G and 2M"),
            ("--page-size 16M", "there are no hugepages of 16M: this kernel has 1G and 2M"),
            ("--reserve 2M --node 7", "there is no NUMA node 7 with hugepages of 2048 kB"),
            (
                "--reserve 2M --page-size 0",
                "--page-size 0: expected the size of a page, 2M or 1G for instance",
            ),
        ] {
            let error = run_line(root.path(), line).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(!error.is::<Refused>(), "{line}");
        }
        for line in
            ["--reserve", "--reserve 1X", "--reserve -1G", "--clear --reserve 1G", "show --clear", "hide"]
        {
            assert!(run_line(root.path(), line).unwrap_err().is::<clap::Error>(), "{line}");
        }
    }

    #[test]
    fn too_few_pages_are_refused_with_what_would_help() {
        let error = enough(512, 100, 2 << 20, None).unwrap_err();
        assert!(error.is::<Refused>());
        assert_eq!(
            error.to_string(),
            "asked 512 pages of 2M, got 100: memory is short or fragmented; reserve at boot with hugepages=512"
        );
        let error = enough(4, 3, 1 << 30, Some(1)).unwrap_err().to_string();
        assert!(error.starts_with("asked 4 pages of 1G on node 1, got 3: "), "{error}");
        assert!(error.ends_with("reserve at boot with hugepagesz=1G hugepages=4"), "{error}");
        assert!(enough(4, 5, 1 << 30, None).is_ok());
    }

    #[test]
    fn sizes_are_read_and_told() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("2M", 2 << 20), ("3GiB", 3 << 30), ("1tb", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "M", "1.5G", "2 M", "99999999999999999999", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for (bytes, text) in
            [(0, "0"), (1, "1"), (1536, "1536"), (2 << 20, "2M"), (1025 << 20, "1025M"), (5 << 40, "5T")]
        {
            assert_eq!(size_text(bytes), text);
        }
    }
}
