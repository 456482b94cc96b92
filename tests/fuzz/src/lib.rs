//! What the fuzz targets share: bytes taken piece by piece, memory with a ring in it, and the first inputs.
//!
//! | target | what it is fed to |
//! |---|---|
//! | `messages` | the parsers of vhost-user's messages |
//! | `session` | a back end's session: requests, with descriptors of a few kinds |
//! | `device_ring` | the device's side of split and packed rings, over memory with anything in it |
//! | `driver_ring` | the driver's side of both, by what a device says to have used |
//! | `ports` | a started `net_vhost` port, rings and packets and all |
//!
//! A target runs by `cargo +nightly fuzz run session`, from the folder `tests`. Without cargo-fuzz, from this folder:
//!
//! ```sh
//! RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1" \
//!   cargo +nightly run --release --target x86_64-unknown-linux-gnu --bin session -- -max_total_time=60 corpus/session
//! ```
//!
//! `cargo +nightly run --release --bin seeds` writes the first inputs to `corpus`. The test
//! `checks::fuzz_targets_run` of the end-to-end tests builds all of them and runs each for a moment.

use std::sync::Arc;

use wirerate_pmd::virtqueue::layout::{DESCRIPTOR, Format};
use wirerate_pmd::virtqueue::shared_memory::{SharedMemory, SharedRegion};
use wirerate_pmd::virtqueue::{Features, RingArea};

pub mod seeds;

/// The input, taken from the front; zeroes when it is used up.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    pub fn half(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The driver's address of the memory, chosen so that small numbers name places in it.
pub const GUEST: u64 = 0;
/// Bytes of memory: two regions that touch, and a gap behind them.
pub const LEN: usize = 0x6000;
const BORDER: usize = 0x4000;

/// Memory with a ring at its beginning.
pub struct Lab {
    pub memory: Arc<SharedMemory>,
    pub area: RingArea,
    pub format: Format,
    pub features: Features,
}

impl Lab {
    /// As the first bytes of the input say.
    pub fn new(input: &mut Input<'_>) -> Self {
        let [kind, size] = input.take();
        let format = if kind & 1 == 0 { Format::Split } else { Format::Packed };
        let size = match format {
            Format::Split => 1 << (size % 6),
            Format::Packed => 1 + u16::from(size % 50),
        };
        let mut features = Features::VERSION_1;
        features.set(Features::IN_ORDER, kind & 2 != 0);
        features.set(Features::EVENT_INDEX, kind & 4 != 0);
        features.set(Features::INDIRECT, kind & 8 != 0);
        let first = SharedRegion::anonymous(GUEST, GUEST, BORDER).expect("memory");
        let rest = SharedRegion::anonymous(GUEST + BORDER as u64, 1 << 40, LEN - BORDER).expect("memory");
        let memory = Arc::new(SharedMemory::new(vec![first, rest]).expect("memory"));
        let at = |offset| memory.guest(GUEST + offset, 0x400).expect("in the memory");
        // SAFETY: each part has 1 KiB, more than 50 descriptors need, and the memory is kept.
        let area = unsafe { RingArea::new(format, size, at(0), at(0x400), at(0x800), memory.clone()) };
        Self { area: area.expect("a ring"), memory, format, features }
    }

    /// Writes bytes anywhere in the memory.
    pub fn poke(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            let address = GUEST + ((offset + at) % LEN) as u64;
            let place = self.memory.guest(address, 1).expect("in the memory");
            // SAFETY: one byte in shared memory.
            unsafe { place.write_volatile(*byte) };
        }
    }

    /// Writes what the input says: where, how much, and what. Most of it into the ring.
    pub fn write(&self, input: &mut Input<'_>) {
        let place = usize::from(input.word());
        let bytes: [u8; DESCRIPTOR] = input.take();
        match place >> 13 {
            0..=3 => self.poke((place & 0x3f) * DESCRIPTOR, &bytes),
            4 => self.poke(0x400 + (place & 0x7f), &bytes[..4]),
            5 => self.poke(0x800 + (place & 0xff), &bytes[..8]),
            _ => self.poke(0xc00 + (place & 0x1fff), &bytes),
        }
    }
}
