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
