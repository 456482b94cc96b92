//! End-to-end tests: the bundled programs as a user runs them.
//!
//! `cargo test -p wirerate-tests --test end_to_end -- traffic` runs those whose name contains `traffic`. What a
//! machine lacks is told at each test that needs it; `WIRERATE_REQUIRE=all` makes that a failure.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use libtest_mimic::Arguments;
use wirerate_tests::guest::cable;
use wirerate_tests::{scratch, transfer};

mod bind;
mod checks;
mod cleanup;
mod files;
mod guests;
mod interop;
mod memory;
mod nic82599;
mod nic82599_vf;
mod pci;
mod pci_life;
mod peers;
mod support;
mod traffic;
mod usage;

fn main() -> ExitCode {
    // Before the arguments are looked at: this may be the sender or receiver of a file, or carry frames.
    match transfer::take_part().and_then(|taken| Ok(taken || cable::take_part()?)) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => {}
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        scratch::remove_leftovers();
    }
    let trials = [
        // What builds for long comes first, beside what runs for long.
        checks::trials(),
        traffic::trials(),
        peers::trials(),
        guests::trials(),
        pci::trials(),
        pci_life::trials(),
        nic82599::trials(),
        nic82599_vf::trials(),
        interop::trials(),
        cleanup::trials(),
        files::trials(),
        memory::trials(),
        bind::trials(),
        usage::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
