//! The environment: one value that has the options, the lcores, the memory and the clock.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::clock::Clock;
use crate::cpulist;
use crate::error::EalError;
use crate::lcore::{Lcore, LcoreError, LcoreScope, Lcores};
use crate::memory::{MemoryConfig, MemoryError, MemoryManager, MemoryReport, MemoryRequest, Region};
use crate::options::{EalOptions, LcoreMap, LcoreSpec};
use crate::pci::{self, PciDevargs, PciError, SelectedPci};
use crate::stop::StopToken;
use crate::system::SystemRoot;
use crate::topology::Topology;

/// The machine, as a program may use it.
///
/// A value like any other: many may live in one process, and dropping one gives everything back. Regions that
/// came from it stay until they are dropped themselves.
#[derive(Debug)]
pub struct Eal {
    options: EalOptions,
    topology: Topology,
    lcores: Lcores,
    main: Lcore,
    memory: MemoryManager,
    pci: pci::Shared,
    clock: Clock,
    stop: StopToken,
}

impl Eal {
    /// Starts with the defaults: an lcore on each CPU that may be used, hugepages where there are any.
    pub fn builder() -> EalBuilder {
        EalBuilder::default()
    }

    /// Reads a command line without the program's name, and makes the environment. What follows `--` is the
    /// application's and returned.
    ///
    /// # Errors
    /// [`EalError`] when the command line is wrong, or asks for what this machine has not.
    pub fn from_args<I>(arguments: I) -> Result<(Self, Vec<OsString>), EalError>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let (options, rest) = EalOptions::parse_from(arguments)?;
        Ok((Self::new(options)?, rest))
    }

    /// Makes the environment that the options ask for.
    ///
    /// # Errors
    /// [`EalError`] when they ask for CPUs or a directory that this process cannot use.
    pub fn new(options: EalOptions) -> Result<Self, EalError> {
        if options.show_version {
            tracing::info!("Wirerate {}", env!("CARGO_PKG_VERSION"));
        }
        if !options.without_effect.is_empty() {
            tracing::debug!("options without effect here: {}", options.without_effect.join(" "));
        }
        let topology = Topology::discover();
        let list = lcores(&options.lcores, &topology)?;
        let main = match options.main_lcore {
            None => list.first(),
            Some(id) => list.iter().find(|lcore| lcore.id() == id),
        }
        .cloned();
        let lcores = Lcores::new(list);
        let main = main.ok_or_else(|| EalError::MainLcore {
            lcore: options.main_lcore.unwrap_or_default(),
            lcores: lcores.numbers(),
        })?;
        let memory =
            MemoryManager::new(MemoryConfig::from(&options), SystemRoot::default(), topology.nodes())?;
        Ok(Self {
            options,
            topology,
            lcores,
            main,
            memory,
            pci: pci::Shared::default(),
            clock: Clock::calibrate(),
            stop: StopToken::new(),
        })
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &EalOptions {
        &self.options
    }

    /// The lcores by ascending number; at least one.
    #[must_use]
    pub fn lcores(&self) -> &[Lcore] {
        self.lcores.list()
    }

    /// The main lcore. It can be launched on like any other: the thread that calls is none of them.
    #[must_use]
    pub fn main_lcore(&self) -> &Lcore {
        &self.main
    }

    /// The CPUs that may be used.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The machine's NUMA nodes, ascending; empty where the kernel has no NUMA.
    #[must_use]
    pub fn numa_nodes(&self) -> &[u32] {
        self.topology.nodes()
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The request to stop that all lcores of this environment poll.
    #[must_use]
    pub fn stop(&self) -> &StopToken {
        &self.stop
    }

    /// The virtual devices that were asked for, in order.
    #[must_use]
    pub fn vdevs(&self) -> &[String] {
        &self.options.vdevs
    }

    /// The PCI functions that the options select: those of `-a`, or else all that a driver hands over to programs
    /// (`vfio-pci`, `uio_pci_generic`) but those of `-b`; none with `--no-pci`. Looks anew at each call.
    ///
    /// # Errors
    /// [`PciError::NotFound`] when a function that was named is not there.
    pub fn pci_devices(&self) -> Result<Vec<SelectedPci>, PciError> {
        pci::select(&SystemRoot::default(), &self.options)
    }

    /// Reserves memory, in the largest pages that there are.
    ///
    /// # Errors
    /// [`MemoryError`] when the request cannot be met; nothing is reserved then.
    pub fn reserve(&self, request: MemoryRequest) -> Result<Region, MemoryError> {
        self.memory.reserve(request)
    }

    /// What its PCI functions share.
    pub(crate) fn pci(&self) -> &pci::Shared {
        &self.pci
    }

    /// What memory regions have now, and what would give better.
    #[must_use]
    pub fn memory_report(&self) -> MemoryReport {
        self.memory.report()
    }

    /// Runs `body`, which [launches](LcoreScope::launch) lcores, then waits for all of them. What they borrow has
    /// to live outside of the scope; the calling thread is not bound to a CPU and is free to watch them.
    ///
    /// Lcores that run until the [stop](Self::stop) is requested go on when `body` returns. A panic of `body` or of an
    /// lcore requests it.
    ///
    /// ```
    /// # let eal = wirerate_eal::Eal::builder().no_huge(true).build()?;
    /// let mut counts = vec![0u32; eal.lcores().len()];
    /// eal.scope(|scope| {
    ///     for (lcore, count) in eal.lcores().iter().zip(&mut counts) {
    ///         scope.launch(lcore.id(), move |lcore| *count = lcore.lcore().id() + 1)?;
    ///     }
    ///     Ok::<(), wirerate_eal::LcoreError>(())
    /// })??;
    /// assert!(counts.iter().all(|count| *count > 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LcoreError::Panicked`] when an lcore panicked, whatever `body` returned.
    pub fn scope<'env, R>(
        &'env self,
        body: impl for<'scope> FnOnce(&LcoreScope<'scope, 'env>) -> R,
    ) -> Result<R, LcoreError> {
        self.lcores.scope(&self.stop, self.clock, body)
    }
}

/// The lcores that the options name, on the CPUs that there are.
fn lcores(map: &LcoreMap, topology: &Topology) -> Result<Vec<Lcore>, EalError> {
    let usual;
    let map = match map.lcores() {
        [] => {
            usual = LcoreMap::one_to_one(topology.cpus().iter().map(|cpu| cpu.id));
            &usual
        }
        _ => map,
    };
    let lcore = |LcoreSpec { id, cpus }: &LcoreSpec| {
        if let Some(&cpu) = cpus.iter().find(|&&cpu| topology.cpu(cpu).is_none()) {
            let allowed: Vec<u32> = topology.cpus().iter().map(|cpu| cpu.id).collect();
            return Err(EalError::NoSuchCpu {
                lcore: *id,
                cpu,
                allowed: cpulist::format(&allowed),
                example: allowed.first().copied().unwrap_or(0),
            });
        }
        Ok(Lcore { id: *id, cpus: cpus.clone(), numa: topology.node_of(cpus) })
    };
    map.lcores().iter().map(lcore).collect()
}

/// Sets the options of an [`Eal`] one by one.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing happens until `build`"]
pub struct EalBuilder {
    options: EalOptions,
}

impl EalBuilder {
    /// Begins anew from these options.
    pub fn options(mut self, options: EalOptions) -> Self {
        self.options = options;
        self
    }

    /// Lcores, each on the CPU of its number. Default: one on each CPU that may be used.
    pub fn lcores(self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.lcore_map(LcoreMap::one_to_one(ids))
    }

    /// Lcores, and the CPUs on which each runs: `"0@1,1@1".parse()`.
    pub fn lcore_map(mut self, map: LcoreMap) -> Self {
        self.options.lcores = map;
        self
    }

    /// The main lcore. Default: the first.
    pub fn main_lcore(mut self, id: u32) -> Self {
        self.options.main_lcore = Some(id);
        self
    }

    /// Adds a virtual device, as in `net_null0`.
    pub fn vdev(mut self, devargs: impl Into<String>) -> Self {
        self.options.vdevs.push(devargs.into());
        self
    }

    /// Uses this PCI function, and no other that is not named: `"0000:00:03.0,key=value".parse()`.
    pub fn allow(mut self, function: impl Into<PciDevargs>) -> Self {
        self.options.allow.push(function.into());
        self
    }

    /// Leaves this PCI function alone. Without effect where one is [allowed](Self::allow).
    pub fn block(mut self, function: impl Into<PciDevargs>) -> Self {
        self.options.block.push(function.into());
        self
    }

    /// Whether to do without PCI devices.
    pub fn no_pci(mut self, no_pci: bool) -> Self {
        self.options.no_pci = no_pci;
        self
    }

    /// Whether to do without huge pages of any kind.
    pub fn no_huge(mut self, no_huge: bool) -> Self {
        self.options.no_huge = no_huge;
        self
    }

    /// Whether to make no file.
    pub fn in_memory(mut self, in_memory: bool) -> Self {
        self.options.in_memory = in_memory;
        self
    }

    /// Most memory to reserve, in MiB.
    pub fn memory_mib(mut self, limit: u64) -> Self {
        self.options.memory_mib = Some(limit);
        self
    }

    /// The hugetlbfs to take hugepages from.
    pub fn huge_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.options.huge_dir = Some(directory.into());
        self
    }

    /// Begins the names of hugepage files.
    pub fn file_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.options.file_prefix = prefix.into();
        self
    }

    /// Makes the environment.
    ///
    /// # Errors
    /// As [`Eal::new`].
    pub fn build(self) -> Result<Eal, EalError> {
        Eal::new(self.options)
    }
}
