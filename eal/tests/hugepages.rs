//! Hugepages for real: the kernel's pools are filled and put back as they were, which takes root.
//!
//! Without the privilege the tests are reported ignored, with the reason. `WIRERATE_REQUIRE=all` makes that a failure,
//! for machines that are meant to run everything.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::set_thread_res_uid;
use wirerate_eal::hugetlb::{self, HugetlbError};
use wirerate_eal::options::HugeUnlink;
use wirerate_eal::{Eal, EalOptions, MemoryRequest, PageKind, Region};
use wirerate_mempool::Memory;

const HUGE: usize = 2 << 20;
const GIGANTIC: usize = 1 << 30;
/// More pages than a test needs, because other programs may take some meanwhile.
const SPARE: u64 = 32;
/// Set for the child that holds memory until it is killed: the directory from which it takes it.
const HOLD: &str = "WIRERATE_TEST_HOLD";

type Outcome = Result<Done, Box<dyn Error>>;
type Test = fn() -> Outcome;

enum Done {
    Passed,
    /// Not for want of privilege: this machine cannot, now.
    Cannot(String),
}

fn main() -> ExitCode {
    if let Some(directory) = std::env::var_os(HOLD) {
        return hold(Path::new(&directory));
    }
    let mut arguments = Arguments::from_args();
    // The pools are the machine's: one test at a time.
    arguments.test_threads = Some(1);
    let tests: [(&str, Test); 9] = [
        ("a_region_is_made_of_hugepages", a_region_is_made_of_hugepages),
        ("a_lack_of_hugepages_falls_through_and_is_told", a_lack_of_hugepages_falls_through_and_is_told),
        ("no_huge_takes_none", no_huge_takes_none),
        ("hugepages_are_bound_to_a_node", hugepages_are_bound_to_a_node),
        ("gigantic_pages_are_cut_up", gigantic_pages_are_cut_up),
        ("a_file_is_removed_when_the_options_say", a_file_is_removed_when_the_options_say),
        ("a_directory_without_pages_falls_through", a_directory_without_pages_falls_through),
        ("a_killed_process_leaves_no_file_and_no_page", a_killed_process_leaves_no_file_and_no_page),
        ("only_root_may_change_a_pool", only_root_may_change_a_pool),
    ];
    let trials = tests.map(|(name, test)| Trial::ignorable_test(name, move || run(test)).with_kind("root"));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn run(test: Test) -> Result<Completion, Failed> {
    // Another run of these tests waits here.
    let lock = File::open("/sys/kernel/mm/hugepages")
        .map_err(|error| format!("this kernel has no hugepages: {error}"))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    if let Some(reason) = missing_privilege() {
        if std::env::var("WIRERATE_REQUIRE").is_ok_and(|required| required == "all") {
            return Err(format!("WIRERATE_REQUIRE=all, but {reason}").into());
        }
        return Ok(Completion::ignored_with(reason));
    }
    match test() {
        Ok(Done::Passed) => Ok(Completion::Completed),
        Ok(Done::Cannot(reason)) => Ok(Completion::ignored_with(reason)),
        Err(error) => Err(error.to_string().into()),
    }
}

/// Why the pools cannot be changed; none if they can.
fn missing_privilege() -> Option<String> {
    let Ok(pool) = pool(HUGE) else { return Some("this kernel has no hugepages of 2048 kB".into()) };
    hugetlb::set_reserved(HUGE, None, pool.total - pool.surplus).err().map(|error| error.to_string())
}

/// A number of pages in a pool; the former number comes back on drop.
struct Pages {
    size: usize,
    before: u64,
}

impl Pages {
    /// Makes `count` pages available beside those that others have.
    fn add(size: usize, count: u64) -> Result<Self, Box<dyn Error>> {
        let pool = pool(size)?;
        let used = pool.total - pool.available().min(pool.total);
        let pages = Self { size, before: pool.total - pool.surplus };
        let got = hugetlb::set_reserved(size, None, used + count)?;
        if got < used + count {
            fs::write("/proc/sys/vm/compact_memory", "1").ok();
            hugetlb::set_reserved(size, None, used + count)?;
        }
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Err(error) = hugetlb::set_reserved(self.size, None, self.before) {
            eprintln!("the pool of {} kB pages is not as it was: {error}", self.size / 1024);
        }
    }
}

fn pool(size: usize) -> Result<hugetlb::HugetlbPool, Box<dyn Error>> {
    let found = hugetlb::pools().into_iter().find(|pool| pool.page_size == size);
    found.ok_or_else(|| format!("no pool of {} kB", size / 1024).into())
}

/// Bytes of hugepages that a process has mapped, as only it can change them: the pools are everybody's.
fn held_by(process: &str) -> Result<usize, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("HugetlbPages is not told")?;
    Ok(kilobytes.parse::<usize>()? * 1024)
}

/// A hugetlbfs of up to 8 pages of 2 MiB, in a directory of its own.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    fn new() -> Result<Self, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        mount("none", directory.path(), "hugetlbfs", MountFlags::empty(), Some(c"pagesize=2M,size=16M"))?;
        Ok(Self { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Pages that its files have, also those without a name.
    fn pages(&self) -> Result<u64, Box<dyn Error>> {
        let told = statfs(self.path())?;
        Ok(told.f_blocks - told.f_bfree)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.path(), UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}

fn check(condition: bool, found: impl std::fmt::Display) -> Result<(), Box<dyn Error>> {
    if condition { Ok(()) } else { Err(found.to_string().into()) }
}

fn bytes(region: &mut Region) -> &mut [u8] {
    // SAFETY: the region is as long as it says, and the exclusive borrow keeps others out.
    unsafe { std::slice::from_raw_parts_mut(region.base().as_ptr(), region.len()) }
}

/// The line of a `/proc/self` table that begins with the region's address.
fn line_of(table: &str, region: &Region) -> Result<String, Box<dyn Error>> {
    let address = format!("{:x}", region.base().as_ptr().addr());
    let text = fs::read_to_string(format!("/proc/self/{table}"))?;
    let line = text.lines().find(|line| line.starts_with(&address));
    Ok(line.ok_or_else(|| format!("{address} is not in {table}"))?.to_owned())
}

fn a_region_is_made_of_hugepages() -> Outcome {
    let _pages = Pages::add(HUGE, SPARE)?;
    for shared in [false, true] {
        let eal = Eal::builder().in_memory(true).build()?;
        let mut region = eal.reserve(MemoryRequest::new(5 << 20).shared(shared).name("huge"))?;
        check(region.kind() == PageKind::Hugetlb(HUGE), eal.memory_report())?;
        check(
            region.page_size() == HUGE && region.base().as_ptr().addr() % HUGE == 0,
            "not aligned to its pages",
        )?;
        check(bytes(&mut region).iter().all(|byte| *byte == 0), "not zeroed")?;
        bytes(&mut region).fill(1);
        check(region.shared_fd().is_some() == shared, "the descriptor is not as asked for")?;
        let line = line_of("numa_maps", &region)?;
        check(line.contains("huge") && line.contains("kernelpagesize_kB=2048"), line)?;
        check(eal.memory_report().to_string() == "memory: 5 MiB in 2048 kB hugepages", eal.memory_report())?;
        drop(eal);
        check(held_by("self")? == 3 * HUGE, "the region is not of three pages")?;
        drop(region);
        check(held_by("self")? == 0, "the pages did not come back")?;
    }
    Ok(Done::Passed)
}

fn a_lack_of_hugepages_falls_through_and_is_told() -> Outcome {
    let _pages = Pages::add(HUGE, 2)?;
    let total = pool(HUGE)?.total;
    let eal = Eal::builder().build()?;
    let region = eal.reserve(MemoryRequest::new((total as usize + 1) * HUGE).shared(true))?;
    check(matches!(region.kind(), PageKind::Base(_)), format!("it is made of {}", region.kind()))?;
    let report = eal.memory_report();
    let told =
        report.pools().iter().find(|pool| pool.page_size == HUGE).ok_or("the pool is not in the report")?;
    let (free, pages) = told.counts(None);
    let mends = format!(
        "in 4 kB pages (2048 kB hugepages: {free} of {pages} free; run `wirerate hugepages --reserve {}M` as root",
        2 * (total + 1)
    );
    check(report.to_string().contains(&mends), &report)?;

    let error =
        eal.reserve(MemoryRequest::new(1 << 50).shared(true)).err().ok_or("1 PiB was given")?.to_string();
    check(error.contains("2048 kB hugepages: ") && error.contains(" free, 536870912 needed; "), error)?;
    Ok(Done::Passed)
}

fn no_huge_takes_none() -> Outcome {
    let _pages = Pages::add(HUGE, SPARE)?;
    let eal = Eal::builder().no_huge(true).build()?;
    let region = eal.reserve(MemoryRequest::new(HUGE))?;
    check(matches!(region.kind(), PageKind::Base(_)), format!("it is made of {}", region.kind()))?;
    Ok(Done::Passed)
}

fn hugepages_are_bound_to_a_node() -> Outcome {
    let _pages = Pages::add(HUGE, SPARE)?;
    let eal = Eal::builder().build()?;
    let Some(&node) = eal.numa_nodes().first() else {
        return Ok(Done::Cannot("this kernel has no NUMA".into()));
    };
    let region = eal.reserve(MemoryRequest::new(HUGE).numa(Some(node)))?;
    let line = line_of("numa_maps", &region)?;
    check(region.kind() == PageKind::Hugetlb(HUGE) && region.numa() == Some(node), region.kind())?;
    check(line.contains(&format!("bind:{node}")) && line.contains(&format!("N{node}=1")), line)?;
    Ok(Done::Passed)
}

fn gigantic_pages_are_cut_up() -> Outcome {
    let Ok(_) = pool(GIGANTIC) else { return Ok(Done::Cannot("this processor has no 1 GiB pages".into())) };
    let _pages = Pages::add(GIGANTIC, 1)?;
    if pool(GIGANTIC)?.available() == 0 {
        return Ok(Done::Cannot("no GiB of memory is free in one piece".into()));
    }
    let eal = Eal::builder().build()?;
    let reserve = |len: usize, shared| eal.reserve(MemoryRequest::new(len).shared(shared).align(64));
    let small = reserve(4096, true)?;
    check(small.kind() != PageKind::Hugetlb(GIGANTIC), "4 KiB took 1 GiB")?;

    let mut first = reserve(300 << 20, true)?;
    check(first.kind() == PageKind::Hugetlb(GIGANTIC), eal.memory_report())?;
    let second = reserve(4097, true)?;
    check(second.kind() == PageKind::Hugetlb(GIGANTIC), "the rest of the page is not used")?;
    let (at, other) = (first.base().as_ptr().addr(), second.base().as_ptr().addr());
    check(other == at + (300 << 20), format!("{other:x} is not after {at:x}"))?;
    check(
        second.shared_fd().map(|(_, offset)| offset) == Some(300 << 20),
        "the offset in the file is wrong",
    )?;
    check(reserve(4096, false)?.kind() != PageKind::Hugetlb(GIGANTIC), "private memory lies beside shared")?;

    bytes(&mut first)[100] = 9;
    drop(first);
    let mut again = reserve(200 << 20, true)?;
    check(again.base().as_ptr().addr() == at && bytes(&mut again)[100] == 0, "used memory is not zeroed")?;
    drop((small, again, eal));
    check(held_by("self")? == GIGANTIC, "the page was given back under a region")?;
    drop(second);
    check(held_by("self")? == 0, "the page did not come back")?;
    Ok(Done::Passed)
}

fn a_file_is_removed_when_the_options_say() -> Outcome {
    let _pages = Pages::add(HUGE, SPARE)?;
    let hugetlbfs = Mounted::new()?;
    let build = |huge_unlink| {
        let huge_dir = Some(hugetlbfs.path().to_owned());
        Eal::new(EalOptions { huge_dir, huge_unlink, file_prefix: "t".into(), ..EalOptions::default() })
    };
    fs::write(hugetlbfs.path().join("tmap_1_0"), "")?;
    fs::write(hugetlbfs.path().join("rtemap_0"), "")?;
    build(HugeUnlink::Never)?;
    check(hugetlbfs.files().len() == 2, "Never removed what was left")?;
    build(HugeUnlink::Existing)?;
    check(hugetlbfs.files() == [hugetlbfs.path().join("rtemap_0")], "a file stays, or another's is gone")?;
    fs::remove_file(hugetlbfs.path().join("rtemap_0"))?;

    for (unlink, files) in [(HugeUnlink::Always, 0), (HugeUnlink::Existing, 1), (HugeUnlink::Never, 1)] {
        let eal = build(unlink)?;
        let region = eal.reserve(MemoryRequest::new(HUGE + 1))?;
        check(region.kind() == PageKind::Hugetlb(HUGE), eal.memory_report())?;
        check(hugetlbfs.files().len() == files, format!("{unlink:?}: {:?}", hugetlbfs.files()))?;
        // Another start does not take the files of those that live.
        build(HugeUnlink::Always)?;
        check(hugetlbfs.files().len() == files, format!("{unlink:?}: a file in use was removed"))?;
        drop(region);
        check(hugetlbfs.files().is_empty(), format!("{unlink:?} left {:?}", hugetlbfs.files()))?;
    }
    Ok(Done::Passed)
}

fn a_directory_without_pages_falls_through() -> Outcome {
    let _pages = Pages::add(HUGE, SPARE)?;
    let hugetlbfs = Mounted::new()?;
    let options = EalOptions { huge_unlink: HugeUnlink::Existing, ..EalOptions::default() };
    let eal = Eal::builder().options(options).huge_dir(hugetlbfs.path()).build()?;
    let region = eal.reserve(MemoryRequest::new(9 * HUGE).shared(true))?;
    check(matches!(region.kind(), PageKind::Base(_)), region.kind())?;
    check(hugetlbfs.files().is_empty(), format!("the failed attempt left {:?}", hugetlbfs.files()))?;
    Ok(Done::Passed)
}

fn a_killed_process_leaves_no_file_and_no_page() -> Outcome {
    let _pages = Pages::add(HUGE, SPARE)?;
    let hugetlbfs = Mounted::new()?;
    let mut child = Held::start(hugetlbfs.path())?;
    check(held_by(&child.0.id().to_string())? == 2 * HUGE, "the child has no pages")?;
    check(hugetlbfs.pages()? == 2, "the child's pages are not of its directory")?;
    check(hugetlbfs.files().is_empty(), format!("a file has a name: {:?}", hugetlbfs.files()))?;
    child.0.kill()?;
    child.0.wait()?;
    let begun = Instant::now();
    while hugetlbfs.pages()? > 0 {
        check(
            begun.elapsed() < Duration::from_secs(10),
            "the pages of the killed process did not come back",
        )?;
        thread::sleep(Duration::from_millis(10));
    }
    check(hugetlbfs.files().is_empty(), format!("it left {:?}", hugetlbfs.files()))?;
    Ok(Done::Passed)
}

/// This program, started once more to hold memory.
struct Held(Child);

impl Held {
    fn start(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.env(HOLD, directory).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut held = Self(child);
        let mut line = String::new();
        BufReader::new(held.0.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
        check(line == "holding\n", format!("the child said {line:?}"))?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Takes two pages and waits to be killed.
fn hold(directory: &Path) -> ExitCode {
    let eal = match Eal::builder().huge_dir(directory).build() {
        Ok(eal) => eal,
        Err(error) => return refuse(&error),
    };
    match eal.reserve(MemoryRequest::new(2 * HUGE)) {
        Ok(region) if region.kind() == PageKind::Hugetlb(HUGE) => {
            println!("holding");
            thread::sleep(Duration::from_secs(60));
            ExitCode::SUCCESS
        }
        Ok(region) => refuse(&region.kind()),
        Err(error) => refuse(&error),
    }
}

fn refuse(reason: &dyn std::fmt::Display) -> ExitCode {
    println!("{reason}");
    ExitCode::FAILURE
}

fn only_root_may_change_a_pool() -> Outcome {
    let total = pool(HUGE)?.total;
    // The kernel's user is a thread's own; this one ends with it.
    let refused = thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).map(|()| hugetlb::set_reserved(HUGE, None, total))
    });
    let refused = refused.join().map_err(|_| "the thread panicked")??;
    let error = refused.err().ok_or("nobody changed the pool")?;
    check(matches!(error, HugetlbError::Denied { .. }), &error)?;
    check(error.to_string().ends_with("is not permitted: run it as root"), error)?;
    Ok(Done::Passed)
}
