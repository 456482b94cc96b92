//! Interrupts: one for changes of the configuration, and others that wake sleeping receive queues.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wirerate_eal::pci::PciFunction;

use super::common::NO_VECTOR;

/// How a device tells.
#[derive(Debug, Default)]
pub(super) enum Interrupts {
    /// It does not: it is asked.
    #[default]
    None,
    /// One interrupt, shared by all that it tells. It is for the configuration, as it would come for each packet else.
    Line(OwnedFd),
    /// Vectors: the first for the configuration, others for receive queues.
    Vectors(Vec<OwnedFd>),
}

impl Interrupts {
    /// The best that `function` can do for `receives` receive queues.
    pub(super) fn enable<F: PciFunction>(name: &str, function: &F, receives: u16) -> Self {
        let mut count = function.msix_vectors().min(receives.saturating_add(1));
        // A system that is short of interrupts may have some: queues share what there are.
        while count > 0 {
            match function.enable_msix(count) {
                Ok(fds) if fds.len() == usize::from(count) => return Self::Vectors(fds),
                Ok(fds) => tracing::warn!("{name}: {} interrupt vectors came of {count}", fds.len()),
                Err(error) => tracing::warn!("{name}: {error}"),
            }
            count /= 2;
        }
        match function.enable_intx() {
            Ok(fd) => Self::Line(fd),
            Err(error) => {
                tracing::info!("{name}: no interrupts, it is looked at each second: {error}");
                function.disable_interrupts();
                Self::None
            }
        }
    }

    /// The vector for changes of the configuration.
    pub(super) fn config_vector(&self) -> u16 {
        if matches!(self, Self::Vectors(_)) { 0 } else { NO_VECTOR }
    }

    /// The vector of receive queue `pair`. Queues share what there are too few of.
    pub(super) fn receive_vector(&self, pair: u16) -> u16 {
        match self {
            Self::Vectors(fds) if fds.len() > 1 => 1 + pair % (fds.len() - 1) as u16,
            _ => NO_VECTOR,
        }
    }

    /// What becomes readable by that vector.
    pub(super) fn receive_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        let Self::Vectors(fds) = self else { return None };
        fds.get(usize::from(self.receive_vector(pair))).map(AsFd::as_fd)
    }

    /// What becomes readable when the configuration changes.
    pub(super) fn config_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None => None,
            Self::Line(fd) => Some(fd.as_fd()),
            Self::Vectors(fds) => fds.first().map(AsFd::as_fd),
        }
    }
}
