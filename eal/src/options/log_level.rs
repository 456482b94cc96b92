//! What `--log-level` says: in DPDK's words, or in those of a tracing filter.

use std::str::FromStr;

use tracing::level_filters::LevelFilter;

/// How much a part of the framework tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDirective {
    /// The path of the module whose events are meant, as in `wirerate_eal`; none for all.
    pub target: Option<String>,
    /// The least important level that is told.
    pub level: LevelFilter,
}

impl FromStr for LogDirective {
    type Err = String;

    /// Reads `debug`, `8`, `lib.eal:debug`, `pmd.net.virtio*:7`, or `wirerate_pmd::port=trace`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (target, level) = match text.rsplit_once('=') {
            Some((target, level)) => (Some(target.trim().to_owned()), level),
            None => match text.rsplit_once(':') {
                Some((name, level)) => (module_of(name.trim()), level),
                None => (None, text),
            },
        };
        if target.as_ref().is_some_and(String::is_empty) {
            return Err("there is no name before the level".into());
        }
        Ok(Self { target, level: level_of(level.trim())? })
    }
}

/// The module that stands where DPDK has a log type; `*` stands for all.
fn module_of(log_type: &str) -> Option<String> {
    let name = log_type.trim_end_matches(['*', '.']);
    let module = match name.split_once('.').unwrap_or((name, "")) {
        ("", _) if log_type.is_empty() => "",
        ("", _) => return None,
        ("lib", "") => "wirerate",
        ("lib", "eal") => "wirerate_eal",
        ("lib", "mempool" | "ring") => "wirerate_mempool",
        ("lib", _) => "wirerate_pmd",
        ("pmd" | "bus", rest) => match rest.strip_prefix("net.") {
            Some(driver) => return Some(format!("wirerate_pmd::drivers::{}", driver.replace('.', "::"))),
            None => "wirerate_pmd",
        },
        _ => name,
    };
    Some(module.to_owned())
}

/// DPDK's levels by name or number (1 emergency to 8 debug), and tracing's.
fn level_of(text: &str) -> Result<LevelFilter, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "0" | "off" | "disable" | "disabled" => LevelFilter::OFF,
        "1" | "2" | "3" | "4" | "emergency" | "alert" | "critical" | "error" => LevelFilter::ERROR,
        "5" | "warning" | "warn" => LevelFilter::WARN,
        "6" | "7" | "notice" | "info" => LevelFilter::INFO,
        "8" | "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            return Err(format!(
                "'{text}' is no level: expected 1 (emergency) to 8 (debug), or error, warning, info, debug, trace, off"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn both_ways_of_writing_are_read() {
        for (text, target, level) in [
            ("debug", None, LevelFilter::DEBUG),
            ("8", None, LevelFilter::DEBUG),
            ("5", None, LevelFilter::WARN),
            ("*:info", None, LevelFilter::INFO),
            ("lib.eal:debug", Some("wirerate_eal"), LevelFilter::DEBUG),
            ("lib.*:4", Some("wirerate"), LevelFilter::ERROR),
            ("lib.mempool:notice", Some("wirerate_mempool"), LevelFilter::INFO),
            ("lib.ethdev:warning", Some("wirerate_pmd"), LevelFilter::WARN),
            ("pmd.net.virtio*:7", Some("wirerate_pmd::drivers::virtio"), LevelFilter::INFO),
            ("pmd*:8", Some("wirerate_pmd"), LevelFilter::DEBUG),
            ("user1:Debug", Some("user1"), LevelFilter::DEBUG),
            ("wirerate_pmd::port=trace", Some("wirerate_pmd::port"), LevelFilter::TRACE),
            ("lib.eal:off", Some("wirerate_eal"), LevelFilter::OFF),
        ] {
            let read: LogDirective = text.parse().unwrap();
            assert_eq!(read, LogDirective { target: target.map(str::to_owned), level }, "{text}");
        }
        for text in ["", "9", "loud", "lib.eal:", ":debug", "=debug", "-1"] {
            assert!(text.parse::<LogDirective>().is_err(), "{text:?}");
        }
    }
}
