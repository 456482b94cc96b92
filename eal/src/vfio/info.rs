//! Reads what VFIO tells of devices, regions and IOMMUs (`linux/vfio.h`), out of bytes of any length and content.

use std::ops::RangeInclusive;

use crate::dma::iommu::Aperture;

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    bytes.get(offset..end)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    bytes.get(offset..end)?.try_into().ok().map(u64::from_ne_bytes)
}

/// A `vfio_device_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) is_pci: bool,
    pub(super) can_reset: bool,
    pub(super) regions: u32,
    pub(super) irqs: u32,
}

impl Device {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let flags = u32_at(bytes, 4)?;
        Some(Self {
            is_pci: flags & 1 << 1 != 0,
            can_reset: flags & 1 != 0,
            regions: u32_at(bytes, 8)?,
            irqs: u32_at(bytes, 12)?,
        })
    }
}

/// A `vfio_region_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// It can be mapped, at least in part.
    pub(super) can_map: bool,
    /// Only in part.
    pub(super) is_sparse: bool,
    pub(super) len: u64,
    /// Where it begins in the device's file.
    pub(super) offset: u64,
}

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
const SPARSE_MMAP: u16 = 1;

impl Region {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let flags = u32_at(bytes, 4)?;
        let mut chain = Chain::new(bytes, if flags & 1 << 3 != 0 { u32_at(bytes, 12)? } else { 0 });
        Some(Self {
            can_map: flags & 1 << 2 != 0,
            is_sparse: chain.any(|(id, _)| id == SPARSE_MMAP),
            len: u64_at(bytes, 16)?,
            offset: u64_at(bytes, 24)?,
        })
    }
}

/// How many there are, of a `vfio_irq_info`; 0 if they cannot signal an eventfd.
pub(super) fn irq_count(bytes: &[u8]) -> Option<u32> {
    let flags = u32_at(bytes, 4)?;
    let count = u32_at(bytes, 12)?;
    Some(if flags & 1 != 0 { count } else { 0 })
}

/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`.
const IOVA_RANGE: u16 = 1;

/// What a `vfio_iommu_type1_info` says that may be mapped. A kernel before 5.4 has no ranges: then 39 bits, which every
/// VT-d has, from 4 GiB, above where interrupts are.
pub(super) fn aperture(bytes: &[u8]) -> Option<Aperture> {
    let flags = u32_at(bytes, 4)?;
    let sizes = if flags & 1 != 0 { u64_at(bytes, 8)? } else { 0 };
    let page = if sizes == 0 { 4096 } else { 1 << sizes.trailing_zeros() };
    let mut chain = Chain::new(bytes, if flags & 1 << 1 != 0 { u32_at(bytes, 16)? } else { 0 });
    let windows = match chain.find(|(id, _)| *id == IOVA_RANGE) {
        Some((_, body)) => iova_ranges(body),
        None => vec![1 << 32..=(1 << 39) - 1],
    };
    Some(Aperture { windows, page })
}

/// The ranges that follow a count and 4 reserved bytes. A range that is cut or turned round is left out.
fn iova_ranges(body: &[u8]) -> Vec<RangeInclusive<u64>> {
    let count = u32_at(body, 0).unwrap_or(0) as usize;
    body.get(8..)
        .unwrap_or(&[])
        .chunks_exact(16)
        .take(count)
        .filter_map(|range| Some(u64_at(range, 0)?..=u64_at(range, 8)?))
        .filter(|range| !range.is_empty())
        .collect()
}

/// The capabilities (`vfio_info_cap_header`) of an information: each with its number and what follows its header.
/// Each is further on than the one before it, so that no chain is without end.
struct Chain<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> Chain<'a> {
    /// The header's length: id, version, next.
    const HEADER: usize = 8;

    fn new(bytes: &'a [u8], first: u32) -> Self {
        Self { bytes, next: first as usize }
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let here = std::mem::take(&mut self.next);
        if here == 0 {
            return None;
        }
        let id = u16::from_ne_bytes(self.bytes.get(here..here.checked_add(2)?)?.try_into().ok()?);
        let next = u32_at(self.bytes, here.checked_add(4)?)? as usize;
        let end = if next > here { next.min(self.bytes.len()) } else { self.bytes.len() };
        let body = self.bytes.get(here + Self::HEADER..end)?;
        self.next = if next > here { next } else { 0 };
        Some((id, body))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// id 1, version 1, as a word of this machine.
    fn head(id: u16) -> u32 {
        let ([a, b], [c, d]) = (id.to_ne_bytes(), 1u16.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    /// As Linux 6.1 answers for VT-d: the ranges, and two capabilities more.
    fn iommu() -> Vec<u8> {
        let low = if cfg!(target_endian = "little") { [0, 1, 2, 3] } else { [1, 0, 3, 2] };
        let range = |words: [u32; 4]| low.map(|at| words[at]);
        let mut info = vec![112, 3];
        let sizes = [0x4020_1000u32, 0];
        info.extend(low[..2].iter().map(|at| sizes[*at]));
        info.extend([24, 0]);
        info.extend([head(1), 64, 2, 0]);
        info.extend(range([0, 0, 0xfedf_ffff, 0]));
        info.extend(range([0xfef0_0000, 0, 0xffff_ffff, 0xffff]));
        assert_eq!(info.len() * 4, 72);
        // The chain's next begins at 64, within what stands above: that is put right here.
        info[7] = 72;
        info.extend([head(3), 88, 65535, 0]);
        info.extend([head(2), 0, 0, 0, 0, 0]);
        words(&info)
    }

    #[test]
    fn the_windows_of_an_iommu_are_read() {
        let aperture = aperture(&iommu()).unwrap();
        assert_eq!(aperture.page, 4096);
        assert_eq!(aperture.windows, [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff]);
    }

    #[test]
    fn an_information_that_is_cut_is_read_as_far_as_it_goes() {
        let whole = iommu();
        for len in 0..whole.len() {
            let cut = aperture(&whole[..len]);
            assert_eq!(cut.is_some(), len >= 20, "{len}");
            if let Some(cut) = cut {
                assert!(cut.windows.len() <= 2);
                assert!(len < 72 || cut.windows.len() == 2);
            }
        }
    }

    #[test]
    fn a_chain_that_turns_back_or_leaves_ends() {
        for next in [24, 4, 1, u32::MAX, 40] {
            let mut bytes = iommu();
            bytes[28..32].copy_from_slice(&next.to_ne_bytes());
            bytes[24] = 9;
            bytes[25] = 9;
            let aperture = aperture(&bytes).unwrap();
            assert_eq!(aperture.windows, [1 << 32..=(1 << 39) - 1], "{next}");
        }
        for first in [1, 105, 200, u32::MAX] {
            let mut bytes = iommu();
            bytes[16..20].copy_from_slice(&first.to_ne_bytes());
            assert!(aperture(&bytes).is_some());
        }
    }

    #[test]
    fn more_ranges_than_there_are_are_not_read() {
        let mut bytes = iommu();
        bytes[32..36].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(aperture(&bytes).unwrap().windows.len(), 2);
        // A range that ends before it begins.
        bytes[40..48].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(aperture(&bytes).unwrap().windows.len(), 1);
    }

    #[test]
    fn devices_regions_and_interrupts_are_read() {
        let device = Device::read(&words(&[16, 3, 9, 5])).unwrap();
        assert_eq!(device, Device { is_pci: true, can_reset: true, regions: 9, irqs: 5 });
        assert_eq!(Device::read(&words(&[16, 3, 9])), None);
        let mut region = words(&[32, 7, 0, 0]);
        region.extend(0x2_0000u64.to_ne_bytes());
        region.extend((1u64 << 40).to_ne_bytes());
        let read = Region::read(&region).unwrap();
        assert_eq!(read, Region { can_map: true, is_sparse: false, len: 0x2_0000, offset: 1 << 40 });
        assert_eq!(Region::read(&region[..31]), None);
        region[4] = 15;
        region[12] = 32;
        region.extend(words(&[head(1), 0, 1, 0]));
        assert!(Region::read(&region).unwrap().is_sparse);
        assert_eq!(irq_count(&words(&[16, 1, 2, 5])), Some(5));
        assert_eq!(irq_count(&words(&[16, 0, 2, 5])), Some(0));
    }
}
