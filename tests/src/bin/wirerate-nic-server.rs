//! Serves models of the 82599 by vfio-user, for drivers to be tried on in guests of QEMU.
//!
//! `cargo run -p wirerate-tests --bin wirerate-nic-server -- [--seed N] [--no-msix] [--virtual] [--apart] SOCKET [SOCKET]...` makes each socket and
//! serves a card on it. Two after each other have a cable between them, a last one alone has none; `--apart` has no cables.
//! Where `SOCKET` is `SOCKET,OWN,OTHER`, the cable leads to datagrams instead, a frame each: it makes the socket `OWN` and
//! sends to `OTHER`, which is there. QEMU, from 10.1 on, has the card by
//! `-device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"SOCKET"}}'`, with its memory shared
//! (`-object memory-backend-memfd,id=memory,size=512M,share=on -machine q35,memory-backend=memory`).
//!
//! A rule of the datasheet that a driver breaks is printed when it happens, one a line. When its input ends (Ctrl-D) it
//! prints the counters and ends: with status 1, if there were such faults.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use wirerate_tests::nic_server::{Cable, Manner, NicServer, Wires};

/// How often faults are looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Models of Intel's 82599 on vfio-user sockets, until its input ends: then it prints what the cards counted, and ends with
/// status 1 if a driver broke a rule.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Decides all that the datasheet leaves open: the same number, the same decisions
    #[arg(long, default_value_t = Manner::default().seed)]
    seed: u64,
    /// The cards have no MSI-X
    #[arg(long)]
    no_msix: bool,
    /// The cards are virtual functions, whose physical ones are played
    #[arg(long = "virtual")]
    is_virtual: bool,
    /// No cables: otherwise one leads from each first to its second
    #[arg(long)]
    apart: bool,
    /// SOCKET, or SOCKET,OWN,OTHER to have a datagram for each frame from OTHER at the new socket OWN, and back
    #[arg(required = true, value_name = "SOCKET[,OWN,OTHER]")]
    sockets: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether no rule was broken.
fn run() -> Result<bool> {
    let options = Options::parse();
    let Options { seed, no_msix, is_virtual, .. } = options;
    let manner = Manner { seed, has_msix: !no_msix, is_virtual };
    let (mut sockets, mut cables) = (Vec::new(), Vec::<Cable>::new());
    for name in options.sockets {
        let mut paths = name.split(',').map(PathBuf::from);
        sockets.push(paths.next().context("no socket")?);
        match (paths.next(), paths.next(), paths.next()) {
            (None, ..) => {
                // The second of two is led to by the first.
                if let (false, true, Some(last @ Cable::None)) =
                    (options.apart, sockets.len() % 2 == 0, cables.last_mut())
                {
                    *last = Cable::Next;
                }
                cables.push(Cable::None);
            }
            (Some(own), Some(other), None) => cables.push(Cable::Wires(Wires { own, other })),
            _ => bail!("{name} is neither SOCKET nor SOCKET,OWN,OTHER"),
        }
    }
    let server = NicServer::on(sockets, manner, cables)?;
    println!("serving");
    let (end, ends) = channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(end);
    });
    let mut told = 0;
    loop {
        let over = matches!(ends.recv_timeout(LOOK), Err(RecvTimeoutError::Disconnected));
        let faults = server.faults();
        faults.iter().skip(told).for_each(|fault| println!("{fault}"));
        told = faults.len();
        if over {
            server.counters().iter().for_each(|counter| println!("{counter}"));
            return Ok(told == 0);
        }
    }
}
