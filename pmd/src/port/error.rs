//! What can go wrong with a port.

use std::io;

use thiserror::Error;

use crate::packet::MbufPoolError;

/// Why a port could not be opened, configured, started or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PortError {
    /// The devargs name no driver.
    #[error("no driver is called \"{name}\"{hint}; there are {known}")]
    UnknownDriver {
        /// What was asked for.
        name: String,
        /// ` (did you mean ...)`, or nothing.
        hint: String,
        /// The drivers there are.
        known: String,
    },
    /// The devargs are not of the form `name,key=value,...`.
    #[error("device \"{devargs}\": {problem}")]
    DevArgs {
        /// The text.
        devargs: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A parameter that the driver does not have.
    #[error("{device}: no parameter is called \"{key}\"{hint}; there are {known}")]
    UnknownParameter {
        /// The device.
        device: String,
        /// What was given.
        key: String,
        /// ` (did you mean ...)`, or nothing.
        hint: String,
        /// The parameters there are.
        known: String,
    },
    /// A parameter whose value cannot be.
    #[error("{device}: {key}={value}: {problem}")]
    BadParameter {
        /// The device.
        device: String,
        /// The parameter.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A parameter without which the driver cannot work.
    #[error("{device}: {key}=... is missing: {purpose}")]
    MissingParameter {
        /// The device.
        device: String,
        /// The parameter.
        key: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// Two ports with one name.
    #[error("there is a port called {name} already; give each its own number")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// More queues than the device can have, or fewer than the program needs.
    #[error("{device}: {asked} {direction} queues asked, {most} possible")]
    QueueCount {
        /// The device.
        device: String,
        /// `rx` or `tx`.
        direction: &'static str,
        /// Queues asked for.
        asked: u16,
        /// The most it can have.
        most: u16,
    },
    /// Receive queues without a pool to receive into.
    #[error("{device}: {rx_queues} rx queues need a pool of mbufs, and the configuration has none")]
    NoPool {
        /// The device.
        device: String,
        /// Receive queues asked for.
        rx_queues: u16,
    },
    /// Something else in the configuration that the device cannot do.
    #[error("{device}: {problem}")]
    Configuration {
        /// The device.
        device: String,
        /// What is wrong.
        problem: String,
    },
    /// The system refused.
    #[error("{device}: {action}: {source}{remedy}")]
    System {
        /// The device.
        device: String,
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
        /// `; ` and what would mend it, or nothing.
        remedy: String,
    },
    /// The driver does not do this.
    #[error("this driver does not support {what}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A pool that the driver needs could not be made.
    #[error(transparent)]
    Pool(#[from] MbufPoolError),
    /// A PCI function cannot be found or taken.
    #[error(transparent)]
    Pci(#[from] wirerate_eal::pci::PciError),
}

impl PortError {
    /// A [`System`](Self::System) error with what would mend it, where its kind tells.
    pub fn system(device: impl Into<String>, action: impl Into<String>, source: io::Error) -> Self {
        let remedy = match source.kind() {
            io::ErrorKind::PermissionDenied => "; run as root, or give the program the capability it lacks",
            _ => "",
        };
        Self::System { device: device.into(), action: action.into(), source, remedy: remedy.to_owned() }
    }
}

/// ` (did you mean "...")` for the closest of `known`, or nothing when none is close.
pub(crate) fn did_you_mean(given: &str, known: impl IntoIterator<Item = &'static str>) -> String {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(given, candidate), candidate))
        .filter(|&(likeness, _)| likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean \"{candidate}\"?)"))
}
