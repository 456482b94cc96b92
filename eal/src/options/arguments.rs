//! The options as the command line spells them, and as `--help` explains them.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::{EalOptions, HugeUnlink, IovaMode, LcoreMap, LogDirective};
use crate::pci::PciDevargs;

// The fields' documentation is the help text; one of the struct itself would become every program's.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Lcores to run on, as in 0-3,5; 0@4 puts lcore 0 on CPU 4, (0-1)@(4,6) both on either. Default: one on each
    /// CPU that may be used
    #[arg(short = 'l', long = "lcores", value_name = "LIST")]
    lcores: Option<LcoreMap>,

    /// Lcores to run on, as a hexadecimal mask
    #[arg(short = 'c', long = "coremask", value_name = "MASK", value_parser = LcoreMap::from_mask, conflicts_with = "lcores")]
    core_mask: Option<LcoreMap>,

    /// The main lcore. Default: the first
    #[arg(long = "main-lcore", value_name = "LCORE")]
    main_lcore: Option<u32>,

    /// Use this PCI device and no other that is not named; may be repeated
    #[arg(short = 'a', long = "allow", value_name = "DEVICE[,KEY=VALUE...]")]
    allow: Vec<PciDevargs>,

    /// Do not use this PCI device; may be repeated
    #[arg(short = 'b', long = "block", value_name = "DEVICE", conflicts_with = "allow")]
    block: Vec<PciDevargs>,

    /// Make a virtual device, as in net_pcap0,rx_pcap=in.pcap; may be repeated
    #[arg(long = "vdev", value_name = "DRIVER<N>[,KEY=VALUE...]")]
    vdevs: Vec<String>,

    /// Do not look for PCI devices
    #[arg(long = "no-pci")]
    no_pci: bool,

    /// Do not use hugepages
    #[arg(long = "no-huge")]
    no_huge: bool,

    /// Make no file, also not in hugetlbfs
    #[arg(long = "in-memory")]
    in_memory: bool,

    /// Most memory to reserve, in MiB. Default: no limit
    #[arg(short = 'm', long = "memory-size", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    memory: Option<u64>,

    /// Most memory to reserve on NUMA node 0, 1, ..., in MiB
    #[arg(
        long = "numa-mem",
        visible_alias = "socket-mem",
        value_name = "MIB,...",
        value_delimiter = ',',
        conflicts_with = "memory"
    )]
    numa_mem: Vec<u64>,

    /// The hugetlbfs to take hugepages from. Default: without a file, or the first that is mounted
    #[arg(long = "huge-dir", value_name = "DIRECTORY")]
    huge_dir: Option<PathBuf>,

    /// When to remove the files of hugepages: at once, or those that earlier runs left, or no file before it is
    /// given back
    #[arg(long = "huge-unlink", value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    huge_unlink: Option<HugeUnlink>,

    /// Device addresses: physical or virtual ones. Default: what the devices need
    #[arg(long = "iova-mode", value_name = "MODE")]
    iova_mode: Option<IovaMode>,

    /// Begins the names of hugepage files, to tell several programs apart
    #[arg(long = "file-prefix", value_name = "PREFIX", value_parser = file_prefix, default_value = EalOptions::FILE_PREFIX)]
    file_prefix: String,

    /// How much to log, as in debug, 8, lib.eal:debug, or wirerate_pmd=trace; may be repeated. The environment
    /// variable WIRERATE_LOG overrides it
    #[arg(long = "log-level", value_name = "[TYPE:]LEVEL", value_delimiter = ',')]
    log_level: Vec<LogDirective>,

    /// Log the version at start
    #[arg(short = 'v')]
    show_version: bool,

    /// Memory channels (no effect)
    #[arg(short = 'n', long = "memory-channels", value_name = "CHANNELS", value_parser = clap::value_parser!(u32).range(1..))]
    channels: Option<u32>,

    /// Kind of process; there are no secondary ones
    #[arg(long = "proc-type", value_name = "TYPE", value_parser = process_type)]
    process_type: Option<String>,

    /// Reserve all memory at start (no effect: memory is reserved once, when it is asked for)
    #[arg(long = "legacy-mem")]
    legacy_mem: bool,

    /// One file for several pages (no effect: a reservation is one file)
    #[arg(long = "single-file-segments")]
    single_file_segments: bool,

    /// Share no configuration (no effect: there is none)
    #[arg(long = "no-shconf")]
    no_shconf: bool,

    /// Do not use the HPET (no effect: it is not used)
    #[arg(long = "no-hpet")]
    no_hpet: bool,

    /// Offer telemetry (no effect)
    #[arg(long = "telemetry", action = ArgAction::SetTrue)]
    telemetry: bool,

    /// Offer no telemetry (no effect)
    #[arg(long = "no-telemetry", conflicts_with = "telemetry")]
    no_telemetry: bool,
}

impl From<Arguments> for EalOptions {
    fn from(arguments: Arguments) -> Self {
        let without_effect = [
            ("-n", arguments.channels.is_some()),
            ("--proc-type", arguments.process_type.is_some()),
            ("--legacy-mem", arguments.legacy_mem),
            ("--single-file-segments", arguments.single_file_segments),
            ("--no-shconf", arguments.no_shconf),
            ("--no-hpet", arguments.no_hpet),
            ("--telemetry", arguments.telemetry),
            ("--no-telemetry", arguments.no_telemetry),
        ];
        Self {
            lcores: arguments.lcores.or(arguments.core_mask).unwrap_or_default(),
            main_lcore: arguments.main_lcore,
            allow: arguments.allow,
            block: arguments.block,
            vdevs: arguments.vdevs,
            no_pci: arguments.no_pci,
            no_huge: arguments.no_huge,
            in_memory: arguments.in_memory,
            memory_mib: arguments.memory,
            numa_mem_mib: arguments.numa_mem,
            huge_dir: arguments.huge_dir,
            huge_unlink: arguments.huge_unlink.unwrap_or_default(),
            iova_mode: arguments.iova_mode,
            file_prefix: arguments.file_prefix,
            log_level: arguments.log_level,
            show_version: arguments.show_version,
            without_effect: without_effect
                .into_iter()
                .filter(|(_, given)| *given)
                .map(|(name, _)| name)
                .collect(),
        }
    }
}

impl ValueEnum for HugeUnlink {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Always, Self::Existing, Self::Never]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        let name = match self {
            Self::Always => "always",
            Self::Existing => "existing",
            Self::Never => "never",
        };
        Some(name.into())
    }
}

impl ValueEnum for IovaMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Physical, Self::Virtual]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Self::Physical => "pa".into(),
            Self::Virtual => "va".into(),
        })
    }
}

fn file_prefix(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".into()),
        _ if text.contains('/') => Err("it becomes part of a file name and must not have a '/'".into()),
        // 255 is the longest name; the rest is for the process and the count.
        _ if text.len() > 200 => Err("it is longer than 200 bytes".into()),
        _ => Ok(text.to_owned()),
    }
}

fn process_type(text: &str) -> Result<String, String> {
    match text {
        "primary" | "auto" => Ok(text.to_owned()),
        "secondary" => {
            Err("there are no secondary processes: give the other process the memory's descriptor, or run \
                            both as threads of one program"
                .into())
        }
        _ => Err("expected primary or auto".into()),
    }
}
