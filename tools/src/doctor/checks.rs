//! What is looked at, one function a topic.

use wirerate_eal::clock::ClockSource;
use wirerate_eal::memory::transparent::{self, TransparentMode};
use wirerate_eal::pci::{self, Binder, MEMORY, PciDevice, RealKernel};
use wirerate_eal::{Clock, Topology, hugetlb};

use super::Check;
use crate::machine::Machine;
use crate::size_text;

/// `CAP_NET_ADMIN`, as a bit.
pub(super) const NET_ADMIN: u64 = 1 << 12;
/// `CAP_NET_RAW`, as a bit.
pub(super) const NET_RAW: u64 = 1 << 13;
/// `CAP_IPC_LOCK`, as a bit.
const IPC_LOCK: u64 = 1 << 14;

/// Everything, in the order in which it is shown.
pub(super) fn all(machine: &Machine, clock: &Clock) -> Vec<Check> {
    let mut checks = vec![kernel(machine), cpus(machine), isolation(machine), counter(clock)];
    checks.extend(governor(machine));
    checks.extend([hugepages(machine), transparent(machine), mounts(machine), memlock(machine)]);
    checks.extend([privilege(machine), iommu(machine), vfio(machine), nics(machine), peers(machine)]);
    checks
}

fn kernel(machine: &Machine) -> Check {
    let release = machine.text("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 14) {
        return Check::good("kernel", format!("Linux {release}"));
    }
    // MADV_POPULATE_WRITE came with it: missing hugepages are an error instead of a SIGBUS.
    Check::better("kernel", format!("Linux {release}"), "5.14 or newer tells of missing memory in time")
}

fn cpus(machine: &Machine) -> Check {
    let allowed = machine.field("proc/self/status", "Cpus_allowed_list:").unwrap_or_default();
    let topology = Topology::discover_in(&machine.system(), None);
    let online = topology.cpus().len();
    let usable = count(&allowed).unwrap_or(online).min(online);
    let nodes = topology.nodes().len().max(1);
    let found = format!("{usable} of {online} usable ({allowed}), NUMA nodes: {nodes}");
    match usable {
        0 | 1 => Check::better(
            "cpus",
            found,
            "a poll loop keeps one CPU busy: have two (look at taskset -p, and at the container's cpuset)",
        ),
        _ => Check::good("cpus", found),
    }
}

/// How many numbers are in a list like `0-3,8`; none when it is no such list.
fn count(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |sum, range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (usize, usize) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        Some(sum + to.checked_sub(from)? + 1)
    })
}

fn isolation(machine: &Machine) -> Check {
    match machine.text("sys/devices/system/cpu/isolated").filter(|list| !list.is_empty()) {
        Some(list) => Check::good("isolation", format!("CPUs {list} are kept free of other work")),
        None => Check::better(
            "isolation",
            "no CPU is kept free of other work",
            "for steady latency, boot with isolcpus=LIST nohz_full=LIST rcu_nocbs=LIST",
        ),
    }
}

fn counter(clock: &Clock) -> Check {
    let rate = clock.hz() as f64 / 1e9;
    match clock.source() {
        ClockSource::Counter => {
            Check::good("clock", format!("the CPUs' counter is invariant, {rate:.2} GHz"))
        }
        ClockSource::Kernel => Check::better(
            "clock",
            "the CPUs' counter changes its rate, so the kernel's clock is read, which is slower",
            "in a virtual machine, pass the host's CPU through (qemu: -cpu host,+invtsc)",
        ),
    }
}

/// Nothing where the kernel does not steer the frequency, as in most virtual machines.
fn governor(machine: &Machine) -> Option<Check> {
    let governor = machine.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
    Some(match governor.as_str() {
        "performance" => Check::good("governor", governor),
        _ => Check::better("governor", governor, "sudo cpupower frequency-set -g performance"),
    })
}

fn hugepages(machine: &Machine) -> Check {
    let pools = hugetlb::pools_in(&machine.system());
    if pools.is_empty() {
        return Check::better("hugepages", "this kernel has none", "a kernel with CONFIG_HUGETLBFS");
    }
    let described: Vec<_> = pools
        .iter()
        .map(|pool| {
            let (free, total) = pool.counts(None);
            let size = size_text(pool.page_size as u64);
            // A machine with one node has nothing to tell apart.
            let shares: Vec<_> = pool
                .nodes
                .iter()
                .map(|share| format!("node {}: {}/{}", share.node, share.free, share.total))
                .collect();
            match shares.len() {
                0 | 1 => format!("{size}: {free} of {total} free"),
                _ => format!("{size}: {free} of {total} free ({})", shares.join(", ")),
            }
        })
        .collect();
    let found = described.join("; ");
    if pools.iter().any(|pool| pool.available() > 0) {
        return Check::good("hugepages", found);
    }
    Check::better("hugepages", found, "sudo wirerate hugepages --reserve 1G")
}

fn transparent(machine: &Machine) -> Check {
    const TOPIC: &str = "thp";
    match transparent::mode_in(&machine.system()) {
        TransparentMode::Always => Check::good(TOPIC, "transparent huge pages everywhere"),
        TransparentMode::Advised => {
            Check::good(TOPIC, "transparent huge pages where a program asks for them")
        }
        TransparentMode::Never => Check::better(
            TOPIC,
            "no transparent huge pages",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

fn mounts(machine: &Machine) -> Check {
    let mounts = hugetlb::mounts_in(&machine.system());
    if mounts.is_empty() {
        return Check::good("hugetlbfs", "not mounted; only --huge-dir and DPDK programs need it");
    }
    let described: Vec<_> = mounts
        .iter()
        .map(|mount| format!("{} ({})", mount.path.display(), size_text(mount.page_size as u64)))
        .collect();
    Check::good("hugetlbfs", described.join(", "))
}

fn memlock(machine: &Machine) -> Check {
    let locks = machine.capabilities() & IPC_LOCK != 0;
    match machine.lockable() {
        None => Check::good("memlock", "no limit"),
        Some(bytes) if locks => {
            Check::good("memlock", format!("{}, which CAP_IPC_LOCK overrides", size_text(bytes)))
        }
        Some(bytes) => Check::better(
            "memlock",
            format!("at most {}; devices that are used through VFIO need more", size_text(bytes)),
            "ulimit -l unlimited, or memlock in /etc/security/limits.conf",
        ),
    }
}

fn privilege(machine: &Machine) -> Check {
    let held = machine.capabilities();
    let names = [("CAP_NET_ADMIN", NET_ADMIN), ("CAP_NET_RAW", NET_RAW), ("CAP_IPC_LOCK", IPC_LOCK)];
    let (has, lacks): (Vec<_>, Vec<_>) = names.into_iter().partition(|(_, bit)| held & bit != 0);
    let list =
        |names: Vec<(&str, u64)>| names.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    if lacks.is_empty() {
        return Check::good("privilege", list(has));
    }
    Check::lacking(
        "privilege",
        format!("without {}", list(lacks)),
        "run as root, or: sudo setcap cap_net_admin,cap_net_raw,cap_ipc_lock+ep PROGRAM",
    )
}

fn iommu(machine: &Machine) -> Check {
    match machine.entries("sys/kernel/iommu_groups") {
        0 => Check::lacking(
            "iommu",
            "no IOMMU groups: devices cannot be given to programs safely",
            "switch on VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on iommu=pt",
        ),
        groups => Check::good("iommu", format!("{groups} groups")),
    }
}

fn vfio(machine: &Machine) -> Check {
    if machine.exists("dev/vfio/vfio") || machine.exists("dev/vfio/devices") {
        return Check::good("vfio", "/dev/vfio is there");
    }
    Check::lacking("vfio", "no /dev/vfio", "sudo modprobe vfio-pci")
}

fn nics(machine: &Machine) -> Check {
    const TOPIC: &str = "nics";
    let binder = Binder::with(machine.system(), MEMORY, RealKernel::default());
    let devices = pci::scan(&machine.system());
    let nics: Vec<&PciDevice> = devices.iter().filter(|device| device.is_network()).collect();
    let list = |nics: &[&PciDevice]| {
        let name = |nic: &&PciDevice| match nic.interfaces.first() {
            Some(interface) => format!("{} ({})", nic.address, interface.name.escape_debug()),
            None => nic.address.to_string(),
        };
        nics.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let (given, kept): (Vec<_>, Vec<_>) = nics.into_iter().partition(|nic| nic.is_handed_over());
    let (used, idle): (Vec<_>, Vec<_>) = kept.into_iter().partition(|nic| binder.network_use(nic).is_some());
    if !given.is_empty() {
        return Check::good(TOPIC, format!("for programs: {}", list(&given)));
    }
    let Some(first) = idle.first() else {
        return Check::good(
            TOPIC,
            match list(&used) {
                none if none.is_empty() => "none on PCI; most drivers need none".to_owned(),
                used => format!("none to spare: this machine uses {used} itself"),
            },
        );
    };
    // Without an IOMMU, VFIO hands nothing over.
    let driver = if first.iommu_group.is_some() { "vfio-pci" } else { "uio_pci_generic" };
    Check::better(
        TOPIC,
        format!("none is given to programs; idle: {}", list(&idle)),
        format!("sudo wirerate bind --bind {driver} {}", first.address),
    )
}

fn peers(machine: &Machine) -> Check {
    let installed: Vec<_> = ["dpdk-testpmd", "qemu-system-x86_64", "qemu-system-aarch64", "tcpdump"]
        .into_iter()
        .filter(|program| machine.has_program(program))
        .collect();
    if installed.is_empty() {
        return Check::better(
            "peers",
            "none to test and compare with",
            "sudo apt install dpdk qemu-system tcpdump",
        );
    }
    Check::good("peers", installed.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tempfile::TempDir;
    use wirerate_pmd::port::registry::PCI_DRIVERS;

    use super::super::{State, Usable, as_json, as_text, usable};
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    fn laptop() -> (TempDir, Machine) {
        tree(&[
            ("proc/sys/kernel/osrelease", "6.8.0-45-generic\n"),
            ("proc/self/status", "Name:\twirerate\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-7\n"),
            (
                "proc/self/limits",
                "Max locked memory         8388608              8388608              bytes\n",
            ),
            ("sys/devices/system/cpu/online", "0-7\n"),
            ("sys/devices/system/cpu/isolated", "\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/node/node0/cpulist", "0-7\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("dev/net/tun", ""),
        ])
    }

    fn server() -> (TempDir, Machine) {
        let node =
            |node, file| format!("sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/{file}");
        let pool = |file| format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}");
        let group = |number| format!("sys/kernel/iommu_groups/{number}/type");
        tree(&[
            ("proc/sys/kernel/osrelease", "5.10.0\n"),
            ("proc/self/status", "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0,2-3\n"),
            (
                "proc/self/limits",
                "Max locked memory         unlimited            unlimited            bytes\n",
            ),
            ("proc/self/mounts", "none /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n"),
            ("sys/devices/system/cpu/online", "0-31\n"),
            ("sys/devices/system/cpu/isolated", "2-3\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/node/node0/cpulist", "0-15\n"),
            ("sys/devices/system/node/node1/cpulist", "16-31\n"),
            (&pool("nr_hugepages"), "1024"),
            (&pool("free_hugepages"), "1000"),
            (&node(0, "nr_hugepages"), "1000"),
            (&node(0, "free_hugepages"), "990"),
            (&node(1, "nr_hugepages"), "24"),
            (&node(1, "free_hugepages"), "10"),
            (&group(0), "DMA"),
            (&group(1), "DMA"),
            ("dev/vfio/vfio", ""),
            ("bin/dpdk-testpmd", ""),
        ])
    }

    /// All but the clock, which is this machine's own.
    fn told(machine: &Machine) -> Vec<(&'static str, State, String)> {
        let checks = all(machine, &Clock::calibrate());
        let rest = checks.into_iter().filter(|check| check.topic != "clock");
        rest.map(|check| (check.topic, check.state, check.found)).collect()
    }

    #[test]
    fn a_laptop_without_root_is_told_what_to_do() {
        use State::{Better, Good, Lacking};
        let (_root, machine) = laptop();
        let told = told(&machine);
        let expected = [
            ("kernel", Good, "Linux 6.8.0-45-generic"),
            ("cpus", Good, "8 of 8 usable (0-7), NUMA nodes: 1"),
            ("isolation", Better, "no CPU is kept free of other work"),
            ("governor", Better, "powersave"),
            ("hugepages", Better, "2M: 0 of 0 free"),
            ("thp", Good, "transparent huge pages where a program asks for them"),
            ("hugetlbfs", Good, "not mounted; only --huge-dir and DPDK programs need it"),
            ("memlock", Better, "at most 8M; devices that are used through VFIO need more"),
            ("privilege", Lacking, "without CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK"),
            ("iommu", Lacking, "no IOMMU groups: devices cannot be given to programs safely"),
            ("vfio", Lacking, "no /dev/vfio"),
            ("nics", Good, "none on PCI; most drivers need none"),
            ("peers", Better, "none to test and compare with"),
        ];
        assert_eq!(told, expected.map(|(topic, state, found)| (topic, state, found.to_owned())));
        let checks = all(&machine, &Clock::calibrate());
        assert!(checks.iter().all(|check| (check.state == Good) == check.mend.is_none()), "{checks:?}");
        let af_packet = usable(&machine).into_iter().find(|driver| driver.driver == "net_af_packet");
        assert!(af_packet.is_none_or(|driver| driver.lacks == Some("CAP_NET_RAW")));
        let on_pci = usable(&machine).into_iter().find(|driver| driver.driver == "net_virtio").unwrap();
        assert!(on_pci.lacks.unwrap().contains("wirerate bind"));
    }

    #[test]
    fn a_server_is_told_what_it_has() {
        use State::{Better, Good};
        let (root, machine) = server();
        let mut given = Vec::new();
        for (number, driver) in PCI_DRIVERS.iter().enumerate() {
            let (vendor, device) = driver.ids[0];
            let address = format!("0000:81:00.{number}");
            let folder = root.path().join("sys/bus/pci/devices").join(&address);
            fs::create_dir_all(&folder).unwrap();
            for (file, value) in [("vendor", vendor.into()), ("device", device.into()), ("class", 0x02_0000)]
            {
                fs::write(folder.join(file), format!("{value:#06x}\n")).unwrap();
            }
            symlink("../../vfio-pci", folder.join("driver")).unwrap();
            given.push(address);
        }
        let given = format!("for programs: {}", given.join(", "));
        let expected = [
            ("kernel", Better, "Linux 5.10.0"),
            ("cpus", Good, "3 of 32 usable (0,2-3), NUMA nodes: 2"),
            ("isolation", Good, "CPUs 2-3 are kept free of other work"),
            ("governor", Good, "performance"),
            ("hugepages", Good, "2M: 1000 of 1024 free (node 0: 990/1000, node 1: 10/24)"),
            ("thp", Better, "no transparent huge pages"),
            ("hugetlbfs", Good, "/dev/hugepages (2M)"),
            ("memlock", Good, "no limit"),
            ("privilege", Good, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK"),
            ("iommu", Good, "2 groups"),
            ("vfio", Good, "/dev/vfio is there"),
            ("nics", Good, given.as_str()),
            ("peers", Good, "dpdk-testpmd"),
        ];
        assert_eq!(told(&machine), expected.map(|(topic, state, found)| (topic, state, found.to_owned())));
        assert!(usable(&machine).iter().all(|driver| driver.driver == "net_tap" || driver.lacks.is_none()));
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_crash() {
        let (_root, machine) = tree(&[]);
        assert_eq!(told(&machine).len(), 12);
    }

    #[test]
    fn an_idle_nic_is_told_with_what_gives_it_to_programs() {
        let nic = |file| format!("sys/bus/pci/devices/0000:00:03.0/{file}");
        let (root, machine) = tree(&[
            (&nic("vendor"), "0x1af4"),
            (&nic("device"), "0x1041"),
            (&nic("class"), "0x020000"),
            (&nic("virtio0/net/wirerate-nic/flags"), "0x1003"),
        ]);
        let check = nics(&machine);
        assert_eq!(check.found, "none is given to programs; idle: 0000:00:03.0 (wirerate-nic)");
        assert_eq!(check.mend.unwrap(), "sudo wirerate bind --bind uio_pci_generic 0000:00:03.0");
        symlink("../../iommu_groups/1", root.path().join(nic("iommu_group"))).unwrap();
        assert!(nics(&machine).mend.unwrap().contains("vfio-pci"));
        symlink("../br0", root.path().join(nic("virtio0/net/wirerate-nic/upper_br0"))).unwrap();
        let check = nics(&machine);
        assert_eq!(check.found, "none to spare: this machine uses 0000:00:03.0 (wirerate-nic) itself");
        assert!(check.mend.is_none());
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, expected) in [("0", Some(1)), ("0-3,8", Some(5)), ("", None), ("3-0", None), ("x", None)] {
            assert_eq!(count(list), expected, "{list:?}");
        }
    }

    #[test]
    fn text_is_aligned_and_json_says_the_same() {
        let checks = [Check::good("cpus", "2 of 2"), Check::lacking("privilege", "none", "run as root")];
        let drivers = [
            Usable { driver: "net_ring", lacks: None },
            Usable { driver: "net_af_packet", lacks: Some("CAP_NET_RAW") },
        ];
        let text = as_text(&checks, &drivers);
        let expected = "\
ok cpus       2 of 2
-- privilege  none
              > run as root

drivers that work now:  net_ring
and that do not:        net_af_packet (needs CAP_NET_RAW)

";
        assert!(text.starts_with(expected), "{text}");
        let json = as_json(&checks, &drivers);
        assert_eq!(json["checks"][1]["mend"], "run as root");
        assert_eq!(
            (&json["checks"][0]["state"], &json["checks"][0]["mend"]),
            (&"good".into(), &serde_json::Value::Null)
        );
        assert_eq!(json["drivers"][1]["works"], false);
    }
}
