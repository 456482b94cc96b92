//! What the figures were measured on.

use std::fs;

use wirerate_eal::Clock;

/// Processor, clock, kernel, and the two programs, in one line.
pub(super) fn describe(peer: &str) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, TSC {:.0} MHz, Linux {}; wirerate {} against {peer}",
        model.unwrap_or("unknown processor").trim(),
        Clock::calibrate().hz() as f64 / 1e6,
        kernel.trim(),
        env!("CARGO_PKG_VERSION")
    )
}

/// The version of a crate that this program was built with.
pub(super) fn locked(name: &str) -> &'static str {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    let package = LOCK.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    package.and_then(|rest| rest.split('"').next()).unwrap_or("of unknown version")
}

/// The size of pages, and whether the kernel makes them huge unasked.
pub(super) fn pages() -> String {
    let size = rustix::param::page_size();
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split(']').next()).unwrap_or("not there");
    format!("pages of {} KiB on all sides (transparent huge pages: {chosen})", size >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_crates_are_known() {
        for name in ["crossbeam-queue", "sharded-slab", "object-pool"] {
            assert!(
                locked(name).split('.').all(|part| part.parse::<u32>().is_ok()),
                "{name} {}",
                locked(name)
            );
        }
        assert_eq!(locked("no-such-crate"), "of unknown version");
    }
}
