//! Which CPUs this process may use, and on which core, socket and NUMA node each lies.

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::cpulist;
use crate::system::SystemRoot;

/// A logical CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number of it.
    pub id: u32,
    /// The physical core, unique within its socket; the CPU's own number where the kernel does not say.
    pub core: u32,
    /// The socket (physical package); 0 where the kernel does not say.
    pub socket: u32,
    /// The NUMA node; none where the kernel has no NUMA.
    pub numa: Option<u32>,
}

/// The CPUs that this process may run on, and the machine's NUMA nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    cpus: Vec<Cpu>,
    nodes: Vec<u32>,
}

impl Topology {
    /// This machine, as far as this process may use it: the affinity mask counts, so `taskset` and cgroups are
    /// honoured. It cannot fail: what the kernel does not tell is filled in as the fields of [`Cpu`] say.
    #[must_use]
    pub fn discover() -> Self {
        Self::discover_in(&SystemRoot::default(), allowed_cpus().as_deref())
    }

    /// The machine described under `root`. `allowed` are the CPUs that may be used; none stands for all that
    /// are online.
    #[must_use]
    pub fn discover_in(root: &SystemRoot, allowed: Option<&[u32]>) -> Self {
        const NODES: &str = "sys/devices/system/node";
        let list = |path: String| root.text(path).and_then(|text| cpulist::parse(&text).ok());
        let node_cpus: Vec<(u32, Vec<u32>)> = root
            .numbered(NODES, "node", "")
            .into_iter()
            .map(|node: u32| (node, list(format!("{NODES}/node{node}/cpulist")).unwrap_or_default()))
            .collect();

        let mut ids = match allowed {
            Some(allowed) => allowed.to_vec(),
            None => list("sys/devices/system/cpu/online".into()).unwrap_or_else(|| vec![0]),
        };
        ids.sort_unstable();
        ids.dedup();
        let describe = |id: u32| {
            let told = |file: &str| {
                let number = root.number(format!("sys/devices/system/cpu/cpu{id}/topology/{file}"))?;
                u32::try_from(number).ok()
            };
            Cpu {
                id,
                core: told("core_id").unwrap_or(id),
                socket: told("physical_package_id").unwrap_or(0),
                numa: node_cpus.iter().find(|(_, cpus)| cpus.contains(&id)).map(|(node, _)| *node),
            }
        };
        Self {
            cpus: ids.into_iter().map(describe).collect(),
            nodes: node_cpus.into_iter().map(|(node, _)| node).collect(),
        }
    }

    /// The CPUs that this process may run on, by ascending number. Never empty when discovered on a machine.
    #[must_use]
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// The CPU with this number, if this process may run on it.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// The NUMA nodes of the machine, ascending, also those without a CPU. Empty where the kernel has no NUMA.
    #[must_use]
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// The node on which all of these CPUs lie; none when they lie on several or the kernel has no NUMA.
    #[must_use]
    pub fn node_of(&self, cpus: &[u32]) -> Option<u32> {
        let mut nodes = cpus.iter().map(|&id| self.cpu(id).and_then(|cpu| cpu.numa));
        let first = nodes.next()??;
        nodes.all(|node| node == Some(first)).then_some(first)
    }
}

/// The affinity mask of this process; none if the kernel has more CPUs than the mask has room for.
fn allowed_cpus() -> Option<Vec<u32>> {
    let set = sched_getaffinity(None).ok()?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).filter_map(|cpu| u32::try_from(cpu).ok());
    Some(cpus.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::path::Path;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Two sockets with two cores each, a node to each, and a third node that has memory only.
    fn two_sockets(root: &Path) {
        let cpu = "sys/devices/system/cpu";
        write(root, &format!("{cpu}/online"), "0-3\n");
        for id in 0..4 {
            write(root, &format!("{cpu}/cpu{id}/topology/core_id"), &format!("{}\n", id / 2));
            write(root, &format!("{cpu}/cpu{id}/topology/physical_package_id"), &format!("{}\n", id % 2));
        }
        write(root, "sys/devices/system/node/node0/cpulist", "0,2\n");
        write(root, "sys/devices/system/node/node1/cpulist", "1,3\n");
        write(root, "sys/devices/system/node/node2/cpulist", "\n");
        write(root, "sys/devices/system/node/possible", "0-2\n");
    }

    #[test]
    fn cores_sockets_and_nodes_are_read() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        let topology = Topology::discover_in(&SystemRoot::at(root.path()), None);
        assert_eq!(topology.nodes(), [0, 1, 2]);
        assert_eq!(topology.cpus().len(), 4);
        assert_eq!(topology.cpu(3), Some(&Cpu { id: 3, core: 1, socket: 1, numa: Some(1) }));
        assert_eq!(topology.node_of(&[0, 2]), Some(0));
        assert_eq!(topology.node_of(&[0, 1]), None);
        assert_eq!(topology.node_of(&[]), None);
    }

    #[test]
    fn only_allowed_cpus_are_there() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        let topology = Topology::discover_in(&SystemRoot::at(root.path()), Some(&[3, 1]));
        assert_eq!(topology.cpus().iter().map(|cpu| cpu.id).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(topology.cpu(0), None);
    }

    #[test]
    fn a_kernel_that_tells_nothing_is_one_cpu() {
        let root = tempfile::tempdir().unwrap();
        let topology = Topology::discover_in(&SystemRoot::at(root.path()), None);
        assert_eq!(topology.cpus(), [Cpu { id: 0, core: 0, socket: 0, numa: None }]);
        assert!(topology.nodes().is_empty());
        assert_eq!(topology.node_of(&[0]), None);
    }

    #[test]
    fn this_machine_has_the_cpus_of_the_affinity_mask() {
        let topology = Topology::discover();
        let set = sched_getaffinity(None).unwrap();
        assert_eq!(topology.cpus().len(), set.count() as usize);
        assert!(topology.cpus().iter().all(|cpu| set.is_set(cpu.id as usize)));
    }
}
