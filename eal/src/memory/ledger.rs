//! How much is reserved, of which kind, and how much may be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{MemoryError, PageKind};

/// The sum of the regions of one environment.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Most bytes of all, and the option that says so.
    limit: Option<(u64, &'static str)>,
    /// Most bytes by node; empty for no limit.
    node_limits: Vec<u64>,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    total: u64,
    nodes: BTreeMap<u32, u64>,
    kinds: BTreeMap<PageKind, u64>,
}

impl Ledger {
    /// A ledger that allows `memory_mib` MiB, or `node_mib` MiB by node, or everything.
    pub(super) fn new(memory_mib: Option<u64>, node_mib: &[u64]) -> Self {
        let bytes = |mib: u64| mib.saturating_mul(1 << 20);
        let node_limits: Vec<u64> = node_mib.iter().map(|&mib| bytes(mib)).collect();
        let by_node = node_limits.iter().copied().reduce(u64::saturating_add).map(|sum| (sum, "--numa-mem"));
        Self {
            limit: memory_mib.map(|mib| (bytes(mib), "-m")).or(by_node),
            node_limits,
            sums: Mutex::default(),
        }
    }

    /// Enters `len` bytes, if they are allowed. They are struck out when the entry is dropped.
    pub(super) fn enter(
        self: &Arc<Self>,
        name: &str,
        len: u64,
        node: Option<u32>,
    ) -> Result<Entry, MemoryError> {
        let mut sums = self.sums();
        let of_node = node.map(|node| {
            // As in DPDK, a node beyond the list has none.
            let limit = (!self.node_limits.is_empty())
                .then(|| self.node_limits.get(node as usize).copied().unwrap_or(0));
            (sums.nodes.get(&node).copied().unwrap_or(0), limit, Some(node))
        });
        let of_all = (sums.total, self.limit.map(|(limit, _)| limit), None);
        for (reserved, limit, node) in [Some(of_all), of_node].into_iter().flatten() {
            if let Some(limit) = limit
                && reserved.checked_add(len).is_none_or(|sum| sum > limit)
            {
                let option = self.limit.map_or("--numa-mem", |(_, option)| option);
                return Err(MemoryError::Limit { name: name.to_owned(), len, reserved, limit, option, node });
            }
        }
        sums.total += len;
        if let Some(node) = node {
            *sums.nodes.entry(node).or_default() += len;
        }
        drop(sums);
        Ok(Entry { ledger: Arc::clone(self), len, node, kind: None })
    }

    /// Bytes by kind of page.
    pub(super) fn kinds(&self) -> Vec<(PageKind, u64)> {
        self.sums()
            .kinds
            .iter()
            .filter(|(_, bytes)| **bytes > 0)
            .map(|(kind, bytes)| (*kind, *bytes))
            .collect()
    }

    /// Nothing under the lock can panic half-way, so a poisoned one is as good as any.
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A region's line in the ledger.
#[derive(Debug)]
pub(super) struct Entry {
    ledger: Arc<Ledger>,
    len: u64,
    node: Option<u32>,
    kind: Option<PageKind>,
}

impl Entry {
    /// Notes what the region is made of.
    pub(super) fn obtained(mut self, kind: PageKind) -> Self {
        if self.kind.is_none() {
            *self.ledger.sums().kinds.entry(kind).or_default() += self.len;
            self.kind = Some(kind);
        }
        self
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut sums = self.ledger.sums();
        sums.total -= self.len;
        if let Some(sum) = self.node.and_then(|node| sums.nodes.get_mut(&node)) {
            *sum -= self.len;
        }
        if let Some(sum) = self.kind.and_then(|kind| sums.kinds.get_mut(&kind)) {
            *sum -= self.len;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_limit_counts_what_is_reserved_now() {
        let ledger = Arc::new(Ledger::new(Some(2), &[]));
        let first = ledger.enter("a", 1 << 20, None).unwrap();
        let second = ledger.enter("b", 1 << 20, Some(7)).unwrap();
        let error = ledger.enter("c", 1, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no 1 bytes for c: 2 MiB of the 2 MiB that -m allows are reserved; raise it"
        );
        drop(first);
        ledger.enter("c", 1 << 20, None).unwrap();
        assert!(ledger.enter("c", u64::MAX, None).is_err());
        drop(second);
    }

    #[test]
    fn each_node_has_its_limit() {
        let ledger = Arc::new(Ledger::new(None, &[1, 3]));
        let _one = ledger.enter("a", 1 << 20, Some(0)).unwrap();
        let error = ledger.enter("b", 4096, Some(0)).unwrap_err();
        assert!(error.to_string().contains("--numa-mem allows on NUMA node 0"), "{error}");
        let _two = ledger.enter("b", 3 << 20, Some(1)).unwrap();
        assert!(ledger.enter("c", 1, Some(2)).is_err());
        assert!(ledger.enter("c", 1, None).is_err());
    }

    #[test]
    fn kinds_are_summed_until_they_are_given_back() {
        let ledger = Arc::new(Ledger::new(None, &[]));
        let base = PageKind::Base(4096);
        let one = ledger.enter("a", 10, None).unwrap().obtained(base);
        let two = ledger.enter("b", 32, None).unwrap().obtained(base);
        assert_eq!(ledger.kinds(), [(base, 42)]);
        drop(one);
        assert_eq!(ledger.kinds(), [(base, 32)]);
        drop(two);
        assert!(ledger.kinds().is_empty());
    }
}
