//! A packet socket without rings: what the kernel itself sends and receives, to compare with.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::lan::is_ours;

pub(crate) struct PlainSocket(OwnedFd);

impl PlainSocket {
    /// A socket for every frame that comes in by `interface`.
    pub(crate) fn on(interface: &str) -> io::Result<Self> {
        let check = |result: i64| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
        let name = CString::new(interface)?;
        // SAFETY: plain system calls; the pointers are to values that live across them, of the lengths told,
        // and the descriptor is nobody else's.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let fd = check(libc::socket(libc::AF_PACKET, kind, 0).into())?;
            let socket = OwnedFd::from_raw_fd(fd as i32);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len).into())?;
            Ok(Self(socket))
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer is to a slice of the length told.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the next frame of the tests' making.
    pub(crate) fn receive(&self) -> Vec<u8> {
        loop {
            wait_readable(std::os::fd::AsFd::as_fd(&self.0), Duration::from_secs(20));
            let mut frame = vec![0; 65_536];
            // SAFETY: the pointer is to a buffer of the length told.
            let len = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            assert!(len >= 0, "{}", io::Error::last_os_error());
            frame.truncate(len as usize);
            if is_ours(&frame) {
                return frame;
            }
        }
    }
}

/// Waits until `fd` has something to read.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, most: Duration) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one `pollfd`.
    let ready = unsafe { libc::poll(&raw mut poll, 1, most.as_millis() as i32) };
    assert_eq!((ready, poll.revents), (1, libc::POLLIN), "readable within {most:?}");
}
