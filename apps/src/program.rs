//! How a program starts and ends: options of the environment, `--`, options of its own; one line and exit code
//! 2 for bad input; an end by signal that is as clean as any other.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};
use wirerate_eal::{Eal, EalOptions, StopToken, logging, one_line};
use wirerate_pmd::Port;
use wirerate_pmd::packet::Offload;
use wirerate_pmd::port::Opened;

/// Prints a line on standard output, like `println!`, but goes on when nobody reads it: `l2fwd | head` is no
/// reason to drop packets.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::program::say(format_args!($($text)*))
    };
}

/// See [`say!`](crate::say).
pub fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Something failed after the packets had begun to move: exit code 1.
#[derive(Debug)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// The options of the environment before `--` and those of the program after it, as the help shows them.
#[derive(Parser)]
struct Both<O: Args> {
    #[command(flatten)]
    program: O,
}

/// Runs a program called `name` from its command line. `body` gets the environment and the options `O`.
///
/// What goes wrong in `body` is printed as one line; the exit code is 1 for [`Failed`] and 2 for anything else,
/// which is something that the user can mend.
pub fn main<O: Args>(name: &'static str, body: impl FnOnce(&Eal, &O) -> Result<()>) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match start::<O>(name, arguments).and_then(|started| match started {
        Some((eal, options)) => body(&eal, &options),
        None => Ok(()),
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Failed>() { 1 } else { 2 })
        }
    }
}

/// Reads the command line and makes the environment; none when only help was asked for.
fn start<O: Args>(name: &'static str, arguments: Vec<OsString>) -> Result<Option<(Eal, O)>> {
    let command = Both::<O>::command().name(name).bin_name(format!("{name} [environment options] --"));
    if arguments.iter().take_while(|argument| *argument != "--").any(|a| a == "--help" || a == "-h") {
        print_help(name, command);
        return Ok(None);
    }
    let (environment, rest) = EalOptions::parse_from(arguments)?;
    let words = std::iter::once(OsString::from(name)).chain(rest);
    let options = match command.clone().try_get_matches_from(words) {
        Ok(matches) => O::from_arg_matches(&matches)?,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            print_help(name, command);
            return Ok(None);
        }
        Err(error) => anyhow::bail!("{}", one_line(&error)),
    };
    logging::init(&environment)?;
    let eal = Eal::new(environment)?;
    end_on_signal(eal.stop()).context("catching SIGINT and SIGTERM")?;
    Ok(Some((eal, options)))
}

/// One help for both sets of options.
fn print_help(name: &'static str, program: clap::Command) {
    let environment = EalOptions::augment(clap::Command::new(name)).disable_help_flag(true);
    say!("Usage: {name} [environment options] [-- options of {name}]\n");
    say!("{}", program.help_template("Options of {name}, after --:\n{options}").render_help());
    say!("{}", environment.help_template("Environment options, before --:\n{options}").render_help());
}

/// SIGINT and SIGTERM request the end; a second one ends at once.
fn end_on_signal(stop: &StopToken) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, stop.flag())?;
        signal_hook::flag::register(signal, Arc::clone(&stop.flag()))?;
    }
    Ok(())
}

/// Reads a hexadecimal mask, with or without `0x`.
///
/// # Errors
/// When it is none, or empty.
pub fn hex_mask(text: &str) -> Result<u64> {
    let digits = text.trim_start_matches("0x").trim_start_matches("0X");
    let mask = u64::from_str_radix(digits, 16)
        .context("expected a hexadecimal mask, for instance 3 for ports 0 and 1")?;
    ensure!(mask != 0, "no port is in the mask");
    Ok(mask)
}

/// DPDK's bits of receive offloads that are known here; others are for single devices, or always so.
const RX_BITS: [(u64, Offload); 4] = [
    (0x1, Offload::RX_VLAN_STRIPPED),
    (0x4, Offload::TX_UDP_CHECKSUM),
    (0x8, Offload::TX_TCP_CHECKSUM),
    (0x10, Offload::TX_TCP_SEGMENTATION),
];

/// DPDK's bits of transmit offloads that are known here.
const TX_BITS: [(u64, Offload); 5] = [
    (0x1, Offload::TX_VLAN_INSERT),
    (0x2, Offload::TX_IP_CHECKSUM),
    (0x4, Offload::TX_UDP_CHECKSUM),
    (0x8, Offload::TX_TCP_CHECKSUM),
    (0x20, Offload::TX_TCP_SEGMENTATION),
];

/// Reads DPDK's bits of receive offloads (`RTE_ETH_RX_OFFLOAD_*`). Those that are not known here have no effect.
///
/// # Errors
/// When it is no hexadecimal number.
pub fn rx_offloads(text: &str) -> Result<Offload> {
    offloads(text, &RX_BITS)
}

/// Reads DPDK's bits of transmit offloads (`RTE_ETH_TX_OFFLOAD_*`). Those that are not known here have no effect: packets
/// of several segments, for instance, can always be sent.
///
/// # Errors
/// When it is no hexadecimal number.
pub fn tx_offloads(text: &str) -> Result<Offload> {
    offloads(text, &TX_BITS)
}

fn offloads(text: &str, known: &[(u64, Offload)]) -> Result<Offload> {
    let digits = text.trim_start_matches("0x").trim_start_matches("0X");
    let mask = u64::from_str_radix(digits, 16).context("expected a hexadecimal mask, for instance 0xc")?;
    let flags = known.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, flag)| *flag);
    Ok(flags.collect())
}

/// Ports that forward to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs(Vec<(u16, u16)>);

/// Reads `(0,2),(1,3)`.
///
/// # Errors
/// When it is of another form, or names a port twice.
pub fn port_pairs(text: &str) -> Result<Pairs> {
    let form = || format!("expected pairs of ports, for instance (0,2),(1,3), and found {text}");
    let inner = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')')).with_context(form)?;
    let mut pairs = Vec::new();
    for pair in inner.split("),(") {
        let (a, b) = pair.split_once(',').with_context(form)?;
        pairs.push((a.trim().parse().with_context(form)?, b.trim().parse().with_context(form)?));
    }
    let mut named: Vec<u16> =
        pairs.iter().flat_map(|&(a, b)| if a == b { vec![a] } else { vec![a, b] }).collect();
    named.sort_unstable();
    ensure!(named.windows(2).all(|two| two[0] != two[1]), "a port is in two pairs of {text}");
    Ok(Pairs(pairs))
}

/// Keeps the ports in `mask`; all of them when there is none.
///
/// # Errors
/// When the mask names a port that is not there, or none is left.
pub fn choose_ports(ports: Vec<Port<Opened>>, mask: Option<u64>) -> Result<Vec<Port<Opened>>> {
    let mask = mask.unwrap_or(u64::MAX);
    let known = if ports.len() < 64 { (1 << ports.len()) - 1 } else { u64::MAX };
    ensure!(
        mask == u64::MAX || mask & !known == 0,
        "the port mask {mask:x} names ports that are not there: {} ports have the mask {known:x}",
        ports.len()
    );
    let in_mask = |port: &Port<Opened>| port.id() < 64 && mask >> port.id() & 1 == 1;
    Ok(ports.into_iter().filter(in_mask).collect())
}

/// For each of the ports with these numbers the index of the one that it forwards to: as `pairs` say, or
/// first with second, third with fourth; the last of an odd number with itself.
///
/// # Errors
/// When `pairs` name a port that is not used, or leave one out.
pub fn partners(ids: &[u16], pairs: Option<&Pairs>) -> Result<Vec<usize>> {
    let Some(Pairs(pairs)) = pairs else {
        return Ok((0..ids.len())
            .map(|index| if index ^ 1 < ids.len() { index ^ 1 } else { index })
            .collect());
    };
    let index_of = |id: u16| {
        let found = ids.iter().position(|&other| other == id);
        found.with_context(|| {
            format!("the port map names port {id}, which is not there or not in the port mask")
        })
    };
    let mut partners = vec![None; ids.len()];
    for &(a, b) in pairs {
        let (a, b) = (index_of(a)?, index_of(b)?);
        (partners[a], partners[b]) = (Some(b), Some(a));
    }
    let paired = |(index, partner): (usize, Option<usize>)| {
        partner.with_context(|| format!("the port map leaves out port {}", ids[index]))
    };
    partners.into_iter().enumerate().map(paired).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_hexadecimal() {
        assert_eq!(hex_mask("3").unwrap(), 3);
        assert_eq!(hex_mask("0xfF").unwrap(), 255);
        assert!(["", "0", "g", "-1", "11111111111111111"].iter().all(|text| hex_mask(text).is_err()));
    }

    #[test]
    fn offloads_are_read_by_the_bits_of_dpdk() {
        assert_eq!(
            tx_offloads("0x802c").unwrap(),
            Offload::TX_ALL - Offload::TX_VLAN_INSERT - Offload::TX_IP_CHECKSUM
        );
        assert_eq!(rx_offloads("1D").unwrap(), Offload::RX_LIBERTIES);
        assert_eq!(rx_offloads("0").unwrap(), Offload::empty());
        assert!(rx_offloads("tcp").is_err());
    }

    #[test]
    fn pairs_are_read_as_dpdk_writes_them() {
        assert_eq!(port_pairs("(0,2),(1,3)").unwrap(), Pairs(vec![(0, 2), (1, 3)]));
        assert_eq!(port_pairs("(4,4)").unwrap(), Pairs(vec![(4, 4)]));
        for text in ["", "()", "(0,1", "0,1", "(0)", "(0,1),", "(0,1),(1,2)", "(a,b)", "(0,70000)"] {
            assert!(port_pairs(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn partners_follow_the_map_or_the_order() {
        assert_eq!(partners(&[0, 1, 2], None).unwrap(), [1, 0, 2]);
        let pairs = port_pairs("(1,5),(3,3)").unwrap();
        assert_eq!(partners(&[1, 3, 5], Some(&pairs)).unwrap(), [2, 1, 0]);
        assert!(partners(&[1, 3], Some(&pairs)).unwrap_err().to_string().contains("port 5"));
        assert!(partners(&[1, 2, 3, 5], Some(&pairs)).unwrap_err().to_string().contains("leaves out port 2"));
    }
}
