//! Why there is no memory.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{Bytes, PageKind};

/// Why a reservation failed. The text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// No memory is so long or so aligned.
    #[error(
        "{len} bytes aligned to {align} cannot be reserved: ask for 1 to {} bytes and a power of two up to 1 GiB",
        isize::MAX
    )]
    Layout {
        /// Bytes asked for.
        len: usize,
        /// Alignment asked for, in bytes.
        align: usize,
    },
    /// There is no such NUMA node.
    #[error("there is no NUMA node {node}: this machine has {nodes}")]
    NoSuchNode {
        /// The node asked for.
        node: u32,
        /// The nodes that there are, as a list.
        nodes: String,
    },
    /// More than the options allow.
    #[error(
        "no {} for {name}: {} of the {} that {option} allows{} are reserved; raise it",
        Bytes(*.len), Bytes(*.reserved), Bytes(*.limit), OnNode(*.node)
    )]
    Limit {
        /// What the memory is for.
        name: String,
        /// Bytes asked for.
        len: u64,
        /// Bytes reserved already.
        reserved: u64,
        /// Most bytes allowed.
        limit: u64,
        /// The option that says so.
        option: &'static str,
        /// The node that the limit is for; none for all together.
        node: Option<u32>,
    },
    /// Nothing of the chain could give it.
    #[error(
        "no {} for {name}{}: {}; ask for less, or free some memory",
        Bytes(*.len), OnNode(*.node), Joined(.attempts)
    )]
    Exhausted {
        /// What the memory is for.
        name: String,
        /// Bytes asked for.
        len: u64,
        /// The node asked for.
        node: Option<u32>,
        /// What was tried, in this order.
        attempts: Vec<Attempt>,
    },
    /// The directory for hugepages cannot be used.
    #[error("--huge-dir {path}: {source}")]
    HugeDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory for hugepages is none.
    #[error(
        "--huge-dir {path} is no hugetlbfs: mount one there (mount -t hugetlbfs none {path}), or leave the option away"
    )]
    NotHugetlbfs {
        /// The directory.
        path: PathBuf,
    },
}

/// A kind of pages that could not give what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The kind.
    pub kind: PageKind,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.reason)
    }
}

struct Joined<'a>(&'a [Attempt]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            write!(f, "{}{attempt}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

struct OnNode(Option<u32>);

impl fmt::Display for OnNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |node| write!(f, " on NUMA node {node}"))
    }
}
