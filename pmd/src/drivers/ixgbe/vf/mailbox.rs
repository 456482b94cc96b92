//! Talking to the physical function, by a mailbox of 16 words (82599 datasheet, 7.10.2.9). The datasheet leaves to software
//! what is said; this is the protocol of Intel's drivers, versions 1.0 to 1.5.
//!
//! Whatever is waited for has a time limit. Once the physical function has not answered, it is not asked again before the
//! function is reset.

use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;

use super::registers::{
    MAILBOX_ACK, MAILBOX_ONCE, MAILBOX_PFACK, MAILBOX_PFSTS, MAILBOX_REQ, MAILBOX_RSTD, MAILBOX_RSTI,
    MAILBOX_VFU, MAILBOX_WORDS, VFMAILBOX, vfmbmem,
};
use crate::drivers::ixgbe::error::IxgbeError;
use crate::drivers::ixgbe::registers::Registers;

/// How long the physical function is waited for, each time. Its driver answers when it is scheduled; others wait so long, too.
const TIME: Duration = Duration::from_secs(1);

/// Bits of an answer's first word: it was done, it was not, and the physical function has not been reset meanwhile.
const SUCCESS: u32 = 1 << 31;
const FAILURE: u32 = 1 << 30;
const CLEAR_TO_SEND: u32 = 1 << 29;
/// What it says by itself, in the lower half: something has changed.
const PF_SAYS: u32 = 0x0100;
const KIND: u32 = 0xffff;
/// What it is asked for when the function was reset.
const RESET: u32 = 0x01;

/// A message.
pub(super) type Words = [u32; MAILBOX_WORDS];

/// What the physical function has told without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that matters.
    None,
    /// It is being reset.
    Resetting,
    /// It was reset, so this function has to be, too.
    WasReset,
}

/// This function's end of the mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Bits that reading has cleared, and that were not looked at yet.
    seen: u32,
    /// The physical function has not answered.
    silent: bool,
}

impl Mailbox {
    fn read<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<u32, IxgbeError> {
        let value = registers.read(VFMAILBOX);
        if value == u32::MAX {
            registers.here()?;
        }
        self.seen |= value & MAILBOX_ONCE;
        Ok(value | self.seen)
    }

    /// Waits until the register is `so`, and tries to make it so by writing `bits`, if there are any.
    fn wait<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        what: &'static str,
        bits: u32,
        so: impl Fn(u32) -> bool,
    ) -> Result<(), IxgbeError> {
        let begun = Instant::now();
        loop {
            // Asked before the look, so that one look comes after the limit, however long the thread slept.
            let over = begun.elapsed() >= TIME;
            if bits != 0 {
                registers.write(VFMAILBOX, bits);
            }
            if so(self.read(registers)?) {
                return Ok(());
            }
            if over {
                self.silent = true;
                return Err(IxgbeError::Silent { what, milliseconds: TIME.as_millis() });
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Takes the words: they are ours until a write to the register without that bit.
    fn take<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<(), IxgbeError> {
        self.wait(registers, "for its mailbox", MAILBOX_VFU, |value| value & MAILBOX_VFU != 0)
    }

    /// The function was reset, so what was said before means nothing. Waits until the physical one is not in a reset.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`], and [`IxgbeError::Silent`] when it stays in it.
    pub(super) fn begin_anew<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<(), IxgbeError> {
        self.wait(registers, "for the end of its reset", 0, |value| value & MAILBOX_RSTI == 0)?;
        *self = Self::default();
        Ok(())
    }

    /// Asks for something, which `what` names; the answer, without the bits that say that it was done. `words` are the
    /// request, its kind in the lower half of the first.
    ///
    /// # Errors
    /// [`IxgbeError`] says why it was not done.
    pub(super) fn ask<B: Mmio>(
        &mut self,
        registers: &Registers<B>,
        what: &'static str,
        words: &[u32],
    ) -> Result<Words, IxgbeError> {
        if self.silent {
            return Err(IxgbeError::Silent { what, milliseconds: 0 });
        }
        self.take(registers)?;
        // What was said before is overwritten.
        self.read(registers)?;
        self.seen &= !(MAILBOX_PFSTS | MAILBOX_PFACK);
        for at in 0..MAILBOX_WORDS {
            registers.write(vfmbmem(at), words.get(at).copied().unwrap_or(0));
        }
        registers.write(VFMAILBOX, MAILBOX_REQ);
        self.wait(registers, what, 0, |value| value & MAILBOX_PFACK != 0)?;
        self.seen &= !MAILBOX_PFACK;
        let asked = words.first().copied().unwrap_or(0) & KIND;
        // It may say something by itself before it answers; once, or it goes on for ever.
        for _ in 0..2 {
            self.wait(registers, what, 0, |value| value & MAILBOX_PFSTS != 0)?;
            let mut answer = self.hear(registers)?;
            let found = answer[0];
            if found & KIND == PF_SAYS && found & (SUCCESS | FAILURE) == 0 {
                continue;
            }
            // A refusal without a kind is for who has to be reset.
            if found & CLEAR_TO_SEND == 0 && found & FAILURE != 0 && asked != RESET {
                return Err(IxgbeError::NotClear);
            }
            if found & KIND != asked || (found & SUCCESS != 0) == (found & FAILURE != 0) {
                return Err(IxgbeError::Nonsense { what, found });
            }
            if found & FAILURE != 0 {
                return Err(IxgbeError::Refused { what });
            }
            answer[0] &= !(SUCCESS | CLEAR_TO_SEND);
            return Ok(answer);
        }
        Err(IxgbeError::Nonsense { what, found: PF_SAYS })
    }

    /// Reads a message, and says that it was.
    fn hear<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<Words, IxgbeError> {
        self.take(registers)?;
        // The one that came last is there; one that came meanwhile is not, as the words are ours.
        self.read(registers)?;
        self.seen &= !MAILBOX_PFSTS;
        let words = std::array::from_fn(|at| registers.read(vfmbmem(at)));
        registers.write(VFMAILBOX, MAILBOX_ACK);
        // One that went meanwhile has said all ones, at its end or from its beginning.
        registers.here()?;
        Ok(words)
    }

    /// Looks what the physical function has told meanwhile.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`].
    pub(super) fn news<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<News, IxgbeError> {
        let value = self.read(registers)?;
        if value & MAILBOX_RSTI != 0 {
            return Ok(News::Resetting);
        }
        if value & MAILBOX_RSTD != 0 {
            return Ok(News::WasReset);
        }
        if value & MAILBOX_PFSTS == 0 {
            return Ok(News::None);
        }
        match self.hear(registers) {
            Ok(words) if words[0] & CLEAR_TO_SEND == 0 => Ok(News::WasReset),
            // It has the words for so long that it says nothing by them.
            Ok(_) | Err(IxgbeError::Silent { .. }) => Ok(News::None),
            Err(error) => Err(error),
        }
    }

    /// Whether the physical function is in a reset, or has been in one since this one was reset.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`].
    pub(super) fn is_lost<B: Mmio>(&mut self, registers: &Registers<B>) -> Result<bool, IxgbeError> {
        Ok(self.read(registers)? & (MAILBOX_RSTI | MAILBOX_RSTD) != 0)
    }
}
