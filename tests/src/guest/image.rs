//! Takes a kernel out of the program that unpacks it.
//!
//! What Debian installs is an x86 boot image: code that runs first, and the kernel, packed by xz. Unpacking takes an
//! emulated processor two seconds at each start, and the host a fraction of one, once. QEMU starts the ELF file that
//! comes out at its PVH entry.
//!
//! The image is told in the kernel's `Documentation/arch/x86/boot.rst`: `setup_sects` is at 0x1f1, the magic number
//! `HdrS` at 0x202, and from version 2.08 of the protocol (at 0x206) on `payload_offset` at 0x248 and `payload_length`
//! at 0x24c. The last four bytes of the payload are its unpacked length.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::program;

/// How a file packed by xz begins.
const XZ: &[u8] = b"\xfd7zXZ\0";
/// How an ELF file begins.
const ELF: &[u8] = b"\x7fELF";
/// Time to unpack a kernel.
const LIMIT: Duration = Duration::from_secs(60);

/// Unpacks the kernel in the image `packed` to `kernel`, if it is packed by xz; `kernel` is there then, and whole.
///
/// # Errors
/// When there is no such kernel in the image, or no `xz`.
pub(super) fn unpack(packed: &Path, kernel: &Path) -> Result<()> {
    let image = fs::read(packed).with_context(|| format!("reading {}", packed.display()))?;
    let (payload, len) = payload(&image)?;
    let (input, output) = (kernel.with_extension("xz"), kernel.with_extension("elf"));
    fs::write(&input, payload)?;
    let mut xz = Command::new("sh");
    xz.args(["-c", r#"xz -d -c --single-stream <"$1" >"$2""#, "sh"]).arg(&input).arg(&output);
    let unpacked = program::run(xz, LIMIT)?;
    fs::remove_file(&input)?;
    unpacked.expect_code(0)?;
    let content = fs::read(&output)?;
    ensure!(content.len() == len, "{} bytes came out of the image, not {len}", content.len());
    ensure!(content.starts_with(ELF), "what came out of the image is no ELF file");
    fs::rename(&output, kernel).context("naming the kernel")
}

/// The packed kernel in an image, and its length in bytes when it is unpacked.
fn payload(image: &[u8]) -> Result<(&[u8], usize)> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        Ok(u32::from_le_bytes(bytes.context("the image is cut")?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "no x86 boot image");
    ensure!(word(0x206)? & 0xffff >= 0x208, "the boot image is too old to say where its kernel is");
    // Zero means four, for the sake of old loaders.
    let sectors = match word(0x1f1)? & 0xff {
        0 => 4,
        sectors => sectors,
    };
    let begin = (sectors + 1) * 512 + word(0x248)?;
    let end = begin + word(0x24c)?;
    let payload = image.get(begin..end).context("the image is cut")?;
    ensure!(payload.starts_with(XZ), "the kernel is not packed by xz");
    Ok((payload, word(end - 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with this payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x1f1] = 1;
        image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        image[0x248] = 0x30;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.truncate(0x430);
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn a_kernel_is_found_where_the_header_says() {
        let packed = [XZ, b"rest", &66_u32.to_le_bytes()].concat();
        assert_eq!(payload(&image(&packed)).unwrap(), (&packed[..], 66));
    }

    #[test]
    fn other_files_are_refused() {
        let good = image(&[XZ, &4_u32.to_le_bytes()].concat());
        assert!(payload(&good).is_ok());
        for len in 0..good.len() {
            assert!(payload(&good[..len]).is_err(), "cut after {len}");
        }
        let mut old = good.clone();
        old[0x206] = 0x07;
        assert!(payload(&old).is_err());
        let mut other = good;
        other[0x202] = b'h';
        assert!(payload(&other).is_err());
        assert!(payload(&image(b"something else")).is_err());
        assert!(payload(&image(b"")).is_err());
    }
}
