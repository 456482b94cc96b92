//! The registers of a function that were asked for.

use std::sync::{Arc, Mutex, PoisonError};

use crate::mmio::Bar;

/// Up to six mappings, each made when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Bars([Mutex<Option<Arc<Bar>>>; 6]);

impl Bars {
    /// The mapping of BAR `index`, which `map` makes; none if there is no such index.
    pub(crate) fn get<E>(
        &self,
        index: u8,
        map: impl FnOnce() -> Result<Bar, E>,
    ) -> Option<Result<Arc<Bar>, E>> {
        let mut slot = self.0.get(usize::from(index))?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = &*slot {
            return Some(Ok(Arc::clone(bar)));
        }
        Some(map().map(|bar| Arc::clone(slot.insert(Arc::new(bar)))))
    }
}
