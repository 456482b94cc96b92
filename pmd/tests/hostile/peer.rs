//! A peer that speaks vhost-user by its own crude code, so that it can say anything: bytes and descriptors over a socket,
//! and memory in a file that it also has mapped itself.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// What a test waits for at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Requests by their numbers.
pub(crate) mod code {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
    pub(crate) const SET_STATUS: u32 = 39;
}

/// Version 1, and "answer me".
pub(crate) const ASK: u32 = 1 | 1 << 3;
/// Version 1.
pub(crate) const TELL: u32 = 1;
/// Version 1, and "this is a reply".
pub(crate) const REPLY: u32 = 1 | 1 << 2;

/// Waits until `done` says so.
///
/// # Panics
/// When it does not for too long.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Payload bytes of 64-bit and 32-bit numbers.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn halves(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// An eventfd.
pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How many descriptors of this eventfd the process has, this one among them.
pub(crate) fn event_fds(fd: &OwnedFd) -> usize {
    let id = |path: &Path| {
        let info = std::fs::read_to_string(path).unwrap_or_default();
        info.lines().find(|line| line.starts_with("eventfd-id")).map(str::to_owned)
    };
    let ours = id(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()).as_ref());
    assert!(ours.is_some());
    std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .flatten()
        .filter(|entry| id(&entry.path()) == ours)
        .count()
}

/// One end of a session.
pub(crate) struct Peer(pub UnixStream);

impl Peer {
    /// Connects to whoever listens at `path`, once it does.
    pub(crate) fn connect(path: &Path) -> Self {
        let mut stream = None;
        wait_for("somebody to listen", || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        Self::over(stream.unwrap())
    }

    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends bytes with descriptors; false when the other side has gone.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        sent == Ok(bytes.len())
    }

    /// Sends a message whose header says what it says.
    pub(crate) fn tell(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut bytes = halves(&[request, flags, payload.len() as u32]);
        bytes.extend(payload);
        self.send(&bytes, fds)
    }

    /// Asks for an answer: its payload, or none when the other side has closed the socket.
    pub(crate) fn ask(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Vec<u8>> {
        if !self.tell(request, ASK, payload, fds) {
            return None;
        }
        let (header, payload, _) = self.hear()?;
        assert_eq!(header[0], request, "an answer to something else");
        Some(payload)
    }

    /// Asks for something, and says whether it was done; none when the other side has closed the socket.
    pub(crate) fn done(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Option<bool> {
        self.ask(request, payload, fds).map(|answer| answer == 0u64.to_ne_bytes())
    }

    /// The next message: request, flags and size; payload; descriptors. None when the other side has closed.
    pub(crate) fn hear(&self) -> Option<([u32; 3], Vec<u8>, Vec<OwnedFd>)> {
        let mut fds = Vec::new();
        let header = self.read(12, &mut fds)?;
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let header = [word(0), word(4), word(8)];
        assert!(header[2] < 0x1_0000, "a message of {} bytes", header[2]);
        let payload = self.read(header[2] as usize, &mut fds)?;
        Some((header, payload, fds))
    }

    fn read(&self, count: usize, fds: &mut Vec<OwnedFd>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes[filled..])];
            match recvmsg(&self.0, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) if got.bytes > 0 => filled += got.bytes,
                Ok(_) | Err(rustix::io::Errno::CONNRESET) => return None,
                Err(error) => panic!("nothing is heard: {error}"),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    fds.extend(came);
                }
            }
        }
        Some(bytes)
    }

    /// Waits for the other side to close the socket.
    pub(crate) fn gone(&self) {
        while self.hear().is_some() {}
    }
}

/// A file in memory, with a name of its own by which its descriptors and mappings are found in this process.
pub(crate) struct Memory {
    pub name: String,
    pub fd: OwnedFd,
    pub len: usize,
    map: MmapRaw,
}

impl Memory {
    pub(crate) fn new(len: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hostile-memory-{}-", COUNT.fetch_add(1, Ordering::Relaxed));
        let fd = memfd_create(&name, MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len as u64).unwrap();
        let map = MmapOptions::new().len(len).map_raw(&fd).unwrap();
        Self { name, fd, len, map }
    }

    /// Memory of somebody else, from `offset` of a file on.
    pub(crate) fn of_peer(fd: OwnedFd, offset: u64, len: usize) -> Self {
        let map = MmapOptions::new().offset(offset).len(len).map_raw(&fd).unwrap();
        Self { name: String::new(), fd, len, map }
    }

    /// How many descriptors of the file this process has, this one among them.
    pub(crate) fn fds(&self) -> usize {
        let is_ours = |link: std::path::PathBuf| link.to_string_lossy().contains(self.name.as_str());
        let ours = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        ours.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(is_ours)).count()
    }

    /// How many mappings of the file this process has, this one among them.
    pub(crate) fn mappings(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(&self.name)).count()
    }

    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: in the mapping; nobody makes references into it, and whoever reads it meanwhile expects anything.
        unsafe { self.map.as_mut_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    pub(crate) fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut bytes = vec![0; len];
        // SAFETY: in the mapping; what is read may be anything.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.map.as_ptr().add(offset), len) };
        bytes
    }

    pub(crate) fn put_u16(&self, offset: usize, value: u16) {
        assert!(offset + 2 <= self.len && offset.is_multiple_of(2));
        // SAFETY: in the mapping and aligned.
        unsafe { self.map.as_mut_ptr().add(offset).cast::<std::sync::atomic::AtomicU16>().as_ref().unwrap() }
            .store(value, Ordering::SeqCst);
    }

    pub(crate) fn get_u16(&self, offset: usize) -> u16 {
        assert!(offset + 2 <= self.len && offset.is_multiple_of(2));
        // SAFETY: in the mapping and aligned.
        unsafe { self.map.as_ptr().add(offset).cast::<std::sync::atomic::AtomicU16>().as_ref().unwrap() }
            .load(Ordering::SeqCst)
    }

    pub(crate) fn put_u64(&self, offset: usize, value: u64) {
        assert!(offset + 8 <= self.len && offset.is_multiple_of(8));
        // SAFETY: in the mapping and aligned.
        unsafe { self.map.as_mut_ptr().add(offset).cast::<std::sync::atomic::AtomicU64>().as_ref().unwrap() }
            .store(value, Ordering::SeqCst);
    }

    pub(crate) fn get_u64(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= self.len && offset.is_multiple_of(8));
        // SAFETY: in the mapping and aligned.
        unsafe { self.map.as_ptr().add(offset).cast::<std::sync::atomic::AtomicU64>().as_ref().unwrap() }
            .load(Ordering::SeqCst)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
