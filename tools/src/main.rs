//! `wirerate`: what a machine needs for poll-mode work, looked at and set up.
//!
//! One subcommand a module. Each writes plain text to standard output, and what goes wrong as one line to
//! standard error; the exit code is 2 for bad input and 1 for what the system refused.
#![forbid(unsafe_code)]

mod bench;
mod bind;
mod doctor;
mod hugepages;
mod machine;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "wirerate", version, about = "Looks at a machine and sets it up for poll-mode work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Doctor(doctor::Options),
    Bind(bind::Options),
    Hugepages(hugepages::Options),
    /// Runs the same work on Wirerate and on a peer, in turns, and compares
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// The input was right, and the system did not do it: exit code 1.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors and are printed as they are. So is the help that stands in for a missing
        // subcommand, but that one is an error.
        Err(error)
            if !error.use_stderr()
                || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            return match error.print() {
                Ok(()) if !error.use_stderr() => ExitCode::SUCCESS,
                _ => ExitCode::from(2),
            };
        }
        Err(error) => {
            eprintln!("error: {}", wirerate_eal::one_line(&error));
            return ExitCode::from(2);
        }
    };
    let done = match &cli.command {
        Command::Doctor(options) => doctor::run(options),
        Command::Bind(options) => bind::run(options),
        Command::Hugepages(options) => hugepages::run(options),
        Command::Bench(bench) => bench.run().map_err(|error| Refused(format!("{error:#}")).into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Refused>() { 1 } else { 2 })
        }
    }
}

/// Writes a subcommand's text. That nobody reads it to its end (`wirerate doctor | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Refused(error.to_string()).into()),
        _ => Ok(()),
    }
}

/// Bytes in the largest binary unit of which they are a whole number: `2M`, `1G`, `0`.
fn size_text(bytes: u64) -> String {
    let mut unit = 0;
    while unit < 4 && bytes > 0 && bytes.is_multiple_of(1 << (10 * (unit + 1))) {
        unit += 1;
    }
    format!("{}{}", bytes >> (10 * unit), ["", "K", "M", "G", "T"][unit])
}
