//! The limit of memory that a process may lock, which mapping for devices counts against.

use rustix::process::{Resource, getrlimit};

use super::DmaError;

/// Why `len` more bytes could not be locked, when `before` were already.
pub(super) fn refused(len: usize, before: usize) -> DmaError {
    DmaError::Refused { problem: explain(len, before, getrlimit(Resource::Memlock).current) }
}

fn explain(len: usize, before: usize, limit: Option<u64>) -> String {
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let need = (len as u64).saturating_add(before as u64);
    let needed = format!(
        "mapping {} KiB for devices needs {} KiB of locked memory in all",
        kib(len as u64),
        kib(need)
    );
    match limit {
        Some(limit) => format!(
            "{needed}, and RLIMIT_MEMLOCK is {} KiB: raise it by `ulimit -l {}` as root, by memlock in \
             /etc/security/limits.conf or by LimitMEMLOCK= of the service, or give the program CAP_IPC_LOCK",
            kib(limit),
            kib(need.max(limit)).next_power_of_two()
        ),
        None => format!("{needed}, and the kernel has no memory for that or its tables: reserve less"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_is_needed_and_what_raises_the_limit() {
        let text = explain(2 << 20, 8 << 20, Some(8 << 20));
        assert_eq!(
            text,
            "mapping 2048 KiB for devices needs 10240 KiB of locked memory in all, and RLIMIT_MEMLOCK is 8192 KiB: \
             raise it by `ulimit -l 16384` as root, by memlock in /etc/security/limits.conf or by LimitMEMLOCK= of the \
             service, or give the program CAP_IPC_LOCK"
        );
        assert!(explain(4096, 0, None).contains("no memory"));
    }
}
