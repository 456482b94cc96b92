//! The part of the kernel's `linux/vfio.h` and `linux/iommufd.h` that is used, and its calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::ioctl::opcode;

/// A request without direction or size in its number, as all of both headers are.
const fn request(number: u8) -> libc::Ioctl {
    opcode::none(b';', number) as libc::Ioctl
}

// linux/vfio.h: VFIO_BASE is 100.
const GET_API_VERSION: libc::Ioctl = request(100);
const CHECK_EXTENSION: libc::Ioctl = request(101);
const SET_IOMMU: libc::Ioctl = request(102);
const GROUP_GET_STATUS: libc::Ioctl = request(103);
const GROUP_SET_CONTAINER: libc::Ioctl = request(104);
const GROUP_GET_DEVICE_FD: libc::Ioctl = request(106);
const DEVICE_GET_INFO: libc::Ioctl = request(107);
const DEVICE_GET_REGION_INFO: libc::Ioctl = request(108);
const DEVICE_GET_IRQ_INFO: libc::Ioctl = request(109);
const DEVICE_SET_IRQS: libc::Ioctl = request(110);
const DEVICE_RESET: libc::Ioctl = request(111);
const IOMMU_GET_INFO: libc::Ioctl = request(112);
const IOMMU_MAP_DMA: libc::Ioctl = request(113);
const IOMMU_UNMAP_DMA: libc::Ioctl = request(114);
const DEVICE_BIND_IOMMUFD: libc::Ioctl = request(118);
const DEVICE_ATTACH_IOMMUFD_PT: libc::Ioctl = request(119);
// linux/iommufd.h: IOMMUFD_CMD_BASE is 0x80.
const IOAS_ALLOC: libc::Ioctl = request(0x81);
const IOAS_IOVA_RANGES: libc::Ioctl = request(0x84);
const IOAS_MAP: libc::Ioctl = request(0x85);
const IOAS_UNMAP: libc::Ioctl = request(0x86);

/// `VFIO_API_VERSION`.
pub(super) const API_VERSION: i32 = 0;
/// `VFIO_TYPE1_IOMMU`, `VFIO_TYPE1v2_IOMMU` and `VFIO_NOIOMMU_IOMMU`.
pub(super) const TYPE1: u32 = 1;
pub(super) const TYPE1_V2: u32 = 3;
pub(super) const NO_IOMMU: u32 = 8;

/// `VFIO_PCI_CONFIG_REGION_INDEX`. Regions 0 to 5 are the BARs.
pub(super) const CONFIG_REGION: u32 = 7;
/// `VFIO_PCI_INTX_IRQ_INDEX` and the like.
pub(super) const IRQ_INTX: u32 = 0;
pub(super) const IRQ_MSIX: u32 = 2;
pub(super) const IRQ_REQUEST: u32 = 4;

/// `VFIO_IRQ_SET_DATA_NONE` and the like.
const IRQ_SET_DATA_NONE: u32 = 1;
const IRQ_SET_DATA_EVENTFD: u32 = 1 << 2;
const IRQ_SET_ACTION_UNMASK: u32 = 1 << 4;
const IRQ_SET_ACTION_TRIGGER: u32 = 1 << 5;

/// `IOMMU_IOAS_MAP_FIXED_IOVA`, `_WRITEABLE` and `_READABLE`.
const IOAS_MAP_FLAGS: u32 = 1 | 1 << 1 | 1 << 2;

/// Most bytes that an information of the kernel may have.
const INFO_LIMIT: u32 = 64 << 10;

fn answer(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls with a number.
fn with_number(fd: BorrowedFd<'_>, request: libc::Ioctl, number: u32) -> io::Result<libc::c_int> {
    debug_assert!(matches!(request, GET_API_VERSION | CHECK_EXTENSION | SET_IOMMU | DEVICE_RESET));
    // SAFETY: these requests take a number or nothing, and touch no memory of this process.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_ulong::from(number)) })
}

/// Calls with a struct that says its own size.
///
/// # Safety
/// `request` takes a `T`, and no pointers in it that do not hold.
unsafe fn with<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes a `T`, says the caller.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) })
}

/// The version of VFIO's interface.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<i32> {
    with_number(container, GET_API_VERSION, 0)
}

/// Whether the kernel has this kind of IOMMU driver.
pub(super) fn has_extension(container: BorrowedFd<'_>, extension: u32) -> io::Result<bool> {
    Ok(with_number(container, CHECK_EXTENSION, extension)? > 0)
}

/// Chooses the kind of IOMMU driver, once a group is in the container.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    with_number(container, SET_IOMMU, kind).map(drop)
}

/// Whether all functions of the group are out of the kernel's hands.
pub(super) fn group_is_viable(group: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status = [8u32, 0];
    // SAFETY: `vfio_group_status` is two u32: its size and flags.
    unsafe { with(group, GROUP_GET_STATUS, &mut status) }?;
    Ok(status[1] & 1 != 0)
}

/// Puts the group into a container.
pub(super) fn group_set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut fd: libc::c_int = container.as_raw_fd();
    // SAFETY: the request takes a pointer to a descriptor.
    unsafe { with(group, GROUP_SET_CONTAINER, &mut fd) }.map(drop)
}

/// Opens a device of the group by its name.
pub(super) fn group_device(group: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: the request takes a string that ends by a zero.
    let fd: RawFd = answer(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD, name.as_ptr()) })?;
    // SAFETY: the kernel made the descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An information of variable length, in the bytes that the kernel filled.
///
/// # Safety
/// `request` takes a struct that begins with its size, of at least 12 bytes, which has no pointers.
unsafe fn info(fd: BorrowedFd<'_>, request: libc::Ioctl, least: u32, index: u32) -> io::Result<Vec<u8>> {
    let mut size = least;
    loop {
        // Words of 8 bytes, for their alignment.
        let mut words = vec![0u64; (size as usize).div_ceil(8)];
        let head = |low: u32, high: u32| {
            let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        words[0] = head(size, 0);
        words[1] = head(index, 0);
        // SAFETY: there are at least the `size` bytes of which the first word tells the kernel, and it fills no more.
        answer(unsafe { libc::ioctl(fd.as_raw_fd(), request, words.as_mut_ptr()) })?;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(size as usize);
        let needed = super::info::u32_at(&bytes, 0).unwrap_or(0);
        if needed <= size || needed > INFO_LIMIT {
            return Ok(bytes);
        }
        size = needed;
    }
}

/// A `vfio_device_info`.
pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: the struct begins with its size and has no pointers; index 0 stands where the kernel only writes.
    unsafe { info(device, DEVICE_GET_INFO, 16, 0) }
}

/// A `vfio_region_info`.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u8>> {
    // SAFETY: the struct begins with its size and has no pointers; the index is at byte 8.
    unsafe { info(device, DEVICE_GET_REGION_INFO, 32, index) }
}

/// A `vfio_irq_info`.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u8>> {
    // SAFETY: as for `region_info`.
    unsafe { info(device, DEVICE_GET_IRQ_INFO, 16, index) }
}

/// A `vfio_iommu_type1_info`.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: the struct begins with its size and has no pointers.
    unsafe { info(container, IOMMU_GET_INFO, 24, 0) }
}

/// Has interrupts `index`, 0 and up, signal the eventfds, or none when there are none.
pub(super) fn set_irqs(device: BorrowedFd<'_>, index: u32, events: &[BorrowedFd<'_>]) -> io::Result<()> {
    let kind = if events.is_empty() { IRQ_SET_DATA_NONE } else { IRQ_SET_DATA_EVENTFD };
    irq_set(device, index, kind | IRQ_SET_ACTION_TRIGGER, events.len(), events)
}

/// Unmasks interrupt 0 of `index`.
pub(super) fn unmask_irq(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    irq_set(device, index, IRQ_SET_DATA_NONE | IRQ_SET_ACTION_UNMASK, 1, &[])
}

fn irq_set(
    device: BorrowedFd<'_>,
    index: u32,
    flags: u32,
    count: usize,
    events: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let words = 5 + events.len();
    let size = u32::try_from(4 * words).map_err(|_| io::ErrorKind::InvalidInput)?;
    let count = u32::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
    // A `vfio_irq_set`: argsz, flags, index, start, count, and the descriptors.
    let mut set = vec![size, flags, index, 0, count];
    set.extend(events.iter().map(|event| event.as_raw_fd().cast_unsigned()));
    // SAFETY: the kernel reads as many bytes as the struct says that it has.
    match answer(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_SET_IRQS, set.as_ptr()) })? {
        0 => Ok(()),
        // It says with how many it would have worked.
        fewer => Err(io::Error::other(format!("the system has only {fewer} interrupts left for it"))),
    }
}

/// Resets the device.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    with_number(device, DEVICE_RESET, 0).map(drop)
}

/// Maps `len` bytes at `address` for all devices of the container, at `device`.
pub(super) fn map_dma(container: BorrowedFd<'_>, address: u64, device: u64, len: u64) -> io::Result<()> {
    /// `vfio_iommu_type1_dma_map`.
    #[repr(C)]
    struct DmaMap {
        argsz: u32,
        flags: u32,
        vaddr: u64,
        iova: u64,
        size: u64,
    }
    // Readable and writable by the device.
    let mut map = DmaMap { argsz: 32, flags: 3, vaddr: address, iova: device, size: len };
    // SAFETY: the struct is the request's; that devices may write there is what the callers of `DmaSpace::map` allow.
    unsafe { with(container, IOMMU_MAP_DMA, &mut map) }.map(drop)
}

/// Undoes [`map_dma`].
pub(super) fn unmap_dma(container: BorrowedFd<'_>, device: u64, len: u64) -> io::Result<()> {
    /// `vfio_iommu_type1_dma_unmap`, without a bitmap.
    #[repr(C)]
    struct DmaUnmap {
        argsz: u32,
        flags: u32,
        iova: u64,
        size: u64,
    }
    let mut unmap = DmaUnmap { argsz: 24, flags: 0, iova: device, size: len };
    // SAFETY: the struct is the request's, and without the flag for it no bitmap follows.
    unsafe { with(container, IOMMU_UNMAP_DMA, &mut unmap) }.map(drop)
}

/// Puts a device that was opened by itself under an iommufd, which makes it usable.
pub(super) fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<()> {
    // `vfio_device_bind_iommufd`: argsz, flags, iommufd, and the number that it gets there.
    let mut bind = [16u32, 0, iommufd.as_raw_fd().cast_unsigned(), 0];
    // SAFETY: the array is the request's struct.
    unsafe { with(device, DEVICE_BIND_IOMMUFD, &mut bind) }.map(drop)
}

/// Has the device's addresses translated by an address space of its iommufd.
pub(super) fn attach_ioas(device: BorrowedFd<'_>, ioas: u32) -> io::Result<()> {
    // `vfio_device_attach_iommufd_pt`: argsz, flags, pt_id.
    let mut attach = [12u32, 0, ioas];
    // SAFETY: the array is the request's struct.
    unsafe { with(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach) }.map(drop)
}

/// Makes an address space.
pub(super) fn alloc_ioas(iommufd: BorrowedFd<'_>) -> io::Result<u32> {
    // `iommu_ioas_alloc`: size, flags, out_ioas_id.
    let mut alloc = [12u32, 0, 0];
    // SAFETY: the array is the request's struct.
    unsafe { with(iommufd, IOAS_ALLOC, &mut alloc) }?;
    Ok(alloc[2])
}

/// What an address space takes: as many of its ranges as there is room for, how many there are, and how addresses have
/// to be aligned.
pub(super) fn ioas_ranges(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    ranges: &mut [[u64; 2]],
) -> io::Result<(usize, u64)> {
    /// `iommu_ioas_iova_ranges`.
    #[repr(C)]
    struct IovaRanges {
        size: u32,
        ioas_id: u32,
        num_iovas: u32,
        reserved: u32,
        allowed_iovas: u64,
        out_iova_alignment: u64,
    }
    let mut argument = IovaRanges {
        size: 32,
        ioas_id: ioas,
        num_iovas: u32::try_from(ranges.len()).unwrap_or(u32::MAX),
        reserved: 0,
        allowed_iovas: ranges.as_mut_ptr().addr() as u64,
        out_iova_alignment: 0,
    };
    ranges.as_mut_ptr().expose_provenance();
    // SAFETY: the struct is the request's, and the kernel writes no more ranges, of two u64 each, than there is room for.
    match unsafe { with(iommufd, IOAS_IOVA_RANGES, &mut argument) } {
        // EMSGSIZE: it has told how many there are.
        Err(error) if error.raw_os_error() != Some(libc::EMSGSIZE) => Err(error),
        _ => Ok((argument.num_iovas as usize, argument.out_iova_alignment)),
    }
}

/// Maps `len` bytes at `address` in an address space, at `device`.
pub(super) fn map_ioas(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    address: u64,
    device: u64,
    len: u64,
) -> io::Result<()> {
    /// `iommu_ioas_map`.
    #[repr(C)]
    struct Map {
        size: u32,
        flags: u32,
        ioas_id: u32,
        reserved: u32,
        user_va: u64,
        length: u64,
        iova: u64,
    }
    let mut map = Map {
        size: 40,
        flags: IOAS_MAP_FLAGS,
        ioas_id: ioas,
        reserved: 0,
        user_va: address,
        length: len,
        iova: device,
    };
    // SAFETY: the struct is the request's; that devices may write there is what the callers of `DmaSpace::map` allow.
    unsafe { with(iommufd, IOAS_MAP, &mut map) }.map(drop)
}

/// Undoes [`map_ioas`].
pub(super) fn unmap_ioas(iommufd: BorrowedFd<'_>, ioas: u32, device: u64, len: u64) -> io::Result<()> {
    /// `iommu_ioas_unmap`.
    #[repr(C)]
    struct Unmap {
        size: u32,
        ioas_id: u32,
        iova: u64,
        length: u64,
    }
    let mut unmap = Unmap { size: 24, ioas_id: ioas, iova: device, length: len };
    // SAFETY: the struct is the request's and has no pointers.
    unsafe { with(iommufd, IOAS_UNMAP, &mut unmap) }.map(drop)
}
