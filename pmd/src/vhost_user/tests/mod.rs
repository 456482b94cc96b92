//! Front end against back end over socket pairs, and either against a peer that does as it likes.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::backend::PACKED_START;
use super::codes::*;
use super::message::*;
use super::payload::*;
use super::*;

mod endpoint;
mod hostile;
mod session;

const F_VERSION_1: u64 = 1 << 32;
const F_RING_PACKED: u64 = 1 << 34;
const FEATURES: u64 = F_VERSION_1 | F_RING_PACKED | 1 << 5 | 1 << 16 | 1 << 29;
/// How far a ring of the recorder goes on between start and stop.
const WORK: u32 = 5;
/// What a test waits for at most, when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the recorder was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Negotiated(u64),
    Start { ring: u16, size: u16, base: u32, marker: u8, kick: bool, call: bool },
    Stop(u16),
    Enable(u16, bool),
    Call(u16, bool),
    Status(u8),
    Mtu(u16),
    Disconnected,
}

/// A device that writes down what it is told, and fails the test when it is told nonsense.
#[derive(Debug)]
struct Recorder {
    log: Arc<Mutex<Vec<Told>>>,
    rings: Vec<Option<RingSetup>>,
}

impl Recorder {
    fn new(rings: u16) -> Self {
        Self { log: Arc::default(), rings: (0..rings).map(|_| None).collect() }
    }

    fn tell(&self, told: Told) {
        self.log.lock().unwrap().push(told);
    }
}

impl Device for Recorder {
    fn features(&self) -> u64 {
        FEATURES
    }
    fn rings(&self) -> u16 {
        self.rings.len() as u16
    }
    fn config(&self) -> Vec<u8> {
        vec![2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0xdc, 5]
    }
    fn negotiated(&mut self, features: u64) {
        assert!(self.rings.iter().all(Option::is_none));
        assert_eq!(features & F_PROTOCOL_FEATURES, 0);
        self.tell(Told::Negotiated(features));
    }
    fn start_ring(&mut self, index: u16, ring: RingSetup) -> Result<(), String> {
        let place = &mut self.rings[usize::from(index)];
        assert!(place.is_none(), "ring {index} was started twice");
        // SAFETY: the back end checked that the descriptors lie in the memory of the setup.
        let marker = unsafe { ring.descriptors.read_volatile() };
        let (size, base) = (ring.size, ring.base);
        let (kick, call) = (ring.kick.is_some(), ring.call.is_some());
        *place = Some(ring);
        self.tell(Told::Start { ring: index, size, base, marker, kick, call });
        Ok(())
    }
    fn stop_ring(&mut self, index: u16) -> u32 {
        let ring = self.rings[usize::from(index)].take().expect("a ring that was not started was stopped");
        self.tell(Told::Stop(index));
        ring.base + WORK
    }
    fn enable_ring(&mut self, index: u16, on: bool) {
        assert!(self.rings[usize::from(index)].is_some());
        self.tell(Told::Enable(index, on));
    }
    fn set_call(&mut self, index: u16, call: Option<OwnedFd>) {
        let ring = self.rings[usize::from(index)].as_mut().expect("the call of a ring that was not started");
        self.log.lock().unwrap().push(Told::Call(index, call.is_some()));
        ring.call = call;
    }
    fn set_status(&mut self, status: u8) {
        assert!(status != 0 || self.rings.iter().all(Option::is_none));
        self.tell(Told::Status(status));
    }
    fn set_mtu(&mut self, mtu: u16) -> Result<(), String> {
        self.tell(Told::Mtu(mtu));
        if mtu > 9000 { Err("no".into()) } else { Ok(()) }
    }
    fn disconnected(&mut self) {
        assert!(self.rings.iter().all(Option::is_none));
        self.tell(Told::Disconnected);
    }
}

/// A back end that serves one front end in a thread.
struct Serving {
    wake: Wake,
    log: Arc<Mutex<Vec<Told>>>,
    channel: BackChannel,
    thread: JoinHandle<Result<Ended, VhostUserError>>,
}

/// Serves a recorder with this many rings; returns the other end of the socket.
fn serve(rings: u16, limit: Duration) -> (UnixStream, Serving) {
    let (front, back) = UnixStream::pair().unwrap();
    let device = Recorder::new(rings);
    let log = Arc::clone(&device.log);
    let wake = Wake::new().unwrap();
    let mut back_end = BackEnd::new(Connection::new(back).with_time_limit(limit), device);
    let channel = back_end.channel();
    let told = wake.clone();
    let thread = thread::spawn(move || back_end.serve(&told));
    (front, Serving { wake, log, channel, thread })
}

impl Serving {
    fn told(&self) -> Vec<Told> {
        self.log.lock().unwrap().clone()
    }

    /// What was told since the last call.
    fn news(&self) -> Vec<Told> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// How the session ends, by itself.
    fn end(self) -> Result<Ended, VhostUserError> {
        let result = self.thread.join().expect("the recorder found nonsense");
        assert_eq!(self.log.lock().unwrap().last(), Some(&Told::Disconnected));
        result
    }
}

/// A file in memory with a name of its own, by which its descriptors in this process are counted.
struct Memory {
    name: String,
    fd: OwnedFd,
    len: u64,
    /// The address that the test says it has.
    user: u64,
}

impl Memory {
    fn new(name: &str, user: u64, len: u64, marker: u8) -> Self {
        let name = format!("wirerate-{name}-{:?}", thread::current().id());
        let fd = memfd_create(&name, MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        for page in 0..len / 4096 {
            rustix::io::pwrite(&fd, &[marker], page * 4096).unwrap();
        }
        Self { name, fd, len, user }
    }

    fn region(&self) -> MemoryRegion<'_> {
        MemoryRegion { fd: self.fd.as_fd(), offset: 0, len: self.len, user_address: self.user }
    }

    fn table(&self) -> Request {
        let region = Region { guest: self.user, size: self.len, user: self.user, offset: 0 };
        Request::SetMemTable([region].into_iter().collect())
    }

    /// How many descriptors of this file the process has, this one among them.
    fn fds(&self) -> usize {
        let ours = fs::read_dir("/proc/self/fd").unwrap().flatten();
        ours.filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains(self.name.as_str()))
        })
        .count()
    }

    /// How many mappings of this file the process has.
    fn mappings(&self) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(&self.name)).count()
    }
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How many descriptors of this eventfd the process has, this one among them.
fn event_fds(fd: &OwnedFd) -> usize {
    let id = |path: &std::path::Path| {
        let info = fs::read_to_string(path).unwrap_or_default();
        info.lines().find(|line| line.starts_with("eventfd-id")).map(str::to_owned)
    };
    let ours = id(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()).as_ref()).unwrap();
    let all = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    all.filter(|entry| id(&entry.path()).as_ref() == Some(&ours)).count()
}

/// Where a ring of up to 256 descriptors lies in memory that begins at `user`: a page for each part.
fn addresses(index: u32, user: u64) -> VringAddresses {
    let first = user.wrapping_add(u64::from(index) * 0x4000);
    VringAddresses {
        index,
        flags: 0,
        descriptors: first,
        driver_area: first.wrapping_add(0x1000),
        device_area: first.wrapping_add(0x2000),
        log: 0,
    }
}

/// A front end without any sense.
struct Raw(Connection);

impl Raw {
    fn new(stream: UnixStream) -> Self {
        Self(Connection::new(stream).with_time_limit(PATIENCE))
    }

    fn tell(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) {
        self.0.send(&request.encode(false), fds).unwrap();
    }

    /// Asks for an answer: what is it, or nothing when the back end has closed the socket.
    fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Option<Vec<u8>> {
        self.0.send(&request.encode(true), fds).ok()?;
        self.reply(request.code() as u32)
    }

    fn reply(&mut self, code: u32) -> Option<Vec<u8>> {
        let reply = self.0.recv().unwrap_or(None)?;
        Some(parse_reply(&reply.bytes, reply.fds.len(), code).unwrap().to_vec())
    }

    /// Asks, and says whether it was done.
    fn done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Option<bool> {
        self.ask(request, fds).map(|answer| answer == 0_u64.to_ne_bytes())
    }

    /// A session in which answers can be had.
    fn open(&mut self) {
        self.tell(&Request::SetOwner, &[]);
        assert_eq!(self.done(&Request::SetProtocolFeatures(backend::OFFERED.bits()), &[]), Some(true));
    }

    /// Brings a split ring to where only its kick is missing.
    fn prepare(&mut self, ring: u32, memory: &Memory) {
        let features = F_VERSION_1 | F_PROTOCOL_FEATURES;
        assert_eq!(self.done(&Request::SetFeatures(features), &[]), Some(true));
        assert_eq!(self.done(&memory.table(), &[memory.fd.as_fd()]), Some(true));
        assert_eq!(self.done(&Request::SetVringNum { ring, size: 256 }, &[]), Some(true));
        assert_eq!(self.done(&Request::SetVringAddr(addresses(ring, memory.user)), &[]), Some(true));
    }

    fn base(&mut self, ring: u32) -> Option<u32> {
        let answer = self.ask(&Request::GetVringBase { ring }, &[])?;
        Some(u32::from_ne_bytes(answer[4..].try_into().unwrap()))
    }
}
