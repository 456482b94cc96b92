//! VFIO by iommufd (`linux/iommufd.h`, Linux 6.6 and later): a function is opened by itself, without its group, and its
//! memory is mapped in an address space that is no part of VFIO.

use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::container::open_device;
use super::uapi;
use crate::dma::iommu::{Aperture, Domain, Iommu};
use crate::dma::space::Space;
use crate::system::SystemRoot;

/// An address space, for any number of functions.
#[derive(Debug)]
pub(super) struct AddressSpace {
    iommufd: Arc<File>,
    ioas: u32,
    space: Arc<Space<Iommu<Ioas>>>,
}

impl AddressSpace {
    /// A new one.
    pub(super) fn new(root: &SystemRoot) -> io::Result<Self> {
        let iommufd = Arc::new(open_device(&root.path("dev/iommu"))?);
        let ioas = uapi::alloc_ioas(iommufd.as_fd())?;
        let domain = Ioas { iommufd: Arc::clone(&iommufd), ioas };
        // What it takes is known with the first function.
        let space = Arc::new(Space::new(Iommu::new(domain, Aperture { windows: Vec::new(), page: 0 })));
        Ok(Self { iommufd, ioas, space })
    }

    /// Where memory is mapped.
    pub(super) fn dma(&self) -> Arc<Space<Iommu<Ioas>>> {
        Arc::clone(&self.space)
    }

    /// Makes a function usable that was opened by its own file, and has it see this memory.
    pub(super) fn attach(&self, device: &File) -> io::Result<()> {
        uapi::bind_iommufd(device.as_fd(), self.iommufd.as_fd())?;
        uapi::attach_ioas(device.as_fd(), self.ioas)?;
        let aperture = self.aperture()?;
        self.space.with_mapper(|mapper| mapper.set_aperture(aperture));
        Ok(())
    }

    fn aperture(&self) -> io::Result<Aperture> {
        let mut ranges = vec![[0; 2]; 16];
        loop {
            let (count, alignment) = uapi::ioas_ranges(self.iommufd.as_fd(), self.ioas, &mut ranges)?;
            if count <= ranges.len() {
                ranges.truncate(count);
                return Ok(aperture(&ranges, alignment));
            }
            if count > 1 << 16 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            ranges.resize(count, [0; 2]);
        }
    }
}

/// From what the kernel tells: first and last addresses, and their alignment.
fn aperture(ranges: &[[u64; 2]], alignment: u64) -> Aperture {
    let windows: Vec<RangeInclusive<u64>> = ranges.iter().map(|[first, last]| *first..=*last).collect();
    Aperture { windows, page: alignment }
}

/// An address space of an iommufd, which ends with it.
#[derive(Debug)]
pub(super) struct Ioas {
    iommufd: Arc<File>,
    ioas: u32,
}

impl Domain for Ioas {
    fn map(&self, pages: Range<usize>, device: u64) -> io::Result<()> {
        uapi::map_ioas(self.iommufd.as_fd(), self.ioas, pages.start as u64, device, pages.len() as u64)
    }

    fn unmap(&self, device: u64, len: usize) -> io::Result<()> {
        uapi::unmap_ioas(self.iommufd.as_fd(), self.ioas, device, len as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::dma::space::Mapper;

    #[derive(Debug)]
    struct Any;

    impl Domain for Any {
        fn map(&self, _: Range<usize>, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn unmap(&self, _: u64, _: usize) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_ranges_of_an_address_space_are_its_windows() {
        let ranges = [[0x1_0000, 0xfedf_ffff], [9, 8], [0xfef0_0000, (1 << 39) - 1]];
        let mut iommu = Iommu::new(Any, aperture(&ranges, 1));
        assert_eq!(iommu.windows(), [0x1_0000..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1]);
        assert_eq!(iommu.page(), rustix::param::page_size());
        assert_eq!(iommu.map(0x7f00_0000_0000..0x7f00_0000_1000).unwrap()[0].device, 0x1_0000);
        iommu.set_aperture(aperture(&[], 4096));
        assert!(iommu.map(0x7f00_0001_0000..0x7f00_0001_1000).is_err());
    }

    #[test]
    fn a_file_that_is_no_iommufd_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = SystemRoot::at(directory.path());
        assert_eq!(AddressSpace::new(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(directory.path().join("dev")).unwrap();
        std::fs::write(directory.path().join("dev/iommu"), "").unwrap();
        assert_eq!(AddressSpace::new(&root).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
