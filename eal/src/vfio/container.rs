//! A VFIO container (`linux/vfio.h`, `Documentation/driver-api/vfio.rst`): the groups of functions that share one view of
//! memory.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{info, uapi};
use crate::dma::DmaSpace;
use crate::dma::iommu::{Domain, Iommu};
use crate::dma::space::Space;
use crate::pci::PciError;
use crate::pci::holder::Place;

/// The memory of a container's functions.
#[derive(Debug)]
pub(super) enum View {
    /// By the IOMMU; once the first group is there.
    Iommu(Mutex<Option<Arc<Space<Iommu<Type1>>>>>),
    /// None of the container's own: its functions use physical addresses.
    Physical(Arc<dyn DmaSpace>),
}

/// A container, of which the kernel's part ends with the last group that leaves it.
#[derive(Debug)]
pub(super) struct Container {
    fd: Arc<File>,
    view: View,
    groups: Mutex<BTreeMap<u32, Open>>,
    /// Whether it has had a group and has none any more. Its mappings are gone then, so it takes no other.
    is_over: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Open {
    fd: File,
    users: usize,
}

/// A use of a group, which is closed with the last.
#[derive(Debug)]
pub(super) struct Group {
    container: Arc<Container>,
    number: u32,
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut groups = self.container.lock();
        if let Some(open) = groups.get_mut(&self.number) {
            open.users -= 1;
            if open.users == 0 {
                groups.remove(&self.number);
            }
        }
        if groups.is_empty() {
            self.container.is_over.store(true, Ordering::Release);
        }
    }
}

/// Opens a device file of VFIO for reading and writing.
pub(super) fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

impl Container {
    /// A container that is empty yet. Without `physical` addresses, memory is mapped by the IOMMU.
    pub(super) fn new(place: &Place<'_>, physical: Option<Arc<dyn DmaSpace>>) -> Result<Self, PciError> {
        let path = place.root.path("dev/vfio/vfio");
        let fd = open_device(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                place.unusable("there is no /dev/vfio/vfio: load the module, `modprobe vfio-pci`, as root")
            }
            _ => place.failed("opening /dev/vfio/vfio", error),
        })?;
        match uapi::api_version(fd.as_fd()) {
            Ok(uapi::API_VERSION) => {}
            Ok(other) => {
                return Err(place.unusable(format!("VFIO has version {other} of its interface, not 0")));
            }
            Err(error) => return Err(place.failed("asking /dev/vfio/vfio for its version", error)),
        }
        let view = physical.map_or_else(|| View::Iommu(Mutex::new(None)), View::Physical);
        let is_over = Arc::new(AtomicBool::new(false));
        Ok(Self { fd: Arc::new(fd), view, groups: Mutex::default(), is_over })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Open>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes no more groups.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Opens a function of group `number`, which is at `path`; none if the container is over.
    #[expect(clippy::type_complexity, reason = "three things that belong together in one place only")]
    pub(super) fn open(
        self: &Arc<Self>,
        place: &Place<'_>,
        number: u32,
        path: &Path,
    ) -> Result<Option<(OwnedFd, Group, Arc<dyn DmaSpace>)>, PciError> {
        // Held until the use is counted, so that the group is not closed meanwhile.
        let mut groups = self.lock();
        if self.is_over() {
            return Ok(None);
        }
        let opened = match groups.get(&number) {
            Some(_) => None,
            None => Some(self.attach(place, groups.is_empty(), path)?),
        };
        let open = match opened {
            Some(fd) => groups.entry(number).or_insert(Open { fd, users: 0 }),
            None => match groups.get_mut(&number) {
                Some(open) => open,
                None => return Ok(None),
            },
        };
        open.users += 1;
        // From here on its drop closes the group if an error comes; the lock is released before that.
        let group = Group { container: Arc::clone(self), number };
        let device = CString::new(place.address.to_string())
            .map_err(io::Error::from)
            .and_then(|name| uapi::group_device(open.fd.as_fd(), &name));
        drop(groups);
        let device = device.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => place.unusable(busy(path)),
            _ => place.failed("opening it by VFIO", error),
        })?;
        Ok(Some((device, group, self.dma()?)))
    }

    /// Where memory is mapped.
    fn dma(&self) -> Result<Arc<dyn DmaSpace>, PciError> {
        match &self.view {
            View::Physical(space) => Ok(Arc::clone(space)),
            View::Iommu(space) => match &*space.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(space) => Ok(Arc::clone(space) as Arc<dyn DmaSpace>),
                None => Err(crate::dma::DmaError::Refused { problem: "VFIO has no IOMMU set".into() }.into()),
            },
        }
    }

    /// Opens a group and puts it into the container.
    fn attach(&self, place: &Place<'_>, is_first: bool, path: &Path) -> Result<File, PciError> {
        let group = open_device(path).map_err(|error| explain_group(place, path, error))?;
        match uapi::group_is_viable(group.as_fd()) {
            Ok(true) => {}
            Ok(false) => return Err(not_viable(place, path)),
            Err(error) => return Err(place.failed(format!("asking {} for its state", path.display()), error)),
        }
        let kind = self.kind(place)?;
        uapi::group_set_container(group.as_fd(), self.fd.as_fd()).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => place.unusable(format!(
                "the kernel does not let {} be used: without an IOMMU that needs CAP_SYS_RAWIO, and with one that it \
                 remaps interrupts (it said so in the kernel log)",
                path.display()
            )),
            _ => place.failed(format!("putting {} into a VFIO container", path.display()), error),
        })?;
        if is_first {
            uapi::set_iommu(self.fd.as_fd(), kind)
                .map_err(|error| place.failed(format!("setting the IOMMU of {}", path.display()), error))?;
        }
        if let View::Iommu(space) = &self.view {
            let aperture = uapi::iommu_info(self.fd.as_fd())
                .and_then(|bytes| info::aperture(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into()))
                .map_err(|error| place.failed("asking which addresses the IOMMU takes", error))?;
            let mut space = space.lock().unwrap_or_else(PoisonError::into_inner);
            match &*space {
                Some(space) => space.with_mapper(|mapper| mapper.set_aperture(aperture)),
                None => {
                    let domain = Type1 { fd: Arc::clone(&self.fd), is_over: Arc::clone(&self.is_over) };
                    *space = Some(Arc::new(Space::new(Iommu::new(domain, aperture))));
                }
            }
        }
        Ok(group)
    }

    /// The kind of IOMMU driver to use.
    fn kind(&self, place: &Place<'_>) -> Result<u32, PciError> {
        let kinds: &[u32] = match self.view {
            View::Iommu(_) => &[uapi::TYPE1_V2, uapi::TYPE1],
            View::Physical(_) => &[uapi::NO_IOMMU],
        };
        let has = |kind: &&u32| uapi::has_extension(self.fd.as_fd(), **kind).unwrap_or(false);
        kinds.iter().find(has).copied().ok_or_else(|| {
            place.unusable(match self.view {
                View::Iommu(_) => {
                    "VFIO has no driver for the IOMMU: load the module, `modprobe vfio_iommu_type1`, as root"
                }
                View::Physical(_) => {
                    "VFIO does not work without an IOMMU here: set enable_unsafe_noiommu_mode of the module vfio to 1, \
                     if the kernel has it"
                }
            })
        })
    }
}

fn busy(path: &Path) -> String {
    format!(
        "somebody else has it, or another function of its group ({}): end that program first",
        path.display()
    )
}

fn explain_group(place: &Place<'_>, path: &Path, error: io::Error) -> PciError {
    match error.raw_os_error() {
        Some(libc::EACCES) => place.unusable(format!(
            "no permission to open {0}: run as root, or have root run `chown USER {0}`",
            path.display()
        )),
        Some(libc::EPERM) => {
            place.unusable(format!("opening {} needs CAP_SYS_RAWIO: run as root", path.display()))
        }
        Some(libc::EBUSY) => place.unusable(busy(path)),
        _ => place.failed(format!("opening {}", path.display()), error),
    }
}

fn not_viable(place: &Place<'_>, path: &Path) -> PciError {
    let others = place.in_the_way();
    let others =
        if others.is_empty() { "functions that sysfs does not name".to_owned() } else { others.join(", ") };
    place.unusable(format!(
        "its IOMMU group {} has functions that drivers of the kernel still use: {others}; bind those to vfio-pci too, or \
         to no driver",
        path.display()
    ))
}

/// A container's IOMMU.
#[derive(Debug)]
pub(super) struct Type1 {
    fd: Arc<File>,
    is_over: Arc<AtomicBool>,
}

impl Domain for Type1 {
    fn map(&self, pages: Range<usize>, device: u64) -> io::Result<()> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(io::Error::other("the functions that it would be for were all given back"));
        }
        uapi::map_dma(self.fd.as_fd(), pages.start as u64, device, pages.len() as u64)
    }

    fn unmap(&self, device: u64, len: usize) -> io::Result<()> {
        let undone = uapi::unmap_dma(self.fd.as_fd(), device, len as u64);
        // The kernel forgot all mappings when the last group left.
        if self.is_over.load(Ordering::Acquire) { Ok(()) } else { undone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::tests::Machine;

    #[test]
    fn what_keeps_a_group_from_being_opened_is_said() {
        let machine = Machine::new();
        machine.function("0000:00:03.0", Some("vfio-pci"), Some(7));
        machine.function("0000:00:03.1", Some("e1000e"), Some(7));
        let place = machine.place("0000:00:03.0");
        let path = Path::new("/dev/vfio/7");
        let explain = |code| explain_group(&place, path, io::Error::from_raw_os_error(code)).to_string();
        assert_eq!(
            explain(libc::EACCES),
            "0000:00:03.0: no permission to open /dev/vfio/7: run as root, or have root run `chown USER /dev/vfio/7`"
        );
        assert!(explain(libc::EPERM).contains("CAP_SYS_RAWIO"));
        assert!(explain(libc::EBUSY).contains("somebody else has it"));
        assert!(explain(libc::ENODEV).starts_with("0000:00:03.0: opening /dev/vfio/7 failed"));
        assert!(not_viable(&place, path).to_string().contains("still use: 0000:00:03.1 (e1000e); bind"));
        let error = Container::new(&place, None).map(drop).unwrap_err().to_string();
        assert!(error.contains("there is no /dev/vfio/vfio"), "{error}");
        machine.file("dev/vfio/vfio", b"");
        let error = Container::new(&place, None).map(drop).unwrap_err().to_string();
        assert!(error.contains("asking /dev/vfio/vfio for its version failed"), "{error}");
    }
}
