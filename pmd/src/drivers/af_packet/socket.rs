//! Packet sockets: their options, their rings, and how several share an interface's frames.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use libc::{c_int, c_uint, sock_filter, sock_fprog, sockaddr_ll, socklen_t};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::time::Timespec;
use zerocopy::{FromBytes, FromZeros};

use super::interface::Interface;
use super::options::FanoutMode;
use super::ring::{Geometry, Mapping, Slots};

/// What the port and all its queues know of the interface.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) interface: Interface,
    mtu: AtomicUsize,
    told_too_long: AtomicBool,
    unfinished_checksums: AtomicU64,
}

impl Shared {
    pub(super) const fn new(interface: Interface, mtu: usize) -> Self {
        Self {
            interface,
            mtu: AtomicUsize::new(mtu),
            told_too_long: AtomicBool::new(false),
            unfinished_checksums: AtomicU64::new(0),
        }
    }

    /// The largest payload in bytes, as it was last asked.
    pub(super) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Asks for the largest payload again. An interface that is gone keeps the one that it had.
    pub(super) fn look_up_mtu(&self) -> usize {
        if let Ok(mtu) = self.interface.mtu() {
            self.mtu.store(mtu, Ordering::Relaxed);
        }
        self.mtu()
    }

    /// Tells, once, that frames come in that do not fit.
    #[cold]
    pub(super) fn too_long(&self, len: u32) {
        if !self.told_too_long.swap(true, Ordering::Relaxed) {
            let name = self.interface.name();
            tracing::warn!(
                "{name}: a frame of {len} bytes came in, which does not fit its slot; such frames are dropped \
                 as rx_too_long. Frames are merged on their way: switch that off by `ethtool -K {name} gro off \
                 lro off`, and if {name} is one end of a veth pair by `ethtool -K PEER tso off gso off` for \
                 the other; or raise framesz when the MTU was raised"
            );
        }
    }

    /// Counts a frame whose checksum was left to hardware and could not be filled in.
    #[cold]
    pub(super) fn count_unfinished_checksum(&self) {
        self.unfinished_checksums.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unfinished_checksums(&self) -> u64 {
        self.unfinished_checksums.load(Ordering::Relaxed)
    }
}

/// What a queue pair's socket is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketConfig {
    /// The receive ring; without one, the socket receives nothing.
    pub(super) rx: Option<Geometry>,
    /// The transmit ring; without one, the socket sends nothing.
    pub(super) tx: Option<Geometry>,
    /// Whether frames pass by the interface's queueing discipline.
    pub(super) qdisc_bypass: bool,
}

/// One step of setting a socket up that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) action: &'static str,
    pub(super) source: io::Error,
}

impl Failed {
    /// The first step: this is where the privilege is asked for.
    pub(super) const fn opening(source: io::Error) -> Self {
        Self { action: "open a packet socket", source }
    }
}

trait Step<T> {
    fn step(self, action: &'static str) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, action: &'static str) -> Result<T, Failed> {
        self.map_err(|source| Failed { action, source: source.into() })
    }
}

/// A packet socket that is bound to no interface and receives nothing.
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given out this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a value of `size_of::<T>()` bytes, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get<T: FromZeros + FromBytes>(socket: BorrowedFd<'_>, option: c_int) -> io::Result<T> {
    let mut value = T::new_zeroed();
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which is as long and may hold any bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw mut value).cast(), &raw mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Has the socket receive everything or nothing of what comes in, whomever it is for. It ends when the socket
/// does, and leaves the interface's own flag alone.
pub(super) fn set_promiscuous(socket: BorrowedFd<'_>, interface: c_int, on: bool) -> io::Result<()> {
    let option = if on { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
    let membership = libc::packet_mreq {
        mr_ifindex: interface,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(socket, libc::SOL_PACKET, option, &membership)
}

/// A queue pair's socket. Each half of the pair holds it; the rings are held by the halves themselves.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    shared: Arc<Shared>,
}

/// A socket with its rings, before it is bound.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) socket: Arc<Socket>,
    pub(super) rx: Option<Slots>,
    pub(super) tx: Option<Slots>,
}

impl Socket {
    /// Makes a socket and its rings. It is not bound, so nothing comes in before the ring is there, nor from
    /// other interfaces.
    pub(super) fn with_rings(shared: &Arc<Shared>, config: &SocketConfig) -> Result<Pair, Failed> {
        const ON: c_int = 1;
        let owned = packet_socket().map_err(Failed::opening)?;
        let fd = owned.as_fd();
        set(fd, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as c_int))
            .step("choose TPACKET_V2 rings")?;
        if let Some(ring) = config.rx {
            // Linux 4.20; on an older one, the type of each frame tells.
            let _ = set(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &ON);
            set(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &ring.request()).step("make the receive ring")?;
        }
        if let Some(ring) = config.tx {
            set(fd, libc::SOL_PACKET, libc::PACKET_TX_RING, &ring.request())
                .step("make the transmit ring")?;
            if config.qdisc_bypass
                && let Err(error) = set(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &ON)
            {
                let name = shared.interface.name();
                tracing::warn!("{name}: frames go through the queueing discipline: no bypass: {error}");
            }
            // The kernel takes no more out of the ring than the socket may have on its way. The ring is the
            // limit that was asked for, so this one is put above it, as far as we are allowed to.
            let bytes = c_int::try_from(ring.len().saturating_mul(2)).unwrap_or(c_int::MAX);
            if set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
                let _ = set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
            }
        }
        // The mapping starts with the receive ring, whichever was made first (packet(7), PACKET_TX_RING).
        let rings: Vec<_> = [config.rx, config.tx].into_iter().flatten().collect();
        let len = rings.iter().map(Geometry::len).sum();
        let parts = Mapping::of_socket(fd, len).step("map the rings")?.split(&rings);
        let mut parts = parts.into_iter().flatten();
        let rx = config.rx.and_then(|_| parts.next());
        let tx = config.tx.and_then(|_| parts.next());
        Ok(Pair { socket: Arc::new(Self { fd: owned, shared: Arc::clone(shared) }), rx, tx })
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Binds to interface number `index`: to every frame when `receives`, else to none.
    fn bind(&self, index: c_int, receives: bool) -> io::Result<()> {
        let protocol = if receives { libc::ETH_P_ALL as u16 } else { 0 };
        let address = sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer is to an address of the length that is told, which the kernel only reads.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<sockaddr_ll>() as socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Has the socket receive nothing for the time being.
    fn shut(&self) -> io::Result<()> {
        let mut nothing = [sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
        let program = sock_fprog { len: 1, filter: nothing.as_mut_ptr() };
        set(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn unshut(&self) -> io::Result<()> {
        set(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32)
    }

    /// Joins the group of sockets among which the interface's frames are shared out, or founds it.
    fn join(&self, mode: FanoutMode, group: Option<u16>) -> io::Result<u16> {
        // Without PACKET_FANOUT_FLAG_DEFRAG, which DPDK sets: a forwarder has to hand on the fragments that
        // came, not the datagram that the kernel makes of them.
        let founding = if group.is_none() { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
        let flags = mode.kernels() | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING | founding;
        let value: c_uint = u32::from(group.unwrap_or(0)) | flags << 16;
        set(self.fd.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, &value)?;
        let joined: c_uint = get(self.fd.as_fd(), libc::PACKET_FANOUT)?;
        Ok((joined & 0xffff) as u16)
    }

    /// Frames that the kernel dropped because the ring was full, since this was last asked.
    pub(super) fn missed(&self) -> io::Result<u64> {
        // A `struct tpacket_stats`: frames that matched, and how many of them were dropped.
        let [_, drops]: [c_uint; 2] = get(self.fd.as_fd(), libc::PACKET_STATISTICS)?;
        Ok(u64::from(drops))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Binds `pairs` to interface number `index`: the first `receiving` to every frame, which they share out by
/// `mode`, the others to none.
///
/// A socket can join the group only once it is bound, and would get every frame until then. So all are shut
/// until all have joined: each frame that comes in after the last is opened is received once.
pub(super) fn bind_all(
    pairs: &[Pair],
    receiving: usize,
    index: c_int,
    mode: FanoutMode,
) -> Result<(), Failed> {
    let (receivers, senders) = pairs.split_at(receiving.min(pairs.len()));
    for pair in senders {
        pair.socket.bind(index, false).step("bind to the interface")?;
    }
    if let [only] = receivers {
        return only.socket.bind(index, true).step("bind to the interface");
    }
    for pair in receivers {
        pair.socket.shut().step("hold frames back")?;
        pair.socket.bind(index, true).step("bind to the interface")?;
    }
    let mut group = None;
    for pair in receivers {
        group = Some(pair.socket.join(mode, group).step("share frames out over the queues (PACKET_FANOUT)")?);
    }
    receivers.iter().try_for_each(|pair| pair.socket.unshut().step("let frames in"))
}

/// What a transmit queue asks of the kernel.
pub(super) trait Kernel {
    /// Has the kernel look at what is queued and send it. It has looked when this returns; what it took may
    /// still be on its way.
    fn send(&self) -> Result<(), Errno>;

    /// Whether frames can leave the interface.
    fn link_is_up(&self) -> bool;

    /// The largest payload in bytes, as it was last asked.
    fn mtu(&self) -> usize;

    /// The largest payload in bytes, asked anew.
    fn look_up_mtu(&self) -> usize;

    /// Waits until there is room for more to send, or for `most`.
    fn wait(&self, most: Duration);
}

impl Kernel for Arc<Socket> {
    #[inline]
    fn send(&self) -> Result<(), Errno> {
        rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT).map(|_| ())
    }

    fn link_is_up(&self) -> bool {
        self.shared.interface.is_running()
    }

    #[inline]
    fn mtu(&self) -> usize {
        self.shared.mtu()
    }

    fn look_up_mtu(&self) -> usize {
        self.shared.look_up_mtu()
    }

    fn wait(&self, most: Duration) {
        if let Ok(most) = Timespec::try_from(most) {
            // Whatever it answers, the caller looks for itself.
            let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&most));
        }
    }
}
