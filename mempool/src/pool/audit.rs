//! A look at a pool as a whole, with all other threads kept out.

use alloc::vec;
use alloc::vec::Vec;
use core::panic::Location;
use core::ptr::NonNull;

use super::core::Core;
use super::lifetime::Pin;
use crate::AuditError;
use crate::debug;
use crate::magazine::Magazine;
use crate::slot::{CLOSED, Slot};

/// An object that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    /// Number of the object.
    pub index: usize,
    /// Its address.
    pub object: NonNull<u8>,
    /// Where it was got. Debug builds know; others do not.
    pub got_at: Option<&'static Location<'static>>,
}

/// What lies where: for each magazine in how many places it was found, for each object how often it is free.
struct Inventory {
    places: Vec<usize>,
    free: Vec<usize>,
    found: usize,
}

impl Core {
    /// Stops all other threads, as far as this pool goes, and looks.
    ///
    /// For the pool's caches the others cannot work meanwhile; the lock keeps away those who have none.
    fn stopped<R>(&self, look: impl FnOnce(&Self) -> R) -> Option<R> {
        let pin = Pin::new(self);
        let result = self.keep_out(CLOSED, &pin).then(|| look(self));
        self.thread_slots().for_each(|owned| owned.slot.open());
        drop(pin);
        result
    }

    /// Counts every magazine and every free object. All others are stopped.
    fn inventory(&self) -> Result<Inventory, AuditError> {
        let pool = || self.config.name().into();
        let capacity = self.config.magazine();
        let mut inventory = Inventory {
            places: vec![0; self.magazine_numbers()],
            free: vec![0; self.config.count()],
            found: 0,
        };
        let mut first = Ok(());
        let mut visit = |magazine: NonNull<Magazine>, len: u32| {
            let mut look = || {
                // SAFETY: the pool's magazines live as long as it does, and the number never changes.
                let number = unsafe { (*magazine.as_ptr()).number } as usize;
                inventory.places[number] += 1;
                let len = len as usize;
                if len > capacity {
                    return Err(AuditError::Length { pool: pool(), magazine: number, found: len, capacity });
                }
                for place in 0..len {
                    // SAFETY: the first `len` places are written, and nobody changes them while all are
                    // stopped.
                    let object = unsafe { *Magazine::objects(magazine).add(place) };
                    let address = object.as_ptr() as usize;
                    let index = self
                        .placement
                        .number(object)
                        .ok_or_else(|| AuditError::Foreign { pool: pool(), address })?;
                    inventory.free[index] += 1;
                    inventory.found += 1;
                    if inventory.free[index] > 1 {
                        return Err(AuditError::Duplicate { pool: pool(), index, address });
                    }
                }
                Ok(())
            };
            let result = look();
            if first.is_ok() {
                first = result;
            }
        };
        let slots = self.thread_slots().map(|owned| &owned.slot).chain([&self.shared]);
        for slot in slots {
            // SAFETY: all others are stopped, and we hold the lock. It is only looked at.
            unsafe { Slot::of_another(NonNull::from(slot)) }.visit(&mut visit);
        }
        // SAFETY: all others are stopped.
        unsafe {
            self.depot.full.visit(self, &mut visit);
            self.depot.empty.visit(self, &mut visit);
        }
        first.map(|()| inventory)
    }

    pub(super) fn audit(&self) -> Result<(), AuditError> {
        let pool = || self.config.name().into();
        self.stopped(|core| {
            let inventory = core.inventory()?;
            let twice = inventory.places.iter().position(|found| *found > 1);
            let there: usize = inventory.places.iter().sum();
            if let Some(magazine) = twice {
                return Err(AuditError::Magazine {
                    pool: pool(),
                    magazine,
                    found: inventory.places[magazine],
                });
            }
            if there != core.magazine_count() {
                let magazine = inventory.places.iter().position(|found| *found == 0).unwrap_or(0);
                return Err(AuditError::Magazine { pool: pool(), magazine, found: 0 });
            }
            let counts = core.counts();
            if counts.free + counts.cached != inventory.found {
                let counted = counts.free + counts.cached;
                return Err(AuditError::Sum { pool: pool(), counted, found: inventory.found });
            }
            if !debug::ACTIVE {
                return Ok(());
            }
            core.placement.iter().try_for_each(|(index, object, ..)| {
                // SAFETY: an object of the pool; if it is in a magazine, nobody gets it while all are stopped.
                unsafe { core.check(index, object, inventory.free[index] == 1) }
            })
        })
        .unwrap_or_else(|| Err(AuditError::NotStopped { pool: pool() }))
    }

    pub(super) fn outstanding(&self) -> Result<Vec<Outstanding>, AuditError> {
        let inventory = self
            .stopped(Self::inventory)
            .unwrap_or_else(|| Err(AuditError::NotStopped { pool: self.config.name().into() }))?;
        let objects = self.placement.iter();
        Ok(objects
            .filter(|(index, ..)| inventory.free[*index] == 0)
            .map(|(index, object, ..)| Outstanding { index, object, got_at: self.ledger.got_at(index) })
            .collect())
    }
}
