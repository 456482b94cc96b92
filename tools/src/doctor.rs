//! `wirerate doctor`: what this machine has and lacks for poll-mode work, and the command that mends it.

mod checks;

use std::fmt::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use wirerate_eal::Clock;
use wirerate_eal::pci;
use wirerate_pmd::port::registry::{DRIVERS, PCI_DRIVERS};

use crate::machine::Machine;
use crate::print;

/// Tell what this machine has and lacks for poll-mode work
///
/// Looks and changes nothing; needs no root, and tells each user what holds for that user.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As it should be.
    Good,
    /// It works, and would be faster or steadier otherwise.
    Better,
    /// Something does not work without it.
    Lacking,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    topic: &'static str,
    state: State,
    /// What there is.
    found: String,
    /// What would mend it; none when nothing is to mend or can be.
    mend: Option<String>,
}

impl Check {
    fn good(topic: &'static str, found: impl Into<String>) -> Self {
        Self { topic, state: State::Good, found: found.into(), mend: None }
    }

    fn better(topic: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { topic, state: State::Better, found: found.into(), mend: Some(mend.into()) }
    }

    fn lacking(topic: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { topic, state: State::Lacking, found: found.into(), mend: Some(mend.into()) }
    }
}

/// A driver, and what it lacks to work for this user.
#[derive(Debug)]
struct Usable {
    driver: &'static str,
    lacks: Option<&'static str>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let machine = Machine::here();
    let checks = checks::all(&machine, &Clock::calibrate());
    let drivers = usable(&machine);
    if options.json {
        print(&format!("{:#}\n", as_json(&checks, &drivers)))
    } else {
        print(&as_text(&checks, &drivers))
    }
}

fn usable(machine: &Machine) -> Vec<Usable> {
    let raw = machine.capabilities() & checks::NET_RAW != 0;
    let admin = machine.capabilities() & checks::NET_ADMIN != 0;
    let lacks = |driver| match driver {
        "net_af_packet" if !raw => Some("CAP_NET_RAW"),
        "net_tap" if !machine.exists("dev/net/tun") => Some("/dev/net/tun"),
        "net_tap" if !admin => Some("CAP_NET_ADMIN"),
        "net_af_xdp" if !(raw && admin) => Some("CAP_NET_RAW and CAP_NET_ADMIN"),
        _ => None,
    };
    let virtual_ones = DRIVERS.iter().map(|driver| Usable { driver: driver.name, lacks: lacks(driver.name) });
    let devices = pci::scan(&machine.system());
    let physical = PCI_DRIVERS.iter().map(|driver| {
        let its_own = |device: &pci::PciDevice| driver.ids.contains(&(device.vendor, device.device));
        let given = devices.iter().any(|device| device.is_handed_over() && its_own(device));
        let lacks = (!given).then_some("a device that wirerate bind gives to programs");
        Usable { driver: driver.name, lacks }
    });
    virtual_ones.chain(physical).collect()
}

fn as_text(checks: &[Check], drivers: &[Usable]) -> String {
    let width = checks.iter().map(|check| check.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    // Writing to a String cannot fail.
    for check in checks {
        let mark = match check.state {
            State::Good => "ok",
            State::Better => "..",
            State::Lacking => "--",
        };
        let _ = writeln!(text, "{mark} {:width$}  {}", check.topic, check.found);
        if let Some(mend) = &check.mend {
            let _ = writeln!(text, "   {:width$}  > {mend}", "");
        }
    }
    let names = |works: bool| {
        let chosen = drivers.iter().filter(move |driver| driver.lacks.is_none() == works);
        chosen
            .map(|driver| match driver.lacks {
                None => driver.driver.to_owned(),
                Some(lacks) => format!("{} (needs {lacks})", driver.driver),
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let _ = writeln!(text, "\ndrivers that work now:  {}", names(true));
    if drivers.iter().any(|driver| driver.lacks.is_some()) {
        let _ = writeln!(text, "and that do not:        {}", names(false));
    }
    text.push_str("\nok: as it should be   ..: works, could be better   --: missing   >: what mends it\n");
    text
}

fn as_json(checks: &[Check], drivers: &[Usable]) -> Value {
    let state = |state| match state {
        State::Good => "good",
        State::Better => "better",
        State::Lacking => "lacking",
    };
    let checks: Vec<_> = checks
        .iter()
        .map(|check| {
            let state = state(check.state);
            json!({ "topic": check.topic, "state": state, "found": check.found, "mend": check.mend })
        })
        .collect();
    let drivers: Vec<_> = drivers
        .iter()
        .map(|usable| {
            let works = usable.lacks.is_none();
            json!({ "driver": usable.driver, "works": works, "lacks": usable.lacks })
        })
        .collect();
    json!({ "checks": checks, "drivers": drivers })
}
