//! Where sessions come from: a socket to listen at, one to connect to, or a stream that is there already; and the
//! thread that serves them one after another.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use thiserror::Error;

use super::wake::{Waited, Wake, wait};

/// The first pause between two attempts to connect, and after a session that ended at once.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where peers are found.
#[derive(Debug)]
pub enum Endpoint {
    /// Listens at this path. A file that a dead process left there is replaced.
    Server(PathBuf),
    /// Connects to this path, again and again until somebody listens.
    Client(PathBuf),
    /// One peer, connected already.
    Stream(UnixStream),
}

/// Why an endpoint cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Another process listens there.
    #[error("somebody listens at {path} already: end that process, or take another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// A file that is no socket is there.
    #[error("{path} is no socket: remove it, or take another path")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A thread that serves the peers of an endpoint, one at a time. Dropping it wakes the session and waits for it.
#[derive(Debug)]
pub struct ControlThread {
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl ControlThread {
    /// Opens the endpoint and serves its peers in a thread of this name: each is handed to `session`, with a wake
    /// that is raised when the thread is to end. What `session` holds is dropped in that thread.
    ///
    /// # Errors
    /// [`EndpointError`] when the path is in use, or the system gives no socket, descriptor or thread.
    pub fn spawn(
        name: &str,
        endpoint: Endpoint,
        session: impl FnMut(UnixStream, &Wake) + Send + 'static,
    ) -> Result<Self, EndpointError> {
        let place = match &endpoint {
            Endpoint::Server(path) | Endpoint::Client(path) => path.clone(),
            Endpoint::Stream(_) => PathBuf::new(),
        };
        let error = |doing| {
            let path = place.clone();
            move |source| EndpointError::Io { doing, path, source }
        };
        let wake = Wake::new().map_err(error("make an eventfd for"))?;
        let mut peers = match endpoint {
            Endpoint::Server(path) => Peers::Server(Listener::bind(path)?),
            Endpoint::Client(path) => Peers::Client { path, waiting: false },
            Endpoint::Stream(stream) => Peers::Stream(Some(stream)),
        };
        let mut session = session;
        let told = wake.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(stream) = peers.next(&told) {
                    let begun = Instant::now();
                    session(stream, &told);
                    if told.raised() {
                        break;
                    }
                    // A peer that fails at once would otherwise fail, and fill the log, as fast as it can.
                    if begun.elapsed() < SHORTEST_PAUSE && !pause(&told, SHORTEST_PAUSE) {
                        break;
                    }
                }
            })
            .map_err(error("start a thread for"))?;
        Ok(Self { wake, thread: Some(thread) })
    }

    /// What is raised when the thread is to end.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.wake
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.wake.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a control thread of vhost-user panicked");
        }
    }
}

/// Where the next peer comes from.
enum Peers {
    Server(Listener),
    Client { path: PathBuf, waiting: bool },
    Stream(Option<UnixStream>),
}

impl Peers {
    /// The next peer; nothing when there will be none, or when the wake was raised.
    fn next(&mut self, wake: &Wake) -> Option<UnixStream> {
        match self {
            Self::Server(listener) => listener.accept(wake),
            Self::Stream(stream) => stream.take(),
            Self::Client { path, waiting } => {
                let mut next_pause = SHORTEST_PAUSE;
                loop {
                    match try_connect(path) {
                        Ok(stream) => {
                            tracing::info!(path = %path.display(), "connected");
                            *waiting = false;
                            return Some(stream);
                        }
                        Err(error) if !*waiting => {
                            *waiting = true;
                            tracing::info!(path = %path.display(), %error, "waiting for somebody to listen");
                        }
                        Err(_) => {}
                    }
                    if !pause(wake, next_pause) {
                        return None;
                    }
                    next_pause = (next_pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Waits; false when the wake was raised.
fn pause(wake: &Wake, time: Duration) -> bool {
    matches!(wait(&[], PollFlags::IN, Some(wake.as_fd()), Some(Instant::now() + time)), Ok(Waited::TimedOut))
}

/// Connects without waiting: somebody whose queue of peers is full is `AGAIN`.
fn try_connect(path: &Path) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

/// Whether nothing more will come from a peer.
fn has_gone(stream: &UnixStream) -> bool {
    let mut byte = [0u8; 1];
    matches!(recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 0)))
}

/// A socket that listens at a path, and takes its file away when dropped.
#[derive(Debug)]
struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that no file of somebody else is removed.
    file: (u64, u64),
}

impl Listener {
    fn bind(path: PathBuf) -> Result<Self, EndpointError> {
        let error = |doing| {
            let path = path.clone();
            move |source| EndpointError::Io { doing, path, source }
        };
        // Two processes that replace the same file at once would each take the other's away.
        let _alone = lock_directory(&path).map_err(error("lock the directory of"))?;
        if let Ok(about) = fs::symlink_metadata(&path) {
            if !about.file_type().is_socket() {
                return Err(EndpointError::NoSocket { path });
            }
            match try_connect(&path) {
                Err(Errno::CONNREFUSED) => {
                    tracing::info!(path = %path.display(), "replaced a socket that nobody listens at");
                    fs::remove_file(&path).map_err(error("replace"))?;
                }
                Ok(_) | Err(Errno::AGAIN) => return Err(EndpointError::InUse { path }),
                Err(errno) => return Err(error("find out who listens at")(errno.into())),
            }
        }
        let listener = UnixListener::bind(&path).map_err(error("listen at"))?;
        listener.set_nonblocking(true).map_err(error("listen at"))?;
        let about = fs::symlink_metadata(&path).map_err(error("look at"))?;
        Ok(Self { listener, file: (about.dev(), about.ino()), path })
    }

    fn accept(&self, wake: &Wake) -> Option<UnixStream> {
        loop {
            match wait(&[self.listener.as_fd()], PollFlags::IN, Some(wake.as_fd()), None) {
                Ok(Waited::Ready(_)) => {}
                Ok(Waited::Woken) => return None,
                Ok(Waited::TimedOut) => continue,
                Err(errno) => {
                    tracing::error!(path = %self.path.display(), error = %errno, "cannot wait for peers");
                    return None;
                }
            }
            match self.listener.accept() {
                // Not one that said nothing and has gone while it waited: many of those would keep the next one waiting.
                Ok((stream, _)) if has_gone(&stream) => {}
                Ok((stream, _)) => return Some(stream),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    // For want of descriptors, mostly: it may pass.
                    tracing::warn!(path = %self.path.display(), %error, "could not accept a peer");
                    if !pause(wake, LONGEST_PAUSE) {
                        return None;
                    }
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _alone = lock_directory(&self.path);
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the socket");
        }
    }
}

/// Holds the lock of the directory that a path lies in. Whoever holds it does so for a moment only; one who does not
/// give it back in a second is no longer waited for.
fn lock_directory(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(parent)?;
    for _ in 0..100 {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(10)),
            Ok(()) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(directory)
}
