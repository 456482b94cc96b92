//! Copies a file with io_uring, through a pool of 64 KiB buffers: several reads and writes are in flight and
//! end in any order, and a buffer that the kernel has cannot be touched (`OnDevice`).
//!
//! `cargo run --release -p wirerate-mempool --example copy_file`
//!
//! makes a file of some MiB, copies it, and compares; with `-- FROM TO` it copies a file of yours. Where the
//! kernel or a container does not allow io_uring, it says so, and what would help, and ends with 1.

#[cfg(target_os = "linux")]
mod copier;
#[cfg(target_os = "linux")]
mod uring;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("copy_file: io_uring is Linux's, and this is another system");
    std::process::ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
mod program {
    use std::error::Error;
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;

    use wirerate_mempool::Pool;

    use crate::copier;
    use crate::uring::Uring;

    /// Bytes of a buffer, and so of a read and a write.
    const BUFFER: usize = 64 << 10;
    /// Buffers, and so operations in flight.
    const BUFFERS: usize = 16;

    pub(super) fn main() -> ExitCode {
        let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
        let done = match arguments.as_slice() {
            [] => demonstrate(),
            [from, to] => copy(from, to),
            _ => Err("usage: copy_file [FROM TO]".into()),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("copy_file: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Copies a file made for this, and compares.
    fn demonstrate() -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        // Not a whole number of buffers, and each differs from the next.
        let bytes: Vec<u8> = (0..(8_u32 << 20) + 12_345).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
        fs::write(&from, &bytes)?;
        copy(&from, &to)?;
        if fs::read(&to)? != bytes {
            return Err("the copy differs from the file".into());
        }
        println!("the copy is equal to the file");
        Ok(())
    }

    fn copy(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
        let told = |path: &Path, error| format!("{}: {error}", path.display());
        let source = File::open(from).map_err(|error| told(from, error))?;
        let metadata = source.metadata().map_err(|error| told(from, error))?;
        if !metadata.is_file() {
            return Err(format!("{}: not a regular file", from.display()).into());
        }
        if let Ok(other) = fs::metadata(to)
            && (other.dev(), other.ino()) == (metadata.dev(), metadata.ino())
        {
            return Err(format!("{} and {} are the same file", from.display(), to.display()).into());
        }
        // First, so that a kernel without io_uring leaves TO as it is.
        let uring = Uring::new(BUFFERS as u32)?;
        let target = File::create(to).map_err(|error| told(to, error))?;
        let pool = Pool::buffers("copy_file", BUFFERS, BUFFER)?;
        let copied = copier::copy(&mut uring.between(source, target), &pool, metadata.len())?;
        println!("{copied} bytes copied, up to {BUFFERS} buffers of {BUFFER} bytes in flight");
        println!("pool: {}", pool.counts());
        Ok(())
    }
}
