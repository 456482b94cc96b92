//! What registers keep, by name, and bits that take their time to show it.

use super::model::Model;
use super::registers::{offset_of, offsets_of};

/// Bits that a register does not show yet as they will be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    offset: u32,
    bits: u32,
    /// What they read as until then.
    shown: u32,
    /// Reads, or steps, to go.
    left: u32,
}

impl Model {
    /// What is kept at a register's first offset.
    #[inline(always)]
    pub(crate) fn word(&self, offset: u32) -> u32 {
        self.words[(offset / 4) as usize]
    }

    #[inline(always)]
    pub(crate) fn set_word(&mut self, offset: u32, value: u32) {
        self.words[(offset / 4) as usize] = value;
    }

    /// What a register of the table keeps, by its name and index, without what reading it does; zero if there is none.
    #[must_use]
    pub fn kept(&self, name: &str, index: u32) -> u32 {
        self.value_of(name, index)
    }

    /// What a register of the table keeps.
    #[inline(always)]
    pub(crate) fn value(&self, name: &'static str) -> u32 {
        self.value_of(name, 0)
    }

    /// What one of an array keeps; zero if there is none.
    #[inline(always)]
    pub(crate) fn value_of(&self, name: &str, index: u32) -> u32 {
        offset_of(name, index).map_or(0, |offset| self.word(offset))
    }

    /// What all of an array keep.
    #[inline(always)]
    pub(crate) fn values_of(&self, name: &str) -> impl Iterator<Item = u32> {
        offsets_of(name).map(|offset| self.word(offset))
    }

    #[inline(always)]
    pub(crate) fn set_value_of(&mut self, name: &str, index: u32, value: u32) {
        if let Some(offset) = offset_of(name, index) {
            self.set_word(offset, value);
        }
    }

    /// Bits of a register read as `shown` for a while.
    pub(crate) fn wait(&mut self, name: &str, index: u32, bits: u32, shown: u32) {
        let left = self.random.below(4) as u32;
        if let (Some(offset), 1..) = (offset_of(name, index), left) {
            self.waits.retain(|wait| (wait.offset, wait.bits) != (offset, bits));
            self.waits.push(Wait { offset, bits, shown, left });
        }
    }

    /// Whether a register does not show yet what it will.
    pub(crate) fn is_waited_for(&self, name: &str, index: u32) -> bool {
        let offset = offset_of(name, index);
        self.waits.iter().any(|wait| Some(wait.offset) == offset)
    }

    /// A register's value as a read has it, which is what lets time go by for those that wait.
    pub(crate) fn as_shown(&mut self, offset: u32, mut value: u32) -> u32 {
        for wait in self.waits.iter_mut().filter(|wait| wait.offset == offset) {
            value = value & !wait.bits | wait.shown;
            wait.left -= 1;
        }
        self.waits.retain(|wait| wait.left > 0);
        value
    }

    /// Time goes by for bits that take theirs.
    pub(crate) fn waits_time(&mut self) {
        for wait in &mut self.waits {
            wait.left -= 1;
        }
        self.waits.retain(|wait| wait.left > 0);
    }
}
