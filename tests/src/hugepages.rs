//! Huge pages of 2 MiB for the time of a test, and the kernel's count of them.

use std::path::{Path, PathBuf};
use std::{fs, process};

use anyhow::{Context, Result, ensure};

use crate::{exclusive, scratch};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// The kernel's counts of 2 MiB pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Pages in the pool.
    pub total: u64,
    /// Those that nobody uses.
    pub free: u64,
    /// Free ones that a mapping is entitled to.
    pub reserved: u64,
    /// Pages beyond the pool's size.
    pub surplus: u64,
}

impl Counts {
    /// Pages that somebody uses. Others may reserve more meanwhile; that does not change it.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

/// Bytes that the process `pid` has in huge pages.
///
/// # Errors
/// When there is no such process.
pub fn used_by(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).context("no line of huge pages")?;
    Ok(kib.parse::<u64>().context("no number of huge pages")? * 1024)
}

/// Reads the counts.
///
/// # Errors
/// When the kernel has no pages of 2 MiB.
pub fn counts() -> Result<Counts> {
    Ok(Counts {
        total: read("nr_hugepages")?,
        free: read("free_hugepages")?,
        reserved: read("resv_hugepages")?,
        surplus: read("surplus_hugepages")?,
    })
}

/// Pages added to the pool; taken out again with the value. Others are kept out until then.
#[derive(Debug)]
pub struct Reservation {
    pages: u64,
    note: PathBuf,
    _turn: exclusive::Turn,
}

impl Reservation {
    /// Adds `pages` to the pool.
    ///
    /// # Errors
    /// When the kernel does not let this process, or has not so many pages in one piece.
    pub fn new(pages: u64) -> Result<Self> {
        let turn = exclusive::hugepages();
        let before = read("nr_hugepages")?;
        // The note comes first: a page too few is better than pages that nobody gives back.
        let note = std::env::temp_dir().join(format!("wirerate-{}-hugepages", process::id()));
        fs::write(&note, pages.to_string()).context("noting the reservation")?;
        let reservation = Self { pages, note, _turn: turn };
        write(before + pages)?;
        let found = read("nr_hugepages")?;
        ensure!(
            found >= before + pages,
            "asked for {pages} huge pages more than {before}, and the kernel has {found}: memory is fragmented"
        );
        Ok(reservation)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        give_back(self.pages);
        let _ = fs::remove_file(&self.note);
    }
}

/// Takes out of the pool what runs that were killed had added.
pub(crate) fn return_reservations_of_dead_runs() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.ends_with("-hugepages") || scratch::dead_owner(name).is_none() {
            continue;
        }
        let pages = fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse().ok());
        // Removing it decides which of two runs that look at the same time gives the pages back.
        if fs::remove_file(entry.path()).is_ok()
            && let Some(pages) = pages
        {
            give_back(pages);
        }
    }
}

fn give_back(pages: u64) {
    if let Ok(now) = read("nr_hugepages") {
        let _ = write(now.saturating_sub(pages));
    }
}

fn read(file: &str) -> Result<u64> {
    let path = Path::new(POOL).join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} has no number", path.display()))
}

fn write(pages: u64) -> Result<()> {
    fs::write(Path::new(POOL).join("nr_hugepages"), pages.to_string())
        .with_context(|| format!("setting the number of 2 MiB pages to {pages}"))
}
