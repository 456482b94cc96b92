//! Which NUMA node the pages of a mapping come from.

use std::io;

use super::mapping::Mapping;

/// How strictly.
#[derive(Debug, Clone, Copy)]
pub(super) enum Policy {
    /// From the node or not at all.
    Bind,
    /// From the node, or from another when it is full.
    Prefer,
}

/// Makes pages of the mapping that are not there yet come from `node`.
pub(super) fn apply(mapping: &Mapping, node: u32, policy: Policy) -> io::Result<()> {
    const BITS: u32 = libc::c_ulong::BITS;
    let mut mask: Vec<libc::c_ulong> = vec![0; (node / BITS) as usize + 1];
    mask[(node / BITS) as usize] = 1 << (node % BITS);
    let mode = match policy {
        Policy::Bind => libc::MPOL_BIND,
        Policy::Prefer => libc::MPOL_PREFERRED,
    };
    // The kernel takes one bit less than it is told (mm/mempolicy.c, get_nodes).
    let bits = mask.len() * BITS as usize + 1;
    // SAFETY: the range is a mapping that lives through the call, and the call changes where its pages will lie and
    // not what is in them; the mask has as many bits as it says and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.base().as_ptr(),
            mapping.len(),
            mode,
            mask.as_ptr(),
            bits,
            0 as libc::c_uint,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_a_node_that_is_there_and_no_other() {
        let mapping = Mapping::anonymous(1 << 16, 1).unwrap();
        match apply(&mapping, 0, Policy::Bind) {
            Ok(()) => {
                apply(&mapping, 0, Policy::Prefer).unwrap();
                mapping.populate(true).unwrap();
                assert!(apply(&mapping, 1023, Policy::Bind).is_err());
            }
            // A kernel without NUMA, or a container that forbids the call: nothing to bind.
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)),
                "unexpected refusal: {error}"
            ),
        }
    }
}
