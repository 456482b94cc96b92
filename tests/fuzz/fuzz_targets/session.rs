//! A back end's session: pieces of bytes, each with descriptors of some kind. It ends, the device was told so, and nothing
//! was told that makes no sense.
#![no_main]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use wirerate_fuzz::Input;
use wirerate_pmd::vhost_user::{BackEnd, Connection, Device, RingSetup, Wake};

/// A device that notes which rings run, and reads the ends of each.
struct Noted {
    rings: [Option<RingSetup>; 4],
    over: bool,
}

impl Device for &mut Noted {
    fn features(&self) -> u64 {
        1 << 32 | 1 << 34 | 1 << 29 | 1 << 15
    }
    fn rings(&self) -> u16 {
        4
    }
    fn config(&self) -> Vec<u8> {
        vec![2, 0, 0, 0, 0, 1, 1, 0]
    }
    fn negotiated(&mut self, features: u64) {
        assert!(self.rings.iter().all(Option::is_none) && features & 1 << 30 == 0);
    }
    fn start_ring(&mut self, index: u16, ring: RingSetup) -> Result<(), String> {
        let packed = ring.features & 1 << 34 != 0;
        let size = usize::from(ring.size);
        let (driver, device) = if packed { (4, 4) } else { (6 + 2 * size, 6 + 8 * size) };
        for (part, len) in
            [(ring.descriptors, 16 * size), (ring.driver_area, driver), (ring.device_area, device)]
        {
            // SAFETY: the set-up says that the parts are so long.
            unsafe {
                part.read_volatile();
                part.add(len - 1).read_volatile();
            }
        }
        assert!(self.rings[usize::from(index)].replace(ring).is_none());
        Ok(())
    }
    fn stop_ring(&mut self, index: u16) -> u32 {
        self.rings[usize::from(index)].take().expect("it runs").base
    }
    fn enable_ring(&mut self, index: u16, _on: bool) {
        assert!(self.rings[usize::from(index)].is_some());
    }
    fn set_call(&mut self, index: u16, call: Option<OwnedFd>) {
        self.rings[usize::from(index)].as_mut().expect("it runs").call = call;
    }
    fn set_status(&mut self, _status: u8) {}
    fn disconnected(&mut self) {
        assert!(self.rings.iter().all(Option::is_none));
        self.over = true;
    }
}

static FILES: LazyLock<[OwnedFd; 3]> = LazyLock::new(|| {
    let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a file");
    ftruncate(&memory, 0x10_0000).expect("a file");
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an event");
    let null = std::fs::File::open("/dev/null").expect("nothing");
    [memory, event, null.into()]
});

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let (here, there) = UnixStream::pair().expect("sockets");
    here.set_nonblocking(true).expect("a socket");
    while !input.is_empty() {
        let [kind, count] = input.take();
        let (piece, rest) = input.0.split_at(usize::from(count).min(input.0.len()));
        input.0 = rest;
        let file = FILES[usize::from(kind).wrapping_sub(1) % 3].as_fd();
        let fds: Vec<BorrowedFd<'_>> =
            if kind == 0 { Vec::new() } else { vec![file; 1 + usize::from(kind >> 4) % 10] };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        if !piece.is_empty() {
            let _ = sendmsg(&here, &[IoSlice::new(piece)], &mut control, SendFlags::NOSIGNAL);
        }
    }
    // Nothing more will come, so nothing is waited for; answers wait in the socket, or do not.
    here.shutdown(std::net::Shutdown::Write).expect("a socket");
    let mut device = Noted { rings: [const { None }; 4], over: false };
    let connection = Connection::new(there).with_time_limit(Duration::from_millis(20));
    let _ = BackEnd::new(connection, &mut device).serve(&Wake::new().expect("an event"));
    assert!(device.over);
});
