//! `wirerate bind` in Linux guests: the kernel's drivers give interfaces away and get them back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::exclusive;
use wirerate_tests::guest::{self, Guest, Machine, Nic};
use wirerate_tests::needs::{Need, trial};

const NEEDS: &[Need] = &[Need::Qemu, Need::GuestKernel];
/// Time for a command: an emulated processor starts a program in a second.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("bind::an_interface_goes_to_vfio_and_comes_back", NEEDS, || {
            in_guest(Machine::new("vfio").iommu(48), vfio)
        }),
        trial("bind::without_an_iommu_uio_takes_it", NEEDS, || in_guest(Machine::new("uio"), uio)),
    ]
}

/// A guest with two interfaces of the kernel's, and all that can take them from it.
fn in_guest(machine: Machine, checks: fn(&mut Guest, &[String; 2]) -> Result<()>) -> Result<()> {
    let _turn = exclusive::processors();
    let machine = machine.module("vfio_pci").module("vfio_iommu_type1").module("uio_pci_generic");
    let machine = machine.ours("wirerate").nic(Nic::hub(0)).nic(Nic::hub(0));
    let [mut guest] = guest::boot([&machine])?;
    let checked = (|| {
        let devices = [guest.pci_address(0)?, guest.pci_address(1)?];
        checks(&mut guest, &devices)
    })();
    checked.with_context(|| guest.log())
}

/// What `wirerate bind` prints when it succeeds.
fn bind(guest: &mut Guest, arguments: &str) -> Result<String> {
    guest.run_within(&format!("wirerate bind {arguments}"), LIMIT)
}

/// The line with which it refuses.
fn refusal(guest: &mut Guest, arguments: &str) -> Result<String> {
    let outcome = guest.outcome(&format!("wirerate bind {arguments}"), LIMIT)?;
    ensure!(outcome.status == 1, "{arguments:?} ended with {}:\n{}", outcome.status, outcome.output);
    ensure!(outcome.output.lines().count() == 1, "{arguments:?} said more than a line:\n{}", outcome.output);
    Ok(outcome.output)
}

fn expect(text: &str, words: &[&str]) -> Result<()> {
    let missing: Vec<_> = words.iter().filter(|words| !text.contains(**words)).collect();
    ensure!(missing.is_empty(), "no {missing:?} in:\n{text}");
    Ok(())
}

/// The driver in sysfs, and what overrides it.
fn driver(guest: &mut Guest, device: &str) -> Result<String> {
    let script =
        format!("cd /sys/bus/pci/devices/{device}; basename $(readlink driver); cat driver_override");
    Ok(guest.run(&script)?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn vfio(guest: &mut Guest, [first, second]: &[String; 2]) -> Result<()> {
    expect(
        &bind(guest, "")?,
        &[&format!("{first} 'Device 1af4:1041' if=eth0 drv=virtio-pci unused="), " if=eth1 "],
    )?;
    let bound = bind(guest, "-b vfio-pci eth0")?;
    ensure!(bound == format!("{first}: vfio-pci instead of virtio-pci\n"), "{bound}");
    ensure!(driver(guest, first)? == "vfio-pci vfio-pci", "{}", driver(guest, first)?);
    guest.run("ls /dev/vfio/[0-9]*; [ ! -e /sys/class/net/eth0 ]")?;
    expect(&bind(guest, "--status")?, &["DPDK-compatible driver\n", " drv=vfio-pci unused=", "--restore"])?;
    // Programs that have its group open are in the way of its way back.
    guest.run("sleep 1000 3<>/dev/vfio/$(basename $(readlink /sys/bus/pci/drivers/vfio-pci/*/iommu_group)) & sleep 1")?;
    expect(&refusal(guest, "--restore")?, &[first, "\"sleep\"", "has it open"])?;
    guest.run("kill $(pidof sleep); sleep 1")?;
    let back = bind(guest, "--restore")?;
    ensure!(back == format!("{first}: virtio-pci instead of vfio-pci\n"), "{back}");
    ensure!(driver(guest, first)? == "virtio-pci (null)", "{}", driver(guest, first)?);
    guest.run("[ -e /sys/class/net/eth0 ] && ! ls /run/wirerate/bind | grep .")?;

    // What the machine uses stays, unless it is forced.
    guest.run("ip address add 192.0.2.7/24 dev eth1 && ip link set eth1 up")?;
    expect(&refusal(guest, "-b vfio-pci eth1")?, &[second, "eth1 has the address 192.0.2.7", "--force"])?;
    expect(&bind(guest, "")?, &["*Active*"])?;
    guest.run("ip address flush dev eth1 && ip route add 198.51.100.0/24 dev eth1")?;
    expect(&refusal(guest, "-u eth1")?, &["eth1 is the way to 198.51.100.0/24"])?;
    bind(guest, "-b vfio-pci --force eth1")?;
    ensure!(driver(guest, second)? == "vfio-pci vfio-pci", "{}", driver(guest, second)?);
    Ok(())
}

fn uio(guest: &mut Guest, [first, second]: &[String; 2]) -> Result<()> {
    expect(&refusal(guest, "-b vfio-pci eth0")?, &["no IOMMU", "intel_iommu=on", "uio_pci_generic"])?;
    expect(&refusal(guest, "-b igb_uio eth0")?, &["no driver igb_uio", "modprobe igb_uio"])?;
    // A driver that knows other devices only; what was taken for the attempt is given back.
    expect(&refusal(guest, "-b pcieport eth0")?, &["pcieport did not take it", "does not know 1af4:1041"])?;
    ensure!(driver(guest, first)? == "virtio-pci (null)", "{}", driver(guest, first)?);

    bind(guest, "-b uio_pci_generic eth0 eth1")?;
    guest.run("[ -e /dev/uio0 ] && [ -e /dev/uio1 ]")?;
    // From one driver for programs to none, and back to the first of all.
    expect(&bind(guest, &format!("-u {first}"))?, &["no driver instead of uio_pci_generic"])?;
    expect(
        &bind(guest, "--restore")?,
        &["virtio-pci instead of no driver", "virtio-pci instead of uio_pci_generic"],
    )?;
    for device in [first, second] {
        ensure!(driver(guest, device)? == "virtio-pci (null)", "{}", driver(guest, device)?);
    }
    // What is lost by a crash or a cleaner is found by the kernel.
    bind(guest, &format!("-b uio_pci_generic {second}"))?;
    guest.run("rm -r /run/wirerate")?;
    expect(&bind(guest, &format!("--restore {second}"))?, &["virtio-pci instead of uio_pci_generic"])?;
    Ok(())
}
