//! Memory mapped by an IOMMU: for devices it is at the addresses that this process uses, or where the IOMMU has room.

use std::fmt;
use std::io;
use std::ops::{Range, RangeInclusive};

use rustix::io::Errno;

use super::iova::Iovas;
use super::memlock;
use super::space::Mapper;
use super::{DmaError, DmaRange};

/// An IOMMU's translation of device addresses.
pub(crate) trait Domain: Send + fmt::Debug + 'static {
    /// Has devices find `pages` of this process at `device` and after.
    fn map(&self, pages: Range<usize>, device: u64) -> io::Result<()>;

    /// Undoes it for `len` bytes.
    fn unmap(&self, device: u64, len: usize) -> io::Result<()>;
}

/// What an IOMMU takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aperture {
    /// Device addresses.
    pub(crate) windows: Vec<RangeInclusive<u64>>,
    /// Bytes of its smallest page.
    pub(crate) page: u64,
}

/// Maps by a [`Domain`].
#[derive(Debug)]
pub(crate) struct Iommu<D> {
    domain: D,
    iovas: Iovas,
    page: usize,
    mapped: usize,
}

impl<D: Domain> Iommu<D> {
    pub(crate) fn new(domain: D, aperture: Aperture) -> Self {
        let mut iommu = Self { domain, iovas: Iovas::new(Vec::new()), page: 0, mapped: 0 };
        iommu.set_aperture(aperture);
        iommu
    }

    /// What is taken from now on: it may shrink when another device comes.
    pub(crate) fn set_aperture(&mut self, aperture: Aperture) {
        let page = usize::try_from(aperture.page).ok().filter(|page| page.is_power_of_two()).unwrap_or(0);
        self.page = page.max(rustix::param::page_size());
        self.iovas.set_windows(aperture.windows);
    }
}

impl<D: Domain> Mapper for Iommu<D> {
    fn page(&self) -> usize {
        self.page
    }

    fn map(&mut self, pages: Range<usize>) -> Result<Box<[DmaRange]>, DmaError> {
        let (base, len) = (pages.start, pages.len());
        let same = base as u64;
        let device = if self.iovas.take_at(same, len as u64) {
            same
        } else {
            self.iovas.take(len as u64, self.page as u64, same).ok_or_else(|| self.no_room(&pages))?
        };
        self.domain.map(pages.clone(), device).map_err(|error| {
            self.iovas.give_back(device);
            match Errno::from_io_error(&error) {
                Some(Errno::NOMEM) => memlock::refused(len, self.mapped),
                Some(Errno::NOSPC) => DmaError::Refused {
                    problem: format!(
                        "mapping {len} bytes at {base:#x} for devices failed: {error}: there are too many mappings; use \
                         larger pages, or raise dma_entry_limit of the module vfio_iommu_type1"
                    ),
                },
                _ => DmaError::Refused {
                    problem: format!(
                        "mapping {len} bytes at {base:#x} for devices, at their address {device:#x}, failed: {error}"
                    ),
                },
            }
        })?;
        self.mapped += len;
        Ok([DmaRange { base, len, device }].into())
    }

    fn unmap(&mut self, ranges: &[DmaRange]) {
        for range in ranges {
            self.mapped -= range.len;
            match self.domain.unmap(range.device, range.len) {
                Ok(()) => self.iovas.give_back(range.device),
                // It stays taken, so that nothing else is put there. The kernel holds the pages.
                Err(error) => tracing::warn!("unmapping {} bytes from devices failed: {error}", range.len),
            }
        }
    }

    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        self.iovas.windows().to_vec()
    }
}

impl<D: Domain> Iommu<D> {
    fn no_room(&self, pages: &Range<usize>) -> DmaError {
        let windows: Vec<String> = self
            .windows()
            .iter()
            .map(|window| format!("{:#x}-{:#x}", window.start(), window.end()))
            .collect();
        DmaError::Refused {
            problem: format!(
                "{} bytes at {:#x} have no room among the addresses that the IOMMU takes ({}): reserve less",
                pages.len(),
                pages.start,
                windows.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Model {
        calls: Arc<Mutex<Vec<String>>>,
        refuse: Option<Errno>,
    }

    impl Domain for Model {
        fn map(&self, pages: Range<usize>, device: u64) -> io::Result<()> {
            self.calls.lock().unwrap().push(format!("{:x}+{:x}@{device:x}", pages.start, pages.len()));
            self.refuse.map_or(Ok(()), |error| Err(error.into()))
        }

        fn unmap(&self, device: u64, len: usize) -> io::Result<()> {
            self.calls.lock().unwrap().push(format!("-{len:x}@{device:x}"));
            self.refuse.map_or(Ok(()), |error| Err(error.into()))
        }
    }

    fn iommu(bits: u32, model: &Model) -> Iommu<Model> {
        let windows = vec![0..=0xfedf_ffff, 0xfef0_0000..=(1 << bits) - 1];
        Iommu::new(model.clone(), Aperture { windows, page: 4096 })
    }

    #[test]
    fn devices_use_our_addresses_where_the_iommu_takes_them() {
        let model = Model::default();
        let mut iommu = iommu(48, &model);
        let ranges = iommu.map(0x7f00_0000_0000..0x7f00_0000_2000).unwrap();
        assert_eq!(*ranges, [DmaRange { base: 0x7f00_0000_0000, len: 0x2000, device: 0x7f00_0000_0000 }]);
        iommu.unmap(&ranges);
        assert_eq!(*model.calls.lock().unwrap(), ["7f0000000000+2000@7f0000000000", "-2000@7f0000000000"]);
    }

    #[test]
    fn a_narrow_iommu_gets_addresses_of_its_own() {
        let model = Model::default();
        let mut iommu = iommu(39, &model);
        let large = iommu.map(0x7f00_0010_0000..0x7f00_0030_0000).unwrap();
        assert_eq!(large[0].device, 0x10_0000);
        let small = iommu.map(0x7f00_1000_0000..0x7f00_1000_1000).unwrap();
        assert_eq!(small[0].device, 0x1000);
        iommu.unmap(&small);
        assert_eq!(iommu.map(0x7f00_2000_0000..0x7f00_2000_1000).unwrap()[0].device, 0x1000);
        let error = iommu.map(0x4000_0000_0000..0x5000_0000_0000).unwrap_err().to_string();
        assert!(
            error.contains("no room") && error.contains("0x0-0xfedfffff, 0xfef00000-0x7fffffffff"),
            "{error}"
        );
    }

    #[test]
    fn what_is_refused_takes_no_address_and_says_why() {
        let model = Model { refuse: Some(Errno::NOMEM), ..Model::default() };
        let mut iommu = iommu(39, &model);
        for _ in 0..2 {
            let error = iommu.map(0x7f00_0000_0000..0x7f00_0000_1000).unwrap_err().to_string();
            assert!(error.contains("4 KiB"), "{error}");
        }
        assert_eq!(*model.calls.lock().unwrap(), ["7f0000000000+1000@1000"; 2]);
        iommu.domain.refuse = Some(Errno::NOSPC);
        let error = iommu.map(0x7f00_0000_0000..0x7f00_0000_1000).unwrap_err().to_string();
        assert!(error.contains("dma_entry_limit"), "{error}");
    }

    #[test]
    fn an_address_that_could_not_be_unmapped_is_not_used_again() {
        let model = Model::default();
        let mut iommu = iommu(39, &model);
        let ranges = iommu.map(0x7f00_0000_0000..0x7f00_0000_1000).unwrap();
        iommu.domain.refuse = Some(Errno::INVAL);
        iommu.unmap(&ranges);
        iommu.domain.refuse = None;
        assert_eq!(iommu.map(0x7f00_0000_0000..0x7f00_0000_1000).unwrap()[0].device, 0x2000);
    }
}
