//! The device's side of a ring, while its memory is written by the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirerate_fuzz::{Input, Lab};
use wirerate_pmd::virtqueue::{AnyDeviceRing, Chain, DeviceRing, Head};

fn run<R: DeviceRing>(ring: &mut R, lab: &Lab, mut input: Input<'_>) {
    let mut heads = [Head::default(); 64];
    let mut found = 0;
    let mut chain = Chain::new();
    while !input.is_empty() {
        match input.byte() % 8 {
            1 => {
                let most = usize::from(input.byte()) % 65;
                match ring.look(&mut heads[..most]) {
                    Ok(count) => found = count,
                    // Nobody looks into a broken ring again.
                    Err(_) => return,
                }
                assert!(found <= most && found <= usize::from(ring.size()));
            }
            2 => {
                for head in &heads[..found] {
                    assert!(head.id < ring.size());
                    if ring.chain(head, &lab.memory, &mut chain).is_ok() {
                        assert!(!chain.is_empty());
                        for part in &chain {
                            let Some((place, run)) = lab.memory.guest_run(part.address) else { continue };
                            let last = run.min(u64::from(part.len)).saturating_sub(1);
                            // SAFETY: so many bytes follow the place.
                            unsafe { place.add(last as usize).write_volatile(7) };
                        }
                    }
                }
            }
            3 => {
                let count = usize::from(input.byte()).min(found);
                ring.give_back(&heads[..count], |at| at as u32);
                found = 0;
            }
            4 => drop(ring.wants_call()),
            5 => drop(ring.arm()),
            6 => ring.disarm(),
            7 => drop((ring.has_available(), ring.base())),
            _ => {
                lab.write(&mut input);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let lab = Lab::new(&mut input);
    let base = match lab.format {
        wirerate_pmd::virtqueue::Format::Split => u32::from(input.byte()),
        wirerate_pmd::virtqueue::Format::Packed => 0x8000_8000 | u32::from(input.byte()),
    };
    match AnyDeviceRing::new(lab.area.clone(), lab.features, base) {
        AnyDeviceRing::Split(mut ring) => run(&mut ring, &lab, input),
        AnyDeviceRing::Packed(mut ring) => run(&mut ring, &lab, input),
    }
});
