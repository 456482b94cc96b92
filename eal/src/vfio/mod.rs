//! Functions by VFIO (`linux/vfio.h`): their registers, their interrupts, and memory that an IOMMU lets them reach.
//!
//! | file | |
//! |---|---|
//! | `device` | a function, by the file that VFIO made for it |
//! | `container` | containers and groups: how VFIO puts functions and an IOMMU together |
//! | `iommufd` | the newer way, without groups |
//! | `info` | reads what the kernel tells |
//! | `uapi` | the kernel's structs, numbers and calls |

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

mod container;
mod device;
mod info;
mod iommufd;
mod uapi;

use container::{Container, Group};
use iommufd::AddressSpace;

pub(crate) use device::Device;

use crate::dma::DmaSpace;
use crate::pci::PciError;
use crate::pci::holder::Place;

/// What the functions of one [`Eal`](crate::Eal) share, while there are any: memory is mapped once for all of them.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    container: Mutex<Weak<Container>>,
    address_space: Mutex<Weak<AddressSpace>>,
}

/// What is to be kept while a function is used.
#[derive(Debug)]
enum Hold {
    Group { _group: Group },
    AddressSpace { _space: Arc<AddressSpace> },
}

/// A function that VFIO opened.
struct Opened {
    file: File,
    hold: Hold,
    dma: Arc<dyn DmaSpace>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Opens a function that an IOMMU watches.
    pub(crate) fn open(&self, place: &Place<'_>) -> Result<Device, PciError> {
        let opened = match self.by_iommufd(place)? {
            Some(opened) => opened,
            None => self.by_group(place)?,
        };
        Device::new(place, opened)
    }

    /// Opens a function by its own file; none if that does not work, but its group's file is there to be tried.
    fn by_iommufd(&self, place: &Place<'_>) -> Result<Option<Opened>, PciError> {
        let Some(&number) = place.numbered("vfio-dev", "vfio").first() else { return Ok(None) };
        let path = place.root.path(format!("dev/vfio/devices/vfio{number}"));
        if !path.exists() {
            return Ok(None);
        }
        let open = || {
            let mut shared = lock(&self.address_space);
            let file = container::open_device(&path)?;
            let space = match shared.upgrade() {
                Some(space) => space,
                None => Arc::new(AddressSpace::new(place.root)?),
            };
            space.attach(&file)?;
            *shared = Arc::downgrade(&space);
            let dma = space.dma();
            Ok::<_, std::io::Error>(Opened { file, hold: Hold::AddressSpace { _space: space }, dma })
        };
        let has_group =
            || place.group().is_some_and(|group| place.root.path(format!("dev/vfio/{group}")).exists());
        match open() {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if has_group() => {
                tracing::debug!("{}: {} is not used: {error}", place.address, path.display());
                Ok(None)
            }
            Err(error) => {
                Err(place.failed(format!("opening {} and /dev/iommu for it", path.display()), error))
            }
        }
    }

    /// Opens a function by its group.
    fn by_group(&self, place: &Place<'_>) -> Result<Opened, PciError> {
        let number = group(place)?;
        let path = place.root.path(format!("dev/vfio/{number}"));
        if !path.exists() {
            return Err(place.unusable(if place.root.path(format!("dev/vfio/noiommu-{number}")).exists() {
                "no IOMMU watches it, so it could write anywhere: switch the IOMMU on, or open it with no_iommu if that \
                 is acceptable"
                    .to_owned()
            } else {
                format!("there is no {}: bind it to vfio-pci anew", path.display())
            }));
        }
        let mut shared = lock(&self.container);
        let mut tried = shared.upgrade();
        loop {
            let container = match tried.take() {
                Some(container) => container,
                None => Arc::new(Container::new(place, None)?),
            };
            // The last function of the container may be given back just now; then a new one is made.
            if let Some((file, group, dma)) = container.open(place, number, &path)? {
                *shared = Arc::downgrade(&container);
                return Ok(Opened { file: file.into(), hold: Hold::Group { _group: group }, dma });
            }
        }
    }
}

/// Opens a function that no IOMMU watches, with physical addresses.
pub(crate) fn open_without_iommu(place: &Place<'_>, physical: Arc<dyn DmaSpace>) -> Result<Device, PciError> {
    let number = group(place)?;
    let path = place.root.path(format!("dev/vfio/noiommu-{number}"));
    if !path.exists() {
        return Err(place.unusable(format!(
            "there is no {}: it has an IOMMU, so open it without no_iommu; or set enable_unsafe_noiommu_mode of the \
             module vfio to 1 and bind it anew",
            path.display()
        )));
    }
    let container = Arc::new(Container::new(place, Some(physical))?);
    match container.open(place, number, &path)? {
        Some((file, group, dma)) => {
            Device::new(place, Opened { file: file.into(), hold: Hold::Group { _group: group }, dma })
        }
        None => Err(place.unusable("its VFIO container ended")),
    }
}

fn group(place: &Place<'_>) -> Result<u32, PciError> {
    place.group().ok_or_else(|| {
        place.unusable(
            "it is in no IOMMU group: switch the IOMMU on in the firmware and by intel_iommu=on or amd_iommu=on on the \
             kernel's command line, or bind it to uio_pci_generic",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::pci::tests::Machine;

    #[test]
    fn what_a_machine_lacks_for_vfio_is_said() {
        let machine = Machine::new();
        let open = |address| Shared::default().open(&machine.place(address)).unwrap_err().to_string();
        machine.function("0000:00:03.0", Some("vfio-pci"), None);
        assert!(open("00:03.0").contains("it is in no IOMMU group"));
        machine.function("0000:00:04.0", Some("vfio-pci"), Some(4));
        assert!(open("00:04.0").contains("/dev/vfio/4: bind it to vfio-pci anew"));
        machine.file("dev/vfio/noiommu-4", b"");
        assert!(open("00:04.0").contains("open it with no_iommu"));
        machine.file("dev/vfio/4", b"");
        assert!(open("00:04.0").contains("there is no /dev/vfio/vfio"));
    }

    #[test]
    fn a_kernel_whose_iommufd_does_not_work_has_groups() {
        let machine = Machine::new();
        machine.function("0000:00:04.0", Some("vfio-pci"), Some(4));
        machine.file("sys/bus/pci/devices/0000:00:04.0/vfio-dev/vfio0/dev", b"");
        machine.file("dev/vfio/devices/vfio0", b"");
        machine.file("dev/iommu", b"");
        let open = || Shared::default().open(&machine.place("00:04.0")).unwrap_err().to_string();
        let error = open();
        assert!(error.contains("dev/vfio/devices/vfio0 and /dev/iommu for it failed"), "{error}");
        machine.file("dev/vfio/4", b"");
        let error = open();
        assert!(error.contains("there is no /dev/vfio/vfio"), "{error}");
    }
}
