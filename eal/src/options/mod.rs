//! What can be asked of the environment, and how a command line asks for it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches};

mod arguments;
mod lcore_map;
mod log_level;
mod one_line;

use arguments::Arguments;
pub use lcore_map::{LcoreMap, LcoreSpec};
pub use log_level::LogDirective;
pub use one_line::one_line;

use crate::pci::PciDevargs;

/// What is asked of an [`Eal`](crate::Eal).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalOptions {
    /// The lcores (`-l`, `-c`); empty for one on each CPU that may be used.
    pub lcores: LcoreMap,
    /// The main lcore (`--main-lcore`); none for the first.
    pub main_lcore: Option<u32>,
    /// PCI functions to use, with their arguments (`-a`); empty for all.
    pub allow: Vec<PciDevargs>,
    /// PCI functions not to use (`-b`).
    pub block: Vec<PciDevargs>,
    /// Virtual devices to make, each a driver's name with a number, and arguments (`--vdev`).
    pub vdevs: Vec<String>,
    /// Do not look for PCI devices (`--no-pci`).
    pub no_pci: bool,
    /// Use neither hugetlb nor transparent huge pages (`--no-huge`).
    pub no_huge: bool,
    /// Make no file, not even in hugetlbfs (`--in-memory`).
    pub in_memory: bool,
    /// Most memory to reserve, in MiB (`-m`).
    pub memory_mib: Option<u64>,
    /// Most memory to reserve on each NUMA node, in MiB, by node (`--numa-mem`); empty for no limit.
    pub numa_mem_mib: Vec<u64>,
    /// The hugetlbfs to take hugepages from (`--huge-dir`).
    pub huge_dir: Option<PathBuf>,
    /// When hugepage files are removed (`--huge-unlink`).
    pub huge_unlink: HugeUnlink,
    /// Which addresses devices get (`--iova-mode`); none for what the devices need.
    pub iova_mode: Option<IovaMode>,
    /// Begins the names of hugepage files (`--file-prefix`).
    pub file_prefix: String,
    /// How much is logged (`--log-level`); of two that concern the same event the more specific counts.
    pub log_level: Vec<LogDirective>,
    /// Log the version at start (`-v`).
    pub show_version: bool,
    /// Options that were given, are accepted because DPDK has them, and change nothing here.
    pub without_effect: Vec<&'static str>,
}

/// When the files of hugepages are removed. It matters only where hugepages come from files (see
/// [`EalOptions::huge_dir`]); without files nothing can be left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HugeUnlink {
    /// As soon as they are open, so that nothing is left however the program ends; files that earlier runs left
    /// are removed at start.
    #[default]
    Always,
    /// When the memory is given back. Files that earlier runs left are removed at start.
    Existing,
    /// When the memory is given back. Files that earlier runs left stay.
    Never,
}

/// Which addresses devices get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IovaMode {
    /// Physical ones (`pa`).
    Physical,
    /// Those that the program itself uses, translated by an IOMMU (`va`).
    Virtual,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            lcores: LcoreMap::default(),
            main_lcore: None,
            allow: Vec::new(),
            block: Vec::new(),
            vdevs: Vec::new(),
            no_pci: false,
            no_huge: false,
            in_memory: false,
            memory_mib: None,
            numa_mem_mib: Vec::new(),
            huge_dir: None,
            huge_unlink: HugeUnlink::default(),
            iova_mode: None,
            file_prefix: Self::FILE_PREFIX.to_owned(),
            log_level: Vec::new(),
            show_version: false,
            without_effect: Vec::new(),
        }
    }
}

impl EalOptions {
    /// The default of [`file_prefix`](Self::file_prefix).
    pub const FILE_PREFIX: &'static str = "wirerate";

    /// Reads a command line without the program's name. What follows `--` is the application's and returned.
    ///
    /// # Errors
    /// [`OptionsError`] when an option is unknown, its value is none, two contradict each other, or help was asked for.
    pub fn parse_from<I>(arguments: I) -> Result<(Self, Vec<OsString>), OptionsError>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut ours: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let divided = ours.iter().position(|argument| argument == "--");
        let theirs = divided.map(|at| ours.split_off(at).split_off(1)).unwrap_or_default();
        let command =
            Self::augment(Command::new("eal").version(env!("CARGO_PKG_VERSION")).no_binary_name(true));
        let parsed =
            command.try_get_matches_from(ours).and_then(|matches| Arguments::from_arg_matches(&matches));
        match parsed {
            Ok(parsed) => Ok((parsed.into(), theirs)),
            Err(error) => Err(OptionsError::new(&error, divided.is_some())),
        }
    }

    /// Adds the options to a command, for a program that prints one help.
    #[must_use]
    pub fn augment(command: Command) -> Command {
        Arguments::augment_args(command)
    }
}

/// A command line that asks for nothing that can be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// An option or its value is wrong; one line says which, and what was probably meant.
    #[error("{0}")]
    Wrong(String),
    /// `--help`: the whole text.
    #[error("{0}")]
    Help(String),
    /// `--version`: the whole text.
    #[error("{0}")]
    Version(String),
}

impl OptionsError {
    fn new(error: &clap::Error, divided: bool) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp => Self::Help(error.to_string()),
            ErrorKind::DisplayVersion => Self::Version(error.to_string()),
            kind => {
                let mut line = one_line(error);
                let guessed = error.get(clap::error::ContextKind::SuggestedArg).is_some();
                if kind == ErrorKind::UnknownArgument && !guessed && !divided {
                    line.push_str("; the application's own options come after --");
                }
                Self::Wrong(line)
            }
        }
    }

    /// The exit code of a program that ends by this: 2, or 0 when it was asked for a text.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Wrong(_) => 2,
            Self::Help(_) | Self::Version(_) => 0,
        }
    }
}
