//! The mailbox between a virtual function and the physical one (datasheet, 7.10.2.9 and 8.3.5.1.5): a register of bits that
//! tell, and 16 words that belong to whoever has taken them.

/// VFMAILBOX (8.3.5.1.5): a request, an acknowledgement; whose the words are; a message, an acknowledgement of the physical
/// function; it is being reset, it was.
pub(crate) const REQUEST: u32 = 1 << 0;
pub(crate) const ACK: u32 = 1 << 1;
pub(crate) const VF_HAS_IT: u32 = 1 << 2;
pub(crate) const PF_HAS_IT: u32 = 1 << 3;
pub(crate) const PF_MESSAGE: u32 = 1 << 4;
pub(crate) const PF_ACK: u32 = 1 << 5;
pub(crate) const RESET_NOW: u32 = 1 << 6;
pub(crate) const RESET_DONE: u32 = 1 << 7;
/// Bits that reading clears.
const READ_CLEARS: u32 = PF_MESSAGE | PF_ACK | RESET_DONE;

/// Words of a message.
pub(crate) const WORDS: usize = 16;
pub(crate) type Words = [u32; WORDS];

/// Both ends of it.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    bits: u32,
    pub(crate) words: Words,
    /// Words that the virtual function has written since it took them, a bit each.
    pub(crate) written: u32,
    /// A request that the physical function has not looked at, which words were written for it, and how long it takes.
    asked: Option<(u32, Words, u32)>,
    /// What it is going to say, and how long it takes.
    answer: Option<(u32, Words)>,
}

impl Mailbox {
    /// VFMAILBOX is read.
    pub(crate) fn read(&mut self) -> u32 {
        let value = self.bits;
        self.bits &= !READ_CLEARS;
        value
    }

    pub(crate) fn is_vfs(&self) -> bool {
        self.bits & VF_HAS_IT != 0
    }

    /// VFMAILBOX is written; `delay` is how long the physical function takes to look. The words' owner changes, unless
    /// they are the physical function's. What is wrong, if something is.
    pub(crate) fn write(&mut self, value: u32, delay: u32) -> Option<&'static str> {
        let had_it = self.is_vfs();
        if value & VF_HAS_IT == 0 {
            self.bits &= !VF_HAS_IT;
        } else if self.bits & PF_HAS_IT == 0 {
            self.bits |= VF_HAS_IT;
            if !had_it {
                self.written = 0;
            }
        }
        if value & REQUEST == 0 {
            return None;
        }
        if !had_it {
            return Some("a request is made by who has not taken the mailbox");
        }
        self.asked = Some((delay, self.words, self.written));
        None
    }

    /// Time goes by: the request that the physical function looks at now, if any, and which words were written for it.
    pub(crate) fn request(&mut self) -> Option<(Words, u32)> {
        let (left, words, written) = self.asked.as_mut()?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let request = (*words, *written);
        self.asked = None;
        Some(request)
    }

    pub(crate) fn acknowledge(&mut self) {
        self.bits |= PF_ACK;
    }

    /// The physical function is going to say something, instead of what it was going to before.
    pub(crate) fn say(&mut self, delay: u32, words: Words) {
        self.answer = Some((delay, words));
    }

    /// Time goes by: whether the physical function says something now.
    pub(crate) fn speak(&mut self) -> bool {
        let Some((left, words)) = &mut self.answer else { return false };
        if *left > 0 {
            *left -= 1;
            // It takes the mailbox a moment before.
            if *left == 0 && self.bits & VF_HAS_IT == 0 {
                self.bits |= PF_HAS_IT;
            }
            return false;
        }
        if self.bits & VF_HAS_IT != 0 {
            return false;
        }
        self.words = *words;
        self.answer = None;
        self.bits = self.bits & !PF_HAS_IT | PF_MESSAGE;
        true
    }

    /// Whether it is only time that the physical function needs to hear or say something.
    pub(crate) fn waits(&self) -> bool {
        self.asked.is_some() || self.answer.is_some() && !self.is_vfs()
    }

    /// The physical function is reset, or has been.
    pub(crate) fn set_reset(&mut self, done: bool) {
        (self.asked, self.answer) = (None, None);
        self.bits &= !(RESET_NOW | PF_HAS_IT);
        self.bits |= if done { RESET_DONE } else { RESET_NOW };
    }

    /// The virtual function is reset: it has nothing.
    pub(crate) fn forget(&mut self) {
        let bits = self.bits & (RESET_NOW | RESET_DONE);
        *self = Self { bits, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_taken_in_turns_and_bits_tell_once() {
        let mut mailbox = Mailbox::default();
        assert!(mailbox.write(REQUEST, 0).is_some(), "nobody has it");
        assert_eq!(mailbox.write(VF_HAS_IT, 0), None);
        mailbox.words[0] = 7;
        assert_eq!(mailbox.write(VF_HAS_IT | REQUEST, 1), None);
        assert!(mailbox.waits());
        assert_eq!((mailbox.request(), mailbox.request().map(|(words, _)| words[0])), (None, Some(7)));
        mailbox.acknowledge();
        mailbox.say(1, [9; WORDS]);
        assert!(!mailbox.speak() && !mailbox.speak() && !mailbox.waits(), "it is the function's");
        assert_eq!(mailbox.read(), VF_HAS_IT | PF_ACK);
        mailbox.write(0, 0);
        assert!(mailbox.speak() && !mailbox.speak());
        assert_eq!((mailbox.read(), mailbox.read(), mailbox.words), (PF_MESSAGE, 0, [9; WORDS]));
        mailbox.say(1, [8; WORDS]);
        assert!(!mailbox.speak());
        mailbox.write(VF_HAS_IT, 0);
        assert_eq!(mailbox.read(), PF_HAS_IT, "it is taken already");
        assert!(mailbox.speak());
        mailbox.set_reset(false);
        assert_eq!((mailbox.read(), mailbox.read()), (RESET_NOW | PF_MESSAGE, RESET_NOW));
        mailbox.set_reset(true);
        assert_eq!((mailbox.read(), mailbox.read()), (RESET_DONE, 0));
    }
}
