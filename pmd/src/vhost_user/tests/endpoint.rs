//! Sockets at paths, and peers that come and go.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::*;
use crate::vhost_user::Endpoint;

/// A thread that reports each peer, and keeps it until it closes or the thread is to end.
fn spawn(endpoint: Endpoint) -> Result<(ControlThread, Receiver<&'static str>), EndpointError> {
    let (sender, receiver) = channel();
    let thread = ControlThread::spawn("test-control", endpoint, move |stream, wake| {
        sender.send("begun").unwrap();
        let mut back_end = BackEnd::new(stream, Recorder::new(2));
        let ended = back_end.serve(wake);
        let _ = sender.send(if ended.unwrap() == Ended::Stopped { "stopped" } else { "closed" });
    })?;
    Ok((thread, receiver))
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("socket")
}

fn connect(path: &Path) -> UnixStream {
    UnixStream::connect(path).unwrap()
}

#[test]
fn a_server_takes_one_peer_after_another_and_its_file_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let (thread, events) = spawn(Endpoint::Server(path.clone())).unwrap();
    for _ in 0..2 {
        let peer = connect(&path);
        assert_eq!(events.recv_timeout(PATIENCE), Ok("begun"));
        drop(peer);
        assert_eq!(events.recv_timeout(PATIENCE), Ok("closed"));
    }
    // Nobody else may listen there meanwhile.
    assert!(matches!(spawn(Endpoint::Server(path.clone())), Err(EndpointError::InUse { .. })));
    let mut peer = Raw::new(connect(&path));
    assert!(peer.ask(&Request::GetFeatures, &[]).is_some());
    // The question who listens there may have been a peer for a moment, or was passed over because it had gone.
    let seen: Vec<_> = events.try_iter().collect();
    assert!(seen == ["begun"] || seen == ["begun", "closed", "begun"], "{seen:?}");
    let begun = Instant::now();
    drop(thread);
    assert!(begun.elapsed() < PATIENCE / 4);
    assert_eq!(events.recv_timeout(PATIENCE), Ok("stopped"));
    assert_eq!(peer.0.stream().read(&mut [0]).unwrap(), 0);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_nobody_listens_at_is_replaced_and_any_other_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (thread, _events) = spawn(Endpoint::Server(path.clone())).unwrap();
    connect(&path);
    // A file that somebody else put there since is left alone.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(thread);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(matches!(spawn(Endpoint::Server(path.clone())), Err(EndpointError::NoSocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let nowhere = directory.path().join("no/socket");
    assert!(matches!(spawn(Endpoint::Server(nowhere)), Err(EndpointError::Io { .. })));
    let too_long = directory.path().join("x".repeat(200));
    assert!(matches!(spawn(Endpoint::Server(too_long)), Err(EndpointError::Io { .. })));
}

#[test]
fn a_client_waits_for_somebody_to_listen_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let (thread, events) = spawn(Endpoint::Client(path.clone())).unwrap();
    thread::sleep(Duration::from_millis(50));
    for _ in 0..2 {
        let listener = UnixListener::bind(&path).unwrap();
        let (peer, _) = listener.accept().unwrap();
        assert_eq!(events.recv_timeout(PATIENCE), Ok("begun"));
        drop((peer, listener));
        fs::remove_file(&path).unwrap();
        assert_eq!(events.recv_timeout(PATIENCE), Ok("closed"));
    }
    let begun = Instant::now();
    drop(thread);
    assert!(begun.elapsed() < PATIENCE / 4);
}

#[test]
fn a_stream_is_served_once() {
    let (here, there) = UnixStream::pair().unwrap();
    let (thread, events) = spawn(Endpoint::Stream(there)).unwrap();
    assert_eq!(events.recv_timeout(PATIENCE), Ok("begun"));
    drop(here);
    assert_eq!(events.recv_timeout(PATIENCE), Ok("closed"));
    // The thread has ended, and what it held is gone.
    assert!(events.recv_timeout(PATIENCE).is_err());
    drop(thread);
}
