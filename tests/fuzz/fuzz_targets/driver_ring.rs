//! The driver's side of a ring, while its memory is written by the input: no buffer comes back that was not lent, and none
//! twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirerate_fuzz::{GUEST, Input, Lab};
use wirerate_pmd::virtqueue::{AnyDriverRing, Buffer, Direction, DriverRing, Features, Table};

fn run<R: DriverRing>(ring: &mut R, lab: &Lab, mut input: Input<'_>) {
    let mut lent = vec![0usize; usize::from(ring.size())];
    while !input.is_empty() {
        match input.byte() % 8 {
            1 | 2 => {
                let buffers = [Buffer { address: GUEST + 0x1000, len: 64 }; 16];
                let count = usize::from(input.byte()) % 17;
                ring.offer_each(&buffers[..count], Direction::FromDevice, |_, id| {
                    assert_eq!(std::mem::replace(&mut lent[usize::from(id)], 1), 0, "{id} was lent twice");
                });
                let _ = ring.publish();
            }
            3 => {
                let parts = [Buffer { address: GUEST + 0x1000, len: 64 }; 8];
                let count = usize::from(input.byte()) % 8 + 1;
                let (read, written) = parts[..count].split_at(usize::from(input.byte()) % (count + 1));
                let table = ring.next_id().filter(|_| lab.features.contains(Features::INDIRECT)).map(|id| {
                    let address = GUEST + 0x1000 + 128 * u64::from(id);
                    let place = lab.memory.guest(address, 128).expect("in the memory");
                    // SAFETY: eight descriptors of 16 bytes are there for each identifier.
                    unsafe { Table::new(place, address) }
                });
                let direct = table.is_none();
                if let Some(id) = ring.offer_chain(read, written, table) {
                    let slots = if direct { count } else { 1 };
                    assert_eq!(
                        std::mem::replace(&mut lent[usize::from(id)], slots),
                        0,
                        "{id} was lent twice"
                    );
                }
                let _ = ring.publish();
            }
            4 => {
                let most = usize::from(input.byte());
                let mut taken = 0;
                let result = ring.reap(most, |id, _| {
                    assert!(std::mem::take(&mut lent[usize::from(id)]) > 0, "{id} came back twice");
                    taken += 1;
                });
                match result {
                    Ok(count) => assert!(count == taken && count <= most),
                    Err(_) => return,
                }
            }
            5 => drop(ring.arm()),
            6 => ring.disarm(),
            7 => drop(ring.has_used()),
            _ => lab.write(&mut input),
        }
        assert_eq!(ring.free() + lent.iter().sum::<usize>(), lent.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let lab = Lab::new(&mut input);
    match AnyDriverRing::new(lab.area.clone(), lab.features) {
        AnyDriverRing::Split(mut ring) => run(&mut ring, &lab, input),
        AnyDriverRing::Packed(mut ring) => run(&mut ring, &lab, input),
    }
});
