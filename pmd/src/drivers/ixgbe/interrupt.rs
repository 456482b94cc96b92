//! Interrupts: of the link's changes, and of packets for queues that somebody sleeps on (datasheet 7.3, 8.2.3.5).
//!
//! A receive queue's interrupt masks itself when it was told of, so it comes once for each time that it is asked for. Queues
//! that are polled cause none.

use std::sync::Arc;

use wirerate_eal::mmio::Mmio;

use super::registers::{
    EIAC, EICR, EIMS, EITR_SHIFT, GPIE, GPIE_EIAME, GPIE_MULTIPLE_MSIX, GPIE_OCD, GPIE_PBA, IVAR_MISC,
    IVAR_VALID, LSC, Registers, STATUS, eiam_ex, eimc_ex, eims_ex, eitr, ivar,
};
use crate::drivers::interrupts::Interrupts;

/// Vectors that are used: those that EICR has bits for.
pub(super) const MOST_VECTORS: u16 = 16;
/// A vector comes so many times 2 µs after its last at the earliest (8.2.3.5.12), so that a queue that wakes up and sleeps
/// again is no storm.
pub(super) const INTERVAL: u32 = 4;

/// Lets the device tell by `interrupts` of what becomes of it, and of packets once a queue asks for that.
pub(super) fn set_up<B: Mmio>(registers: &Registers<B>, interrupts: &Interrupts, receives: u16) {
    let entry = |vector: Option<u16>| vector.map_or(0, |vector| IVAR_VALID | u32::from(vector));
    if matches!(interrupts, Interrupts::Vectors(_)) {
        registers.write(GPIE, GPIE_MULTIPLE_MSIX | GPIE_OCD | GPIE_EIAME | GPIE_PBA);
        for pair in 0..receives.div_ceil(2) {
            let of = |queue| entry(interrupts.receive_vector(queue).filter(|_| queue < receives));
            registers.write(ivar(pair.into()), of(2 * pair) | of(2 * pair + 1) << 16);
        }
        registers.write(IVAR_MISC, entry(interrupts.config_vector()) << 8);
        let vectors = (1..=interrupts.receive_vectors()).fold(0, |bits, vector| bits | 1 << vector);
        registers.write(EIAC, vectors);
        registers.write(eiam_ex(0), vectors);
        for vector in 0..=interrupts.receive_vectors() {
            registers.write(eitr(vector.into()), INTERVAL << EITR_SHIFT);
        }
    }
    if !matches!(interrupts, Interrupts::None) {
        registers.write(EIMS, LSC);
    }
}

/// Takes note of an interrupt that is not a queue's: the device may tell of the next then.
pub(super) fn take<B: Mmio>(registers: &Registers<B>) {
    let _ = registers.read(EICR);
}

/// Registers of causes, and of their masks, by which bits are let through and kept back.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) cause: usize,
    pub(super) set: usize,
    pub(super) clear: usize,
}

/// A port's.
pub(super) const OF_PORT: Places = Places { cause: EICR, set: eims_ex(0), clear: eimc_ex(0) };

/// The interrupt of a receive queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueInterrupt {
    places: &'static Places,
    bit: u32,
    /// No other queue has the same.
    alone: bool,
}

impl QueueInterrupt {
    /// That of `queue`, of `receives` in all; none if it has none.
    pub(super) fn of(
        places: &'static Places,
        interrupts: &Interrupts,
        queue: u16,
        receives: u16,
    ) -> Option<Self> {
        let vector = interrupts.receive_vector(queue)?;
        Some(Self { places, bit: 1 << vector, alone: receives <= interrupts.receive_vectors() })
    }

    /// Asks for it. What comes after this call is told; what came before has to be looked for.
    pub(super) fn ask<B: Mmio>(self, bar: &Arc<B>) {
        if self.alone {
            // Packets that were polled are no reason to wake up.
            bar.write32(self.places.cause, self.bit);
        }
        bar.write32(self.places.set, self.bit);
        // The device has got both when this comes back.
        let _ = bar.read32(STATUS);
    }

    /// Asks for it no more.
    pub(super) fn forget<B: Mmio>(self, bar: &Arc<B>) {
        bar.write32(self.places.clear, self.bit);
    }
}
