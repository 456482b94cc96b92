//! A real function's configuration space, as a part of a file: VFIO's region of it, or sysfs's `config`.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The command register (PCI 3.0, 6.2.2) and its bits.
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
pub(crate) const COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// Configuration space in a file.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    file: File,
    offset: u64,
    /// At most 4096.
    len: u16,
}

impl ConfigSpace {
    /// `len` bytes of `file` from `offset` on.
    pub(crate) fn new(file: File, offset: u64, len: u64) -> Self {
        Self { file, offset, len: u16::try_from(len).unwrap_or(u16::MAX).min(4096) }
    }

    /// Four bytes; all ones where there are none.
    pub(crate) fn read(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        let inside = offset.is_multiple_of(4) && offset.checked_add(4).is_some_and(|end| end <= self.len);
        match inside.then(|| self.file.read_exact_at(&mut bytes, self.offset + u64::from(offset))) {
            Some(Ok(())) => u32::from_le_bytes(bytes),
            _ => u32::MAX,
        }
    }

    /// Writes the lowest `len` bytes of `value`; nothing where there are none. The function goes on decoding its memory:
    /// registers that are mapped would be gone otherwise, and this process killed when it reads them.
    pub(crate) fn write(&self, offset: u16, len: u8, value: u32) {
        let inside = offset.checked_add(len.into()).is_some_and(|end| end <= self.len);
        if !matches!(len, 1 | 2 | 4) || !offset.is_multiple_of(len.into()) || !inside {
            return;
        }
        let memory = if offset == COMMAND { u32::from(COMMAND_MEMORY) } else { 0 };
        let bytes = (value | memory).to_le_bytes();
        if let Err(error) = self.file.write_all_at(&bytes[..len.into()], self.offset + u64::from(offset)) {
            tracing::debug!("writing the configuration space at {offset:#x} failed: {error}");
        }
    }

    /// The vendor's and the device's number are all ones: the function is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.read(0) == u32::MAX
    }

    /// Sets and clears bits of the command register; false if that has no effect.
    pub(crate) fn change_command(&self, set: u16, clear: u16) -> bool {
        let now = || self.read(COMMAND) as u16;
        if self.is_gone() {
            return false;
        }
        let wanted = now() & !clear | set;
        // Two bytes: the status register beside it has bits that a write of ones clears.
        self.write(COMMAND, 2, wanted.into());
        now() & (set | clear) == set
    }

    /// Whether the function may access memory; an error says why that could not be set.
    pub(crate) fn set_bus_master(&self, on: bool) -> Result<(), &'static str> {
        let (set, clear) = if on { (COMMAND_BUS_MASTER, 0) } else { (0, COMMAND_BUS_MASTER) };
        if self.change_command(set, clear) {
            Ok(())
        } else if self.is_gone() {
            Err("it is gone: its configuration space reads as all ones")
        } else {
            Err("its command register does not take the bus master bit")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn space(len: u64) -> (File, ConfigSpace) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x1000 + len).unwrap();
        let space = ConfigSpace::new(file.try_clone().unwrap(), 0x1000, len);
        (file, space)
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn bytes_are_read_and_written_where_they_are() {
        let (file, space) = space(256);
        space.write(0x40, 4, 0x1122_3344);
        space.write(0x46, 2, 0xffff_5566);
        space.write(0x49, 1, 0x77);
        assert_eq!(
            (space.read(0x40), space.read(0x44), space.read(0x48)),
            (0x1122_3344, 0x5566_0000, 0x7700)
        );
        assert_eq!(bytes(&file)[0x1040..0x104a], [0x44, 0x33, 0x22, 0x11, 0, 0, 0x66, 0x55, 0, 0x77]);
    }

    #[test]
    fn what_is_not_there_reads_as_ones_and_takes_nothing() {
        let (file, space) = space(256);
        for (offset, len) in
            [(253, 4), (254, 4), (256, 1), (0x42, 4), (0x41, 2), (0x40, 3), (0x40, 0), (u16::MAX, 1)]
        {
            space.write(offset, len, u32::MAX);
        }
        assert!(bytes(&file).iter().all(|byte| *byte == 0));
        for offset in [1, 2, 256, 0xfffc, u16::MAX] {
            assert_eq!(space.read(offset), u32::MAX, "{offset:#x}");
        }
        let short = ConfigSpace::new(tempfile::tempfile().unwrap(), 0, 4096);
        assert!(short.is_gone() && !short.change_command(COMMAND_BUS_MASTER, 0));
    }

    #[test]
    fn the_command_register_changes_alone_and_memory_stays_on() {
        let (_file, space) = space(256);
        space.write(4, 4, 0x0010_0407);
        assert!(space.change_command(0, COMMAND_BUS_MASTER));
        assert_eq!(space.read(4), 0x0010_0403);
        space.write(4, 2, 0);
        assert_eq!(space.read(4), 0x0010_0002);
        assert!(space.change_command(COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE));
        assert_eq!(space.read(4), 0x0010_0006);
    }
}
