//! A file sent by TCP from one namespace to another.
//!
//! Sender and receiver are the test program itself, started again inside the namespaces with a first argument
//! that no user gives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::frames::Random;
use crate::namespace::Namespace;
use crate::program::{self, Running};
use crate::scratch;

const SEND: &str = "--internal-send-file";
const RECEIVE: &str = "--internal-receive-file";
/// How long a connection may stand still.
const STALL: Duration = Duration::from_secs(30);
/// How long a whole transfer may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Does the part of sender or receiver, if this process was started for that. A program that sends files calls
/// this first.
///
/// # Errors
/// When the transfer fails.
pub fn take_part() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [SEND, address, path] => send(address, Path::new(path))?,
        [RECEIVE, address, path] => receive(address, Path::new(path))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Sends a file of `bytes` random bytes and checks the SHA-256 of what arrives at `address`.
pub(crate) fn between(from: &Namespace, to: &Namespace, address: (&str, u16), bytes: u64) -> Result<()> {
    let own = std::env::current_exe().context("finding this program")?;
    let folder = scratch::directory("transfer")?;
    let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
    make_file(&original, bytes)?;
    let address = format!("{}:{}", address.0, address.1);

    let mut receiver = to.command(&own);
    receiver.args([RECEIVE, &address]).arg(&copy);
    let mut receiver = Running::start(receiver)?;
    receiver.wait_for("listening", Duration::from_secs(20))?;
    let mut sender = from.command(&own);
    sender.args([SEND, &address]).arg(&original);
    program::run(sender, LIMIT)?.expect_code(0)?;
    receiver.wait(LIMIT)?.expect_code(0)?;

    let arrived = std::fs::metadata(&copy)?.len();
    ensure!(arrived == bytes, "{arrived} of {bytes} bytes arrived");
    let (sent, received) = (sha256(&original)?, sha256(&copy)?);
    ensure!(sent == received, "the file changed on its way: SHA-256 {sent} became {received}");
    Ok(())
}

fn send(address: &str, path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let address = address.parse().context("reading the address")?;
    let mut stream = TcpStream::connect_timeout(&address, STALL).context("connecting")?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    io::copy(&mut file, &mut stream).context("sending")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // The other side closes when it has everything; until then this process keeps the connection.
    let left = stream.read(&mut [0; 1]).context("waiting for the other side to close")?;
    ensure!(left == 0, "the receiver said something");
    Ok(())
}

fn receive(address: &str, path: &Path) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let listener = TcpListener::bind(address).context("listening")?;
    println!("listening");
    let (mut stream, _) = listener.accept().context("accepting")?;
    stream.set_read_timeout(Some(STALL))?;
    io::copy(&mut stream, &mut file).context("receiving")?;
    file.flush()?;
    Ok(())
}

fn make_file(path: &Path, bytes: u64) -> Result<()> {
    let mut random = Random::new(bytes);
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut left = bytes;
    let mut chunk = vec![0; 1 << 16];
    while left > 0 {
        random.fill(&mut chunk);
        let count = left.min(chunk.len() as u64);
        let Ok(length) = usize::try_from(count) else { bail!("{count} is no length") };
        file.write_all(&chunk[..length])?;
        left -= count;
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_length_asked_and_the_hash_known() {
        let folder = scratch::directory("hash").unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        // The first example of FIPS 180-4.
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        make_file(&path, 100_001).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_001);
    }
}
