//! What the two ends of a virtio device can agree on, and which combinations of that are tried.

use std::fmt;

/// Which end of the device is ours. The other is DPDK's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `net_virtio_user`.
    Driver,
    /// `net_vhost`.
    Device,
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) role: Role,
    pub(super) packed: bool,
    pub(super) mergeable: bool,
    pub(super) in_order: bool,
    /// Descriptors in each ring.
    pub(super) size: u16,
    /// Pairs of queues.
    pub(super) pairs: u16,
    /// Whether the buffers of both ends hold a frame of any length.
    pub(super) large: bool,
}

impl Variant {
    /// The plainest of a role: a split ring of the usual size, all features on, one pair.
    pub(super) const fn usual(role: Role) -> Self {
        Self { role, packed: false, mergeable: true, in_order: true, size: 256, pairs: 1, large: false }
    }

    /// Bytes that a buffer of either end holds behind the headroom.
    pub(super) const fn data_room(self) -> usize {
        if self.large { 9600 } else { 2048 }
    }

    /// Bytes of the longest frame that passes.
    pub(super) fn longest(self) -> usize {
        if self.mergeable { 9000 } else { self.data_room().min(9000) }
    }

    /// What it takes in each of the dimensions, as numbers from 0.
    fn values(self, sizes: &[u16]) -> [usize; 5] {
        let size = sizes.iter().position(|size| *size == self.size).unwrap_or(0);
        [self.mergeable.into(), self.in_order.into(), size, self.pairs.into(), self.large.into()]
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = if self.packed { "packed" } else { "split" };
        write!(
            f,
            "ours is the {:?}, {format}, mergeable {}, in order {}, {} descriptors, {} pairs, buffers of {} bytes",
            self.role,
            self.mergeable,
            self.in_order,
            self.size,
            self.pairs,
            self.data_room()
        )
    }
}

/// All combinations of a role and a format of rings.
pub(super) fn product(role: Role, packed: bool) -> Vec<Variant> {
    let both = [true, false];
    let mut all = Vec::new();
    for mergeable in both {
        for in_order in both {
            for large in both {
                for pairs in [1, 2] {
                    for &size in sizes(packed) {
                        all.push(Variant { role, packed, mergeable, in_order, size, pairs, large });
                    }
                }
            }
        }
    }
    all
}

const fn sizes(packed: bool) -> &'static [u16] {
    if packed { &[64, 100, 256, 1000, 1024] } else { &[64, 256, 1024] }
}

/// So few of `all` that each value of each dimension still meets each value of each other dimension.
///
/// Greedy: the next is the one with the most pairs of values that were in none before.
pub(super) fn pairwise(all: &[Variant]) -> Vec<Variant> {
    let Some(first) = all.first() else { return Vec::new() };
    let pairs_of = |variant: &Variant| {
        let values = variant.values(sizes(first.packed));
        let dimensions = 0..values.len();
        dimensions
            .flat_map(|one| (one + 1..values.len()).map(move |two| (one, values[one], two, values[two])))
            .collect::<Vec<_>>()
    };
    let mut missing: std::collections::BTreeSet<_> = all.iter().flat_map(pairs_of).collect();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let gain =
            |variant: &&Variant| pairs_of(variant).iter().filter(|pair| missing.contains(pair)).count();
        // The first of the best, so that the choice is the same in each run.
        let Some(best) = all.iter().rev().max_by_key(gain) else { break };
        pairs_of(best).iter().for_each(|pair| {
            missing.remove(pair);
        });
        chosen.push(*best);
    }
    chosen
}
