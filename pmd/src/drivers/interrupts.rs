//! Interrupts of a PCI function: one for changes of its state, and others that wake sleeping receive queues.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wirerate_eal::pci::PciFunction;

/// How a device tells.
#[derive(Debug, Default)]
pub(crate) enum Interrupts {
    /// It does not: it is asked.
    #[default]
    None,
    /// One interrupt, shared by all that it tells. It is for its state, as it would come for each packet else.
    Line(OwnedFd),
    /// Vectors: the first for its state, others for receive queues.
    Vectors(Vec<OwnedFd>),
}

impl Interrupts {
    /// The best that `function` can do for `receives` receive queues, with `most` vectors at most.
    pub(crate) fn enable<F: PciFunction>(name: &str, function: &F, receives: u16, most: u16) -> Self {
        let mut count = function.msix_vectors().min(receives.saturating_add(1)).min(most);
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

    /// The vector for changes of its state.
    pub(crate) fn config_vector(&self) -> Option<u16> {
        matches!(self, Self::Vectors(_)).then_some(0)
    }

    /// The vector of a receive queue. Queues share what there are too few of.
    pub(crate) fn receive_vector(&self, queue: u16) -> Option<u16> {
        match self {
            Self::Vectors(fds) if fds.len() > 1 => Some(1 + queue % (fds.len() - 1) as u16),
            _ => None,
        }
    }

    /// Vectors for receive queues.
    pub(crate) fn receive_vectors(&self) -> u16 {
        match self {
            Self::Vectors(fds) => fds.len().saturating_sub(1) as u16,
            _ => 0,
        }
    }

    /// What becomes readable by that vector.
    pub(crate) fn receive_fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        let Self::Vectors(fds) = self else { return None };
        fds.get(usize::from(self.receive_vector(queue)?)).map(AsFd::as_fd)
    }

    /// What becomes readable when its state changes.
    pub(crate) fn config_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None => None,
            Self::Line(fd) => Some(fd.as_fd()),
            Self::Vectors(fds) => fds.first().map(AsFd::as_fd),
        }
    }
}
