//! Every lcore says hello: DPDK's helloworld.
//!
//! `cargo run -p wirerate-eal --example hello -- -l 0-1`
#![forbid(unsafe_code)]

use std::process::ExitCode;

use wirerate_eal::{Eal, EalError, EalOptions, LcoreError, MemoryRequest, OptionsError, logging};

fn main() -> ExitCode {
    let options = match EalOptions::parse_from(std::env::args_os().skip(1)) {
        Ok((options, _rest)) => options,
        Err(OptionsError::Help(text) | OptionsError::Version(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    match hello(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.downcast_ref().map_or(1, EalError::exit_code))
        }
    }
}

fn hello(options: EalOptions) -> Result<(), Box<dyn std::error::Error>> {
    logging::init(&options)?;
    let eal = Eal::new(options)?;
    let rings = eal.reserve(MemoryRequest::new(4 << 20).name("rings"))?;

    let taken: Vec<_> = eal.scope(|scope| {
        let greet = |lcore| {
            scope.launch(lcore, |lcore| {
                let begun = lcore.clock().cycles();
                let place = if lcore.pinned() { "pinned to" } else { "not pinned to" };
                println!("hello from lcore {}, {place} CPU {:?}", lcore.lcore().id(), lcore.lcore().cpus());
                lcore.clock().to_duration(lcore.clock().cycles() - begun)
            })
        };
        let running: Vec<_> = eal.lcores().iter().map(|lcore| greet(lcore.id())).collect::<Result<_, _>>()?;
        running.into_iter().map(|lcore| lcore.join()).collect::<Result<_, LcoreError>>()
    })??;

    println!("greeting took {taken:?} at {:.3} GHz", eal.clock().hz() as f64 / 1e9);
    println!("{}", eal.memory_report());
    drop(rings);
    Ok(())
}
