//! A Linux guest on vhost-user sockets, and its console.
//!
//! `cargo run -p wirerate-tests --example guest -- [--fetch] [--packed] [--queues N] [SOCKET]...` boots a guest with
//! an interface for each socket, served by `net_vhost0,iface=SOCKET` of l2fwd or another program. Lines that are typed
//! are run in the guest, one after the other; the end of the input ends it. `--fetch` first downloads Debian's kernel
//! into the cache; without a socket that is all.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wirerate_tests::guest::{self, Kernel, Machine, Nic, Outcome};
use wirerate_tests::needs;

/// Host programs that are useful there, if the host has them.
const PROGRAMS: [&str; 3] = ["iperf3", "ethtool", "tcpdump"];
/// Time for a command.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    let (mut fetch, mut packed, mut queues, mut sockets) = (false, false, 1, Vec::new());
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--fetch") => fetch = true,
            Some("--packed") => packed = true,
            Some("--queues") => {
                let count = arguments.next().context("--queues takes a number")?;
                queues =
                    count.to_str().and_then(|count| count.parse().ok()).context("--queues takes a number")?;
            }
            Some(option) if option.starts_with('-') => bail!("{option} is no option of this program"),
            _ => sockets.push(PathBuf::from(argument)),
        }
    }
    if fetch {
        println!("the kernel for guests is {}", Kernel::fetch()?.image.display());
    }
    if sockets.is_empty() {
        anyhow::ensure!(fetch, "no socket is given, and nothing else to do");
        return Ok(());
    }

    let mut machine = Machine::new("guest").processors(queues.into());
    for name in PROGRAMS.into_iter().filter(|name| needs::find(name).is_some()) {
        machine = machine.program(name);
    }
    for socket in &sockets {
        let nic = Nic::vhost_user(socket).queues(queues);
        machine = machine.nic(if packed { nic.packed() } else { nic });
    }
    println!("waiting for the other side of {} socket(s), and for the guest", sockets.len());
    let [mut guest] = guest::boot([&machine])?;
    prompt()?;
    for line in std::io::stdin().lock().lines() {
        let Outcome { status, output } = guest.outcome(&line?, LIMIT)?;
        print!("{output}");
        if status != 0 {
            println!("exit status {status}");
        }
        prompt()?;
    }
    println!();
    Ok(())
}

fn prompt() -> Result<()> {
    print!("guest# ");
    std::io::stdout().flush().context("printing")
}
